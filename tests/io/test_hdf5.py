"""HDF5 in the Multimodal Universe layout: what comes out of each kind of file, and what is refused."""

from __future__ import annotations

from pathlib import Path

import astropy.units as u
import h5py
import numpy as np
import pytest
from astropy.table import Table

from engine.io.errors import ReadError
from engine.io.hdf5 import read_file
from engine.objects import Scalar


def legacy(path: Path, n: int = 3, size: int = 12, inverted: bool = True) -> Path:
    """A file as the layout's Legacy Surveys script writes it: masks are True where a pixel is good."""
    rng = np.random.default_rng(1)
    ivar = rng.uniform(1, 2, (n, 4, size, size)).astype("f4")
    ivar[:, :, 0, 0] = 0
    mask = np.ones((n, size, size), bool)
    mask[:, 3, 3] = mask[:, 0, 0] = False
    with h5py.File(path, "w") as f:
        f["object_id"] = np.array([f"1234p567-{i}".encode() for i in range(n)], dtype="S16")
        f["ra"], f["dec"] = np.linspace(10, 11, n), np.linspace(-5, -4, n)
        f["RA"], f["DEC"] = np.linspace(10, 11, n), np.linspace(-5, -4, n)
        f["healpix"] = np.full(n, 17)
        f["image_band"] = np.tile(np.array([b"des-g", b"des-r", b"des-i", b"des-z"], dtype="S5"), (n, 1))
        f.create_dataset("image_array", data=rng.normal(size=(n, 4, size, size)).astype("f4"), compression="gzip", chunks=True)
        f["image_ivar"], f["image_mask"] = ivar, mask if inverted else ~mask
        f["image_psf_fwhm"] = np.tile(np.array([1.3, 1.2, 1.1, 1.0], "f4"), (n, 1))
        f["image_scale"] = np.full((n, 4), 0.262, "f4")
        f["image_rgb"] = np.zeros((n, size, size, 3), "u1")
        f["EBV"], f["FLUX_G"], f["FLUX_IVAR_G"] = np.full(n, 0.03, "f4"), np.linspace(-1, 2, n), np.full(n, 4.0)
        f["SHAPE_R"] = np.full(n, 1.5, "f4")
        for name in ("FLUX_G", "TYPE", "X", "Y"):
            f[f"catalog_{name}"] = np.tile(np.r_[[3.0, 2.0], np.zeros(18)], (n, 1))
    return path


@pytest.mark.parametrize("inverted", [True, False])
def test_legacy_surveys_layout(tmp_path: Path, inverted: bool) -> None:
    found = list(read_file(legacy(tmp_path / "001-of-001.hdf5", inverted=inverted)))
    assert [o.id for o in found] == ["1234p567-0", "1234p567-1", "1234p567-2"]
    image = found[1].image("legacy")
    assert image is not None and image.bands == ("g", "r", "i", "z") and image.unit == u.nmgy
    assert image.pixel_scale == pytest.approx(0.262, rel=1e-6) and image.calibrated
    assert image.mask is not None and image.mask.sum() == 4 * 2  # the bad pixel and the one without weight, in four bands
    assert image.mask[:, 3, 3].all() and image.mask[:, 0, 0].all()
    scalars = found[0].scalars
    assert scalars["flux_g"].value == -1 and scalars["flux_g"].error == pytest.approx(0.5)  # negative flux stays a flux
    assert scalars["ebv"].unit == u.mag and scalars["psf_fwhm_g"].value == pytest.approx(1.3)
    assert found[0].catalog is not None and len(found[0].catalog) == 2
    assert found[2].position is not None and found[2].position.ra.deg == pytest.approx(11)
    assert "z" not in scalars and "healpix" not in scalars


def test_spectra_with_padding_and_resolution(tmp_path: Path) -> None:
    path, n = tmp_path / "001-of-001.hdf5", 50
    wave = np.tile(10 ** (3.6 + 1e-4 * np.arange(n)), (2, 1)).astype("f4")
    wave[1, 40:] = -1
    with h5py.File(path, "w") as f:
        f["object_id"], f["SPECOBJID"] = np.array([11, 12]), np.array([11, 12])
        f["ra"], f["dec"] = [1.0, 400.0], [2.0, 3.0]
        f["Z"], f["Z_ERR"], f["ZWARNING"] = np.array([0.1, -9.0], "f4"), np.array([1e-4, -1], "f4"), np.array([0, 4])
        f["spectrum_lambda"], f["spectrum_flux"] = wave, np.ones((2, n), "f4")
        ivar = np.ones((2, n), "f4")
        ivar[0, 5] = 0
        f["spectrum_ivar"], f["spectrum_mask"] = ivar, np.zeros((2, n), bool)
        f["spectrum_lsf_sigma"] = np.ones((2, n), "f4")
        f["SPECTROFLUX"] = np.ones((2, 5), "f4")
    first, second = read_file(path)
    spectrum = first.spectrum("sdss")
    assert spectrum is not None and spectrum.unit is not None and spectrum.unit.is_equivalent(u.erg / u.s / u.cm**2 / u.AA)
    assert spectrum.mask is not None and spectrum.mask[5] and spectrum.mask.sum() == 1
    # one pixel of 1e-4 dex is 69 km/s: R = c / (2.355 * 69.03) = 1844
    assert np.median(spectrum.resolution) == pytest.approx(1844, rel=0.01)
    assert first.scalars["z"].value == 0.1 and first.scalars["z"].error == pytest.approx(1e-4)
    assert len(second.spectra[0].wavelength) == 40 and "z" not in second.scalars
    assert second.position is None and any("not on the sky" in line for line in second.history)


