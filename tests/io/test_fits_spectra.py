"""FITS spectra: values, wavelengths in vacuum, masks, redshifts, targets only; real files against what they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from engine.io import ReadError, read
from engine.io.desi import PIXELS, START, STEP
from engine.io.tablespectra import to_vacuum


def _sdss(path: Path, warning: int = 0, z_err: float = 1e-4) -> np.ndarray:
    loglam = (3.58 + 1e-4 * np.arange(500)).astype("f4")
    flux = np.arange(500, dtype="f4")
    ivar = np.ones(500, "f4")
    ivar[3] = 0
    bits = np.zeros(500, "i4")
    bits[5], bits[6] = 1 << 23, 1 << 16  # BRIGHTSKY spoils a pixel, NEARBADPIXEL does not
    coadd = Table({"flux": flux, "loglam": loglam, "ivar": ivar, "and_mask": bits, "wdisp": np.full(500, 1.0, "f4")})
    row = Table({"PLATE": [266], "MJD": [51630], "FIBERID": [7], "PLUG_RA": [146.0], "PLUG_DEC": [-0.5], "CLASS": ["GALAXY"],
                 "Z": [0.1], "Z_ERR": [z_err], "ZWARNING": [warning], "BESTOBJID": ["1237650795683184714"]})
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(coadd, name="COADD"),
                  fits.BinTableHDU(row, name="SPECOBJ")]).writeto(path)
    return loglam


def test_sdss_spectrum(tmp_path: Path) -> None:
    loglam = _sdss(tmp_path / "spec-0266-51630-0007.fits", warning=4)
    (found,) = read(tmp_path / "spec-0266-51630-0007.fits")
    spectrum = found.spectra[0]
    assert found.id == "266-51630-7" and found.position is not None and found.position.ra.deg == pytest.approx(146.0)
    np.testing.assert_allclose(spectrum.wavelength, 10.0 ** loglam.astype(float))
    assert spectrum.mask is not None and np.flatnonzero(spectrum.mask).tolist() == [3, 5]
    np.testing.assert_array_equal(spectrum.flux, np.arange(500))
    assert np.allclose(spectrum.resolution, 1 / (2.3548 * 1e-4 * np.log(10)), rtol=1e-4)  # a sigma of one pixel
    assert found.scalars["z"].value == pytest.approx(0.1) and found.scalars["zwarning"].value == 4
    assert any("not sure" in line for line in found.history)


def test_a_failed_sdss_fit_gives_no_redshift(tmp_path: Path) -> None:
    _sdss(tmp_path / "spec.fits", z_err=-1.0)
    (found,) = read(tmp_path / "spec.fits")
    assert "z" not in found.scalars


def _desi(path: Path, types: list[str], status: list[int]) -> None:
    count = len(types)
    hdus: list[fits.hdu.base.ExtensionHDU | fits.PrimaryHDU] = [fits.PrimaryHDU()]
    fibers = Table({"TARGETID": np.arange(1, count + 1), "TARGET_RA": np.full(count, 10.0), "TARGET_DEC": np.full(count, 20.0),
                    "OBJTYPE": types, "COADD_FIBERSTATUS": status})
    hdus.append(fits.BinTableHDU(fibers, name="FIBERMAP"))
    for arm, low, high, value, weight in (("B", 0, 2751, 1.0, 1.0), ("R", 2750, 5026, 2.0, 3.0), ("Z", 4900, PIXELS, 3.0, 1.0)):
        wave = START + STEP * np.arange(low, high)
        flux = np.full((count, len(wave)), value, "f4")
        mask = np.zeros(flux.shape, "i4")
        mask[:, 10] = 1
        diagonals = np.exp(-0.5 * (np.arange(-5, 6) / 1.2) ** 2)
        matrix = np.repeat((diagonals / diagonals.sum())[None, :, None], count, 0) * np.ones(len(wave))
        for name, data in (("WAVELENGTH", wave), ("FLUX", flux), ("IVAR", np.full_like(flux, weight)), ("MASK", mask),
                           ("RESOLUTION", matrix.astype("f4"))):
            hdus.append(fits.ImageHDU(data, name=f"{arm}_{name}"))
    fits.HDUList(hdus).writeto(path)


def test_desi_arms_are_coadded_by_inverse_variance(tmp_path: Path) -> None:
    _desi(tmp_path / "coadd-main.fits", ["TGT", "SKY", "TGT", "TGT"], [0, 0, 8, 2])
    found = list(read(tmp_path / "coadd-main.fits"))
    assert [o.id for o in found] == ["1", "3"]  # the sky and the broken fibre are no objects
    spectrum = found[0].spectra[0]
    assert spectrum.flux.shape == (7781,) and spectrum.wavelength[-1] == pytest.approx(9824.0)
    assert spectrum.flux[2750] == pytest.approx((1 * 1 + 2 * 3) / 4) and spectrum.ivar[2750] == pytest.approx(4)
    assert spectrum.mask[10] and not spectrum.mask[11]
    assert spectrum.flux[4910] == pytest.approx(2.0)  # the Z arm's pixel is masked there: R alone
    sigma = spectrum.wavelength / (2.3548 * spectrum.resolution) / STEP
    np.testing.assert_allclose(sigma, 1.2, rtol=5e-3)


def test_desi_redshift_comes_from_the_redrock_file_beside(tmp_path: Path) -> None:
    _desi(tmp_path / "coadd-main.fits", ["TGT", "TGT"], [0, 0])
    rows = Table({"TARGETID": [2, 1], "Z": [0.7, 0.3], "ZERR": [1e-4, 1e-4], "ZWARN": [0, 4], "SPECTYPE": ["QSO", "GALAXY"]})
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(rows, name="REDSHIFTS")]).writeto(tmp_path / "redrock-main.fits")
    found = {o.id: o for o in read(tmp_path / "coadd-main.fits")}
    assert found["1"].scalars["z"].value == pytest.approx(0.3) and found["1"].scalars["zwarn"].value == 4
    assert found["2"].scalars["z"].value == pytest.approx(0.7) and found["2"].scalars["spectype"].value == "QSO"


def test_a_file_of_sky_fibres_is_refused(tmp_path: Path) -> None:
    _desi(tmp_path / "coadd-sky.fits", ["SKY", "BAD"], [0, 0])
    with pytest.raises(ReadError, match="holds 2 fibres, all of them sky"):
        list(read(tmp_path / "coadd-sky.fits"))


def test_air_to_vacuum_against_published_pairs() -> None:
    air = np.array([3727.092, 4861.333, 4958.911, 5006.843, 6562.819, 6716.440])  # classic SDSS list: air, then vacuum
    vacuum = np.array([3728.15, 4862.69, 4960.295, 5008.239, 6564.61, 6718.29])
    np.testing.assert_allclose(to_vacuum(air), vacuum, atol=0.06)


@pytest.mark.parametrize("kind, air", [("AWAV", True), ("WAVE", False), ("LINEAR", False)])
def test_plain_spectra_say_air_or_vacuum(tmp_path: Path, kind: str, air: bool) -> None:
    hdu = fits.PrimaryHDU(np.ones(100, "f4"))
    hdu.header.update(CTYPE1=kind, CRVAL1=500.0, CDELT1=0.1, CRPIX1=1.0, CUNIT1="nm")
    hdu.writeto(tmp_path / "one.fits")
    (found,) = read(tmp_path / "one.fits")
    expected = 5000.0 + np.arange(100.0)
    np.testing.assert_allclose(found.spectra[0].wavelength, to_vacuum(expected) if air else expected)
    assert any(("air converted" if air else "vacuum") in line for line in found.spectra[0].history)


def test_log_linear_spectra(tmp_path: Path) -> None:
    hdu = fits.PrimaryHDU(np.ones((3, 50), "f4"))
    hdu.header.update(COEFF0=3.6, COEFF1=1e-4, CRVAL1=3.6, CD1_1=1e-4, CRPIX1=1, CTYPE1="LINEAR", **{"DC-FLAG": 1})
    hdu.writeto(tmp_path / "log.fits")
    (found,) = read(tmp_path / "log.fits")
    np.testing.assert_allclose(found.spectra[0].wavelength, 10 ** (3.6 + 1e-4 * np.arange(50)))


def test_deimos_sky_lines_are_where_they_are_in_vacuum(shared_data: Path) -> None:
    """OH and O2 lines of the night sky, air wavelengths of Osterbrock et al. 1996 (PASP 108, 277), after conversion."""
    path = sorted((shared_data / "deep2_hst_deimos" / "spec1D").glob("*.fits"))[0]
    (found,) = read(path)
    spectrum = found.spectra[0]
    assert not spectrum.calibrated and np.all(np.diff(spectrum.wavelength) > 0)
    with fits.open(path) as hdus:
        sky = np.concatenate([hdus[h].data["SKYSPEC"][0] for h in ("Horne-B", "Horne-R")])
    shifts = []
    for air in (7276.405, 7340.885, 7750.640, 7913.708, 8344.602, 8399.170, 8827.096):
        expected = to_vacuum(np.array([air]))[0]
        near = np.abs(spectrum.wavelength - expected) < 2.0
        weight = sky[near] - sky[near].min()
        shifts.append((weight * spectrum.wavelength[near]).sum() / weight.sum() - expected)
    assert abs(np.median(shifts)) < 0.3  # the difference between air and vacuum is 2.2 A


def test_real_sdss_and_desi(shared_data: Path) -> None:
    (sdss,) = read(shared_data / "sdss_pairs" / "spectra" / "spec-0266-51630-0168.fits")
    assert sdss.scalars["z"].value == pytest.approx(0.0674056, abs=1e-6)
    (desi,) = read(shared_data / "desi" / "coadd-4-80613-thru20210324.fits")
    assert desi.scalars["z"].value == pytest.approx(0.3687436, abs=1e-6) and desi.spectra[0].flux.shape == (7781,)
    assert len(list(read(shared_data / "desi" / "coadd-5-169-thru20210419.fits"))) == 1  # four of five fibres are sky or stuck
