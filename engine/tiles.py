"""A map tile as PNG, drawn on demand from the sorted index: density, mean of a number, or the commonest class.

A tile (z, x, y) is one of the 2^z x 2^z squares of the index's extent, y counted from the BOTTOM as in the Tile Map
Service; its picture has 512 x 512 pixels, row 0 on top, one palette byte each, opaque. Brightness follows the rank of
a pixel's count among the occupied pixels of the whole zoom level (histogram equalisation), not of the tile, so that
neighbouring tiles meet without a seam. Far in, points become discs, so that a sparse map is no dust.
"""

from __future__ import annotations

import struct
import zlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, cached_property
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from engine import palettes
from engine.zorder import CODE_BITS, Kept, ZIndex, level_start, morton

PIXELS = 512
PIXEL_BITS = 9
MAX_ZOOM = 14  # float32 positions carry no more
GLOW_STEPS, GREY_STEPS = 32, 8  # palette: the ground, points left out, then strengths of each data colour
DATA_START = GLOW_STEPS + GREY_STEPS
DATA = 256 - DATA_START
COLOURS, STRENGTHS = 27, 8
FAINTEST = 0.5  # strength of the least crowded pixel that holds a point
COUNT_CAP = 4096
FILL = 0.30  # discs grow until they would cover this share of the occupied part of the map
LARGEST_DISC, SMALLEST_DISC = 4.5, 0.8  # radius in tile pixels (half to one screen pixel each)
GLOW_LEVEL, GLOW_SIGMA = 7, 1.4
TAIL = 3.0
LAYERS = 8  # colours of a map kept ready


@dataclass(frozen=True)
class Scale:
    """How a column becomes colour. kind: "density", "number" (between low and high, maybe logarithmic) or "class"."""

    kind: str
    low: float = 0.0
    high: float = 1.0
    log: bool = False
    classes: tuple[str, ...] = ()

    def place(self, values: NDArray[Any]) -> NDArray[np.float32]:
        """Numbers -> 0 to 1 along the colour bar, NaN where there is no value."""
        v, low, high = np.asarray(values, float), self.low, self.high
        if self.log:
            v = np.log(np.where(v > 0, v, np.nan))
            low, high = np.log(low), np.log(high)
        with np.errstate(invalid="ignore"):
            return np.clip((v - low) / (high - low), 0, 1).astype(np.float32)


def scale_of(values: NDArray[Any] | None) -> Scale:
    """The colour scale of a column: numbers from the 2nd to the 98th percentile, classes in order of first appearance.

    Numbers that are all positive and spread over more than a factor of 50 are shown by their logarithm. A tail more than
    `TAIL` times as long as the other side is cut: a few quasars must not press all galaxies into one colour.
    """
    if values is None:
        return Scale("density")
    if values.dtype.kind not in "iuf":
        return Scale("class", classes=_classes(values)[0])
    known = np.asarray(values, float)
    known = known[np.isfinite(known)]
    if not len(known):
        return Scale("number")
    low, middle, high = (float(p) for p in np.percentile(known, [2, 50, 98]))
    if low > 0 and known.min() > 0 and high / low > 50:
        return Scale("number", low, high, log=True)
    if middle > low and high > middle:
        low, high = max(low, middle - TAIL * (high - middle)), min(high, middle + TAIL * (middle - low))
    return Scale("number", low, high if high > low else low + (abs(low) or 1.0))


def _classes(values: NDArray[Any]) -> tuple[tuple[str, ...], NDArray[np.int16]]:
    """Class names in order of first appearance (so that a growing sky keeps its colours), and each row's number.

    A missing or empty name is -1; classes beyond the colours there are share the last one.
    """
    text = values.astype(str) if values.dtype.kind in "bSU" else [None if v is None or v != v else str(v) for v in values]
    coded = pa.array(text, pa.string()).dictionary_encode()
    names = coded.dictionary.to_pylist()
    classes = tuple(name for name in names if name)
    number = {name: min(i, COLOURS - 1) for i, name in enumerate(classes)}
    labels = np.array([*(number.get(name, -1) for name in names), -1], np.int16)
    return classes, labels[coded.indices.fill_null(len(names)).to_numpy(zero_copy_only=False)]


