"""From objects of any survey to the arrays a model takes: bands by wavelength, units to nmgy, scales and sizes fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from numpy.typing import NDArray

from engine.io.surveys import SPECTRUM_UNIT, find_survey, match_band, nanomaggies_per_unit
from engine.objects import Image, SkyObject, Spectrum

Array = NDArray[Any]
SAME_SCALE = 0.03  # relative; pixel scales closer than this are not resampled
MIDDLE_FLUX = 25.0  # nmgy within 1.5" that an uncalibrated image is given, r = 19
MEDIAN_FLUX = 2.0  # 1e-17 erg/s/cm2/A that an uncalibrated spectrum is given
COLOUR_PLANES = {"red": 7500.0, "green": 6200.0, "blue": 4800.0}  # what a colour picture's planes mostly show


class FieldLike(Protocol):
    """The part of `engine.models.inputs.Field` that is needed here."""

    @property
    def survey(self) -> str: ...
    @property
    def bands(self) -> tuple[str, ...]: ...
    @property
    def wavelengths(self) -> tuple[float, ...]: ...
    @property
    def scale(self) -> float: ...
    @property
    def nmgy(self) -> float: ...
    @property
    def size(self) -> int: ...


@dataclass(frozen=True)
class SpectrumGroup:
    """Spectra on the same wavelengths: rows (n,) of the objects; wavelength (L,); flux, ivar, mask (n, L)."""

    rows: Array
    wavelength: Array
    flux: Array
    ivar: Array
    mask: Array


def images(objects: Sequence[SkyObject], fields: Sequence[FieldLike]) -> dict[str, tuple[Array, Array, Array]]:
    """Survey -> pixels, ivar (B, C, N, N) float32 in the field's own unit, and mask; what is not there is masked.

    A field's own survey goes in as it is. Any other image goes to the field of the nearest pixel scale, each of its bands to
    the channel of the nearest effective wavelength (the nearest band wins), if the field has no image of its own.
    """
    out = {}
    for f in fields:
        shape = (len(objects), len(f.bands), f.size, f.size)
        out[f.survey] = (np.zeros(shape, np.float32), np.zeros(shape, np.float32), np.ones(shape, bool))
    for row, obj in enumerate(objects):
        taken = set()
        for image in sorted(obj.images, key=lambda i: i.survey not in out):  # own surveys first
            field = next((f for f in fields if f.survey == image.survey), None) or nearest_field(image, fields)
            channels = channels_of(image, field)
            if field.survey in taken or not channels:
                continue
            taken.add(field.survey)
            pixels, ivar, mask = stamp_of(image, field, list(channels.values()), obj.position)
            for target, values in zip(out[field.survey], (pixels, ivar, mask), strict=True):
                target[row, list(channels)] = values
    return out


def nearest_field(image: Image, fields: Sequence[FieldLike]) -> FieldLike:
    """The field whose pixel scale is nearest; the first where the image's is not known."""
    if image.pixel_scale is None:
        return fields[0]
    scale = image.pixel_scale
    return min(fields, key=lambda f: abs(np.log(f.scale / scale)))


def channels_of(image: Image, field: FieldLike) -> dict[int, int]:
    """Channel of the field -> plane of the image, by band name in the own survey, by wavelength elsewhere."""
    if image.survey == field.survey:
        return {field.bands.index(b): plane for plane, b in enumerate(image.bands) if b in field.bands}
    best: dict[int, tuple[float, int]] = {}
    for plane, band in enumerate(image.bands):
        if not np.any(image.pixels[plane]):  # a plane of zeros was never exposed
            continue
        wavelength = wavelength_of(image, band)
        away = [abs(np.log(w / wavelength)) for w in field.wavelengths]
        channel = int(np.argmin(away))
        if channel not in best or away[channel] < best[channel][0]:
            best[channel] = (away[channel], plane)
    return {channel: plane for channel, (_, plane) in sorted(best.items())}


def wavelength_of(image: Image, band: str) -> float:
    """Effective wavelength in Angstrom from the survey's table, else from any survey with such a band, else red light."""
    survey = find_survey(image.survey) if image.survey else None
    name = match_band(band, survey.bands) if survey is not None else None
    if survey is not None and name is not None:
        return survey.bands[name].wavelength
    if band.lower() in COLOUR_PLANES:
        return COLOUR_PLANES[band.lower()]
    for key in ("rubin", "jwst-nircam", "hst-acs", "hst-wfc3", "euclid"):
        other = find_survey(key)
        name = match_band(band, other.bands) if other is not None else None
        if other is not None and name is not None:
            return other.bands[name].wavelength
    return 6250.0


