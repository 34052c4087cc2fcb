"""Maps: PCA and UMAP keep neighbours, place newcomers, come out the same twice, and survive being saved."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.spatial import cKDTree

from engine import maps
from engine.maps import Map


def groups(n: int, seed: int = 0, dim: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors in six groups -> (vectors, group)."""
    centres = np.random.default_rng(99).normal(size=(6, dim))
    rng = np.random.default_rng(seed)
    group = rng.integers(6, size=n)
    vectors = centres[group] + 0.35 * rng.normal(size=(n, dim))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float16), group


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    made = groups(420)[0]
    made[[3, 200]] = np.nan
    return made


@pytest.fixture(scope="module")
def umap(vectors: np.ndarray) -> Map:
    return maps.fit(vectors, "umap", sample=300, about={"space": "image"})


def test_pca_is_the_projection_on_the_two_main_axes(vectors: np.ndarray) -> None:
    made = maps.fit(vectors, "pca")
    known = np.isfinite(vectors).all(axis=1)
    unit = vectors[known].astype(float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    u, s, _ = np.linalg.svd(unit - unit.mean(axis=0), full_matrices=False)
    want = u[:, :2] * s[:2]
    got = made.xy[known]
    for axis in (0, 1):
        assert abs(np.corrcoef(want[:, axis], got[:, axis])[0, 1]) > 0.9999
    assert np.var(got[:, 0]) >= np.var(got[:, 1])
    assert np.mean((got ** 2).sum(axis=1)) == pytest.approx(1, rel=1e-3)
    assert np.isnan(made.xy[[3, 200]]).all()


def test_umap_keeps_groups_apart_fitted_and_placed_alike(umap: Map) -> None:
    _, group = groups(420)
    known = np.isfinite(umap.xy).all(axis=1)
    assert known.sum() == 418 and umap.manifest["sample"] == 300 and umap.manifest["space"] == "image"
    _, near = cKDTree(umap.xy[known]).query(umap.xy[known], 6)
    same = (group[known][near[:, 1:]] == group[known][:, None]).mean()
    assert same > 0.97


def test_newcomers_land_among_their_own_group(umap: Map) -> None:
    new, group = groups(80, seed=5)
    places = umap.place(new)
    _, home = groups(420)
    known = np.isfinite(umap.xy).all(axis=1)
    _, near = cKDTree(umap.xy[known]).query(places, 5)
    assert (home[known][near] == group[:, None]).mean() > 0.97


def test_a_newcomer_between_two_groups_does_not_land_in_the_void() -> None:
    points = np.array([[[0.0, 0], [0.1, 0], [0, 0.1], [10, 10]]])
    median = maps._geometric_median(points, np.ones((1, 4)))
    assert np.hypot(*median[0]) < 0.5 < np.hypot(*points.mean(axis=1)[0])


def test_the_same_seed_gives_the_same_map(vectors: np.ndarray, umap: Map) -> None:
    again = maps.fit(vectors, "umap", sample=300)
    assert np.array_equal(again.xy, umap.xy, equal_nan=True)


def test_a_map_grows_by_placing_newcomers_and_what_lies_stays(umap: Map) -> None:
    new, _ = groups(30, seed=6)
    new[4] = np.nan
    larger = umap.grow(new)
    assert len(larger.xy) == 450 and larger.manifest["rows"] == 450 and len(larger.preserved) == 450
    assert np.array_equal(larger.xy[:420], umap.xy, equal_nan=True)
    assert np.isnan(larger.xy[424]).all() and np.isfinite(larger.xy[425:]).all()


def test_a_grown_map_fitted_again_keeps_its_shape(umap: Map) -> None:
    more, _ = groups(100, seed=8)
    old = groups(420)[0]
    everything = np.concatenate([old, more])
    grown = maps.fit(old, "umap").grow(more)
    again = maps.fit(everything, "umap", start=grown)
    moved = np.sqrt(((again.xy - grown.xy) ** 2).sum(axis=1))
    assert np.median(moved) < 0.35  # the whole map has an rms radius of 1
    assert np.corrcoef(again.xy[:, 0], grown.xy[:, 0])[0, 1] > 0.9


def test_a_saved_map_opens_alike_and_without_pickle(umap: Map, tmp_path) -> None:
    umap.save(tmp_path / "umap-image")
    again = Map.open(tmp_path / "umap-image")
    new, _ = groups(10, seed=7)
    assert again.name == "umap" and again.kind == "umap" and again.manifest["space"] == "image"
    assert np.array_equal(again.xy, umap.xy, equal_nan=True)
    assert np.array_equal(again.place(new), umap.place(new))
    assert {p.suffix for p in (tmp_path / "umap-image").iterdir()} == {".npy", ".npz", ".json"}


def test_places_beyond_the_manifest_are_not_read(umap: Map, tmp_path) -> None:
    umap.grow(groups(5, seed=1)[0]).save(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "rows": 420}))  # killed before the last rename
    assert len(Map.open(tmp_path).xy) == 420
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "rows": 999}))
    with pytest.raises(ValueError, match="425 places for 999 rows"):
        Map.open(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({**manifest, "format": 77}))
    with pytest.raises(ValueError, match="format 77"):
        Map.open(tmp_path)


def test_preserved_is_one_for_a_perfect_map_and_low_for_a_shuffled_one() -> None:
    angle = np.sort(np.random.default_rng(0).uniform(0, 3, 300))
    circle = np.c_[np.cos(angle), np.sin(angle)].astype(np.float32)
    assert maps.preserved(circle, circle).mean() > 0.99
    shuffled = np.random.default_rng(1).permutation(circle)
    assert maps.preserved(circle, shuffled).mean() < 0.2
    gaps = circle.copy()
    gaps[::3] = np.nan
    assert np.array_equal(np.isnan(maps.preserved(circle, gaps)), np.isnan(gaps[:, 0]))


@pytest.mark.parametrize("kind", ["pca", "umap"])
@pytest.mark.parametrize("n", [1, 2, 5, 12])
def test_even_a_few_vectors_have_a_map(kind: str, n: int) -> None:
    made = maps.fit(groups(n)[0], kind)
    assert made.xy.shape == (n, 2) and np.isfinite(made.xy).all()
    assert np.isfinite(made.place(groups(3, seed=4)[0])).all()


def test_equal_vectors_do_not_break_a_map() -> None:
    same = np.repeat(groups(4)[0], 20, axis=0)
    assert np.isfinite(maps.fit(same, "umap").xy).all() and np.isfinite(maps.fit(same[:5] * 0 + 1, "pca").xy).all()


def test_what_cannot_be_mapped_is_refused(umap: Map) -> None:
    with pytest.raises(ValueError, match="no finite vector"):
        maps.fit(np.full((4, 3), np.nan))
    with pytest.raises(ValueError, match="pca or umap"):
        maps.fit(np.ones((4, 3)), "tsne")
    with pytest.raises(ValueError, match="dimension 24"):
        umap.place(np.ones((2, 5)))
