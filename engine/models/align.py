"""A contrastive head on the tokens of an encoder: what was seen and what was measured of an object, in one space.

A masked model has no such space, and means of its tokens cannot be brought into one (they match a spectrum to its image hardly
better than brightness does); a head that looks at all tokens can. As in AstroCLIP (Parker et al. 2024, MNRAS 531, 4990,
sec. 4.3), with the encoder left as it is.

Shape letters: B batch, n tokens of a modality, R reduced numbers a token, W width, S width of the shared space.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.astroclip import SCALE_RANGE
from engine.models.blocks import AttentionPool, Perceptron, initialise


@dataclass(frozen=True)
class AlignConfig:
    """inputs: space -> token key -> how many tokens; reduced: numbers a token (R); space: width of the shared vectors (S);
    scale: of the logits at the start."""

    inputs: Mapping[str, Mapping[str, int]]
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
        self.up = nn.ModuleDict({key: nn.Linear(c.reduced, c.width) for key in tokens})
        self.position = nn.ParameterDict({key: nn.Parameter(torch.zeros(n, c.width)) for key, n in tokens.items()})
        self.pool = AttentionPool(c.width, c.heads, c.expand)
        self.head = Perceptron(c.width, 2 * c.width, c.space)

    def forward(self, tokens: Mapping[str, Tensor], there: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> Tensor:
        """tokens: key -> (B, m, R), there: key -> bool (B,), places: key -> (m,), which of the n tokens they are -> (B, S)."""
        x = torch.cat([F.gelu(self.up[key](value) + self.position[key][places[key]], approximate="tanh")
                       for key, value in tokens.items()], 1)
        seen = torch.cat([there[key][:, None].expand(value.shape[:2]) for key, value in tokens.items()], 1)
        pooled = self.pool(x, seen)
        with torch.autocast(pooled.device.type, enabled=False):
            return F.normalize(self.head(pooled.float()), dim=-1)


class AlignHead(nn.Module):
    """One reader a space, all into the same space of unit vectors."""

    def __init__(self, config: AlignConfig) -> None:
        super().__init__()
        self.config = config
        self.readers = nn.ModuleDict({space: Reader(tokens, config) for space, tokens in config.inputs.items()})
        self.log_scale = nn.Parameter(torch.tensor(math.log(config.scale)))

    def init_weights(self, seed: int) -> None:
        initialise(self, 1, torch.Generator().manual_seed(seed))

    def forward(self, space: str, tokens: Mapping[str, Tensor], there: Mapping[str, Tensor],
                places: Mapping[str, Tensor] | None = None) -> Tensor:
        """(B, S) unit vectors in float32; places: as in `Reader`, None where all tokens are given."""
        if places is None:
            places = {key: torch.arange(value.shape[1], device=value.device) for key, value in tokens.items()}
        return self.readers[space](tokens, there, places)

    def scale(self) -> Tensor:
        return self.log_scale.exp().clamp(*SCALE_RANGE)
