"""Labels on an even grid that are spread over neighbouring bins, so that a bin also learns from those beside it; and back."""

from __future__ import annotations

import torch
from torch import Tensor

ROUNDS = 50  # more change nothing in how well posteriors are calibrated


def spread(vocabulary: int, width: float) -> Tensor:
    """(V, V): for each id a Gaussian about it, in bins, which sums to 1."""
    bins = torch.arange(vocabulary)
    shares = torch.exp(-0.5 * ((bins[:, None] - bins) / width) ** 2)
    return shares / shares.sum(1, keepdim=True)


def unspread(logits: Tensor, width: float) -> Tensor:
    """Logits (..., V) of a model that was trained on spread labels -> those of the labels themselves.

    What such a model says is the posterior convolved with the Gaussian; the iteration of Richardson (1972) and Lucy (1974)
    takes it off, and keeps every probability positive and their sum 1.
    """
    kernel = spread(logits.shape[-1], width).to(logits)
    said = logits.softmax(-1)
    found = said.clone()
    for _ in range(ROUNDS):
        found = found * ((said / (found @ kernel).clamp_min(1e-30)) @ kernel.T)
    return found.clamp_min(1e-30).log()
