"""Telescopes in software: point spread functions with their wings, kernels between them, images on another survey's pixels.

A PSF here is what a point looks like on the pixels, the pixel's own width included. It is fitted by round Gaussians, which
say how it goes on beyond its stamp; what they miss inside the stamp is kept beside them.

Shape letters: G Gaussians, n pixels of a PSF stamp a side, N pixels of an image a side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from engine.objects import Image

Array = NDArray[Any]
SIGMAS = np.geomspace(0.35, 9.0, 40)  # pixels: widths of the Gaussians that a stamp is fitted with
WHOLE = (0.5, 1.02)  # a stamp whose sum lies here is a share of all light; any other is scaled to 1
ANCHOR = 10.0  # how much more the sum of all light counts than a pixel of the stamp
SMALL = 1e-3  # of the transform of a PSF at 0: waves that it lets through less cannot be restored
POINTS, SHARES = np.polynomial.legendre.leggauss(3)  # of the quadrature over a pixel
SPLINE = 5
MOST = 1.1  # of the noise that the inverse variance states: what is more in the far differences is light
SMOOTHED = 0.3  # of a pixel's noise: what is left of it, shared as coadds share it, when pixels are smoothed to find the sky
CLIPS = 50
APART = ((6, 0), (0, 6), (5, 5), (5, -5))  # (y, x) pixels: farther than pixels share their noise
PAIRS = 400
FAR = 7  # pixels to which noise that went through a kernel is followed
COVERED = 0.97  # of the kernel's weight that must fall on observed pixels
TURNED = np.deg2rad(3.0)  # more than this against each other, and PSFs are made alike in four directions


@dataclass(frozen=True)
class Psf:
    """weight, sigma: (G,), sigma in arcsec; scale: arcsec a pixel; rest: (n, n) what a stamp has beside the Gaussians, with
    its middle at `middle` (y, x), in pixels."""

    weight: Array
    sigma: Array
    scale: float
    rest: Array | None = None
    middle: tuple[float, float] = (0.0, 0.0)

    def transform(self, fx: Array, fy: Array) -> Array:
        """At frequencies fx (X,) and fy (Y,) in 1/arcsec, (Y, X): 1 at 0 for a stamp that sums to 1."""
        spread = [self.weight[:, None] ** 0.5 * np.exp(-2 * (np.pi * self.sigma[:, None] * f) ** 2) for f in (fy, fx)]
        out: Array = np.einsum("gy,gx->yx", *spread) * np.sinc(fy * self.scale)[:, None] * np.sinc(fx * self.scale)
        if self.rest is not None:
            waves = [np.exp(-2j * np.pi * np.outer(f * self.scale, np.arange(n) - m))
                     for f, n, m in zip((fy, fx), self.rest.shape, self.middle, strict=True)]
            out = out + waves[0] @ self.rest @ waves[1].T
        return out

    @property
    def rounded(self) -> Psf:
        """Alike in four directions, where it does not matter how a camera is turned."""
        if self.rest is None or self.rest.shape[0] != self.rest.shape[1]:
            return replace(self, rest=None)
        return replace(self, rest=np.mean([np.rot90(self.rest, k) for k in range(4)], axis=0))

    @cached_property
    def fwhm(self) -> float:
        """Arcsec, of the Gaussians and the pixel."""
        sigma2 = self.sigma**2 + self.scale**2 / 12
        r = np.linspace(0.0, 4 * float(np.sqrt(sigma2.max())), 4000)
        profile = (self.weight / sigma2) @ np.exp(-0.5 * r**2 / sigma2[:, None])
        return 2 * float(np.interp(0.5 * profile[0], profile[::-1], r[::-1]))


def fitted(stamp: Array, scale: float) -> Psf:
    """From a stamp (n, n) on pixels of `scale` arcsec. Raises ValueError for one that is not finite or sums to nothing."""
    from scipy.optimize import nnls
    from scipy.special import erf

    stamp = np.asarray(stamp, np.float64)
    total = stamp.sum()
    if not np.isfinite(total) or total <= 0:
        raise ValueError("a PSF stamp is not finite or sums to nothing; leave the PSF out to use the survey's usual one")
    stamp = stamp if WHOLE[0] <= total <= WHOLE[1] else stamp / total
    middle = [float(np.average(np.arange(n), weights=np.clip(stamp, 0, None).sum(1 - axis))) for axis, n in
              enumerate(stamp.shape)]
    rows = []
    for n, m in zip(stamp.shape, middle, strict=True):
        edges = (np.arange(n + 1) - 0.5 - m) / (np.sqrt(2) * SIGMAS[:, None])
        rows.append(0.5 * np.diff(erf(edges), axis=1))
    each = np.einsum("gy,gx->yxg", *rows)
    matrix = np.vstack([each.reshape(-1, len(SIGMAS)), np.full(len(SIGMAS), ANCHOR)])
    weight, _ = nnls(matrix, np.append(stamp.ravel(), ANCHOR))
    kept = weight > 0
    return Psf(weight[kept], SIGMAS[kept] * scale, scale, stamp - each @ weight, (middle[0], middle[1]))


def usual(survey: str, band: str) -> Psf:
    """What a survey's images have in the middle, of those in `engine.simulate.images.CAMERAS`. Raises ValueError for others."""
    from engine.simulate.images import CAMERAS, gaussians

    for camera in CAMERAS:
        if camera.name == survey and band in camera.bands:
            weight, sigma = (x.numpy() for x in gaussians(camera, "cpu"))
            return Psf(weight, sigma * camera.seeing[camera.bands.index(band)], camera.scale)
    raise ValueError(f"the image of {survey} has no PSF in band {band}, and its usual one is not known; give Image.psf, "
                     "(bands, n, n)")


