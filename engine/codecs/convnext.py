"""ConvNeXt V2 in one dimension (Woo et al. 2023, arXiv:2301.00808), channels last throughout.

What runs from block to block stays in float32; the products are computed in the type of their weights.

Shape letters: B batch, L length, W width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

EPSILON = 1e-6


class Norm(nn.LayerNorm):
    """Layer norm over the last axis."""

    def __init__(self, width: int, eps: float = EPSILON) -> None:
        super().__init__(width, eps=eps)


class Down(nn.Module):
    """A convolution whose stride is its length, as one product: `steps` neighbours to one, (B, L, V) -> (B, L / steps, W)."""

    def __init__(self, inputs: int, outputs: int, steps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, inputs, steps))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        steps = self.weight.shape[2]
        x = x.to(self.weight.dtype).unflatten(1, (-1, steps)).flatten(2)
        return F.linear(x, self.weight.transpose(1, 2).flatten(1), self.bias).float()


class Up(nn.Module):
    """The reverse, a transposed convolution: each to `steps` neighbours, (B, L, V) -> (B, L steps, W)."""

    def __init__(self, inputs: int, outputs: int, steps: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(inputs, outputs, steps))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        steps = self.weight.shape[2]
        x = F.linear(x.to(self.weight.dtype), self.weight.permute(2, 1, 0).flatten(0, 1), self.bias.repeat(steps))
        return x.unflatten(2, (steps, -1)).flatten(1, 2).float()


class Block(nn.Module):
    """Depthwise convolution over seven, norm, perceptron with global response norm, added to what came in: (B, L, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(width, width, 7, padding=3, groups=width)
        self.norm = Norm(width)
        self.up = nn.Linear(width, 4 * width)
        self.gamma = nn.Parameter(torch.zeros(4 * width))
        self.beta = nn.Parameter(torch.zeros(4 * width))
        self.down = nn.Linear(4 * width, width)

    def _depthwise(self, x: Tensor) -> Tensor:
        """As an image of one row, whose channels may lie last in memory: nothing has to be moved."""
        conv = self.depthwise
        x = x.transpose(1, 2).unsqueeze(2)
        return F.conv2d(x, conv.weight.unsqueeze(2), conv.bias, padding=(0, 3), groups=conv.groups).squeeze(2).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.up(self.norm(self._depthwise(x)).to(self.up.weight.dtype)))
        size = y.square().sum(1, keepdim=True).float().sqrt()
        response = size / (size.mean(-1, keepdim=True) + EPSILON)
        # x + gamma x N + beta (eq. 3 of the paper) is a scale of every channel and a shift: the shift goes into the next bias.
        scale = (1 + self.gamma * response).to(y.dtype)
        y = y * scale if torch.is_grad_enabled() else y.mul_(scale)
        return x + F.linear(y, self.down.weight, self.down.bias + self.down.weight @ self.beta.to(y.dtype))


def blocks(width: int, depth: int) -> nn.Sequential:
    return nn.Sequential(*(Block(width) for _ in range(depth)))


def encoder(inputs: int, depths: Sequence[int], widths: Sequence[int]) -> nn.Sequential:
    """(B, L, inputs) -> (B, L / 32, widths[-1]) for four stages: steps of 4, 2, 2, 2 and blocks after each."""
    stages = []
    for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        change = [Norm(widths[i - 1]), Down(widths[i - 1], width, 2)] if i else [Down(inputs, width, 4), Norm(width)]
        stages.append(nn.Sequential(nn.Sequential(*change), blocks(width, depth)))
    return nn.Sequential(*stages)


def decoder(inputs: int, depths: Sequence[int], widths: Sequence[int]) -> nn.Sequential:
    """(B, L / 32, inputs) -> (B, L, widths[-1]) for four stages: steps of 2, 2, 2, 4 and blocks after each."""
    stages = []
    for i, (depth, width) in enumerate(zip(depths, widths, strict=True)):
        steps = 4 if 0 < i == len(depths) - 1 else 2
        change = [Norm(widths[i - 1]), Up(widths[i - 1], width, steps)] if i else [Up(inputs, width, 2), Norm(width)]
        stages.append(nn.Sequential(nn.Sequential(*change), blocks(width, depth)))
    return nn.Sequential(*stages)
