"""Component maps of objects on one fine grid, and what two surveys' telescopes make of them.

Each component is drawn once, 200 x 200 pixels of 0.131", transformed once, and mixed band by band in Fourier space with
the point spread function; cutting the transform to 100 or 156 waves gives Legacy's 0.262" or HSC's 0.16795" pixels
directly, without resampling. The middle 96 x 96 pixels are what a survey delivers. Rows grow to the north, columns to
the west.

Shape letters: B objects, C components, F bands of a survey, G Gaussians of a PSF, N pixels a side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from engine.simulate.population import (
    BARRED,
    DISC,
    ELLIPTICAL,
    IRREGULAR,
    LENS,
    MERGER,
    OLD,
    OTHER,
    RING,
    SPIRAL,
    STAR,
    YOUNG,
    Population,
    tables,
)
from engine.simulate.rng import Draw

FINE, FINE_SCALE = 200, 0.131
FIELD = FINE * FINE_SCALE  # arcsec
SIDE = 96
POINT_SIGMA = 0.1  # arcsec; points are drawn as a Gaussian of this width, which is taken off again in Fourier space
CENTRE, SAMPLES = 6, 27  # the inner pixels are averages over 27 x 27 samples each, for cuspy profiles


@dataclass(frozen=True)
class Camera:
    """One survey's coadds. waves: of the transform that are kept; filters: where its bands are among `Light.bands`;
    seeing, depth: median FWHM in arcsec and 5 sigma point source depth in AB, a band each; spreads: of both; zero: AB
    magnitude of one unit; electrons: of one unit."""

    name: str
    bands: tuple[str, ...]
    waves: int
    filters: slice
    seeing: tuple[float, ...]
    depth: tuple[float, ...]
    spread: tuple[float, float]
    zero: float
    electrons: float

    @property
    def scale(self) -> float:
        """Arcsec a pixel."""
        return FIELD / self.waves


# Dey et al. 2019, AJ 157, 168 (tables 3, 4; i: DECam, DR10), the coadds 0.35 mag (i: 0.2) deeper than there, as later exposures
# have made them; Aihara et al. 2022, PASJ 74, 247 (table 2).
LEGACY = Camera("legacy", ("g", "r", "i", "z"), 100, slice(0, 4),
                (1.29, 1.18, 1.15, 1.11), (24.8, 24.2, 23.7, 23.3), (0.10, 0.25), 22.5, 60.0)
HSC = Camera("hsc", ("g", "r", "i", "z", "y"), 156, slice(4, 9),
             (0.79, 0.75, 0.61, 0.68, 0.68), (26.5, 26.1, 25.9, 25.1, 24.4), (0.09, 0.15), 27.0, 8.0)
CAMERAS = (LEGACY, HSC)


def axis(count: int, scale: float, device: torch.device | str = "cpu") -> Tensor:
    """(count,) arcsec of pixel centres from the middle."""
    return (torch.arange(count, device=device) - (count - 1) / 2) * scale


def sersic_b(n: Tensor) -> Tensor:
    """Ciotti & Bertin 1999, A&A 352, 447, eq. 18."""
    return 2 * n - 1 / 3 + 4 / (405 * n) + 46 / (25515 * n**2)


@dataclass
class Shapes:
    """(B, 1, 1) parameters that the profiles below share."""

    x: Tensor
    y: Tensor
    cos: Tensor
    sin: Tensor
    bulge: Tensor
    disc: Tensor
    index: Tensor
    bulge_axis: Tensor
    disc_axis: Tensor

    @classmethod
    def of(cls, p: Population) -> Shapes:
        v = [t[:, None, None] for t in (p.offset[:, 0], p.offset[:, 1], torch.cos(p.angle), torch.sin(p.angle), p.radius[:, 0],
                                        p.radius[:, 1], p.index, p.axis[:, 0], p.axis[:, 1])]
        return cls(*v)

    def turned(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Sky positions along the major and minor axis."""
        dx, dy = x - self.x, y - self.y
        return dx * self.cos + dy * self.sin, dy * self.cos - dx * self.sin

    def sersic(self, a: Tensor, b: Tensor) -> Tensor:
        """The bulge, arcsec^-2, of total flux 1 (Sersic 1968; Graham & Driver 2005, eq. 4)."""
        n, k = self.index, sersic_b(self.index)
        radius = torch.sqrt(a**2 + (b / self.bulge_axis) ** 2).clamp_min(1e-4) / self.bulge
        total = 2 * math.pi * n * self.bulge**2 * self.bulge_axis * torch.exp(k - 2 * n * torch.log(k) + torch.lgamma(2 * n))
        return torch.exp(-k * (torch.exp(torch.log(radius) / n) - 1)) / total

    def exponential(self, a: Tensor, b: Tensor) -> Tensor:
        """The disc, arcsec^-2, of total flux 1."""
        radius = torch.sqrt(a**2 + (b / self.disc_axis) ** 2)
        return torch.exp(-radius / self.disc) / (2 * math.pi * self.disc**2 * self.disc_axis)


