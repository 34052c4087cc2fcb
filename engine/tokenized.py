"""The tokens of a sky: made once by a model's codecs, memory-mapped, and read from then on instead of pixels.

    my.sky/tokens/<token key>/      `Records` of two bytes a token, with the codec's checksum
    my.sky/tokens/<token key>@3/    those of the same objects turned in the third of the ways of `engine.augment`, on request

Models that share codecs share tokens, as AION-1's three sizes do.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.augment import WAYS, turned, turns
from engine.records import MANIFEST, Records
from engine.steps import Step

if TYPE_CHECKING:
    from torch import Tensor

    from engine.checkpoints.tokenizers import Tokenizer
    from engine.objects import SkyObject
    from engine.store import Store

BATCH = 16  # objects whose pixels are turned into tokens at a time
COMMIT_EVERY = 1.0  # seconds
DTYPE = "<u2"
MOST_SAID = 1000  # warnings kept, of a survey that may have millions
Encoded = dict[str, tuple[NDArray[np.int64], NDArray[Any]]]  # name of records -> rows (k,) that have it, their ids (k, n)


def named(key: str, way: int) -> str:
    """What tokens of copies are called, by the number of their way among `WAYS`; 0 are the objects as they were measured."""
    return f"{key}@{way}" if way else key


def way_of(name: str) -> tuple[str, int]:
    """The token key and the way that a name stands for."""
    key, _, way = name.partition("@")
    return key, int(way or 0)


class Tokens:
    """The stored tokens of some inputs of a sky, one `Records` each, by what `named` calls them."""

    def __init__(self, records: Mapping[str, Records]) -> None:
        self.records = dict(records)

    @classmethod
    def open(cls, sky: Path, bundle: Tokenizer, inputs: Sequence[str], quick: bool | None = None, copies: int = 0) -> Tokens:
        """Those of the bundle's codecs; made anew, empty, where there are none or another codec's.

        quick: made by the codecs' `quick` copies, or exactly where such are there; None: in whichever way those that are there
        were made, else exactly. copies: also those of so many turned copies, of the inputs that a turn changes.
        """
        names = [named(key, way) for way in range(1 + copies) for key in inputs if not way or turns(bundle.modalities[key])]
        return cls({name: _opened(sky, bundle, name, quick) for name in names})

    @property
    def reach(self) -> int:
        """How many rows of the sky have been looked at for all of the inputs."""
        return min((r.reach for r in self.records.values()), default=0)

    @property
    def bytes(self) -> int:
        return sum(r.values.nbytes + r.rows.nbytes for r in self.records.values())

    def read(self, rows: range | NDArray[Any]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Ids (m, n) and hidden (m, n) of some rows, as `OmniBundle.tokenize` gives them."""
        import torch

        from engine.checkpoints.tokenizers import spread

        wanted = np.asarray(rows)
        tokens, hidden = {}, {}
        for key, records in self.records.items():
            found, ids = records.at(wanted)
            if found.any():
                tokens[key], hidden[key] = spread(np.flatnonzero(found), torch.from_numpy(ids.astype(np.int64)), len(wanted))
        return tokens, hidden


def stored(sky: Path, bundle: Tokenizer, name: str) -> Records | None:
    """The tokens that there are of an input by this bundle's codec, quick or not; None if there are none."""
    folder, (key, _) = sky / "tokens" / name, way_of(name)
    there = Records.open(folder) if (folder / MANIFEST).is_file() else None
    ours = (bundle.codecs.checksum(key), (bundle.modalities[key].tokens,))
    return there if there is not None and (there.manifest.get("codec"), there.shape) == ours else None


def _opened(sky: Path, bundle: Tokenizer, name: str, quick: bool | None) -> Records:
    there, (key, way) = stored(sky, bundle, name), way_of(name)
    if there is not None and (quick is not False or not there.manifest["quick"]):  # exact ones are never made anew
        return there
    about: dict[str, Any] = {"key": key, "codec": bundle.codecs.checksum(key), "quick": bool(quick)}
    if way:
        about["turned"] = dict(zip(("quarter turns", "flipped"), WAYS[way], strict=True))
    return Records.create(sky / "tokens" / name, (bundle.modalities[key].tokens,), DTYPE, about)


def tokenize(store: Store, bundle: Tokenizer, inputs: Sequence[str] | None = None, quick: bool | None = None, copies: int = 0
             ) -> Iterator[Step]:
    """Tokens of all objects that were not looked at yet; inputs: token keys, all that the bundle has codecs for if None.

    The next objects are read while these are encoded. What codecs had to say (of padding, resampling, objects that they
    refused) is the last Step's preview, "warnings". quick, copies: see `Tokens.open`. Raises KeyError for an unknown input,
    ValueError for more copies than there are ways to turn an object.
    """
    if not 0 <= copies < len(WAYS):
        raise ValueError(f"an object can be turned in {len(WAYS) - 1} other ways, so there are no {copies} copies of it")
    made = Tokens.open(store.path, bundle, bundle.checked(tuple(bundle.codecs) if inputs is None else inputs), quick, copies)
    start, stop = made.reach, len(store)
    pieces = [range(i, min(i + BATCH, stop)) for i in range(start, stop, BATCH)]
    said: dict[str, None] = {}
    waiting: list[tuple[range, Encoded]] = []
    committed = time.monotonic()
    with ThreadPoolExecutor(1) as ahead:
        coming = [ahead.submit(_objects, store, piece) for piece in pieces[:1]]
        try:
            for i, piece in enumerate(pieces):
                objects = coming.pop().result()
                coming = [ahead.submit(_objects, store, following) for following in pieces[i + 1 : i + 2]]
                waiting.append((piece, _encoded(made, bundle, piece, objects, said)))
                if time.monotonic() - committed > COMMIT_EVERY:
                    _commit(made, waiting)
                    waiting, committed = [], time.monotonic()
                yield Step(piece.stop / stop, f"tokenized {piece.stop:,} of {stop:,} objects")
        finally:  # stopped or done
            _commit(made, waiting)
    counts = ", ".join(f"{len(r):,} have {name}" for name, r in made.records.items() if len(r))
    note = f"tokens of {stop:,} objects, {made.bytes / 1e6:.1f} MB: {counts or 'none has what the model reads'}"
    yield Step(1.0, note, {"warnings": list(said)})


def _objects(store: Store, rows: range) -> list[SkyObject]:
    return [store.read(row) for row in rows]


def _encoded(made: Tokens, bundle: Tokenizer, piece: range, objects: list[SkyObject], said: dict[str, None]) -> Encoded:
    """The ids of what is not stored yet (a kill between two commits, an input asked for later)."""
    out = {}
    copies = {0: objects}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for name, records in made.records.items():
            key, way = way_of(name)
            if records.reach < piece.stop:
                if way not in copies:
                    copies[way] = [turned(thing, *WAYS[way]) for thing in objects]
                which, ids = bundle.ids(key, copies[way], bool(records.manifest["quick"]))
                out[name] = np.asarray(which, np.int64) + piece.start, ids.numpy().reshape(len(which), *records.shape)
    said |= dict.fromkeys(str(w.message) for w in caught[: MOST_SAID - len(said)])
    return out


def _commit(made: Tokens, waiting: list[tuple[range, Encoded]]) -> None:
    """Write consecutive pieces."""
    for name, records in made.records.items():
        pieces = [new[name] for _, new in waiting if name in new]
        if pieces:
            rows, ids = (np.concatenate(parts) for parts in zip(*pieces, strict=True))
            later = rows >= records.reach
            records.append(rows[later], ids[later], waiting[-1][0].stop)