def stamp_of(image: Image, field: FieldLike, planes: list[int], position: SkyCoord | None) -> tuple[Array, Array, Array]:
    """Pixels, ivar, mask (planes, N, N) in the field's unit, on its scale, padded or cut to its size."""
    scale = image.pixel_scale or field.scale
    as_it_is = abs(scale / field.scale - 1) <= SAME_SCALE and image.size == (96, 96)
    cut = slice((96 - field.size) // 2, (96 + field.size) // 2) if as_it_is else slice(None)
    where = (planes, cut, cut)
    pixels = np.asarray(image.pixels[where], np.float32)
    mask = ~np.isfinite(pixels)
    if image.mask is not None:
        mask |= image.mask[where]
    if image.ivar is not None:
        ivar = np.asarray(image.ivar[where], np.float32)
        if not np.isfinite(ivar).all():
            ivar = np.nan_to_num(ivar, nan=0.0, posinf=0.0, neginf=0.0)
        if not (ivar > 0).any():
            ivar = estimated_ivar(pixels, mask)
    else:
        ivar = estimated_ivar(pixels, mask)
    mask |= ivar <= 0
    pixels = np.where(mask, 0.0, pixels)
    if not as_it_is:
        pixels, ivar, mask = regrid(pixels, ivar, mask, centre_of(image, position), scale, field)
    factor = to_field_unit(image, [image.bands[p] for p in planes], field)
    if factor is None:
        axis = (np.arange(field.size) - (field.size - 1) / 2) * field.scale
        middle = pixels[:, np.hypot(axis[:, None], axis) < 1.5].sum(1)
        level = float(np.median(middle))
        factor = np.full(len(planes), MIDDLE_FLUX / field.nmgy / level if level > 0 else 1.0, np.float32)
    factor = factor[:, None, None]
    return (pixels * factor).astype(np.float32), (ivar / factor**2).astype(np.float32), mask


def estimated_ivar(pixels: Array, mask: Array) -> Array:
    """Inverse variance of a stamp that comes without: from the scatter of neighbouring pixels' differences, one a plane."""
    out = np.zeros_like(pixels)
    for plane, (values, bad) in enumerate(zip(pixels, mask, strict=True)):
        step = np.diff(np.where(bad, np.nan, values), axis=1)
        step = step[np.isfinite(step)]
        if len(step):
            sigma = 1.4826 * float(np.median(np.abs(step))) / np.sqrt(2)
            sigma = sigma if sigma > 0 else float(np.std(step)) / np.sqrt(2)
            out[plane] = 0.0 if sigma == 0 else 1.0 / sigma**2
    return np.where(mask, 0.0, np.nan_to_num(out, posinf=0.0)).astype(np.float32)


def to_field_unit(image: Image, bands: list[str], field: FieldLike) -> Array | None:
    """What the pixels are multiplied by to be in the field's unit, one a band; None where the flux scale is not known."""
    if not image.calibrated:
        return None
    if image.survey == field.survey and image.unit is None:
        return np.ones(len(bands), np.float32)
    survey = find_survey(image.survey) if image.survey else None
    factors = [unit_factor(None if survey is None else survey.key, band, image) for band in bands]
    if any(f is None for f in factors):
        return None
    return np.array([f / field.nmgy for f in factors if f is not None], np.float32)


def unit_factor(survey: str | None, band: str, image: Image) -> float | None:
    """nmgy of one unit of a band, None where it cannot be known; without a survey the unit alone must say it."""
    if survey is None and image.unit is None:
        return None
    return _cached_factor(survey or "rubin", band, image.unit, image.pixel_scale)


@lru_cache(maxsize=512)
def _cached_factor(survey: str, band: str, unit: u.UnitBase | None, pixel_scale: float | None) -> float | None:
    return nanomaggies_per_unit(survey, band, unit, pixel_scale)


def centre_of(image: Image, position: SkyCoord | None) -> tuple[float, float]:
    """(y, x) of the object in pixels: its position if that lies on the image, else the middle."""
    ny, nx = image.size
    middle = ((ny - 1) / 2, (nx - 1) / 2)
    if image.wcs is None or position is None:
        return middle
    x, y = (float(v) for v in image.wcs.world_to_pixel(position))
    return (y, x) if np.isfinite(x + y) and 0 <= x < nx and 0 <= y < ny else middle


def regrid(pixels: Array, ivar: Array, mask: Array, centre: tuple[float, float], scale: float,
           field: FieldLike) -> tuple[Array, Array, Array]:
    """Pixels by overlap onto the field's grid about a centre; flux is kept, bad parts made up for by their neighbours.

    A new pixel is bad where less than half of it was seen. Variances add with the squared overlaps.
    """
    my, mx = (overlaps(n, c, scale, field) for n, c in zip(pixels.shape[1:], centre, strict=True))
    good = (~mask).astype(np.float32)
    flux = my @ (pixels * good) @ mx.T
    seen = my @ good @ mx.T * (scale / field.scale) ** 2
    variance = my**2 @ np.where(mask, 0.0, 1.0 / np.where(ivar > 0, ivar, 1.0)) @ (mx**2).T
    bad = (seen < 0.5) | (variance <= 0)
    seen = np.where(bad, 1.0, seen)
    return np.where(bad, 0.0, flux / seen), np.where(bad, 0.0, seen**2 / np.where(bad, 1.0, variance)), bad


def overlaps(pixels: int, centre: float, scale: float, field: FieldLike) -> Array:
    """(N, pixels): the share of each old pixel that lies in each new one, along one axis."""
    old = (np.arange(pixels + 1) - 0.5 - centre) * scale
    new = (np.arange(field.size + 1) - field.size / 2) * field.scale
    low = np.maximum(new[:-1, None], old[None, :-1])
    high = np.minimum(new[1:, None], old[None, 1:])
    return np.clip(high - low, 0.0, None) / scale


def spectra(objects: Sequence[SkyObject]) -> list[SpectrumGroup]:
    """One spectrum an object, grouped by wavelengths: DESI first, then SDSS, then any calibrated one, then any."""
    groups: dict[tuple[int, float, float], list[tuple[int, Spectrum]]] = {}
    for row, obj in enumerate(objects):
        if obj.spectra:
            best = min(obj.spectra, key=lambda s: (not s.calibrated, s.survey != "desi", s.survey != "sdss"))
            w = best.wavelength
            groups.setdefault((len(w), float(w[0]), float(w[-1])), []).append((row, best))
    out = []
    for members in groups.values():
        while members:  # equal ends do not make equal grids
            wavelength = members[0][1].wavelength
            same = [m for m in members if m[1].wavelength is wavelength or np.array_equal(m[1].wavelength, wavelength)]
            members = [m for m in members if not any(m is s for s in same)]
            out.append(stack([row for row, _ in same], [s for _, s in same]))
    return out


def stack(rows: list[int], members: list[Spectrum]) -> SpectrumGroup:
    """Spectra on the same wavelengths as one group, in 1e-17 erg/s/cm2/A."""
    parts = [spectrum_arrays(s) for s in members]
    flux, ivar, mask = (np.stack(p) for p in zip(*parts, strict=True))
    return SpectrumGroup(np.array(rows), np.array(members[0].wavelength), flux, ivar, mask)


def spectrum_arrays(spectrum: Spectrum) -> tuple[Array, Array, Array]:
    """Flux and ivar (n,) in 1e-17 erg/s/cm2/A and its inverse square, mask. Uncalibrated: scaled to a usual level."""
    flux = np.array(spectrum.flux, np.float32)
    mask = ~np.isfinite(flux)
    if spectrum.mask is not None:
        mask |= spectrum.mask
    if spectrum.ivar is not None:
        ivar = np.nan_to_num(np.asarray(spectrum.ivar, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    else:
        ivar = estimated_ivar(flux[None, None].astype(np.float64), mask[None, None])[0, 0].astype(np.float64)
    factor = spectrum_factor(spectrum)
    if factor is None:
        level = float(np.median(np.abs(flux[~mask]))) if (~mask).any() else 0.0
        factor = np.array(MEDIAN_FLUX / level if level > 0 else 1.0)
    scaled = np.where(mask, 0.0, flux).astype(np.float64) * factor
    return scaled.astype(np.float32), (ivar / factor**2).astype(np.float32), mask | (ivar <= 0)


def spectrum_factor(spectrum: Spectrum) -> Array | None:
    """What turns the flux into 1e-17 erg/s/cm2/A, a number or (n,); None for counts and unknown units."""
    if not spectrum.calibrated or spectrum.unit is None:
        return None
    if spectrum.unit == SPECTRUM_UNIT:
        return np.array(1.0)
    equivalency = u.spectral_density(spectrum.wavelength * u.AA)
    if not spectrum.unit.is_equivalent(SPECTRUM_UNIT, equivalency):
        return None
    ones = np.ones(len(spectrum.wavelength))
    return np.asarray((ones * spectrum.unit).to_value(SPECTRUM_UNIT, equivalency))
