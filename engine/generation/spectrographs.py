"""A spectrum as another spectrograph would record it: its resolution by Gaussians of varying width, its pixels by overlap.

Shape letters: n source pixels, m target pixels.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.generation.photometry import pixel_edges

if TYPE_CHECKING:
    from engine.objects import Spectrum

Array = NDArray[Any]
FWHM = 2.354820045  # of a Gaussian, in sigma
REACH = 5.0  # sigma that the kernel is followed to
THIN = 1e-3  # Angstrom: the least width of a kernel
COVERED = 0.97  # of the light in a target pixel that must come from good source pixels


def widths(spectrum: Spectrum) -> Array:
    """(n,) Angstrom: sigma of the line spread function, pixels included; the survey's usual one without `resolution`.

    Raises ValueError if neither is known.
    """
    lam, power = spectrum.wavelength, spectrum.resolution
    if power is None:
        import torch

        from engine.simulate import POWERS
        from engine.simulate.light import resolution

        if spectrum.survey not in POWERS:
            raise ValueError(f"the spectrum of {spectrum.survey} has no resolution, and its usual one is not known; give "
                             "Spectrum.resolution, lambda / FWHM")
        power = resolution(torch.from_numpy(np.array(lam)), *POWERS[spectrum.survey]).numpy()
    power = np.broadcast_to(np.asarray(power, np.float64), lam.shape)
    known = np.isfinite(power) & (power > 0)
    if not known.any():
        raise ValueError("a spectrum's resolution has no positive number; leave it out to use the survey's usual one")
    return lam / np.interp(lam, lam[known], power[known]) / FWHM


def matrix(wavelength: Array, sigma: Array, onto: Array, wanted: Array) -> Any:
    """Sparse (m, n): flux densities at wavelength (n,) of resolution sigma (n,) -> those at onto (m,) of resolution `wanted`
    (m,), all in Angstrom.

    Every pixel's light is spread by a Gaussian of variance wanted^2 - sigma^2, less that of both pixels' widths, which the
    overlap adds: none of it is lost. Where the target is the sharper one, only the pixels change.
    """
    from scipy.sparse import csr_array
    from scipy.special import ndtr

    edges, new = pixel_edges(wavelength), pixel_edges(onto)
    pixels = np.diff(edges) ** 2 / 12 + np.interp(wavelength, onto, np.diff(new)) ** 2 / 12
    extra = np.interp(wavelength, onto, wanted) ** 2 - sigma**2 - pixels
    width = np.sqrt(np.maximum(extra, THIN**2))

    def ramp(x: Array) -> Array:  # the integral of the Gaussian's integral
        t = x / width
        return x * ndtr(t) + width * np.exp(-0.5 * t**2) / np.sqrt(2 * np.pi)

    first = np.searchsorted(new, edges[:-1] - REACH * width) - 1
    last = np.searchsorted(new, edges[1:] + REACH * width)
    rows, columns, values = [], [], []
    for step in range(int((last - first).max())):
        row = first + step
        inside = (row >= 0) & (row < len(onto)) & (row < last)
        low, high = new[row.clip(0, len(onto) - 1)], new[row.clip(0, len(onto) - 1) + 1]
        c, d = edges[:-1], edges[1:]
        shared = (ramp(high - c) - ramp(low - c) - ramp(high - d) + ramp(low - d)) / (high - low)
        rows.append(row[inside])
        columns.append(np.flatnonzero(inside))
        values.append(shared[inside])
    where = np.concatenate(rows), np.concatenate(columns)
    return csr_array((np.concatenate(values), where), shape=(len(onto), len(wavelength)))


def recorded(flux: Array, good: Array, spread: Any) -> Array:
    """(m,): flux (n,) through a `matrix`; NaN where less than `COVERED` of a pixel's light comes from good ones."""
    seen = spread @ good.astype(np.float64)
    out: Array = spread @ np.where(good, flux, 0.0) / np.maximum(seen, COVERED)
    return np.where(seen < COVERED, np.nan, out)