def psf_of(image: Image, band: str) -> Psf:
    """An image's own PSF, or its survey's usual one. Raises ValueError if there is neither, or no pixel scale."""
    if image.psf is None:
        return usual(str(image.survey), band)
    if image.pixel_scale is None:
        raise ValueError("an image with a PSF has neither WCS nor pixel_scale; give one")
    return fitted(image.psf[image.bands.index(band)], image.pixel_scale)


# ------------------------------------------------------------------------------------------------- from grid to grid


@dataclass(frozen=True)
class Grids:
    """Where the pixels of one image fall on another.

    y, x: (N, P, N, P) places in the source's pixels of P points a side in every target pixel; area: source pixels a target
    pixel; scale, onto: arcsec a pixel of source and target; turned: whether they are turned against each other.
    """

    y: Array
    x: Array
    area: float
    scale: float
    onto: float
    turned: bool


def grids(source: Image, target: Image) -> Grids:
    """By their WCS; where one of them has none, both have the same middle and are turned alike. Raises ValueError without pixel
    scales."""
    scales = [image.pixel_scale for image in (source, target)]
    if scales[0] is None or scales[1] is None:
        raise ValueError("an image has neither WCS nor pixel_scale, so that it cannot be laid on another; give one")
    ny, nx = target.size
    y, x = ((np.arange(n)[:, None] + POINTS / 2).ravel() for n in (ny, nx))
    if source.wcs is None or target.wcs is None:
        ratio = scales[1] / scales[0]
        here = [(at - (n - 1) / 2) * ratio + (m - 1) / 2 for at, n, m in zip((y, x), target.size, source.size, strict=True)]
        found = np.broadcast_arrays(here[0][:, None], here[1])
        shear = np.diag([ratio, ratio])
    else:
        from astropy.wcs.utils import pixel_to_pixel

        found = pixel_to_pixel(target.wcs, source.wcs, *np.meshgrid(x, y))[::-1]
        at = np.array([0.0, 1.0, 0.0]) + (nx - 1) / 2, np.array([0.0, 0.0, 1.0]) + (ny - 1) / 2
        px, py = pixel_to_pixel(target.wcs, source.wcs, *at)
        shear = np.array([[py[2] - py[0], py[1] - py[0]], [px[2] - px[0], px[1] - px[0]]])
    turn = np.arctan2(np.abs(shear[0, 1] - shear[1, 0]), shear[0, 0] + shear[1, 1])
    shape = (ny, len(POINTS), nx, len(POINTS))
    return Grids(found[0].reshape(shape), found[1].reshape(shape), float(abs(np.linalg.det(shear))), scales[0], scales[1],
                 bool(turn > TURNED))


@dataclass(frozen=True)
class Kernel:
    """From one PSF to another: transform (Y, X/2 + 1) on the padded source grid; clipped: whether the target is sharper, so
    that the kernel leaves as it is what it cannot restore."""

    transform: Array
    pad: int
    clipped: bool


