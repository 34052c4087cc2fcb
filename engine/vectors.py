"""Vectors of a sky's objects: whose the spaces are, and what fills them, batch by batch, as `jobs.embed` asks for it.

What was committed is not made again. Whoever calls is the only embedder of the sky.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.embeddings import MANIFEST, Embeddings
from engine.files import read_json
from engine.model_files import SHIPPED
from engine.steps import Step
from engine.store import Store

if TYPE_CHECKING:
    from engine.checkpoints import Bundle, OmniBundle
    from engine.objects import SkyObject

BATCH = 128
COMMIT_EVERY = 1.0  # seconds
TOKENS_BATCH = 32  # objects whose tokens are embedded before the next note of how far it is
Vectors = dict[str, NDArray[np.float32]]  # space -> (objects, dim)


def manifests_of(store: Store, bundle: Bundle | OmniBundle, known_only: bool) -> dict[str, dict[str, Any]]:
    """Of the model's spaces and of those that were made of chosen inputs; known_only: without those that are not there yet."""
    there = {path.parent.name: read_json(path) for path in store.path.glob(f"embeddings/*/{MANIFEST}")}
    ours = {space: again for space, manifest in there.items() if (again := _again(space, manifest, bundle)) is not None}
    return {space: m for space, m in bundle.manifests.items() if not (known_only and there)} | ours


def _again(space: str, manifest: Mapping[str, Any], bundle: Bundle | OmniBundle) -> dict[str, Any] | None:
    """What the bundle would say of a space that it made, if it made it: it may have been trained on, or moved, since."""
    from engine import checkpoints

    def said() -> dict[str, Any]:
        if space in bundle.spaces or isinstance(bundle, checkpoints.Bundle):
            return bundle.manifest(space)
        return bundle.manifest(space, manifest["inputs"]["modalities"], manifest["inputs"]["pool"])

    if _made_by(manifest, bundle):
        return said()
    with suppress(KeyError, TypeError, ValueError):  # of another model, with inputs that this one does not have
        if (same := said())["checksum"] == manifest.get("checksum"):
            return same
    return None


def _made_by(manifest: Mapping[str, Any], bundle: Bundle | OmniBundle) -> bool:
    """Whether vectors are of a model, which may have been trained on since. The shipped one is known by its name, wherever it
    is installed; folders of others often have the same name."""
    name = bundle.folder.name
    folder = name == SHIPPED.name or manifest.get("folder") == str(bundle.folder.resolve())
    return folder and manifest.get("model", SHIPPED.name) == name


def from_pixels(store: Store, bundle: Bundle | OmniBundle, manifests: Mapping[str, Mapping[str, Any]]) -> Iterator[Step]:
    """`embed` by the only embedder; the next objects are read while these are embedded."""

    def vectors(pieces: Sequence[range]) -> Iterator[Vectors]:
        with ThreadPoolExecutor(1) as ahead:
            coming = [ahead.submit(read_rows, store, piece) for piece in pieces[:1]]
            for i in range(len(pieces)):
                objects = coming.pop().result()
                coming = [ahead.submit(read_rows, store, following) for following in pieces[i + 1 : i + 2]]
                yield bundle.vectors(objects)

    yield from _append_all(store, open_spaces(store.path, manifests), BATCH, vectors)


def from_tokens(store: Store, bundle: OmniBundle, manifests: Mapping[str, Mapping[str, Any]], quick: bool | None,
                  more: Sequence[str]) -> Iterator[Step]:
    """`embed` by the only embedder: first the tokens that are missing, of the manifests' inputs and more, then vectors."""
    from engine import tokenized

    needed = list(dict.fromkeys(key for m in manifests.values() for key in m["inputs"]["modalities"]))
    said: list[str] = []
    for step in tokenized.tokenize(store, bundle, list(dict.fromkeys([*needed, *more])), quick):
        said += (step.preview or {}).get("warnings", [])
        yield Step(0.3 * step.fraction, step.note)
    tokens = tokenized.Tokens.open(store.path, bundle, needed)

    def vectors(pieces: Sequence[range]) -> Iterator[Vectors]:
        for piece in pieces:
            ids, hidden = tokens.read(piece)
            yield {space: bundle.unit_vectors(m, ids, hidden, len(piece)) for space, m in manifests.items()}

    for step in _append_all(store, open_spaces(store.path, manifests), TOKENS_BATCH, vectors):
        yield Step(0.3 + 0.7 * step.fraction, step.note, {"warnings": said} if step.fraction == 1 else None)


