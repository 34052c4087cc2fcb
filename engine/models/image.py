"""A vision transformer over the stamps of two surveys at once, any subset of their nine bands.

Each band has its own patch embedding, as each field has in Multiple Physics Pretraining (McCabe et al. 2023, sec. 4.2);
those that are there are added up and the sum scaled by how many are missing. Both surveys' patches cover the same pieces
of sky, so they add up too: 64 fine patches of 1.05" (the inner 8.4") and 16 coarse ones of 4.2" (16.8"). A last token carries
the photometry measured on the same pixels.

Shape letters: B batch, C channels (bands of all surveys), N pixels a side, A apertures, T tokens, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.models.blocks import AttentionPool, Block, Perceptron
from engine.models.inputs import APERTURES, CHANNELS, FIELDS, Field, crop

GRID = 8  # fine patches a side
COARSE = 4  # coarse patches a side
REFERENCE = 3  # the aperture (1.5") whose mean over bands stands for the object's brightness


def patches(stamp: Tensor, size: int) -> Tensor:
    """(B, C, N, N) -> (B, C, (N / size)^2, size^2)."""
    b, c, n, _ = stamp.shape
    side = n // size
    return stamp.reshape(b, c, side, size, side, size).transpose(3, 4).reshape(b, c, side * side, size * size)


class PatchEmbed(nn.Module):
    """Patches of one survey to tokens, one matrix a band: (B, C, N, N) -> (B, 64 + 16, D)."""

    def __init__(self, field: Field, width: int) -> None:
        super().__init__()
        self.size = field.size
        self.fine_size = field.size // 2 // GRID
        self.coarse_size = field.size // 2 // COARSE  # of the stamp averaged over 2 x 2 pixels
        bands = len(field.bands)
        self.fine = nn.Linear(bands * self.fine_size**2, width, bias=False)
        self.coarse = nn.Linear(bands * self.coarse_size**2, width, bias=False)

    def forward(self, stamp: Tensor) -> Tensor:
        fine = patches(crop(stamp, self.size // 2), self.fine_size).transpose(1, 2).flatten(2)
        coarse = patches(nn.functional.avg_pool2d(stamp, 2), self.coarse_size).transpose(1, 2).flatten(2)
        return torch.cat([self.fine(fine), self.coarse(coarse)], dim=1)


class Photometry(nn.Module):
    """Aperture fluxes of all channels as one vector: (B, C, A + 1), (B, C) -> (B, D). Always in float32.

    The brightness, then every channel's and aperture's departure from it, so that a colour of a hundredth of a
    magnitude is not lost beside five magnitudes of brightness.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inputs = len(CHANNELS) * (len(APERTURES) + 2) + len(APERTURES)
        self.mlp = Perceptron(inputs, 2 * width, width)

    def forward(self, photometry: Tensor, present: Tensor) -> Tensor:
        there = present.float()[..., None]
        fluxes, noise = photometry[..., :-1].float(), photometry[..., -1:].float()
        mean = (fluxes * there).sum(1) / there.sum(1).clamp_min(1.0)  # (B, A)
        colours = (fluxes - mean[:, None]) * there * 5.0
        growth = mean - mean[:, REFERENCE : REFERENCE + 1]
        growth = torch.cat([mean[:, REFERENCE : REFERENCE + 1] - 1.5, growth[:, :REFERENCE] * 3,
                            growth[:, REFERENCE + 1 :] * 3], dim=1)
        with torch.autocast(photometry.device.type, enabled=False):
            return self.mlp(torch.cat([growth, colours.flatten(1), (noise * there).flatten(1), there.flatten(1)], dim=1))


class ImageEncoder(nn.Module):
    """Stamps, photometry and which channels there are -> one vector (B, D)."""

    def __init__(self, width: int, layers: int, heads: int, expand: int) -> None:
        super().__init__()
        self.embed = nn.ModuleDict({field.survey: PatchEmbed(field, width) for field in FIELDS})
        self.photometry = Photometry(width)
        self.position = nn.Parameter(torch.zeros(GRID**2 + COARSE**2, width))
        self.blocks = nn.ModuleList([Block(width, heads, expand) for _ in range(layers)])
        self.pool = AttentionPool(width, heads, expand)

    def tokens(self, stamps: dict[str, Tensor], photometry: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens after the last block (B, 81, D), and the photometry vector (B, D)."""
        there = present.to(photometry.dtype)
        scale = (len(CHANNELS) / there.sum(1).clamp_min(1.0)).sqrt()
        x = sum(self.embed[survey](stamp) for survey, stamp in stamps.items())  # absent bands are zero
        x = x * scale[:, None, None] + self.position
        measured = self.photometry(photometry, present)
        x = torch.cat([x, measured[:, None]], dim=1)
        for block in self.blocks:
            x = block(x)
        return x, measured

    def forward(self, stamps: dict[str, Tensor], photometry: Tensor, present: Tensor) -> Tensor:
        """stamps: survey -> (B, C, N, N) in the order of `CHANNELS`; photometry (B, C, A + 1); present (B, C)."""
        x, measured = self.tokens(stamps, photometry, present)
        return self.pool(x).float() + measured