def matching(source: Psf, target: Psf, size: tuple[int, int], grid: Grids) -> Kernel:
    """The kernel for images of `size`, which are averaged over target pixels afterwards (the target's PSF has that in it).

    In Fourier space T S* / (|S|^2 + e^2), with e = `SMALL` (as Wiener's filter, e.g. Boucaud et al. 2016, A&A 596, A63, eq. 7),
    nowhere above 1: nothing is made sharper.
    """
    pad = int(np.ceil(4 * target.fwhm / grid.scale))
    fy, fx = np.fft.fftfreq(size[0] + 2 * pad, grid.scale), np.fft.rfftfreq(size[1] + 2 * pad, grid.scale)
    if grid.turned:
        source, target = source.rounded, target.rounded
    here = source.transform(fx, fy)
    box = np.sinc(fy * grid.onto)[:, None] * np.sinc(fx * grid.onto)
    there = target.transform(fx, fy) / np.where(np.abs(box) < 0.1, 1.0, box)
    ratio = there * here.conj() / (np.abs(here) ** 2 + SMALL**2)
    height = np.abs(ratio)
    return Kernel(ratio / np.maximum(height, 1.0), pad, bool((height > 1.05).any()))


def through(pixels: Array, kernel: Kernel) -> Array:
    """Pixels (N, N), 0 around them, convolved by a kernel."""
    ny, nx = pixels.shape
    padded = np.pad(pixels, kernel.pad)
    out = np.fft.irfft2(np.fft.rfft2(padded) * kernel.transform, s=padded.shape)
    return out[kernel.pad : kernel.pad + ny, kernel.pad : kernel.pad + nx]


def onto(pixels: Array, grid: Grids, order: int = SPLINE) -> Array:
    """Flux a source pixel (N, N) -> flux a target pixel: the mean over every target pixel times its area; NaN outside."""
    from scipy.ndimage import map_coordinates

    values = map_coordinates(pixels, [grid.y, grid.x], order=order, mode="nearest")
    weight = SHARES / 2
    out: Array = np.einsum("ypxq,p,q->yx", values, weight, weight) * grid.area
    ny, nx = pixels.shape
    inside = (grid.y > -0.5) & (grid.y < ny - 0.5) & (grid.x > -0.5) & (grid.x < nx - 0.5)
    return np.where(inside.all((1, 3)), out, np.nan)


@dataclass(frozen=True)
class Share:
    """One plane of a sum: pixels (N, N), which of them are good, its weight, and its kernel."""

    weight: float
    pixels: Array
    good: Array
    kernel: Kernel


def moved(shares: Sequence[Share], grid: Grids) -> Array:
    """The weighted sum of planes, each through its kernel, as flux a target pixel (N, N).

    NaN where less than `COVERED` of a kernel lies on good pixels; what is missing there is made up for by the others.
    """
    total: Array = np.zeros(shares[0].pixels.shape)
    least = np.full(total.shape, np.inf)
    for one in shares:
        seen = through(one.good.astype(np.float64), one.kernel)
        total += one.weight * through(np.where(one.good, one.pixels, 0.0), one.kernel) / np.maximum(seen, COVERED)
        least = np.minimum(least, seen)
    return np.where(onto(least, grid, 1) / grid.area < COVERED, np.nan, onto(total, grid))


