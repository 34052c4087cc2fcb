"""How sure a distribution may be of itself: a power of it, by its entropy, and a share of what is flatter, for its mistakes.

Temperature scaling (Guo et al. 2017, sec. 4.2), with a temperature that depends on how spread out the distribution is: a model
that is too modest where a few bins remain may well be too bold where a hundred do. One temperature cannot serve the peak and
the far bins: a model that is wrong now and then, and sure of it, would have to be modest always. So a flatter one, which
reaches those bins, is mixed in.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Knots = Sequence[tuple[float, float, float]]  # (entropy in nats, power, share of the flatter one), entropies increasing
FLAT = 0.7  # the power that makes it flatter; a lower one gives a spectrum's redshift so much far away that it moves the mean


def calibrated(logits: Tensor, knots: Knots) -> Tensor:
    """Logits (..., V) of distributions -> log-probabilities of the calibrated ones. Between knots power and share are linear in
    the entropy, beyond them constant."""
    at, powers, shares = (torch.tensor(each, dtype=logits.dtype, device=logits.device) for each in zip(*knots, strict=True))
    said = logits.log_softmax(-1)
    spread_out = entropy(said)
    return mixed(said, between(spread_out, at, powers), between(spread_out, at, shares))


def mixed(said: Tensor, power: Tensor, share: Tensor) -> Tensor:
    """(..., V) log-probabilities, their powers (...) and shares (...) of the flat -> (..., V) log-probabilities."""
    sharp, flat = (said * power[..., None]).log_softmax(-1), (said * FLAT).log_softmax(-1)
    return torch.logaddexp(sharp + torch.log1p(-share)[..., None], flat + share.log()[..., None])


def entropy(said: Tensor) -> Tensor:
    """(..., V) log-probabilities -> (...) in nats."""
    return -(said.exp() * said).sum(-1)


def between(entropies: Tensor, at: Tensor, values: Tensor) -> Tensor:
    """(...) entropies -> (...) powers or shares, from those (k,) at some entropies (k,)."""
    x = entropies.clamp(at[0], at[-1])
    i = (torch.searchsorted(at, x.contiguous(), right=True) - 1).clamp(0, len(at) - 2)
    share = (x - at[i]) / (at[i + 1] - at[i])
    return torch.lerp(values[i], values[i + 1], share)
