"""Points of a map sorted along a Morton curve: counts, means, taps and lassos without a scan.

The square that holds all points is cut into 4^L cells; the points are stored in the order in which the Z-shaped curve
(Morton 1966) visits the cells, so that the points of any cell of any coarser level are one slice. `Extent` is that
square, `ZIndex` the sorted points, `Kept` a choice among them. Arrays "in row order" have one entry per row of the
sky; arrays "in sorted order" one per placed point. Rows whose place is NaN are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

CODE_BITS = 16  # of each coordinate: codes are 32 bits, level 16 is the finest grid
MARGIN = 1.08  # the square is larger than the points, so that the glow around them fades before its rim
# More points want a finer grid: 9 is what one 512-pixel tile of the whole map needs, 12 costs 90 MB a pyramid.
LEVEL_STEPS = (300_000, 4_000_000, 40_000_000)
LASSO_LEVEL = 8


@dataclass(frozen=True)
class Extent:
    """A square of the map: its lower left corner and the length of its side, in map units."""

    x0: float
    y0: float
    side: float

    @classmethod
    def around(cls, xy: NDArray[Any]) -> Extent:
        """The smallest square around finite points (n, 2), with a margin; the unit square if there is none."""
        if len(xy) == 0:
            return cls(0.0, 0.0, 1.0)
        low, high = xy.min(axis=0).astype(float), xy.max(axis=0).astype(float)
        side = float(np.max(high - low)) * MARGIN or 1.0
        # float32 positions: a square thinner than their rounding would put points outside of it
        side = max(side, 1e-5 * float(np.max(np.abs(np.concatenate([low, high])))), 1e-30)
        centre = (low + high) / 2
        return cls(float(centre[0] - side / 2), float(centre[1] - side / 2), side)


def _spread(values: NDArray[Any]) -> NDArray[np.uint32]:
    """Bits of 16-bit numbers moved apart: abcd -> 0a0b0c0d."""
    v = values.astype(np.uint32)
    for shift, mask in ((8, 0x00FF00FF), (4, 0x0F0F0F0F), (2, 0x33333333), (1, 0x55555555)):
        v = (v | (v << np.uint32(shift))) & np.uint32(mask)
    return v


def morton(x: ArrayLike, y: ArrayLike) -> NDArray[np.uint32]:
    """Morton code of cell column x and row y (each below 65,536): x in the even bits, y in the odd ones."""
    return _spread(np.asarray(x)) | (_spread(np.asarray(y)) << np.uint32(1))


@njit(cache=True, nogil=True)
def _argsort(codes):
    """Stable order of uint32 codes by radix (three passes of 11 bits) -> (sorted codes, order)."""
    n = codes.size
    keys, order = codes.copy(), np.arange(n).astype(np.uint32)
    keys2, order2 = np.empty_like(keys), np.empty_like(order)
    for step in range(3):
        shift = np.uint32(11 * step)
        start = np.zeros(2049, np.int64)
        for i in range(n):
            start[np.int64((keys[i] >> shift) & np.uint32(2047)) + 1] += 1
        for k in range(2048):
            start[k + 1] += start[k]
        for i in range(n):
            b = np.int64((keys[i] >> shift) & np.uint32(2047))
            keys2[start[b]] = keys[i]
            order2[start[b]] = order[i]
            start[b] += 1
        keys, keys2, order, order2 = keys2, keys, order2, order
    return keys, order


@njit(cache=True, nogil=True)
def _cell(m):
    """Column and row of the cell with Morton code m (int64)."""
    x, y = np.int64(0), np.int64(0)
    for bit in range(CODE_BITS):
        x |= ((m >> (2 * bit)) & 1) << bit
        y |= ((m >> (2 * bit + 1)) & 1) << bit
    return x, y


@njit(cache=True, nogil=True)
def _code(x, y):
    """Morton code of a cell (the inverse of `_cell`), for use inside kernels."""
    m = np.int64(0)
    for bit in range(CODE_BITS):
        m |= ((x >> bit) & 1) << (2 * bit)
        m |= ((y >> bit) & 1) << (2 * bit + 1)
    return m


@njit(cache=True, nogil=True)
def _nearest(xy, rows, offsets, keep, pyramid, level, x0, y0, side, x, y):
    """Sorted position of the kept point nearest to (x, y), the lowest row among equals; -1 if none is kept.

    Descends the quadtree, nearer children first, and skips cells that hold no kept point or lie too far away.
    """
    best, best_distance = np.int64(-1), np.inf
    stack_cell = np.empty(4 * (level + 1) + 4, np.int64)
    stack_level = np.empty_like(stack_cell)
    stack_distance = np.empty(stack_cell.size, np.float64)
    stack_cell[0], stack_level[0], stack_distance[0] = 0, 0, 0.0
    top = 1
    child, child_distance = np.empty(4, np.int64), np.empty(4, np.float64)
    while top > 0:
        top -= 1
        m, at = stack_cell[top], stack_level[top]
        if stack_distance[top] > best_distance:
            continue
        if at == level:
            for i in range(np.int64(offsets[m]), np.int64(offsets[m + 1])):
                if keep[i]:
                    d = (np.float64(xy[i, 0]) - x) ** 2 + (np.float64(xy[i, 1]) - y) ** 2
                    if d < best_distance or (d == best_distance and rows[i] < rows[best]):
                        best, best_distance = np.int64(i), d
            continue
        first = ((np.int64(1) << (2 * (at + 1))) - 1) // 3
        size = side / (np.int64(1) << (at + 1))
        slack = 1e-9 * side  # positions are floats: a point may stand a rounding error outside of its cell
        for k in range(4):
            child[k] = 4 * m + k
            column, row = _cell(child[k])
            left, low = x0 + column * size - slack, y0 + row * size - slack
            dx = max(left - x, x - left - size - 2 * slack, 0.0)
            dy = max(low - y, y - low - size - 2 * slack, 0.0)
            child_distance[k] = dx * dx + dy * dy if pyramid[first + child[k]] > 0 else np.inf
        order = np.argsort(-child_distance)
        for k in order:
            if child_distance[k] <= best_distance and child_distance[k] != np.inf:
                stack_cell[top], stack_level[top], stack_distance[top] = child[k], at + 1, child_distance[k]
                top += 1
    return best


@njit(cache=True, nogil=True)
def _window(xy, offsets, level, grid, x0, y0, side, xa, xb, ya, yb, out):
    """Points in xa <= x <= xb, ya <= y <= yb; as many as fit go to `out`. Returns how many there are.

    grid: the level (<= `level`) whose cells are walked; cells wholly inside are not tested point by point.
    """
    cells = np.int64(1) << grid
    size = side / cells
    ia, ib = np.int64(max(np.floor((xa - x0) / size), 0)), np.int64(min(np.floor((xb - x0) / size), cells - 1))
    ja, jb = np.int64(max(np.floor((ya - y0) / size), 0)), np.int64(min(np.floor((yb - y0) / size), cells - 1))
    down = 2 * (level - grid)
    found = np.int64(0)
    for j in range(ja, jb + 1):
        for i in range(ia, ib + 1):
            m = _code(i, j)
            start, stop = np.int64(offsets[m << down]), np.int64(offsets[(m + 1) << down])
            if start == stop:
                continue
            inside = ia < i < ib and ja < j < jb
            if inside and found >= out.size:
                found += stop - start
                continue
            for p in range(start, stop):
                if inside or (xa <= xy[p, 0] <= xb and ya <= xy[p, 1] <= yb):
                    if found < out.size:
                        out[found] = p
                    found += 1
    return found


@njit(cache=True, nogil=True)
def _within(px, py, x, y):
    """Even-odd rule: is (x, y) inside the polygon with vertices px, py?"""
    inside = False
    j = px.size - 1
    for i in range(px.size):
        if (py[i] > y) != (py[j] > y) and x < (px[j] - px[i]) * (y - py[i]) / (py[j] - py[i]) + px[i]:
            inside = not inside
        j = i
    return inside


@njit(cache=True, nogil=True)
def _border(px, py, cells, x0, y0, size):
    """True for each cell (row, column) that an edge of the polygon may cross, with a hair's breadth of slack."""
    border = np.zeros((cells, cells), np.bool_)
    slack = 1e-7 * size * cells
    j = px.size - 1
    for i in range(px.size):
        xa, ya, xb, yb = px[j], py[j], px[i], py[i]
        j = i
        if ya > yb:
            xa, ya, xb, yb = xb, yb, xa, ya
        first = max(np.floor((ya - slack - y0) / size), 0)
        last = min(np.floor((yb + slack - y0) / size), cells - 1)
        for row in range(np.int64(first), np.int64(last) + 1):
            low, high = max(y0 + row * size - slack, ya), min(y0 + (row + 1) * size + slack, yb)
            u, v = xa, xb
            if yb > ya:
                u = xa + (xb - xa) * min(max((low - ya) / (yb - ya), 0.0), 1.0)
                v = xa + (xb - xa) * min(max((high - ya) / (yb - ya), 0.0), 1.0)
            left = max(np.floor((min(u, v) - slack - x0) / size), 0)
            right = min(np.floor((max(u, v) + slack - x0) / size), cells - 1)
            for column in range(np.int64(left), np.int64(right) + 1):
                border[row, column] = True
    return border


