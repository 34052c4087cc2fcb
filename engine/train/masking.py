"""Which tokens of each object are read and which are asked for: the budgets of 4M and of AION-1.

All tokens of all modalities stand in one row of N places (`Layout`); `choose` picks places. Sources: 4M (Mizrahi et al.
2023, arXiv:2312.06647, sec. 3), AION-1 (Parker et al. 2025, arXiv:2510.17960, sec. 4.2), Gumbel top-K (Kool et al. 2019).
Shape letters: B batch, N places, M modalities, G groups of modalities, K inputs, T targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from engine.models.omni_config import OmniConfig
from engine.models.tokens import is_sequence

SCHEMES = ("dirichlet", "aion")
SKEW = 10.0  # u ** 10 of a uniform u is Beta(0.1, 1)


@dataclass(frozen=True)
class Budgets:
    """How many tokens are read and asked for, and how they are shared among modalities.

    inputs: numbers of tokens read, one of them drawn for each batch; targets: tokens asked for. scheme "dirichlet": the
    share of each group of modalities is drawn for each object, with these concentrations (all scalars are one group, any
    other modality is one by itself); "aion": a modality gives a random number of its tokens, the others the rest. asked:
    (modality, share of the objects in which it is never read and always asked for); a sequence is asked for only so.
    translations: (modalities, modality, share): in this share of the objects that have them all, only the former are read and
    only the latter is asked for, its first token, which may stand for a level, always.
    """

    inputs: tuple[int, ...] = (256,)
    targets: int = 128
    scheme: str = "dirichlet"
    concentration_in: float = 0.25
    concentration_out: float = 0.5
    asked: tuple[tuple[str, float], ...] = (("tok_z", 0.3), ("catalog", 0.2))
    translations: tuple[tuple[tuple[str, ...], str, float], ...] = ()

    def __post_init__(self) -> None:
        if not self.inputs or min(self.inputs) < 1 or self.targets < 1:
            raise ValueError(f"budgets are {self.inputs} inputs and {self.targets} targets; each must be 1 at least")
        if self.scheme not in SCHEMES:
            raise ValueError(f"scheme is {self.scheme!r}; it must be one of {', '.join(SCHEMES)}")
        if self.concentration_in <= 0 or self.concentration_out <= 0:
            raise ValueError(f"concentrations are {self.concentration_in} and {self.concentration_out}; they must be above 0")
        if no := [(of, to, share) for of, to, share in self.translations if not 0 <= share <= 1 or to in of]:
            raise ValueError(f"translations has {no}; shares go from 0 to 1, and what is asked for is not read")
        if wrong := [pair for pair in self.asked if not 0 <= pair[1] <= 1]:
            raise ValueError(f"asked has {wrong}; shares go from 0 to 1")


@dataclass(frozen=True)
class Layout:
    """The places of all tokens in one row: the modalities of a model, one after the other."""

    config: OmniConfig

    @cached_property
    def keys(self) -> tuple[str, ...]:
        return self.config.domains

    @cached_property
    def counts(self) -> tuple[int, ...]:
        return tuple(self.config.modality(key).tokens for key in self.keys)

    @cached_property
    def slices(self) -> dict[str, slice]:
        stops = torch.tensor(self.counts).cumsum(0).tolist()
        return {key: slice(stop - n, stop) for key, n, stop in zip(self.keys, self.counts, stops, strict=True)}

    @cached_property
    def sequences(self) -> dict[str, slice]:
        return {key: own for key, own in self.slices.items() if is_sequence(self.config.modality(key))}

    @property
    def places(self) -> int:
        return sum(self.counts)

    @cached_property
    def modality(self) -> Tensor:
        """(N,) which of the keys a place belongs to."""
        return torch.repeat_interleave(torch.tensor(self.counts))

    @cached_property
    def group(self) -> Tensor:
        """(N,) which group of modalities: all scalars are one."""
        kinds = ["scalar" if self.config.modality(key).kind == "scalar" else key for key in self.keys]
        names = list(dict.fromkeys(kinds))
        return torch.tensor([names.index(kind) for kind in kinds])[self.modality]

    @cached_property
    def loss_group(self) -> Tensor:
        """(M,) the groups of the loss: all scalars but the redshift are one."""
        kinds = [(key if m.codec == "grid" else m.kind) if m.kind == "scalar" else key
                 for key, m in ((key, self.config.modality(key)) for key in self.keys)]
        names = list(dict.fromkeys(kinds))
        return torch.tensor([names.index(kind) for kind in kinds])

    def of(self, keys: tuple[str, ...]) -> Tensor:
        """(N,) whether a place belongs to one of these modalities."""
        return torch.tensor([key in keys for key in self.keys])[self.modality]

    @cached_property
    def readable(self) -> Tensor:
        """(N,) whether the model reads what stands there."""
        return self.of(self.config.domains_in)

    @cached_property
    def askable(self) -> Tensor:
        """(N,) whether the model can be asked for it."""
        return self.of(self.config.domains_out)


@dataclass(frozen=True)
class Chosen:
    """Places (B, K) that are read and (B, T) that are asked for, in increasing order; the kept ones first, 0 behind them.

    The target at place p of a sequence is the token at p + 1, given those up to p.
    """

    inputs: Tensor
    inputs_kept: Tensor
    targets: Tensor
    targets_kept: Tensor

    def rows(self, some: slice) -> Chosen:
        return Chosen(self.inputs[some], self.inputs_kept[some], self.targets[some], self.targets_kept[some])


def choose(there: Tensor, layout: Layout, budgets: Budgets, seed: int, step: int) -> Chosen:
    """Inputs and targets of a batch, from (seed, step) alone; there: bool (B, N), the tokens that each object has.

    Inputs and targets of a row are disjoint. A row with fewer tokens than both budgets divides what it has in their ratio;
    each reads one token at least. Of a sequence a first part is read, or, if it is asked for, as much of it as the budget
    allows, from its start.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
    k = budgets.inputs[int(torch.randint(len(budgets.inputs), (1,), generator=generator))]
    reserved = _reserved(there, layout, budgets, generator)
    sources, targets, first = _translated(there, reserved, layout, budgets, generator)
    readable = there & layout.readable & sources & ~reserved
    has = (there & (layout.readable | layout.askable)).sum(1)
    fair = (has * k / (k + budgets.targets)).round().long().clamp_min(1)
    count = torch.where(has < k + budgets.targets, fair, k).minimum((has - 1).clamp_min(1))
    if budgets.scheme == "aion":
        read = _aion_inputs(readable, layout, count, generator)
    else:
        scores = _dirichlet_scores(readable, layout, budgets.concentration_in, generator)
        read = _top(scores, readable, count)
    read = _from_the_start(read, layout)

    askable = _askable(there, layout, reserved) & targets & ~read
    if budgets.scheme == "aion":
        scores = _aion_target_scores(askable, layout, generator)
    else:
        scores = _dirichlet_scores(askable, layout, budgets.concentration_out, generator)
    scores = scores.masked_fill(reserved | first, torch.finfo(scores.dtype).max)
    asked = _from_the_start(_top(scores, askable, torch.full_like(count, budgets.targets)), layout)
    return Chosen(*_places(read), *_places(asked))


