"""Image and spectrum vectors that can be compared: a head on a model's tokens, fitted on the pairs that a sky has.

The tokens of the pairs are encoded once and kept, reduced, in SKY/align/work, so that a stopped run goes on there; fitting the
head itself takes minutes and starts anew. SKY/align holds the result.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from engine.records import Records, among
from engine.steps import Step

if TYPE_CHECKING:
    from torch import Tensor

    from engine.checkpoints import OmniBundle
    from engine.models.align import AlignHead
    from engine.reduction import Reduction
    from engine.store import Store

LEAST = 500  # pairs
HELD_OUT = 0.2
BATCH = 256
ENCODED = 16  # objects at a time
SHOWN = 96  # tokens of a modality that are shown at a step: a choice of its own each time, against learning by heart
RATE, DECAY, WARM, MOST_STEPS = 1e-3, 0.05, 40, 2000
FIRST = 10  # recall is counted among so many


class Tokens(Protocol):
    """Tokens of a modality: `Records`, or what lies on a GPU. rows: (m,), increasing; values: (m, n) ids."""

    @property
    def rows(self) -> NDArray[Any]: ...
    @property
    def values(self) -> Any: ...


@dataclass(frozen=True)
class Reduced:
    """What a head reads of a modality. rows: (m,), increasing; values: reduced tokens (m, n, R), int8; levels: (m,), the first
    id of each, where that is a level."""

    rows: NDArray[Any]
    values: Any
    levels: NDArray[Any] | None = None


def align(store: Store, bundle: OmniBundle, pairs: int, seed: int = 0) -> Iterator[Step]:
    """Fit the head on at most `pairs` objects that have both; the last Step's preview tells how good it is.

    Raises ValueError if fewer than 500 objects have both, or the model reads no images or no spectra.
    """
    from engine import tokenized

    inputs = inputs_of(bundle)
    needed = [key for keys in inputs.values() for key in keys]
    for step in tokenized.tokenize(store, bundle, needed):
        yield Step(0.1 * step.fraction, step.note)
    tokens = tokenized.Tokens.open(store.path, bundle, needed).records
    rows = chosen(inputs, tokens, pairs, seed, store.path)
    done = yield from fitted(bundle, inputs, tokens, rows, held_out(store, rows, seed), store.path / "align", seed, 0.1)
    yield Step(1.0, f"{done.note}; now run: omnisky embed {store.path} --model {bundle.folder}", done.preview)


def align_tokens(folder: Path, bundle: OmniBundle, pairs: int, seed: int = 0) -> Iterator[Step]:
    """The same from a folder of tokens (`engine.train.simulated_tokens`); the head becomes a part of the model's folder.

    Raises ValueError as `align`, and for tokens of other codecs than the model's.
    """
    from engine.train.token_data import tokens_of

    inputs = inputs_of(bundle)
    tokens = tokens_of([folder], bundle.model.config, bundle.folder)[0]
    inputs = {space: [key for key in keys if key in tokens] for space, keys in inputs.items()}
    rows = chosen(inputs, tokens, pairs, seed, folder)
    test = at_random(len(rows), np.random.default_rng([seed, 1]))
    yield (yield from fitted(bundle, inputs, tokens, rows, test, bundle.folder / "align", seed, 0.0))


def inputs_of(bundle: OmniBundle) -> dict[str, list[str]]:
    """Space -> what it reads. Raises ValueError unless there are two."""
    inputs = {space: bundle.inputs(space) for space in bundle.spaces}
    if len(inputs) < 2:
        raise ValueError(f"{bundle.folder.name} reads {' and '.join(inputs) or 'neither'} only; there is nothing to align")
    return inputs


def fitted(bundle: OmniBundle, inputs: Mapping[str, list[str]], tokens: Mapping[str, Records], rows: NDArray[np.int64],
           test: NDArray[np.bool_], out: Path, seed: int, begun: float) -> Generator[Step, None, Step]:
    """Encode the tokens of some rows, fit the head on those that are not for the test, write it into `out`. begun: the
    fraction of the work that was done before. Returns the last Step, which tells how good it is."""
    from engine import patches
    from engine.checkpoints.align import Alignment, save_alignment

    work = out / "work"
    used = {space: [key for key in keys if len(np.intersect1d(tokens[key].rows, rows))] for space, keys in inputs.items()}
    parts = [key for keys in used.values() for key in keys]
    sample = f"{len(rows)} rows, {int(rows.sum())}"
    reduced = {key: patches.opened(work / key, bundle, key, tokens[key], sample=sample) for key in parts}
    for i, key in enumerate(parts):
        for step in encode(bundle, key, tokens[key], rows, *reduced[key]):
            yield Step(begun + (0.7 - begun) * (i + step.fraction) / len(parts), step.note)
    started = time.monotonic()
    spaces = {space: {key: with_levels(bundle, key, tokens[key], reduced[key][0]) for key in keys}
              for space, keys in used.items()}
    head, found = yield from fit(spaces, rows, test, seed)
    about = {"model": bundle.checksum, "name": bundle.folder.name, "pairs": len(rows) - int(test.sum()), "seed": seed,
             "held_out": int(test.sum()), "recall_at_10": {way: round(value, 4) for way, value in found.items()},
             "chance": round(min(1.0, FIRST / int(test.sum())), 4), "minutes": round((time.monotonic() - started) / 60, 1)}
    save_alignment(out, Alignment(head, {key: r[1] for key, r in reduced.items()}, about))
    shutil.rmtree(work)
    said = ", ".join(f"{way} {value:.3f}" for way, value in found.items())
    return Step(1.0, f"of {about['held_out']} pairs held out, the partner is among the first {FIRST}: {said} (chance "
                     f"{about['chance']:.3f})", about)


def with_levels(bundle: OmniBundle, key: str, tokens: Records, reduced: Records) -> Reduced:
    """What has been reduced, and the levels of its rows if the modality has any."""
    from engine.models.tokens import has_level

    levels = tokens.at(np.asarray(reduced.rows))[1][:, 0] if has_level(bundle.modalities[key]) else None
    return Reduced(reduced.rows, reduced.values, levels)


def chosen(inputs: Mapping[str, list[str]], tokens: Mapping[str, Tokens], pairs: int, seed: int, sky: Path
           ) -> NDArray[np.int64]:
    """Rows, increasing, that have an input of every space: at most `pairs` of them."""
    nothing = np.zeros(0, np.int64)
    sides = [np.unique(np.concatenate([nothing, *(tokens[key].rows for key in keys)])) for keys in inputs.values()]
    both = reduce(np.intersect1d, sides).astype(np.int64)
    if len(both) < LEAST:
        raise ValueError(f"{sky} has {len(both)} objects with both an image and a spectrum that the model reads; "
                         f"a head needs at least {LEAST} of them")
    return np.sort(np.random.default_rng(seed).permutation(both)[: max(pairs, LEAST)])


def held_out(store: Store, rows: NDArray[np.int64], seed: int) -> NDArray[np.bool_]:
    """Which of the pairs are not fitted on: a fifth, by whole HEALPix pixels, so that neighbours on the sky stay together;
    at random where too few pixels or positions would make it another share."""
    import pyarrow.compute as pc

    cells = pc.fill_null(store.table(["_healpix_29"]).column("_healpix_29"), -1).to_numpy()[rows] >> (2 * (29 - 10))
    pixels = np.unique(cells)
    random = np.random.default_rng([seed, 1])
    test: NDArray[np.bool_] = np.isin(cells, pixels[random.random(len(pixels)) < HELD_OUT])
    return test if abs(test.mean() - HELD_OUT) <= 0.05 else at_random(len(rows), random)


def at_random(count: int, random: np.random.Generator) -> NDArray[np.bool_]:
    """A fifth of them."""
    test = np.zeros(count, bool)
    test[random.permutation(count)[: round(HELD_OUT * count)]] = True
    return test


# -- tokens ------------------------------------------------------------------------------------------------------------


def encode(bundle: OmniBundle, key: str, tokens: Records, rows: NDArray[np.int64], records: Records, reduction: Reduction
           ) -> Iterator[Step]:
    """Encode what is missing of the sample."""
    from engine import patches

    todo = np.intersect1d(tokens.rows, rows)
    todo = todo[todo >= records.reach]
    for start in range(0, len(todo), ENCODED):
        part = todo[start : start + ENCODED]
        found = patches.vectors(bundle, key, tokens.at(part)[1])
        records.append(part, reduction.encode(found), int(part[-1]) + 1)
        yield Step((start + len(part)) / len(todo), f"{key}: encoded {start + len(part):,} of {len(todo):,} objects")


# -- head --------------------------------------------------------------------------------------------------------------


def fit(spaces: Mapping[str, Mapping[str, Reduced]], rows: NDArray[np.int64], test: NDArray[np.bool_], seed: int,
        size: int = BATCH, most: int = MOST_STEPS, device: str = "cpu"
        ) -> Generator[Step, None, tuple[AlignHead, dict[str, float]]]:
    """At most so many steps with the loss, in batches of at most `size` pairs; returns the head and its recall among the pairs
    held out, both ways."""
    from engine.models.align import AlignConfig, AlignHead
    from engine.models.processor import mixed_precision

    head = AlignHead(AlignConfig(
        {space: {key: r.values.shape[1] for key, r in some.items()} for space, some in spaces.items()},
        tuple(key for some in spaces.values() for key, r in some.items() if r.levels is not None)))
    head.init_weights(seed)
    head.to(device)
    train = rows[~test]
    batch = min(size, len(train))
    steps = int(np.clip(40 * len(train) / batch, 200, most))
    a, b = spaces
    random = np.random.default_rng([seed, 2])

    def batches() -> Iterator[NDArray[np.int64]]:
        order = train[:0]
        while True:
            if len(order) < batch:
                order = random.permutation(train)
            yield order[:batch]
            order = order[batch:]

    def vectors(some: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        with mixed_precision(device):
            return head(a, *shown(spaces[a], some, random)), head(b, *shown(spaces[b], some, random))

    for step, loss in descend(head, batches(), vectors, steps):
        note = f"fitting the head: step {step + 1} of {steps}, loss {loss:.3f}"
        yield Step(0.7 + 0.3 * step / steps, note, {"loss": loss})
    head.eval().requires_grad_(False)
    return head, recall(head, spaces, rows[test])


def descend(head: AlignHead, batches: Iterator[Any], vectors: Callable[[Any], tuple[Tensor, Tensor]], steps: int
            ) -> Iterator[tuple[int, float]]:
    """Fit what is not frozen of a head by the contrast of two spaces; every tenth step and its loss. vectors: of a batch, in
    both spaces."""
    import torch

    from engine.models.astroclip import contrastive_loss

    weights = [p for p in head.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(weights, RATE, betas=(0.9, 0.98), weight_decay=DECAY)
    for step in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = RATE * min(1.0, (step + 1) / WARM) * 0.5 * (1 + math.cos(math.pi * step / steps))
        loss = contrastive_loss(*vectors(next(batches)), head.scale())
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimiser.step()
        if step % 10 == 9:
            yield step, float(loss.detach())


def shown(records: Mapping[str, Reduced], rows: NDArray[np.int64], random: np.random.Generator | None
          ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """What the head takes of some rows: reduced tokens, which rows have them, the levels, and which tokens they are. random:
    draws a few tokens, the same for all rows, and, where a row has several modalities, sometimes leaves one out; None:
    everything."""
    import torch

    from engine.checkpoints.align import whitened

    tokens, there, told, places = {}, {}, {}, {}
    for key, r in records.items():
        n = r.values.shape[1]
        place = np.arange(n) if random is None else np.sort(random.permutation(n)[:SHOWN])
        has, at = among(r.rows, rows)
        own = torch.as_tensor(r.values[at[has]][:, place])
        found = torch.from_numpy(has).to(own.device)
        steps = torch.zeros((len(rows), *own.shape[1:]), dtype=torch.int8, device=own.device)
        steps[found] = own
        tokens[key], there[key], places[key] = whitened(steps), found, torch.from_numpy(place).to(own.device)
        if r.levels is not None:
            told[key] = torch.from_numpy(np.asarray(r.levels[at], np.int64)).to(own.device)
    if random is not None and len(records) > 1:
        several = torch.stack(list(there.values())).sum(0) > 1
        lost = torch.from_numpy(random.integers(0, 3 * len(records), len(rows))).to(several.device)  # one, a third of the time
        for i, key in enumerate(there):
            there[key] = there[key] & ~(several & (lost == i))
    return tokens, there, told, places


def recall(head: AlignHead, spaces: Mapping[str, Mapping[str, Reduced]], rows: NDArray[np.int64]) -> dict[str, float]:
    """How often the partner is among the first ten of all pairs held out, both ways."""
    import torch

    with torch.inference_mode():
        a, b = (torch.cat([head(space, *shown(some, rows[i : i + 64], None)) for i in range(0, len(rows), 64)])
                for space, some in spaces.items())
    return recalled(list(spaces), a, b)


def recalled(names: list[str], a: Tensor, b: Tensor) -> dict[str, float]:
    """The same of unit vectors (n, S) of two spaces."""
    likeness = a @ b.T
    out = {}
    for way, table in ((f"{names[0]} -> {names[1]}", likeness), (f"{names[1]} -> {names[0]}", likeness.T)):
        out[way] = float(((table > table.diagonal()[:, None]).sum(1) < FIRST).float().mean())
    return out
