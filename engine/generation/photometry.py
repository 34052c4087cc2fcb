"""What filters see of a spectrum, and how one survey's bands follow from another's: the curves of DECam and of HSC.

Shape letters: n pixels of a spectrum, F filters, M templates.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
CURVES = {"legacy": "legacy", "des": "legacy", "hsc": "hsc"}  # survey -> whose filters it has: DES's are DECam's
COVERED = 0.9  # of a filter: with less than this share a spectrum has no flux in it
LIGHT = 2.99792458e18  # Angstrom/s
NMGY = 3.631e-12  # 1e-17 erg/s/cm2/Hz
REDSHIFTS = np.linspace(0.0, 1.2, 25)  # of the galaxies that colour terms are fitted on
ATTENUATIONS = (0.0, 1.0)  # A(V) of their dust


@dataclass(frozen=True)
class Curve:
    """One filter: wavelength (L,) in Angstrom, vacuum, equally spaced; response (L,) to photons."""

    wavelength: Array
    response: Array


@lru_cache
def curves() -> dict[tuple[str, str], Curve]:
    """(survey, band) -> its filter, of the surveys of `CURVES`."""
    from engine.simulate.images import CAMERAS
    from engine.simulate.population import tables

    wavelength, response = (tables()[f"filter_{what}"].numpy().astype(np.float64) for what in ("wavelength", "response"))
    return {(key, band): Curve(wavelength, row) for key, owner in CURVES.items() for camera in CAMERAS if camera.name == owner
            for band, row in zip(camera.bands, response[camera.filters], strict=True)}


def synthetic(wavelength: Array, flux: Array, good: Array, curve: Curve) -> tuple[float, float]:
    """What a filter sees of a spectrum, in nmgy, and how much of the filter the good pixels cover, 0 to 1; NaN below `COVERED`.

    wavelength: (n,) Angstrom; flux: (n,) 1e-17 erg/s/cm2/A; good: (n,) bool. The AB flux is a mean weighted by photons (Bessell
    & Murphy 2012, PASP 124, 140, eq. A11); it is taken over what is covered.
    """
    edges = pixel_edges(wavelength)
    response = np.interp(wavelength, curve.wavelength, curve.response, left=0.0, right=0.0)
    width = np.where(good, np.diff(edges), 0.0) * response
    below = float((width / wavelength).sum())
    whole = float((curve.response / curve.wavelength).sum() * (curve.wavelength[1] - curve.wavelength[0]))
    share = below / whole
    if share < COVERED:
        return float("nan"), share
    return float((width * wavelength * np.where(good, flux, 0.0)).sum()) / (LIGHT * below * NMGY), share


def pixel_edges(wavelength: Array) -> Array:
    """(n + 1,): half-way between the middles of pixels, the outer ones as wide as their neighbours' gaps."""
    middle = (wavelength[1:] + wavelength[:-1]) / 2
    return np.concatenate([[2 * wavelength[0] - middle[0]], middle, [2 * wavelength[-1] - middle[-1]]])


# -------------------------------------------------------------------------------------------------------- colour terms


@dataclass(frozen=True)
class ColourTerm:
    """A band's flux as a sum of another survey's: weights, band -> number; scatter: of the ratio to the true flux over the
    templates, 0 where nothing is known but the name."""

    weights: dict[str, float]
    scatter: float


@lru_cache
def colour_term(of: str | None, bands: tuple[str, ...], survey: str | None, band: str) -> ColourTerm | None:
    """How the flux in a survey's band follows from another survey's `bands`; None where none of them has its name.

    Where both filters are known: from the band of the same name and its neighbours, by least squares of the relative error over
    stars and galaxies to z = 1.2 with and without dust. A sum of fluxes, not of magnitudes, so that it holds pixel by pixel,
    whatever populations share one. Elsewhere the bands are taken to be alike.
    """
    if band not in bands:
        return None
    known = curves()
    if of == survey or (survey or "", band) not in known or (of or "", band) not in known:
        return ColourTerm({band: 1.0}, 0.0)
    if CURVES[of or ""] == CURVES[survey or ""]:
        return ColourTerm({band: 1.0}, 0.0)
    order = [b for key, b in known if key == of]
    near = [b for b in bands if b in order and abs(order.index(b) - order.index(band)) <= 1]
    column = {name: i for i, name in enumerate(known)}
    flux = library()
    ratios = flux[:, [column[of or "", b] for b in near]] / flux[:, [column[survey or "", band]]]
    weights = np.linalg.lstsq(ratios, np.ones(len(ratios)), rcond=None)[0]
    return ColourTerm(dict(zip(near, weights.tolist(), strict=True)), float((ratios @ weights).std()))


@lru_cache(maxsize=1)
def library() -> Array:
    """(M, F) fluxes of the simulation's stars and of its stellar populations at `REDSHIFTS`, in the filters of `curves`."""
    from engine.simulate import sed

    templates, rest = sed.templates(), sed.wavelength()
    lam = next(iter(curves().values())).wavelength
    galaxies, stars = templates.bank[: templates.populations], templates.bank[templates.populations :]
    seen = [resampled(stars, rest, lam)]
    for av in ATTENUATIONS:
        dusty = galaxies * 10 ** (-0.4 * av * sed.calzetti(np.maximum(rest, 1200.0)))
        seen += [resampled(dusty, rest * (1 + z), lam) for z in REDSHIFTS]
    spectra = np.concatenate(seen)
    weight = np.stack([curve.response * lam for curve in curves().values()])
    below = np.array([(curve.response / lam).sum() for curve in curves().values()])
    return spectra @ weight.T / below


def resampled(spectra: Array, wavelength: Array, at: Array) -> Array:
    """Spectra (M, N) at other wavelengths."""
    return np.stack([np.interp(at, wavelength, one) for one in spectra])
