"""Component by component: the spectrum on the sky, what the filters see of it, and what two spectrographs record.

One full spectrum (3470 to 11,270 A observed) gives both the bands' fluxes and the fibres' spectra, so that they agree.

Shape letters: B objects, C components, K templates, F filters, N log-grid points, L pixels of a spectrograph.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from engine.simulate import sed
from engine.simulate.population import OLD, QUASAR, STAR, YOUNG, Population, luminosity_distance, tables
from engine.simulate.sed import LIGHT

NMGY = 3.631e-29  # erg/s/cm2/Hz
SOLAR = 3.828e33  # erg/s
DESI_START, DESI_STEP, DESI_COUNT = 3600.0, 0.8, 7781
SDSS_START, SDSS_STEP, SDSS_COUNT = 3.58, 1e-4, 3840
REACH = 24  # pixels either side that a nebular line is drawn on
REFERENCE = 1  # the filter in which total magnitudes are meant: Legacy r
HALPHA_PER_SFR = 2.04e41 / SOLAR  # Lsun of H alpha a solar mass a year (Kennicutt & Evans 2012, for Chabrier's mass function)


def desi_wavelength(device: torch.device | str = "cpu") -> Tensor:
    """(7781,) Angstrom."""
    return DESI_START + DESI_STEP * torch.arange(DESI_COUNT, dtype=torch.float64, device=device)


def sdss_wavelength(device: torch.device | str = "cpu") -> Tensor:
    """(3840,) Angstrom, 3802 to 9203."""
    return 10 ** (SDSS_START + SDSS_STEP * torch.arange(SDSS_COUNT, dtype=torch.float64, device=device))


@lru_cache(maxsize=4)
def bank(device: str) -> Tensor:
    """(K, N) templates on a device."""
    return torch.from_numpy(sed.templates().bank).to(device)


@dataclass
class Light:
    """rest: (B, C, N) continuum on the rest grid, 1e-17 erg/s/cm2/A observed; lines: (B, J) nebular fluxes of the young
    component, 1e-17 erg/s/cm2; bands: (B, F, C) nmgy; mass, sfr: solar masses (of all stars) and solar masses a year."""

    rest: Tensor
    lines: Tensor
    bands: Tensor
    mass: Tensor
    sfr: Tensor


def shine(p: Population) -> Light:
    """The light of all components, each scaled to its share of the object's r magnitude."""
    device = p.z.device
    rest = torch.matmul(p.weights.flatten(0, 1), bank(str(device))).unflatten(0, p.weights.shape[:2])
    quasar = (p.kind == QUASAR).nonzero()[:, 0]
    if len(quasar):
        rest[quasar, OLD] = quasar_continuum(p, quasar)
    lam = torch.from_numpy(sed.wavelength()).to(device, torch.float32)
    rest = rest * 10 ** (-0.4 * p.av[..., None] * sed.calzetti(lam.clamp_min(1200.0)))
    lines = nebular_lines(p)
    bands = band_fluxes(p, rest, lines)
    total = 10 ** (0.4 * (22.5 - p.r_mag))
    factor = p.share * total[:, None] / bands[:, REFERENCE].clamp_min(1e-30)
    per_factor = 2 * luminosity_distance(p.z_parts) + math.log10(4 * math.pi * 1e-17 / SOLAR) + torch.log10(1 + p.z_parts)
    mass = factor * 10**per_factor  # float32 has no room for the cm^2 themselves
    galaxy = (p.kind != STAR) & (p.kind != QUASAR)
    own = torch.where(galaxy[:, None], mass[:, :3], torch.nan) * 0.62  # what is left of them after mass loss
    own[:, YOUNG] = torch.where(p.rare == 1, 0.0, own[:, YOUNG])  # lensed arcs are another galaxy's stars
    sfr = torch.where(p.rare == 1, 0.0, mass[:, YOUNG] / 1e8)
    return Light(rest * factor[..., None], lines * factor[:, YOUNG, None], bands * factor[:, None], own.sum(1),
                 torch.where(galaxy, sfr, torch.nan))


