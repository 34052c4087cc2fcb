"""Layouts that pipelines write and that are easily taken for something else: each as a small file of the same shape."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from engine.io import ReadError, read
from engine.io.tablespectra import to_vacuum

RAMP = np.arange(200, dtype="f4")
SKY = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 10.0, "CRVAL2": 5.0, "CRPIX1": 10.0, "CRPIX2": 10.0,
       "CDELT1": -1e-4, "CDELT2": 1e-4}


def _cards(header: fits.Header, axis: int, text: str) -> None:
    for i in range(0, len(text), 68):
        header[f"WAT{axis}_{i // 68 + 1:03d}"] = text[i:i + 68]


def _multispec(path: Path, rows: list[str]) -> None:
    hdu = fits.PrimaryHDU(np.tile(RAMP, (len(rows), 1)))
    hdu.header.update(CTYPE1="MULTISPE", CTYPE2="MULTISPE", CDELT1=1.0, RA="18:36:56.30", DEC="38:47:01.0", OBJECT="Vega")
    _cards(hdu.header, 1, "wtype=multispec label=Wavelength units=angstroms")
    _cards(hdu.header, 2, "wtype=multispec " + " ".join(f'spec{i} = "{row}"' for i, row in enumerate(rows, 1)))
    hdu.writeto(path)


def test_iraf_echelle_orders(tmp_path: Path) -> None:
    """Linear, log-linear, Chebyshev with a Doppler shift, and an order that is shorter than the others."""
    _multispec(tmp_path / "echelle.fits", ["1 60 0 6000. 0.5 200 0. 1. 2.", "2 59 1 3.7 0.0001 200 0. 1. 2.",
                                           "3 58 2 5000. 1. 200 0.001 1. 2. 1. 0. 1 3 1. 200. 5000. 100. 5.",
                                           "4 57 0 4000. 0.25 150 0. 1. 2."])
    (found,) = read(tmp_path / "echelle.fits")
    first, second, third, fourth = found.spectra
    assert found.position is not None and found.position.ra.deg == pytest.approx(279.23458, abs=1e-4)
    np.testing.assert_allclose(first.wavelength, 6000 + 0.5 * np.arange(200))
    np.testing.assert_allclose(second.wavelength, 10 ** (3.7 + 1e-4 * np.arange(200)))
    x = (2 * np.arange(1, 201) - 201) / 199
    np.testing.assert_allclose(third.wavelength, (5000 + 100 * x + 5 * (2 * x**2 - 1)) / 1.001)
    assert len(fourth.wavelength) == 150 and fourth.wavelength[-1] == pytest.approx(4000 + 0.25 * 149)
    np.testing.assert_array_equal(first.flux, RAMP)


def test_iraf_apertures_are_objects_and_splines_are_refused(tmp_path: Path) -> None:
    _multispec(tmp_path / "fibres.fits", ["1 1 0 6000. 0.5 200 0. 1. 2.", "2 1 0 6000.3 0.5 200 0. 3. 4."])
    assert [o.id for o in read(tmp_path / "fibres.fits")] == ["fibres-1", "fibres-2"]
    _multispec(tmp_path / "spline.fits", ["1 1 2 6000. 0.5 200 0. 1. 2. 1. 0. 3 2 1. 200. 1. 2. 3. 4. 5."])
    with pytest.raises(ReadError, match=r"spline\.fits: .*cubic splines.*dispcor"):
        list(read(tmp_path / "spline.fits"))
    _multispec(tmp_path / "cut.fits", ["1 1 2 6000. 0.5 200 0. 1. 2. 1. 0. 1 5 1. 200. 1."])
    with pytest.raises(ReadError, match=r"cut\.fits: .*damaged"):
        list(read(tmp_path / "cut.fits"))


def test_fibres_of_2df(tmp_path: Path) -> None:
    """Rows of fluxes and variances, a table of fibres in radians; the sky is no object; air unless VACUUM says so."""
    flux = np.stack([RAMP, RAMP + 1, RAMP + 2])
    hdu = fits.PrimaryHDU(flux)
    hdu.header.update(CTYPE1="Wavelength", CUNIT1="Angstroms", CRVAL1=6000.0, CRPIX1=1.0, CDELT1=2.0)
    table = Table({"NAME": ["A", "Sky", "B"], "RA": np.radians([10.0, 20, 30]), "DEC": np.radians([-5.0, 0, 5]),
                   "TYPE": ["P", "S", "P"]})
    fits.HDUList([hdu, fits.ImageHDU(np.full(flux.shape, 4.0, "f4"), name="VARIANCE"),
                  fits.BinTableHDU(table, name="FIBRES")]).writeto(tmp_path / "run.fits")
    a, b = read(tmp_path / "run.fits")
    assert (a.id, b.id) == ("A", "B") and b.position is not None and b.position.ra.deg == pytest.approx(30.0)
    np.testing.assert_allclose(a.spectra[0].wavelength, to_vacuum(6000 + 2.0 * np.arange(200)))
    assert a.spectra[0].ivar is not None and np.all(a.spectra[0].ivar == 0.25) and np.array_equal(b.spectra[0].flux, RAMP + 2)


@pytest.mark.parametrize(("cards", "first", "says"), [
    ({"CTYPE1": "WAVE", "CUNIT1": "Angstrom", "CRVAL1": 5000.0}, 5000.0, ", vacuum"),
    ({"CTYPE1": "Wavelength", "CUNIT1": "Angstroms", "CRVAL1": 5000.0}, 5000.0, "the header does not say"),
    ({"CTYPE1": "WAVELENGTH [nm]", "CRVAL1": 500.0}, 5000.0, "the header does not say"),
    ({"CTYPE1": "AWAV", "CUNIT1": "Angstrom", "CRVAL1": 5000.0}, float(to_vacuum(np.array([5000.0]))[0]), "air"),
    ({"CRVAL1": 5000.0}, 5000.0, "no unit"),
    ({"CTYPE1": "WAVE", "CUNIT1": "nm", "CRVAL1": 500.0, "BUNIT": "ct / nm"}, 5000.0, ", vacuum"),
    ({"CTYPE1": "LINEAR", "CRVAL1": 1200.0, "DC-FLAG": 0}, 1200.0, "Angstrom"),
    ({"CTYPE1": "WAVE", "CUNIT1": "Angstrom", "CRVAL1": 5000.0, "CRPIX1": 0.0}, 5001.0, "vacuum"),
])
def test_wavelength_axes(tmp_path: Path, cards: dict[str, float | str], first: float, says: str) -> None:
    hdu = fits.PrimaryHDU(RAMP)
    hdu.header.update({"CDELT1": 1.0, "CRPIX1": 1.0, **cards})
    hdu.writeto(tmp_path / "one.fits")
    (found,) = read(tmp_path / "one.fits")
    assert found.spectra[0].wavelength[0] == pytest.approx(first) and says in " ".join(found.spectra[0].history)
    assert not found.spectra[0].calibrated


def test_axes_that_cannot_be_known(tmp_path: Path) -> None:
    hdu = fits.PrimaryHDU(RAMP)
    hdu.header.update(CTYPE1="LAMBDA", CRVAL1=1200.0, CRPIX1=1.0, CDELT1=1.0)
    hdu.writeto(tmp_path / "uv.fits")
    with pytest.raises(ReadError, match=r"uv\.fits: .*Angstrom or nm"):
        list(read(tmp_path / "uv.fits"))


def test_a_spectrum_in_one_row_of_a_table(tmp_path: Path) -> None:
    """ESO's science spectra: the place in the header, air by the UCD, errors whose square is nothing in float32."""
    wave = np.arange(5000, 5100, dtype="f4")
    table = fits.BinTableHDU.from_columns([
        fits.Column("WAVE", "100E", unit="angstrom", array=wave[None]),
        fits.Column("FLUX", "100E", unit="erg cm**(-2) s**(-1) angstrom**(-1)", array=np.full((1, 100), 1e-18, "f4")),
        fits.Column("ERR_FLUX", "100E", array=np.full((1, 100), 1e-20, "f4"))], name="SPECTRUM")
    table.header["TUCD1"] = "em.wl;obs.atmos"
    primary = fits.PrimaryHDU()
    primary.header.update(RA=53.05, DEC=-27.77, OBJECT="galaxy 7")
    fits.HDUList([primary, table]).writeto(tmp_path / "sdp.fits")
    (found,) = read(tmp_path / "sdp.fits")
    spectrum = found.spectra[0]
    assert found.position is not None and found.position.dec.deg == pytest.approx(-27.77)
    assert found.scalars["object"].value == "galaxy 7"
    assert spectrum.wavelength[0] == pytest.approx(float(to_vacuum(np.array([5000.0]))[0]))
    assert spectrum.ivar is not None and np.allclose(spectrum.ivar, 1e40, rtol=1e-5)
    assert spectrum.mask is not None and not spectrum.mask.any()


