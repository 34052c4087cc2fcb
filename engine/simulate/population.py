"""Who is in the sky: classes, distances, sizes, structure, ages and dust of object i, drawn from distributions.

Galaxies are drawn as a magnitude-limited survey sees them (r 16 to 20.6). Structure and stars go together: bright galaxies
are more often elliptical, old and rich in metals; arms and knots go with young stars and dust. Sizes follow the mass-size
relations of van der Wel et al. 2014, ApJ 788, 28.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.simulate import sed
from engine.simulate.rng import Draw

CLASSES = ("elliptical", "spiral", "barred spiral", "edge-on", "irregular", "merger", "star", "quasar")
SHARES = (0.24, 0.25, 0.14, 0.08, 0.06, 0.05, 0.12, 0.06)
RARE = ("none", "strong lens", "ring", "green pea", "white dwarf", "supernova")
ELLIPTICAL, SPIRAL, BARRED, EDGE_ON, IRREGULAR, MERGER, STAR, QUASAR = range(8)
LENS, RING, PEA, DWARF, SUPERNOVA = range(1, 6)
OLD, DISC, YOUNG, OTHER = range(4)  # components: bulge and bar (or the point), disc, young stars (or lensed arcs), neighbours
FOOTPRINT = (150.0, 2.2, 6.0)  # ra, dec, side in degrees


@lru_cache(maxsize=1)
def tables() -> dict[str, Tensor]:
    """What the field's libraries computed once (tools/build_simulation_tables.py)."""
    with np.load(Path(__file__).with_name("tables.npz"), allow_pickle=False) as file:
        return {name: torch.from_numpy(np.asarray(file[name], np.float32)) for name in file.files}


@dataclass
class Population:
    """Parameters of B objects; C = 4 components. Lengths in arcsec, angles in radians from east to north, ages in Gyr."""

    kind: Tensor  # (B,) into CLASSES
    rare: Tensor  # (B,) into RARE
    ra: Tensor
    dec: Tensor  # (B,) degrees
    z: Tensor  # (B,)
    z_parts: Tensor  # (B, C) redshift of each component
    r_mag: Tensor  # (B,) of everything but the neighbours, Galactic dust included
    share: Tensor  # (B, C) flux in r of each component over that of the object
    weights: Tensor  # (B, C, K) of sed.templates().bank
    av: Tensor  # (B, C) V magnitudes of the galaxies' own dust
    nebular: Tensor  # (B,) [O/H] - 8.69 of the gas
    hardness: Tensor  # (B,) 0 for HII regions to 1 for an active nucleus
    boost: Tensor  # (B,) of nebular lines over what the young stars give
    sigma: Tensor  # (B,) km/s of the stars
    slope: Tensor  # (B,) of a quasar's continuum
    ebv: Tensor  # (B,) of the Galaxy
    radius: Tensor  # (B, 2) half-light radius of bulge, scale length of disc
    index: Tensor  # (B,) Sersic index of the bulge
    axis: Tensor  # (B, 2) axis ratios
    angle: Tensor  # (B,)
    offset: Tensor  # (B, 2) of the centre, x and y
    temperature: Tensor  # (B,) K of stars


def scale_kpc(z: Tensor) -> Tensor:
    """kpc in an arcsecond at redshift z (Planck 2018)."""
    return 10 ** interpolate(torch.log1p(z), "cosmo_ln1z", "cosmo_log_kpc")


def luminosity_distance(z: Tensor) -> Tensor:
    """log10 of the luminosity distance in cm (Planck 2018)."""
    return interpolate(torch.log1p(z), "cosmo_ln1z", "cosmo_log_dl")


def interpolate(x: Tensor, grid: str, values: str) -> Tensor:
    """A table's values at x, on its even grid."""
    t = {name: tables()[name].to(x.device) for name in (grid, values)}
    place = ((x - t[grid][0]) / (t[grid][1] - t[grid][0])).clamp(0, len(t[grid]) - 1.001)
    low = place.long()
    return torch.lerp(t[values][low], t[values][low + 1], place - low)


def cosmic_age(z: Tensor) -> Tensor:
    """Gyr since the big bang in a flat universe with matter 0.311 and h = 0.677 (Planck 2018)."""
    return 11.60 * torch.asinh(math.sqrt(0.689 / 0.311) * (1 + z) ** -1.5)


def old_stars(age: Tensor, feh: Tensor) -> Tensor:
    """(B, K) weights of a burst at an age, spread over 0.12 dex and what the bank's ages are apart."""
    ages = torch.log10(torch.tensor(sed.AGES, dtype=torch.float32, device=age.device))
    width = (ages[1] - ages[0]) * 0.6 + 0.12
    in_age = torch.exp(-0.5 * ((ages - torch.log10(age)[:, None]) / width) ** 2)
    return spread_out(in_age / in_age.sum(1, keepdim=True), feh)