def patch_keys(bundle: OmniBundle, inputs: Sequence[str] | None) -> list[str]:
    """Inputs that have parts, all of the model's or those that were chosen."""
    from engine import patches

    return [key for key in patches.keys(bundle) if inputs is None or key in inputs]


def with_patches(store: Store, bundle: OmniBundle, embedding: Iterator[Step], keys: Sequence[str]) -> Iterator[Step]:
    """`embed`, then patches of its tokens; what embedding had to say is said at the end."""
    from engine import patches

    said = None
    for step in embedding:
        said = step.preview or said
        yield Step(0.5 * step.fraction, step.note)
    for step in patches.store(store, bundle, keys):
        yield Step(0.5 + 0.5 * step.fraction, step.note, said if step.fraction == 1 else None)


def _append_all(store: Store, spaces: dict[str, Embeddings], batch: int,
                vectors: Callable[[Sequence[range]], Iterator[Vectors]]) -> Iterator[Step]:
    """Append the vectors of all rows that have none, waiting for the disk about once a second only."""
    first = min(len(s) for s in spaces.values())
    pieces = [range(i, min(i + batch, len(store))) for i in range(first, len(store), batch)]
    made: list[Vectors] = []
    committed = time.monotonic()
    try:
        for piece, new in zip(pieces, vectors(pieces), strict=True):
            made.append(new)
            if time.monotonic() - committed > COMMIT_EVERY:
                _commit(spaces, made, first)
                first, made, committed = piece.stop, [], time.monotonic()
            yield Step(piece.stop / len(store), f"embedded {piece.stop:,} of {len(store):,} objects")
    finally:  # stopped or done
        _commit(spaces, made, first)
    counts = ", ".join(f"{s.known():,} have {space} vectors" for space, s in spaces.items())
    yield Step(1.0, f"all {len(store):,} objects were looked at: {counts}" if len(store) else "there are no objects yet")


def _commit(spaces: dict[str, Embeddings], made: list[Vectors], first: int) -> None:
    if made:
        add_vectors(spaces, {space: np.concatenate([vectors[space] for vectors in made]) for space in spaces}, first)


def open_spaces(sky: Path, manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, Embeddings]:
    """Spaces as a bundle's manifests say, made anew where there is none or another model's."""
    out = {}
    for space, manifest in manifests.items():
        folder, dim = sky / "embeddings" / space, manifest["dim"]
        there = Embeddings.open(folder) if (folder / MANIFEST).is_file() else None
        if there is None or (there.manifest["checksum"], there.dim) != (manifest["checksum"], dim):
            there = Embeddings.create(folder, dim, manifest)
        elif there.manifest.get("folder") != manifest.get("folder"):
            there.say(folder=manifest["folder"])  # the model was moved
        out[space] = there
    return out


def read_rows(store: Store, rows: range) -> list[SkyObject]:
    """The objects of rows; of those without images and spectra, which have no vectors, the id alone."""
    from engine.objects import SkyObject

    return [store.read(row) if store.cells(row) or store.cells(row, "spectrum") else SkyObject(id=str(store.ids[row]))
            for row in rows]


def add_vectors(spaces: dict[str, Embeddings], vectors: Mapping[str, NDArray[np.float32]], first: int) -> None:
    """Append the vectors of consecutive rows from `first` on, but for those that a space has already (a kill between two)."""
    for space, new in vectors.items():
        known = len(spaces[space]) - first
        if known < len(new):
            spaces[space].append(new[max(known, 0):])
