"""Patch vectors: what the encoder makes of each part of an object, computed on demand and kept for a while, or stored small.

    my.sky/patches/<token key>/    `Records` of (tokens, 64) int8, and the `Reduction` that they were made with

Every modality is encoded alone, so that an object's patches do not depend on what else was observed of it. A base model makes
1.3 MB of them an object; stored, they take 54 kB.
"""

from __future__ import annotations

import shutil
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.files import NoRoom
from engine.records import MANIFEST, ROW, Records
from engine.reduction import REDUCED, Reduction
from engine.steps import Step
from engine.store import Store

if TYPE_CHECKING:
    from engine.checkpoints import OmniBundle

FITTED = 64  # objects that a reduction is fitted on
BATCH = 16
BUDGET = 256 << 20  # bytes of patch vectors kept in memory
REDUCTION = "reduction.safetensors"
KINDS = ("image", "spectrum", "coefficients")


def keys(bundle: OmniBundle) -> tuple[str, ...]:
    """The inputs that have parts: images, spectra, coefficients."""
    return tuple(key for key in bundle.measured if bundle.modalities[key].kind in KINDS)


def vectors(bundle: OmniBundle, key: str, ids: Any) -> NDArray[np.float32]:
    """Patch vectors (B, n, D) of ids (B, n)."""
    import torch

    from engine.checkpoints.align import contexts

    return contexts(bundle.quick, key, torch.as_tensor(np.asarray(ids, np.int64))).numpy()


# -- stored ------------------------------------------------------------------------------------------------------------


class Stored:
    """The stored patches of one input of a sky. Raises FileNotFoundError if there are none, ValueError if they are damaged."""

    def __init__(self, folder: Path) -> None:
        self.records = Records.open(folder)
        self.reduction = Reduction.open(folder / REDUCTION)

    def of(self, row: int) -> NDArray[np.float32] | None:
        """Coordinates (n, 64) along the reduction's basis; None if the object has none."""
        found, steps = self.records.at([row])
        return self.reduction.decode(steps[0]) if found[0] else None


def store(sky: Store, bundle: OmniBundle, inputs: Sequence[str] | None = None) -> Iterator[Step]:
    """Store the patches of all objects that have none yet; their tokens must be there (`engine.tokenized.tokenize`).

    The first Step says how many bytes it takes. Raises NoRoom if the disk has not as many.
    """
    from engine.tokenized import Tokens

    chosen = keys(bundle) if inputs is None else bundle.checked(inputs)
    tokens = Tokens.open(sky.path, bundle, chosen).records
    found = {key: opened(sky.path / "patches" / key, bundle, key, tokens[key]) for key in chosen if len(tokens[key])}
    made = {key: records for key, (records, _) in found.items()}
    rows_of = {key: tokens[key].rows for key in made}
    # A plain number would be as wide as no row is, and NumPy would make all rows as wide.
    todo = {key: rows_of[key][np.searchsorted(rows_of[key], ROW.type(done.reach)):] for key, done in made.items()}
    needed = sum(len(rows) * made[key].values[:0].itemsize * int(np.prod(made[key].shape)) for key, rows in todo.items())
    free = shutil.disk_usage(sky.path).free
    if needed > free:
        raise NoRoom(f"patches of {sky.path} need {needed / 1e9:.2f} GB, the disk has {free / 1e9:.2f} GB free; make room")
    yield Step(0.0, f"patches will take {needed / 1e6:,.1f} MB")
    total, count = max(sum(len(rows) for rows in todo.values()), 1), 0
    for key, rows in todo.items():
        reduction = found[key][1]
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            reach = int(part[-1]) + 1 if start + BATCH < len(rows) else tokens[key].reach
            made[key].append(part, reduction.encode(vectors(bundle, key, tokens[key].at(part)[1])), reach)
            count += len(part)
            yield Step(count / total, f"{key}: stored patches of {start + len(part):,} of {len(rows):,} objects")
    sizes = ", ".join(f"{len(r):,} of {key}" for key, r in made.items())
    yield Step(1.0, f"patches stored: {sizes or 'none, for the sky has no tokens'}")


def opened(folder: Path, bundle: OmniBundle, key: str, tokens: Records, **more: Any) -> tuple[Records, Reduction]:
    """The patches of a model in a folder; where there are none of it, a reduction fitted on some objects and no patches yet.

    more: what else, besides model and codec, must be as it was for them to count.
    """
    made_by = {"key": key, "model": bundle.folder.name, "checksum": bundle.checksum, "codec": tokens.manifest["codec"], **more}
    if (folder / MANIFEST).is_file() and (folder / REDUCTION).is_file():
        there = Records.open(folder)
        if all(there.manifest.get(name) == value for name, value in made_by.items()):
            return there, Reduction.open(folder / REDUCTION)
    some = np.unique(np.linspace(0, len(tokens) - 1, FITTED).astype(int))
    sample = np.concatenate([vectors(bundle, key, tokens.values[some[i : i + BATCH]]) for i in range(0, len(some), BATCH)])
    flat = sample.reshape(-1, sample.shape[-1])
    reduction = Reduction.fit(flat)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)  # first, so that old records never go with a new reduction
    reduction.save(folder / REDUCTION)  # before the records that need it
    return Records.create(folder, (tokens.shape[0], REDUCED), "|i1",
                          {**made_by, "explained": round(reduction.explained(flat), 4)}), reduction


# -- on demand ---------------------------------------------------------------------------------------------------------


class OnDemand:
    """Patch vectors by a model, computed when asked for; those asked for last are kept, in `budget` bytes. Thread-safe."""

    def __init__(self, sky: Store, bundle: OmniBundle, budget: int = BUDGET) -> None:
        self.bundle, self.budget, self.held = bundle, budget, 0
        self._store = sky
        self._kept: OrderedDict[tuple[str, int], NDArray[np.float16]] = OrderedDict()
        self._lock = threading.Lock()

    def of(self, row: int, key: str) -> NDArray[np.float16] | None:
        """(n, D); None if the object lacks the input. Raises KeyError for an unknown input."""
        self.bundle.checked([key])
        with self._lock:
            if (key, row) in self._kept:
                self._kept.move_to_end((key, row))
                return self._kept[key, row]
            ids = self._ids(row, key)
            if ids is None:
                return None
            found = vectors(self.bundle, key, ids)[0].astype(np.float16)
            self._kept[key, row] = found
            self.held += found.nbytes
            while self.held > self.budget:
                self.held -= self._kept.popitem(last=False)[1].nbytes
            return found

    def _ids(self, row: int, key: str) -> Any:
        """Ids (1, n): the stored ones, else from the object itself."""
        from engine.tokenized import stored

        records = stored(self._store.path, self.bundle, key)
        if records is not None and row < records.reach:
            found, ids = records.at([row])
            return ids if found[0] else None
        which, made = self.bundle.ids(key, [self._store.read(row)])
        return made.numpy() if which else None