@njit(cache=True, nogil=True)
def _splat(px, py, weight, radius, out):
    """Add a disc with a soft rim for each point; px, py in pixels from the lower left corner, out row 0 = bottom."""
    reach = radius + 0.5
    height, width = out.shape
    for i in range(px.size):
        for row in range(max(0, int(np.floor(py[i] - reach))), min(height, int(np.floor(py[i] + reach)) + 1)):
            for column in range(max(0, int(np.floor(px[i] - reach))), min(width, int(np.floor(px[i] + reach)) + 1)):
                d = np.sqrt((column + 0.5 - px[i]) ** 2 + (row + 0.5 - py[i]) ** 2)
                if d < reach:
                    out[row, column] += weight[i] * min(1.0, reach - d)


@njit(cache=True, nogil=True)
def _splat_label(px, py, label, radius, out):
    """The label (>= 0) of the nearest point, in each pixel that a disc touches."""
    reach = radius + 0.5
    height, width = out.shape
    nearest = np.full(out.shape, np.float32(np.inf))
    for i in range(px.size):
        if label[i] < 0:
            continue
        for row in range(max(0, int(np.floor(py[i] - reach))), min(height, int(np.floor(py[i] + reach)) + 1)):
            for column in range(max(0, int(np.floor(px[i] - reach))), min(width, int(np.floor(px[i] + reach)) + 1)):
                d = (column + 0.5 - px[i]) ** 2 + (row + 0.5 - py[i]) ** 2
                if d < reach * reach and d < nearest[row, column]:
                    nearest[row, column] = d
                    out[row, column] = label[i]


@njit(cache=True, nogil=True)
def _commonest(codes, shift, base, label, keep, kinds, out):
    """The commonest label among the kept points of each cell; codes are sorted, so a cell is one run of them."""
    tally = np.zeros(kinds, np.int64)
    i = np.int64(0)
    while i < codes.size:
        cell = np.int64(codes[i]) >> shift
        start = i
        best, most = np.int64(-1), np.int64(0)
        while i < codes.size and (np.int64(codes[i]) >> shift) == cell:
            k = np.int64(label[i])
            if keep[i] and k >= 0:
                tally[k] += 1
                if tally[k] > most:
                    best, most = k, tally[k]
            i += 1
        for j in range(start, i):
            if label[j] >= 0:
                tally[np.int64(label[j])] = 0
        if best >= 0:
            out[cell - base] = best


@cache
def _unfold() -> NDArray[np.uint32]:
    """Morton number of each pixel of a tile, row 0 on top."""
    columns, lines = np.meshgrid(np.arange(PIXELS), np.arange(PIXELS)[::-1])
    return morton(columns, lines)


def png(indices: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """Palette bytes (height, width) with colours (256, 3) as an 8-bit palette PNG (ISO/IEC 15948)."""
    height, width = indices.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each line begins with its filter type, 0
    lines[:, 1:] = indices

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    return b"".join([b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"PLTE", palette.astype(np.uint8).tobytes()),
                     chunk(b"IDAT", zlib.compress(lines.tobytes(), 1)), chunk(b"IEND", b"")])


@cache
def blank(theme: str) -> bytes:
    """A tile of bare ground, one pixel large."""
    return png(np.zeros((1, 1), np.uint8), palettes.glow(theme, GLOW_STEPS))


@cache
def _palette(kind: str, colours: int, theme: str) -> NDArray[np.uint8]:
    """The 256 colours of a tile: ground, points left out, data (`kind` of scale with so many classes)."""
    grey = palettes.fade(palettes.rgb(palettes.GROUND_POINT[theme])[None], theme, GREY_STEPS)
    if kind == "density":
        strength = (np.arange(DATA) + 1) / DATA
        share = np.clip(strength / FAINTEST, 0, 1)[:, None]  # below the faintest: the soft rims of discs
        along = np.clip((strength - FAINTEST) / (1 - FAINTEST), 0, 1)
        ramp = palettes.density(theme, 256)[(along * 255).astype(int)]
        ground, lab = palettes.to_oklab(palettes.rgb(palettes.BACKGROUND[theme])), palettes.to_oklab(ramp)
        data = palettes.from_oklab(ground + (lab - ground) * share)
    else:
        base = palettes.numbers(theme, COLOURS) if kind == "number" else palettes.classes(colours, theme)
        data = palettes.fade(base, theme, STRENGTHS, FAINTEST + 1 / STRENGTHS)
    whole = np.zeros((256, 3), np.uint8)
    whole[:GLOW_STEPS], whole[GLOW_STEPS:DATA_START] = palettes.glow(theme, GLOW_STEPS), grey
    whole[DATA_START:DATA_START + len(data)] = data
    return whole


