"""What the sky and the instruments do to a noise-free image or spectrum: seeing, depth, noise, artefacts, sky residuals.

Five images in a hundred carry an artefact and one spectrum in ten sky residuals; each is told in a truth mask, and part
of them in the survey's own mask, as in real surveys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from engine.simulate.images import SIDE, Camera
from engine.simulate.rng import Draw

ARTEFACTS = ("none", "trail", "cosmic rays", "bleed", "halo", "missing band", "edge")
ARTEFACT_RATE, RESIDUAL_RATE = 0.05, 0.10
# Airglow that is hard to take off (vacuum Angstrom; lines of Hanuschik 2003): [OI], Na D, then the OH bands by their middle.
SKY_LINES = (5578.9, 5891.6, 5897.6, 6302.0, 6365.5, 6865.0, 6925.0, 7278.0, 7318.0, 7342.0, 7752.0, 7796.0, 7823.0, 7915.0,
             7966.0, 7995.0, 8027.0, 8347.0, 8401.0, 8432.0, 8467.0, 8768.0, 8780.0, 8830.0, 8888.0, 8922.0, 8960.0, 9001.0,
             9316.0, 9378.0, 9442.0, 9480.0, 9505.0, 9570.0, 9722.0, 9790.0)
KERNEL = ((0, 0, 0.93), (0, 1, 0.25), (1, 0, 0.25), (1, 1, 0.08))  # of coadds: neighbouring pixels share noise


def conditions(draw: Draw, camera: Camera) -> tuple[Tensor, Tensor]:
    """Seeing FWHM (B, F) in arcsec and 5 sigma depth (B, F) in AB; good and bad nights are shared by the bands in part."""
    common, own = draw.normal(f"{camera.name} night", 2, 1), draw.normal(f"{camera.name} bands", 2, len(camera.bands))
    mixed = (0.6 * common + 0.8 * own).clamp(-2.5, 2.5)
    seeing = torch.tensor(camera.seeing, device=draw.device) * torch.exp(camera.spread[0] * mixed[:, 0])
    depth = torch.tensor(camera.depth, device=draw.device) + camera.spread[1] * mixed[:, 1]
    return seeing, depth


def sky_sigma(fwhm: Tensor, depth: Tensor, camera: Camera) -> Tensor:
    """Noise of a pixel (B, F) in the camera's unit from the 5 sigma depth of points (Dey et al. 2019, sec. 8)."""
    pixels = 4 * math.pi * (fwhm / 2.3548 / camera.scale) ** 2  # the noise-equivalent area of a Gaussian
    return 10 ** (0.4 * (camera.zero - depth)) / 5 / torch.sqrt(pixels)


def expose_noisily(clean: Tensor, sigma: Tensor, draw: Draw, camera: Camera) -> tuple[Tensor, Tensor]:
    """Pixels with noise and their inverse variance, (B, F, 96, 96)."""
    white = draw.normal(f"{camera.name} noise", len(camera.bands), SIDE + 1, SIDE + 1)
    norm = math.sqrt(sum(w * w for _, _, w in KERNEL))
    noise = torch.zeros_like(clean)
    for dy, dx, w in KERNEL:
        noise.add_(white[..., dy : dy + SIDE, dx : dx + SIDE], alpha=w / norm)
    variance = clean.clamp_min(0.0).div_(camera.electrons).add_((sigma**2)[..., None, None])
    return torch.addcmul(clean, noise, variance.sqrt()), variance.reciprocal_()


