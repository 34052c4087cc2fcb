"""Transformer blocks, attention pooling and the small perceptrons around them.

Shape letters: B batch, T tokens, D width, H heads, K = D / H, S width of the shared space.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention, (B, H, T, K) each. Vaswani et al. 2017, eq. 1.

    On a CPU it is written out: the fused kernel's backward pass there runs at half the speed of three plain products
    at these lengths. Elsewhere the fused kernel is the fast one.
    """
    if q.device.type != "cpu":
        return F.scaled_dot_product_attention(q, k, v)
    return ((q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v


class Attention(nn.Module):
    """Multi-head self-attention over (B, T, D)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"a width of {width} cannot be shared among {heads} heads")
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        return self.out(attend(q, k, v).transpose(1, 2).reshape(b, t, d))


class Perceptron(nn.Module):
    """Linear, GELU, linear: (..., inputs) -> (..., outputs)."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.up = nn.Linear(inputs, hidden)
        self.down = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(F.gelu(self.up(x), approximate="tanh"))


class Block(nn.Module):
    """Pre-norm transformer block: attention and a perceptron, each added to what came in."""

    def __init__(self, width: int, heads: int, expand: int) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = Perceptron(width, expand * width, width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x))
        return x + self.mlp(self.norm_mlp(x))


class AttentionPool(nn.Module):
    """One learned query looks at all tokens; then a residual perceptron: (B, T, D) -> (B, D).

    The head of AstroCLIP (Parker et al. 2024, MNRAS 531, 4990, sec. 4.3), with the residual for both modalities.
    """

    def __init__(self, width: int, heads: int, expand: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Parameter(torch.zeros(width))
        self.norm_tokens = nn.LayerNorm(width)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = Perceptron(width, expand * width, width)

    def forward(self, x: Tensor, seen: Tensor | None = None) -> Tensor:
        """seen: bool (B, T), True where a token counts (one a row at least); None: all do.

        With one query, keys and values need not be made of every token: q . (K x) = (K^T q) . x, and the mean of V x is V of
        the mean.
        """
        x = self.norm_tokens(x)
        key, value = self.kv.weight.unflatten(0, (2, self.heads, -1))  # (H, K, D) each
        query = self.query.view(self.heads, 1, -1) * key.shape[1] ** -0.5
        scores = x @ (query @ key)[:, 0].T  # (B, T, H)
        if seen is not None:
            scores = scores.masked_fill(~seen[..., None], -torch.inf)
        means = scores.softmax(1).transpose(1, 2).to(x.dtype) @ x  # (B, H, D)
        pooled = self.out((means.transpose(0, 1) @ value.transpose(1, 2)).transpose(0, 1).flatten(1))
        return pooled + self.mlp(self.norm_mlp(pooled))


def initialise(module: nn.Module, layers: int, generator: torch.Generator) -> None:
    """Fill every tensor in place, from one generator and in the order of `named_parameters`.

    | tensor                         | start                                                        |
    |--------------------------------|--------------------------------------------------------------|
    | LayerNorm weight, bias         | 1, 0                                                         |
    | other biases                   | 0                                                            |
    | matrices                       | normal, 1 / sqrt(inputs)                                     |
    | out and mlp.down of the blocks | the same, divided by sqrt(2 layers) (Radford et al. 2019)    |
    | positions, queries             | normal, 0.02                                                 |
    | log_scale                      | left as constructed                                          |
    """
    norms = {f"{name}.weight" for name, m in module.named_modules() if isinstance(m, nn.LayerNorm)}
    with torch.no_grad():
        for name, p in module.named_parameters():
            if name in norms:
                p.fill_(1.0)
            elif name.endswith("bias"):
                p.zero_()
            elif name.endswith("log_scale"):
                continue
            elif p.ndim < 2 or "position" in name:
                p.normal_(0.0, 0.02, generator=generator)
            else:
                std = p.shape[-1] ** -0.5
                if ".blocks." in name and name.endswith(("attention.out.weight", "mlp.down.weight")):
                    std /= (2 * layers) ** 0.5
                p.normal_(0.0, std, generator=generator)