def _light_curve(path: Path, columns: dict[str, np.ndarray], name: str, unit: str, cards: dict[str, float | str]) -> None:
    table = Table(columns)
    table["TIME"].unit = unit
    first, hdu = fits.PrimaryHDU(), fits.BinTableHDU(table, name=name)
    first.header.update({"OBJECT": "TIC 1", "RA_OBJ": 63.4, "DEC_OBJ": -69.2, **cards})
    aperture = fits.ImageHDU(np.arange(121, dtype="i4").reshape(11, 11), fits.Header(SKY), name="APERTURE")
    fits.HDUList([first, hdu, aperture]).writeto(path)


@pytest.mark.parametrize(("unit", "cards", "mjd", "scale"), [
    ("BJD - 2457000, days", {"TELESCOP": "TESS"}, 1325.0 + 56999.5, "tdb"),
    ("bkjd", {"TELESCOP": "KEPLER"}, 1325.0 + 54832.5, "tdb"),
    ("d", {"BJDREFI": 2457000, "BJDREFF": 0.0}, 1325.0 + 56999.5, "tdb"),
    ("s", {"MJDREF": 50814.0, "TIMEUNIT": "s", "TIMESYS": "TT"}, 50814.0 + 1325.0 / 86400, "tt"),
])
def test_light_curves_with_an_aperture(tmp_path: Path, unit: str, cards: dict[str, float | str], mjd: float,
                                       scale: str) -> None:
    time = 1325.0 + np.arange(5)
    _light_curve(tmp_path / "lc.fits", {"TIME": time, "FLUX": np.ones(5), "QUALITY": np.array([0, 0, 1, 0, 0])},
                 "LIGHTCURVE", unit, cards)
    (found,) = read(tmp_path / "lc.fits")
    (curve,) = found.lightcurves
    assert not found.images and len(curve.flux) == 4 and curve.time.scale == scale
    assert curve.time.mjd[0] == pytest.approx(mjd, abs=1e-9)
    assert found.position is not None and found.position.ra.deg == pytest.approx(63.4)
    assert found.scalars["object"].value == "TIC 1"


