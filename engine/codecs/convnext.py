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

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=EPSILON)


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


class Plain(nn.Module):
    """Norm, perceptron on three neighbours, GELU, the same again, added to what came in: (B, L, W).

    Convolutions written as products: on a CPU their gradients cost half as much.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = Norm(width)
        self.first = nn.Linear(3 * width, width)
        self.second = nn.Linear(3 * width, width)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = F.gelu(self.first(neighbours(self.norm(x).to(self.first.weight.dtype))))
        return x + self.second(neighbours(y)).float()


def neighbours(x: Tensor) -> Tensor:
    """Each with the one before and the one after it: (B, L, W) -> (B, L, 3 W); zeros beyond the ends."""
    x = F.pad(x, (0, 0, 1, 1))
    return torch.cat([x[:, :-2], x[:, 1:-1], x[:, 2:]], -1)


def blocks(width: int, depth: int, plain: bool = False) -> nn.Sequential:
    return nn.Sequential(*((Plain if plain else Block)(width) for _ in range(depth)))


def encoder(inputs: int, depths: Sequence[int], widths: Sequence[int], strides: Sequence[int], plain: bool) -> nn.Sequential:
    """(B, L, inputs) -> (B, L / product of strides, widths[-1]): a stage a stride, with blocks after each."""
    stages = []
    for i, (depth, width, stride) in enumerate(zip(depths, widths, strides, strict=True)):
        change = [Norm(widths[i - 1]), Down(widths[i - 1], width, stride)] if i else [Down(inputs, width, stride), Norm(width)]
        stages.append(nn.Sequential(nn.Sequential(*change), blocks(width, depth, plain)))
    return nn.Sequential(*stages)


def decoder(inputs: int, depths: Sequence[int], widths: Sequence[int], strides: Sequence[int], plain: bool) -> nn.Sequential:
    """(B, L, inputs) -> (B, L times product of strides, widths[-1]): a stage a stride, with blocks after each."""
    stages = []
    for i, (depth, width, stride) in enumerate(zip(depths, widths, strides, strict=True)):
        change = [Norm(widths[i - 1]), Up(widths[i - 1], width, stride)] if i else [Up(inputs, width, stride), Norm(width)]
        stages.append(nn.Sequential(nn.Sequential(*change), blocks(width, depth, plain)))
    return nn.Sequential(*stages)
