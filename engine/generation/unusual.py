"""What a measured image has that those which models learn from have not, so that what is made of it may be off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from engine.objects import Image

ASIDE = 0.6  # arcsec from the middle: farther off than any of a hundred simulated objects with their arms, bars and lenses
CLEAR = 30.0  # times its noise: light whose middle is known to a few hundredths of an arcsec
APERTURE = 2.0  # arcsec
STEPS = 10


def notes(image: Image) -> tuple[str, ...]:
    """Bands of its survey that it lacks; an object that is not in its middle, and where to cut it out instead."""
    from engine.models.inputs import FIELDS

    seen = [b for b, good in zip(image.bands, image.good, strict=True) if good.any()]
    lacking = [b for field in FIELDS if field.survey == image.survey for b in field.bands if b not in seen]
    found = (f"the measured image has no {', '.join(lacking)}: models take it to be as usual",) if lacking else ()
    aside = middle_of_light(image)
    if aside is None or np.hypot(*aside) <= ASIDE:
        return found
    where = ""
    if image.wcs is not None and image.pixel_scale:
        y, x = ((n - 1) / 2 + offset / image.pixel_scale for n, offset in zip(image.size, aside, strict=True))
        at = image.wcs.pixel_to_world(x, y).icrs
        where = f": {at.ra.deg:.5f} {at.dec.deg:+.5f} would be a better one to cut out"
    return (*found, f"the light's middle is {np.hypot(*aside):.1f} arcsec from the image's, where models expect it{where}")


def middle_of_light(image: Image) -> tuple[float, float] | None:
    """(y, x) in arcsec from the image's middle, None where there is too little light to tell."""
    import torch

    from engine import adapt_inputs
    from engine.models.inputs import centroid

    scale = image.pixel_scale
    if not scale:
        return None
    good = image.good
    pixels = np.where(good, image.pixels, 0.0).astype(np.float32)
    ivar = adapt_inputs.estimated_ivar(pixels, ~good) if image.ivar is None else image.ivar
    bands = [i for i, one in enumerate(ivar) if (one[good[i]] > 0).any()]
    if not bands:
        return None
    noise = np.array([np.median(ivar[i][good[i] & (ivar[i] > 0)]) ** -0.5 for i in bands], np.float32)
    pixels, good = pixels[bands], good[bands]
    y, x = ((np.arange(n) - (n - 1) / 2) * scale for n in image.size)
    inside = y[:, None] ** 2 + x**2 <= APERTURE**2
    if (pixels / noise[:, None, None]).sum(0)[inside].sum() < CLEAR * np.sqrt(len(bands) * inside.sum()):
        return None
    n = min(image.size)
    middle = (slice(None), *(slice((size - n) // 2, (size - n) // 2 + n) for size in image.size))
    light, seen = (torch.from_numpy(np.ascontiguousarray(one[middle]))[None] for one in (pixels, good))
    found = centroid(light, seen, torch.from_numpy(noise)[None], scale, STEPS)[0]
    return float(found[0]), float(found[1])
