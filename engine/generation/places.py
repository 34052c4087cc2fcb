"""Where generated pixels lie: the world coordinates that they take over from an input image, and which of them it covered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.codecs.image import SIZE
from engine.codecs.stamps import FIELDS

if TYPE_CHECKING:
    from astropy.wcs import WCS

    from engine.objects import Image

HOLE = 7  # pixels of an input
CENTRE = (SIZE - 1) / 2  # of a stamp, in pixels counted from 0


def unobserved(survey: str, inputs: Sequence[Image]) -> NDArray[np.bool_] | None:
    """bool (96, 96), True where no input image tells the middle of a pixel of this survey's stamp; None without an image.

    Stamps have the same middle: 96 pixels are 25.2" of Legacy Surveys (0.262") and 16.1" of HSC (0.168"), so that an HSC image
    covers the inner 61 or so pixels of a Legacy stamp's 96 a side, and a Legacy image all of HSC's.
    """
    if not inputs:
        return None
    offset = (np.arange(SIZE) - CENTRE) * FIELDS[survey].scale  # arcsec
    covered = np.zeros((SIZE, SIZE), bool)
    for image in inputs:
        scale = image.pixel_scale or FIELDS[image.survey or survey].scale
        inside_y, inside_x = (np.abs(offset) <= min(n, SIZE) / 2 * scale for n in image.size)
        y, x = (np.rint(offset / scale + (n - SIZE) // 2 + CENTRE).astype(int).clip(0, n - 1) for n in image.size)
        covered |= inside_y[:, None] & inside_x & ~holes(image)[y[:, None], x]
    return ~covered


def holes(image: Image) -> NDArray[np.bool_]:
    """bool (ny, nx): where no band has a good pixel over `HOLE` pixels each way, as beyond the edge of a chip; what is smaller,
    such as a cosmic ray's track, the pixels around it tell."""
    from scipy.ndimage import binary_opening

    found: NDArray[np.bool_] = binary_opening(~image.good.any(0), np.ones((HOLE, HOLE)))
    return found


def wcs_like(survey: str, inputs: Sequence[Image]) -> WCS | None:
    """A tangential projection for a stamp of this survey about the middle of the first input image that has coordinates, turned
    as that image is, with the survey's pixel scale. None if there is none."""
    image = next((i for i in inputs if i.wcs is not None), None)
    if image is None or image.wcs is None:
        return None
    from astropy.wcs import WCS
    from astropy.wcs.utils import proj_plane_pixel_scales

    y, x = ((n - SIZE) // 2 + CENTRE for n in image.size)  # where `engine.codecs.image.stamp` cuts it out
    middle = image.wcs.pixel_to_world(x, y).icrs
    turned: Any = image.wcs.pixel_scale_matrix / proj_plane_pixel_scales(image.wcs)  # columns are of x and y
    found = WCS(naxis=2)
    found.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    found.wcs.crpix = [CENTRE + 1, CENTRE + 1]
    found.wcs.crval = [middle.ra.deg, middle.dec.deg]
    found.wcs.cd = turned * FIELDS[survey].scale / 3600
    return found
