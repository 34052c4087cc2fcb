"""Files in the layouts of published surveys, made here from their data models: values, units, bands, WCS, masks, ivar."""

from __future__ import annotations

import bz2
import gzip
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table

from engine.io import read
from engine.io.surveys import nanojansky
from engine.objects import Image, SkyObject

SHAPE = (24, 30)
PIXELS = np.random.default_rng(3).normal(0, 1, SHAPE).astype("f4")


def _sky(header: fits.Header, scale: float = 0.3, ra: float = 150.0, dec: float = 2.0, **more: Any) -> fits.Header:
    header.update(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=ra, CRVAL2=dec, CRPIX1=(SHAPE[1] + 1) / 2,
                  CRPIX2=(SHAPE[0] + 1) / 2,
                  CD1_1=-scale / 3600, CD1_2=0.0, CD2_1=0.0, CD2_2=scale / 3600)
    header.update(more)
    return header


def _hdu(data: Any, name: str = "", scale: float = 0.3, primary: bool = False, **header: Any) -> Any:
    made = fits.PrimaryHDU(data) if primary else fits.ImageHDU(data, name=name or None)
    _sky(made.header, scale, **header)
    return made


def _one(path: Path, survey: str | None = None) -> SkyObject:
    (found,) = read(path, survey)
    return found


def _image(path: Path, scale: float | None = None) -> Image:
    found = _one(path)
    (image,) = found.images
    if scale is not None:
        assert found.position is not None
        assert found.position.ra.deg == pytest.approx(150.0, abs=1e-6) and found.position.dec.deg == pytest.approx(2.0,
                                                                                                                   abs=1e-6)
        assert image.pixel_scale == pytest.approx(scale, rel=1e-6)
    return image


def _njy(image: Image) -> np.ndarray:
    assert image.unit is not None and image.calibrated
    return nanojansky(image.pixels, image.unit)


# -- images ---------------------------------------------------------------------------------------------------------

def test_legacy_cutout_service_cube(tmp_path: Path) -> None:
    """legacysurvey.org/viewer/fits-cutout: one cube of planes, BANDS and BAND0.. in the primary header, nanomaggies."""
    cube = np.stack([PIXELS, PIXELS + 1, PIXELS + 2])
    hdu = _hdu(cube, primary=True, scale=0.262, BANDS="grz", BAND0="g", BAND1="r", BAND2="z", SURVEY="LegacySurvey",
               VERSION="DR9")
    hdu.writeto(tmp_path / "cutout_150.0000_2.0000.fits")
    image = _image(tmp_path / "cutout_150.0000_2.0000.fits", 0.262)
    assert image.survey == "legacy" and image.bands == ("g", "r", "z") and image.unit == u.nmgy
    np.testing.assert_array_equal(image.pixels, cube)


def test_legacy_cutout_with_invvar_hdus(tmp_path: Path) -> None:
    """The same service with ?invvar: images and inverse variances as IMAGETYP image and invvar, a band each."""
    hdus: list[Any] = [fits.PrimaryHDU()]
    for k, band in enumerate("grz"):
        hdus.append(_hdu(PIXELS + k, scale=0.262, BAND=band, IMAGETYP="image", SURVEY="LegacySurvey"))
        hdus.append(_hdu(np.full(SHAPE, 10.0 + k, "f4"), scale=0.262, BAND=band, IMAGETYP="invvar", SURVEY="LegacySurvey"))
    fits.HDUList(hdus).writeto(tmp_path / "cutout.fits")
    image = _image(tmp_path / "cutout.fits", 0.262)
    assert image.bands == ("g", "r", "z") and image.ivar is not None
    assert image.ivar[:, 0, 0].tolist() == [10.0, 11.0, 12.0]
    np.testing.assert_array_equal(image.pixels[2], PIXELS + 2)


_PLANES = {"MP_BAD": 0, "MP_SAT": 1, "MP_INTRP": 2, "MP_CR": 3, "MP_EDGE": 4, "MP_DETECTED": 5, "MP_NO_DATA": 8}


def _exposure(path: Path, mask: np.ndarray, image_header: dict[str, Any]) -> None:
    variance = np.full(SHAPE, 4.0, "f4")
    fits.HDUList([fits.PrimaryHDU(), _hdu(PIXELS, "IMAGE", 0.168, **image_header), _hdu(mask, "MASK", 0.168, **_PLANES),
                  _hdu(variance, "VARIANCE", 0.168)]).writeto(path)


