"""The sorted index of a map against brute force."""

from __future__ import annotations

import numpy as np
import pytest

from engine import zorder
from engine.zorder import Extent, ZIndex, level_start, morton


@pytest.fixture(scope="module")
def cloud() -> np.ndarray:
    """Clusters, a filament, exact duplicates and rows without a place."""
    rng = np.random.default_rng(11)
    clusters = rng.normal(size=(12, 2)) * 5
    which = rng.integers(12, size=30_000)
    xy = clusters[which] + rng.normal(size=(30_000, 2)) * rng.uniform(0.01, 0.6, 12)[which, None]
    t = rng.uniform(0, 6, 2_000)
    xy = np.concatenate([xy, np.c_[t, np.sin(t) * 3]]).astype(np.float32)
    xy[100:110] = xy[50]
    xy[::97] = np.nan
    return xy


@pytest.fixture(scope="module")
def index(cloud: np.ndarray) -> ZIndex:
    return ZIndex.build(cloud)


def nearest(xy: np.ndarray, x: float, y: float, mask: np.ndarray | None = None) -> int:
    distance = ((xy.astype(float) - [x, y]) ** 2).sum(axis=1)
    distance[~np.isfinite(distance)] = np.inf
    return int(np.argmin(distance if mask is None else np.where(mask, distance, np.inf)))


def brute_lasso(xy: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    inside = np.zeros(len(xy), bool)
    x, y = xy[:, 0].astype(float), xy[:, 1].astype(float)
    for (xj, yj), (xi, yi) in zip(np.roll(polygon, 1, axis=0), polygon, strict=True):
        crosses = (yi > y) != (yj > y)
        with np.errstate(divide="ignore", invalid="ignore"):
            inside ^= crosses & (x < (xj - xi) * (y - yi) / (yj - yi) + xi)
    return inside


def test_every_placed_row_appears_once_and_the_others_are_counted(cloud: np.ndarray, index: ZIndex) -> None:
    placed = np.flatnonzero(np.isfinite(cloud[:, 0]))
    assert np.array_equal(np.sort(index.rows), placed)
    assert len(index) == len(placed) < index.total == len(cloud)
    assert np.array_equal(index.xy, cloud[index.rows])
    assert np.all(np.diff(index.codes.astype(np.int64)) >= 0)


def test_the_morton_code_interleaves_bits() -> None:
    assert morton(0b1011, 0b0110) == 0b01_10_11_01 and morton(65535, 0) == 0x55555555
    assert zorder._cell(np.int64(morton(1234, 4321))) == (1234, 4321)
    assert zorder._code(np.int64(1234), np.int64(4321)) == morton(1234, 4321)


def test_counts_of_each_level_are_those_of_a_histogram(cloud: np.ndarray, index: ZIndex) -> None:
    e = index.extent
    x, y = cloud[index.rows].T.astype(float)
    for level in (0, 1, 5, index.level):
        cells = 1 << level
        edges = np.linspace(0, e.side, cells + 1)
        want, _, _ = np.histogram2d(y - e.y0, x - e.x0, bins=[edges, edges])
        got = index.counts[level_start(level):level_start(level + 1)]
        columns, lines = np.meshgrid(np.arange(cells), np.arange(cells))
        assert np.array_equal(got[morton(columns, lines)], want)


def test_sums_and_filtered_counts_add_up(index: ZIndex) -> None:
    rng = np.random.default_rng(3)
    mask = rng.random(index.total) < 0.2
    kept = index.keep(mask)
    assert kept.pyramid[0] == mask[index.rows].sum()
    assert np.array_equal(kept.mask, mask[index.rows])
    values = rng.normal(size=len(index))
    sums = index.sums(values, np.float64)
    for level in (0, 3, index.level):
        assert sums[level_start(level):level_start(level + 1)].sum() == pytest.approx(values.sum())


@pytest.mark.parametrize("share", [1.0, 0.3, 0.001])
def test_a_tap_finds_the_nearest_kept_point(cloud: np.ndarray, index: ZIndex, share: float) -> None:
    rng = np.random.default_rng(5)
    mask = rng.random(len(cloud)) < share
    kept = index.keep(mask)
    for x, y in rng.normal(size=(60, 2)) * 12:  # many of them far outside of the map
        assert index.tap(x, y, kept) == nearest(cloud, x, y, mask)


def test_a_tap_on_equal_places_gives_the_first_row(cloud: np.ndarray, index: ZIndex) -> None:
    x, y = cloud[50].astype(float)
    assert index.tap(x, y) == 50


def test_a_tap_where_nothing_is_kept_finds_nothing(index: ZIndex) -> None:
    assert index.tap(0, 0, index.keep(np.zeros(index.total, bool))) is None
    assert ZIndex.build(np.empty((0, 2))).tap(0, 0) is None
    assert len(ZIndex.build(np.full((4, 2), np.nan))) == 0


@pytest.mark.parametrize("corners", [3, 7, 150])
def test_a_lasso_agrees_with_brute_force_on_every_point(cloud: np.ndarray, index: ZIndex, corners: int) -> None:
    rng = np.random.default_rng(corners)
    for scale in (0.3, 4.0, 30.0):
        polygon = rng.normal(size=(corners, 2)) * scale  # crosses itself: the even-odd rule decides
        assert np.array_equal(index.lasso(polygon), brute_lasso(cloud, polygon))


def test_a_lasso_along_the_cell_borders_is_exact_too(cloud: np.ndarray, index: ZIndex) -> None:
    e = index.extent
    a, b = e.x0 + e.side * 0.25, e.x0 + e.side * 0.75
    c, d = e.y0 + e.side * 0.125, e.y0 + e.side * 0.5
    polygon = np.array([[a, c], [b, c], [b, d], [a, d]])
    got = index.lasso(polygon)
    assert got.any() and np.array_equal(got, brute_lasso(cloud, polygon))


def test_positions_in_a_rectangle_are_those_of_its_points(cloud: np.ndarray, index: ZIndex) -> None:
    rng = np.random.default_rng(7)
    for _ in range(20):
        x, y, w, h = *rng.normal(size=2) * 4, *rng.exponential(2.0, size=2)
        inside = (cloud[:, 0] >= x) & (cloud[:, 0] <= x + w) & (cloud[:, 1] >= y) & (cloud[:, 1] <= y + h)
        assert np.array_equal(np.sort(index.rows[index.positions_in(x, x + w, y, y + h)]), np.flatnonzero(inside))
        assert index.count(x, x + w, y, y + h) == inside.sum()
    assert len(index.positions_in(5, 4, 0, 1)) == 0


def test_points_on_a_line_or_on_one_spot_still_have_a_square() -> None:
    same = ZIndex.build(np.full((20, 2), 3.5))
    assert same.extent.side > 0 and same.tap(0, 0) == 0 and same.count(3, 4, 3, 4) == 20
    line = ZIndex.build(np.c_[np.arange(10.0), np.zeros(10)])
    assert line.extent.side == pytest.approx(9 * zorder.MARGIN)
    assert Extent.around(np.empty((0, 2))).side == 1.0


def test_wrong_shapes_are_refused(index: ZIndex) -> None:
    with pytest.raises(ValueError, match="shape"):
        ZIndex.build(np.zeros((5, 3)))
    with pytest.raises(ValueError, match="one entry for each"):
        index.keep(np.ones(3, bool))
    with pytest.raises(ValueError, match="finite corners"):
        index.lasso([(0, 0), (1, np.nan), (2, 2)])
