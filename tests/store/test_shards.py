"""The store's arrays are standard Zarr: what we write zarr-python reads, equal items lie there once, damage is named."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import zarr

from engine.store.rounding import IVAR_BITS, noise_sigma, round_ivar, round_to_noise
from engine.store.shards import ShardReader, write_array


def write(path: Path, items: list[np.ndarray | None]) -> Path:
    first = next(i for i in items if i is not None)
    with ThreadPoolExecutor(2) as pool:
        write_array(path, items, len(items), first.shape, first.dtype, pool)
    return path


@pytest.mark.parametrize("dtype", ["<f4", "<f8", "|b1", "<i2"])
def test_zarr_reads_what_we_write(tmp_path: Path, dtype: str) -> None:
    rng = np.random.default_rng(1)
    items: list[np.ndarray | None] = [(rng.normal(size=(3, 8, 9)) * 50).astype(dtype) for _ in range(4)]
    items += [None, items[1], np.zeros((3, 8, 9), dtype)]
    path = write(tmp_path / "a", items)
    array = zarr.open_array(path, mode="r")
    assert array.shape == (7, 3, 8, 9) and array.dtype == np.dtype(dtype)
    expected = np.stack([np.zeros((3, 8, 9), dtype) if i is None else i for i in items])
    np.testing.assert_array_equal(array[:], expected)
    reader = ShardReader(path)
    np.testing.assert_array_equal(np.stack([reader[i] for i in range(7)]), expected)


def test_equal_items_take_the_space_of_one(tmp_path: Path) -> None:
    curve = np.random.default_rng(2).normal(size=7781).astype(np.float32)
    sizes = [sum(f.stat().st_size for f in write(tmp_path / str(n), [curve.copy() for _ in range(n)]).rglob("*") if f.is_file())
             for n in (1, 50)]
    assert sizes[1] - sizes[0] < 49 * 16 + 20  # the index, and the digits of the shape


@pytest.mark.parametrize("damage", ["cut", "index", "one bit", "metadata"])
def test_damage_is_told_with_the_name_of_the_file(tmp_path: Path, damage: str) -> None:
    path = write(tmp_path / "a", [np.random.default_rng(i).normal(size=200) for i in range(3)])
    shard = path / "c.0.0"
    data = bytearray(shard.read_bytes())
    if damage == "cut":
        data = data[: len(data) // 2]
    elif damage == "index":
        data[-10] ^= 1
    elif damage == "one bit":
        data[300] ^= 4
    else:
        (path / "zarr.json").write_text("{")
    shard.write_bytes(data)
    with pytest.raises(ValueError, match="zarr.json" if damage == "metadata" else str(shard)):
        ShardReader(path)[0]


def test_the_step_of_the_pixels_is_below_a_sixteenth_of_the_noise() -> None:
    rng = np.random.default_rng(3)
    for sigma in (1e-6, 0.013, 0.4, 77.0):
        pixels = (rng.normal(size=(2, 64, 64)) * sigma).astype(np.float32)
        ivar = np.full_like(pixels, sigma**-2)
        for given in (ivar, None):
            rounded, steps = round_to_noise(pixels, given)
            known = sigma if given is not None else noise_sigma(pixels[0])
            assert known / 33 < steps[0] <= known / 16 * (1 + 1e-6)
            assert np.abs(rounded - pixels)[0].max() <= steps[0] / 2
            np.testing.assert_array_equal(rounded[0] / steps[0], np.rint(rounded[0] / steps[0]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_inverse_variances_keep_their_leading_bits(dtype: type) -> None:
    rng = np.random.default_rng(4)
    ivar = np.concatenate([10 ** rng.uniform(-20, 20, 5000), [0, np.inf, np.nan, np.finfo(dtype).max, 1, 1e-300]]).astype(dtype)
    out = round_ivar(ivar)
    same = ~np.isfinite(ivar) | (ivar == 0)
    np.testing.assert_array_equal(out[same], ivar[same])
    usual = (ivar > np.finfo(dtype).tiny) & np.isfinite(ivar)
    assert np.abs(out[usual] / ivar[usual] - 1).max() <= 2.0 ** -(IVAR_BITS + 1)
    assert abs((out[:5000].astype(float) / ivar[:5000] - 1).mean()) < 1e-4  # to nearest, not cut off
    np.testing.assert_array_equal(round_ivar(out), out)