def continuous(start: Tensor, fall: Tensor, feh: Tensor, end: float = 0.1) -> Tensor:
    """(B, K) weights of star formation from `start` Gyr ago to `end` Gyr ago that falls with an e-folding time `fall`."""
    ages = torch.tensor(sed.AGES, dtype=torch.float32, device=start.device)
    step = ages * math.log(float(ages[1] / ages[0]))
    rate = torch.exp((ages - start[:, None]) / fall[:, None]) * step
    rate = rate * torch.sigmoid((start[:, None] - ages) / (0.15 * ages)) * (ages > end)
    return spread_out(rate / rate.sum(1, keepdim=True).clamp_min(1e-20), feh)


def spread_out(in_age: Tensor, feh: Tensor) -> Tensor:
    """Weights in age (B, ages) and [Fe/H] (B,) -> over the whole bank (B, K)."""
    bank = sed.templates()
    grid = torch.tensor(sed.FEH, device=feh.device)
    low, high = (feh - grid[0]) / (grid[1] - grid[0]), 1 + (feh - grid[1]) / (grid[2] - grid[1])
    place = torch.where(feh < grid[1], low, high).clamp(0, 2)
    in_feh = (1 - (place[:, None] - torch.arange(3, device=feh.device)).abs()).clamp_min(0.0)
    both = (in_age[:, :, None] * in_feh[:, None]).flatten(1)
    return torch.nn.functional.pad(both, (0, len(bank.bank) - bank.populations))


def one_star(temperature: Tensor, feh: Tensor) -> Tensor:
    """(B, K) weights of one star."""
    bank = sed.templates()
    grid = torch.log(torch.tensor(sed.TEMPERATURES, dtype=torch.float32, device=feh.device))
    place = (torch.log(temperature) - grid[0]) / (grid[1] - grid[0])
    in_t = (1 - (place[:, None] - torch.arange(len(grid), device=feh.device)).abs()).clamp_min(0.0)
    flat = spread_out(torch.ones(len(feh), len(sed.AGES), device=feh.device), feh)[:, : len(sed.FEH)]
    both = (in_t[:, :, None] * flat[:, None]).flatten(1)
    return torch.nn.functional.pad(both, (bank.populations, 0))


def magnitude(draw: Draw) -> Tensor:
    """(B,) in r: counts rise as 10^(0.28 m) from 16 to 20.6."""
    u = draw.uniform("mag", 1)[:, 0]
    return 20.6 + torch.log10(1 - u * (1 - 10 ** (-0.28 * 4.6))) / 0.28