@njit(cache=True, nogil=True)
def _lasso(xy, offsets, level, grid, x0, y0, side, px, py, mask):
    """Set mask (sorted order) for the points inside the polygon; only points in border cells are tested one by one."""
    cells = np.int64(1) << grid
    size = side / cells
    down = 2 * (level - grid)
    border = _border(px, py, cells, x0, y0, size)
    for row in range(cells):
        known, inside = False, False  # between two border cells the answer does not change
        for column in range(cells):
            m = _code(np.int64(column), np.int64(row))
            start, stop = np.int64(offsets[m << down]), np.int64(offsets[(m + 1) << down])
            if border[row, column]:
                known = False
                for p in range(start, stop):
                    mask[p] = _within(px, py, np.float64(xy[p, 0]), np.float64(xy[p, 1]))
                continue
            if not known:
                inside = _within(px, py, x0 + (column + 0.5) * size, y0 + (row + 0.5) * size)
                known = True
            if inside:
                for p in range(start, stop):
                    mask[p] = True


def level_start(level: int) -> int:
    """Where a level begins in a flat pyramid: levels 0, 1, 2 ... with 1, 4, 16 ... cells follow each other."""
    return ((1 << (2 * level)) - 1) // 3


def pyramid_of(cells: NDArray[Any], level: int) -> NDArray[Any]:
    """Sums over all coarser levels of a quantity per cell of `level` (Morton order), as one flat array."""
    flat = np.empty(level_start(level + 1), cells.dtype)
    for at in range(level, -1, -1):
        flat[level_start(at):level_start(at + 1)] = cells
        if at:
            cells = cells.reshape(-1, 4).sum(axis=1, dtype=cells.dtype)
    return flat


