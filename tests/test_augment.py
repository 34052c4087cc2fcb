"""Turned objects: what is measured on them is what the turn says, on pixels, on the sky, in numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.wcs import WCS
from numpy.typing import NDArray

from engine import demo_sky
from engine.augment import WAYS, turned
from engine.objects import Catalog, Image, Scalar, SkyObject

AXIS = SkyCoord(150.1, 60.2, unit="deg")
NEW = [way for way in WAYS if way != (0, False)]


def wcs_of(size: tuple[int, int], scale: float, angle: float = 0.0, mirrored: bool = False, off: tuple[float, float] = (0, 0),
           frame: str = "icrs") -> WCS:
    """Of an image (H, W): the axis `off` pixels from its middle, turned by `angle` degrees; mirrored: east to the right."""
    wcs = WCS(naxis=2)
    axis = AXIS.transform_to(frame)
    wcs.wcs.ctype = ["GLON-TAN", "GLAT-TAN"] if frame == "galactic" else ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [axis.spherical.lon.deg, axis.spherical.lat.deg]
    wcs.wcs.crpix = [(size[1] + 1) / 2 + off[0], (size[0] + 1) / 2 + off[1]]
    c, s = np.cos(np.radians(angle)), np.sin(np.radians(angle))
    wcs.wcs.cd = np.array([[c, -s], [s, c]]) @ np.diag([scale if mirrored else -scale, scale]) / 3600
    return wcs


IMAGES = {
    "north up": wcs_of((40, 40), 0.25), "off centre": wcs_of((40, 40), 0.25, off=(3.25, -1.5)), "long": wcs_of((40, 50), 0.25),
    "odd": wcs_of((41, 41), 0.25), "lying": wcs_of((40, 40), 0.25, 37.0), "mirrored": wcs_of((40, 40), 0.25, -12.0, True),
    "galactic": wcs_of((40, 40), 0.25, 70.0, off=(2, 0), frame="galactic")}
SIZES = {"long": (40, 50), "odd": (41, 41)}


def offsets(image: Image) -> NDArray[np.float64]:
    """(H, W, 2) arcsec to the east and north of the axis of every pixel."""
    assert image.wcs is not None
    y, x = np.mgrid[: image.size[0], : image.size[1]]
    east, north = AXIS.spherical_offsets_to(image.wcs.pixel_to_world(x, y).icrs)
    return np.stack([east.arcsec, north.arcsec], -1)


def expected(offset: NDArray[np.float64], turns: int, flipped: bool) -> NDArray[np.float64]:
    """Where (..., 2) east and north come to: north to east, east to south, and so on; then east and west are exchanged."""
    east, north = offset[..., 0], offset[..., 1]
    for _ in range(turns):
        east, north = north, -east
    return np.stack([-east if flipped else east, north], -1)


def pictured(name: str, seed: int = 0) -> SkyObject:
    """An object with one image of noise, no pixel like another."""
    size = SIZES.get(name, (40, 40))
    random = np.random.default_rng(seed)
    pixels, ivar = random.normal(size=(2, *size)), random.uniform(1, 2, (2, *size))
    image = Image(pixels, ("g", "r"), "legacy", IMAGES[name], "nmgy", ivar, pixels > 1.5, random.uniform(size=(2, 7, 7)))
    return SkyObject("noise", AXIS, (image,))


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("way", NEW)
def test_every_pixel_is_where_the_turn_puts_it(name: str, way: tuple[int, bool]) -> None:
    before, after = pictured(name).images[0], turned(pictured(name), *way).images[0]
    there = expected(offsets(before), *way)
    assert after.wcs is not None
    x, y = after.wcs.world_to_pixel(AXIS.spherical_offsets_by(there[..., 0] / 3600 * _DEG, there[..., 1] / 3600 * _DEG))
    np.testing.assert_allclose([x, y], np.round([x, y]), atol=2e-3)
    row, column = np.round(y).astype(int), np.round(x).astype(int)
    for part in ("pixels", "ivar", "mask"):
        np.testing.assert_array_equal(getattr(after, part)[:, row, column], getattr(before, part))
    assert after.pixel_scale == pytest.approx(before.pixel_scale) and after.pixels.flags.c_contiguous
    if name == "north up":
        assert after.wcs is before.wcs, "the camera did not turn"


_DEG = SkyCoord(1, 0, unit="deg").ra.unit


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize(("way", "times"), [((1, False), 4), ((2, False), 2), ((0, True), 2), ((3, True), 2)])
def test_turns_make_a_circle(name: str, way: tuple[int, bool], times: int) -> None:
    first = with_shapes(pictured(name))
    last = first
    for _ in range(times):
        last = turned(last, *way)
    ours, theirs = last.images[0], first.images[0]
    for part in ("pixels", "ivar", "mask", "psf"):
        np.testing.assert_array_equal(getattr(ours, part), getattr(theirs, part))
    np.testing.assert_allclose(offsets(ours), offsets(theirs), atol=1e-5)
    assert {n: s.value for n, s in last.scalars.items()} == {n: s.value for n, s in first.scalars.items()}
    assert first.catalog is not None and last.catalog is not None
    for column, values in first.catalog.columns.items():
        np.testing.assert_allclose(last.catalog.columns[column], values, atol=1e-9)


def with_shapes(thing: SkyObject) -> SkyObject:
    catalog = Catalog({"x": np.array([3.0, 30.0]), "y": np.array([20.0, 7.0]), "shape_e1": np.array([0.1, 0.2]),
                       "shape_e2": np.array([-0.3, 0.4]), "shape_r": np.array([1.0, 2.0])}, {"shape_r": "arcsec"})
    values = {"shape_e1": 0.2, "shape_e2": -0.1, "shape11": 1.0, "shape22": 2.0, "shape12": 0.5, "z": 0.1}
    return replace(thing, scalars={n: Scalar(v) for n, v in values.items()}, catalog=catalog)


def moments(image: Image) -> NDArray[np.float64]:
    """(2, 2) second moments in arcsec^2 of an image's light around the axis, along east and north, through the WCS."""
    light, o = image.pixels[0], offsets(image)
    return np.einsum("yx,yxi,yxj->ij", light, o, o) / light.sum()