@dataclass(frozen=True)
class Layer:
    """A map in one colouring. Makes its tiles in either theme.

    value: (m,) float32 in sorted order, 0 to 1 and NaN where unknown (numbers); label: (m,) int16, -1 where unknown
    (classes); chosen: the points that have a value, which alone are coloured.
    """

    index: ZIndex
    scale: Scale
    chosen: Kept
    ground: Ground
    value: NDArray[np.float32] | None = None
    label: NDArray[np.int16] | None = None

    def png(self, z: int, x: int, y: int, theme: str = "dark") -> bytes:
        """The tile as PNG; beyond the map or MAX_ZOOM, and where nothing is, one pixel of ground."""
        if not (0 <= z <= MAX_ZOOM and 0 <= x < 1 << z and 0 <= y < 1 << z and len(self.index)):
            return blank(theme)
        indices = self.indices(z, x, y)
        if not indices.any():
            return blank(theme)
        return png(indices, _palette(self.scale.kind, min(len(self.scale.classes), COLOURS), theme))

    def indices(self, z: int, x: int, y: int) -> NDArray[np.uint8]:
        """Palette bytes (512, 512) of a tile."""
        radius = self.ground.disc(z)
        everything, chosen, hue = self._discs(z, x, y, radius) if radius else self._cells(z, x, y)
        out = self.ground.glow(z, x, y)
        lut = self._strength(z)
        flat, everything, chosen = out.reshape(-1), everything.reshape(-1), chosen.reshape(-1)
        left_out = np.flatnonzero((everything > 0.08) & (chosen < 0.25))
        flat[left_out] = GLOW_STEPS + np.minimum((everything[left_out] * 0.75 * GREY_STEPS), GREY_STEPS - 1)
        at = np.flatnonzero(chosen > (0.12 if radius else 0))
        weight = chosen[at]
        whole = np.minimum(weight.astype(np.int64), COUNT_CAP - 1)
        strength = lut[whole] + (weight - whole) * (lut[whole + 1] - lut[whole]) if radius else lut[whole]
        if hue is None:
            flat[at] = DATA_START + np.minimum(strength * DATA, DATA - 1)
        else:
            flat[at] = DATA_START + hue.reshape(-1)[at] * STRENGTHS + np.minimum(strength * STRENGTHS, STRENGTHS - 1)
        return out

    def _cells(self, z: int, x: int, y: int) -> tuple[Any, Any, Any]:
        """Counts of all and of the chosen points in each pixel, and the pixel's colour number: pixels are cells."""
        index, level, m = self.index, z + PIXEL_BITS, int(morton(x, y))
        shift = 2 * (CODE_BITS - level)
        span = 2 * (CODE_BITS - z)
        first = int(np.searchsorted(index.codes, np.uint32(m << span)))
        last = int(np.searchsorted(index.codes, np.uint32(((m + 1) << span) - 1), side="right"))
        base, size, part = m << (2 * PIXEL_BITS), PIXELS * PIXELS, slice(first, last)
        keep = self.chosen.mask[part]
        cell = None
        everything: NDArray[Any]
        chosen: NDArray[Any]
        if level <= index.level:
            start = level_start(level) + base
            everything, chosen = index.counts[start:start + size], self.chosen.pyramid[start:start + size]
        else:
            cell = (index.codes[part] >> np.uint32(shift)) - np.uint32(base)
            everything = np.bincount(cell, minlength=size)
            chosen = everything if keep.all() else np.bincount(cell[keep], minlength=size)
        hue = None
        if self.value is not None:
            total: NDArray[Any]
            if cell is None:
                total = self._value_sums[start:start + size]
            else:
                total = np.bincount(cell[keep], weights=self.value[part][keep], minlength=size)
            hue = np.minimum(total * COLOURS / np.maximum(chosen, 1), COLOURS - 1).astype(np.uint8)[_unfold()]
        elif self.label is not None:
            commonest = np.zeros(size, np.uint8)
            _commonest(index.codes[part], shift, base, self.label[part], keep, COLOURS, commonest)
            hue = commonest[_unfold()]
        return everything[_unfold()], chosen[_unfold()], hue

    def _discs(self, z: int, x: int, y: int, radius: float) -> tuple[Any, Any, Any]:
        """As `_cells`, for points drawn as discs of that radius in pixels; the counts are weights, soft at the rim."""
        index, e = self.index, self.index.extent
        side = e.side / (1 << z)
        left, low, margin = e.x0 + x * side, e.y0 + y * side, (radius + 1) * side / PIXELS
        at = index.positions_in(left - margin, left + side + margin, low - margin, low + side + margin)
        px, py = ((index.xy[at] - np.array([left, low])) * (PIXELS / side)).T.copy()
        keep = self.chosen.mask[at].astype(np.float32)
        everything = np.zeros((PIXELS, PIXELS), np.float32)
        _splat(px, py, np.ones(len(at), np.float32), radius, everything)
        chosen = everything
        if not keep.all():
            chosen = np.zeros_like(everything)
            _splat(px, py, keep, radius, chosen)
        hue = None
        if self.value is not None:
            total = np.zeros_like(everything)
            _splat(px, py, keep * np.nan_to_num(self.value[at]), radius, total)
            hue = np.minimum(total * COLOURS / np.maximum(chosen, 1e-6), COLOURS - 1).astype(np.uint8)[::-1]
        elif self.label is not None:
            nearest = np.zeros((PIXELS, PIXELS), np.uint8)
            _splat_label(px, py, np.where(keep > 0, self.label[at], np.int16(-1)).astype(np.int16), radius, nearest)
            hue = nearest[::-1]
        return everything[::-1], chosen[::-1], hue

    @cached_property
    def _value_sums(self) -> NDArray[np.float32]:
        assert self.value is not None
        return self.index.sums(np.where(self.chosen.mask, self.value, 0).astype(np.float32), np.float32)

    @cached_property
    def _strengths(self) -> dict[int, NDArray[np.float64]]:
        return {}

    def _strength(self, z: int) -> NDArray[np.float64]:
        """Strength 0 to 1 of a pixel by its count: the mean rank (ridit) of that count on this zoom level."""
        if z not in self._strengths:
            blur = round(np.log2(max(self.ground.disc(z) * np.sqrt(np.pi), 1)))  # a disc covers cells of a coarser level
            level = min(z + PIXEL_BITS - blur, CODE_BITS)
            if level <= self.index.level:
                counts = self.chosen.pyramid[level_start(level):level_start(level + 1)]
            else:
                codes = self.index.codes[self.chosen.mask] >> np.uint32(2 * (CODE_BITS - level))
                counts = np.diff(np.flatnonzero(np.diff(codes, prepend=-1, append=1 << 32)))
            tally = np.bincount(np.minimum(counts, COUNT_CAP), minlength=COUNT_CAP + 1).astype(float)
            tally[0] = 0
            rank = (np.cumsum(tally) - tally / 2) / max(tally.sum(), 1)
            lut = FAINTEST + (1 - FAINTEST) * rank
            lut[0] = 0
            self._strengths[z] = lut
        return self._strengths[z]


