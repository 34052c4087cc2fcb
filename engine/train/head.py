"""The contrastive head of a model, fitted from tokens on a GPU, where all of them have room: see `engine.align`.

Shape letters: B batch, n tokens of a modality, D width of the model, R reduced numbers a token.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.align import FIRST, Reduced, at_random, chosen, fit, inputs_of
from engine.checkpoints.aion import load_aion
from engine.checkpoints.align import Alignment, contexts, reduced, save_alignment
from engine.checkpoints.omni import OmniBundle
from engine.models.omni import Omni
from engine.models.tokens import has_level
from engine.records import Records
from engine.reduction import Reduction
from engine.steps import Step
from engine.train.token_data import tokens_of

ENCODED = 1024  # objects at a time
BATCH, STEPS = 2048, 4000  # pairs a step, among which some look alike; and steps at most
FITTED = 512  # objects that a reduction is fitted on


class Loaded(NamedTuple):
    """Of a modality: the rows (m,) that have it, increasing, and the ids of each, (m, n)."""

    rows: NDArray[np.int64]
    values: Tensor


def run(folder: Path, skies: Sequence[Path], pairs: int, device: str, seed: int = 0) -> Iterator[Step]:
    """Fit the head of the model in a folder on at most `pairs` objects of skies, and put it there; the last Step tells how good
    it is among those held out. Raises what `engine.align.align_tokens` raises."""
    bundle = OmniBundle.load(folder)
    found = together(tokens_of(skies, bundle.model.config, folder))
    inputs = {space: [key for key in keys if key in found] for space, keys in inputs_of(bundle).items()}
    rows = chosen(inputs, found, pairs, seed, skies[0])
    test = at_random(len(rows), np.random.default_rng([seed, 1]))
    model = load_aion(folder, torch.bfloat16 if device != "cpu" else torch.float32).to(device)
    parts: dict[str, Reduced] = {}
    reductions: dict[str, Reduction] = {}
    for key in (key for keys in inputs.values() for key in keys):
        some = np.flatnonzero(np.isin(found[key].rows, rows))
        if len(some):
            own = Loaded(found[key].rows[some], found[key].values[some])
            parts[key], reductions[key] = _reduced(model, key, own, device)
            yield Step(0.3 * len(parts) / len(found), f"{key}: encoded {len(some):,} objects")
    spaces = {space: {key: parts[key] for key in keys if key in parts} for space, keys in inputs.items()}
    head, recalled = yield from fit(spaces, rows, test, seed, BATCH, STEPS, device)
    about = {"model": bundle.checksum, "name": folder.name, "pairs": len(rows) - int(test.sum()), "seed": seed,
             "held_out": int(test.sum()), "recall_at_10": {way: round(value, 4) for way, value in recalled.items()},
             "chance": round(min(1.0, FIRST / int(test.sum())), 4)}
    save_alignment(folder / "align", Alignment(head.cpu(), reductions, about))
    yield Step(1.0, f"head: of {about['held_out']:,} pairs held out, the partner is among the first {FIRST}: "
                    + ", ".join(f"{way} {value:.3f}" for way, value in recalled.items()), about)


def together(skies: Sequence[Mapping[str, Records]]) -> dict[str, Loaded]:
    """The tokens of all skies, whose rows are numbered one after another."""
    starts = np.cumsum([0, *(max(r.reach for r in records.values()) for records in skies)])
    found = {}
    for key in dict.fromkeys(key for records in skies for key in records):
        parts = [(start + np.asarray(records[key].rows, np.int64), records[key].values)
                 for start, records in zip(starts, skies, strict=False) if key in records]
        rows, values = (np.concatenate(each) for each in zip(*parts, strict=True))
        found[key] = Loaded(rows, torch.from_numpy(values.astype(np.int32)))
    return found


@torch.no_grad()
def _reduced(model: Omni, key: str, ids: Loaded, device: str) -> tuple[Reduced, Reduction]:
    """What the encoder makes of a modality alone, reduced, on the device."""
    def vectors(some: Tensor) -> Tensor:
        return contexts(model, key, some.to(device).long())

    sample = torch.cat([vectors(some) for some in ids.values[:: max(1, len(ids.rows) // FITTED)].split(ENCODED)])
    reduction = Reduction.fit(sample.flatten(0, 1).cpu().numpy())
    parts = [reduced(vectors(some), reduction) for some in ids.values.split(ENCODED)]
    levels = ids.values[:, 0].numpy() if has_level(model.inputs[key]) else None
    return Reduced(ids.rows, torch.cat(parts), levels), reduction
