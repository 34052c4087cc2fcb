"""Spectra and light curves as the browser draws them: compact arrays, sparklines, and the lines worth marking."""

from __future__ import annotations

from typing import Any

import astropy.units as u
import numpy as np
from numpy.typing import NDArray

from engine import xp
from engine.objects import LightCurve, SkyObject, Spectrum

Array = NDArray[Any]
# Vacuum wavelengths in Angstrom, from the National Institute of Standards and Technology's Atomic Spectra Database (air
# wavelengths made vacuum by Morton 2000, ApJS 130, 403, eq. 8), unresolved doublets at their mean weighted by strength;
# the G band (CH) and Mg b as in the Sloan Digital Sky Survey's list of galaxy lines (Stoughton et al. 2002, AJ 123, 485).
# Kind: "e" mostly seen in emission, "a" in absorption. The strongest come first, which are marked first.
LINES = (
    ("Hα", 6564.61, "e"), ("[O III]", 5008.24, "e"), ("[O II]", 3728.48, "e"), ("Hβ", 4862.69, "e"), ("Ca K", 3934.78, "a"),
    ("Ca H", 3969.59, "a"), ("Mg b", 5176.63, "a"), ("Na D", 5894.57, "a"), ("[N II]", 6585.27, "e"),
    ("[S II]", 6718.29, "e"), ("Lyα", 1215.67, "e"), ("C IV", 1549.48, "e"), ("Mg II", 2799.12, "e"),
    ("C III]", 1908.73, "e"), ("G band", 4305.61, "a"), ("[O III]", 4960.30, "e"), ("Hγ", 4341.69, "e"),
    ("Hδ", 4102.90, "e"), ("[Ne III]", 3869.86, "e"), ("[S II]", 6732.67, "e"), ("[N II]", 6549.86, "e"),
    ("[O I]", 6302.05, "e"), ("He I", 5877.25, "e"), ("Ca II", 8544.44, "a"), ("Ca II", 8664.52, "a"),
    ("Ca II", 8500.36, "a"), ("[S III]", 9533.2, "e"), ("[S III]", 9071.1, "e"), ("He II", 4687.02, "e"),
    ("[Ne V]", 3426.8, "e"), ("[O III]", 4364.44, "e"), ("[Ar III]", 7137.8, "e"), ("Si IV", 1396.75, "e"),
    ("He II", 1640.42, "e"), ("N V", 1240.14, "e"), ("Lyβ", 1025.72, "e"),
)


def shown(thing: SkyObject) -> tuple[Spectrum, ...]:
    """All spectra to show: those measured, then what the object's Gaia XP coefficients stand for."""
    made = xp.spectrum(thing)
    return thing.spectra if made is None else (*thing.spectra, made)


def packed(spectrum: Spectrum) -> bytes:
    """Four little-endian float32 arrays one after the other: wavelength, flux, sigma (0 if unknown), and 1 where bad.

    Where bad, flux and sigma are 0, so that no reader trips over NaN.
    """
    flux = np.asarray(spectrum.flux, np.float64)
    bad = ~np.isfinite(flux)
    sigma = np.zeros_like(flux)
    if spectrum.mask is not None:
        bad |= spectrum.mask
    if spectrum.ivar is not None:
        good = (spectrum.ivar > 0) & np.isfinite(spectrum.ivar)
        sigma[good] = np.asarray(spectrum.ivar, np.float64)[good] ** -0.5
        bad |= ~good
    arrays = (spectrum.wavelength, np.where(bad, 0, flux), np.where(bad, 0, sigma), bad)
    return np.concatenate([np.asarray(a, "<f4") for a in arrays]).tobytes()


def sparkline(flux: Array, good: Array, points: int = 96) -> list[int]:
    """A spectrum as heights 0 to 100 of `points` bins, scaled to its own range; -1 where nothing was measured."""
    edges = np.linspace(0, len(flux), points + 1).astype(int)
    weight = good.astype(float)
    if good.any():
        flux = np.clip(flux, *np.quantile(flux[good], (5e-4, 1 - 5e-4)))  # a cosmic ray is a pixel or two, a line is not
    total = np.add.reduceat(np.where(good, flux, 0.0), edges[:-1])
    count = np.add.reduceat(weight, edges[:-1])
    mean = np.where(count > 0, total / np.maximum(count, 1), np.nan)
    known = mean[np.isfinite(mean)]
    if not known.size:
        return [-1] * points
    low, high = np.quantile(known, (0.02, 0.995))
    height = np.clip((mean - low) / max(high - low, 1e-30), 0, 1) * 100
    return [int(h) if np.isfinite(h) else -1 for h in height]


def light_curve(curve: LightCurve) -> dict[str, Any]:
    """One band's points as lists; epochs without a value are left out. "magnitude": smaller is brighter."""
    good = np.isfinite(curve.flux)
    error = None if curve.error is None else [float(e) if np.isfinite(e) else 0.0 for e in curve.error[good]]
    unit = "" if curve.unit is None else curve.unit.to_string("unicode").replace("mag(AB)", "AB mag")
    return {"band": curve.band, "unit": unit, "magnitude": isinstance(curve.unit, u.MagUnit) or curve.unit == u.mag,
            "mjd": [round(float(t), 5) for t in curve.time.mjd[good]], "flux": [float(f) for f in curve.flux[good]],
            "error": error}
