"""Cutouts as pictures: Lupton colours, north up and east left, bad pixels hatched. Arrays in, PNG bytes out.

The stretch of a survey is fixed, so that brightness can be compared between neighbours; where the unit is unknown it is
taken from the picture itself, and `Picture.note` says so.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.visualization import AsinhStretch, PercentileInterval, make_lupton_rgb
from numpy.typing import NDArray
from PIL import Image as Pillow

from engine.io.surveys import SURVEYS, match_band, nanomaggies_per_unit
from engine.objects import Image

Array = NDArray[Any]
LARGEST = 1024  # pixels a side that are looked at; larger images are cut about their middle
BALANCE = {"legacy": (2.2 / 3.4, 1.0, 6.0 / 3.4)}  # red, green, blue over green: the Legacy viewer's look
COLOURFUL = (0.75, 1.0, 1.6)  # for all others: an old galaxy is yellow, a young one blue
HATCH = np.array([110, 118, 129], np.uint8)


@dataclass(frozen=True)
class Picture:
    """png: bytes; scale: arcsec a pixel, None if unknown; size: (ny, nx); bands: shown as red, green, blue; note: what a
    reader should know."""

    png: bytes
    scale: float | None
    size: tuple[int, int]
    bands: tuple[str, ...]
    note: str = ""


def picture(image: Image) -> Picture:
    """An image of any survey and any number of bands as a picture."""
    pixels, mask, image_bands = trimmed(image)
    survey = SURVEYS.get(image.survey or "")
    note = ""
    if not image.calibrated and len(pixels) == 3:
        rgb = np.clip(pixels.transpose(1, 2, 0), 0, 255).astype(np.uint8)
        shown: tuple[str, ...] = image_bands
        note = "a colour picture, not calibrated"
    elif len(pixels) >= 2:
        chosen = three_bands(image, pixels, survey)
        shown = tuple(image_bands[i] for i in chosen)
        rgb, note = lupton(image, pixels[chosen], survey, shown)
        mask = mask[list(chosen)].all(0)[None]
    else:
        rgb, shown, note = one_band(pixels[0], mask[0]), image_bands, "one band, asinh stretch"
    bad = mask.all(0) if mask.ndim == 3 else mask
    rgb = hatched(rgb, bad)
    return Picture(png(upright(rgb, image)), image.pixel_scale, rgb.shape[:2], shown, note)


def trimmed(image: Image) -> tuple[Array, Array, tuple[str, ...]]:
    """The middle of a large image, without NaN; what is not finite, masked or without weight counts as bad."""
    ny, nx = image.size
    y, x = (max(0, (n - LARGEST) // 2) for n in (ny, nx))
    part = (slice(None), slice(y, y + LARGEST), slice(x, x + LARGEST))
    pixels = np.asarray(image.pixels[part], np.float32)
    bad = ~np.isfinite(pixels)
    if image.mask is not None:
        bad |= image.mask[part]
    if image.ivar is not None:
        bad |= ~(image.ivar[part] > 0)
    return np.where(np.isfinite(pixels), pixels, 0.0), bad, image.bands


def three_bands(image: Image, pixels: Array, survey: Any) -> list[int]:
    """Planes for red, green and blue: the survey's choice, else long to short wavelengths; empty bands are passed over."""
    there = [i for i in range(len(pixels)) if pixels[i].any()] or list(range(len(pixels)))
    if survey is not None and survey.rgb:
        names = {match_band(image.bands[i], survey.bands): i for i in there}
        wanted = [names.get(b) for b in survey.rgb]
        if None not in wanted:
            return [int(i) for i in wanted if i is not None]
    if survey is not None and survey.bands:
        def wavelength(i: int) -> float:
            found = match_band(image.bands[i], survey.bands)
            return survey.bands[found].wavelength if found else 0.0
        there = sorted(there, key=wavelength)
    return [there[-1], there[len(there) // 2], there[0]]


def lupton(image: Image, three: Array, survey: Any, bands: tuple[str, ...]) -> tuple[Array, str]:
    """(ny, nx, 3) bytes by Lupton et al. 2004, with the survey's stretch if the pixels' unit is the survey's."""
    balance = BALANCE.get(image.survey or "", COLOURFUL)
    factor = None
    if survey is not None and image.calibrated and survey.unit is not None and image.unit is not None:
        own = nanomaggies_per_unit(survey.key, bands[1], image.unit, image.pixel_scale)
        usual = nanomaggies_per_unit(survey.key, bands[1], survey.unit, image.pixel_scale)
        factor = own / usual if own and usual else None
    # Surface brightness decides how a picture looks: a stretch belongs to the survey's own pixel size.
    if factor is not None and survey.pixel_scale and image.pixel_scale:
        factor *= (survey.pixel_scale / image.pixel_scale) ** 2
    scaled = np.stack([plane * w for plane, w in zip(three, balance, strict=True)])
    if factor is not None and (three != 0).any():
        scaled, note = scaled * factor, ""
        stretch, q = survey.stretch, survey.q
    else:
        spread = noise_of(scaled)
        stretch, q, note = 6 * spread, 8.0, "stretch taken from this picture: its unit is not known"
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(make_lupton_rgb(*scaled, stretch=max(stretch, 1e-30), Q=q)), note


def noise_of(planes: Array) -> float:
    """Robust scatter of the sky, from the fainter half of the pixels."""
    middle = np.median(planes)
    faint = planes[planes <= middle]
    return float(1.4826 * np.median(np.abs(faint - middle))) or float(np.abs(planes).max()) / 20 or 1.0


def one_band(plane: Array, bad: Array) -> Array:
    """(ny, nx, 3) grey: asinh stretch between the percentiles of the good pixels (99.5 %)."""
    good = plane[~bad]
    if not good.size or good.min() == good.max():
        return np.zeros((*plane.shape, 3), np.uint8)
    low, high = PercentileInterval(99.5).get_limits(good)
    shade = AsinhStretch(0.1)(np.clip((plane - low) / max(high - low, 1e-30), 0, 1))
    return np.repeat((255 * np.nan_to_num(shade)).astype(np.uint8)[..., None], 3, axis=2)


def hatched(rgb: Array, bad: Array) -> Array:
    """Bad pixels as thin diagonal lines on a dark ground: never black, which would pass for sky."""
    if not bad.any():
        return rgb
    y, x = np.indices(bad.shape)
    out = rgb.copy()
    out[bad] = HATCH // 3
    out[bad & ((x + y) % 4 == 0)] = HATCH
    return out


def upright(rgb: Array, image: Image) -> Array:
    """Rows from north to south, columns from east to west, to the nearest quarter turn; without a WCS, y is up."""
    if image.wcs is None:
        return rgb[::-1]
    east, north = directions(image)
    if abs(north[1]) < abs(north[0]):  # north lies along a row
        rgb = rgb.transpose(1, 0, 2)
        east, north = east[::-1], north[::-1]
    if north[1] > 0:
        rgb = rgb[::-1]
    return rgb[:, ::-1] if east[0] > 0 else rgb


def directions(image: Image) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where east and north point at the middle of the image, as (x, y) in pixels."""
    assert image.wcs is not None
    ny, nx = image.size
    ra, dec = (float(v) for v in image.wcs.wcs_pix2world([[(nx - 1) / 2, (ny - 1) / 2]], 0)[0])
    step = 1e-4
    points = [[ra, dec], [ra + step / max(math.cos(math.radians(dec)), 1e-6), dec], [ra, dec + step]]
    here, east, north = image.wcs.wcs_world2pix(points, 0)
    return tuple(east - here), tuple(north - here)  # type: ignore[return-value]


def compass_angle(image: Image) -> float | None:
    """Degrees by which north is off the picture's upward direction (-45 to 45); None without a WCS."""
    if image.wcs is None:
        return None
    _, north = directions(image)
    turn = math.degrees(math.atan2(north[0], north[1]))
    return round((turn + 45) % 90 - 45, 1)


def png(rgb: Array) -> bytes:
    """Bytes of an (ny, nx, 3) picture."""
    out = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(rgb)).save(out, "PNG", compress_level=1)
    return out.getvalue()
