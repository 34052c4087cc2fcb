"""How little an object's measurements expect each other: log p(s) - log p(s | rest) of every modality, by the chain rule.

Shape letters: O orders, n tokens of the modality, V ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from engine.generation.draws import counts, generator, orders, whole
from engine.generation.reading import Reading, Tokens, log_likelihood
from engine.models.omni import Omni
from engine.models.tokens import PADDING, is_sequence

if TYPE_CHECKING:
    from engine.checkpoints import OmniBundle
    from engine.objects import SkyObject

LEAST_ORDERS = 4


@dataclass(frozen=True)
class Surprise:
    """nats a token, the mean over orders, and spread, their standard deviation; each: of every order, by its seed; tokens: how
    many were compared. Above 0: the rest makes this modality less likely than it is by itself; far below 0 is as it should be
    where one tells of the other. NaN where there was nothing to compare."""

    nats: float
    spread: float
    each: dict[int, float]
    tokens: int


def surprise(bundle: OmniBundle, thing: SkyObject, inputs: Sequence[str] | None = None, *, orders: int = LEAST_ORDERS,
             steps: int = 8, seed: int = 0) -> dict[str, Surprise]:
    """Token key -> `Surprise`, of the modalities that the object has and that the model predicts.

    inputs: token keys; None: `bundle.measured`. The orders are those of ROAR, `steps` rounds each, of the seeds `seed`,
    `seed` + 1, ...; both probabilities follow the same order. Tokens of one round are taken not to know of each other, so the
    sum depends on the order; hence the mean. A catalogue has one order, its own. Every token is read once, as
    `generation.reading` says.

    A model without registers cannot say p(s) of what comes first: tokens of the first round (all of a number's and of a
    catalogue's) are then left out of both sides.

    Raises KeyError for an unknown input; ValueError for fewer than four orders, and for an object with fewer than two inputs.
    """
    if not whole(orders) or orders < LEAST_ORDERS:
        raise ValueError(f"orders is {orders!r}; it must be a whole number from {LEAST_ORDERS}")
    tokens, _ = bundle.tokenize([thing], inputs)
    if len(tokens) < 2:
        raise ValueError(f"object {thing.id} has {', '.join(tokens) or 'none'} of the inputs; surprise takes two at least")
    found = {}
    for key in (key for key in tokens if key in bundle.model.outputs):
        rest = {other: ids for other, ids in tokens.items() if other != key}
        if is_sequence(bundle.model.outputs[key]):
            lines = sequence_gains(bundle.model, key, tokens[key], rest)
        else:
            noise = [generator(seed + i, thing.id, key) for i in range(orders)]
            lines = gains(bundle.model, key, tokens[key], rest, noise, steps)
        found[key] = summary(-lines, seed)
    return found


def summary(lines: Tensor, seed: int) -> Surprise:
    """Of (O, n), NaN where a token was not compared."""
    means = lines.nanmean(1).double().tolist()
    spread = float(np.std(means, ddof=1)) if len(means) > 1 else 0.0
    return Surprise(float(np.mean(means)), spread, {seed + i: mean for i, mean in enumerate(means)},
                    int((~lines[0].isnan()).sum()))


def gains(model: Omni, target: str, ids: Tensor, rest: Tokens, generators: Sequence[torch.Generator], steps: int) -> Tensor:
    """log p(token | rest, tokens of earlier rounds) - log p(token | tokens of earlier rounds), (O, n), in the order of each
    generator; ids (1, n); NaN for the first round of a model without registers."""
    reading, rows = Reading(model, rest, {}, target, cache=True), len(generators)
    ids = ids.to(model.mask_token.device).expand(rows, -1)
    order, rounds = orders(generators, ids.shape[1], ids.device), counts("roar", ids.shape[1], steps)
    given = log_likelihood(reading, torch.zeros(rows, dtype=torch.long), ids, order, rounds)
    return given - log_likelihood(reading, None, ids, order, rounds)


def sequence_gains(model: Omni, target: str, ids: Tensor, rest: Tokens) -> Tensor:
    """The same of a catalogue in its own order, (1, n - 1): NaN for padding, and for all without registers."""
    ids = ids.to(model.mask_token.device)
    if not model.config.num_register_tokens:
        return torch.full_like(ids[:, 1:], torch.nan, dtype=torch.float32)
    first = next(iter(rest))
    with torch.inference_mode():
        nothing = model.encode({first: rest[first]}, {first: torch.ones_like(rest[first], dtype=torch.bool)})
        given, alone = (model.decode(encoded, [target], sequences={target: ids})[target].float()
                        for encoded in (model.encode(rest), nothing))
    gain = _of(given, ids[:, 1:]) - _of(alone, ids[:, 1:])
    return gain.masked_fill(ids[:, 1:] == PADDING, torch.nan)


def _of(logits: Tensor, ids: Tensor) -> Tensor:
    """Log-probabilities (O, n) of ids (O, n)."""
    return logits.log_softmax(-1).gather(2, ids[..., None])[..., 0]
