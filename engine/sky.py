"""A sky: its objects, columns, vectors and maps. The only door for notebook, command line and app (`engine.open(folder)`)."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine import positions
from engine.model_files import model_of
from engine.objects import SkyObject
from engine.store import Store

if TYPE_CHECKING:
    from engine.checkpoints import Bundle, OmniBundle
    from engine.embeddings import Embeddings
    from engine.maps import Map
    from engine.patches import OnDemand
    from engine.search import Neighbours
    from engine.steps import Step
    from engine.zorder import ZIndex

FOUND_WITHIN = 10.0  # arcsec: farther than this from what was typed, an object is not what was meant


@dataclass(frozen=True)
class Found:
    """What a search text was read as, and the object it leads to.

    id, row: None if nothing lies within 10"; reading: one line for people; separation: arcsec to the nearest object,
    None where the text was no position; nearest: the id of that nearest object, however far.
    """

    id: str | None
    reading: str
    separation: float | None = None
    row: int | None = None
    nearest: str | None = None


class Sky:
    """Raises FileNotFoundError if there is no such folder, ValueError (one sentence) if the folder is not a sky."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.store = Store(path)
        self._lock = threading.RLock()
        self._columns: dict[str, NDArray[Any]] = {}
        self._table: pa.Table | None = None
        self._lower: pa.ChunkedArray | None = None  # ids in lower case
        self._tree: positions.SkyTree | None = None
        self._embeddings: dict[str, Embeddings] = {}
        self._indexes: dict[str, Any] = {}
        self._zindexes: dict[str, tuple[Map, ZIndex]] = {}
        self._maps: dict[str, Map] = {}
        self._patches: OnDemand | None = None
        self._stamp = self._derived_stamp()

    @property
    def name(self) -> str:
        return str(self.store.info["name"])

    def __len__(self) -> int:
        return len(self.store)

    def __repr__(self) -> str:
        return f"<Sky {self.name!r}: {len(self):,} objects, spaces {list(self.spaces)}, maps {list(self.maps)}>"

    @property
    def ids(self) -> NDArray[Any]:
        """(n,) str, in order of arrival."""
        return self.store.ids

    def row(self, id: str) -> int:
        """Raises KeyError if no object is called so."""
        return self.store.row(id)

    def __getitem__(self, id: str | int) -> SkyObject:
        """The object of this id (or of this row, if a number is given). Raises KeyError or IndexError if there is none."""
        if isinstance(id, (int, np.integer)):
            return self.store.read(int(id))
        return self.store.read(self.row(id))

    def __contains__(self, id: object) -> bool:
        try:
            self.row(str(id))
        except KeyError:
            return False
        return True

    def __iter__(self) -> Iterator[SkyObject]:
        return (self.store.read(row) for row in range(len(self)))

    # -- columns -------------------------------------------------------------------------------------------------

    @property
    def table(self) -> pa.Table:
        """Every column of every row (Arrow), units in the fields' metadata; the nested ones stay in the store."""
        with self._lock:
            if self._table is None or len(self._table) != len(self):
                self._table = self.store.table()
            return self._table

    @property
    def columns(self) -> dict[str, str]:
        """The columns to colour, filter and plot by: name -> "number" or "class" (texts and flags)."""
        found = {}
        for field in self.store.schema:
            kind = _kind(field.type)
            if kind and field.name != "id" and not field.name.startswith("_") and b"error_of" not in (field.metadata or {}):
                found[field.name] = kind
        return found

    def unit(self, column: str) -> str:
        """The unit of a column as text, "" if it has none. Raises KeyError for an unknown column."""
        meta = self._field(column).metadata or {}
        return meta.get(b"unit", b"").decode()

    def _field(self, column: str) -> pa.Field:
        schema = self.store.schema
        if column not in schema.names:
            raise KeyError(f"no column {column!r} in {self.path}; there are {', '.join(self.columns)}")
        return schema.field(column)

    def column(self, name: str) -> NDArray[Any]:
        """(n,) floats with NaN where absent, or texts with "" where absent. Raises KeyError, or ValueError for vectors."""
        kind = _kind(self._field(name).type)
        if kind is None:
            raise ValueError(f"column {name!r} holds vectors, one an object; read it from sky.table")
        with self._lock:
            have = self._columns.get(name)
            done = 0 if have is None else len(have)
            if have is None or done < len(self):
                new = _values(self.store.table([name], since=done).column(name), kind)
                have = new if have is None or not done else np.concatenate([have, new])
                have.flags.writeable = False
                self._columns[name] = have
            return have

    # -- positions -----------------------------------------------------------------------------------------------

    def _positions(self) -> positions.SkyTree:
        with self._lock:
            if self._tree is None:
                self._tree = positions.SkyTree(self.column("ra"), self.column("dec"))
            return self._tree

    def within(self, ra: float, dec: float, radius: float) -> NDArray[np.int64]:
        """Rows within `radius` arcsec of a position (ICRS, degrees)."""
        return self._positions().within(ra, dec, radius)

    def find(self, text: str) -> Found | None:
        """Read what a person typed: an id, a row number, Jhhmmss+ddmmss, or two numbers (degrees or sexagesimal).

        Digits that are an id are not read as a row, since addresses name objects by their ids. None if it is none of these.
        A position with nothing within 10" is Found with id None: never a far object in silence.
        """
        text = text.strip()
        name = text if text in self else self._without_case(text)
        if name is None and text.isdecimal() and int(text) < len(self):
            row = int(text)
            return Found(str(self.ids[row]), f"row {row}: {self.ids[row]}", row=row)
        if name is not None:
            return Found(name, f"id {name}", row=self.row(name))
        try:
            position = positions.parse(text)
        except ValueError as error:
            return Found(None, str(error))
        if position is None:
            return None
        nearest = self._positions().nearest(position.ra.deg, position.dec.deg)
        spelled = positions.spell(position)
        if nearest is None:
            return Found(None, f"{spelled} · no object here has a position")
        row, separation = nearest
        id, far = str(self.ids[row]), positions.separation_text(separation)
        if separation > FOUND_WITHIN:
            return Found(None, f'{spelled} · Nothing within 10"; the nearest is {far} away.', separation, nearest=id)
        return Found(id, f"{spelled} · nearest object {far} away", separation, row, id)

    def _without_case(self, text: str) -> str | None:
        """An id that differs from the text only in upper and lower case; only looked for where that is quick."""
        if not text or len(self) > 2_000_000:
            return None
        with self._lock:
            if self._lower is None or len(self._lower) != len(self):
                self._lower = pc.utf8_lower(self.store.table(["id"]).column("id"))
            same = pc.index(self._lower, text.lower()).as_py() if len(self) else -1
        return str(self.ids[same]) if same >= 0 else None

    # -- vectors, neighbours, maps -------------------------------------------------------------------------------

    @property
    def spaces(self) -> tuple[str, ...]:
        """Names of the spaces that objects have vectors in."""
        return _folders(self.path / "embeddings")

    def embeddings(self, space: str) -> Embeddings:
        """Raises KeyError if the sky has no vectors of that space."""
        from engine.embeddings import Embeddings

        if space not in self.spaces:
            there = ", ".join(self.spaces) or "none yet; run: omnisky embed " + str(self.path)
            raise KeyError(f"no space {space!r} in {self.path} (there are: {there})")
        with self._lock:
            if space not in self._embeddings:
                self._embeddings[space] = Embeddings.open(self.path / "embeddings" / space)
            return self._embeddings[space]

    def vectors(self, space: str) -> NDArray[np.float16]:
        """(rows embedded so far, dim) float16, NaN where an object lacks the input."""
        return self.embeddings(space).vectors

    def comparable(self, space: str) -> tuple[str, ...]:
        """The spaces whose vectors may be compared with those of `space`: as its model says, of the same model only."""
        manifest = self.embeddings(space).manifest
        named = manifest.get("comparable", self.spaces)
        return tuple(s for s in self.spaces if s in named and self.embeddings(s).manifest["checksum"] == manifest["checksum"])

    def near(self, id: str | int, query: str = "image", among: str = "spectrum", k: int = 8,
             radius: float | None = 5.0) -> Neighbours:
        """The k objects whose `among` vectors are most like the object's `query` vector (cosine), best first.

        Objects within `radius` arcsec of the query or of a better answer are the same thing seen twice and are dropped
        (and counted); None keeps all, the object itself too if `among` is not `query`. Raises KeyError if a space is
        missing, ValueError if the object has no such vector or the two spaces cannot be compared.
        """
        from engine import search

        row = int(id) if isinstance(id, (int, np.integer)) else self.row(id)
        vectors = self.vectors(query)
        if among in self.spaces and among not in self.comparable(query):
            model = self.embeddings(query).manifest["model"]
            raise ValueError(f"{query} and {among} vectors of {model} lie in spaces of their own and cannot be compared")
        if row >= len(vectors) or not np.isfinite(vectors[row, 0]):
            raise ValueError(f"{self.ids[row]} has no {query} vector: it lacks the data, or is not embedded yet")
        own = row if radius is not None or query == among else None  # its spectrum may be an answer to its image
        return search.near(self, np.asarray(vectors[row], np.float32), among, k, radius=radius, row=own)

    def index(self, space: str) -> Any:
        """The search index over a space's vectors, kept in memory."""
        from engine import search

        with self._lock:
            if space not in self._indexes:
                self._indexes[space] = search.Index.open(self.path, space, self.embeddings(space))
            return self._indexes[space]

    def patches(self, id: str | int, key: str = "tok_image", model: str | Path | None = None) -> NDArray[Any]:
        """What a model makes of each part of an object: (rows, columns, d) of an image, in its pixels' order; else (n, d).

        key: a token key; without a model the stored ones, d = 64 (`omnisky embed --patches`); with the folder of one of
        AION-1's kind its full vectors, computed now and the last few kept. Raises FileNotFoundError if none are stored,
        KeyError for an unknown input, ValueError if the object lacks it or the model makes no patches.
        """
        from engine import patches
        from engine.modalities import MODALITIES

        row = int(id) if isinstance(id, (int, np.integer)) else self.row(id)
        found: NDArray[Any] | None
        if model is not None:
            found = self._model_patches(Path(model)).of(row, key)
        elif (self.path / "patches" / key).is_dir():
            found = patches.Stored(self.path / "patches" / key).of(row)
        else:
            raise FileNotFoundError(f"{self.path} has no stored patches of {key!r}; run: omnisky embed {self.path} --patches "
                                    "--model FOLDER, or name the model that shall make them now")
        if found is None:
            raise ValueError(f"{self.ids[row]} has no patches of {key}: it lacks the data")
        side = round(len(found) ** 0.5)
        return found.reshape(side, side, -1) if MODALITIES[key].kind == "image" else found

    def generate(self, which: str | int | SkyObject, target: str | Sequence[str], model: str | Path | OmniBundle | None = None,
                 **options: Any) -> Iterator[Step]:
        """What a model makes of an object that was not observed: see `engine.generation.generate`, which takes the options.

        model: one of AION-1's kind or its folder, which is read at every call; None: the one that made the sky's vectors.
        Raises ValueError for a model of another kind.
        """
        from engine import checkpoints

        if isinstance(model, checkpoints.OmniBundle):
            bundle: Bundle | OmniBundle = model
        else:
            bundle = checkpoints.load(model_of(self.path) if model is None else model)
        if not isinstance(bundle, checkpoints.OmniBundle):
            raise ValueError(f"{bundle.folder} generates nothing; give the folder of a model of AION-1's kind")
        return bundle.generate(which if isinstance(which, SkyObject) else self[which], target, **options)

    def _model_patches(self, folder: Path) -> OnDemand:
        """The patches of one model, which is kept until another is asked for."""
        from engine import checkpoints
        from engine.patches import OnDemand

        with self._lock:
            if self._patches is None or self._patches.bundle.folder != folder:
                bundle = checkpoints.load(folder)
                if not isinstance(bundle, checkpoints.OmniBundle):
                    raise ValueError(f"{folder} makes no patch vectors; give the folder of a model of AION-1's kind")
                self._patches = OnDemand(self.store, bundle)
            return self._patches

    @property
    def maps(self) -> tuple[str, ...]:
        return _folders(self.path / "maps")

    def map(self, name: str) -> Map:
        """Raises KeyError if there is no such map."""
        from engine.maps import Map

        if name not in self.maps:
            raise KeyError(f"no map {name!r} in {self.path} (there are: {', '.join(self.maps) or 'none yet'})")
        with self._lock:
            if name not in self._maps:
                self._maps[name] = Map.open(self.path / "maps" / name)
            return self._maps[name]

    def zindex(self, map_name: str) -> ZIndex:
        """The map's placed points sorted along a Morton curve (tiles, taps and lassos read it); `.rows` are the sky's."""
        from engine.zorder import ZIndex

        with self._lock:
            chart = self.map(map_name)
            if map_name not in self._zindexes or self._zindexes[map_name][0] is not chart:
                self._zindexes[map_name] = (chart, ZIndex.build(chart.xy))
            return self._zindexes[map_name][1]

    # -- growth --------------------------------------------------------------------------------------------------

    def _derived_stamp(self) -> dict[str, int]:
        """When each manifest of a space or map was last replaced."""
        manifests = [*self.path.glob("embeddings/*/manifest.json"), *self.path.glob("maps/*/manifest.json"),
                     *self.path.glob("index/*.json")]
        return {str(path.relative_to(self.path)): path.stat().st_mtime_ns for path in manifests}

    def refresh(self) -> bool:
        """Take in what other processes committed since the last look (rows, vectors, maps); True if there was anything."""
        with self._lock:
            grown = self.store.refresh()
            if grown:
                self._table = self._tree = None
            stamp = self._derived_stamp()
            changed = {key for key in stamp.keys() | self._stamp.keys() if stamp.get(key) != self._stamp.get(key)}
            self._stamp = stamp
            for key in changed:
                kind, name, *_ = Path(key).parts
                if kind == "maps":
                    self._maps.pop(name, None)
                elif kind == "embeddings":
                    self._embeddings.pop(name, None)
                    self._indexes.pop(name, None)
                else:
                    self._indexes.pop(Path(name).stem, None)
            return grown or bool(changed)


def _folders(parent: Path) -> tuple[str, ...]:
    return tuple(sorted(path.parent.name for path in parent.glob("*/manifest.json")))


def _kind(type: pa.DataType) -> str | None:
    if pa.types.is_floating(type) or pa.types.is_integer(type):
        return "number"
    return "class" if pa.types.is_string(type) or pa.types.is_boolean(type) or pa.types.is_large_string(type) else None


def _values(column: pa.ChunkedArray, kind: str) -> NDArray[Any]:
    if kind == "number":
        return column.cast(pa.float64()).to_numpy()
    if pa.types.is_boolean(column.type):
        column = pc.if_else(column, "yes", "no")
    return np.array(pc.fill_null(column, "").to_pylist(), dtype=str)
