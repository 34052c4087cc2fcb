"""Light curves in g, r, i of what varies: RR Lyrae stars, quasars, supernovae in galaxies."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine.simulate.population import QUASAR, STAR, SUPERNOVA, Population
from engine.simulate.rng import Draw

EPOCHS = 60
START, YEARS = 58000.0, 2.5  # MJD
LYRAE_RATE = 0.3  # of the stars of the right temperature
BAND_FACTORS = (1.0, 0.78, 0.66)  # of the amplitude in g (VanderPlas & Ivezic 2015 for RR Lyrae; bluer is larger)


def light_curves(p: Population, bands: Tensor, draw: Draw) -> dict[str, Tensor]:
    """"lc_time" (B, T) MJD, "lc_flux", "lc_error" (B, 3, T) nmgy, NaN where an object does not vary; "t_period" (B,) days.

    bands: (B, 3) mean fluxes in g, r, i, nmgy.
    """
    u, n = draw.uniform("variable", 6), draw.normal("light curve", 3, EPOCHS)
    gaps = draw.uniform("epochs", EPOCHS)
    time = START + YEARS * 365.25 * (gaps.cumsum(1) / gaps.sum(1, keepdim=True))
    lyrae = (p.kind == STAR) & (p.temperature > 6000) & (p.temperature < 7600) & (u[:, 0] < LYRAE_RATE)
    supernova, quasar = p.rare == SUPERNOVA, p.kind == QUASAR
    period = torch.where(u[:, 1] < 0.75, 0.45 + 0.35 * u[:, 2], 0.22 + 0.2 * u[:, 2])
    factor = torch.tensor(BAND_FACTORS, device=draw.device)[:, None]
    magnitude = torch.where(lyrae[:, None], lyrae_shape(time, period, u[:, 3]), 0.0)
    magnitude = torch.where(quasar[:, None], damped_walk(time, draw, u[:, 4], p.z), magnitude)
    mean = bands[..., None]
    flux = mean * 10 ** (-0.4 * magnitude[:, None] * factor)
    burst = supernova_flux(time, START + 365.25 * YEARS * (0.2 + 0.6 * u[:, 5]), p.z, u[:, 3])
    peak = bands[:, 1:2, None] * (0.25 + 1.2 * u[:, 4, None, None])
    flux = torch.where(supernova[:, None, None], burst * peak, flux)
    error = torch.sqrt(0.06**2 + (0.012 * flux) ** 2) * (0.7 + 0.6 * gaps[:, None])
    varies = (lyrae | quasar | supernova)[:, None, None]
    return {"lc_time": torch.where(varies[:, 0], time, torch.nan), "lc_flux": torch.where(varies, flux + error * n, torch.nan),
            "lc_error": torch.where(varies, error, torch.nan), "t_period": torch.where(lyrae, period, torch.nan)}


def lyrae_shape(time: Tensor, period: Tensor, start: Tensor) -> Tensor:
    """(B, T) magnitudes about the mean: a quick rise and a slow fall, about 0.9 mag."""
    phase = torch.frac((time - START) / period[:, None] + start[:, None])
    rise = torch.sigmoid((phase - 0.88) / 0.025)
    return 0.9 * (phase / 0.88 * (1 - rise) + rise * (1 - phase) / 0.12 * 0.2 - 0.5)


def damped_walk(time: Tensor, draw: Draw, u: Tensor, z: Tensor) -> Tensor:
    """(B, T) magnitudes of a damped random walk (Kelly et al. 2009; MacLeod et al. 2010), stepped exactly between epochs."""
    n = draw.normal("walk", EPOCHS)
    tau = 200.0 * (1 + z) * 10 ** (0.6 * (u - 0.5))
    amplitude = 0.12 + 0.12 * u
    values = [amplitude * n[:, 0]]
    for i in range(1, EPOCHS):
        keep = torch.exp(-(time[:, i] - time[:, i - 1]) / tau)
        values.append(values[-1] * keep + amplitude * torch.sqrt(1 - keep**2) * n[:, i])
    return torch.stack(values, dim=1)


def supernova_flux(time: Tensor, peak: Tensor, z: Tensor, u: Tensor) -> Tensor:
    """(B, 3, T) of a maximum of 1 in r: a rise in 18 days, a fall in 25, slower to the red (Bazin et al. 2009, eq. 1)."""
    rest = ((time - peak[:, None]) / (1 + z[:, None]))[:, None]
    fall = torch.tensor([18.0, 25.0, 31.0], device=time.device)[:, None] * (0.85 + 0.3 * u[:, None, None])
    height = torch.tensor([0.95, 1.0, 0.85], device=time.device)[:, None]
    shape = torch.exp(-(rest / fall).clamp(-30, 30)) / (1 + torch.exp(-(rest / 5.0).clamp(-30, 30)))
    top = math.exp(-5.0 * math.log(4.0) / 25.0) / 1.25
    return height * shape / top
