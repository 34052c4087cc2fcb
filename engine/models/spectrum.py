"""Specformer: a transformer over windows of a spectrum (Parker et al. 2024, MNRAS 531, 4990, sec. 4.2).

As there: the mean is taken off, the rest divided by its scatter, cut into windows of 20 pixels, and one token carries mean and
scatter. Other than there: pixels are bins of four DESI pixels (3.2 A), windows do not overlap, each pixel comes with its
quality, mean and scatter are logarithms (ours span four decades), and that token also carries the fluxes in broad bands.

Shape letters: B batch, W bins, P pixels a window, T windows, M broad bands, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from engine.models.blocks import AttentionPool, Block, Perceptron
from engine.models.inputs import WavelengthGrid, rebin

FLOOR = 0.05  # of the scatter, in 1e-17 erg/s/cm2/A: a spectrum of nothing stays small
BROAD = 24
NEIGHBOURHOOD = 12  # that many make up the range, about 500 Angstrom each; what is narrower is a line or a break
CONTRAST = 0.1  # where the contrast of a line turns from linear to logarithmic


def normalise(flux: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Shape, quality, mean and scatter of binned spectra (B, W).

    shape: (flux - mean) / scatter, pressed together by asinh beyond a few; quality: 1 / (1 + (noise / scatter)^2), 0 where
    nothing was measured. mean and scatter: (B, 1), over the measured bins.
    """
    good = (weight > 0).float()
    count = good.sum(1, keepdim=True).clamp_min(1.0)
    mean = (flux * good).sum(1, keepdim=True) / count
    scatter = (((flux - mean) * good) ** 2).sum(1, keepdim=True).div(count).sqrt().clamp_min(FLOOR)
    noise = 1.0 / (weight * scatter).clamp_min(1e-6)
    quality = good / (1 + noise**2)
    return 3 * torch.asinh((flux - mean) / scatter / 3) * good, quality, mean, scatter


class Specformer(nn.Module):
    """Binned spectra -> one vector (B, D)."""

    centres: Tensor
    broad_edges: Tensor

    def __init__(self, grid: WavelengthGrid, window: int, width: int, layers: int, heads: int, expand: int) -> None:
        super().__init__()
        self.window = window
        self.windows = -(-grid.bins // window)
        self.register_buffer("centres", grid.centres().float(), persistent=False)
        self.register_buffer("broad_edges", broad_edges(grid), persistent=False)
        self.embed = nn.Linear(2 * window, width)
        self.position = nn.Parameter(torch.zeros(self.windows, width))
        self.statistics = Perceptron(3 * BROAD + 3, 2 * width, width)
        self.blocks = nn.ModuleList([Block(width, heads, expand) for _ in range(layers)])
        self.pool = AttentionPool(width, heads, expand)

    def levels(self, flux: Tensor, weight: Tensor, mean: Tensor, scatter: Tensor) -> Tensor:
        """The token of mean and scatter (B, D), with the broad bands. Always in float32."""
        broad, certainty = rebin(flux, weight, self.broad_edges, self.centres)
        level = torch.asinh(broad / 0.2) / 2.302585
        there = (certainty > 0).float()
        middle = (level * there).sum(1, keepdim=True) / there.sum(1, keepdim=True).clamp_min(1.0)
        signal = torch.asinh(broad * certainty) / 5
        with torch.autocast(flux.device.type, enabled=False):
            return self.statistics(torch.cat([(level - middle) * there * 5, signal, there, middle - 1.5,
                                              torch.asinh(mean / 0.2) / 2.302585 - 1.5, torch.log10(scatter)], dim=1))

    def tokens(self, flux: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens after the last block (B, T + 1, D), and the vector of levels (B, D)."""
        shape, quality, mean, scatter = normalise(flux, weight)
        short = self.windows * self.window - flux.shape[1]
        pixels = torch.stack([nn.functional.pad(shape, (0, short)), nn.functional.pad(quality, (0, short))], dim=-1)
        x = self.embed(pixels.unflatten(1, (self.windows, self.window)).flatten(2)) + self.position
        levels = self.levels(flux, weight, mean, scatter)
        x = torch.cat([x, levels[:, None]], dim=1)
        for block in self.blocks:
            x = block(x)
        return x, levels

    def forward(self, flux: Tensor, weight: Tensor) -> Tensor:
        """flux, weight (1 / sigma): (B, W) as `prepare_spectrum` makes them."""
        x, levels = self.tokens(flux, weight)
        return self.pool(x).float() + levels


def drawing(truth: Tensor, grid: WavelengthGrid, count: int) -> Tensor:
    """What a vector is asked to draw of noise-free spectra (B, L) on the pixels of the grid: (B, 2, count), in even steps of
    the logarithm of wavelength, so that a redshift is a shift.

    First the shape, (flux - mean) / scatter; then the lines and breaks, contrasts to the mean of the neighbourhood. All
    lines count alike in the second, strong or weak, so that nothing draws it well without the redshift.
    """
    edges = logarithmic_edges(grid, count).to(truth.device)
    target = (torch.bucketize(grid.wavelength().float().to(truth.device), edges) - 1).clamp(0, count - 1)
    pixels = torch.bincount(target, minlength=count).clamp_min(1)
    mean = torch.zeros(len(truth), count, device=truth.device).index_add_(1, target, truth.float()) / pixels
    scatter = mean.std(1, keepdim=True).clamp_min(FLOOR)
    shape = ((mean - mean.mean(1, keepdim=True)) / scatter).clamp(-4, 8)
    reach = count // NEIGHBOURHOOD // 2
    around = nn.functional.avg_pool1d(mean[:, None], 2 * reach + 1, 1, reach, count_include_pad=False)[:, 0]
    contrast = (mean - around) / (around.abs() + FLOOR)
    return torch.stack([shape, torch.asinh(contrast / CONTRAST)], dim=1)


def broad_edges(grid: WavelengthGrid) -> Tensor:
    """(M + 1,) edges of the broad bands, equally wide in the logarithm; the first and last include the ends."""
    return logarithmic_edges(grid, BROAD)


def logarithmic_edges(grid: WavelengthGrid, count: int) -> Tensor:
    """(count + 1,) edges in Angstrom, equally far apart in the logarithm, that hold every bin of the grid."""
    centres = grid.centres()
    low, high = torch.log(centres[0] - 1.0), torch.log(centres[-1] + 1.0)
    return torch.exp(torch.linspace(float(low), float(high), count + 1, dtype=torch.float64)).float()
