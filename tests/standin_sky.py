"""A stand-in for the simulator: shapes of the contract, one number behind image and spectrum, object i from (seed, i) alone."""

from __future__ import annotations

import torch
from torch import Tensor

SDSS_PIXELS = 3800


def render(seed: int, index: Tensor, truth: bool = True) -> dict[str, Tensor]:
    """As `engine.simulate.render`, for as many of its keys as training reads; the truth is always with them."""
    rows = [_one(seed, int(i)) for i in index]
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def _one(seed: int, i: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed * 100_003 + i)
    colour, level, place = torch.rand(3, generator=generator).tolist()
    out: dict[str, Tensor] = {}
    for survey, bands, scale, unit in (("legacy", 4, 0.262, 1.0), ("hsc", 5, 0.168, 63.1)):
        axis = (torch.arange(96) - 47.5) * scale
        profile = torch.exp(-(axis[:, None] ** 2 + axis**2) / 2) * scale**2
        flux = profile * (1 + 20 * level) * (1 + colour * torch.arange(bands))[:, None, None]
        noise = 0.02 * torch.randn(bands, 96, 96, generator=generator)
        out[survey] = (flux + noise) * unit
        out[f"{survey}_ivar"] = torch.full((bands, 96, 96), (0.02 * unit) ** -2)
        out[f"{survey}_mask"] = torch.zeros(bands, 96, 96, dtype=torch.bool)
        out[f"has_{survey}"] = torch.tensor(True)
    for survey, wavelength in (("desi", 3600 + 0.8 * torch.arange(7781)),
                               ("sdss", 10 ** (3.58 + 1e-4 * torch.arange(SDSS_PIXELS)))):
        line = torch.exp(-(((wavelength - 4500 - 4000 * place) / 6) ** 2) / 2)
        flux = (1 + 20 * level) * (1 + colour * (wavelength - 3600) / 3000) * 0.2 + 10 * line
        out[f"{survey}_truth"] = flux
        out[survey] = flux + 0.2 * torch.randn(len(wavelength), generator=generator)
        out[f"{survey}_ivar"] = torch.full((len(wavelength),), 25.0)
        out[f"{survey}_mask"] = torch.zeros(len(wavelength), dtype=torch.bool)
        out[f"has_{survey}"] = torch.tensor(True)
    return out