def _bits() -> np.ndarray:
    mask = np.zeros(SHAPE, "i4")
    mask[1, 1], mask[2, 2], mask[3, 3] = 1 << 5, 1 << 1, 1 << 8  # DETECTED is no fault, SAT and NO_DATA are
    return mask


def test_hsc_coadd_cutouts_one_file_a_band(tmp_path: Path) -> None:
    """hsc-release.mtk.nao.ac.jp DAS cutouts: image, mask (MP_ planes) and variance HDUs; FLUXMAG0 in the primary header."""
    for band in "gr":
        path = tmp_path / f"2-cutout-HSC-{band.upper()}-9813-pdr2_wide.fits"
        _exposure(path, _bits(), {})
        with fits.open(path, mode="update") as hdus:
            hdus[0].header.update(FLUXMAG0=63095734448.0194, FILTER=f"HSC-{band.upper()}")
    image = _image(tmp_path, 0.168)
    assert image.survey == "hsc" and image.bands == ("g", "r") and image.mask is not None and image.ivar is not None
    assert image.mask[0, 2, 2] and image.mask[0, 3, 3] and not image.mask[0, 1, 1]
    assert image.ivar[0, 0, 0] == pytest.approx(0.25)
    np.testing.assert_allclose(_njy(image)[1], PIXELS * 10 ** (0.4 * (31.4 - 27.0)), rtol=2e-5)


def test_rubin_exposure_cutout(tmp_path: Path) -> None:
    """An afw Exposure written by the Science Pipelines: IMAGE in nJy, MASK, VARIANCE, then archive tables."""
    path = tmp_path / "cutout_deepCoadd_i.fits"
    _exposure(path, _bits(), {"BUNIT": "nJy"})
    with fits.open(path) as hdus:
        archive = fits.BinTableHDU(Table({"id": [1], "cat.archive": [2]}), name="ARCHIVE_INDEX")
        new = fits.HDUList([*[h.copy() for h in hdus], archive])
    new[0].header.update(TELESCOP="Simonyi Survey Telescope", INSTRUME="LSSTCam", FILTER="i_39")
    new.writeto(path, overwrite=True)
    image = _image(path, 0.168)
    assert image.survey == "rubin" and image.bands == ("i",) and image.unit == u.nJy
    assert image.mask is not None and image.mask.sum() == 2 and image.ivar is not None and image.ivar[0, 5,
                                                                                                      5] == pytest.approx(0.25)


@pytest.mark.parametrize("pack, ending", [(bytes, ""), (gzip.compress, ".gz"), (bz2.compress, ".bz2")])
def test_sdss_frames(tmp_path: Path, pack: Any, ending: str) -> None:
    """frame-BAND-RUN-CAMCOL-FIELD: nanomaggies in the primary HDU, then calibration vector, sky and astrometric tables."""
    hdu = _hdu(PIXELS, primary=True, scale=0.396, FILTER="r", BUNIT="nanomaggy", NMGY=0.005, TELESCOP="2.5m", ORIGIN="SDSS")
    sky = Table({"ALLSKY": [np.ones((4, 4), "f4")], "XINTERP": [np.arange(4.0)], "YINTERP": [np.arange(4.0)]})
    whole = fits.HDUList([hdu, fits.ImageHDU(np.ones(SHAPE[1], "f4")), fits.BinTableHDU(sky),
                          fits.BinTableHDU(Table({"RUN": [1]}))])
    whole.writeto(tmp_path / "plain.fits")
    path = tmp_path / f"frame-r-001729-3-0012.fits{ending}"
    path.write_bytes(pack((tmp_path / "plain.fits").read_bytes()))
    image = _image(path, 0.396)
    assert image.survey == "sdss" and image.bands == ("r",) and image.unit == u.nmgy
    np.testing.assert_array_equal(image.pixels[0], PIXELS)