@dataclass(frozen=True)
class Ground:
    """What every layer of a map shares: how large discs are, and the soft light of crowded places."""

    index: ZIndex

    @cached_property
    def _occupied(self) -> float:
        """The share of the map's square that holds points, on a grid coarse enough for a few points a cell."""
        level = min(max(round(np.log2(max(len(self.index), 1) / 6) / 2), 1), GLOW_LEVEL)
        cells = self.index.counts[level_start(level):level_start(level + 1)]
        return max(np.count_nonzero(cells) / len(cells), 1e-9)

    def disc(self, z: int) -> float:
        """Radius of a point in pixels of zoom z; 0 where points are single pixels."""
        per_pixel = max(len(self.index), 1) / (self._occupied * (PIXELS << z) ** 2)
        radius = float(np.sqrt(FILL / (np.pi * per_pixel)))
        if z + PIXEL_BITS <= CODE_BITS and radius < SMALLEST_DISC:
            return 0.0
        return min(max(radius, SMALLEST_DISC), LARGEST_DISC)

    @cached_property
    def light(self) -> NDArray[np.float32]:
        """Smoothed crowding (128, 128) between 0 and 1, row 0 at the bottom."""
        cells = 1 << GLOW_LEVEL
        columns, lines = np.meshgrid(np.arange(cells), np.arange(cells))
        counts = self.index.counts[level_start(GLOW_LEVEL):level_start(GLOW_LEVEL + 1)][morton(columns, lines)]
        offset = np.arange(cells)[:, None] - np.arange(cells)[None]
        blur = np.exp(-0.5 * (offset / GLOW_SIGMA) ** 2)
        blur /= blur.sum(axis=1).max()
        smooth = blur @ np.sqrt(counts) @ blur.T
        top = np.percentile(smooth[smooth > 0.05 * smooth.max()], 98) if smooth.any() else 1.0
        return np.minimum(smooth / top, 1).astype(np.float32)

    def _interpolate(self, u: NDArray[Any], v: NDArray[Any]) -> tuple[Any, Any, Any, Any]:
        """Indices and weights for reading `light` at u, v in cells (bilinear between the centres of cells)."""
        last = (1 << GLOW_LEVEL) - 2
        i, j = (np.clip(np.floor(w - 0.5).astype(int), 0, last) for w in (u, v))
        return i, j, np.clip(u - 0.5 - i, 0, 1).astype(np.float32), np.clip(v - 0.5 - j, 0, 1).astype(np.float32)

    def glow(self, z: int, x: int, y: int) -> NDArray[np.uint8]:
        """Palette bytes (512, 512) of the ground of a tile, row 0 on top."""
        along = (np.arange(PIXELS) + 0.5) / PIXELS
        size = (1 << GLOW_LEVEL) / (1 << z)
        i, j, a, b = self._interpolate((x + along) * size, (y + along[::-1]) * size)
        g = self.light
        lines = g[j] * (1 - b)[:, None] + g[j + 1] * b[:, None]
        light = lines[:, i] * (1 - a) + lines[:, i + 1] * a
        return (light * (GLOW_STEPS - 0.01)).astype(np.uint8, order="C")