@dataclass(frozen=True)
class Kept:
    """A choice among the points: `mask` (m,) in sorted order, and how many are kept in every cell of every level."""

    mask: NDArray[np.bool_]
    pyramid: NDArray[np.uint32]


@dataclass(frozen=True)
class ZIndex:
    """The placed points in the order of the curve.

    xy: (m, 2) float32 sorted positions; rows: (m,) uint32, the row of each; codes: (m,) uint32 Morton codes;
    offsets: (4^level + 1,) uint32, where each cell begins; total: rows of the sky, unplaced ones included.
    """

    extent: Extent
    level: int
    total: int
    xy: NDArray[np.float32]
    rows: NDArray[np.uint32]
    codes: NDArray[np.uint32]
    offsets: NDArray[np.uint32]

    @classmethod
    def build(cls, xy: ArrayLike) -> ZIndex:
        """Sort positions (n, 2); rows with a NaN are not placed. Raises ValueError for another shape."""
        points = np.asarray(xy, dtype=np.float32)
        if points.ndim != 2 or points.shape[1] != 2:
            raise ValueError(f"a map needs positions of shape (n, 2), got {points.shape}")
        placed = np.isfinite(points).all(axis=1)
        rows = np.arange(len(points), dtype=np.uint32)
        if not placed.all():
            rows, points = rows[placed], points[placed]
        extent = Extent.around(points)
        scale = (1 << CODE_BITS) / extent.side
        column = np.clip((points[:, 0].astype(float) - extent.x0) * scale, 0, 65535).astype(np.uint32)
        line = np.clip((points[:, 1].astype(float) - extent.y0) * scale, 0, 65535).astype(np.uint32)
        codes, order = _argsort(morton(column, line))
        level = 9 + int(np.searchsorted(LEVEL_STEPS, len(points), side="right"))
        return cls(extent, level, placed.size, points[order], rows[order], codes, _offsets(codes, level))

    @cached_property
    def box(self) -> tuple[float, float, float, float]:
        """x0, x1, y0, y1 of the points; the extent's if there are none."""
        if not len(self.xy):
            e = self.extent
            return e.x0, e.x0 + e.side, e.y0, e.y0 + e.side
        (x0, y0), (x1, y1) = self.xy.min(axis=0).tolist(), self.xy.max(axis=0).tolist()
        return x0, x1, y0, y1

    def __len__(self) -> int:
        return len(self.rows)

    @cached_property
    def counts(self) -> NDArray[np.uint32]:
        """Points in each cell of each level, one flat pyramid (see `level_start`)."""
        return pyramid_of(np.diff(self.offsets).astype(np.uint32), self.level)

    @cached_property
    def everything(self) -> Kept:
        """No filter."""
        return Kept(np.ones(len(self), bool), self.counts)

    def sums(self, values: NDArray[Any], dtype: Any) -> NDArray[Any]:
        """Sum of a quantity (m,) in sorted order over each cell of each level, one flat pyramid."""
        cells = np.zeros(len(self.offsets) - 1, dtype)
        if len(self):
            occupied = np.flatnonzero(np.diff(self.offsets))
            cells[occupied] = np.add.reduceat(values, self.offsets[:-1][occupied].astype(np.int64), dtype=dtype)
        return pyramid_of(cells, self.level)

    def keep(self, mask: NDArray[np.bool_]) -> Kept:
        """The points whose row is True in mask (total,), in row order."""
        if mask.shape != (self.total,):
            raise ValueError(f"a filter needs one entry for each of the {self.total} rows, got shape {mask.shape}")
        kept = np.ascontiguousarray(mask[self.rows], dtype=bool)
        return Kept(kept, self.sums(kept, np.uint32))

    def tap(self, x: float, y: float, kept: Kept | None = None) -> int | None:
        """Row of the point nearest to (x, y) among the kept ones, exactly; None if there is none."""
        kept = kept or self.everything
        e = self.extent
        at = _nearest(self.xy, self.rows, self.offsets, kept.mask, kept.pyramid, self.level, e.x0, e.y0, e.side,
                      float(x), float(y))
        return None if at < 0 else int(self.rows[at])

    def lasso(self, polygon: Sequence[Sequence[float]] | NDArray[Any]) -> NDArray[np.bool_]:
        """Which rows (total,) lie inside a closed polygon (k, 2) by the even-odd rule, exactly."""
        corners = np.asarray(polygon, dtype=np.float64)
        if corners.ndim != 2 or corners.shape[1] != 2 or not np.isfinite(corners).all():
            raise ValueError(f"a lasso needs finite corners of shape (k, 2), got {corners.shape}")
        mask = np.zeros(self.total, bool)
        if len(corners) < 3 or not len(self):
            return mask
        inside = np.zeros(len(self), bool)
        e = self.extent
        _lasso(self.xy, self.offsets, self.level, min(self.level, LASSO_LEVEL), e.x0, e.y0, e.side,
               np.ascontiguousarray(corners[:, 0]), np.ascontiguousarray(corners[:, 1]), inside)
        mask[self.rows[inside]] = True
        return mask

    def positions_in(self, x0: float, x1: float, y0: float, y1: float) -> NDArray[np.int64]:
        """Sorted positions of the points in a rectangle."""
        out = np.empty(self.count(x0, x1, y0, y1), np.int64)
        self._walk(x0, x1, y0, y1, out)
        return out

    def count(self, x0: float, x1: float, y0: float, y1: float) -> int:
        """How many points lie in a rectangle."""
        return self._walk(x0, x1, y0, y1, np.empty(0, np.int64))

    def _walk(self, x0: float, x1: float, y0: float, y1: float, out: NDArray[np.int64]) -> int:
        e = self.extent
        if not (x1 >= x0 and y1 >= y0 and len(self)):
            return 0
        x0, x1, y0, y1 = float(x0), float(x1), float(y0), float(y1)  # one compiled version of the kernel, not many
        share = max(x1 - x0, y1 - y0) / e.side  # walk about 32 x 32 cells, however far we have zoomed in
        grid = min(self.level, max(0, int(5 - math.log2(max(share, 1e-9)))))
        return int(_window(self.xy, self.offsets, self.level, grid, e.x0, e.y0, e.side, x0, x1, y0, y1, out))


def _offsets(codes: NDArray[np.uint32], level: int) -> NDArray[np.uint32]:
    """Where each of the 4^level cells begins in the sorted codes, and their end."""
    cells = np.bincount(codes >> np.uint32(2 * (CODE_BITS - level)), minlength=1 << (2 * level))
    return np.concatenate([[0], np.cumsum(cells)]).astype(np.uint32)


def warm_up() -> None:
    """Compile (or load from the cache) every kernel, so that the first gesture does not wait for it."""
    index = ZIndex.build(np.array([[0.0, 0.0], [1.0, 1.0], [0.3, 0.7]]))
    index.tap(0.2, 0.2)
    index.lasso([(0, 0), (1, 0), (0, 1)])
    index.positions_in(0, 1, 0, 1)