def test_panstarrs_asinh_stack(tmp_path: Path) -> None:
    """ps1images cutouts: asinh-compressed (BOFFSET, BSOFTEN), zero point 25 + 2.5 lg EXPTIME (Waters et al. 2020)."""
    soft, offset, exposure = 30.0, 5.0, 900.0
    stored = 2.5 / np.log(10) * np.arcsinh((100 * PIXELS.astype(float) - offset) / (2 * soft))
    hdu = _hdu(stored.astype("f4"), primary=True, scale=0.25, BSOFTEN=soft, BOFFSET=offset, EXPTIME=exposure, TELESCOP="PS1",
               INSTRUME="gpc1")
    hdu.header["HIERARCH FPA.FILTERID"] = "r.00000"
    hdu.writeto(tmp_path / "cutout_rings.v3.skycell.1317.051.stk.r.unconv.fits")
    image = _image(tmp_path / "cutout_rings.v3.skycell.1317.051.stk.r.unconv.fits", 0.25)
    assert image.survey == "panstarrs" and image.bands == ("r",)
    zero = 25 + 2.5 * np.log10(exposure)
    np.testing.assert_allclose(_njy(image)[0], 100 * PIXELS * 10 ** (0.4 * (31.4 - zero)), rtol=1e-3, atol=1e-2)


def test_jwst_i2d(tmp_path: Path) -> None:
    """JWST level 3: SCI (MJy/sr), ERR, CON, WHT, VAR_*; where there is a DQ plane only DO_NOT_USE makes a pixel bad."""
    quality = np.zeros(SHAPE, "u4")
    quality[1, 1], quality[2, 2] = 1, 4  # DO_NOT_USE, JUMP_DET
    primary = fits.PrimaryHDU()
    primary.header.update(TELESCOP="JWST", INSTRUME="NIRCAM", FILTER="F200W", PUPIL="CLEAR")
    fits.HDUList([primary, _hdu(PIXELS, "SCI", 0.031, BUNIT="MJy/sr", PIXAR_SR=2.3e-14),
                  _hdu(np.full(SHAPE, 0.5, "f4"), "ERR", 0.031,
                  BUNIT="MJy/sr"), _hdu(quality, "DQ", 0.031), _hdu(np.zeros((2, *SHAPE), "i4"), "CON", 0.031),
                  _hdu(np.ones(SHAPE, "f4"), "WHT", 0.031), _hdu(np.ones(SHAPE, "f4"), "VAR_POISSON", 0.031)]
                 ).writeto(tmp_path / "jw01345-o001_t021_nircam_clear-f200w_i2d.fits")
    image = _image(tmp_path / "jw01345-o001_t021_nircam_clear-f200w_i2d.fits", 0.031)
    assert image.survey == "jwst-nircam" and image.bands == ("F200W",) and image.unit == u.MJy / u.sr
    assert image.ivar is not None and image.ivar[0, 0, 0] == pytest.approx(4.0)
    assert image.mask is not None and image.mask[0, 1, 1] and not image.mask[0, 2, 2]


def test_hst_drz(tmp_path: Path) -> None:
    """A drizzled HST image: SCI in electrons/s, WHT, CTX; zero point from PHOTFLAM and PHOTPLAM of SCI."""
    weight = np.ones(SHAPE, "f4")
    weight[3, 3] = 0
    primary = fits.PrimaryHDU()
    primary.header.update(TELESCOP="HST", INSTRUME="ACS", DETECTOR="WFC", FILTER1="CLEAR1L", FILTER2="F814W")
    fits.HDUList([primary, _hdu(PIXELS, "SCI", 0.05, BUNIT="ELECTRONS/S", PHOTFLAM=7.0723600e-20, PHOTPLAM=8045.0),
                  _hdu(weight, "WHT", 0.05), _hdu(np.ones(SHAPE, "i4"), "CTX", 0.05)]).writeto(tmp_path / "j8pu0y010_drz.fits")
    image = _image(tmp_path / "j8pu0y010_drz.fits", 0.05)
    assert image.survey == "hst-acs" and image.bands == ("F814W",) and image.unit == u.electron / u.s and image.calibrated
    assert image.mask is not None and image.mask[0, 3, 3] and image.mask.sum() == 1 and image.ivar is None


def test_unwise(tmp_path: Path) -> None:
    """unWISE: -img-m in Vega nanomaggies, -invvar-m and -std-m beside it, the band in the name (unwise.me)."""
    _hdu(PIXELS, primary=True, scale=2.75, BAND=1, TELESCOP="WISE",
         MAGZP=22.5).writeto(tmp_path / "unwise-1497p015-w1-img-m.fits")
    _hdu(np.full(SHAPE, 3.0, "f4"), primary=True, scale=2.75, BAND=1).writeto(tmp_path / "unwise-1497p015-w1-invvar-m.fits")
    found = _one(tmp_path)
    (image,) = found.images
    assert image.survey == "unwise" and image.bands == ("W1",) and image.ivar is not None and image.ivar[0, 0, 0] == 3.0
    np.testing.assert_array_equal(image.pixels[0], PIXELS)  # not touched: AB = Vega + 2.699 is the table's business


