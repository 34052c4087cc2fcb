"""What is measured on images: PSNR, magnitudes, orientation, half-light radius, power by scale; only observed pixels count.

Shape letters: B images, C bands, N pixels a side, S scales.
"""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor

FAINTEST = 1e-3  # nmgy
APERTURE = 2.0  # arcsec, of magnitudes
WINDOW, REACH = 1.2, 5.0  # arcsec: sigma of the weight of moments, and how far they look
SCALES = (8.0, 4.0, 2.0, 1.2, 0.8, 0.5, 0.336)  # arcsec: ends of rings in a power spectrum


@lru_cache(maxsize=8)
def axes(side: int, scale: float) -> tuple[Tensor, Tensor]:
    """x (N,), y (N, 1) in arcsec from the middle."""
    axis = (torch.arange(side) - (side - 1) / 2) * scale
    return axis, axis[:, None]


def psnr(pixels: Tensor, truth: Tensor, seen: Tensor) -> Tensor:
    """(B,) dB of (B, C, N, N), of the truth's brightest pixel, the mean over bands; NaN where nothing was observed."""
    peak = truth.masked_fill(~seen, -torch.inf).flatten(2).amax(2)
    error = ((pixels - truth).square() * seen).flatten(2).sum(2) / seen.flatten(2).sum(2)
    return (10 * torch.log10(peak.square() / error.clamp_min(1e-12))).nan_to_num(torch.nan, torch.nan, torch.nan).nanmean(1)


def light(pixels: Tensor, radius: float, scale: float) -> Tensor:
    """(B, C): flux within a radius (arcsec) of the middle."""
    x, y = axes(pixels.shape[-1], scale)
    return (pixels * ((x**2 + y**2) <= radius**2)).sum((-1, -2))


def magnitudes(pixels: Tensor, scale: float) -> Tensor:
    """(B, C) within `APERTURE`, of fluxes in nmgy."""
    return 22.5 - 2.5 * torch.log10(light(pixels, APERTURE, scale).clamp_min(FAINTEST))


def half_light(pixels: Tensor, scale: float) -> Tensor:
    """(B,) arcsec: the radius that holds half of the light within `REACH`, of (B, N, N)."""
    radii = torch.arange(0.0, REACH + 1e-6, scale / 2)
    x, y = axes(pixels.shape[-1], scale)
    inside = ((x**2 + y**2)[None] <= radii[:, None, None] ** 2).float()
    growth = (pixels.flatten(1) @ inside.flatten(1).T).cummax(1).values
    share = growth / growth[:, -1:].clamp_min(1e-9)
    above = (share >= 0.5).int().argmax(1).clamp_min(1)
    low, high = (share.gather(1, at[:, None])[:, 0] for at in (above - 1, above))
    return radii[above - 1] + (0.5 - low) / (high - low).clamp_min(1e-6) * (scale / 2)


def shapes(pixels: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Ellipticity and position angle (B,) of (B, N, N) from second moments under a Gaussian weight, in radians."""
    x, y = axes(pixels.shape[-1], scale)
    weight = torch.exp(-(x**2 + y**2) / (2 * WINDOW**2)) * ((x**2 + y**2) <= REACH**2) * pixels.clamp_min(0)
    total = weight.sum((1, 2)).clamp_min(1e-9)
    cx, cy = ((weight * at).sum((1, 2)) / total for at in (x, y))
    dx, dy = x - cx[:, None, None], y - cy[:, None, None]
    xx, yy, xy = ((weight * product).sum((1, 2)) / total for product in (dx * dx, dy * dy, dx * dy))
    one, two = (xx - yy) / (xx + yy), 2 * xy / (xx + yy)
    return torch.hypot(one, two), 0.5 * torch.atan2(two, one)


def turned(a: Tensor, b: Tensor) -> Tensor:
    """Degrees from 0 to 90 between two position angles in radians."""
    off = torch.remainder(a - b, math.pi)
    return torch.rad2deg(torch.minimum(off, math.pi - off))


@lru_cache(maxsize=8)
def rings(side: int, scale: float) -> Tensor:
    """(S, N, N / 2 + 1): which waves are between two of `SCALES`, wavelengths in arcsec."""
    ky, kx = torch.fft.fftfreq(side, scale), torch.fft.rfftfreq(side, scale)
    k = torch.hypot(ky[:, None], kx)
    return torch.stack([(k >= 1 / long) & (k < 1 / short) for long, short in pairwise(SCALES)]).float()


def spectra(pixels: Tensor, truth: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Power over the truth's, and coherence with it, (B, S) each, of (B, N, N) under a window that falls to 0 at the edge."""
    side = pixels.shape[-1]
    window = torch.hann_window(side, periodic=False)
    a, b = (torch.fft.rfft2(x * window * window[:, None]) for x in (pixels, truth))
    ring = rings(side, scale)
    own, true, cross = (torch.einsum("byx,syx->bs", x, ring) for x in (a.abs() ** 2, b.abs() ** 2, (a * b.conj()).real))
    return own / true.clamp_min(1e-20), cross / (own * true).clamp_min(1e-30).sqrt()


def scale_names() -> list[str]:
    return [f'{long:g}-{short:g}"' for long, short in pairwise(SCALES)]
