"""Redshifts of galaxies as spectrographs' pipelines tell them: spectra of stars and gas, shifted, and fitted to the pixels.

At every redshift of a grid the templates' best linear combination is found, weighted by the noise (Tonry & Davis 1979;
Bolton et al. 2012, AJ 144, 144, sec. 3), all redshifts at once by Fourier transforms. Continua are taken off both sides.

Shape letters: B spectra, L pixels of a logarithmic grid, N of the rest grid, K templates, S shifts.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.simulate import sed

Array = NDArray[Any]
AGES, METALS = (1, 4, 6, 8, 11), 1  # of the populations
BLUR, GAS = 2.6, 2.0  # pixels of 69 km/s: of stars and of lines, instrument included
SMOOTH = 151  # pixels of the running mean that is taken off as the continuum
FARTHEST = 1.2
LENGTH = 16384  # of transforms: both grids fit in
GROUPS = (("[OII]",), ("Hdelta", "Hgamma", "Hbeta", "Halpha"), ("[OIII]", "[NeIII]"), ("[NII]", "[SII]"))
BALMER = {"Hdelta": 0.259, "Hgamma": 0.468, "Hbeta": 1.0, "Halpha": 2.86}  # case B
WITHIN = {5008.24: 2.98, 6585.27: 2.95}  # the stronger of a doublet


def redshifts(wavelength: Array, flux: Array, ivar: Array) -> Array:
    """(B,) of spectra (B, n) at wavelength (n,) Angstrom in vacuum; bad pixels have ivar 0."""
    start, rebinned, weight = logarithmic(wavelength, flux, ivar)
    return np.array([_one(start, f, w) for f, w in zip(rebinned, weight, strict=True)])


def logarithmic(wavelength: Array, flux: Array, ivar: Array) -> tuple[int, Array, Array]:
    """Flux and ivar (B, L) on the rest grid's own steps, and the place (0 is `sed.LOG_START`) of the first."""
    place = np.rint((np.log10(wavelength) - sed.LOG_START) / sed.LOG_STEP).astype(int)
    start, count = int(place[0]), int(place[-1] - place[0]) + 1
    cuts = np.flatnonzero(np.diff(place, prepend=start - 1))
    at = place[cuts] - start
    out, weight = np.zeros((len(flux), count)), np.zeros((len(flux), count))
    weight[:, at] = np.add.reduceat(ivar, cuts, axis=1)
    out[:, at] = np.add.reduceat(np.where(ivar > 0, flux, 0.0) * ivar, cuts, axis=1) / np.maximum(weight[:, at], 1e-30)
    return start, out, weight


def without_continuum(flux: Array, weight: Array) -> Array:
    """Less a running mean, weighted."""
    from scipy.ndimage import uniform_filter1d

    top, bottom = (uniform_filter1d(x, SMOOTH, axis=-1, mode="nearest") for x in (flux * weight, weight))
    return np.asarray(flux - top / np.maximum(bottom, 1e-30))


@lru_cache(maxsize=1)
def bank() -> Array:
    """(K, N) templates without continua, each of unit scatter."""
    from scipy.ndimage import gaussian_filter1d

    stars = sed.templates().bank[: len(sed.AGES) * len(sed.FEH)]
    rows = [gaussian_filter1d(stars[age * len(sed.FEH) + METALS].astype(float), BLUR) for age in AGES]
    for group in GROUPS:
        lines = np.zeros(sed.LOG_COUNT)
        for name, centre in sed.NEBULAR:
            if name in group:
                at = (np.log10(centre) - sed.LOG_START) / sed.LOG_STEP
                height = BALMER.get(name, WITHIN.get(centre, 1.0)) / centre  # a pixel is as wide as its wavelength
                lines += height * np.exp(-0.5 * ((np.arange(sed.LOG_COUNT) - at) / GAS) ** 2)
        rows.append(lines)
    sharp = without_continuum(np.stack(rows), np.ones((len(rows), sed.LOG_COUNT)))
    return np.asarray(sharp / sharp.std(axis=1, keepdims=True))


@lru_cache(maxsize=1)
def transforms() -> tuple[Array, Array]:
    """Transforms of the templates (K, F) and of their products (K, K, F)."""
    t = bank()
    return np.fft.rfft(t, LENGTH), np.fft.rfft(t[:, None] * t[None], LENGTH)


def _one(start: int, flux: Array, weight: Array) -> float:
    """Redshift of one spectrum: where the templates explain most of chi2, between grid points by a parabola."""
    single, pairs = transforms()
    sharp = without_continuum(flux[None], weight[None])[0]
    shifts = np.arange(int(np.log10(1 + FARTHEST) / sed.LOG_STEP))
    lags = (start - shifts) % LENGTH
    b = np.fft.irfft(np.conj(np.fft.rfft(weight * sharp, LENGTH)) * single, LENGTH)[:, lags]
    a = np.fft.irfft(np.conj(np.fft.rfft(weight, LENGTH)) * pairs, LENGTH)[..., lags]
    a = np.moveaxis(a, -1, 0) + 1e-6 * np.trace(a.mean(-1)) * np.eye(len(b))
    gain = (b.T * np.linalg.solve(a, b.T[..., None])[..., 0]).sum(1)
    best = int(np.argmax(gain))
    shift = float(best)
    if 0 < best < len(shifts) - 1:
        left, top, right = gain[best - 1 : best + 2]
        curve = left - 2 * top + right
        shift += 0.5 * (left - right) / curve if curve < 0 else 0.0
    return float(10 ** (shift * sed.LOG_STEP) - 1)
