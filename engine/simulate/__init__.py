"""The simulated sky: `render(seed, index)` draws objects with all that surveys would measure of them, and the truth.

Object i of a sky depends on (seed, i) alone. Torch and NumPy only, on any device; see `population` for who is there,
`sed` for their light, `images` and `noise` for the telescopes.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from engine.simulate import images, light, noise, variables
from engine.simulate.images import CAMERAS, HSC, LEGACY
from engine.simulate.population import CLASSES, RARE, STAR, Population, magnitude, populate, tables
from engine.simulate.rng import Draw

BANDS = {camera.name: camera.bands for camera in CAMERAS}
GRIDS = {"desi": light.desi_wavelength, "sdss": light.sdss_wavelength}
FIBRES = {"desi": (1.5, 1.1), "sdss": (3.0, 1.3)}  # diameter and seeing, arcsec
POWERS = {"desi": (2000.0, 5500.0), "sdss": (1500.0, 2500.0)}  # resolving power at 3600 and 9824 A
NOISE = {"desi": 0.50, "sdss": 0.75}  # 1e-17 erg/s/cm2/A a pixel near 6500 A of the median exposure
SDSS_SHARE, SDSS_LIMIT = 0.55, 19.6  # SDSS has spectra of some of the brighter objects
XP_LIMIT = 19.5
PIECE = 16

__all__ = ["BANDS", "CLASSES", "GRIDS", "RARE", "render", "with_sdss"]


def render(seed: int, index: Tensor, *, device: str | torch.device = "cpu", truth: bool = False,
           dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """Objects `index` (B,) of the sky `seed`; docs/architecture.md lists every key with shape and unit.

    truth=True adds noise-free images and spectra and the masks of bars, arms and artefacts.
    """
    index = index.to(device)
    count = len(index)
    if index.device.type != "cpu":
        return observe(seed, index, truth, dtype)
    # Small pieces stay in the processor's cache, and whole pieces side by side waste less than threads within an operation.
    # All are equally long: batched products and transforms round differently with the size of the batch.
    pieces = torch.cat([index, index[-1:].expand(-count % PIECE)]).split(PIECE)
    if len(pieces) == 1 or torch.get_num_threads() == 1:
        parts = [observe(seed, piece, truth, dtype) for piece in pieces]
    else:
        with ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
            parts = list(pool.map(lambda piece: observe(seed, piece, truth, dtype), pieces))
    return {name: torch.cat([part[name] for part in parts])[:count] for name in parts[0]}


def observe(seed: int, index: Tensor, truth: bool, dtype: torch.dtype) -> dict[str, Tensor]:
    """The same, in one piece, where `index` lies."""
    draw = Draw(seed, index)
    p = populate(draw)
    shine = light.shine(p)
    maps = images.component_maps(p, draw)
    out: dict[str, Tensor] = {"class": p.kind, "rare": p.rare}
    transform = torch.fft.rfft2(maps.light)
    for camera in CAMERAS:
        out |= photograph(p, shine, transform, draw, camera, truth)
    for name in GRIDS:
        out |= disperse(p, shine, maps.light, draw, name, truth)
    out |= low_resolution(p, shine)
    out |= variables.light_curves(p, shine.bands[:, :3, :3].sum(-1), draw)
    out |= catalogue(p, shine, draw)
    always = torch.ones(len(p.z), dtype=torch.bool, device=p.z.device)
    out |= {"has_legacy": always, "has_hsc": always, "has_desi": always, "has_sdss": in_sdss(p.r_mag, draw)}
    if truth:
        out |= {"bar_mask": on_legacy(maps.bar), "arm_mask": on_legacy(maps.arm)}
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in out.items()}


def in_sdss(r_mag: Tensor, draw: Draw) -> Tensor:
    """bool (B,): whether SDSS took a spectrum."""
    return (r_mag < SDSS_LIMIT) & (draw.uniform("has sdss", 1)[:, 0] < SDSS_SHARE)


def with_sdss(seed: int, index: Tensor) -> Tensor:
    """Those of some objects (B,) that have a spectrum of SDSS, without rendering any: millions may be asked for."""
    draw = Draw(seed, index)
    return index[in_sdss(magnitude(draw), draw)]


def photograph(p: Population, shine: light.Light, transform: Tensor, draw: Draw, camera: images.Camera,
               truth: bool) -> dict[str, Tensor]:
    """One survey's images, inverse variances, masks and seeing."""
    fwhm, depth = noise.conditions(draw, camera)
    unit = 10 ** (0.4 * (camera.zero - 22.5))
    clean = images.expose(transform, shine.bands[:, camera.filters] * unit, fwhm, camera, p.kind >= STAR)
    sigma = noise.sky_sigma(fwhm, depth, camera)
    pixels, ivar = noise.expose_noisily(clean, sigma, draw, camera)
    mask, spoiled, kind = noise.spoil(pixels, ivar, sigma, draw, camera)
    name = camera.name
    out = {name: pixels, f"{name}_ivar": ivar, f"{name}_mask": mask, f"{name}_fwhm": fwhm, f"{name}_artefact": kind}
    return out | ({f"{name}_truth": clean, f"artefact_{name}": spoiled} if truth else {})


