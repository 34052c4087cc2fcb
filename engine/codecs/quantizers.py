"""From numbers to ids and back: FSQ and LFQ for latent vectors, sorted tables for measured values. No network in here.

Shape letters: B batch, T tokens, D latent channels, K ids, C channels of a table.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from engine.models.inputs import asinh

EPSILON = 1e-3  # keeps tanh from having to reach the outermost level


def check_ids(ids: Tensor, vocabulary: int, what: str) -> Tensor:
    """The ids as int64. Raises ValueError naming the first one outside 0 .. vocabulary - 1, or if they are not integers."""
    if ids.dtype.is_floating_point or ids.dtype.is_complex or ids.dtype == torch.bool:
        raise ValueError(f"ids of {what} must be integers, got {ids.dtype}")
    ids = ids.long()
    if ids.numel() and (int(ids.min()) < 0 or int(ids.max()) >= vocabulary):
        first = int(ids[(ids < 0) | (ids >= vocabulary)][0])
        raise ValueError(f"id {first} of {what} is out of range; ids go from 0 to {vocabulary - 1}")
    return ids


@dataclass(frozen=True)
class FSQ:
    """Finite scalar quantisation: each channel is squeezed by tanh and rounded to one of L levels (Mentzer et al. 2023,
    arXiv:2309.15505, sec. 3.1). The first channel is the digit that changes fastest in the id.
    """

    levels: tuple[int, ...]

    @property
    def vocabulary(self) -> int:
        return math.prod(self.levels)

    @property
    def channels(self) -> int:
        return len(self.levels)

    def _constants(self, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """levels, half of them, and what each digit counts for, (D,) each."""
        levels = torch.tensor(self.levels, device=like.device)
        return levels, levels // 2, torch.cumprod(levels, 0) // levels

    def bounded(self, z: Tensor) -> Tensor:
        """Latents (..., D) before rounding: digit i lies within half a unit of i - L // 2."""
        levels, _, _ = self._constants(z)
        reach = (levels - 1) * (1 + EPSILON) / 2
        offset = 0.5 * (levels % 2 == 0)
        return torch.tanh(z + torch.atanh(offset / reach)) * reach - offset

    def through(self, z: Tensor) -> Tensor:
        """Latents (..., D) -> what `decode` makes of their ids, with the gradient of what was rounded (straight through)."""
        y = self.bounded(z)
        return (y + (y.round() - y).detach()) / self._constants(z)[1]

    def encode(self, z: Tensor) -> Tensor:
        """Latents (..., D) -> ids (...), int32."""
        _, half, worth = self._constants(z)
        return ((self.bounded(z).round().long() + half) * worth).sum(-1).int()

    def decode(self, ids: Tensor) -> Tensor:
        """Ids (...) -> latents (..., D) in [-1, 1]. Raises ValueError for an id out of range."""
        ids = check_ids(ids, self.vocabulary, "FSQ")
        levels, half, worth = self._constants(ids)
        return (ids[..., None] // worth % levels - half) / half


@dataclass(frozen=True)
class LFQ:
    """Look-up-free quantisation: the sign of each channel is a bit, the first the most significant (Yu et al. 2023,
    arXiv:2310.05737, sec. 3.1)."""

    channels: int

    @property
    def vocabulary(self) -> int:
        return 2**self.channels

    def _worth(self, like: Tensor) -> Tensor:
        return 2 ** torch.arange(self.channels - 1, -1, -1, device=like.device)

    def encode(self, z: Tensor) -> Tensor:
        """Latents (..., D) -> ids (...), int32."""
        return ((z > 0) * self._worth(z)).sum(-1).int()

    def decode(self, ids: Tensor) -> Tensor:
        """Ids (...) -> -1 or 1 (..., D). Raises ValueError for an id out of range."""
        ids = check_ids(ids, self.vocabulary, "LFQ")
        return ((ids[..., None] & self._worth(ids)) != 0) * 2.0 - 1.0


@dataclass(frozen=True)
class Squeeze:
    """A monotone function whose values are looked up in a table, and its inverse."""

    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]


LINEAR = Squeeze(lambda x: x, lambda y: y)
ARCSINH = Squeeze(asinh, torch.sinh)


def logarithm(floor: float | None) -> Squeeze:
    """The natural logarithm, of nothing below exp(floor): all that is fainter, negative fluxes too, shares one id."""
    least = 0.0 if floor is None else math.exp(floor)
    return Squeeze(lambda x: x.clamp_min(least).log(), torch.exp)


class Table(nn.Module):
    """Values to the first entry of a sorted table that is not below them, squeezed first: quantiles of a distribution, a grid.

    values: (K,), or (C, K) where each of C channels has a table of its own. Id i stands for what lies above entry i - 1 and not
    above entry i; the first and the last reach to infinity.
    """

    values: Tensor

    def __init__(self, size: int, channels: int | None = None, squeeze: Squeeze = LINEAR) -> None:
        super().__init__()
        self.squeeze = squeeze
        self.register_buffer("values", torch.zeros(size) if channels is None else torch.zeros(channels, size))

    @property
    def vocabulary(self) -> int:
        return self.values.shape[-1]

    def encode(self, x: Tensor) -> Tensor:
        """(...), or (..., C), -> ids of the same shape, int64; NaN is not looked for."""
        y = self.squeeze.forward(x)
        if self.values.ndim == 1:
            return torch.bucketize(y, self.values[:-1])
        rows = y.reshape(-1, len(self.values)).T.contiguous()
        return torch.searchsorted(self.values[:, :-1].contiguous(), rows).T.reshape(y.shape)

    def decode(self, ids: Tensor, centre: bool = False) -> Tensor:
        """Ids -> values. centre: the middle of what an id stands for, not its upper end. Raises ValueError if out of range."""
        table = torch.cat([self.values[..., :1], self.values], -1) if centre else self.values
        if centre:
            table = (table[..., 1:] + table[..., :-1]) / 2
        ids = check_ids(ids, self.vocabulary, "a table")
        if self.values.ndim == 1:
            return self.squeeze.inverse(table[ids])
        rows = ids.reshape(-1, len(self.values)).T
        return self.squeeze.inverse(table.gather(1, rows).T.reshape(ids.shape))
