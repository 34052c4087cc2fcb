"""The vectors of one space, a row an object: a memory-mapped float16 array and the manifest that says what they are.

``vectors.f16`` holds the numbers row after row, ``manifest.json`` how many rows count, their dimension, the model and its
checksum, and what went in. New rows are written first and the manifest last, by rename: that is the commit, and whatever
lies beyond the rows it names is the rest of a write that was killed. Objects without the input have NaN.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from engine.files import read_json, write_json

VECTORS, MANIFEST = "vectors.f16", "manifest.json"
DTYPE = np.dtype("<f2")


class Embeddings:
    """Open with `Embeddings.open`, make with `Embeddings.create`."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder, self.manifest = folder, manifest
        self._map: NDArray[np.float16] | None = None

    @classmethod
    def open(cls, folder: str | Path) -> Embeddings:
        """Raises FileNotFoundError if there is no manifest, ValueError if the vectors are fewer than it says."""
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise FileNotFoundError(f"{folder} holds no embeddings; run: omnisky embed {_sky(folder)}")
        manifest = read_json(folder / MANIFEST)
        wrong = _wrong(manifest)
        if wrong:
            raise ValueError(f"{folder / MANIFEST} is damaged ({wrong}); {_remedy(folder)}")
        found = cls(folder, manifest)
        found._check()
        return found

    @classmethod
    def create(cls, folder: str | Path, dim: int, manifest: Mapping[str, Any]) -> Embeddings:
        """An empty space; one that was there before is replaced. manifest: as `Bundle.manifest` gives it."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MANIFEST).unlink(missing_ok=True)  # first, so that old vectors never pass for new ones
        (folder / VECTORS).unlink(missing_ok=True)  # a new file: who has the old one mapped keeps it whole
        (folder / VECTORS).touch()
        made = cls(folder, {**manifest, "dim": int(dim), "rows": 0})
        write_json(folder / MANIFEST, made.manifest)
        return made

    @property
    def dim(self) -> int:
        return int(self.manifest["dim"])

    def __len__(self) -> int:
        return int(self.manifest["rows"])

    def _check(self) -> None:
        path, needed = self.folder / VECTORS, len(self) * self.dim * DTYPE.itemsize
        there = path.stat().st_size if path.exists() else 0
        if there < needed:
            raise ValueError(f"{path} is damaged: {there:,} bytes, {needed:,} expected; {_remedy(self.folder)}")

    @property
    def vectors(self) -> NDArray[np.float16]:
        """(rows, dim) float16, mapped, read-only."""
        if self._map is None or len(self._map) != len(self):
            shape = (len(self), self.dim)
            self._map = np.memmap(self.folder / VECTORS, DTYPE, "r", shape=shape) if len(self) else np.zeros(shape, DTYPE)
        return self._map

    def known(self) -> int:
        """How many rows have a vector."""
        return int(np.isfinite(self.vectors[:, 0]).sum())

    def append(self, vectors: ArrayLike) -> None:
        """Add rows (k, dim), in one commit. Raises ValueError for another dimension."""
        new = np.ascontiguousarray(vectors, DTYPE)
        if new.ndim != 2 or new.shape[1] != self.dim:
            raise ValueError(f"this space has {self.dim} dimensions, got vectors of shape {new.shape}")
        path = self.folder / VECTORS
        with path.open("r+b") as file:
            file.truncate(len(self) * self.dim * DTYPE.itemsize)  # what a killed write left
            file.seek(0, os.SEEK_END)
            file.write(new.tobytes())
            file.flush()
            os.fsync(file.fileno())
        self.say(rows=len(self) + len(new))

    def say(self, **facts: Any) -> None:
        """Write facts into the manifest, in one commit."""
        self.manifest = {**self.manifest, **facts}
        write_json(self.folder / MANIFEST, self.manifest)


def _wrong(manifest: Any) -> str:
    """What a manifest lacks or says wrongly; "" if nothing."""
    if not isinstance(manifest, dict):
        return "not an object of names and values"
    if missing := {"space", "model", "checksum", "inputs", "version", "rows", "dim"} - set(manifest):
        return f"it lacks {', '.join(sorted(missing))}"
    counts = (manifest["rows"], manifest["dim"] - 1) if isinstance(manifest["dim"], int) else (-1,)
    return "" if all(isinstance(n, int) and n >= 0 for n in counts) else "its rows or dim is no count"


def _sky(folder: Path) -> Path:
    return folder.parent.parent


def _remedy(folder: Path) -> str:
    return f"remove {folder} and run: omnisky embed {_sky(folder)}"
