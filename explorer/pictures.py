"""Cutouts as pictures: Lupton colours, north up and east left, bad pixels hatched. Arrays in, PNG bytes out.

The stretch of a survey is fixed, so that brightness can be compared between neighbours. Where it cannot be applied (no
unit) or shows nothing (all black, all burnt out), a picture is stretched by its own noise, and `Picture.note` says so.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from astropy.visualization import AsinhStretch, PercentileInterval, make_lupton_rgb
from numpy.typing import NDArray
from PIL import Image as Pillow

from engine.io.surveys import SURVEYS, Survey, match_band, nanomaggies_per_unit
from engine.objects import Image

Array = NDArray[Any]
LARGEST = 512  # pixels a side of a picture; larger images are averaged in blocks
BALANCE = {"legacy": (2.2 / 3.4, 1.0, 6.0 / 3.4)}  # red, green, blue over green: the Legacy viewer's look
COLOURFUL = (0.75, 1.0, 1.6)  # for all others: an old galaxy is yellow, a young one blue
HATCH = np.array([110, 118, 129], np.uint8)
OWN_STRETCH, OWN_Q = 6.0, 8.0  # in units of the sky's scatter, for pictures that the survey's stretch does not fit
PEDESTAL = 0.11  # of the stretch: the Legacy viewer's 0.03 at its scale for r
DARK, BRIGHT = 60, 243  # of 255: bright end below, or faint end above: the picture shows nothing
STEP = math.radians(1e-4)  # along which east and north are looked for


@dataclass(frozen=True)
class Picture:
    """png: bytes; scale: arcsec a pixel of the picture, None if unknown; size: (ny, nx) of the picture; bands: shown as
    red, green, blue; note: what a reader should know."""

    png: bytes
    scale: float | None
    size: tuple[int, int]
    bands: tuple[str, ...]
    note: str = ""


@dataclass(frozen=True)
class Look:
    """How fluxes become colours: what is taken off (3,) and divides the planes, then Lupton's stretch and Q; note: what a
    reader should know. One look for two images makes their pictures comparable."""

    level: Array
    unit: float
    stretch: float
    q: float
    note: str = ""

    def paint(self, three: Array) -> Array:
        """(ny, nx, 3) bytes of planes (3, ny, nx) that have been balanced."""
        return colours((three - self.level[:, None, None]) / self.unit, self.stretch, self.q)


class Turn(NamedTuple):
    """How an image is laid on the screen: first its axes exchanged, then columns and rows reversed."""

    exchange: bool = False
    flip_x: bool = False
    flip_y: bool = True  # FITS counts rows from below, screens from above


def picture(image: Image, look: Look | None = None) -> Picture:
    """An image of any survey and any number of bands as a picture. look: of another image, of the same survey and bands, if
    the two are to be compared."""
    pixels, bad, block = binned(image)
    survey = SURVEYS.get(image.survey or "")
    shown, notes = image.bands, []
    if stretched_already(image, pixels):
        rgb = np.clip(np.broadcast_to(pixels, (3, *pixels.shape[1:])).transpose(1, 2, 0), 0, 255).astype(np.uint8)
        bad, notes = np.all(bad, axis=0), ["as delivered, not calibrated"]
    elif len(pixels) >= 2:
        three, hatch, shown, known = planes(image, pixels, bad, survey)
        if look is None:
            look, rgb = fitting(three, hatch, survey if known else None)
        else:
            rgb = look.paint(three)
        notes = [look.note]
        if empty := [band for i, band in enumerate(image.bands) if bad[i].all() or not pixels[i].any()]:
            notes.append(f"{', '.join(empty)} empty")
        bad = hatch
    else:
        bad = bad[0]
        rgb, notes = one_band(pixels[0], bad), ["one band, asinh stretch of its own"]
    if block > 1:
        notes.append(f"averaged {block} × {block}")
    rgb = upright(hatched(rgb, bad), turn_of(image))
    scale = None if image.pixel_scale is None else image.pixel_scale * block
    return Picture(png(rgb), scale, (rgb.shape[0], rgb.shape[1]), shown, "; ".join(n for n in notes if n))


def binned(image: Image) -> tuple[Array, Array, int]:
    """(pixels, bad, block): planes averaged in blocks of good pixels until they fit the screen, 0 where bad.

    Bad is what is masked, not finite or without weight; a block is bad if all its pixels are.
    """
    ny, nx = image.size
    block = max(1, math.ceil(max(ny, nx) / LARGEST))
    planes: list[Array] = []
    bads: list[Array] = []
    for plane, good in zip(image.pixels, _good(image), strict=True):
        values: Array = np.where(good, plane, 0).astype(np.float32)
        if block > 1:
            count = in_blocks(good.astype(np.float32), block)
            values, good = in_blocks(values, block) / np.maximum(count, 1), count > 0
        planes.append(values)
        bads.append(~good)
    return np.stack(planes), np.stack(bads), block


def in_blocks(plane: Array, block: int) -> Array:
    """Sums of block x block pixels; blocks at the edge may hold fewer."""
    rows = np.add.reduceat(plane, np.arange(0, plane.shape[0], block), axis=0)
    return np.asarray(np.add.reduceat(rows, np.arange(0, plane.shape[1], block), axis=1))


def stretched_already(image: Image, pixels: Array) -> bool:
    """Whether the planes are colours for the eye (a JPEG's), not fluxes."""
    colours = not image.calibrated and tuple(b.lower() for b in image.bands) in (("r", "g", "b"), ("grey",))
    return colours and bool(pixels.min() >= 0 and 1 < pixels.max() <= 255)


def three_bands(image: Image, pixels: Array, survey: Survey | None) -> list[int]:
    """Planes for red, green and blue: the survey's choice, else long to short wavelengths; empty bands are passed over."""
    there = [i for i in range(len(pixels)) if pixels[i].any()] or list(range(len(pixels)))
    if survey is not None and survey.rgb:
        names = {match_band(image.bands[i], survey.bands): i for i in there}
        wanted = [names[b] for b in survey.rgb if b in names]
        if len(wanted) == 3:
            return wanted
    if survey is not None and survey.bands:
        def wavelength(i: int) -> float:
            found = match_band(image.bands[i], survey.bands)
            return survey.bands[found].wavelength if found else 0.0
        there = sorted(there, key=wavelength)
    return [there[-1], there[(len(there) - 1) // 2], there[0]]


def planes(image: Image, pixels: Array, bad: Array, survey: Survey | None) -> tuple[Array, Array, tuple[str, ...], bool]:
    """(three, bad, bands, known): red, green and blue (3, ny, nx), weighted; where they are bad; what they are; and whether
    they are in the survey's own unit."""
    chosen = three_bands(image, pixels, survey)
    bands = tuple(image.bands[i] for i in chosen)
    here = [i for i in dict.fromkeys(chosen) if not bad[i].all()] or chosen
    three = pixels[chosen]
    factors = to_survey_unit(image, survey, bands)
    if factors is not None:
        three = three * factors[:, None, None]
    if len(set(bands)) == 2:  # green between the two that there are
        three = np.stack([three[0], (three[0] + three[2]) / 2, three[2]])
    weights = BALANCE.get(image.survey or "", COLOURFUL)
    balanced = np.stack([plane * w for plane, w in zip(three, weights, strict=True)])
    return balanced, np.any(bad[here], axis=0), bands, factors is not None


def fitting(three: Array, bad: Array, survey: Survey | None) -> tuple[Look, Array]:
    """Lupton et al. 2004 with the survey's stretch if it is given and shows something, else a stretch of its own; and what
    comes of it, (ny, nx, 3) bytes."""
    note = "stretch of its own: its unit is not known"
    if survey is not None:
        look = usual(survey)
        rgb = look.paint(three)
        seen = rgb.max(2)[~bad]
        faint, bright = np.quantile(seen, (0.1, 0.998)) if seen.size else (0, 255)
        if faint <= BRIGHT and bright >= DARK:
            return look, rgb
        note = f"stretch of its own: all {'burnt out' if faint > BRIGHT else 'black'} at the survey's"
    level = np.median(three[:, ~bad], axis=1) if (~bad).any() else np.zeros(3, np.float32)
    unit = noise_of(three[:, ~bad] - level[:, None])
    look = Look(level, unit, OWN_STRETCH, OWN_Q, note)
    return look, look.paint(three)


def usual(survey: Survey) -> Look:
    """The fixed look of a survey."""
    return Look(np.zeros(3, np.float32), 1.0, survey.stretch, survey.q)


def look_of(image: Image) -> Look | None:
    """The look that `picture` gives an image, for another one of the same survey; None where it has no colours, or pixels of an
    unknown unit, whose stretch is theirs alone."""
    pixels, bad, _ = binned(image)
    if len(pixels) < 2 or stretched_already(image, pixels):
        return None
    survey = SURVEYS.get(image.survey or "")
    three, hatch, _, known = planes(image, pixels, bad, survey)
    return fitting(three, hatch, survey)[0] if known else None


def colours(three: Array, stretch: float, q: float) -> Array:
    """Lupton's colours, with the sky lifted to a dark grey as the Legacy viewer does, so that its noise can be seen."""
    return np.asarray(make_lupton_rgb(*three, minimum=-PEDESTAL * stretch, stretch=stretch, Q=q))


def to_survey_unit(image: Image, survey: Survey | None, bands: tuple[str, ...]) -> Array | None:
    """What turns each band's pixels into flux in the survey's own unit and pixel size, for which its stretch was made.

    Bands with different zero points come to one scale, that of the green. Surface brightness decides how a picture looks,
    hence the pixel size. None where the unit is not known.
    """
    if survey is None or survey.unit is None or image.unit is None or not image.calibrated:
        return None
    own = [nanomaggies_per_unit(survey.key, band, image.unit, image.pixel_scale) for band in bands]
    usual = nanomaggies_per_unit(survey.key, bands[1], survey.unit, survey.pixel_scale)
    if not usual or not all(own):
        return None
    area = (survey.pixel_scale / image.pixel_scale) ** 2 if survey.pixel_scale and image.pixel_scale else 1.0
    return np.array(own, np.float32) * np.float32(area / usual)


def noise_of(values: Array) -> float:
    """Robust scatter of the sky, from the fainter half of the values; never zero."""
    if not values.size:
        return 1.0
    faint = values[values <= np.median(values)]
    return float(1.4826 * np.median(np.abs(faint - faint.max()))) or float(np.abs(values).max()) / 20 or 1.0


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


def turn_of(image: Image) -> Turn:
    """The quarter turns and flips that bring north up and east left as near as they can; without a WCS, y is up."""
    if image.wcs is None:
        return Turn()
    east, north = directions(image)
    exchange = abs(north[1]) < abs(north[0])  # north lies along a row
    if exchange:
        east, north = east[::-1], north[::-1]
    return Turn(exchange, east[0] > 0, north[1] > 0)


def upright(rgb: Array, turn: Turn) -> Array:
    """The pixels, moved but not changed."""
    if turn.exchange:
        rgb = rgb.transpose(1, 0, 2)
    return rgb[:: -1 if turn.flip_y else 1, :: -1 if turn.flip_x else 1]


def directions(image: Image) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where east and north point at the middle of the image, as (x, y) in pixels."""
    assert image.wcs is not None
    ny, nx = image.size
    middle = np.array([(nx - 1) / 2, (ny - 1) / 2])
    a, d = np.radians(image.wcs.all_pix2world([middle], 0)[0])
    here = np.array([math.cos(d) * math.cos(a), math.cos(d) * math.sin(a), math.sin(d)])
    east = np.array([-math.sin(a), math.cos(a), 0])
    # Steps on the tangent plane: at the poles, steps of right ascension would be none, or go round them.
    x, y, z = np.stack([here, here + STEP * east, here + STEP * np.cross(here, east)], axis=1)
    points = np.degrees([np.arctan2(y, x), np.arctan2(z, np.hypot(x, y))]).T
    # The core WCS suffices for a direction, and unlike the distorted one it always has an inverse.
    at, e, n = image.wcs.wcs_world2pix(points, 0)
    return (float(e[0] - at[0]), float(e[1] - at[1])), (float(n[0] - at[0]), float(n[1] - at[1]))


def compass_angle(image: Image) -> float | None:
    """Degrees, clockwise, by which north is off the picture's upward direction (-45 to 45); None without a WCS."""
    if image.wcs is None:
        return None
    turn = turn_of(image)
    _, north = directions(image)
    x, y = north[::-1] if turn.exchange else north
    right, up = -x if turn.flip_x else x, y if turn.flip_y else -y
    return round(math.degrees(math.atan2(right, up)), 1) + 0.0


def framed(image: Image, side: float) -> Image:
    """The middle of an image, `side` arcsec of it, NaN where it does not reach; as it is, if its scale is not known."""
    if image.pixel_scale is None:
        return image
    pixels = np.where(_good(image), image.pixels, np.nan)
    for axis in (1, 2):
        n = pixels.shape[axis]
        less = (n - round(side / image.pixel_scale)) // 2  # the same at both ends, so that the middle stays
        if less > 0:
            pixels = np.take(pixels, np.arange(less, n - less), axis)
        elif less < 0:
            pixels = np.pad(pixels, [(-less, -less) if a == axis else (0, 0) for a in range(3)], constant_values=np.nan)
    return replace(image, pixels=pixels, ivar=None, mask=None)


def _good(image: Image) -> Array:
    good: Array = image.good
    return good if image.ivar is None else good & (image.ivar > 0)


def png(rgb: Array) -> bytes:
    """Bytes of an (ny, nx, 3) picture."""
    out = io.BytesIO()
    Pillow.fromarray(np.ascontiguousarray(rgb)).save(out, "PNG", compress_level=1)
    return out.getvalue()