def moved_noise(variance: Array, kernel: Kernel, grid: Grids, correlation: Array) -> tuple[Array, Array]:
    """The variance (N, N) of what `moved` makes of noise, and its correlation between target pixels up to `FAR` apart.

    variance: of the source's pixels (N, N), 0 where bad; correlation: (5, 5) between those, 1 in the middle. The convolution
    adds variances with the square of the kernel; noise that is shared by neighbours adds up by its power spectrum.
    """
    from scipy.ndimage import map_coordinates

    shape = tuple(n + 2 * kernel.pad for n in variance.shape)
    fy, fx = np.fft.fftfreq(shape[0]), np.fft.rfftfreq(shape[1])
    ratio = grid.onto / grid.scale
    whole = kernel.transform * np.sinc(fy * ratio)[:, None] * np.sinc(fx * ratio)
    shared = np.fft.irfft2(power(correlation, fy, fx) * np.abs(whole) ** 2, s=shape)
    plain = np.fft.irfft2(np.abs(whole) ** 2, s=shape)[0, 0]
    square = np.fft.irfft2(whole, s=shape) ** 2
    spread = np.fft.irfft2(np.fft.rfft2(np.pad(variance, kernel.pad)) * np.fft.rfft2(square), s=shape)
    inner = spread[kernel.pad : kernel.pad + variance.shape[0], kernel.pad : kernel.pad + variance.shape[1]]
    far = np.arange(-FAR, FAR + 1) * ratio
    lags = np.broadcast_arrays(far[:, None], far)
    between = map_coordinates(np.fft.fftshift(shared), [lag + n // 2 for lag, n in zip(lags, shape, strict=True)], order=3)
    return onto(inner, grid, 1) * grid.area * (shared[0, 0] / plain), between / shared[0, 0]


# -------------------------------------------------------------------------------------------------------------- noise


def power(correlation: Array, fy: Array, fx: Array) -> Array:
    """The power spectrum (Y, X) of noise by its correlation (L, L), at frequencies in cycles a pixel; of white noise 1.

    Noise that pixels further apart share, too, leaves negative power where the correlation is cut off: none. A correlation
    that is drawn to white noise instead loses the broad waves, which are what a broader PSF leaves.
    """
    reach = np.arange(len(correlation)) - len(correlation) // 2
    waves = [np.exp(2j * np.pi * np.outer(reach, f)) for f in (fy, fx)]
    out: Array = np.einsum("jk,jy,kx->yx", correlation, *waves).real
    return out.clip(0)


def empty_sky(scaled: Array, good: Array) -> Array:
    """(N, N): where nothing is seen in pixels (N, N) in units of their noise: smoothed, they are as the rest of the sky.

    Clipped until nothing changes, never wider than `SMOOTHED`: in a stamp that is full of light half the pixels scatter by far
    more than noise does.
    """
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(np.where(good, scaled, 0.0), 2.0)
    sky = good
    for _ in range(CLIPS):
        if not sky.any():
            break
        away = np.abs(smooth - np.median(smooth[sky]))
        left = good & (away < 4 * min(1.4826 * float(np.median(away[sky])), SMOOTHED))
        if np.array_equal(left, sky):
            break
        sky = left
    return sky


def enough(sky: Array) -> float:
    """How far a correlation of noise that was measured on this sky (N, N) is to be trusted: 1 from `PAIRS` pixels on that have
    another sky pixel beyond reach of their noise, 0 without one."""
    return min(1.0, min(int((sky[a] & sky[b]).sum()) for a, b in map(_shifted, APART)) / PAIRS)


def _shifted(lag: tuple[int, int]) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Slices of an image that lie `lag` (y, x) apart."""
    a, b = (tuple(slice(max(sign * d, 0), min(sign * d, 0) or None) for d in lag) for sign in (1, -1))
    return (a[0], a[1]), (b[0], b[1])


def noise_correlation(scaled: Array, sky: Array, reach: int = 2) -> Array:
    """(2 reach + 1, 2 reach + 1): how much of their noise neighbouring pixels share, 1 in the middle, from the empty sky.

    scaled: (N, N) pixels in units of their noise; sky: which of them are empty. 1 - D(lag) / D(far), with D half the mean
    square of differences; coadds share noise, as they are resampled. The less sky there is (`enough`), the nearer to white
    noise, which shares nothing.
    """
    def half_square(lag: tuple[int, int]) -> tuple[float, int]:
        a, b = _shifted(lag)
        both = sky[a] & sky[b]
        return float(((scaled[a] - scaled[b])[both] ** 2).mean() / 2) if both.any() else 0.0, int(both.sum())

    out = np.zeros((2 * reach + 1, 2 * reach + 1))
    out[reach, reach] = 1.0
    trust = enough(sky)
    if trust == 0:
        return out
    lags = [(dy, dx) for dy in range(reach + 1) for dx in range(-reach, reach + 1) if (dy, dx) > (0, 0)]
    near = [half_square(lag) for lag in lags]
    most = max(MOST, *(value for value, _ in near))  # where the stated noise is too small, neighbours are off by more, too
    level = min(float(np.mean([half_square(lag)[0] for lag in APART])), most)
    for (dy, dx), (value, count) in zip(lags, near, strict=True):
        shared = max(1 - value / level, -1.0) if level > 0 else 0.0
        shared = shared if shared**2 * count > 9 else 0.0  # 3 sigma
        out[reach + dy, reach + dx] = out[reach - dy, reach - dx] = trust * shared
    return out