def _reserved(there: Tensor, layout: Layout, budgets: Budgets, generator: torch.Generator) -> Tensor:
    """(B, N) what is kept for the targets; nothing in a row that would have nothing left to read."""
    reserved = torch.zeros_like(there)
    for key, share in budgets.asked:
        chance = torch.rand(there.shape[0], 1, generator=generator)
        if key in layout.config.domains_out:
            reserved[:, layout.slices[key]] = chance < share
    reserved &= there
    return reserved & (there & layout.readable & ~reserved).any(1, keepdim=True)


def _translated(there: Tensor, reserved: Tensor, layout: Layout, budgets: Budgets, generator: torch.Generator
                ) -> tuple[Tensor, Tensor, Tensor]:
    """(B, N) what may be read and what asked for, everything where nothing is translated, and the first tokens of targets;
    `reserved` is changed in place: rows that are translated keep nothing else back."""
    sources, targets, first = torch.ones_like(there), torch.ones_like(there), torch.zeros_like(there)
    free = torch.ones(there.shape[0], dtype=torch.bool)
    for keys, target, share in budgets.translations:
        chance = torch.rand(there.shape[0], generator=generator)
        if not {*keys, target} <= layout.slices.keys():
            continue
        has = torch.stack([there[:, layout.slices[key]].any(1) for key in (*keys, target)]).all(0)
        rows, asked = free & has & (chance < share), layout.of((target,))
        sources[rows], targets[rows], reserved[rows] = layout.of(keys), asked, asked & (target in layout.sequences)
        first[rows, layout.slices[target].start] = True
        free &= ~rows
    return sources, targets, first


