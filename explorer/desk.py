"""The desk: one opened sky and everything the page asks about it, as plain dictionaries and bytes. No Panel, no web server.

One desk serves all visitors. What takes long (opening maps, indexes, tiles) is kept; `version` changes whenever the sky
has grown, so that a browser may keep whatever it was given under a version for ever.
"""

from __future__ import annotations

import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import engine
from engine import palettes
from engine.objects import Image, SkyObject, Spectrum
from engine.sky import Sky
from engine.tiles import Tiles
from explorer import pictures, sources, spectra
from explorer.runs import Runs
from explorer.words import (
    GENERATE,
    NO_MODEL,
    PRESERVED,
    cannot_generate,
    colour_rank,
    left_out,
    map_rank,
    map_title,
    plain,
    position_of,
    pretty_unit,
    scalar_line,
    spectrum_about,
    survey_title,
    title_of,
)

HIDDEN = ("ra", "dec")
LOOK_EVERY = 0.9  # seconds between two looks at the disk
CACHE_BYTES = 200_000_000
SPARK_POINTS = 96


class Cache:
    """Bytes by key, the least recently used forgotten first."""

    def __init__(self, limit: int = CACHE_BYTES) -> None:
        self._limit, self._size = limit, 0
        self._kept: OrderedDict[Any, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Any, make: Callable[[], bytes]) -> bytes:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            if key not in self._kept:
                self._kept[key] = made
                self._size += len(made)
            while self._size > self._limit and len(self._kept) > 1:
                self._size -= len(self._kept.popitem(last=False)[1])
        return made