def test_kids(tmp_path: Path) -> None:
    """KiDS coadds: ZEROPNT = 0 (maggies), the filter in the name and FILTER of OmegaCAM."""
    hdu = _hdu(PIXELS * 1e-11, primary=True, scale=0.2, ZEROPNT=0.0, INSTRUME="OMEGACAM", FILT_ID="OCAM_r_SDSS")
    hdu.header["FILTER"] = "OCAM_r_SDSS"
    hdu.writeto(tmp_path / "KiDS_DR4.0_150.0_2.0_r_sci.fits")
    image = _image(tmp_path / "KiDS_DR4.0_150.0_2.0_r_sci.fits", 0.2)
    assert image.survey == "kids" and image.bands == ("r",)
    np.testing.assert_allclose(_njy(image)[0], PIXELS * 1e-11 * 3630.78e9, rtol=1e-4)


@pytest.mark.parametrize("word, band", [("VIS", "VIS"), ("NIR_Y", "Y"), ("NIR_H", "H")])
def test_euclid_mer(tmp_path: Path, word: str, band: str) -> None:
    """MER mosaics: MAGZERO 23.9 in the header (uJy), FILTER VIS or NIR_Y, NIR_J, NIR_H."""
    hdu = _hdu(PIXELS, primary=True, scale=0.1, MAGZERO=23.9, FILTER=word, TELESCOP="EUCLID", INSTRUME=word[:3])
    hdu.writeto(tmp_path / f"EUC_MER_BGSUB-MOSAIC-{word.replace('_', '-')}_TILE102018211.fits")
    image = _image(tmp_path / f"EUC_MER_BGSUB-MOSAIC-{word.replace('_', '-')}_TILE102018211.fits", 0.1)
    assert image.survey == "euclid" and image.bands == (band,)
    np.testing.assert_allclose(_njy(image)[0], PIXELS * 1e3, rtol=1e-3)


# -- spectra and tables ---------------------------------------------------------------------------------------------

def test_sdss_spec_lite(tmp_path: Path) -> None:
    """spec-lite: COADD, SPECOBJ (or SPALL) with lower-case columns, SPZLINE; no single exposures."""
    n = 200
    coadd = Table({"flux": np.ones(n, "f4"), "loglam": (3.6 + 1e-4 * np.arange(n)).astype("f4"), "ivar": np.full(n, 2.0, "f4"),
                   "and_mask": np.zeros(n, "i4"), "or_mask": np.full(n, 1 << 23, "i4"), "wdisp": np.ones(n, "f4"),
                   "sky": np.zeros(n, "f4"), "model": np.ones(n, "f4")})
    row = Table({"PLATE": [4055], "MJD": [55359], "FIBERID": [596], "PLUG_RA": [242.0], "PLUG_DEC": [12.0], "CLASS": ["QSO"],
                 "SUBCLASS": ["BROADLINE"], "Z": [2.1], "Z_ERR": [1e-3], "ZWARNING": [0]})
    lines = Table({"PLATE": [4055] * 3, "MJD": [55359] * 3, "LINENAME": ["Ly_alpha", "C_IV", "H_beta"],
                   "LINEZ": [2.1, 2.1, 0.0]})
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(coadd, name="COADD"), fits.BinTableHDU(row, name="SPALL"),
                  fits.BinTableHDU(lines, name="SPZLINE")]).writeto(tmp_path / "spec-4055-55359-0596.fits")
    found = _one(tmp_path / "spec-4055-55359-0596.fits")
    assert found.id == "4055-55359-596" and found.scalars["class"].value == "QSO"
    assert found.scalars["z"].value == pytest.approx(2.1)
    assert found.spectra[0].mask is not None and not found.spectra[0].mask.any()  # or_mask alone spoils nothing
    assert found.spectra[0].ivar is not None and found.spectra[0].ivar[0] == 2.0 and found.position is not None


