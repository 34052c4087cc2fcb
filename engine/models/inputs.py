"""From measured pixels to what the encoders take: noise-scaled stamps, photometry in apertures, binned spectra.

Shape letters: B batch, C bands of one survey, N pixels a side, A apertures, L wavelengths, W bins.
Everything here is measured on the object's own pixels; no catalogue value enters.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

APERTURES = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.5, 7.0)  # radii in arcsec; 0.75 is the DESI fibre, 1.5 the SDSS fibre
SOFTENING = 0.05  # nmgy; where asinh fluxes turn from linear to logarithmic, about the sky noise in a small aperture


@dataclass(frozen=True)
class Field:
    """One survey's stamp as the model takes it. scale: arcsec a pixel; nmgy: of one unit; size: pixels a side."""

    survey: str
    bands: tuple[str, ...]
    wavelengths: tuple[float, ...]
    scale: float
    nmgy: float
    size: int


LEGACY = Field("legacy", ("g", "r", "i", "z"), (4890.0, 6470.0, 7848.0, 9196.0), 0.262, 1.0, 64)
HSC = Field("hsc", ("g", "r", "i", "z", "y"), (4844.0, 6259.0, 7730.0, 8912.0, 9787.0), 0.168, 10**-1.8, 96)
FIELDS = (LEGACY, HSC)
CHANNELS = tuple((f.survey, band) for f in FIELDS for band in f.bands)


@dataclass(frozen=True)
class WavelengthGrid:
    """The DESI grid, and bins of it: bin i covers `binning` pixels. Angstrom, vacuum."""

    start: float = 3600.0
    step: float = 0.8
    pixels: int = 7781
    binning: int = 4

    @property
    def bins(self) -> int:
        return self.pixels // self.binning

    def wavelength(self) -> Tensor:
        """(L,) of the pixels."""
        return self.start + self.step * torch.arange(self.pixels, dtype=torch.float64)

    def centres(self) -> Tensor:
        """(W,) of the bins."""
        return self.wavelength()[: self.bins * self.binning].view(-1, self.binning).mean(1)


def crop(pixels: Tensor, size: int) -> Tensor:
    """The central (..., size, size). Raises ValueError if there is less."""
    ny, nx = pixels.shape[-2:]
    if ny < size or nx < size:
        raise ValueError(f"a stamp of {ny} x {nx} pixels is smaller than {size} x {size}; pad it with masked pixels first")
    y, x = (ny - size) // 2, (nx - size) // 2
    return pixels[..., y : y + size, x : x + size]