def populate(draw: Draw) -> Population:
    """All parameters of the objects of `draw`."""
    device = draw.device
    n = {name: draw.normal(name, 1)[:, 0] for name in (
        "z", "feh", "old age", "disc age", "dust", "size", "bulge size", "sigma", "young", "metals", "slope", "temperature",
        "ebv", "boost", "velocity", "bulge dust")}
    u = {name: draw.uniform(name, 1)[:, 0] for name in (
        "kind", "rare", "tilt", "bulge", "angle", "index", "lens z", "other z", "other", "hard", "ra", "dec",
        "bulge axis")}
    r_mag = magnitude(draw)
    z = (0.115 * 10 ** (0.16 * (r_mag - 17.8)) * torch.exp(0.42 * n["z"])).clamp(0.012, 0.98)
    absolute = r_mag - 5 * luminosity_distance(z) + 97.447 - 2.2 * z  # M_r, with a mean K correction
    kind = choose_kind(draw, absolute)
    rare = choose_rare(u["rare"], kind)
    galaxy = (kind != STAR) & (kind != QUASAR)
    for which, shape in ((LENS, ELLIPTICAL), (RING, SPIRAL), (PEA, IRREGULAR)):
        kind = torch.where(rare == which, shape, kind)
    z = torch.where(rare == LENS, z.clamp_min(0.15), z)
    quasar_z = 0.35 + 2.6 * draw.uniform("quasar z", 1)[:, 0] ** 0.9
    z = torch.where(kind == QUASAR, quasar_z, torch.where(kind == STAR, n["velocity"] * 2.4e-4, z))

    late = torch.tensor([0.0, 1.0, 0.8, 0.85, 1.5, 1.25, 0.0, 1.0], device=device)[kind]
    feh = (-0.16 * (absolute + 20.8) - 0.12 + 0.22 * n["feh"]).clamp(-1.0, 0.35)
    oldest = cosmic_age(z.clamp(0, 3)) * 0.95
    old_age = torch.minimum(10 ** (0.78 - 0.03 * (absolute + 21) - 0.12 * late + 0.2 * n["old age"]), oldest)
    start = torch.minimum(10 ** (0.85 - 0.22 * late + 0.2 * n["disc age"]), oldest)
    fall = torch.clamp(start / (1.0 + 1.2 * n["young"].clamp(-0.8)) / (0.3 + 0.4 * late), 0.15, 30.0)
    lively = 0.22 * late * torch.exp(0.65 * n["young"] - 0.25 * n["disc age"])
    young = torch.where(late > 0, lively, 0.003 * torch.exp(n["young"]))
    young = torch.where(rare == PEA, 0.75, young).clamp(0.0, 0.75)
    bulge = torch.where(kind == ELLIPTICAL, 0.75 + 0.25 * u["bulge"], 0.04 + 0.5 * u["bulge"] ** 1.6)
    bulge = torch.where(kind == IRREGULAR, 0.1 * u["bulge"], bulge)

    tilt = torch.where(kind == EDGE_ON, 0.13 * u["tilt"], 0.25 + 0.75 * u["tilt"])  # cos of the inclination
    disc_axis = torch.sqrt(tilt**2 * (1 - 0.13**2) + 0.13**2)
    bulge_axis = torch.where(kind == ELLIPTICAL, 0.45 + 0.55 * u["bulge axis"], 0.6 * disc_axis + 0.4)
    dust = 0.22 * late * torch.exp(0.75 * n["dust"]) / torch.sqrt(disc_axis + 0.1)
    dust = torch.where(kind == ELLIPTICAL, 0.09 * torch.exp(0.9 * n["dust"]), dust).clamp_max(3.0)

    size = mass_size(absolute, z, kind, n["size"])
    bulge_size = torch.where(kind == ELLIPTICAL, size, size * 0.32 * torch.exp(0.3 * n["bulge size"]))
    disc_size = torch.where(kind == ELLIPTICAL, size * 1.5, size / 1.678)
    size_limits = (0.12, 5.0)

    share = shares(kind, rare, z, r_mag, young, bulge, u)
    temperature = star_temperature(draw, rare)
    weights = torch.stack([
        torch.where((kind == STAR)[:, None], one_star(temperature, feh), old_stars(old_age, feh)),
        continuous(start, fall, feh - 0.1),
        continuous(torch.full_like(z, 0.1), torch.full_like(z, 30.0), feh - 0.2, end=0.0),
        torch.where((u["other"] * 7 % 1 < 0.4)[:, None], old_stars(torch.full_like(z, 6.0), feh),
                    continuous(0.6 * oldest, 0.4 * oldest, feh)),
    ], dim=1)
    av = dust_of_parts(kind, rare, dust, n["bulge dust"])
    mass_proxy = -0.4 * (absolute + 20.8)
    active = (u["hard"] < torch.where(kind == ELLIPTICAL, 0.12, 0.08)) & (mass_proxy > -0.4) & galaxy
    return Population(
        kind=kind, rare=rare, ra=FOOTPRINT[0] + (u["ra"] - 0.5) * FOOTPRINT[2],
        dec=FOOTPRINT[1] + (u["dec"] - 0.5) * FOOTPRINT[2],
        z=z, z_parts=redshifts(rare, z, u), r_mag=r_mag, share=share, weights=weights, av=av,
        nebular=(0.25 * mass_proxy - 0.12 + 0.12 * n["metals"]).clamp(-0.8, 0.35) - 0.45 * (rare == PEA),
        hardness=torch.where(active, 0.5 + 0.5 * u["tilt"], 0.0),
        boost=torch.exp(0.3 * n["boost"]) * torch.where(rare == PEA, 2.5, 1.0),
        sigma=(10 ** (2.15 + 0.22 * mass_proxy - 0.25 * late.clamp_max(1) * (1 - bulge)
                      + 0.07 * n["sigma"])).clamp(35.0, 330.0),
        slope=-1.55 + 0.25 * n["slope"], ebv=0.028 * torch.exp(0.45 * n["ebv"]),
        radius=torch.stack([bulge_size.clamp(*size_limits), disc_size.clamp(0.2, 5.0)], dim=1),
        index=torch.where(kind == ELLIPTICAL, 3.0 + 1.8 * u["index"], 1.2 + 2.4 * u["index"]),
        axis=torch.stack([bulge_axis, torch.where(kind == ELLIPTICAL, bulge_axis, disc_axis)], dim=1),
        angle=math.pi * u["angle"],
        offset=0.12 * draw.normal("offset", 2).clamp(-3, 3), temperature=temperature)


