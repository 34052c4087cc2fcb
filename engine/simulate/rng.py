"""Random numbers that depend on (seed, object, stream, element) alone: a hash instead of a state.

No generator is carried along, so an object is the same in any batch, on any number of threads and on any device. The hash
is three rounds of the 32-bit finaliser "lowbias32" (C. Wellons, Hash Prospector, 2018) in int32 arithmetic that wraps.
"""

from __future__ import annotations

import math
import zlib

import torch
from torch import Tensor

_M1, _M2 = 0x7FEB352D, 0x846CA68B - (1 << 32)
CHUNK = 1 << 18  # elements hashed at a time, so that they stay in the processor's cache


def _mix_(x: Tensor) -> Tensor:
    """In place; every input bit moves about half of the output bits. int32, any shape."""
    x ^= (x >> 16) & 0xFFFF
    x *= _M1
    x ^= (x >> 15) & 0x1FFFF
    x *= _M2
    x ^= (x >> 16) & 0xFFFF
    return x


def _signed(value: int) -> int:
    value &= 0xFFFFFFFF
    return value - (1 << 32) if value >= 1 << 31 else value


class Draw:
    """Random numbers of the objects `index` (B,) of the sky `seed`. Each use names its own stream."""

    def __init__(self, seed: int, index: Tensor) -> None:
        self.index = index.to(torch.int64)
        self.device = index.device
        low = (self.index & 0xFFFFFFFF).to(torch.int64)
        low = torch.where(low >= 1 << 31, low - (1 << 32), low).to(torch.int32)
        key = _mix_(low ^ _signed(seed * 0x9E3779B1 + 0x7F4A7C15))
        self._key = _mix_(key + (self.index >> 32).to(torch.int32))

    def _bits(self, stream: str, count: int) -> Tensor:
        """(B, count) int32."""
        key = _mix_(self._key ^ _signed(zlib.crc32(stream.encode())))
        element = torch.arange(count, dtype=torch.int32, device=self.device) * _signed(0x9E3779B9)
        return _mix_(_mix_(key[:, None] + element))

    def uniform(self, stream: str, *shape: int) -> Tensor:
        """(B, *shape) float32, strictly between 0 and 1."""
        bits = self._bits(stream, math.prod(shape))
        return ((bits >> 9) & 0x7FFFFF).float().add_(0.5).mul_(2.0**-23).view(len(self.index), *shape)

    def normal(self, stream: str, *shape: int) -> Tensor:
        """(B, *shape) float32 of unit variance, by Box & Muller (1958)."""
        count = math.prod(shape)
        half = (count + 1) // 2
        out = torch.empty(len(self.index), 2 * half, device=self.device)
        rows = max(1, CHUNK // max(1, half))
        for start in range(0, len(self.index), rows):
            part = slice(start, start + rows)
            bits = Draw._rows(self, part)._bits(stream, 2 * half)
            unit = ((bits >> 9) & 0x7FFFFF).float().add_(0.5).mul_(2.0**-23)
            radius = unit[:, :half].log_().mul_(-2.0).sqrt_()
            angle = unit[:, half:].mul_(2 * math.pi)
            torch.mul(radius, angle.cos(), out=out[part, :half])
            torch.mul(radius, angle.sin_(), out=out[part, half:])
        return out[:, :count].view(len(self.index), *shape)

    def _rows(self, part: slice) -> Draw:
        """The same for some of the objects."""
        some = object.__new__(Draw)
        some.index, some.device, some._key = self.index[part], self.device, self._key[part]
        return some

    def choose(self, stream: str, weights: Tensor) -> Tensor:
        """(B,) numbers of classes, from weights (K,) or (B, K)."""
        edges = weights.cumsum(-1)
        u = self.uniform(stream, 1) * edges[..., -1:]
        return (u >= edges).sum(-1).clamp_max(weights.shape[-1] - 1)
