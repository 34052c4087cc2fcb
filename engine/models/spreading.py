"""Labels on an even grid that are spread over neighbouring bins, so that a bin also learns from those beside it; and back."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

ROUNDS = 50  # more change nothing in how well posteriors are calibrated
REACH = 8  # widths beyond which a Gaussian is nothing in float32


def spread(vocabulary: int, width: float) -> Tensor:
    """(V, V): for each id a Gaussian about it, in bins, which sums to 1."""
    bins = torch.arange(vocabulary)
    shares = torch.exp(-0.5 * ((bins[:, None] - bins) / width) ** 2)
    return shares / shares.sum(1, keepdim=True)


def unspread(logits: Tensor, width: float) -> Tensor:
    """Logits (..., V) of a model that was trained on spread labels -> those of the labels themselves.

    What such a model says is the posterior convolved with the Gaussian; the iteration of Richardson (1972) and Lucy (1974)
    takes it off, and keeps every probability positive and their sum 1. The Gaussian is a few bins wide, and so is the work.
    """
    taps = _gaussian(min(logits.shape[-1] - 1, int(REACH * width) + 1), width)
    sums = _convolved(logits.new_ones(logits.shape[-1]), taps)  # less than whole at the ends, where `spread` fills up
    said = logits.softmax(-1)
    found = said.clone()
    for _ in range(ROUNDS):
        found = found * _convolved(said / _convolved(found / sums, taps).clamp_min(1e-30), taps) / sums
    return found.clamp_min(1e-30).log()


def _gaussian(reach: int, width: float) -> list[float]:
    """2 reach + 1 values, the middle one 1."""
    return torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / width) ** 2).tolist()


def _convolved(x: Tensor, taps: list[float]) -> Tensor:
    """(..., V), with 0 beyond its ends. In shifted sums: for many rows, torch's convolution of one channel takes six times as
    long."""
    reach, n = len(taps) // 2, x.shape[-1]
    padded = F.pad(x, (reach, reach))
    out = padded[..., :n] * taps[0]
    for k, weight in enumerate(taps[1:], 1):
        out.add_(padded[..., k : k + n], alpha=weight)
    return out
