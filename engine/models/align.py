"""A contrastive head on the tokens of an encoder: what was seen and what was measured of an object, in one space.

A masked model has no such space, and means of its tokens cannot be brought into one (they match a spectrum to its image hardly
better than brightness does); a head that looks at all tokens can. As in AstroCLIP (Parker et al. 2024, MNRAS 531, 4990,
sec. 4.3), with the encoder left as it is.

How bright an object is tells it from its likes, but the encoder keeps that to some .1 mag only. Where a modality has a token
for it, whose id is exact, the last layers are told the id as waves of several lengths (Vaswani et al. 2017, sec. 3.5).

Shape letters: B batch, n tokens of a modality, R reduced numbers a token, W width, S width of the shared space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.astroclip import SCALE_RANGE
from engine.models.blocks import AttentionPool, Perceptron, initialise

WAVES = (16.0, 64.0, 256.0, 1024.0)  # lengths, in ids of a level
TOLD = 2 * len(WAVES) + 1  # numbers that a level is told in; all are 0 where there is none


@dataclass(frozen=True)
class AlignConfig:
    """inputs: space -> token key -> how many tokens; levels: the keys whose first token is a level; reduced: numbers a token
    (R); space: width of the shared vectors (S); scale: of the logits at the start."""

    inputs: Mapping[str, Mapping[str, int]]
    levels: tuple[str, ...] = ()
    reduced: int = 64
    width: int = 128
    heads: int = 4
    expand: int = 2
    space: int = 128
    scale: float = 15.5


class Reader(nn.Module):
    """The tokens of all modalities of a space into one vector, whichever of them an object has."""

    def __init__(self, tokens: Mapping[str, int], c: AlignConfig) -> None:
        super().__init__()
        self.levels = [key for key in tokens if key in c.levels]
        self.up = nn.ModuleDict({key: nn.Linear(c.reduced, c.width) for key in tokens})
        self.position = nn.ParameterDict({key: nn.Parameter(torch.zeros(n, c.width)) for key, n in tokens.items()})
        self.pool = AttentionPool(c.width, c.heads, c.expand)
        self.head = Perceptron(c.width + TOLD * len(self.levels), 2 * c.width, c.space)

    def pooled(self, tokens: Mapping[str, Tensor], there: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> Tensor:
        """tokens: key -> (B, m, R), there: key -> bool (B,), places: key -> (m,), which of the n tokens they are -> (B, W)."""
        x = torch.cat([F.gelu(self.up[key](value) + self.position[key][places[key]], approximate="tanh")
                       for key, value in tokens.items()], 1)
        seen = torch.cat([there[key][:, None].expand(value.shape[:2]) for key, value in tokens.items()], 1)
        return torch.as_tensor(self.pool(x, seen))

    def last(self, pooled: Tensor, there: Mapping[str, Tensor], levels: Mapping[str, Tensor]) -> Tensor:
        """What `pooled` gave, (B, W), and the levels, key -> ids (B,), of those that are there -> (B, S)."""
        with torch.autocast(pooled.device.type, enabled=False):
            told = [waves(levels[key]) * there[key][:, None] if key in levels else pooled.new_zeros(len(pooled), TOLD)
                    for key in self.levels]
            return F.normalize(self.head(torch.cat([pooled.float(), *told], 1)), dim=-1)


def waves(ids: Tensor) -> Tensor:
    """(B,) -> (B, TOLD): sines and cosines of ids, and a one."""
    x = ids.float()[:, None] * (2 * math.pi / torch.tensor(WAVES, device=ids.device))
    return torch.cat([x.sin(), x.cos(), torch.ones_like(x[:, :1])], 1)


class AlignHead(nn.Module):
    """One reader a space, all into the same space of unit vectors."""

    def __init__(self, config: AlignConfig) -> None:
        super().__init__()
        self.config = config
        self.readers = nn.ModuleDict({space: Reader(tokens, config) for space, tokens in config.inputs.items()})
        self.log_scale = nn.Parameter(torch.tensor(math.log(config.scale)))

    def init_weights(self, seed: int) -> None:
        initialise(self, 1, torch.Generator().manual_seed(seed))

    def forward(self, space: str, tokens: Mapping[str, Tensor], there: Mapping[str, Tensor], levels: Mapping[str, Tensor],
                places: Mapping[str, Tensor] | None = None) -> Tensor:
        """(B, S) unit vectors in float32; levels, places: as in `Reader`, no places where all tokens are given."""
        reader = cast(Reader, self.readers[space])
        return reader.last(reader.pooled(tokens, there, places or all_places(tokens)), there, levels)

    def scale(self) -> Tensor:
        return self.log_scale.exp().clamp(*SCALE_RANGE)


def all_places(tokens: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {key: torch.arange(value.shape[1], device=value.device) for key, value in tokens.items()}
