"""Records of one size for some rows of a sky, memory-mapped: the tokens of a modality, the patch vectors of an image.

``values`` holds the records one after another, ``rows.u4`` the row of each, increasing; ``manifest.json`` says how many of
them count ("records"), up to which row the sky was looked at ("rows"), and what they are. Records are written first and the
manifest last, by rename: that is the commit. What an object lacks takes no space.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.files import read_json, write_json

VALUES, ROWS, MANIFEST = "values", "rows.u4", "manifest.json"
ROW = np.dtype("<u4")


class Records:
    """Open with `Records.open`, make with `Records.create`."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self.shape = tuple(manifest["shape"])
        self.dtype = np.dtype(manifest["dtype"])
        self._size = int(np.prod(self.shape)) * self.dtype.itemsize
        self._maps: tuple[NDArray[Any], NDArray[np.uint32]] | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Records:
        """Raises FileNotFoundError if there is no manifest, ValueError if it is damaged or promises more than is there."""
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise FileNotFoundError(f"{folder} holds no records")
        manifest = read_json(folder / MANIFEST)
        try:
            found = cls(folder, manifest)
            counts = found.reach, len(found)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{folder / MANIFEST} is damaged ({error!r}); remove {folder} and make it again") from error
        for name, size in ((VALUES, found._size), (ROWS, ROW.itemsize)):
            there = (folder / name).stat().st_size if (folder / name).exists() else 0
            if min(counts) < 0 or there < counts[1] * size:
                raise ValueError(f"{folder / name} is damaged: {there:,} bytes, {counts[1] * size:,} expected; "
                                 f"remove {folder} and make it again")
        return found

    @classmethod
    def create(cls, folder: str | Path, shape: Sequence[int], dtype: str, manifest: Mapping[str, Any]) -> Records:
        """Empty; what was there before is replaced. shape, dtype: of one record, as ("<u2"); manifest: what they are."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)  # first, so that old records never pass for new ones
        for name in (VALUES, ROWS):
            (folder / name).unlink(missing_ok=True)  # a new file: who has the old one mapped keeps it whole
            (folder / name).touch()
        made = cls(folder, {**manifest, "shape": list(shape), "dtype": dtype, "rows": 0, "records": 0})
        write_json(folder / MANIFEST, made.manifest)
        return made

    def __len__(self) -> int:
        return int(self.manifest["records"])

    @property
    def reach(self) -> int:
        """How many rows of the sky were looked at."""
        return int(self.manifest["rows"])

    def _mapped(self) -> tuple[NDArray[Any], NDArray[np.uint32]]:
        n = len(self)
        if self._maps is None or len(self._maps[1]) != n:
            self._maps = (np.zeros((0, *self.shape), self.dtype), np.zeros(0, ROW)) if n == 0 else (
                np.memmap(self.folder / VALUES, self.dtype, "r", shape=(n, *self.shape)),
                np.memmap(self.folder / ROWS, ROW, "r", shape=(n,)))
        return self._maps

    @property
    def values(self) -> NDArray[Any]:
        """(records, *shape), mapped, read-only."""
        return self._mapped()[0]

    @property
    def rows(self) -> NDArray[np.uint32]:
        """(records,), increasing."""
        return self._mapped()[1]

    def at(self, rows: ArrayLike) -> tuple[NDArray[np.bool_], NDArray[Any]]:
        """Which of some rows (m,) have a record, and the records of those, (k, *shape), in the order asked."""
        wanted = np.asarray(rows)
        if not len(self):
            return np.zeros(len(wanted), bool), self.values
        found, place = among(self.rows, wanted)
        return found, self.values[place[found]]

    def append(self, rows: Sequence[int] | NDArray[Any], values: ArrayLike, reach: int) -> None:
        """Add the records (k, *shape) of rows (k,), all the sky has among the rows from `self.reach` up to `reach`, in one
        commit. Raises ValueError if they do not fit."""
        at, new = np.asarray(rows, np.int64), np.asarray(values)
        if new.shape != (len(at), *self.shape):
            raise ValueError(f"records of {self.folder.name} are {self.shape} each, got {new.shape} for {len(at)} rows")
        if len(at) and (at[0] < self.reach or at[-1] >= reach or (np.diff(at) <= 0).any()):
            raise ValueError(f"rows must increase from {self.reach} on and stay below {reach}")
        stored = new.astype(self.dtype)
        if not np.array_equal(stored, new):
            raise ValueError(f"a value of {self.folder.name} does not fit into {self.dtype}")
        for name, size, content in ((VALUES, self._size, stored), (ROWS, ROW.itemsize, at.astype(ROW))):
            with (self.folder / name).open("r+b") as file:
                file.truncate(len(self) * size)  # what a killed write left
                file.seek(0, os.SEEK_END)
                file.write(np.ascontiguousarray(content).tobytes())
                file.flush()
                os.fsync(file.fileno())
        self.manifest = {**self.manifest, "rows": reach, "records": len(self) + len(at)}
        write_json(self.folder / MANIFEST, self.manifest)


def among(rows: NDArray[Any], wanted: NDArray[Any]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which of the wanted rows (m,) are among `rows`, increasing, and where; the place of one that is not means nothing."""
    # Searched for as `rows` are kept: with wider integers NumPy would make all of a mapped array as wide, at every call. What
    # does not fit wraps around to a row that is not the wanted one.
    place = np.minimum(np.searchsorted(rows, wanted.astype(rows.dtype)), len(rows) - 1)
    return rows[place] == wanted, place
