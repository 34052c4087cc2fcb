"""GalSim (Rowe et al. 2015) draws the same profiles through the same Moffat seeing, and judges the renderer's images."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from engine.simulate import images
from engine.simulate.images import CAMERAS, Camera
from engine.simulate.population import DISC, ELLIPTICAL, OLD, STAR, Population, populate, tables
from engine.simulate.rng import Draw

galsim = pytest.importorskip("galsim", reason="GalSim (extra dev) is not installed")

PEAK, MAGNITUDE = 0.01, 0.005  # of the peak; mag
OBJECTS = 60
APERTURE = 4.0  # arcsec, radius
FIELDS = pytest.mark.parametrize("camera", CAMERAS, ids=lambda camera: camera.name)


@cache
def drawn(kind: int) -> tuple[Population, Draw]:
    """The population of a seed, all of it turned into smooth objects of one kind."""
    draw = Draw(8, torch.arange(OBJECTS))
    p = populate(draw)
    return replace(p, kind=torch.full_like(p.kind, kind), rare=torch.zeros_like(p.rare)), draw


def ours(p: Population, draw: Draw, share: torch.Tensor, fwhm: torch.Tensor, camera: Camera) -> NDArray[Any]:
    """(B, 96, 96) of flux 1, `share` (B, 4) of it in each component."""
    light = torch.fft.rfft2(images.component_maps(p, draw).light)
    return images.expose(light, share[:, None], fwhm[:, None], camera, p.kind >= STAR)[:, 0].numpy()


def seeing(camera: Camera) -> torch.Tensor:
    """(B,) arcsec: from the best to the worst of the camera's nights."""
    spread = torch.linspace(-2, 2, OBJECTS)
    return camera.seeing[1] * torch.exp(camera.spread[0] * spread)


def theirs(profile: Any, p: Population, i: int, fwhm: float, camera: Camera) -> NDArray[Any]:
    """(96, 96) of a GalSim profile; None is a point."""
    psf = galsim.Moffat(float(tables()[f"psf_{camera.name}_beta"]), fwhm=fwhm)
    seen = psf if profile is None else galsim.Convolve(profile, psf)
    seen = seen.shift(*p.offset[i].tolist())
    exact = galsim.GSParams(folding_threshold=1e-3, maxk_threshold=1e-4, maximum_fft_size=16384)
    return np.asarray(seen.withGSParams(exact).drawImage(nx=images.SIDE, ny=images.SIDE, scale=camera.scale).array)


def component(p: Population, i: int, which: int) -> Any:
    """The bulge or the disc of object i. Our radii lie along the major axis; GalSim's shear keeps the area."""
    axis = float(p.axis[i, which])
    radius = float(p.radius[i, which]) * axis**0.5
    disc, bulge = galsim.Exponential(scale_radius=radius), galsim.Sersic(float(p.index[i]), half_light_radius=radius)
    return (disc if which == DISC else bulge).shear(q=axis, beta=float(p.angle[i]) * galsim.radians)


def differences(mine: NDArray[Any], judge: NDArray[Any], camera: Camera) -> tuple[float, float]:
    """The worst pixel as a part of the peak, and the magnitudes in an aperture."""
    axis = (np.arange(images.SIDE) - (images.SIDE - 1) / 2) * camera.scale
    inside = np.hypot(axis, axis[:, None]) < APERTURE
    return float(np.abs(mine - judge).max() / judge.max()), abs(2.5 * np.log10(mine[inside].sum() / judge[inside].sum()))


def compared(kind: int, share: torch.Tensor, camera: Camera, rows: Any) -> NDArray[Any]:
    """(n, 2) of `differences` for `rows` of the drawn population."""
    p, draw = drawn(kind)
    fwhm = seeing(camera)
    mine = ours(p, draw, share, fwhm, camera)
    out = []
    for i in rows:
        parts = [component(p, i, c) * float(share[i, c]) for c in (OLD, DISC) if kind != STAR and share[i, c] > 0]
        profile = galsim.Add(parts) if parts else None
        out.append(differences(mine[i], theirs(profile, p, i, float(fwhm[i]), camera), camera))
    return np.array(out)


def only(which: int) -> torch.Tensor:
    """(B, 4): all light in one component."""
    return torch.nn.functional.one_hot(torch.full((OBJECTS,), which), 4).float()


@FIELDS
def test_points_are_moffat_profiles(camera: Camera) -> None:
    """Also says that the Gaussians which stand for the Moffat profile are near enough, at any place within a pixel."""
    worst = compared(STAR, only(OLD), camera, range(OBJECTS)).max(0)
    assert worst[0] < PEAK / 3
    assert worst[1] < MAGNITUDE / 2


@FIELDS
def test_discs(camera: Camera) -> None:
    """Discs between 0.45" (below, their centre is as cuspy as a bulge's) and 2.3" (above, their wings leave the field)."""
    p, _ = drawn(ELLIPTICAL)
    rows = ((p.radius[:, DISC] > 0.45) & (p.radius[:, DISC] < 2.3)).nonzero()[:, 0].tolist()
    assert len(rows) > OBJECTS / 3
    worst = compared(ELLIPTICAL, only(DISC), camera, rows).max(0)
    assert worst[0] < PEAK
    assert worst[1] < MAGNITUDE


def galaxies(camera: Camera) -> NDArray[Any]:
    """(n, 2): whole galaxies, bulge and disc in the parts that the population gives them."""
    p, _ = drawn(ELLIPTICAL)
    share = torch.zeros(OBJECTS, 4)
    share[:, :2] = p.share[:, :2]
    share = share / share.sum(1, keepdim=True)
    original = populate(Draw(8, torch.arange(OBJECTS))).kind
    return compared(ELLIPTICAL, share, camera, (original < STAR).nonzero()[:, 0].tolist())


@FIELDS
def test_every_galaxy(camera: Camera) -> None:
    """Bulge and disc together, as the population has them: peaks within 1 %, magnitudes within 0.005."""
    peak, magnitude = galaxies(camera).T
    assert peak.max() < PEAK
    assert magnitude.max() < MAGNITUDE
