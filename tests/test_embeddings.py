"""Vectors on disk: what was committed is there, what was not is ignored, what is damaged says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from engine.embeddings import MANIFEST, VECTORS, Embeddings

ABOUT = {"space": "image", "model": "m", "checksum": "0" * 64, "inputs": {"bands": ["g"]}, "version": 1}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "a.sky" / "embeddings" / "image"


def some(rows: int, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, 8)).astype(np.float16)
    vectors[::3] = np.nan
    return vectors


def test_round_trip_over_many_appends(folder: Path) -> None:
    made = Embeddings.create(folder, 8, ABOUT)
    pieces = [some(n, seed=n) for n in (5, 1, 30)]
    for piece in pieces:
        made.append(piece)
    read = Embeddings.open(folder)
    np.testing.assert_array_equal(read.vectors, np.concatenate(pieces))
    assert len(read) == 36 and read.dim == 8 and read.manifest == {**ABOUT, "dim": 8, "rows": 36}
    assert read.vectors.dtype == np.float16 and not read.vectors.flags.writeable
    assert (folder / VECTORS).stat().st_size == 36 * 8 * 2, "raw numbers and nothing else"
    np.testing.assert_array_equal(made.vectors, read.vectors)


def test_what_a_killed_write_left_is_ignored_and_overwritten(folder: Path) -> None:
    Embeddings.create(folder, 8, ABOUT).append(some(4))
    with (folder / VECTORS).open("ab") as file:  # vectors were written, the manifest was not, and not all of a row
        file.write(some(2, seed=9).tobytes()[:-5])
    again = Embeddings.open(folder)
    np.testing.assert_array_equal(again.vectors, some(4))
    again.append(some(3, seed=1))
    np.testing.assert_array_equal(Embeddings.open(folder).vectors, np.concatenate([some(4), some(3, seed=1)]))


def test_an_empty_space(folder: Path) -> None:
    made = Embeddings.create(folder, 8, ABOUT)
    assert made.vectors.shape == (0, 8) == Embeddings.open(folder).vectors.shape
    made.append(np.empty((0, 8)))
    assert len(Embeddings.open(folder)) == 0


def test_a_reader_keeps_its_vectors_while_they_are_replaced(folder: Path) -> None:
    made = Embeddings.create(folder, 8, ABOUT)
    made.append(some(2000))
    mapped = made.vectors
    Embeddings.create(folder, 8, {**ABOUT, "checksum": "1" * 64}).append(some(1, seed=3))
    np.testing.assert_array_equal(mapped, some(2000))  # a truncated file under a map would end this process


def test_another_dimension_is_refused(folder: Path) -> None:
    made = Embeddings.create(folder, 8, ABOUT)
    with pytest.raises(ValueError, match=r"8 dimensions, got vectors of shape \(3, 7\)"):
        made.append(np.zeros((3, 7)))
    with pytest.raises(ValueError, match="8 dimensions"):
        made.append(np.zeros(8))
    assert len(Embeddings.open(folder)) == 0


def test_damage_is_one_sentence_with_the_command(folder: Path) -> None:
    remedy = r"remove .*image and run: omnisky embed .*a\.sky$"
    with pytest.raises(FileNotFoundError, match=r"run: omnisky embed .*a\.sky$"):
        Embeddings.open(folder)
    Embeddings.create(folder, 8, ABOUT).append(some(10))
    whole = (folder / VECTORS).read_bytes()
    (folder / VECTORS).write_bytes(whole[:-1])
    with pytest.raises(ValueError, match=r"vectors\.f16 is damaged: 159 bytes, 160 expected; " + remedy):
        Embeddings.open(folder)
    (folder / VECTORS).unlink()
    with pytest.raises(ValueError, match="0 bytes, 160 expected"):
        Embeddings.open(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    del manifest["rows"]
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"is damaged \(it lacks rows\); " + remedy):
        Embeddings.open(folder)
    for broken in ("{", "[]", json.dumps({**manifest, "rows": -1}), json.dumps({**manifest, "rows": "many"}),
                   json.dumps({**manifest, "rows": 1, "dim": 0})):
        (folder / MANIFEST).write_text(broken)
        with pytest.raises(ValueError, match=r"manifest\.json"):
            Embeddings.open(folder)