def prepare_image(pixels: Tensor, ivar: Tensor, mask: Tensor, field: Field) -> dict[str, Tensor]:
    """A survey's stamp, ready for the encoder.

    pixels, ivar, mask: (B, C, >= N, >= N) in the survey's unit. Returns "stamp" (B, C, N, N): asinh(flux / 3 sigma) / 2,
    0 where bad; "photometry" (B, C, A + 1): asinh aperture fluxes (see `measure`), last the log of the noise;
    "present" (B, C): False where most of the centre is bad, then the rest of that band is 0.
    """
    pixels, ivar, mask = (crop(x, field.size) for x in (pixels, ivar, mask))
    good = ~mask & torch.isfinite(pixels) & torch.isfinite(ivar) & (ivar > 0)
    flux = torch.where(good, pixels, 0.0).float() * field.nmgy
    weight = torch.where(good, ivar, 0.0).float()
    count = good.sum((-2, -1)).clamp_min(1)
    sigma = (weight.sum((-2, -1)) / count).clamp_min(1e-20).rsqrt() * field.nmgy
    middle = crop(good, field.size // 4).float().mean((-2, -1))
    present = (middle > 0.5) & (flux.abs().amax((-2, -1)) > 0)
    stamp = 0.5 * asinh(flux / (3 * sigma[..., None, None]))
    fluxes = measure(flux, good, sigma, field.scale)
    photometry = torch.cat([asinh_flux(fluxes), torch.log10(sigma)[..., None] + 2.0], dim=-1)
    keep = present.float()
    return {"stamp": stamp * keep[..., None, None], "photometry": photometry * keep[..., None], "present": present}


def asinh_flux(flux: Tensor) -> Tensor:
    """Flux in nmgy as a number that grows as log10 for the bright and linearly near zero (Lupton et al. 1999)."""
    return asinh(flux / (2 * SOFTENING)) / 2.302585


def asinh(x: Tensor) -> Tensor:
    """As torch.asinh, to a few units in the last place; that one is not vectorised on CPUs and takes five times as long."""
    size = x.abs()
    return torch.copysign(torch.log1p(size + size * (size / (1 + torch.sqrt(1 + size * size)))), x)


def centroid(flux: Tensor, good: Tensor, sigma: Tensor, scale: float, steps: int = 2) -> Tensor:
    """(B, 2): where the light near the middle is centred, y and x in arcsec from the stamp's centre.

    Steps of a first moment under a Gaussian window of 0.8" (Bertin's windowed position), all bands weighed by their noise; it
    stays within 1".
    """
    n = flux.shape[-1]
    light = (torch.where(good, flux, 0.0) / sigma[..., None, None]).sum(1).clamp_min(0.0)
    axis = (torch.arange(n, device=flux.device) - (n - 1) / 2) * scale
    centre = torch.zeros(len(flux), 2, device=flux.device)
    for _ in range(steps):
        window_y = torch.exp(-0.5 * ((axis - centre[:, :1]) / 0.8) ** 2)
        window_x = torch.exp(-0.5 * ((axis - centre[:, 1:]) / 0.8) ** 2)
        row = torch.einsum("byx,bx->by", light, window_x)
        total = (row * window_y).sum(1).clamp_min(1e-12)
        y = (row * window_y * axis).sum(1) / total
        x = torch.einsum("byx,by,bx->b", light, window_y, window_x * axis) / total
        moved = torch.stack([y, x], dim=1)
        # A window halves the moment of a source as wide as itself: the second factor undoes that.
        centre = (centre + 2.0 * (moved - centre)).clamp(-1.0, 1.0)
    return torch.where(torch.isfinite(centre), centre, 0.0)


def measure(flux: Tensor, good: Tensor, sigma: Tensor, scale: float) -> Tensor:
    """Fluxes (B, C, A) inside `APERTURES` around the light's own centre, in the unit of flux.

    Bad pixels are filled by the mean of their annulus; pixels on an edge count in part.
    """
    n = flux.shape[-1]
    centre = centroid(flux, good, sigma, scale)
    axis = (torch.arange(n, device=flux.device) - (n - 1) / 2) * scale
    distance = torch.sqrt(((axis - centre[:, :1]) ** 2)[:, :, None] + ((axis - centre[:, 1:]) ** 2)[:, None, :])
    radii = torch.tensor(APERTURES, device=flux.device)
    inside = ((radii[:, None, None] - distance[:, None]) / scale + 0.5).clamp(0.0, 1.0).flatten(2)  # (B, A, N*N)
    cumulative = torch.einsum("bcp,bap->bca", torch.where(good, flux, 0.0).flatten(2), inside)
    covered = torch.einsum("bcp,bap->bca", good.float().flatten(2), inside)
    area = inside.sum(-1)[:, None].expand_as(cumulative)
    light, covered, area = (x.diff(dim=-1, prepend=torch.zeros_like(x[..., :1])) for x in (cumulative, covered, area))
    return (light / covered.clamp_min(0.25) * area).cumsum(-1)


def pixel_edges(wavelength: Tensor) -> Tensor:
    """(2 L,) lower and upper edge of each pixel in turn, from (L,) centres; a pixel ends where a gap begins."""
    steps = wavelength.diff()
    half = torch.minimum(steps, 2.5 * steps.median()) / 2
    low = wavelength - torch.cat([half[:1], half])
    high = wavelength + torch.cat([half, half[-1:]])
    return torch.stack([low, high], dim=1).flatten()


def prepare_spectrum(flux: Tensor, ivar: Tensor, mask: Tensor, wavelength: Tensor, grid: WavelengthGrid) -> dict[str, Tensor]:
    """Spectra of one instrument in the bins of the grid, (B, L) at wavelength (L,) in Angstrom -> (B, W).

    Inverse variance is a density: a bin gets what the pixels bring that overlap it, and their flux in that proportion, so
    that neither a finer nor a coarser instrument gains or loses flux or information. Returns "flux" in 1e-17 erg/s/cm2/A,
    0 where nothing is good, and "weight" = 1 / sigma, 0 there.
    """
    good = ~mask & torch.isfinite(flux) & torch.isfinite(ivar) & (ivar > 0)
    weight = torch.where(good, ivar, 0.0).double()
    light = torch.where(good, flux, 0.0).double() * weight
    own = grid.wavelength().to(wavelength.device)
    if wavelength.shape == own.shape and torch.allclose(wavelength.double(), own, rtol=0, atol=1e-3):
        shape, used = (len(flux), grid.bins, grid.binning), grid.bins * grid.binning
        total = weight[:, :used].reshape(shape).sum(-1)
        summed = light[:, :used].reshape(shape).sum(-1)
    else:
        total, summed = overlap(torch.stack([weight, light]), wavelength.double(), grid)
    mean = torch.where(total > 0, summed / total.clamp_min(1e-30), 0.0)
    return {"flux": mean.float(), "weight": total.sqrt().float()}


def overlap(values: Tensor, wavelength: Tensor, grid: WavelengthGrid) -> Tensor:
    """Sums of (..., L) values over the bins (..., W), each pixel shared in proportion to its overlap."""
    edges = pixel_edges(wavelength)
    running = torch.zeros(*values.shape[:-1], len(edges), dtype=values.dtype, device=values.device)
    running[..., 1::2] = values
    running = running.cumsum(-1)  # at each edge; level across a gap
    own = grid.wavelength()[: grid.bins * grid.binning + 1 : grid.binning].to(edges.device) - grid.step / 2
    at = torch.searchsorted(edges, own).clamp(1, len(edges) - 1)
    part = ((own - edges[at - 1]) / (edges[at] - edges[at - 1]).clamp_min(1e-12)).clamp(0.0, 1.0)
    return torch.lerp(running[..., at - 1], running[..., at], part.expand_as(running[..., at])).diff(dim=-1)


def rebin(flux: Tensor, weight: Tensor, edges: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Coarser bins of a binned spectrum: (B, W) -> inverse-variance mean and 1 / sigma, (B, M) each.

    edges: (M + 1,) Angstrom; centres: (W,) of the fine bins.
    """
    target = torch.bucketize(centres.to(flux.device), edges.to(flux.device)) - 1
    inside = (target >= 0) & (target < len(edges) - 1)
    member = torch.nn.functional.one_hot(target.clamp(0, len(edges) - 2), len(edges) - 1).to(flux.dtype)
    member = member * inside[:, None]
    ivar = weight**2
    total = ivar @ member
    mean = (flux * ivar) @ member / total.clamp_min(1e-20)
    return mean, total.sqrt()