def ellipticity(m: NDArray[np.float64]) -> tuple[float, float]:
    """e1, e2 from north through east, of size (a - b) / (a + b)."""
    (ee, en), (_, nn) = m
    size = ee + nn + 2 * np.sqrt(ee * nn - en**2)
    return float((nn - ee) / size), float(2 * en / size)


def galaxy(name: str) -> SkyObject:
    """A Gaussian of axes 1" and 0.5" at the position angle of 25 degrees, with the numbers that a catalogue gives of it."""
    size = SIZES.get(name, (40, 40))
    empty = Image(np.zeros((1, *size)), ("r",), "legacy", IMAGES[name], "nmgy")
    angle = np.radians(25.0)
    along = np.array([np.sin(angle), np.cos(angle)])  # east, north
    matrix = np.outer(along, along) + 0.25 * (np.eye(2) - np.outer(along, along))
    o = offsets(empty)
    pixels = np.exp(-0.5 * np.einsum("yxi,ij,yxj->yx", o, np.linalg.inv(matrix), o))[None]
    e = (1 - 0.5) / (1 + 0.5)
    values = {"shape_e1": e * np.cos(2 * angle), "shape_e2": e * np.sin(2 * angle),
              "shape11": matrix[0, 0], "shape22": matrix[1, 1], "shape12": matrix[0, 1]}
    return SkyObject("galaxy", AXIS, (replace(empty, pixels=pixels),), scalars={n: Scalar(v) for n, v in values.items()})


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("way", WAYS)
def test_ellipticities_and_moments_are_those_of_the_turned_pixels(name: str, way: tuple[int, bool]) -> None:
    thing = turned(galaxy(name), *way)
    measured = moments(thing.images[0])
    said = {n: s.value for n, s in thing.scalars.items()}
    np.testing.assert_allclose(ellipticity(measured), (said["shape_e1"], said["shape_e2"]), atol=0.003)
    np.testing.assert_allclose([measured[0, 0], measured[1, 1], measured[0, 1]],
                               [said["shape11"], said["shape22"], said["shape12"]], atol=0.01)