def test_gaia_coefficients_and_missing_bp(tmp_path: Path) -> None:
    path = tmp_path / "gaia.hdf5"
    values = np.random.default_rng(0).normal(size=(2, 110))
    values[1, :55] = np.nan
    with h5py.File(path, "w") as f:
        f["source_id"] = np.array([5853498713190525696, 5762406957886626816])
        f["ra"], f["dec"] = [1.0, 2.0], [3.0, 4.0]
        f["coeff"], f["coeff_error"] = values, np.abs(values)
        f["parallax"], f["parallax_error"] = [1.0, np.nan], [0.1, 0.1]
    first, second = read_file(path)
    assert first.id == "5853498713190525696"
    np.testing.assert_allclose(first.scalars["xp_rp"].value, values[0, 55:])
    assert "xp_bp" in first.scalars and "xp_bp" not in second.scalars and "xp_rp" in second.scalars
    assert first.scalars["parallax"].unit == u.mas and "parallax" not in second.scalars


def test_light_curves_of_both_layouts(tmp_path: Path) -> None:
    cube = np.zeros((1, 6, 3, 4))
    cube[0, 1, :, :2] = [[60000.0, 60001.0], [5.0, -2.0], [1.0, 1.0]]
    with h5py.File(tmp_path / "train_01.hdf5", "w") as f:
        f["object_id"], f["ra"], f["dec"], f["redshift"], f["lightcurve"] = [615], [1.0], [2.0], [0.5], cube
        f["hostgal_photoz"] = [0.45]
    (found,) = read_file(tmp_path / "train_01.hdf5")
    (curve,) = found.lightcurves
    assert curve.band == "g" and list(curve.flux) == [5, -2] and curve.time.mjd[0] == 60000
    assert found.scalars["z"].value == 0.5 and found.scalars["hostgal_photoz"].value == 0.45
    with h5py.File(tmp_path / "2017erp.hdf5", "w") as f:
        f["object_id"], f["ra"], f["dec"], f["bands"], f["redshift"] = "2017erp", 1.0, 2.0, "g,r", 0.006
        f["time"], f["flux"], f["flux_err"] = [[57000.0, -99.0], [57001, 57002]], [[3.0, 0], [4, 5]], [[1.0, 0], [1, 1]]
    (found,) = read_file(tmp_path / "2017erp.hdf5")
    assert found.id == "2017erp" and [(c.band, len(c.flux)) for c in found.lightcurves] == [("g", 1), ("r", 2)]


@pytest.mark.parametrize(("key", "unit"), [("unit", "nJy"), ("Units", b"nJy"), ("UNIT", ["nJy"]),
                                             ("units", np.array([b"nJy"]))])
def test_units_of_datasets_are_those_of_the_values(tmp_path: Path, key: str, unit: object) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as f:
        f["object_id"], f["flux_g"] = [1, 2], [7261.56, 10.0]
        f["flux_g"].attrs[key] = unit
    assert [o.scalars["flux_g"].unit for o in read_file(tmp_path / "t.h5")] == [u.nJy, u.nJy]


def table_in_hdf5(path: Path) -> Path:
    table = Table({"id": [1, 2], "flux_g": [7261.56, 10.0] * u.nJy, "flux_g_err": [0.05, 0.05] * u.uJy, "mag_r": [20.0, 21.0]},
                  units={"mag_r": u.ABmag}, meta={"made": {"by": ["hand", "eye"]}})
    table.write(path, path="t", serialize_meta=True)
    return path


def test_units_of_a_table_of_astropy_are_those_of_the_values(tmp_path: Path) -> None:
    first, _ = read_file(table_in_hdf5(tmp_path / "t.hdf5"))
    flux = first.scalars["flux_g"]
    assert (flux.value, flux.unit) == (7261.56, u.nJy) and flux.error == pytest.approx(50)  # errors in uJy
    assert first.scalars["mag_r"].unit == u.ABmag