def test_films_and_photons_are_refused(tmp_path: Path) -> None:
    film = {"TIME": np.arange(5.0), "FLUX": np.ones((5, 4, 4))}
    _light_curve(tmp_path / "tpf.fits", film, "PIXELS", "d", {"BJDREFI": 2457000})
    with pytest.raises(ReadError, match=r"tpf\.fits: is a target pixel file"):
        list(read(tmp_path / "tpf.fits"))
    fits.BinTableHDU(Table({"TIME": np.arange(3.0), "X": np.arange(3)}), name="EVENTS").writeto(tmp_path / "events.fits")
    with pytest.raises(ReadError, match=r"events\.fits: is a list of photons"):
        list(read(tmp_path / "events.fits"))


@pytest.mark.parametrize("kind", ["RICE_1", "GZIP_2"])
def test_compressed_tiles_are_smaller_than_the_image(tmp_path: Path, kind: str) -> None:
    pixels = np.tile(np.arange(300, dtype="i2") // 30, (300, 1))
    fits.HDUList([fits.PrimaryHDU(), fits.CompImageHDU(pixels, fits.Header(SKY), compression_type=kind)]).writeto(
        tmp_path / "packed.fits")
    (found,) = read(tmp_path / "packed.fits")
    np.testing.assert_array_equal(found.images[0].pixels[0], pixels)
    whole = (tmp_path / "packed.fits").read_bytes()
    (tmp_path / "cut.fits").write_bytes(whole[:-4 * 2880])
    with pytest.raises(ReadError, match=r"cut\.fits"):
        list(read(tmp_path / "cut.fits"))


def test_tables_of_idl_and_of_text(tmp_path: Path) -> None:
    """Numbers as vectors of one; vectors with inverse variances; an ASCII table whose missing values are a word."""
    fits.BinTableHDU.from_columns([
        fits.Column("RA", "1D", dim="(1)", array=np.array([[10.0], [11.0]])),
        fits.Column("DEC", "1D", dim="(1)", array=np.array([[5.0], [6.0]])),
        fits.Column("DECAM_FLUX", "2E", array=np.ones((2, 2))),
        fits.Column("DECAM_FLUX_IVAR", "2E", array=np.array([[4.0, 16.0], [4.0, 0.0]]))]).writeto(tmp_path / "idl.fits")
    first, second = read(tmp_path / "idl.fits")
    assert first.position is not None and first.position.ra.deg == 10.0
    np.testing.assert_allclose(first.scalars["decam_flux"].error, [0.5, 0.25])
    assert second.scalars["decam_flux"].error is None
    fits.TableHDU.from_columns([fits.Column("ID", "I5", array=np.array([1, 2])),
                                fits.Column("MAG", "F6.2", array=np.array([18.5, 19.5]), null="---")]).writeto(
        tmp_path / "text.fits")
    raw = (tmp_path / "text.fits").read_bytes()
    assert raw.count(b" 19.50") == 1
    (tmp_path / "text.fits").write_bytes(raw.replace(b" 19.50", b"   ---"))
    first, second = read(tmp_path / "text.fits")
    assert first.scalars["mag"].value == 18.5 and "mag" not in second.scalars


def test_zeros_of_the_legacy_surveys_are_no_measurements(tmp_path: Path) -> None:
    """DESI and Tractor write 0 where Gaia has no source, and flux 0 with inverse variance 0 where a band has no data."""
    fits.BinTableHDU(Table({
        "TARGETID": [1, 2], "RA": [10.0, 11.0], "DEC": [5.0, 6.0], "PARALLAX": [0.0, 2.5], "PMRA": [0.0, -3.0],
        "GAIA_PHOT_G_MEAN_MAG": [0.0, 17.5], "FLUX_G": [0.0, 0.0], "FLUX_IVAR_G": [0.0, 4.0]})).writeto(tmp_path / "t.fits")
    first, second = read(tmp_path / "t.fits")
    assert not {"parallax", "pmra", "gaia_phot_g_mean_mag", "flux_g"} & set(first.scalars)
    assert second.scalars["parallax"].value == 2.5 and second.scalars["flux_g"].value == 0.0


def _image(path: Path, **cards: float | str) -> None:
    hdu = fits.PrimaryHDU(np.random.default_rng(0).integers(0, 99, (20, 20)).astype("f4"))
    hdu.header.update({**SKY, **cards})
    hdu.writeto(path)


def test_what_only_belongs_to_an_image_is_none(tmp_path: Path) -> None:
    for name in ("galaxy_r_psf.fits", "galaxy-invvar-r.fits", "galaxy_r_wht.fits"):
        _image(tmp_path / name)
        with pytest.raises(ReadError, match=f"{name}: holds by its name only"):
            list(read(tmp_path / name))


def test_numbers_that_look_like_a_zero_point_or_a_survey(tmp_path: Path) -> None:
    _image(tmp_path / "vega.fits", INSTRUME="WFCAM", FILTER="K", MAGZPT=24.05)  # Vega, for one second
    (found,) = read(tmp_path / "vega.fits")
    assert found.images[0].unit is None and not found.images[0].calibrated
    _image(tmp_path / "hst_deep.fits")  # with which of its cameras?
    (found,) = read(tmp_path / "hst_deep.fits")
    assert found.images[0].survey is None and found.images[0].unit is None
    _image(tmp_path / "hsc_visit.fits", FILTER="HSC-I", FLUXMAG0=0.0)  # not calibrated yet
    (found,) = read(tmp_path / "hsc_visit.fits")
    assert found.images[0].bands == ("i",) and found.images[0].unit is None and not found.images[0].calibrated
    raw = fits.PrimaryHDU(np.arange(400, dtype="u2").reshape(20, 20), fits.Header(SKY))
    raw.header.update(INSTRUME="OMEGACAM", FILTER="r_SDSS")
    raw.writeto(tmp_path / "raw.fits")  # counts of a detector, no coadd
    (found,) = read(tmp_path / "raw.fits")
    assert found.images[0].unit is None and not found.images[0].calibrated
    cube = np.random.default_rng(0).exponential(size=(5, 20, 20))
    cube[:4] /= cube[:4].mean((1, 2), keepdims=True)
    fits.PrimaryHDU(cube, fits.Header(SKY)).writeto(tmp_path / "hsc_cube.fits")
    (found,) = read(tmp_path / "hsc_cube.fits")  # one band still has its own flux
    assert found.images[0].calibrated
    cube[4] /= cube[4].mean()
    fits.PrimaryHDU(cube, fits.Header(SKY)).writeto(tmp_path / "hsc_divided.fits")
    (found,) = read(tmp_path / "hsc_divided.fits")
    assert found.images[0].unit is None and not found.images[0].calibrated


def test_muse_and_older_rubin_planes(tmp_path: Path) -> None:
    for name, keyword, other in (("muse.fits", "EXTNAME", "STAT"), ("calexp.fits", "EXTTYPE", "VARIANCE")):
        data, stat = (fits.ImageHDU(np.random.default_rng(i).uniform(4, 9, (20, 20)).astype("f4"), fits.Header(SKY))
                      for i in (0, 1))
        data.header[keyword], stat.header[keyword] = "DATA", other
        fits.HDUList([fits.PrimaryHDU(), data, stat]).writeto(tmp_path / name)
        (found,) = read(tmp_path / name)
        assert len(found.images) == 1 and found.images[0].pixels.shape == (1, 20, 20)
        np.testing.assert_allclose(found.images[0].ivar[0], 1 / stat.data, rtol=1e-5)


def test_an_image_of_the_sun_has_no_place_among_the_stars(tmp_path: Path) -> None:
    _image(tmp_path / "sun.fits", CTYPE1="HPLN-TAN", CTYPE2="HPLT-TAN")
    (found,) = read(tmp_path / "sun.fits")
    assert found.position is None and found.images[0].wcs is None


def test_rows_of_pixels_are_no_image(tmp_path: Path) -> None:
    fits.PrimaryHDU(np.ones((3, 700), "f4") * np.arange(700)).writeto(tmp_path / "rows.fits")
    with pytest.raises(ReadError, match=r"rows\.fits: holds 3 rows of 700 pixels"):
        list(read(tmp_path / "rows.fits"))


def test_text_without_a_header(tmp_path: Path) -> None:
    """Even steps are wavelengths, Julian dates with magnitudes are a light curve, nothing else is guessed."""
    np.savetxt(tmp_path / "spec.dat", np.c_[3700 + 1.5 * np.arange(300), np.linspace(1, 2, 300)])
    (found,) = read(tmp_path / "spec.dat")
    assert not found.lightcurves and found.spectra[0].wavelength[-1] == pytest.approx(3700 + 1.5 * 299)
    times = 2455000.5 + np.cumsum(np.random.default_rng(0).uniform(0.1, 9, 50))
    np.savetxt(tmp_path / "star.dat", np.c_[times, np.full(50, 17.5)], fmt="%.6f")
    (found,) = read(tmp_path / "star.dat")
    assert found.lightcurves[0].time.mjd[0] == pytest.approx(times[0] - 2400000.5) and found.lightcurves[0].unit == u.mag
    np.savetxt(tmp_path / "rv.dat", np.c_[times, np.linspace(-1200, 900, 50)], fmt="%.6f")
    np.savetxt(tmp_path / "any.dat", np.random.default_rng(1).uniform(0, 90, (50, 2)))
    for name in ("rv.dat", "any.dat"):
        with pytest.raises(ReadError, match=rf"{name}: has no line that names its 2 columns"):
            list(read(tmp_path / name))


def test_sextractor_and_daophot(tmp_path: Path) -> None:
    (tmp_path / "cat.dat").write_text(
        "#   1 NUMBER          Running object number\n#   2 ALPHA_J2000     Right ascension  [deg]\n"
        "#   3 DELTA_J2000     Declination      [deg]\n#   4 MAG_APER        Magnitudes       [mag]\n"
        "#   6 FLAGS           Extraction flags\n1 10.5 -5.25 18.5 18.1 0\n2 10.6 -5.26 99.0 19.2 3\n")
    first, second = read(tmp_path / "cat.dat")
    assert first.id == "1" and first.position is not None and first.position.ra.deg == 10.5
    assert first.scalars["mag_aper_2"].value == 18.1 and first.scalars["mag_aper"].unit == u.mag
    assert "mag_aper" not in second.scalars
    (tmp_path / "phot.dat").write_text("#K IRAF       = NOAO/IRAFV2.10EXPORT    version    %-23s\n#N ID\n1 2 3\n")
    with pytest.raises(ReadError, match=r"phot\.dat: is a table of IRAF's daophot"):
        list(read(tmp_path / "phot.dat"))
