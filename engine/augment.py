"""The same object turned on the sky: one more to learn from, in the eight ways of a square, before tokens are made.

It is the object that turns, not the camera: what shone north of it shines east of it after a quarter turn, while its images
keep their own directions of north and east. So pixels, inverse variances, masks and PSF stamps move, position angles grow by
90 degrees, and with them ellipticities, moments and the places of a catalogue's sources; what is seen through one fibre
(spectra, light curves, fluxes) and the place on the sky stay. A codec reads no WCS: had the camera been turned, image and
ellipticities would contradict each other.

Shape letters: C bands, H, W pixels. Offsets on the sky are (east, north), those on images (x, y).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from astropy.coordinates import SkyCoord
    from astropy.wcs import WCS

    from engine.modalities import Modality
    from engine.objects import Catalog, Image, Scalar, SkyObject

Matrix = NDArray[np.float64]
WAYS = ((0, False), (1, False), (2, False), (3, False), (0, True), (1, True), (2, True), (3, True))  # quarter turns, flipped
NORTH_UP = np.diag([-1.0, 1.0])  # (x, y) -> (east, north) of an image that does not say
SAME = 1e-6  # pixels; a WCS that says the same to this is kept as it is


class Law(NamedTuple):
    """What becomes of a number: its name after a quarter turn, and its sign after a quarter turn and after a flip."""

    after: str
    turn: int
    flip: int


# e1 = e cos 2a and e2 = e sin 2a of the position angle a from north through east (Tractor's, the Legacy Surveys'). Second
# moments along right ascension and declination; whether their first axis runs east or west makes no difference.
LAWS = {"shape_e1": Law("shape_e1", -1, 1), "shape_e2": Law("shape_e2", -1, -1),
        "shape11": Law("shape22", 1, 1), "shape22": Law("shape11", 1, 1), "shape12": Law("shape12", -1, -1)}


def turns(modality: Modality) -> bool:
    """Whether a modality changes when its object is turned."""
    return modality.kind in ("image", "field", "catalog") or modality.scalar in LAWS


def turned(thing: SkyObject, quarter_turns: int, flipped: bool = False) -> SkyObject:
    """The object turned by quarter_turns x 90 degrees from north through east; flipped: then east and west change places.

    It turns around its position, or the middle of its first image with a WCS if it has none. An image without a WCS is taken
    to have north up and east left.
    """
    quarter_turns %= 4
    if (quarter_turns, flipped) == WAYS[0]:
        return thing
    on_sky = np.linalg.matrix_power(np.array([[0.0, 1.0], [-1.0, 0.0]]), quarter_turns)
    on_sky = np.diag([-1.0, 1.0]) @ on_sky if flipped else on_sky
    axis = thing.position
    if axis is None:
        axis = next((_middle(i.wcs, i.size) for i in thing.images if i.wcs is not None), None)
    note = f"turned by {90 * quarter_turns} degrees north through east" + (", east and west exchanged" if flipped else "")
    catalog = thing.catalog
    if catalog is not None:
        catalog = _catalog(thing, catalog, quarter_turns, flipped, on_sky, axis)
    return replace(thing, images=tuple(turned_image(i, on_sky, axis) for i in thing.images),
                   scalars=_scalars(thing.scalars, quarter_turns, flipped), catalog=catalog, history=(*thing.history, note))


# -- images ---------------------------------------------------------------------------------------------------------------


def turned_image(image: Image, on_sky: Matrix, axis: SkyCoord | None) -> Image:
    """An image of the turned sky: what was at an offset o from the axis is at `on_sky` @ o (2, 2)."""
    scale, offset = _plane(image.wcs, image.size, axis)
    on_pixels = symmetry(scale, on_sky)
    pixels = moved(image.pixels, on_pixels)
    wcs = image.wcs
    if wcs is not None and axis is not None:
        wcs = _wcs(wcs, axis, on_sky @ scale @ on_pixels.T, on_sky @ offset, (pixels.shape[1], pixels.shape[2]))
    ivar, mask, psf = (None if part is None else moved(part, on_pixels) for part in (image.ivar, image.mask, image.psf))
    return replace(image, pixels=pixels, wcs=wcs, ivar=ivar, mask=mask, psf=psf)


def symmetry(scale: Matrix, on_sky: Matrix) -> Matrix:
    """The symmetry of the square, (x, y) -> (x', y'), that comes nearest to a turn of the sky; scale: (x, y) -> (east, north).

    For square pixels, it is just that turn if the image shows north up, and any turn without a flip however it lies.
    """
    wanted = np.linalg.solve(scale, on_sky @ scale)
    straight = np.abs(np.diag(wanted)).sum() >= np.abs(np.diag(wanted[::-1])).sum()
    return np.sign(wanted) * (np.eye(2) if straight else np.eye(2)[::-1])


def moved(planes: NDArray[Any], on_pixels: Matrix) -> NDArray[Any]:
    """(..., H, W) with the content of each pixel moved by a symmetry of the square around the middle."""
    if on_pixels[0, 0] == 0:
        planes = planes.swapaxes(-1, -2)
    x, y = on_pixels.sum(1)  # where each axis runs now
    return np.ascontiguousarray(planes[..., :: int(y), :: int(x)])


def _plane(wcs: WCS | None, size: tuple[int, int], axis: SkyCoord | None) -> tuple[Matrix, Matrix]:
    """Of an image (H, W): (x, y) -> (east, north) in degrees around the axis, and the offset of its middle, (2,)."""
    if wcs is None or axis is None:
        return NORTH_UP, np.zeros(2)
    x, y = _centre(size)
    steps = np.array([[0, 0], [0.5, 0], [-0.5, 0], [0, 0.5], [0, -0.5]])
    places = _tangent(axis).world_to_pixel(wcs.pixel_to_world(x + steps[:, 0], y + steps[:, 1]))
    middle, right, left, up, down = np.stack(places, 1)
    return np.stack([right - left, up - down], 1), middle


def _tangent(axis: SkyCoord) -> WCS:
    """The tangent plane at a place, its "pixels" degrees to the east and north of it."""
    from astropy.wcs import WCS

    plane = WCS(naxis=2)
    plane.wcs.ctype, plane.wcs.crval, plane.wcs.crpix = ["RA---TAN", "DEC--TAN"], [axis.ra.deg, axis.dec.deg], [1, 1]
    plane.wcs.cdelt, plane.wcs.radesys = [1, 1], "ICRS"
    return plane


def _wcs(before: WCS, axis: SkyCoord, scale: Matrix, offset: Matrix, size: tuple[int, int]) -> WCS:
    """That of an image (H, W) whose middle lies at an offset from the axis; the one before, if it says the same."""
    x, y = np.array(_centre(size)) - np.linalg.solve(scale, offset)
    after = _tangent(axis)
    after.wcs.crpix, after.wcs.cd = [x + 1, y + 1], scale
    after.pixel_shape = (size[1], size[0])
    corners = np.array([[0, 0], [size[1] - 1, 0], [0, size[0] - 1], [size[1] - 1, size[0] - 1]], float).T
    there = np.array(after.world_to_pixel(before.pixel_to_world(*corners)))
    return before if np.abs(there - corners).max() < SAME else after


def _middle(wcs: WCS, size: tuple[int, int]) -> SkyCoord:
    return wcs.pixel_to_world(*_centre(size)).icrs


def _centre(size: tuple[int, int]) -> tuple[float, float]:
    """(x, y) of the middle of an image (H, W), the first pixel at 0."""
    return (size[1] - 1) / 2, (size[0] - 1) / 2


# -- numbers and sources --------------------------------------------------------------------------------------------------


def _sign(law: Law, quarter_turns: int, flipped: bool) -> tuple[str | None, int]:
    """Name (None: its own) and sign after the turn."""
    odd = bool(quarter_turns % 2)
    return (law.after if odd else None), (law.turn if odd else 1) * (law.flip if flipped else 1)


def _scalars(scalars: Mapping[str, Scalar], quarter_turns: int, flipped: bool) -> dict[str, Scalar]:
    out = {}
    for name, scalar in scalars.items():
        after, sign = _sign(LAWS[name], quarter_turns, flipped) if name in LAWS else (None, 1)
        out[after or name] = scalar if sign > 0 else replace(scalar, value=-np.asarray(scalar.value))
    return out


def _catalog(thing: SkyObject, catalog: Catalog, quarter_turns: int, flipped: bool, on_sky: Matrix, axis: SkyCoord | None
             ) -> Catalog:
    """Its places x, y (pixels of the Legacy Surveys' image, else of a stamp of 96, the first at 0), ra and dec, and shapes."""
    from astropy.coordinates import SkyCoord

    from engine.codecs.image import SIZE

    columns, units = {}, {}
    for name, values in catalog.columns.items():
        after, sign = _sign(LAWS[name], quarter_turns, flipped) if name in LAWS else (None, 1)
        columns[after or name] = values if sign > 0 else -values
        if name in catalog.units:
            units[after or name] = catalog.units[name]
    if {"x", "y"} <= columns.keys():
        image = thing.image("legacy")
        size = (SIZE, SIZE) if image is None else image.size
        scale, _ = _plane(None if image is None else image.wcs, size, axis)
        on_pixels = symmetry(scale, on_sky)
        places = np.stack([columns["x"], columns["y"]], -1) - _centre(size)
        after_size = size[::-1] if on_pixels[0, 0] == 0 else size
        columns["x"], columns["y"] = (places @ on_pixels.T + _centre(after_size)).T
    if {"ra", "dec"} <= columns.keys() and axis is not None:
        plane = _tangent(axis)
        places = np.stack(plane.world_to_pixel(SkyCoord(columns["ra"], columns["dec"], unit="deg")), -1)
        world = plane.pixel_to_world(*(places @ on_sky.T).T)
        columns["ra"], columns["dec"] = world.ra.deg, world.dec.deg
    return replace(catalog, columns=columns, units=units)
