"""Neighbours against brute force, duplicates on the sky, foreign index files, kNN regression against scikit-learn."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from sklearn.neighbors import KNeighborsRegressor

import engine
from engine import search
from engine.embeddings import Embeddings
from engine.objects import SkyObject
from engine.search import Index, best_k, build_and_save, regress, split
from engine.store import Store

ABOUT = {"model": "m", "checksum": "a" * 64, "inputs": {}, "version": 1}
N, DIM = 400, 16


def unit(rows: int, seed: int, dim: int = DIM) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def put(sky: Path, space: str, vectors: np.ndarray, checksum: str = "a" * 64) -> Embeddings:
    made = Embeddings.create(sky / "embeddings" / space, vectors.shape[1], {**ABOUT, "space": space, "checksum": checksum})
    made.append(vectors)
    return made


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """400 objects five degrees apart, but 1 lies 2" from 0 and 3 lies 8" from 2; 5 has no position, 7 no spectrum."""
    places = [(float(i % 40) * 5, float(i // 40) * 5 - 20) for i in range(N)]
    places[1] = (places[0][0], places[0][1] + 2 / 3600)
    places[3] = (places[2][0], places[2][1] + 8 / 3600)
    objects = [SkyObject(f"o{i}", None if i == 5 else SkyCoord(*p, unit="deg")) for i, p in enumerate(places)]
    Store.create(tmp_path / "a.sky").append(objects, ["f"] * N)
    images, spectra = unit(N, 1), unit(N, 2)
    spectra[7] = np.nan
    for a, b in ((1, 0), (3, 2)):  # alike as well as close
        images[a], spectra[a] = images[b], spectra[b]
    put(tmp_path / "a.sky", "image", images)
    put(tmp_path / "a.sky", "spectrum", spectra)
    return tmp_path / "a.sky"


def cosines(query: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    wide = np.asarray(vectors, np.float64)
    return np.nan_to_num(wide @ query / np.linalg.norm(wide, axis=1) / np.linalg.norm(query), nan=-9)


def brute(query: np.ndarray, vectors: np.ndarray, leave_out: set[int]) -> list[int]:
    cosine = cosines(query, vectors)
    return [int(i) for i in np.argsort(-cosine) if i not in leave_out and cosine[i] > -2]


@pytest.mark.parametrize(("query", "among"), [("image", "image"), ("image", "spectrum"), ("spectrum", "image")])
def test_neighbours_are_those_of_brute_force(path: Path, query: str, among: str) -> None:
    sky = engine.open(path)
    for row in (0, 4, 5, 100):
        found = sky.near(f"o{row}", query, among, k=12)
        vector = np.asarray(sky.vectors(query)[row], np.float64)
        twin = {0: {0, 1}}.get(row, {row})
        rows = brute(vector, sky.vectors(among), twin)
        cosine = cosines(vector, sky.vectors(among))
        assert not twin & set(found.rows) and len(set(found.rows)) == 12 and not {0, 1} <= set(found.rows)
        np.testing.assert_allclose(found.similarity, cosine[list(found.rows)], atol=2e-3)
        best = [r for r in rows if r != 1 or 0 in twin][:12]  # of 0 and 1, which are equal, only one counts
        np.testing.assert_allclose(sorted(cosine[list(found.rows)], reverse=True), cosine[best], atol=2e-3)
        assert found.ids == tuple(f"o{r}" for r in found.rows) and len(found) == 12
        assert list(found.similarity) == sorted(found.similarity, reverse=True)


def test_the_same_thing_seen_twice_is_dropped_and_counted(path: Path) -> None:
    sky = engine.open(path)
    found = sky.near("o0", "image", "image", k=5)
    assert found.dropped == 2 and not {0, 1} & set(found.rows)  # itself and its twin 2" away
    wide = sky.near("o2", "image", "image", k=5)
    assert wide.dropped == 1 and wide.rows[0] == 3 and wide.similarity[0] == pytest.approx(1, abs=1e-3)  # 8" is another
    assert sky.near("o2", "image", "image", k=5, radius=10).dropped == 2
    every = sky.near("o0", "image", "image", k=5, radius=None)
    assert every.dropped == 0 and every.rows[0] == 1 and 0 not in every.rows  # never oneself within a space


def test_answers_are_dropped_for_being_close_to_a_better_answer(path: Path) -> None:
    sky = engine.open(path)
    vector = np.asarray(sky.vectors("image")[0], np.float32)
    found = search.near(sky, vector, "image", k=N, radius=5)
    assert found.dropped == 1 and len({0, 1} & set(found.rows)) == 1
    assert len(found) == N - 1


def test_ones_own_other_vector_counts_only_if_all_are_kept(path: Path) -> None:
    sky = engine.open(path)
    every = sky.near("o20", "image", "spectrum", k=N, radius=None)
    assert 20 in every.rows and every.dropped == 0
    assert len(every) == N - 1, "only the one without a spectrum is missing"
    some = sky.near("o20", "image", "spectrum", k=N)
    assert 20 not in some.rows and 7 not in some.rows
    assert some.dropped == 2 and len(some) == N - 3  # itself, and one of the two that are 2" apart; one has no spectrum


def test_more_are_asked_for_until_k_are_left(tmp_path: Path) -> None:
    """Fifty exposures of one object are nearest; the answers lie beyond them."""
    objects = [SkyObject(f"o{i}", SkyCoord(10.0 if i < 50 else 20.0 + i, 0.0, unit="deg")) for i in range(90)]
    Store.create(tmp_path / "b.sky").append(objects, ["f"] * 90)
    vectors = unit(90, 5)
    vectors[:50] = vectors[0]
    put(tmp_path / "b.sky", "image", vectors)
    found = engine.open(tmp_path / "b.sky").near("o0", "image", "image", k=10)
    assert len(found) == 10 and found.dropped == 50 and min(found.rows) >= 50


def test_bad_questions_are_one_sentence(path: Path) -> None:
    sky = engine.open(path)
    with pytest.raises(ValueError, match="o7 has no spectrum vector"):
        sky.near("o7", "spectrum", "image")
    with pytest.raises(ValueError, match="at least one neighbour"):
        sky.near("o0", k=0)
    with pytest.raises(KeyError, match=r"no space 'xray' in .*image, spectrum"):
        sky.near("o0", among="xray")
    with pytest.raises(ValueError, match="16 dimensions, the query has shape"):
        search.near(sky, np.zeros(3, np.float32), "image", 3)


def clusters(rows: int, seed: int = 0, dim: int = 32) -> np.ndarray:
    random = np.random.default_rng(seed)
    centres = random.normal(size=(60, dim))
    vectors = centres[random.integers(0, 60, rows)] + 0.5 * random.normal(size=(rows, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16)


def test_inverted_file_finds_what_brute_force_finds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(search, "EXACT", 4000)
    vectors = clusters(12_000)
    vectors[17] = np.nan
    index = Index.build(vectors)
    assert index.kind == "ivf" and len(index) == 11_999 and index.rows == 12_000
    rows, similarity = index.search(vectors[:50][np.arange(50) != 17].astype(np.float32), 10)
    truth = np.asarray(vectors, np.float32) @ np.asarray(vectors[:50][np.arange(50) != 17], np.float32).T
    best = np.argsort(-np.nan_to_num(truth, nan=-9), axis=0)[:10].T
    recall = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(rows, best, strict=True)])
    assert recall >= 0.95
    assert (np.diff(similarity, axis=1) <= 1e-6).all()


def test_a_large_sky_with_few_vectors_has_an_exact_index(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "EXACT", 300)
    for known in (0, 3):
        vectors = np.full((N, DIM), np.nan)
        vectors[7 : 7 + known] = unit(known, 1)
        index = Index.build(vectors)
        assert (index.kind, len(index), index.rows) == ("exact", known, N)
        list(build_and_save(path, "image", put(path, "image", vectors)))
        assert json.loads((path / "index" / "image.json").read_text())["kind"] == "exact"


def test_an_inverted_file_is_laid_out_by_the_vectors_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "EXACT", 4000)
    monkeypatch.setattr(search, "TRAINING", 2)
    vectors = np.full((12_000, DIM), np.nan, np.float16)
    vectors[7_000:] = unit(5_000, 1)
    index = Index.build(vectors)
    assert (index.kind, index.faiss.nlist, len(index)) == ("ivf", 256, 5_000)


def test_a_saved_index_is_used_grows_and_is_left_alone_when_up_to_date(path: Path) -> None:
    embeddings = Embeddings.open(path / "embeddings" / "image")
    assert [s.fraction for s in build_and_save(path, "image", embeddings)][-1] == 1.0
    stamp = (path / "index" / "image.faiss").stat().st_mtime_ns
    assert "up to date" in [s.note for s in build_and_save(path, "image", embeddings)][-1]
    assert (path / "index" / "image.faiss").stat().st_mtime_ns == stamp
    late = unit(3, 8)
    embeddings.append(late)
    opened = Index.open(path, "image", embeddings)
    assert opened.rows == N + 3
    assert opened.search(late, 1)[0][:, 0].tolist() == [N, N + 1, N + 2]
    list(build_and_save(path, "image", embeddings))
    assert json.loads((path / "index" / "image.json").read_text())["rows"] == N + 3


def test_an_exact_index_becomes_an_inverted_file_when_the_sky_has_grown(
        path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    embeddings = Embeddings.open(path / "embeddings" / "image")
    list(build_and_save(path, "image", embeddings))
    monkeypatch.setattr(search, "EXACT", 300)
    list(build_and_save(path, "image", embeddings))
    manifest = json.loads((path / "index" / "image.json").read_text())
    assert manifest["kind"] == "ivf" and manifest["rows"] == N


def test_foreign_stale_and_damaged_index_files_never_reach_faiss(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import faiss

    embeddings = Embeddings.open(path / "embeddings" / "image")
    list(build_and_save(path, "image", embeddings))
    file, manifest = path / "index" / "image.faiss", path / "index" / "image.json"
    good, about = file.read_bytes(), json.loads(manifest.read_text())
    opened: list[str] = []
    read = faiss.read_index
    monkeypatch.setattr(faiss, "read_index", lambda name: opened.append(name) or read(name))
    flipped = bytearray(good)
    flipped[len(good) // 2] ^= 1
    cases = [(bytes(flipped), about), (good[:-9], about), (good, {**about, "vectors": "b" * 64}),
             (good, {**about, "format": 99}), (good, {**about, "rows": N + 1}), (b"", about),
             (good, {**about, "dim": 4}), (good, {})]
    query = np.asarray(embeddings.vectors[:1], np.float32)
    for data, said in cases:
        file.write_bytes(data)
        manifest.write_text(json.dumps(said))
        index = Index.open(path, "image", embeddings)
        assert index.search(query, 1)[0][0, 0] in (0, 1) and index.rows == N
    manifest.write_text("[")
    assert len(Index.open(path, "image", embeddings)) == N
    assert not opened
    file.write_bytes(good)
    manifest.write_text(json.dumps(about))
    assert len(Index.open(path, "image", embeddings)) == N and len(opened) == 1


def test_a_sky_that_is_open_takes_in_new_vectors_and_another_model(path: Path) -> None:
    sky = engine.open(path)
    assert sky.near("o9", "image", "image", k=3).rows
    new = unit(N, 77)
    put(path, "image", new, checksum="c" * 64)
    assert sky.refresh()
    found = sky.near("o9", "image", "image", k=5, radius=None)
    assert list(found.rows) == brute(new[9].astype(np.float64), new, {9})[:5]


def test_regression_is_that_of_scikit_learn() -> None:
    random = np.random.default_rng(3)
    x = random.normal(size=(1500, 5)) * [1, 10, 100, 0.1, 1]
    y = np.sin(x[:, 0]) + x[:, 1] / 10
    known, asked = x[:1200], x[1200:]
    mean, scatter = known.mean(0), known.std(0)
    peer = KNeighborsRegressor(16, weights="distance").fit((known - mean) / scatter, y[:1200])
    np.testing.assert_allclose(regress(known, y[:1200], asked, k=16), peer.predict((asked - mean) / scatter), rtol=1e-6)


def test_best_k_is_small_where_there_is_no_noise_and_large_where_there_is_only_noise() -> None:
    random = np.random.default_rng(4)
    x = random.uniform(size=(2000, 2))
    assert best_k(x, x[:, 0]) <= 16
    assert best_k(x, random.normal(size=2000)) >= 64


def test_split_keeps_pixels_whole(tmp_path: Path) -> None:
    from astropy_healpix import HEALPix

    random = np.random.default_rng(0)
    ra, dec = random.uniform(0, 20, 3000), random.uniform(-10, 10, 3000)
    objects = [SkyObject(str(i), SkyCoord(a, d, unit="deg")) for i, (a, d) in enumerate(zip(ra, dec, strict=True))]
    Store.create(tmp_path / "c.sky").append([*objects, SkyObject("nowhere")], ["f"] * 3001)
    sky = engine.open(tmp_path / "c.sky")
    test = split(sky, 0.3, seed=1)
    pixel = HEALPix(64, order="nested").lonlat_to_healpix(SkyCoord(ra, dec, unit="deg").ra, SkyCoord(ra, dec, unit="deg").dec)
    for p in np.unique(pixel):
        assert len(set(test[:3000][pixel == p])) == 1
    assert test.dtype == bool and 0.2 < test.mean() < 0.4 and not test[3000]
    np.testing.assert_array_equal(test, split(sky, 0.3, seed=1))
    assert (test != split(sky, 0.3, seed=2)).any()
