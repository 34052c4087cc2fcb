"""NumPy files: scenes, single-band images with the files beside them, and what is refused."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path

import astropy.units as u
import numpy as np
import pytest

from engine.io.arrays import companions, load_npy, read_file
from engine.io.errors import ReadError


def test_real_scene(shared_data: Path) -> None:
    path = shared_data / "hsc_grizy" / "hsc_cosmos_35.npz"
    (found,) = read_file(path)
    image = found.images[0]
    with np.load(path) as raw:
        np.testing.assert_array_equal(image.pixels, raw["images"])
        np.testing.assert_allclose(image.ivar, 1 / raw["variance"], rtol=1e-6)
        assert found.catalog is not None and len(found.catalog) == len(raw["catalog"]) == 7
        np.testing.assert_array_equal(found.catalog.columns["x"], raw["catalog"]["x"])
    assert image.survey == "hsc" and image.bands == tuple("grizy") and image.psf.shape == (5, 43, 43)
    assert (1 * image.unit).to_value(u.nmgy) == pytest.approx(10 ** (0.4 * (22.5 - 27)))
    assert image.mask.mean() < 0.01  # DETECTED is not bad


def test_real_single_band(shared_data: Path) -> None:
    path = shared_data / "legacysurvey_dr9" / "gal1_im.npy"
    (found,) = read_file(path)
    image = found.images[0]
    assert found.id == "gal1" and image.pixels.shape == (1, 121, 121) and image.psf.shape == (1, 43, 43)
    assert image.survey == "legacy" and image.unit == u.nmgy and set(companions(path)) == {"im", "mask", "psf", "sig"}
    np.testing.assert_allclose(image.ivar[0], np.load(path.with_name("gal1_sig.npy")).astype(float) ** -2, rtol=1e-5)
    assert image.mask.mean() == pytest.approx(np.load(path.with_name("gal1_mask.npy")).mean())
    with pytest.raises(ReadError, match=r"gal1_psf\.npy.*read gal1_im\.npy"):
        list(read_file(path.with_name("gal1_psf.npy")))


def test_plain_arrays(tmp_path: Path) -> None:
    values = np.arange(12.0).reshape(3, 4)
    values[0, 0] = np.nan
    np.save(tmp_path / "stamp.npy", values)
    (found,) = read_file(tmp_path / "stamp.npy")
    image = found.images[0]
    assert image.pixels.shape == (1, 3, 4) and image.mask.sum() == 1 and not image.calibrated and image.unit is None
    np.savez_compressed(tmp_path / "cube.npz", image=np.stack([values[1:], np.zeros((2, 4))]), bands=["g", "r"])
    (found,) = read_file(tmp_path / "cube.npz")
    assert found.images[0].bands == ("g", "r") and found.images[0].mask[1].all() and not found.images[0].mask[0].any()


@pytest.mark.parametrize("unit", ["nJy", ["nJy", "nJy"], np.bytes_("njy")])
def test_the_unit_that_a_scene_states_is_that_of_its_pixels(tmp_path: Path, unit: object) -> None:
    np.savez(tmp_path / "scene.npz", images=np.arange(8.0).reshape(2, 2, 2), filters=["hsc-g", "hsc-r"], unit=unit)
    (found,) = read_file(tmp_path / "scene.npz")
    assert found.images[0].survey == "hsc" and found.images[0].unit == u.nJy and found.images[0].calibrated


@pytest.mark.parametrize(("unit", "says"), [(["nJy", "uJy"], "units of bands differ"), ("lumens", "'lumens' is not")])
def test_units_that_say_nothing_certain_calibrate_nothing(tmp_path: Path, unit: object, says: str) -> None:
    np.savez(tmp_path / "scene.npz", images=np.arange(8.0).reshape(2, 2, 2), filters=["g", "r"], units=unit)
    (found,) = read_file(tmp_path / "scene.npz")
    assert found.images[0].unit is None and not found.images[0].calibrated and says in " ".join(found.images[0].history)


class _Evil:
    def __reduce__(self) -> tuple:
        return (print, ("pickle was opened",))


def test_pickles_are_never_opened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = np.array([_Evil()], dtype=object)
    np.save(tmp_path / "a.npy", evil, allow_pickle=True)
    np.savez(tmp_path / "b.npz", images=evil)
    (tmp_path / "c.npy").write_bytes(pickle.dumps(_Evil()))
    for name in ("a.npy", "b.npz", "c.npy"):
        with pytest.raises(ReadError, match=rf"{name[0]}\.np.*pickle"):
            list(read_file(tmp_path / name))
    assert capsys.readouterr().out == ""


def test_bombs_are_refused_before_they_unpack(tmp_path: Path) -> None:
    header = (
        np.lib.format.magic(1, 0)
        + b"v\x00"
        + (b"{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }".ljust(117) + b"\n")
    )
    (tmp_path / "big.npy").write_bytes(header + bytes(100))
    with zipfile.ZipFile(tmp_path / "big.npz", "w") as archive:
        archive.writestr("images.npy", header + bytes(100))
    for name in ("big.npy", "big.npz"):
        with pytest.raises(ReadError, match=rf"{name}"):
            list(read_file(tmp_path / name))


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04broken", b"\x93NUMPY\x01\x00"])
def test_foreign_and_cut_off(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.npy").write_bytes(content)
    with pytest.raises(ReadError, match=r"x\.npy"):
        list(read_file(tmp_path / "x.npy"))


def test_shapes_that_are_no_image(tmp_path: Path) -> None:
    np.save(tmp_path / "line.npy", np.arange(5.0))
    np.savez(tmp_path / "other.npz", weights=np.ones((3, 3)))
    np.save(tmp_path / "text.npy", np.array(["a", "b"]))
    for name in ("line.npy", "other.npz", "text.npy"):
        with pytest.raises(ReadError, match=name):
            list(read_file(tmp_path / name))
    assert load_npy(tmp_path / "line.npy").tolist() == [0, 1, 2, 3, 4]


def test_corrupted_at_random_only_read_errors(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    np.savez_compressed(
        tmp_path / "w.npz", images=rng.normal(size=(2, 9, 9)), variance=np.ones((2, 9, 9)), catalog=np.ones((3, 2))
    )
    np.save(tmp_path / "w.npy", rng.normal(size=(9, 9)))
    refused = 0
    for i in range(120):
        kind = ("npz", "npy")[i % 2]
        raw = bytearray((tmp_path / f"w.{kind}").read_bytes())
        raw = raw[:rng.integers(0, len(raw))] if i % 3 == 0 else raw
        for at in rng.integers(0, max(1, min(len(raw), 200 if i % 5 else len(raw))), min(5, len(raw))):
            raw[at] = rng.integers(256)
        (tmp_path / f"damaged.{kind}").write_bytes(raw)
        try:
            assert len(list(read_file(tmp_path / f"damaged.{kind}"))) == 1
        except ReadError as problem:
            assert "damaged." in str(problem)
            refused += 1
    assert refused > 30