def shares(kind: Tensor, rare: Tensor, z: Tensor, r_mag: Tensor, young: Tensor, bulge: Tensor,
           u: dict[str, Tensor]) -> Tensor:
    """(B, C) flux in r of each component over the object's own; stars and far quasars are points and nothing else."""
    share = torch.zeros(len(z), 4, device=z.device)
    share[:, YOUNG] = young
    share[:, OLD] = bulge * (1 - young)
    share[:, DISC] = (1 - bulge) * (1 - young)
    share[:, OTHER] = 10 ** (-0.4 * (17.6 + 5.2 * u["other"] ** 0.55 - r_mag))
    point = torch.zeros_like(share).index_fill_(1, torch.tensor([OLD], device=z.device), 1.0)
    nucleus = torch.tensor([0.8, 0.15, 0.05, 0.0], device=z.device).expand_as(share)
    own = (kind == STAR)[:, None] * point + (kind == QUASAR)[:, None] * torch.where((z < 0.8)[:, None], nucleus, point)
    share[:, :OTHER] = torch.where((kind < STAR)[:, None], share, own)[:, :OTHER]
    share[:, YOUNG] = torch.where(rare == LENS, 0.12 + 0.25 * u["lens z"], share[:, YOUNG])
    share[:, :OTHER] = share[:, :OTHER] / share[:, :OTHER].sum(1, keepdim=True)
    return share


def redshifts(rare: Tensor, z: Tensor, u: dict[str, Tensor]) -> Tensor:
    """(B, C): all parts are where the object is, but for lensed sources and neighbours."""
    z_parts = z[:, None].repeat(1, 4)
    z_parts[:, YOUNG] = torch.where(rare == LENS, torch.clamp(z + 0.6 + 1.2 * u["lens z"], max=2.0), z)
    z_parts[:, OTHER] = 0.04 + 0.6 * u["other z"] ** 1.5
    return z_parts


def dust_of_parts(kind: Tensor, rare: Tensor, dust: Tensor, scatter: Tensor) -> Tensor:
    """(B, C) V magnitudes: less in the bulge, more around young stars, none before stars and quasars."""
    av = torch.stack([dust * 0.55 * torch.exp(0.2 * scatter), dust, dust * 1.5, torch.full_like(dust, 0.3)], dim=1)
    av[:, YOUNG] = torch.where(rare == LENS, 0.2, av[:, YOUNG])
    av[:, OLD] = torch.where(kind >= STAR, 0.0, av[:, OLD])
    return av


def choose_kind(draw: Draw, absolute: Tensor) -> Tensor:
    """(B,) into CLASSES; the fraction of ellipticals rises with luminosity."""
    weights = torch.tensor(SHARES, device=draw.device).repeat(len(absolute), 1)
    weights[:, ELLIPTICAL] *= 0.25 + 1.6 * torch.sigmoid(-(absolute + 21.3) / 0.5)
    weights[:, IRREGULAR] *= 0.2 + 3.0 * torch.sigmoid((absolute + 19.5) / 0.5)
    galaxies = 1 - SHARES[STAR] - SHARES[QUASAR]
    weights[:, :STAR] *= galaxies / weights[:, :STAR].sum(1, keepdim=True)
    return draw.choose("kind", weights)


def choose_rare(u: Tensor, kind: Tensor) -> Tensor:
    """(B,) into RARE: about one object in forty is something that people hunt for."""
    galaxy = kind < STAR
    rare = torch.zeros_like(kind)
    for i, (low, high) in enumerate([(0.0, 0.008), (0.008, 0.016), (0.016, 0.021), (0.0, 0.03), (0.021, 0.028)], start=1):
        allowed = (kind == STAR) if i == DWARF else galaxy
        rare = torch.where(allowed & (u >= low) & (u < high), i, rare)
    return rare


def mass_size(absolute: Tensor, z: Tensor, kind: Tensor, scatter: Tensor) -> Tensor:
    """Half-light radius in arcsec."""
    mass = -0.4 * (absolute + 21.5)  # log10 of the mass over 5e10
    early = 0.62 + 0.62 * mass + 0.13 * scatter - 0.9 * torch.log10(1 + z.clamp(0, 3))
    late = 0.76 + 0.28 * mass + 0.17 * scatter - 0.5 * torch.log10(1 + z.clamp(0, 3))
    kpc = 10 ** torch.where(kind == ELLIPTICAL, early, late)
    return (kpc / scale_kpc(z.clamp(0.01, 3))).clamp(0.3, 8.0)


def star_temperature(draw: Draw, rare: Tensor) -> Tensor:
    """(B,) K: mostly dwarfs of types M to F, some hotter; white dwarfs hot."""
    u, n = draw.uniform("star", 2).unbind(1), draw.normal("star", 1)[:, 0]
    common = torch.where(u[0] < 0.45, 3500 + 330 * n, torch.where(u[0] < 0.93, 5500 + 650 * n, 8500 + 1100 * n))
    return torch.where(rare == DWARF, 11000 + 14000 * u[1], common).clamp(2800, 30000)