def disperse(p: Population, shine: light.Light, maps: Tensor, draw: Draw, name: str, truth: bool) -> dict[str, Tensor]:
    """One spectrograph's spectra, through its fibre."""
    lam = GRIDS[name](p.z.device)
    weight = images.fibre_weight(*FIBRES[name], p.z.device)
    fraction = torch.einsum("bcyx,yx->bc", maps, weight)
    clean = light.spectrum(p, shine, fraction, lam, POWERS[name])
    night = torch.exp(0.22 * draw.normal(f"{name} night", 1)[:, 0].clamp(-2.5, 2.5))
    out = noise.record(clean, airglow(name, p.z.device), NOISE[name] * night, draw, name)
    residual = out.pop(f"artefact_{name}")
    return out | ({f"{name}_truth": clean, f"artefact_{name}": residual} if truth else {})


@lru_cache(maxsize=8)
def airglow(name: str, device: torch.device) -> noise.Airglow:
    """The sky as a spectrograph sees it, computed once."""
    return noise.Airglow.on(GRIDS[name](device))


def low_resolution(p: Population, shine: light.Light) -> dict[str, Tensor]:
    """Gaia's BP and RP spectra of stars as 55 + 55 coefficients in Gaia's own basis; NaN for all else."""
    out = {}
    there = ((p.kind == STAR) & (p.r_mag < XP_LIMIT))[:, None]
    for arm in ("bp", "rp"):
        lam = tables()[f"xp_{arm}_wavelength"].to(p.z.device)
        matrix = tables()[f"xp_{arm}_matrix"].to(p.z.device)
        flux = light.observed(shine.rest[:, 0], lam.double(), p.z) * light.milky_way(lam, p.ebv)
        out[f"xp_{arm}"] = torch.where(there, flux @ matrix.T, torch.nan)
    return out


def catalogue(p: Population, shine: light.Light, draw: Draw) -> dict[str, Tensor]:
    """What a survey's catalogue says (s_*, with its errors) and what is true (t_*)."""
    total = shine.bands[..., :3].sum(-1)
    galaxy = p.kind < STAR
    radius = torch.where(galaxy, half_light(p), 0.0)
    axis = (p.share[:, :1] * p.axis[:, :1] + (1 - p.share[:, :1]) * p.axis[:, 1:])[:, 0]
    ellipticity = torch.where(galaxy, (1 - axis) / (1 + axis), 0.0)
    # Angles from north through east: our columns grow to the west.
    e1, e2 = (ellipticity * f(2 * (p.angle - torch.pi / 2)) for f in (torch.cos, torch.sin))
    out: dict[str, Tensor] = {"s_ra": p.ra, "s_dec": p.dec, "s_ebv": p.ebv}
    for camera, kind in ((LEGACY, "flux"), (HSC, "mag")):
        n = draw.normal(f"catalogue {camera.name}", len(camera.bands))
        for i, band in enumerate(camera.bands):
            true = total[:, camera.filters][:, i]
            floor = 10 ** (0.4 * (22.5 - camera.depth[i])) / 5 * torch.sqrt(1 + (radius / 0.6) ** 2)
            error = torch.sqrt(floor**2 + (0.012 * true) ** 2)
            measured = true + error * n[:, i]
            if kind == "flux":
                out |= {f"s_flux_{band}": measured, f"s_flux_{band}_error": error, f"t_flux_{band}": true}
            else:
                seen = measured > 2 * error
                mag = 22.5 - 2.5 * torch.log10(measured.clamp_min(1e-6))
                out |= {f"s_mag_{band}": torch.where(seen, mag, torch.nan),
                        f"s_mag_{band}_error": torch.where(seen, 1.0857 * error / measured, torch.nan)}
    m = draw.normal("catalogue", 6)
    scatter = 0.03 + 0.02 * (p.r_mag - 16).clamp_min(0)
    out |= {"s_shape_r": radius * torch.exp(scatter * m[:, 0]), "s_shape_e1": e1 + 0.4 * scatter * m[:, 1] * galaxy,
            "s_shape_e2": e2 + 0.4 * scatter * m[:, 2] * galaxy, "t_shape_r": radius, "t_z": p.z}
    out["s_z"] = p.z + (1 + p.z) * 4e-5 * m[:, 3]
    own = torch.where(p.rare == RARE.index("strong lens"), p.z_parts[:, 2], torch.nan)
    out |= {"t_z_source": own, "t_log_mstar": torch.log10(shine.mass), "t_sfr": shine.sfr}
    out |= {"s_log_mstar": out["t_log_mstar"] + 0.08 * m[:, 4], "s_sfr": shine.sfr * 10 ** (0.15 * m[:, 5])}
    return out


def half_light(p: Population) -> Tensor:
    """(B,) arcsec: of both components, weighted by their light."""
    bulge, disc = p.share[:, 0], p.share[:, 1] + p.share[:, 2]
    return (bulge * p.radius[:, 0] + disc * 1.678 * p.radius[:, 1]) / (bulge + disc)


def on_legacy(mask: Tensor) -> Tensor:
    """(B, 96, 96): a mask of the fine grid on Legacy's pixels."""
    half: Any = torch.nn.functional.avg_pool2d(mask[:, None].float(), 2)[:, 0] >= 0.5
    edge = (half.shape[-1] - images.SIDE) // 2
    return half[:, edge : edge + images.SIDE, edge : edge + images.SIDE]