def test_the_simulated_catalogue_turns_with_its_pixels() -> None:
    """Galaxies that lie across the axes: what the catalogue says of the shape is seen in the pixels, before and after."""
    some = [o for o in demo_sky.objects(5, 0, 192) if o.scalars["class"].value not in ("star", "quasar")
            and "rare" not in o.scalars and np.hypot(o.scalars["shape_e1"].value, o.scalars["shape_e2"].value) > 0.2  # type: ignore[arg-type]
            and o.scalars["flux_r"].value > 40]  # type: ignore[operator]
    assert len(some) > 10
    for way in ((0, False), (1, False), (0, True), (3, True)):
        seen, said = [], []
        for thing in (turned(o, *way) for o in some):
            image = thing.image("legacy")
            assert image is not None and thing.position is not None
            y, x = (np.mgrid[:96, :96] - 47.5) * 0.262
            light = image.pixels[1] * (np.hypot(x, y) < 6)
            m = np.einsum("yx,iyx,jyx->ij", light, np.stack([-x, y]), np.stack([-x, y])) / light.sum()
            seen.append(ellipticity(m))
            said.append((thing.scalars["shape_e1"].value, thing.scalars["shape_e2"].value))
        for component in (0, 1):
            assert np.corrcoef(np.array(seen)[:, component], np.array(said, float)[:, component])[0, 1] > 0.8


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("way", NEW)
def test_sources_stay_on_their_light(name: str, way: tuple[int, bool]) -> None:
    thing = pictured(name)
    image = thing.images[0]
    x, y = np.array([5, 21, 30]), np.array([33, 8, 17])
    world = IMAGES[name].pixel_to_world(x, y).icrs
    catalog = Catalog({"x": x, "y": y, "ra": world.ra.deg, "dec": world.dec.deg}, {"ra": "deg", "dec": "deg"})
    after = turned(replace(thing, catalog=catalog), *way)
    assert after.catalog is not None and after.images[0].wcs is not None
    places = [np.asarray(after.catalog.columns[n]) for n in ("x", "y")]
    column, row = (np.round(p).astype(int) for p in places)
    np.testing.assert_array_equal(after.images[0].pixels[:, row, column], image.pixels[:, y, x])
    said = SkyCoord(after.catalog.columns["ra"], after.catalog.columns["dec"], unit="deg")
    assert said.separation(after.images[0].wcs.pixel_to_world(*places).icrs).arcsec.max() < 1e-3


def test_what_is_seen_through_a_fibre_stays() -> None:
    thing = next(o for o in demo_sky.objects(3, 0, 64) if o.lightcurves)
    after = turned(thing, 1, True)
    assert after.spectra == thing.spectra and after.lightcurves == thing.lightcurves and after.position is thing.position
    still = [n for n in thing.scalars if not n.startswith("shape_e")]
    assert all(after.scalars[n] is thing.scalars[n] for n in still) and after.id == thing.id
    assert after.history[-1] == "turned by 90 degrees north through east, east and west exchanged"
    assert turned(thing, 4) is thing


def test_an_image_that_does_not_say_has_north_up() -> None:
    pixels = np.zeros((1, 5, 5))
    pixels[0, 4, 2] = 1  # north of the middle
    thing = SkyObject("picture", images=(Image(pixels, ("r",), "legacy"),))
    assert turned(thing, 1).images[0].pixels[0, 2, 0] == 1, "east, which is left"
    assert turned(thing, 1, True).images[0].pixels[0, 2, 4] == 1
