"""Rows of the Multimodal Universe layout as objects: images, spectra, light curves and XP coefficients beside scalars.

HDF5 keeps them as arrays named image_flux, spectrum_lambda, ...; Parquet as structs with the same names. Both readers hand
over one dict a row and part. Layout: The Multimodal Universe (2024, NeurIPS datasets track), scripts of each survey.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np

from engine.io.columns import text_of
from engine.io.errors import ReadError
from engine.io.surveys import SPECTRUM_UNIT, SURVEYS, find_survey, match_band
from engine.io.tablespectra import spectrum, to_vacuum
from engine.objects import Catalog, Image, Scalar, Spectrum

GAUSS = 2 * np.sqrt(2 * np.log(2))
AIR = ("galah",)  # Buder et al. 2021: GALAH's wavelengths are in air; the other spectra of the layout are in vacuum
VACUUM = ("sdss", "desi", "lamost", "apogee", "manga")
DJA_UNIT = u.Unit(10 * u.nJy)  # JWST images of the layout are those of the DAWN archive: 10 nJy a pixel, zero point 28.9
SCALED = {"vipers": 1e17}  # delivered in erg/s/cm2/A
_PATHS = ("legacysurvey", "hsc", "sdss", "desi", "jwst", "gaia", "galah", "apogee", "lamost", "vipers", "plasticc", "manga",
          "kepler", "tess")


def survey_of(names: Sequence[str], bands: Sequence[str], path: Path, asked: str | None) -> str | None:
    """The survey asked for, else the one that bands, columns or the path name; None if none does."""
    if asked:
        found = find_survey(asked)
        return found.key if found else asked
    text = " ".join(bands).lower()
    for pattern, key in (
        (r"\bdes-[griz]", "legacy"),
        (r"\bhsc-", "hsc"),
        (r"\bf\d{3}[wm]\b", "jwst-nircam"),
        (r"\blsst", "rubin"),
        (r"\bsdss", "sdss"),
    ):
        if re.search(pattern, text):
            return key
    lower = {n.lower() for n in names}
    if {"brickname", "flux_ivar_g"} <= lower and any("image" in n for n in lower):
        return "legacy"
    if {"targetid"} & lower and any(n.startswith("spectrum") for n in lower):
        return "desi"
    if {"specobjid", "spectroflux", "spectroflux_u"} & lower and any(n.startswith("spectrum") for n in lower):
        return "sdss"
    parts = [p.lower() for p in path.absolute().parts[-5:]]
    for part in reversed(parts):
        found = find_survey(part)
        if found is not None:
            return found.key
        mission = next((k for k in _PATHS if re.search(rf"(^|[_\-.]){k}([_\-.]|$)", part)), None)
        if mission:
            found = find_survey(mission)
            return found.key if found else mission
    return None


def good_is_true(masks: Any, ivars: Any) -> bool:
    """Whether True in these masks means a good pixel, as in the layout's images (its spectra mark the bad ones).

    Where the inverse variance is zero a pixel is bad: that settles it; else most pixels of a survey are good.
    """
    masks = np.asarray(masks, bool)
    if ivars is not None:
        dead = np.asarray(ivars) <= 0
        if dead.ndim == masks.ndim + 1:
            masks = np.broadcast_to(np.expand_dims(masks, 1), dead.shape)
        if dead.shape == masks.shape and dead.any() and not dead.all():
            difference = masks[~dead].mean() - masks[dead].mean()
            if abs(difference) > 0.2:
                return bool(difference > 0)
    return bool(masks.mean() > 0.5)


def image(part: Mapping[str, Any], survey: str | None, path: Path, true_is_good: bool, unit: Any = None
          ) -> tuple[Image, dict[str, Scalar]] | None:
    """An `Image`, and the width of each band's PSF as scalars; None where the row has no pixels.

    part: flux (bands, ny, nx), and if known band, ivar, mask ((ny, nx) or one a band), psf_fwhm and scale in arcsec.
    Raises ReadError if the shapes do not agree.
    """
    pixels = np.asarray(part["flux"])
    if pixels.ndim == 2:
        pixels = pixels[None]
    if pixels.ndim != 3 or not pixels.size or pixels.dtype.kind not in "fiu":
        return None
    row = SURVEYS.get(survey or "")
    found = part.get("band")
    raw = [text_of(b) or str(i + 1) for i, b in enumerate(np.ravel(found).tolist())] if found is not None else None
    raw = raw or [str(i + 1) for i in range(len(pixels))]
    bands = [(match_band(b, row.bands) if row else None) or b for b in raw]
    if len(set(bands)) < len(bands):
        bands = raw
    if len(bands) != len(pixels):
        raise ReadError(path, f"has {len(pixels)} image planes but {len(bands)} band names; export it again")
    ivar = None if part.get("ivar") is None else np.asarray(part["ivar"], np.float32).reshape(-1, *pixels.shape[1:])
    mask = np.zeros(pixels.shape, bool)
    if part.get("mask") is not None:
        flags = np.asarray(part["mask"]).astype(bool)
        mask |= np.broadcast_to(~flags if true_is_good else flags, pixels.shape)
    notes = [path.name] + (["mask of good pixels inverted"] if true_is_good and part.get("mask") is not None else [])
    mask, pixels, ivar = _checked(pixels, mask, ivar, bands, notes)
    if unit is None and row is not None:
        unit = DJA_UNIT if survey == "jwst-nircam" and "psf_fwhm" in part else row.unit if survey != "jwst-nircam" else None
        notes.append(f"unit {unit}, the survey's own" if unit is not None else "unit not stated, not calibrated")
    scale = _number(part.get("scale")) or (row.pixel_scale if row else None)
    made = Image(pixels, tuple(bands), survey, None, unit, ivar, mask, calibrated=unit is not None, pixel_scale=scale,
                 history=tuple(notes))
    widths = np.ravel(part["psf_fwhm"]).astype(float) if part.get("psf_fwhm") is not None else np.zeros(0)
    scalars = {f"psf_fwhm_{b}": Scalar(float(w), None, u.arcsec) for b, w in zip(bands, widths, strict=False)
               if np.isfinite(w) and w > 0}
    return made, scalars


def bare_image(pixels: Any, path: Path) -> Image | None:
    """An image of three planes that says nothing of itself, as in AstroCLIP's data set: (ny, nx, 3), g r z of Legacy Surveys.

    Source: Parker, Lanusse et al. 2024, MNRAS 531, 4990. None where there are not three planes.
    """
    if pixels.ndim != 3 or 3 not in (pixels.shape[0], pixels.shape[-1]):
        return None
    planes = np.moveaxis(pixels, -1, 0) if pixels.shape[-1] == 3 else pixels
    made = image({"flux": planes, "band": ["g", "r", "z"]}, "legacy", path, False)
    note = "bands g r z of the Legacy Surveys and nanomaggies assumed, as in AstroCLIP's data set"
    return None if made is None else replace(made[0], history=(*made[0].history, note))


def bare_spectrum(fluxes: Any, path: Path) -> Spectrum | None:
    """Fluxes without wavelengths on DESI's grid of 7,781 pixels, as in AstroCLIP's data set; None if they are not so many."""
    from engine.io.desi import PIXELS, START, STEP

    flux = np.ravel(fluxes)
    if flux.size != PIXELS:
        return None
    return spectrum(START + STEP * np.arange(PIXELS), flux, None, None, None, SPECTRUM_UNIT, "desi", path,
                    (path.name, "wavelengths 3600 + 0.8 k A, vacuum, and the unit assumed: a spectrum of DESI's 7,781 pixels"))


def _checked(pixels: Any, mask: Any, ivar: Any, bands: list[str], notes: list[str]) -> tuple[Any, Any, Any]:
    """Mask pixels that are not finite or have no weight, and bands that are constant: those have no data."""
    if pixels.dtype.kind == "f":
        mask |= ~np.isfinite(pixels)
        pixels = np.where(np.isfinite(pixels), pixels, 0)
    if ivar is not None:
        if ivar.shape != pixels.shape:
            notes.append("inverse variance of another shape left out")
            ivar = None
        else:
            ivar = np.where(np.isfinite(ivar) & (ivar > 0), ivar, 0)
            mask |= ivar == 0
    for band, plane, bad in zip(bands, pixels, mask, strict=True):
        if plane.min() == plane.max():
            bad[:] = True
            notes.append(f"{band}: no data (all pixels {plane.flat[0]:g}), the whole band is masked")
    return mask, pixels, ivar


def _number(value: Any) -> float | None:
    """The first positive number of a value or list, else None."""
    if value is None:
        return None
    numbers = np.ravel(np.asarray(value, dtype=float))
    numbers = numbers[np.isfinite(numbers) & (numbers > 0)]
    return float(numbers[0]) if numbers.size else None


def row_spectrum(part: Mapping[str, Any], survey: str | None, path: Path) -> Spectrum | None:
    """A `Spectrum`; None where the row has none. part: lambda (A), flux, and if known ivar, mask (True is bad), lsf_sigma.

    lsf_sigma is in pixels (SDSS: wdisp; DESI: a fit to the resolution matrix), so R = lambda / (2.355 sigma dlambda/dpixel).
    """
    wave = np.asarray(part["lambda"], float).ravel()
    arrays = {
        k: None if part.get(k) is None else np.asarray(part[k], float).ravel() for k in ("flux", "ivar", "mask", "lsf_sigma")
    }
    if arrays["flux"] is None or not wave.size:
        return None
    scale = SCALED.get(survey or "", 1.0)
    arrays["flux"] = arrays["flux"] * scale
    resolution = None
    if arrays["lsf_sigma"] is not None and arrays["lsf_sigma"].shape == wave.shape and survey in ("sdss", "desi"):
        with np.errstate(all="ignore"):
            resolution = wave / (GAUSS * np.abs(arrays["lsf_sigma"]) * np.abs(np.gradient(wave)))
        resolution = np.where(np.isfinite(resolution) & (wave > 0), resolution, 0.0)
    medium = "vacuum" if survey in VACUUM else "air converted to vacuum" if survey in AIR else "taken as vacuum (not stated)"
    wave = to_vacuum(np.where(wave > 0, wave, np.nan)) if survey in AIR else wave
    unit = SURVEYS["desi"].unit if survey in ("sdss", "desi", "vipers") else None  # 1e-17 erg/s/cm2/A all three
    mask = None if arrays["mask"] is None else arrays["mask"] != 0
    return spectrum(
        wave,
        arrays["flux"],
        None,
        None if arrays["ivar"] is None else arrays["ivar"] / scale**2,
        mask,
        unit,
        survey,
        path,
        (path.name, f"wavelengths in Angstrom, {medium}"),
        resolution,
    )


def coefficients(values: Any, errors: Any) -> dict[str, Scalar]:
    """Gaia's 110 XP coefficients as scalars xp_bp and xp_rp (55 each); one that is not all finite is absent."""
    values = np.asarray(values, float).ravel()
    errors = None if errors is None else np.asarray(errors, float).ravel()
    out = {}
    if values.size == 110:
        for name, part in (("xp_bp", slice(0, 55)), ("xp_rp", slice(55, 110))):
            if np.all(np.isfinite(values[part])) and np.any(values[part] != 0):
                out[name] = Scalar(values[part], None if errors is None or errors.size != 110 else errors[part],
                                   u.electron / u.s)
    return out


def sources(part: Mapping[str, Any], path: Path) -> Catalog | None:
    """The sources in a Legacy Surveys cutout (FLUX_G, ..., TYPE, X, Y; X, Y in pixels), its padding left out."""
    columns = {k.lower(): np.asarray(v).ravel() for k, v in part.items() if v is not None}
    if not columns or len({len(c) for c in columns.values()}) > 1:
        return None
    real = np.any([c != 0 for c in columns.values()], axis=0)
    if not real.any():
        return None
    units = {n: u.nmgy for n in columns if n.startswith("flux_")} | {n: u.arcsec for n in columns if n == "shape_r"}
    return Catalog({n: c[real] for n, c in columns.items()}, units, history=(path.name,))