@dataclass
class Maps:
    """light: (B, C, 200, 200) flux a pixel, each component of flux 1; bar, arm: (B, 200, 200) bool."""

    light: Tensor
    bar: Tensor
    arm: Tensor


def component_maps(p: Population, draw: Draw) -> Maps:
    """All components of all objects."""
    s, device = Shapes.of(p), p.z.device
    xy = axis(FINE, FINE_SCALE, device)
    a, b = s.turned(xy, xy[:, None])
    light = torch.empty(len(p.z), 4, FINE, FINE, device=device)
    light[:, OLD], light[:, DISC] = s.sersic(a, b), s.exponential(a, b)
    inner = slice((FINE - CENTRE) // 2, (FINE + CENTRE) // 2)
    fine = axis(CENTRE * SAMPLES, FINE_SCALE / SAMPLES, device)
    c, d = s.turned(fine, fine[:, None])
    for component, profile in ((OLD, s.sersic), (DISC, s.exponential)):
        light[:, component, inner, inner] = torch.nn.functional.avg_pool2d(profile(c, d)[:, None], SAMPLES)[:, 0]
    light[:, :YOUNG] *= FINE_SCALE**2
    arm = young_and_arms(p, draw, light, a, b)
    bar = add_bars(p, draw, light, a, b)
    add_lenses(p, draw, light, xy)
    add_mergers(p, draw, light, xy)
    light[:, OTHER] = neighbours(draw, xy)
    point = p.kind >= STAR
    spot = torch.exp(-0.5 * ((xy - s.x) ** 2 + (xy[:, None] - s.y) ** 2)[point] / POINT_SIGMA**2)
    light[point, OLD] = spot * FINE_SCALE**2 / (2 * math.pi * POINT_SIGMA**2)
    return Maps(light, bar, arm)


def young_and_arms(p: Population, draw: Draw, light: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Fill the young component (arms, knots, flocculence), press the arms into the disc; (B, 200, 200) bool: on an arm.

    Arms are logarithmic spirals in the plane of the disc, most open in late types (Kennicutt 1981).
    """
    smooth = (p.kind == ELLIPTICAL) | (p.kind >= STAR)
    light[smooth, YOUNG] = light[smooth, DISC]
    on_arm = torch.zeros(light.shape[0], FINE, FINE, dtype=torch.bool, device=light.device)
    rows = (~smooth).nonzero()[:, 0]
    u = draw.uniform("arms", 6)[rows]
    h, kind = p.radius[rows, 1, None, None], p.kind[rows]
    a, b = a[rows], b[rows]
    depth = b / p.axis[rows, 1, None, None]
    radius = torch.sqrt(a**2 + depth**2).clamp_min(1e-3)
    disc, starts = torch.exp(radius / (-1.15 * h)), 1 - torch.exp(-((radius / (0.8 * h)) ** 2))
    count = torch.where(u[:, 0] < 0.65, 2, torch.where(u[:, 0] < 0.85, 3, 4)).float()[:, None, None]
    pitch = torch.tan(torch.deg2rad(10 + 22 * u[:, 1]))[:, None, None]
    sense = torch.where(u[:, 2] < 0.5, -1.0, 1.0)[:, None, None]
    spirals = ((kind == SPIRAL) | (kind == BARRED))[:, None, None]
    phase = count * (torch.atan2(depth, a) - sense * torch.log(radius / h) / pitch) + 6.2832 * u[:, 3, None, None]
    wave = torch.exp((1.5 + 4.0 * u[:, 4, None, None]) * (torch.cos(phase) - 1))
    pressed = torch.where(spirals, 0.55 + 0.9 * wave * starts, 1.0)
    pattern = torch.where(spirals, (0.08 + wave) * starts, 1.0) * disc
    ringed = (p.rare[rows] == RING).nonzero()[:, 0]
    ring = torch.exp(-0.5 * ((radius[ringed] / h[ringed] - 1.9) / 0.22) ** 2)
    pattern[ringed], pressed[ringed] = ring, 0.5 + 1.5 * ring
    young = pattern * clumps(draw, rows, torch.where(kind == IRREGULAR, 1.3, 0.6))
    young = young / young.sum((1, 2), keepdim=True).clamp_min(1e-12)
    spots = knots(p, draw, rows, pitch[:, :, 0], sense[:, :, 0], count[:, :, 0], u[:, 3, None])
    light[rows, YOUNG] = 0.74 * young + 0.26 * spots
    disc = light[rows, DISC] * pressed
    light[rows, DISC] = disc * (light[rows, DISC].sum((1, 2), keepdim=True) / disc.sum((1, 2), keepdim=True))
    dusty = (p.axis[rows, 1] < 0.22).nonzero()[:, 0]
    lane = torch.exp(-0.5 * (b[dusty] / (0.1 * h[dusty] + 0.08)) ** 2 - radius[dusty] / (3 * h[dusty]))
    light[rows[dusty], :YOUNG] *= (1 - 0.65 * lane)[:, None]
    plain = spirals & (p.rare[rows] != RING)[:, None, None]
    on_arm[rows] = plain & (wave > 0.5) & (radius > 0.9 * h) & (radius < 3.2 * h)
    return on_arm


def clumps(draw: Draw, rows: Tensor, rough: Tensor) -> Tensor:
    """(n, 200, 200) lognormal unevenness on two scales, about 1" and 0.4"."""
    octaves = [torch.nn.functional.interpolate(draw.normal(f"clumps {n}", 1, n, n)[rows], size=FINE, mode="bilinear")[:, 0] * w
               for n, w in ((25, 0.8), (60, 0.6))]
    return torch.exp(rough[:, None, None] * (octaves[0] + octaves[1]))


def knots(p: Population, draw: Draw, rows: Tensor, pitch: Tensor, sense: Tensor, count: Tensor, start: Tensor) -> Tensor:
    """(n, 200, 200) of flux 1: a dozen star-forming knots along the arms, whose shapes are (n, 1) each."""
    u, n = draw.uniform("knots", 3, 12)[rows], draw.normal("knots", 2, 12)[rows]
    h = p.radius[rows, 1, None]
    radius = h * (0.7 - 1.4 * torch.log(u[:, 0])).clamp_max(3.5)
    arm = torch.floor(u[:, 1] * count)
    turn = sense * torch.log(radius / h) / pitch + 6.2832 * (arm - start) / count + 0.15 * n[:, 0]
    along, across = radius * torch.cos(turn), radius * torch.sin(turn) * p.axis[rows, 1, None]
    cos, sin = torch.cos(p.angle[rows])[:, None], torch.sin(p.angle[rows])[:, None]
    x = p.offset[rows, :1] + along * cos - across * sin
    y = p.offset[rows, 1:] + along * sin + across * cos
    weight = torch.exp(0.8 * n[:, 1])
    return blobs(x, y, 0.12 + 0.12 * u[:, 2], weight / weight.sum(1, keepdim=True))


def blobs(x: Tensor, y: Tensor, sigma: Tensor, weight: Tensor) -> Tensor:
    """(B, 200, 200) flux a pixel of round Gaussians, (B, M) each; sigma in arcsec."""
    xy = axis(FINE, FINE_SCALE, x.device)
    gx = torch.exp(-0.5 * ((xy - x[..., None]) / sigma[..., None]) ** 2)
    gy = torch.exp(-0.5 * ((xy - y[..., None]) / sigma[..., None]) ** 2)
    height = weight / (2 * math.pi * sigma**2) * FINE_SCALE**2
    return torch.einsum("bm,bmy,bmx->byx", height, gy, gx)


def add_bars(p: Population, draw: Draw, light: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Turn a part of the bulge into a bar (Ferrers 1877, n = 2, drawn out along its axis); (B, 200, 200) bool: on it."""
    on_bar = torch.zeros(light.shape[0], FINE, FINE, dtype=torch.bool, device=light.device)
    rows = (p.kind == BARRED).nonzero()[:, 0]
    u = draw.uniform("bar", 3)[rows][..., None, None]
    half = (0.9 + 0.6 * u[:, 0]) * p.radius[rows, 1, None, None]
    turn, depth, a = (u[:, 1] - 0.5) * 2.4, b[rows] / p.axis[rows, 1, None, None], a[rows]
    along, across = a * torch.cos(turn) + depth * torch.sin(turn), depth * torch.cos(turn) - a * torch.sin(turn)
    m2 = (along / half) ** 2 + (across / (0.28 * half)) ** 2
    bar = (1 - m2).clamp_min(0.0) ** 2
    bar = bar / bar.sum((1, 2), keepdim=True).clamp_min(1e-9)
    light[rows, OLD] = torch.lerp(light[rows, OLD], bar, 0.45 + 0.3 * u[:, 2])
    on_bar[rows] = m2 < 0.8
    return on_bar


def add_lenses(p: Population, draw: Draw, light: Tensor, xy: Tensor) -> None:
    """The young component of lenses becomes a source behind an isothermal sphere with shear (Narayan & Bartelmann 1996)."""
    rows = (p.rare == LENS).nonzero()[:, 0]
    if not len(rows):
        return
    u = draw.uniform("lens", 6)[rows][:, :, None, None]
    x, y = xy - p.offset[rows, 0, None, None], xy[:, None] - p.offset[rows, 1, None, None]
    einstein, shear, turn = 0.9 + 1.1 * u[:, 0], 0.12 * u[:, 1], 6.2832 * u[:, 2]
    radius = torch.sqrt(x**2 + y**2).clamp_min(0.02)
    c, s = shear * torch.cos(turn), shear * torch.sin(turn)
    bx, by = x - einstein * x / radius - c * x - s * y, y - einstein * y / radius - s * x + c * y
    away, at = 0.35 * torch.sqrt(u[:, 3]) * einstein, 6.2832 * u[:, 4]
    distance = (bx - away * torch.cos(at)) ** 2 + (by - away * torch.sin(at)) ** 2
    arcs = torch.exp(-torch.sqrt(distance + 0.01) / (0.08 + 0.08 * u[:, 5]))
    light[rows, YOUNG] = arcs / arcs.sum((1, 2), keepdim=True)


def add_mergers(p: Population, draw: Draw, light: Tensor, xy: Tensor) -> None:
    """Mergers have a second nucleus and two tidal tails of stars, curved as after a first passage (Toomre & Toomre 1972)."""
    rows = (p.kind == MERGER).nonzero()[:, 0]
    if not len(rows):
        return
    u = draw.uniform("merger", 6)[rows]
    x0, y0 = p.offset[rows].unbind(1)
    apart, at = 0.9 + 2.6 * u[:, 0], 6.2832 * u[:, 1]
    x1, y1 = x0 + apart * torch.cos(at), y0 + apart * torch.sin(at)
    size = (0.7 * p.radius[rows, 1]).clamp(0.2, 1.5)[:, None, None]
    second = torch.exp(-torch.sqrt((xy - x1[:, None, None]) ** 2 + (xy[:, None] - y1[:, None, None]) ** 2) / size)
    second = second / second.sum((1, 2), keepdim=True)
    ratio = (0.2 + 0.3 * u[:, 2])[:, None, None]
    step = torch.linspace(0.1, 1.0, 20, device=xy.device)
    reach, bend = (3.0 + 5.0 * u[:, 3, None]) * step, (1.0 + 1.6 * u[:, 4, None]) * step
    sign = torch.where(u[:, 5] < 0.5, -1.0, 1.0)[:, None]
    tails = []
    for cx, cy, first in ((x0, y0, at + math.pi), (x1, y1, at)):
        turn = first[:, None] + sign * bend
        tails.append((cx[:, None] + reach * torch.cos(turn), cy[:, None] + reach * torch.sin(turn)))
    tx, ty = torch.cat([t[0] for t in tails], 1), torch.cat([t[1] for t in tails], 1)
    fade = (1.15 - step).repeat(2).expand_as(tx)
    tail = blobs(tx, ty, (0.3 + 0.35 * step).repeat(2).expand_as(tx), fade / fade.sum(1, keepdim=True))
    light[rows, OLD] = (1 - ratio) * light[rows, OLD] + ratio * second
    light[rows, DISC] = (1 - ratio) * 0.75 * light[rows, DISC] + ratio * second * 0.75 + 0.25 * tail
    light[rows, YOUNG] = 0.6 * light[rows, YOUNG] + 0.25 * second + 0.15 * tail


def neighbours(draw: Draw, xy: Tensor) -> Tensor:
    """(B, 200, 200) of flux about 1: one galaxy somewhere in the stamp and up to two stars; some blend with the object."""
    u = draw.uniform("neighbours", 5)[:, :, None, None]
    away, at = 2.2 + 10.5 * torch.sqrt(u[:, 0]), 6.2832 * u[:, 1]
    x, y = xy - away * torch.cos(at), xy[:, None] - away * torch.sin(at)
    turn = 3.1416 * u[:, 2]
    a, b = x * torch.cos(turn) + y * torch.sin(turn), y * torch.cos(turn) - x * torch.sin(turn)
    size, flat = 0.22 + 0.6 * u[:, 3] ** 2, 0.3 + 0.7 * u[:, 4]
    galaxy = torch.exp(-torch.sqrt(a**2 + (b / flat) ** 2) / size) * FINE_SCALE**2 / (2 * math.pi * size**2 * flat)
    v = draw.uniform("field stars", 4, 2)
    radius = 3.0 + 9.0 * torch.sqrt(v[:, 0])
    x, y = radius * torch.cos(6.2832 * v[:, 1]), radius * torch.sin(6.2832 * v[:, 1])
    stars = blobs(x, y, torch.full_like(radius, POINT_SIGMA),
                  0.8 * (v[:, 2] < 0.35) * v[:, 3])
    return 0.7 * galaxy + stars


def gaussians(camera: Camera, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Weights and sigmas (G,) in FWHM of the Gaussians that stand for the camera's Moffat profile."""
    return tables()[f"psf_{camera.name}_weight"].to(device), tables()[f"psf_{camera.name}_sigma"].to(device)


def expose(light: Tensor, flux: Tensor, fwhm: Tensor, camera: Camera, point: Tensor) -> Tensor:
    """(B, F, 96, 96) noise-free flux a pixel.

    light: rfft2 of the component maps (B, C, 200, 101); flux: (B, F, C) of components; fwhm: (B, F) arcsec; point: (B,)
    objects whose first component is a point.
    """
    n, device = camera.waves, light.device
    half = n // 2
    cut = torch.cat([light[:, :, :half, : half + 1], light[:, :, FINE - half :, : half + 1]], dim=2)
    kx, ky = torch.arange(half + 1, device=device) / FIELD, torch.fft.fftfreq(n, device=device) * n / FIELD
    # Maps are means over fine pixels, points are not: the first are freed of that box, the others of their Gaussian.
    box = torch.sinc(kx * FINE_SCALE) * torch.sinc(ky * FINE_SCALE)[:, None]
    sharp = torch.exp(2 * (math.pi * POINT_SIGMA) ** 2 * (kx**2 + ky[:, None] ** 2))
    first = torch.where(point[:, None, None, None], sharp, 1 / box)
    cut = torch.cat([cut[:, :1] * first, cut[:, 1:] / box], dim=1)
    weight, sigma = gaussians(camera, device)
    spread = 2 * (math.pi * sigma * fwhm[..., None]) ** 2  # (B, F, G)
    mtf_x = torch.exp(-spread[..., None] * kx**2) * torch.sinc(kx * camera.scale)
    mtf_y = weight[:, None] * torch.exp(-spread[..., None] * ky**2) * torch.sinc(ky * camera.scale)
    mtf = torch.einsum("bfgy,bfgx->bfyx", mtf_y, mtf_x)
    shift = (camera.scale - FINE_SCALE) / 2  # the first pixel's centre moves when pixels grow
    phase = torch.exp(2j * math.pi * shift * (kx + ky[:, None]))
    phase[half], phase[:, half] = 0, 0  # the wave at the edge of the band has no partner
    b, f = flux.shape[:2]
    mixed = torch.bmm(flux, torch.view_as_real(cut).flatten(2)).view(b, f, n, half + 1, 2)
    image = torch.fft.irfft2(torch.view_as_complex(mixed) * mtf * phase, s=(n, n))
    start = (n - SIDE) // 2
    return image[..., start : start + SIDE, start : start + SIDE].contiguous()


@lru_cache(maxsize=8)
def fibre_weight(diameter: float, fwhm: float, device: torch.device | str) -> Tensor:
    """(200, 200): how much of a pixel's light enters a fibre in the middle, through seeing of a Moffat profile (beta 3.5)."""
    k = torch.fft.fftfreq(FINE, FINE_SCALE)
    radius = torch.sqrt(k[:, None] ** 2 + k**2)
    weight, sigma = gaussians(HSC, "cpu")
    mtf = (weight[:, None, None] * torch.exp(-2 * (math.pi * sigma[:, None, None] * fwhm * radius) ** 2)).sum(0)
    x = (math.pi * diameter * radius).clamp_min(1e-6)
    disc = math.pi * diameter**2 / 4 * 2 * torch.special.bessel_j1(x) / x
    out = torch.fft.fftshift(torch.fft.ifft2(mtf * disc).real) / FINE_SCALE**2
    out = 0.25 * (out + out.roll(-1, 0) + out.roll(-1, 1) + out.roll((-1, -1), (0, 1)))  # the middle lies between pixels
    return out.float().clamp(0.0, 1.0).to(device)
