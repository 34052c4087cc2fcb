"""The last layers of a model's head fitted anew, on what its other layers make of tokens: minutes on a CPU.

Shape letters: B batch, m pairs, W width of the head.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from engine.align import at_random, chosen, descend, recalled
from engine.checkpoints.align import Alignment, contexts, reduced, save_alignment, whitened
from engine.checkpoints.omni import OmniBundle
from engine.models.align import AlignHead, Reader, all_places
from engine.models.processor import mixed_precision
from engine.models.tokens import has_level
from engine.records import among
from engine.steps import Step
from engine.train.head import Loaded, together
from engine.train.token_data import tokens_of

BATCH, STEPS, READ = 2048, 500, 64
LEFT_OUT = 0.3  # how often one of several modalities is


@dataclass(frozen=True)
class Side:
    """All pairs in one space. pooled: (1 + keys, m, W), of all that is there, and without one key or another; there: bool
    (keys, m); levels: (keys, m), 0 where there is none."""

    keys: list[str]
    pooled: Tensor
    there: Tensor
    levels: Tensor

    def vectors(self, reader: Reader, some: Tensor, random: torch.Generator | None) -> Tensor:
        """(B, S) of some pairs; random: leaves modalities out."""
        there, variant = self.there[:, some], torch.zeros(len(some), dtype=torch.long)
        if random is not None and len(self.keys) > 1:
            lost = torch.randint(0, len(self.keys), (len(some),), generator=random)
            may = (there.sum(0) > 1) & (torch.rand(len(some), generator=random) < LEFT_OUT)
            may &= there.gather(0, lost[None])[0]
            variant = torch.where(may, lost + 1, variant)
            there = there & (variant != torch.arange(1, len(self.keys) + 1)[:, None])
        told = {key: self.levels[i, some] for i, key in enumerate(self.keys)}
        return reader.last(self.pooled[variant, some], dict(zip(self.keys, there, strict=True)), told)


def run(folder: Path, skies: Sequence[Path], pairs: int, seed: int = 0) -> Iterator[Step]:
    """Fit them on at most `pairs` objects, and put the head in the place of the old one; the last Step tells how good it is
    among those held out.

    Raises ValueError for a model without a head, and as `engine.align.align_tokens`.
    """
    bundle = OmniBundle.load(folder)
    bundle = bundle.aligned(folder / "align")
    if bundle.alignment is None:
        raise ValueError(f"{folder} has no head whose last layers could be fitted; run omnisky train head without --last")
    before = bundle.alignment
    found = together(tokens_of(skies, bundle.model.config, folder))
    inputs = {space: [key for key in keys if key in found] for space, keys in before.head.config.inputs.items()}
    rows = chosen(inputs, found, pairs, seed, skies[0])
    head = grown(before.head, tuple(key for key in before.reductions if has_level(bundle.modalities[key])), seed)
    sides = {}
    for i, (space, keys) in enumerate(inputs.items()):
        sides[space] = yield from _side(bundle, before, space, {key: found[key] for key in keys}, rows, 0.45 * i)
    test = torch.from_numpy(at_random(len(rows), np.random.default_rng([seed, 1])))
    yield from _fit(head, sides, torch.nonzero(~test)[:, 0], seed)
    with torch.inference_mode():
        held_out = torch.nonzero(test)[:, 0]
        a, b = (side.vectors(reader_of(head, space), held_out, None) for space, side in sides.items())
        recall = recalled(list(sides), a, b)
    about = {**before.about, "last layers": {"pairs": int((~test).sum()), "held_out": int(test.sum()), "seed": seed,
                                             "recall_at_10": {way: round(value, 4) for way, value in recall.items()}}}
    save_alignment(folder / "align", Alignment(head, before.reductions, about))
    said = ", ".join(f"{way} {value:.3f}" for way, value in recall.items())
    yield Step(1.0, f"of {int(test.sum()):,} pairs held out, the partner is among the first ten: {said}", about)


def reader_of(head: AlignHead, space: str) -> Reader:
    reader = head.readers[space]
    assert isinstance(reader, Reader)
    return reader


def grown(old: AlignHead, levels: tuple[str, ...], seed: int) -> AlignHead:
    """A head of the same weights that is told levels, and begins as if it were not; all but its last layers are frozen."""
    head = AlignHead(replace(old.config, levels=levels))
    head.init_weights(seed)
    kept = {name: value for name, value in old.state_dict().items() if value.shape == head.state_dict()[name].shape}
    head.load_state_dict(kept, strict=False)
    with torch.no_grad():
        for space in head.readers:
            new, first = (next(m for m in reader_of(h, space).head.modules() if isinstance(m, nn.Linear)) for h in (head, old))
            if new.weight.shape != first.weight.shape:
                new.weight.zero_()[:, : old.config.width] = first.weight[:, : old.config.width]
    for name, p in head.named_parameters():
        p.requires_grad_(".head." in name or name == "log_scale")
    return head


def _side(bundle: OmniBundle, before: Alignment, space: str, ids: dict[str, Loaded], rows: NDArray[np.int64], begun: float
          ) -> Generator[Step, None, Side]:
    """Read the pairs once, with all layers that stay as they are."""
    keys, m = list(ids), len(rows)
    reader = reader_of(before.head, space)
    pooled = torch.zeros(1 + len(keys), m, before.head.config.width)
    there, levels = torch.zeros(len(keys), m, dtype=torch.bool), torch.zeros(len(keys), m, dtype=torch.long)
    for start in range(0, m, READ):
        own = slice(start, min(start + READ, m))
        tokens = {}
        for i, key in enumerate(keys):
            found, at = among(ids[key].rows, rows[own])
            has = torch.from_numpy(found)
            some = ids[key].values[at].long()
            there[i, own], levels[i, own] = has, some[:, 0] * has
            tokens[key] = torch.zeros(*some.shape, before.head.config.reduced)
            if has.any():
                tokens[key][has] = whitened(reduced(contexts(bundle.quick, key, some[has]), before.reductions[key]))
        with torch.inference_mode(), mixed_precision("cpu"):
            for variant in range(1 + len(keys)):
                seen = {key: there[i, own] & (i + 1 != variant) for i, key in enumerate(keys)}
                read = torch.nonzero(torch.stack(list(seen.values())).any(0))[:, 0]
                if len(read):
                    shown, present = ({key: x[read] for key, x in of.items()} for of in (tokens, seen))
                    pooled[variant, start + read] = reader.pooled(shown, present, all_places(shown)).float()
        yield Step(begun + 0.45 * own.stop / m, f"{space}: read {own.stop:,} of {m:,} objects")
    return Side(keys, pooled, there, levels)


def _fit(head: AlignHead, sides: dict[str, Side], train: Tensor, seed: int) -> Iterator[Step]:
    """As `engine.align.fit`, with what `Side` keeps."""
    random = torch.Generator().manual_seed(seed)

    def batches() -> Iterator[Tensor]:
        order = train[:0]
        while True:
            if len(order) < min(BATCH, len(train)):
                order = train[torch.randperm(len(train), generator=random)]
            yield order[:BATCH]
            order = order[BATCH:]

    def vectors(some: Tensor) -> tuple[Tensor, Tensor]:
        left, right = (side.vectors(reader_of(head, space), some, random) for space, side in sides.items())
        return left, right

    for step, loss in descend(head, batches(), vectors, STEPS):
        note = f"fitting the last layers: step {step + 1} of {STEPS}, loss {loss:.3f}"
        yield Step(0.9 + 0.1 * step / STEPS, note, {"loss": loss})
    head.eval().requires_grad_(False)