def quasar_continuum(p: Population, rows: Tensor) -> Tensor:
    """(n, N): a broken power law with broad lines, thinned by the intergalactic gas below Lyman alpha."""
    lam = torch.from_numpy(sed.wavelength()).to(p.z.device, torch.float32)
    profiles = torch.from_numpy(sed.quasar_lines()).to(p.z.device)
    slope = p.slope[rows, None]
    power = (lam / 3000.0) ** slope * torch.where(lam > 5000.0, (lam / 5000.0) ** (0.9), 1.0)
    iron = 0.14 * torch.exp(-0.5 * ((lam - 2500.0) / 180.0) ** 2) + 0.1 * torch.exp(-0.5 * ((lam - 4570.0) / 90.0) ** 2)
    bump = 1 + iron + p.boost[rows, None] * profiles.sum(0)
    z = p.z[rows, None]
    absorbed = torch.exp(-0.0036 * (lam * (1 + z) / 1215.67) ** 3.46) * (lam > 912.0)  # Madau 1995, eq. 15, Lyman alpha
    return power * bump * torch.where(lam < 1215.67, absorbed, 1.0)


def nebular_lines(p: Population) -> Tensor:
    """(B, J) luminosities in Lsun a solar mass of the young component, dust taken off.

    Ratios follow the metallicity as in Kewley & Dopita 2002 and Pettini & Pagel 2004; an active nucleus is harder.
    """
    x, hard = p.nebular, p.hardness
    hbeta = HALPHA_PER_SFR / 1e8 / 2.86 * p.boost * (1 + 3 * hard)
    o3 = 10 ** ((0.05 - 1.15 * x - 0.5 * x**2).clamp(-0.9, 0.85)) * (1 - hard) + 7.0 * hard
    n2 = 10 ** ((-0.52 + 1.1 * x).clamp(-1.8, -0.25)) * (1 - hard) + 1.1 * hard  # of H alpha
    o2 = 10 ** (0.42 - 0.45 * x.abs() - 0.25 * x)
    s2 = 0.33 * 10 ** (0.25 * x) + 0.4 * hard
    ratios: list[Tensor | float] = [
        0.43 * o2, 0.57 * o2, 0.1 * o3, 0.259, 0.468, 1.0, o3 / 2.98, o3, 0.11, 0.03 * 2.86 + 0.5 * hard,
        n2 * 2.86 / 2.95, 2.86, n2 * 2.86, 0.56 * s2 * 2.86, 0.44 * s2 * 2.86, 0.12 * o3 ** 0.3, 0.3 * o3 ** 0.3]
    lines = torch.stack([hbeta * r for r in ratios], dim=1)
    lam = torch.tensor([w for _, w in sed.NEBULAR], device=x.device)
    lines = lines * 10 ** (-0.4 * 1.15 * p.av[:, YOUNG, None] * sed.calzetti(lam))
    galaxy = (p.kind != STAR) & (p.kind != QUASAR) & (p.rare != 1)
    return torch.where(galaxy[:, None], lines, 0.0)