class Tiles:
    """The tiles of one map. column(name) -> the values of a column in row order, as `Sky.column` gives them."""

    def __init__(self, index: ZIndex, column: Callable[[str], NDArray[Any]] | None = None) -> None:
        self.index = index
        self.ground = Ground(index)
        self._column = column
        self._layers: OrderedDict[str | None, Layer] = OrderedDict()
        self._lock = Lock()

    def layer(self, colour: str | None = None) -> Layer:
        """The map coloured by a column (None: density). Raises KeyError for an unknown one, ValueError for one too short."""
        with self._lock:
            if colour in self._layers:
                self._layers.move_to_end(colour)
                return self._layers[colour]
        made = self._make(colour)
        with self._lock:
            self._layers[colour] = made
            while len(self._layers) > LAYERS:
                self._layers.popitem(last=False)
        return made

    def png(self, z: int, x: int, y: int, colour: str | None = None, theme: str = "dark") -> bytes:
        """One tile as PNG."""
        return self.layer(colour).png(z, x, y, theme)

    def _make(self, colour: str | None) -> Layer:
        if colour is None:
            return Layer(self.index, Scale("density"), self.index.everything, self.ground)
        if self._column is None:
            raise KeyError(f"this map has no columns, so it cannot be coloured by {colour!r}")
        values = np.asarray(self._column(colour))
        if len(values) < self.index.total:
            raise ValueError(f"column {colour!r} has {len(values)} values for {self.index.total} rows")
        values = values[:self.index.total]
        scale = scale_of(values)
        if scale.kind == "number":
            place = scale.place(values)
            return Layer(self.index, scale, self.index.keep(np.isfinite(place)), self.ground,
                         value=place[self.index.rows])
        label = _classes(values)[1]
        return Layer(self.index, scale, self.index.keep(label >= 0), self.ground,
                     label=label[self.index.rows])


def warm_up() -> None:
    """Compile (or load from the cache) every kernel, so that the first tile does not wait for it."""
    rng = np.random.default_rng(0)
    columns = {"number": np.array([np.nan, *range(63)]), "class": np.array(["", "a", "b", "b"] * 16)}  # some without a value
    tiles = Tiles(ZIndex.build(rng.normal(size=(64, 2))), columns.__getitem__)
    for colour in (None, *columns):
        for z in (0, 9):
            tiles.png(z, 0, 0, colour)
