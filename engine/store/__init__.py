"""A sky on disk: Parquet rows, Zarr cutouts and spectra. A batch becomes part of it by one rename, or not at all.

Each batch writes its Zarr arrays first (``pixels/00007/``) and its rows last (``rows/part-00007.parquet``, renamed into
place): that rename is the commit. Nothing is changed afterwards, so a writer killed anywhere leaves a sky that opens,
and what it left of an unfinished batch is swept away by the next writer. Rows are numbered in order of arrival.
`hats.export` writes them sorted along the sky.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from engine.files import NoRoom, commit, only_writer, read_json, sync_folder, sync_tree, write_json
from engine.objects import Image, SkyObject
from engine.store import hats, pixels, rows
from engine.store.parts import PACK, Parts

FORMAT = 1
_NOWHERE = np.iinfo(np.int64).max  # sorts behind all pixels


@dataclass(frozen=True)
class Appended:
    """What became of a batch: the numbers of its new rows, the ids left out because they were stored before, and the ids
    that had to change because another file's object has the same (old -> new)."""

    rows: range
    duplicates: tuple[str, ...] = ()
    renamed: dict[str, str] = field(default_factory=dict)


class Store:
    """A sky's rows and pixels. Raises FileNotFoundError if there is no such folder, ValueError if it is not a sky."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if not self.path.is_dir():
            raise FileNotFoundError(f"there is no folder {self.path}; make a sky with: omnisky ingest {self.path} FILES")
        if not (self.path / "sky.json").is_file():
            raise ValueError(f"{self.path} is not a sky (it holds no sky.json); make one with: omnisky ingest NAME.sky FILES")
        self.info: dict[str, Any] = read_json(self.path / "sky.json")
        if self.info.get("format") != FORMAT:
            raise ValueError(f"{self.path} has format {self.info.get('format')!r}, this version reads {FORMAT}; update Omnisky")
        self._parts = Parts(self.path / "rows")
        self._ids = np.zeros(0, dtype=str)
        self._row_of: dict[str, int] = {}
        self._known: set[tuple[str, str]] | None = None
        self._names: rows.ScalarColumns | None = None
        self._pixels = pixels.PixelReader(self.path / "pixels")
        self._cache_lock = threading.Lock()
        self._write_lock = threading.RLock()
        self._writing = False
        self._pool: ThreadPoolExecutor | None = None
        self.refresh()

    @classmethod
    def create(cls, path: str | Path, lossless: bool = False) -> Store:
        """Make an empty sky, or open the one that is there. Raises ValueError if the folder holds something else."""
        path = Path(path)
        if (path / "sky.json").is_file():
            store = cls(path)
            if lossless and not store.lossless:
                raise ValueError(f"{path} was made with rounded pixels; ingest losslessly into a new sky")
            return store
        if path.exists() and not _is_unfinished(path):
            raise ValueError(f"{path} exists and is not a sky; choose another name")
        with _sentence_if_full(path):
            (path / "rows").mkdir(parents=True, exist_ok=True)
            (path / "pixels").mkdir(exist_ok=True)
            write_json(path / "sky.json", {"name": path.name.removesuffix(".sky"), "format": FORMAT,
                                           "created": datetime.now(UTC).isoformat(timespec="seconds"), "lossless": lossless})
        return cls(path)

    # -- reading -------------------------------------------------------------------------------------------------

    @property
    def lossless(self) -> bool:
        return bool(self.info.get("lossless"))

    def __len__(self) -> int:
        return len(self._parts)

    def refresh(self) -> bool:
        """Look for batches committed since; True if there are any. Raises ValueError with the name of a damaged file."""
        if not self._parts.refresh():
            return False
        self._known = self._names = None
        return True

    @property
    def ids(self) -> NDArray[Any]:
        """All ids in order of arrival, (n,) str."""
        with self._cache_lock:
            if (done := len(self._ids)) < len(self):
                new = rows.texts(self.table(["id"], since=done).column("id"))
                self._ids = np.concatenate([self._ids, new])
            return self._ids

    def row(self, id: str) -> int:
        """Raises KeyError if no object is called so."""
        try:
            return self._row_numbers()[str(id)]
        except KeyError:
            raise KeyError(f"no object is called {id!r} in {self.path}") from None

    @property
    def schema(self) -> pa.Schema:
        """All columns that any row has (but the nested ones), with units and scalar names in the fields' metadata."""
        return self._parts.schema

    def _row_numbers(self) -> dict[str, int]:
        ids = self.ids
        if (done := len(self._row_of)) < len(ids):
            self._row_of.update({name: done + i for i, name in enumerate(ids[done:].tolist())})
        return self._row_of

    def table(self, columns: Sequence[str] | None = None, since: int = 0) -> pa.Table:
        """Columns of all rows (from row `since` on) as one Arrow table; by default all but the nested ones (`rows.NESTED`).

        A part that lacks a column has nulls there. Raises KeyError for a column that no part has.
        """
        return self._parts.table(columns, since)

    def blocks(self, schema: pa.Schema) -> Iterator[pa.Table]:
        """All rows in order, some ten thousand at a time, with the columns of `schema` (a part of `Store.schema`)."""
        return self._parts.blocks(schema)

    def read(self, row: int) -> SkyObject:
        """The object of a row, as it was put in (pixels rounded far below the noise, unless the sky is lossless)."""
        table, i = self._parts.row(row)
        images = [self._pixels.image(cell) for cell in table.column("_images")[i].as_py()]
        spectra = [self._pixels.spectrum(cell) for cell in table.column("_spectra")[i].as_py()]
        return rows.object_from(table, i, images, spectra)

    def image(self, row: int, which: int) -> Image:
        """One image of an object, without reading the rest of it. Raises IndexError if there are fewer."""
        return self._pixels.image(self.cells(row)[which])

    def cells(self, row: int, kind: str = "image") -> list[dict[str, Any]]:
        """What the row says of its images or spectra (survey, bands, unit, WCS ...), without reading pixels."""
        column = {"image": "_images", "spectrum": "_spectra"}[kind]
        table, i = self._parts.row(row, column)
        found: list[dict[str, Any]] = table.column(column)[i].as_py()
        return found

    def pixels(self, row: int, survey: str | None = None, what: str = "pixels") -> NDArray[Any] | None:
        """One object's `pixels`, `ivar`, `mask` or `psf`, (bands, ny, nx), of its first image of that survey; None if it
        has none."""
        cell = _first(self.cells(row), survey)
        return None if cell is None else self._pixels.part(cell, what)

    def spectrum(self, row: int, survey: str | None = None, what: str = "flux") -> NDArray[Any] | None:
        """One object's `flux`, `wavelength`, `ivar`, `mask` or `resolution`, (n,), of its first spectrum of that survey."""
        cell = _first(self.cells(row, "spectrum"), survey)
        return None if cell is None else self._pixels.part(cell, what)

    def images(self, rows: Sequence[int], survey: str | None = None, what: str = "pixels") -> NDArray[Any]:
        """The same of many objects, (n, bands, ny, nx); NaN (True in a mask) where one has none.

        Raises ValueError if their shapes differ, or if none has any.
        """
        return _stacked([self.pixels(r, survey, what) for r in rows], f"{what} of {survey or 'images'}")

    def spectra(self, rows: Sequence[int], survey: str | None = None, what: str = "flux") -> NDArray[Any]:
        """As `images`, of spectra: (n, wavelengths)."""
        return _stacked([self.spectrum(r, survey, what) for r in rows], f"{what} of {survey or 'spectra'}")

    @property
    def healpix_index(self) -> NDArray[np.int64]:
        """All rows sorted by _healpix_29 (those without a position last): index/healpix.npy if it covers every row."""
        saved = self.path / "index" / "healpix.npy"
        with suppress(OSError, ValueError, EOFError):  # absent or damaged: it is made of the rows again
            order = np.load(saved, mmap_mode="r", allow_pickle=False)
            if order.shape == (len(self),) and order.dtype == np.int64:
                return order
        return np.argsort(self._healpix(), kind="stable")

    def _healpix(self) -> NDArray[np.int64]:
        """Of all rows; the largest number of its type where there is no position."""
        column = self.table(["_healpix_29"]).column("_healpix_29")
        return pc.fill_null(column, _NOWHERE).to_numpy()

    def save_healpix_index(self) -> None:
        """Write the sorted index beside the rows, for all rows there are now, unless it is there."""
        order = self.healpix_index
        if isinstance(order, np.memmap):
            return
        folder = self.path / "index"
        folder.mkdir(exist_ok=True)
        temporary = folder / "healpix.npy.tmp"
        with temporary.open("wb") as file:
            np.save(file, order, allow_pickle=False)
        commit(temporary, folder / "healpix.npy")

    def export_hats(self, path: str | Path, max_rows: int = hats.MAX_ROWS) -> hats.Exported:
        """Write the rows with a position as a HATS catalogue to a new folder; see `hats.export`."""
        healpix = self._healpix()[self.healpix_index]
        with _sentence_if_full(Path(path)):
            return hats.export(self, path, healpix[: np.searchsorted(healpix, _NOWHERE)], max_rows)

    # -- writing -------------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only writer until the end of the block. Raises ValueError if another process writes to this sky."""
        with self._write_lock:
            if self._writing:
                yield
                return
            with only_writer(self.path / "rows.lock", str(self.path)):
                self._writing = True
                try:
                    self.refresh()
                    self._parts.pack()
                    yield
                finally:
                    self._writing = False

    def append(self, objects: Sequence[SkyObject], origins: Sequence[str]) -> Appended:
        """Add a batch in one atomic commit; it is there whole or not at all.

        origins: for each object the digest of the files it came from. The same id from the same origin is stored once.
        The same id from another origin is kept as "id~2". Raises ValueError for what cannot be stored, NoRoom if
        the disk is full (and stores nothing).
        """
        if len(objects) != len(origins):
            raise ValueError(f"{len(objects)} objects but {len(origins)} origins")
        with self.writing():
            new, ids, duplicates = self._sort_out(objects, origins)
            start = len(self)
            if new:
                self._write([objects[i] for i in new], ids, [origins[i] for i in new])
            renamed = {objects[i].id: name for i, name in zip(new, ids, strict=True) if objects[i].id != name}
            return Appended(range(start, len(self)), tuple(duplicates), renamed)

    def _write(self, objects: Sequence[SkyObject], ids: Sequence[str], origins: Sequence[str]) -> None:
        """Pixels first, rows last. Raises NoRoom, and leaves nothing, if the disk is full."""
        folder = self.path / "pixels" / f"{self._parts.count:05d}"
        shutil.rmtree(folder, ignore_errors=True)  # what a killed writer left
        done = self._parts.count
        with _sentence_if_full(self.path):
            try:
                folder.mkdir(parents=True)
                images, spectra = pixels.write(folder, objects, self.lossless, self._threads())
                sync_tree(folder, self._threads())
                sync_folder(folder.parent)
                self._commit(rows.rows_table(objects, ids, origins, images, spectra, self._columns()))
            except BaseException:
                self._parts.refresh()
                if self._parts.count == done:  # the rename, the commit, did not happen
                    shutil.rmtree(folder, ignore_errors=True)
                raise
        self._stored().update((o.id, origin) for o, origin in zip(objects, origins, strict=True))

    def append_table(self, table: pa.Table) -> None:
        """Commit rows that are laid out as `rows.rows_table` makes them; their pixels must lie in the sky already."""
        with self.writing(), _sentence_if_full(self.path):
            self._commit(table)
            self._known = self._names = None

    def _commit(self, table: pa.Table) -> None:
        self._parts.commit(table)
        if self._parts.count % PACK == 0:
            self._parts.pack()

    def _sort_out(self, objects: Sequence[SkyObject], origins: Sequence[str]) -> tuple[list[int], list[str], list[str]]:
        """Which objects are new, what they will be called, and the ids of those that are stored already."""
        known, taken = self._stored(), self._row_numbers()
        new, names, duplicates = [], [], []
        seen: set[tuple[str, str]] = set()
        used: set[str] = set()
        for i, (obj, origin) in enumerate(zip(objects, origins, strict=True)):
            key = (obj.id, origin)
            if key in known or key in seen:
                duplicates.append(obj.id)
                continue
            name, n = obj.id, 1
            while name in taken or name in used:
                n += 1
                name = f"{obj.id}~{n}"
            seen.add(key)
            used.add(name)
            new.append(i)
            names.append(name)
        return new, names, duplicates

    def _stored(self) -> set[tuple[str, str]]:
        """(id as delivered, origin) of every row; kept up to date while this process writes."""
        if self._known is None:
            table = self.table(["id", "_id", "_origin"])
            delivered = pc.coalesce(table.column("_id"), table.column("id")).to_pylist()
            self._known = set(zip(delivered, table.column("_origin").to_pylist(), strict=True))
        return self._known

    @property
    def origins(self) -> set[str]:
        """Digests of the files that objects came from."""
        return set(self.table(["_origin"]).column("_origin").unique().to_pylist())

    def _columns(self) -> rows.ScalarColumns:
        if self._names is None:
            self._names = rows.ScalarColumns([self.schema])
        return self._names

    def _threads(self) -> ThreadPoolExecutor:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max(2, min(8, os.cpu_count() or 2)), thread_name_prefix="store")
        return self._pool


def _is_unfinished(path: Path) -> bool:
    """Whether there is nothing in a folder but what a `Store.create` that was killed left."""
    ours = {"rows", "pixels", "sky.json.tmp"}
    return path.is_dir() and all(p.name in ours and (p.is_file() or not any(p.iterdir())) for p in path.iterdir())


@contextmanager
def _sentence_if_full(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise NoRoom(f"there is no room left to write {path} ({error.strerror}); free some and run the same again: "
                     "what was stored before is whole") from error


def _first(cells: list[dict[str, Any]], survey: str | None) -> dict[str, Any] | None:
    return next((cell for cell in cells if survey in (None, cell["survey"])), None)


def _stacked(arrays: list[NDArray[Any] | None], what: str) -> NDArray[Any]:
    first = next((a for a in arrays if a is not None), None)
    if first is None:
        raise ValueError(f"none of these objects has {what}")
    if shapes := {a.shape for a in arrays if a is not None and a.shape != first.shape}:
        raise ValueError(f"{what} differ in shape: {first.shape} and {sorted(shapes)[0]}; read them one by one")
    empty = np.full(first.shape, True if first.dtype == bool else np.nan, first.dtype)
    return np.stack([empty if a is None else a for a in arrays])