def _askable(there: Tensor, layout: Layout, reserved: Tensor) -> Tensor:
    """(B, N) what can be asked for: of a sequence that is kept for it, each token with one behind it."""
    askable = there & layout.askable
    for own in layout.sequences.values():
        followed = there[:, own] & there[:, own].roll(-1, 1)
        followed[:, -1] = False
        askable[:, own] &= followed & reserved[:, own]
    return askable


def _dirichlet_scores(open_: Tensor, layout: Layout, concentration: float, generator: torch.Generator) -> Tensor:
    """(B, N) log weight + Gumbel noise: the top ones are a draw without replacement in proportion to the weights.

    A group's weight is Dirichlet and divided among its open tokens. The logarithm of a gamma variate g(a) is that of
    g(a + 1) u^(1/a): small concentrations do not underflow.
    """
    b, groups = open_.shape[0], int(layout.group.max()) + 1
    gamma = torch._standard_gamma(torch.full((b, groups), concentration + 1), generator=generator)
    log_weight = gamma.log() + _uniform((b, groups), generator).log() / concentration
    size = torch.zeros(b, groups).index_add_(1, layout.group, open_.float())
    log_weight = log_weight - size.clamp_min(1).log()
    return log_weight[:, layout.group] - (-_uniform(open_.shape, generator).log()).log()


def _aion_inputs(open_: Tensor, layout: Layout, count: Tensor, generator: torch.Generator) -> Tensor:
    """(B, N): of a modality drawn at random a random number of tokens, 1 to all; the others fill the rest uniformly."""
    chance = _uniform(open_.shape, generator)
    first = open_ & (layout.modality == _one_modality(open_, layout, generator)[:, None])
    most = first.sum(1).minimum(count)
    some = (_uniform(most.shape, generator) * most).ceil().long().maximum(most.clamp_max(1))
    return _top(chance, first, some) | _top(chance, open_ & ~first, count - some)


def _aion_target_scores(open_: Tensor, layout: Layout, generator: torch.Generator) -> Tensor:
    """(B, N): a modality drawn at random comes first; then a share of each other, Beta(0.1, 1); then, if there is room, all.

    How the paper fills the budget where the shares are too small is not told.
    """
    chance = _uniform(open_.shape, generator)
    share = _uniform((open_.shape[0], len(layout.keys)), generator) ** SKEW
    first = layout.modality == _one_modality(open_, layout, generator)[:, None]
    within = chance < share[:, layout.modality]
    return _uniform(open_.shape, generator) + within.float() + 2 * first.float()


def _one_modality(open_: Tensor, layout: Layout, generator: torch.Generator) -> Tensor:
    """(B,) one of the modalities that have open tokens, each with the same chance."""
    m = len(layout.keys)
    has = torch.zeros(open_.shape[0], m).index_add_(1, layout.modality, open_.float()) > 0
    return _uniform(has.shape, generator).masked_fill(~has, -1).argmax(1)


def _uniform(shape: tuple[int, ...] | torch.Size, generator: torch.Generator) -> Tensor:
    """Of the open interval (0, 1): its logarithm and the logarithm of that are finite."""
    return torch.rand(shape, generator=generator).clamp(1e-7, 1 - 1e-7)


def _top(scores: Tensor, open_: Tensor, count: Tensor) -> Tensor:
    """bool (B, N): the `count` (B,) open places with the highest scores, or all that there are."""
    most = min(int(count.max()), scores.shape[1])
    best = scores.masked_fill(~open_, -torch.inf).topk(most, dim=1)
    taken = (torch.arange(most) < count[:, None]) & (best.values > -torch.inf)
    return torch.zeros_like(open_).scatter_(1, best.indices, taken)


def _from_the_start(chosen: Tensor, layout: Layout) -> Tensor:
    """As many tokens of each sequence, but its first ones."""
    for own in layout.sequences.values():
        part = chosen[:, own]
        chosen[:, own] = torch.arange(part.shape[1]) < part.sum(1, keepdim=True)
    return chosen


def _places(chosen: Tensor) -> tuple[Tensor, Tensor]:
    """bool (B, N) -> places (B, K) in increasing order, 0 where a row has fewer than the most, and which are kept."""
    n, most = chosen.shape[1], max(1, int(chosen.sum(1).max()))
    places = torch.where(chosen, torch.arange(n), n).topk(most, dim=1, largest=False, sorted=True).values
    kept = places < n
    return places.masked_fill(~kept, 0), kept