def test_lamost(tmp_path: Path) -> None:
    """LAMOST DR1-7: rows flux, ivar, wavelength (vacuum), and_mask, or_mask in the primary HDU; relative flux."""
    n = 120
    wave = 10.0 ** (3.5682 + 1e-4 * np.arange(n))
    rows = np.stack([np.linspace(1, 2, n), np.full(n, 9.0), wave, np.zeros(n), np.ones(n)]).astype("f4")
    rows[3, 7] = 1
    hdu = fits.PrimaryHDU(rows)
    hdu.header.update(COEFF0=3.5682, COEFF1=1e-4, CRVAL1=3.5682, CD1_1=1e-4, CRPIX1=1, CTYPE1="LINEAR", TELESCOP="LAMOST",
                      RA=10.0, DEC=41.0,
                      Z=0.05, CLASS="GALAXY", VACUUM=True, ORIGIN="NAOC-LAMOST", DESIG="LAMOST J004000.00+410000.0",
                      **{"DC-FLAG": 1})
    hdu.writeto(tmp_path / "spec-55859-F5902_sp01-001.fits")
    found = _one(tmp_path / "spec-55859-F5902_sp01-001.fits")
    (spectrum,) = found.spectra
    np.testing.assert_allclose(spectrum.wavelength, wave, rtol=1e-6)
    assert spectrum.survey == "lamost" and not spectrum.calibrated and spectrum.unit is None
    assert spectrum.ivar is not None and spectrum.ivar[0] == 9.0
    assert spectrum.mask is not None and np.flatnonzero(spectrum.mask).tolist() == [7]
    assert found.scalars["z"].value == pytest.approx(0.05) and found.position is not None


def test_lamost_table(tmp_path: Path) -> None:
    """LAMOST from DR8: a table of one row with FLUX, IVAR, WAVELENGTH, ANDMASK, ORMASK vectors."""
    n = 120
    wave = (10.0 ** (3.5682 + 1e-4 * np.arange(n))).astype("f4")
    row = Table({"FLUX": [np.linspace(1, 2, n).astype("f4")], "IVAR": [np.full(n, 9.0, "f4")], "WAVELENGTH": [wave],
                 "ANDMASK": [np.zeros(n, "f4")], "ORMASK": [np.ones(n, "f4")]})
    primary = fits.PrimaryHDU()
    primary.header.update(TELESCOP="LAMOST", RA=10.0, DEC=41.0, Z=0.05, CLASS="GALAXY", VACUUM=True)
    fits.HDUList([primary, fits.BinTableHDU(row, name="COADD")]).writeto(tmp_path / "spec-55859-F5902_sp01-001.fits")
    found = _one(tmp_path / "spec-55859-F5902_sp01-001.fits")
    (spectrum,) = found.spectra
    np.testing.assert_allclose(spectrum.wavelength, wave, rtol=1e-6)
    assert spectrum.ivar is not None and spectrum.ivar[0] == 9.0 and spectrum.survey == "lamost" and not spectrum.calibrated


def test_sparcl_parquet(tmp_path: Path) -> None:
    """What SPARCL hands out, saved as Parquet: a row a spectrum, wavelength, flux and ivar as lists."""
    wave = 3600.0 + 0.8 * np.arange(50)
    table = pa.table({"sparcl_id": ["a-1", "b-2"], "ra": [10.0, 11.0], "dec": [1.0, 2.0], "redshift": [0.5, 0.6],
                      "spectype": ["GALAXY", "QSO"],
                      "data_release": ["DESI-DR1"] * 2, "wavelength": [wave.tolist()] * 2, "flux": [[1.0] * 50, [2.0] * 50],
                      "ivar": [[4.0] * 50] * 2, "mask": [[0] * 50] * 2})
    pq.write_table(table, tmp_path / "sparcl.parquet")
    found = {o.id: o for o in read(tmp_path / "sparcl.parquet")}
    assert set(found) == {"a-1", "b-2"} and found["b-2"].scalars["z"].value == pytest.approx(0.6)
    spectrum = found["b-2"].spectra[0]
    np.testing.assert_allclose(spectrum.wavelength, wave)
    assert spectrum.flux[3] == 2.0 and spectrum.ivar is not None and spectrum.ivar[3] == 4.0


