"""AdamW with weight decay on matrices only, and a learning rate that warms up and falls as a cosine."""

from __future__ import annotations

import math

import torch
from torch import nn


def adamw(model: nn.Module, rate: float, decay: float) -> torch.optim.AdamW:
    """Decoupled weight decay (Loshchilov & Hutter 2019) for matrices; none for biases, norms, positions, queries, scale."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        (matrices if p.ndim >= 2 and "position" not in name else others).append(p)
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-8)


def rate_at(step: int, steps: int, peak: float, warmup: int, floor: float = 0.01) -> float:
    """Linear warm-up, then a cosine down to floor * peak at the last step (Loshchilov & Hutter 2017)."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