def place(lam: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Where observed wavelengths (L,) fall on the rest grid at redshifts (...,): lower point and fraction, (..., L)."""
    at = ((torch.log10(lam) - sed.LOG_START) - torch.log10(1 + z.double())[..., None]) / sed.LOG_STEP
    at = at.clamp(0, sed.LOG_COUNT - 1.001)
    low = at.long()
    return low, (at - low).float()


def observed(rest: Tensor, lam: Tensor, z: Tensor) -> Tensor:
    """Spectra (..., N) of the rest grid at observed wavelengths (L,)."""
    low, fraction = place(lam, z)
    return torch.lerp(rest.gather(-1, low), rest.gather(-1, low + 1), fraction)


def milky_way(lam: Tensor, ebv: Tensor) -> Tensor:
    """(B, L) transmission of the Galaxy's dust."""
    return 10 ** (-0.4 * 3.1 * ebv[:, None] * sed.galactic(lam.clamp(3100.0, 11500.0)).float())


def band_fluxes(p: Population, rest: Tensor, lines: Tensor) -> Tensor:
    """(B, F, C) nmgy: photon-weighted means through the filters, the young component's lines added exactly."""
    t = {name: tables()[name].to(rest.device) for name in ("filter_wavelength", "filter_response")}
    lam, response = t["filter_wavelength"], t["filter_response"]
    flux = observed(rest, lam.double(), p.z_parts) * milky_way(lam, p.ebv)[:, None]
    denominator = (response / lam).sum(1) * LIGHT * 1e13  # c in Angstrom/s
    bands = torch.einsum("bcl,fl->bfc", flux, response * lam) / denominator[:, None] * (1e-17 / NMGY)
    at = torch.tensor([w for _, w in sed.NEBULAR], device=rest.device) * (1 + p.z_parts[:, YOUNG, None])  # (B, J)
    index = ((at - lam[0]) / (lam[1] - lam[0])).clamp(0, len(lam) - 2)
    low = index.long()
    through = torch.lerp(response[:, low], response[:, low + 1], index - low)  # (F, B, J)
    thinned = lines * 10 ** (-0.4 * 3.1 * p.ebv[:, None] * sed.galactic(at.clamp(3100.0, 11500.0)))
    added = torch.einsum("fbj,bj->bf", through, thinned * at) / (denominator * (lam[1] - lam[0])) * (1e-17 / NMGY)
    bands[:, :, YOUNG] += added
    return bands


def resolution(lam: Tensor, low: float, high: float) -> Tensor:
    """lambda / FWHM, rising over the range of wavelengths from low to high."""
    return low + (high - low) * ((lam - 3600.0) / 6224.0).clamp(0, 1)


def spectrum(p: Population, light: Light, fraction: Tensor, lam: Tensor, limits: tuple[float, float]) -> Tensor:
    """(B, L) noise-free 1e-17 erg/s/cm2/A through a fibre that takes fractions (B, C) of the components' light.

    limits: the resolving power at 3600 and 9824 A. Stars move with the dispersion sigma; the instrument's profile is
    Gaussian. Components at another redshift than the object's own are added as they are.
    """
    weighted = light.rest * fraction[..., None]
    same = (p.z_parts - p.z[:, None]).abs() < 1e-6
    own = (weighted * same[..., None]).sum(1)
    own = observed_broadened(p, own, lam, limits)
    others = observed((weighted * ~same[..., None]).sum(1)[:, None], lam, p.z_parts[:, 3:])[:, 0]
    arcs = (p.rare == 1).nonzero()[:, 0]
    if len(arcs):  # lensed arcs and neighbours have two redshifts
        for c in (YOUNG, 3):
            part = observed(weighted[arcs, c], lam, p.z_parts[arcs, c])
            others = others.index_put((arcs,), part) if c == YOUNG else others.index_add(0, arcs, part)
    flux = own + others + emission(p, light.lines * fraction[:, YOUNG, None], lam, limits)
    return flux * milky_way(lam, p.ebv)


def observed_broadened(p: Population, rest: Tensor, lam: Tensor, limits: tuple[float, float]) -> Tensor:
    """(B, L) of rest spectra (B, N), broadened by the stars' motion and the instrument at the blue and at the red end."""
    n = 12288  # room for the tails of the profile, and a length that is quick to transform
    padded = torch.nn.functional.pad(rest, (0, n - sed.LOG_COUNT))
    transform = torch.fft.rfft(padded)
    k = torch.fft.rfftfreq(n, device=rest.device)
    pixel = math.log(10) * sed.LOG_STEP * LIGHT  # km/s
    moving = torch.where(p.kind >= STAR, 8.0, p.sigma)
    ends = []
    for power in limits:
        width = torch.sqrt(moving**2 + (LIGHT / power / 2.3548) ** 2) / pixel
        smooth = torch.fft.irfft(transform * torch.exp(-2 * (math.pi * k * width[:, None]) ** 2), n=n)
        ends.append(observed(smooth[:, : sed.LOG_COUNT], lam, p.z))
    local = resolution(lam, *limits)
    blue, red = 1 / limits[0] ** 2, 1 / limits[1] ** 2
    share = ((1 / local**2 - red) / (blue - red)).float()
    return ends[1] + (ends[0] - ends[1]) * share


def emission(p: Population, lines: Tensor, lam: Tensor, limits: tuple[float, float]) -> Tensor:
    """(B, L) of nebular lines with fluxes (B, J), as Gaussians integrated at the pixels' centres within `REACH` pixels."""
    centre = torch.tensor([w for _, w in sed.NEBULAR], device=lines.device).double() * (1 + p.z[:, None])  # (B, J)
    gas = (0.75 * p.sigma).clamp(30.0, 160.0) * (1 + p.hardness)
    width = centre * torch.sqrt((gas[:, None] / LIGHT) ** 2 + (1 / resolution(centre, *limits) / 2.3548) ** 2)
    nearest = torch.searchsorted(lam, centre).clamp(0, len(lam) - 1)
    pixel = nearest[..., None] + torch.arange(-REACH, REACH + 1, device=lines.device)
    inside = (pixel >= 0) & (pixel < len(lam)) & (lines[..., None] > 0)
    pixel = pixel.clamp(0, len(lam) - 1)
    profile = torch.exp(-0.5 * ((lam[pixel] - centre[..., None]) / width[..., None]) ** 2) / (width[..., None] * 2.506628)
    values = (profile * inside).float() * lines[..., None]
    out = torch.zeros(len(lines), len(lam), device=lines.device)
    return out.scatter_add_(1, pixel.flatten(1), values.flatten(1))