def test_astroclip_parquet(tmp_path: Path) -> None:
    """The AstroCLIP data set as Parquet: image (n, n, 3) and spectrum (7781, 1) as nested lists, redshift, targetid."""
    rng = np.random.default_rng(0)
    image, spectrum = rng.random((2, 16, 16, 3)).astype("f4"), rng.random((2, 7781, 1)).astype("f4")
    table = pa.table({"image": image.tolist(), "spectrum": spectrum.tolist(), "redshift": [0.2, 0.3], "targetid": [11, 12]})
    pq.write_table(table, tmp_path / "astroclip.parquet")
    found = {o.id: o for o in read(tmp_path / "astroclip.parquet")}
    assert set(found) == {"11", "12"} and found["12"].scalars["z"].value == pytest.approx(0.3)
    np.testing.assert_allclose(found["12"].spectra[0].flux, spectrum[1, :, 0])
    assert found["12"].spectra[0].wavelength[[0, -1]].tolist() == [3600.0, 9824.0]
    np.testing.assert_allclose(found["12"].images[0].pixels, np.moveaxis(image[1], -1, 0))
    assert found["12"].images[0].bands == ("g", "r", "z")


def test_vizier_votable(tmp_path: Path) -> None:
    """VizieR's VOTable: RAJ2000 and DEJ2000 in degrees, e_ errors, null values."""
    (tmp_path / "vizier.vot").write_text("""<?xml version="1.0" encoding="UTF-8"?>
<VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3"><COOSYS ID="J2000" system="eq_FK5" equinox="J2000"/>
<RESOURCE><TABLE name="J/ApJ/1"><FIELD name="recno" datatype="int"/>
<FIELD name="Name" datatype="char" arraysize="12*" ucd="meta.id;meta.main"/>
<FIELD name="RAJ2000" datatype="double" unit="deg" ucd="pos.eq.ra;meta.main"/>
<FIELD name="DEJ2000" datatype="double" unit="deg" ucd="pos.eq.dec;meta.main"/>
<FIELD name="zsp" datatype="float" ucd="src.redshift"/><FIELD name="Vmag" datatype="float" unit="mag" ucd="phot.mag;em.opt.V"/>
<FIELD name="e_Vmag" datatype="float" unit="mag" ucd="stat.error;phot.mag"/><DATA><TABLEDATA>
<TR><TD>1</TD><TD>NGC 1</TD><TD>1.8160</TD><TD>27.7080</TD><TD>0.0151</TD><TD>13.4</TD><TD>0.1</TD></TR>
<TR><TD>2</TD><TD>NGC 2</TD><TD>1.8210</TD><TD>27.6780</TD><TD/><TD>15.0</TD><TD/></TR></TABLEDATA></DATA></TABLE></RESOURCE>
</VOTABLE>""")
    first, second = read(tmp_path / "vizier.vot")
    assert first.position is not None and first.position.ra.deg == pytest.approx(1.8160, abs=1e-4)
    assert first.scalars["z"].value == pytest.approx(0.0151) and "z" not in second.scalars
    assert first.scalars["vmag"].error == pytest.approx(0.1) and first.scalars["vmag"].unit == u.mag


def test_simbad_votable(tmp_path: Path) -> None:
    """SIMBAD's VOTable by astroquery (old style): MAIN_ID, RA in "h:m:s" and DEC in "d:m:s" as text, RV_VALUE."""
    (tmp_path / "simbad.vot").write_text("""<?xml version="1.0" encoding="UTF-8"?>
<VOTABLE version="1.2" xmlns="http://www.ivoa.net/xml/VOTable/v1.2"><RESOURCE><TABLE>
<FIELD name="MAIN_ID" datatype="char" arraysize="*"
ucd="meta.id;meta.main"/><FIELD name="RA" datatype="char" arraysize="13" unit="&quot;h:m:s&quot;" ucd="pos.eq.ra;meta.main"/>
<FIELD name="DEC" datatype="char" arraysize="13" unit="&quot;d:m:s&quot;" ucd="pos.eq.dec;meta.main"/>
<FIELD name="Z_VALUE" datatype="float" ucd="src.redshift"/><DATA><TABLEDATA>
<TR><TD>M  31</TD><TD>00 42 44.330</TD><TD>+41 16 07.50</TD><TD>-0.001</TD></TR>
<TR><TD>M  33</TD><TD>01 33 50.883</TD><TD>+30 39 36.63</TD><TD>-0.0006</TD></TR></TABLEDATA></DATA></TABLE></RESOURCE>
</VOTABLE>""")
    first, _ = read(tmp_path / "simbad.vot")
    assert first.position is not None
    assert first.position.ra.deg == pytest.approx(10.684708, abs=1e-5) and first.position.dec.deg == pytest.approx(41.268750,
                                                                                                                   abs=1e-5)
    assert first.scalars["z"].value == pytest.approx(-0.001)