def spoil(pixels: Tensor, ivar: Tensor, sigma: Tensor, draw: Draw, camera: Camera) -> tuple[Tensor, Tensor, Tensor]:
    """Put artefacts into some images, in place. Returns the survey's mask, the true mask and the kind (B,) of artefact."""
    mask, truth = torch.zeros_like(pixels, dtype=torch.bool), torch.zeros_like(pixels, dtype=torch.bool)
    u = draw.uniform(f"{camera.name} artefact", 12)
    kind = torch.where(u[:, 0] < ARTEFACT_RATE, 1 + (u[:, 1] * (len(ARTEFACTS) - 1)).long(), 0)
    axis = torch.arange(SIDE, device=pixels.device, dtype=torch.float32)
    y, x = axis[:, None], axis
    for i in (kind > 0).nonzero()[:, 0].tolist():
        name, v = ARTEFACTS[int(kind[i])], u[i]
        band = int(v[2] * len(camera.bands))
        cy, cx = (0.1 + 0.8 * v[3]) * SIDE, (0.1 + 0.8 * v[4]) * SIDE
        bright = sigma[i, band] * (10 + 60 * v[5])
        turn = math.pi * v[6]
        if name == "missing band":
            hit = torch.ones(SIDE, SIDE, dtype=torch.bool, device=pixels.device)
        elif name == "edge":
            hit = (x - SIDE / 2) * torch.cos(2 * turn) + (y - SIDE / 2) * torch.sin(2 * turn) > SIDE * (0.12 + 0.25 * v[7])
        else:
            across = (x - cx) * torch.sin(turn) - (y - cy) * torch.cos(turn)
            if name == "trail":
                light = torch.exp(-0.5 * (across / (1.2 + v[7])) ** 2)
            elif name == "cosmic rays":
                along = (x - cx) * torch.cos(turn) + (y - cy) * torch.sin(turn)
                light = 3 * torch.exp(-0.5 * (across / 0.6) ** 2) * (along.abs() < 2 + 8 * v[7])
            elif name == "bleed":
                light = 8 * torch.exp(-0.5 * ((x - cx) / 1.0) ** 2) * torch.exp(-((y - cy).abs() / (8 + 30 * v[7])))
            else:  # a halo: a faint ghost ring of a bright star outside
                distance = torch.sqrt((x - cx * 2 + SIDE / 2) ** 2 + (y - cy * 2 + SIDE / 2) ** 2)
                light = 0.15 * torch.sigmoid((30 + 30 * v[7] - distance) / 2)
            pixels[i, band] += bright * light
            hit = light > 0.05
        if name in ("missing band", "edge"):
            which = slice(None) if name == "edge" else band
            pixels[i, which] = torch.where(hit, 0.0, pixels[i, which])
            ivar[i, which] = torch.where(hit, 0.0, ivar[i, which])
            mask[i, which] |= hit
            truth[i, which] |= hit
        else:
            truth[i, band] |= hit
            if v[8] < 0.7:  # the survey's pipeline found it
                mask[i, band] |= hit
    return mask, truth, kind


@dataclass(frozen=True)
class Airglow:
    """On one spectrograph's pixels (L,): shape of the noise, 1 near 6500 A; profiles of the sky's lines (lines, L)."""

    shape: Tensor
    profiles: Tensor

    @classmethod
    def on(cls, lam: Tensor) -> Airglow:
        """Throughput falls to both ends, the sky brightens to the red, and its lines are two and a half pixels wide."""
        lines = torch.tensor(SKY_LINES, device=lam.device, dtype=lam.dtype)
        profiles = torch.exp(-0.5 * ((lam - lines[:, None]) / (1.1 * torch.gradient(lam)[0] + 0.3)) ** 2)
        strength = torch.where(lines == SKY_LINES[0], 4.0, 0.8 + 1.6 * torch.frac(lines * 0.37))
        ends = 1 + 1.6 * torch.exp(-(lam - 3600) / 260) + 0.9 * torch.exp((lam - 9824) / 260)
        shape = ends * (0.9 + 0.6 * ((lam - 6500) / 3300).clamp_min(0.0)) * (1 + strength @ profiles)
        return cls(shape.float(), profiles.float())


def record(clean: Tensor, airglow: Airglow, level: Tensor, draw: Draw, name: str) -> dict[str, Tensor]:
    """A spectrograph's flux, ivar, mask (B, L), and "artefact": True where sky residuals were left in.

    level: (B,) noise a pixel near 6500 A, 1e-17 erg/s/cm2/A; the source's own light adds to it.
    """
    pixels = clean.shape[1]
    sigma = level[:, None] * airglow.shape * torch.sqrt(1 + 0.12 * clean.clamp_min(0.0) / level[:, None])
    flux = torch.addcmul(clean, draw.normal(f"{name} noise", pixels), sigma)
    u, n = draw.uniform(f"{name} residuals", 3), draw.normal(f"{name} residual lines", len(SKY_LINES))
    spoiled = u[:, 0] < RESIDUAL_RATE
    rows = spoiled.nonzero()[:, 0]
    flux[rows] += (n * (1.5 + 4 * u[:, 1:2]) * level[:, None])[rows] @ airglow.profiles
    bad = draw.uniform(f"{name} dead", 3)
    start = (bad[:, 0] * (pixels - 40)).long()[:, None]
    pixel = torch.arange(pixels, device=clean.device)
    dead = (bad[:, 1:2] < 0.15) & (pixel >= start) & (pixel < start + 4 + (bad[:, 2:3] * 30).long())
    return {name: torch.where(dead, 0.0, flux), f"{name}_ivar": torch.where(dead, 0.0, sigma**-2), f"{name}_mask": dead,
            f"artefact_{name}": (airglow.profiles.sum(0) > 0.3) & spoiled[:, None]}