class Desk:
    """Answers about one sky. Raises what `engine.open` raises. `progress` is set by who is building the sky.

    model: the folder of the model to generate with; None: of the one that made the sky's vectors.
    """

    def __init__(self, path: str | Path, model: Path | None = None) -> None:
        self.path, self.model = Path(path), model
        self._runs: Runs | None = None
        self.progress: dict[str, Any] = {}
        self._sky: Sky | None = None
        self._lock = threading.RLock()
        self._looked = 0.0
        self._generation = 0
        self._first: tuple[int, int | None] | None = None  # generation, row
        self._tiles: dict[str, tuple[int, Tiles]] = {}
        self._cache = Cache()
        if (self.path / "sky.json").is_file():
            self._sky = engine.open(self.path)

    @classmethod
    def of(cls, sky: Sky) -> Desk:
        """A desk for a sky that is open already."""
        made = cls(sky.path)
        made._sky = sky
        return made

    @property
    def there(self) -> bool:
        """Whether there is a sky yet."""
        return self._sky is not None

    @property
    def sky(self) -> Sky:
        """Raises LookupError while there is no sky yet."""
        if self._sky is None:
            raise LookupError("the sky is not there yet")
        return self._sky

    # -- what there is -------------------------------------------------------------------------------------------

    def look(self) -> None:
        """Take in what was written since the last look, at most about once a second."""
        with self._lock:
            if time.monotonic() - self._looked < LOOK_EVERY:
                return
            self._looked = time.monotonic()
            if self._sky is None:
                if (self.path / "sky.json").is_file():
                    self._sky = engine.open(self.path)
                    self._generation += 1
            elif self._sky.refresh():
                self._generation += 1

    def state(self) -> dict[str, Any]:
        """What the page polls while a sky grows: version, counts, maps and how far the work is."""
        progress = self.progress  # before the look: when all is done, all is seen
        self.look()
        sky = self._sky
        maps, damaged = ([], []) if sky is None else self._maps()
        return {"version": self._generation, "objects": 0 if sky is None else len(sky), "maps": maps, "damaged": damaged,
                "progress": progress}

    def maps(self) -> list[dict[str, Any]]:
        """The whole maps there are, the one to begin with first."""
        return self._maps()[0]

    def _maps(self) -> tuple[list[dict[str, Any]], list[str]]:
        """Whole maps as `map_rank` has them, the best of the space with most vectors first; of each damaged one a sentence."""
        found, damaged = [], []
        for name in sorted(self.sky.maps, key=map_rank):
            try:
                found.append(self._about_map(name))
            except (LookupError, ValueError, TypeError, OSError) as error:
                damaged.append(left_out(name, self.path, error))
        most = {m["space"]: 0 for m in found}  # a space's maps count as one, though one is ahead while a sky grows
        for m in found:
            if m["space"] is not None:
                most[m["space"]] = max(most[m["space"]], m["placed"])
        first = max(found, key=lambda m: most[m["space"]], default=None)
        return sorted(found, key=lambda m: m is not first), damaged

    def _about_map(self, name: str) -> dict[str, Any]:
        """space: whose vectors it places; None of a map that needs none. Raises what `Map.open` raises."""
        index = self.tiles(name).index
        e = index.extent
        return {"name": name, "title": map_title(name), "x0": e.x0, "y0": e.y0, "side": e.side, "box": index.box,
                "placed": len(index), "version": self.map_version(name), "space": self.sky.map(name).manifest.get("space")}

    def start(self) -> dict[str, Any]:
        """All that a page needs to begin."""
        out = self.state()
        if self._sky is None:
            return out | {"name": self.path.stem, "columns": [], "spaces": [], "lines": spectra.LINES, "first": None,
                          "words": GENERATE}
        columns = [self.describe("density")]
        columns += [self.describe(name) for name in sorted(self.sky.columns, key=colour_rank) if name not in HIDDEN]
        if any(np.isfinite(self.sky.map(m["name"]).preserved).any() for m in out["maps"]):
            columns.append(self.describe(PRESERVED))
        return out | {"name": self.sky.name, "columns": columns, "spaces": list(self.sky.spaces), "lines": spectra.LINES,
                      "words": GENERATE,
                      "comparable": {space: self.sky.comparable(space) for space in self.sky.spaces},
                      "first": self.good_first()}

    def describe(self, column: str) -> dict[str, str]:
        kind = "number" if column in (PRESERVED, "density") else self.sky.columns[column]
        unit = "" if column in (PRESERVED, "density") else self.sky.unit(column)
        return {"name": column, "title": title_of(column), "unit": pretty_unit(unit), "kind": kind}

    def good_first(self) -> int | None:
        """An object to show first, the same one at every start; looked for again only when the sky has grown."""
        with self._lock:
            if self._first is None or self._first[0] != self._generation:
                self._first = (self._generation, self._look_for_first())
            return self._first[1]

    def _look_for_first(self) -> int | None:
        """Among the first few hundred, which are read: bright, with the most data."""
        if not len(self.sky):
            return None
        some = range(min(len(self.sky), 400))
        cells = [(len(self.sky.store.cells(i)), len(self.sky.store.cells(i, "spectrum"))) for i in some]
        score = np.array([min(i, 2) + min(s, 2) for i, s in cells], float)
        if "class" in self.sky.columns:
            score += np.char.find(self.sky.column("class")[: len(score)].astype(str), "spiral") >= 0
        for name, weight in (("mag_r", -0.8), ("shape_r", 0.2)):
            if name in self.sky.columns:
                values = self.sky.column(name)[: len(score)].astype(float)
                spread = np.nanstd(values) or 1.0
                score += weight * np.nan_to_num((values - np.nanmean(values)) / spread)
        return int(score.argmax())

    # -- the map -------------------------------------------------------------------------------------------------

    def tiles(self, name: str) -> Tiles:
        """The tiles of a map. Raises KeyError if there is no such map."""
        with self._lock:
            index = self.sky.zindex(name)
            if name not in self._tiles or self._tiles[name][1].index is not index:
                self._generation += 1
                self._tiles[name] = (self._generation, Tiles(index, lambda column: self._values(name, column)))
            return self._tiles[name][1]

    def map_version(self, name: str) -> int:
        self.tiles(name)
        return self._tiles[name][0]

    def _values(self, map_name: str, column: str) -> Any:
        """A column's values, one a row of the map."""
        chart = self.sky.map(map_name)
        if column == PRESERVED:
            return np.asarray(chart.preserved, float)
        return self.sky.column(column)

    def tile(self, name: str, version: str, colour: str, theme: str, z: int, x: int, y: int) -> bytes:
        """One tile as PNG. Raises KeyError for an unknown map or column."""
        def draw() -> bytes:
            return self.tiles(name).png(z, x, y, None if colour == "density" else colour, theme=theme)

        if theme not in palettes.BACKGROUND:
            raise KeyError(f"there is no theme {theme!r}")
        return self._cache.get(("tile", name, version, colour, theme, z, x, y), draw)

    def legend(self, name: str, colour: str, theme: str) -> dict[str, Any]:
        """What the colours mean: limits and a ramp, or classes with their colours and counts."""
        about = self.describe(colour) if colour == "density" or colour == PRESERVED or colour in self.sky.columns else None
        if about is None:
            raise KeyError(f"there is no column {colour!r}")
        layer = self.tiles(name).layer(None if colour == "density" else colour)
        scale = layer.scale
        out: dict[str, Any] = {**about, "scale": scale.kind}
        if scale.kind == "class":
            label = layer.label if layer.label is not None else np.zeros(0, np.int16)
            counts = np.bincount(label[label >= 0], minlength=len(scale.classes))
            colours = palettes.hexes(palettes.classes(min(len(scale.classes), 27), theme))
            out["classes"] = [{"name": c, "colour": colours[min(i, len(colours) - 1)], "count": int(counts[i])}
                              for i, c in enumerate(scale.classes)]
            out["unknown"] = int((label < 0).sum())
        else:
            ramp = palettes.density(theme, 32) if scale.kind == "density" else palettes.numbers(theme, 32)
            out |= {"ramp": palettes.hexes(ramp), "low": scale.low, "high": scale.high, "log": scale.log,
                    "below": bool((layer.value == 0).any()) if layer.value is not None else False,
                    "above": bool((layer.value == 1).any()) if layer.value is not None else False,
                    "unknown": 0 if layer.value is None else int(np.isnan(layer.value).sum())}
        return out

    def tap(self, name: str, x: float, y: float, radius: float) -> dict[str, Any]:
        """The row nearest to a place on the map, if it lies within `radius` map units."""
        row = self.tiles(name).index.tap(x, y)
        if row is None:
            return {"row": None}
        px, py = (float(v) for v in self.sky.map(name).xy[row])
        near = math.hypot(px - x, py - y) <= radius
        if not near:
            return {"row": None}
        return {"row": row, "id": str(self.sky.ids[row]), "x": px, "y": py, "picture": self.sharpest(row)}

    def where(self, name: str, rows: list[int]) -> list[list[float] | None]:
        """Places of rows on a map; None for those that are not placed."""
        xy = self.sky.map(name).xy
        out: list[list[float] | None] = []
        for row in rows:
            known = 0 <= row < len(xy) and bool(np.isfinite(xy[row]).all())
            out.append([float(xy[row][0]), float(xy[row][1])] if known else None)
        return out

    # -- objects -------------------------------------------------------------------------------------------------

    def card(self, row: int) -> dict[str, Any]:
        """One object, for its card. Raises LookupError if there is no such row."""
        thing = self.sky[self._row(row)]
        return {
            "row": row, "id": thing.id, "position": position_of(thing), "z": plain(thing.scalars.get("z")),
            "images": [self._image_about(row, image, i) for i, image in enumerate(thing.images)],
            "spectra": [spectrum_about(s) for s in spectra.shown(thing)],
            "curves": [spectra.light_curve(c) for c in thing.lightcurves],
            "scalars": [scalar_line(n, s) for n, s in sorted(thing.scalars.items(), key=lambda p: colour_rank(p[0]))],
            "sources": None if thing.catalog is None else len(thing.catalog),
            "history": list(dict.fromkeys([*thing.history, *(h for i in thing.images for h in i.history),
                                           *(h for s in thing.spectra for h in s.history)])),
            "generate": self._offer(row, thing),
        }

    # -- what was not measured -----------------------------------------------------------------------------------

    def _offer(self, row: int, thing: SkyObject) -> dict[str, Any]:
        """What the model can make of an object, or why nothing; and the runs of it that are done already."""
        folder = sources.model_folder(self.path, self.model)
        done = [] if self._runs is None or self._runs.model != folder else self._runs.done(row)
        return sources.offer(folder, thing) | {"done": done}

    @property
    def runs(self) -> Runs:
        """What is being generated. Raises LookupError if the model is not there, or cannot generate."""
        folder = sources.model_folder(self.path, self.model)
        if folder is None or not sources.sources_of(folder):
            raise LookupError(NO_MODEL if folder is None else cannot_generate(folder.name))
        with self._lock:
            if self._runs is not None and self._runs.model != folder:
                self._runs.close()
                self._runs = None
            if self._runs is None:
                self._runs = Runs(self.path, folder)
            return self._runs

    def generate(self, row: int, source: str, seed: int, visitor: str) -> dict[str, Any]:
        """Begin a run, or join one; see `Runs.state`. Raises LookupError if the object has no such source."""
        offered = [s["key"] for s in self._offer(row, self.sky[self._row(row)])["sources"]]
        if source not in offered:
            raise LookupError(f"object {row} has no {source} to generate from; it has {', '.join(offered) or 'nothing'}")
        return self.runs.start(row, source, seed, visitor)

    # -- pictures and spectra ------------------------------------------------------------------------------------

    def _image_about(self, row: int, image: Image, i: int) -> dict[str, Any]:
        made = pictures.picture(image)
        self._cache.get(("picture", row, i), lambda: made.png)  # asked for next
        return {"survey": image.survey or "image", "title": survey_title(image.survey), "bands": list(made.bands),
                "all_bands": list(image.bands), "scale": made.scale, "size": list(made.size), "note": made.note,
                "north": pictures.compass_angle(image)}

    def picture(self, row: int, which: int) -> bytes:
        """PNG of an object's image number `which`. Raises LookupError if it has none."""
        return self._cache.get(("picture", row, which), lambda: pictures.picture(self._image(row, which)).png)

    def _image(self, row: int, which: int) -> Image:
        if which >= len(self.sky.store.cells(self._row(row))):
            raise LookupError(f"object {row} has no image {which}")
        return self.sky.store.image(row, which)

    def spectrum(self, row: int, which: int) -> bytes:
        """An object's spectrum number `which`, packed (see `spectra.packed`). Raises LookupError if it has none."""
        return self._cache.get(("spectrum", row, which), lambda: spectra.packed(self._spectrum(row, which)))

    def _spectrum(self, row: int, which: int) -> Spectrum:
        shown = spectra.shown(self.sky[self._row(row)])
        if which >= len(shown):
            raise LookupError(f"object {row} has no spectrum {which}")
        return shown[which]

    def near(self, row: int, query: str, among: str, k: int, map_name: str | None = None) -> dict[str, Any]:
        """Neighbours of an object with all that their strip shows. A missing vector is said in "note", and "instead" names
        a space that the object has a vector in. Raises LookupError if there is no such row or map."""
        self._row(row)
        has = [space for space in self.sky.spaces if self._has_vector(space, row)]
        if among not in self.sky.spaces or query not in has or among not in self.sky.comparable(query):
            return {"row": row, "neighbours": [], "note": self._why_none(row, query, among), "dropped": 0,
                    "instead": has[0] if has else None}
        found = self.sky.near(row, query, among, k)
        places = self.where(map_name, list(found.rows)) if map_name else [None] * len(found)
        redshift = self.sky.column("z") if "z" in self.sky.columns else None
        out = []
        for (name, r, similarity), place in zip(found, places, strict=True):
            z = None if redshift is None or not np.isfinite(redshift[r]) else float(redshift[r])
            out.append({"row": r, "id": name, "similarity": round(similarity, 4), "z": z, "place": place,
                        "spark": self.spark(r), "picture": self.sharpest(r)})
        return {"row": row, "neighbours": out, "dropped": found.dropped, "note": "", "instead": None}

    def _row(self, row: int) -> int:
        """The row, if there is one; else LookupError in words for people."""
        if not 0 <= row < len(self.sky):
            raise LookupError(f"there is no object {row}; this sky has {len(self.sky):,}, from 0 on")
        return row

    def _has_vector(self, space: str, row: int) -> bool:
        vectors = self.sky.vectors(space)
        return row < len(vectors) and bool(np.isfinite(vectors[row, 0]))

    def _why_none(self, row: int, query: str, among: str) -> str:
        """Why there are no neighbours, in one sentence that names no folder of the server."""
        for space in (query, among):
            if space not in self.sky.spaces:
                return f"This sky has no {space} vectors yet."
        if among not in self.sky.comparable(query):
            return f"To this model {query} and {among} are two worlds: how alike their vectors are says nothing."
        if row >= len(self.sky.vectors(query)):
            return "This object is not embedded yet."
        cells = self.sky.store.cells(row, "spectrum" if query == "spectrum" else "image")
        if not cells:
            return f"This object has no {query}."
        return f"The {query} of this object lacks what the model looks at."

    def sharpest(self, row: int) -> int | None:
        """Number of the object's image with the finest pixels; None if it has none."""
        scales = [cell["pixel_scale"] or 1.0 for cell in self.sky.store.cells(row)]
        return scales.index(min(scales)) if scales else None

    def spark(self, row: int) -> list[int]:
        """An object's first spectrum as a sparkline; empty if it has none."""
        def draw() -> bytes:
            store = self.sky.store
            flux = store.spectrum(row)
            if flux is None:
                return b""
            ivar, mask = (store.spectrum(row, what=w) for w in ("ivar", "mask"))
            good = np.isfinite(flux)
            good &= True if ivar is None else ivar > 0
            good &= True if mask is None else ~mask
            heights = spectra.sparkline(np.nan_to_num(flux), good, SPARK_POINTS)
            return bytes(255 if h < 0 else h for h in heights)

        return [-1 if h == 255 else h for h in self._cache.get(("spark", row), draw)]

    def find(self, text: str) -> dict[str, Any]:
        """What a search text means, and the row and id it leads to."""
        found = self.sky.find(text)
        if found is None:
            return {"row": None, "id": None, "reading": "That is no id, row, name like J1000+0212, or position we can read."}
        nearest = None if found.nearest is None else self.sky.row(found.nearest)
        return {"row": found.row, "id": found.id, "reading": found.reading, "nearest": nearest}

    def surprise(self, seed: int) -> int:
        """A random object, bright ones more often."""
        random = np.random.default_rng(seed)
        n = len(self.sky)
        some = random.integers(0, n, 24)
        if "mag_r" in self.sky.columns:
            bright = self.sky.column("mag_r")[some]
            return int(some[int(np.nanargmin(bright))]) if np.isfinite(bright).any() else int(some[0])
        return int(some[0])