def test_what_astropy_masks_is_missing(tmp_path: Path) -> None:
    table = Table({"id": [1, 2], "flux_g": [5.0, 6.0]}, masked=True)
    table["flux_g"].mask = [True, False]
    table.write(tmp_path / "t.hdf5", path="t", serialize_meta=True)
    assert [dict(o.scalars) for o in read_file(tmp_path / "t.hdf5")] == [{}, {"flux_g": Scalar(6.0)}]


@pytest.mark.parametrize("header", [[b"datatype:", b"- {name: id, un"], [], 7, np.zeros(3)])
def test_a_damaged_header_stops_no_table(tmp_path: Path, header: object) -> None:
    path = table_in_hdf5(tmp_path / "t.hdf5")
    with h5py.File(path, "a") as f:
        del f["t.__table_column_meta__"]
        f["t.__table_column_meta__"] = header
    first, _ = read_file(path)
    assert first.scalars["flux_g"].value == 7261.56 and first.scalars["flux_g"].unit is None
    assert any("the astropy header beside the table is damaged" in line for line in first.history)


def test_units_of_a_table_in_its_attribute_are_those_of_the_values(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "t.h5", "w") as f:
        f["t"] = np.array([(1, 7261.56)], [("id", "i8"), ("flux_g", "f8")])
        f["t"].attrs["units"] = ["", "nJy"]
    found, = read_file(tmp_path / "t.h5")
    assert found.scalars["flux_g"].unit == u.nJy


def test_real_ceers_file(shared_data: Path) -> None:
    found = list(read_file(shared_data / "jwst_ceers_nircam" / "ceers_shared_60.h5"))
    assert len(found) == 60 and all(o.images[0].pixels.shape == (7, 100, 100) for o in found)
    image = found[0].images[0]
    assert image.survey == "jwst-nircam" and image.pixel_scale == 0.03 and not image.calibrated and image.unit is None
    for o in found:
        picture = o.images[0]
        dead = picture.pixels.reshape(7, -1).std(axis=1) == 0
        assert np.array_equal(picture.mask.reshape(7, -1).all(axis=1), dead)
    assert all(0 < o.scalars["z"].value < 10 and o.position is not None for o in found)


def _external_link(f: h5py.File) -> None:
    f["flux"] = h5py.ExternalLink("/etc/passwd", "/x")


def _soft_link(f: h5py.File) -> None:
    f["flux"] = h5py.SoftLink("/elsewhere")


def _opaque(f: h5py.File) -> None:
    f["things"] = np.array([np.void(b"cos\nsystem")] * 2)


def _external_storage(f: h5py.File) -> None:
    f.create_dataset("secret", shape=(2,), dtype="u1", external=[("secret.bin", 0, 2)])


def _bomb(f: h5py.File) -> None:
    f.create_dataset("image_flux", shape=(2, 100_000, 100_000), dtype="f4", chunks=(1, 100, 100), compression="gzip")


def _many_rows(f: h5py.File) -> None:
    del f["object_id"]
    f.create_dataset("object_id", shape=(10**12,), dtype="i8", chunks=(1000,))


@pytest.mark.parametrize("spoil", [_external_link, _soft_link, _opaque, _external_storage, _bomb, _many_rows])
def test_refused_with_one_sentence(tmp_path: Path, spoil: object) -> None:
    path = tmp_path / "spoilt.h5"
    with h5py.File(path, "w") as f:
        f["object_id"], f["ra"], f["dec"] = [1, 2], [1.0, 2.0], [3.0, 4.0]
        spoil(f)  # type: ignore[operator]
    with pytest.raises(ReadError, match=r"spoilt\.h5"):
        list(read_file(path))


@pytest.mark.parametrize("content", [b"", b"not HDF5 at all", b"\x89HDF\r\n\x1a\n" + bytes(50)])
def test_foreign_and_empty(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.h5"
    path.write_bytes(content)
    with pytest.raises(ReadError, match=r"foreign\.h5"):
        list(read_file(path))


def test_corrupted_at_random_only_read_errors(tmp_path: Path) -> None:
    whole = legacy(tmp_path / "whole.hdf5").read_bytes()
    rng = np.random.default_rng(5)
    outcomes = set()
    for i in range(60):
        raw = bytearray(whole)
        if i % 3 == 0:
            raw = raw[:rng.integers(1, len(raw))]
        else:
            for at in rng.integers(0, len(raw), 20):
                raw[at] = rng.integers(256)
        path = tmp_path / "damaged.hdf5"
        path.write_bytes(raw)
        try:
            outcomes.add(len(list(read_file(path))) >= 0)
        except ReadError as problem:
            assert "damaged.hdf5" in str(problem)
            outcomes.add("refused")
    assert "refused" in outcomes
