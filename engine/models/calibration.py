"""How sure a distribution may be of itself: a power of it, by its entropy.

Temperature scaling (Guo et al. 2017, sec. 4.2), with a temperature that depends on how spread out the distribution is: a model
that is too modest where a few bins remain may well be too bold where a hundred do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Knots = Sequence[tuple[float, float]]  # (entropy in nats, power), entropies increasing


def calibrated(logits: Tensor, knots: Knots) -> Tensor:
    """Logits (..., V) of distributions -> those of their powers, of which `knots` tell some; between them they are linear in
    the entropy, beyond them constant."""
    at, powers = (torch.tensor(each, dtype=logits.dtype, device=logits.device) for each in zip(*knots, strict=True))
    said = logits.log_softmax(-1)
    return said * power(entropy(said), at, powers)[..., None]


def entropy(said: Tensor) -> Tensor:
    """(..., V) log-probabilities -> (...) in nats."""
    return -(said.exp() * said).sum(-1)


def power(entropies: Tensor, at: Tensor, powers: Tensor) -> Tensor:
    """(...) entropies -> (...) powers, from those (k,) at some entropies (k,)."""
    x = entropies.clamp(at[0], at[-1])
    i = (torch.searchsorted(at, x.contiguous(), right=True) - 1).clamp(0, len(at) - 2)
    share = (x - at[i]) / (at[i + 1] - at[i])
    return torch.lerp(powers[i], powers[i + 1], share)
