"""AdamW with weight decay on matrices only, a learning rate that warms up and falls as a cosine, and averaged weights."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


def adamw(model: nn.Module, rate: float, decay: float) -> torch.optim.AdamW:
    """Decoupled weight decay (Loshchilov & Hutter 2019) for matrices; none for biases, norms, positions, queries, scale."""
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, p in model.named_parameters():
        (matrices if p.ndim >= 2 and "position" not in name else others).append(p)
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.98), eps=1e-8, fused=matrices[0].is_cuda)


def adamw_omni(model: nn.Module, rate: float, decay: float, betas: tuple[float, float]) -> torch.optim.AdamW:
    """The same for what is trained of a transformer of tokens: vectors of ids, modalities, masks and registers do not decay
    either."""
    vectors = ("token_emb.weight", "mod_emb", "mask_token", "register_tokens")
    matrices: list[nn.Parameter] = []
    others: list[nn.Parameter] = []
    for name, p in ((name, p) for name, p in model.named_parameters() if p.requires_grad):
        (matrices if p.ndim == 2 and not name.endswith(vectors) else others).append(p)
    groups = [{"params": matrices, "weight_decay": decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=1e-8, fused=True)


@torch.no_grad()
def average(kept: list[Tensor], new: list[Tensor], keep: float, step: int) -> None:
    """Move averaged weights towards new ones (Polyak & Juditsky 1992), faster in the first steps."""
    torch._foreach_lerp_(kept, new, 1 - min(keep, (1 + step) / (10 + step)))


def rate_at(step: int, steps: int, peak: float, warmup: int, floor: float = 0.01, flat: int = 0) -> float:
    """Linear warm-up, `flat` steps at the peak, a cosine down to floor * peak at the last step (Loshchilov & Hutter 2017)."""
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = max(0, step - warmup - flat) / max(1, steps - warmup - flat)
    return peak * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress))))
