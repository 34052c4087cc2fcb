"""Pictures: directions on the sky, colours against astropy's, bad pixels seen as bad, whatever the survey delivered."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.visualization import make_lupton_rgb
from astropy.wcs import WCS
from PIL import Image as Pillow

from engine.io import read
from engine.io.surveys import SURVEYS, ab_unit
from engine.objects import Image
from explorer import pictures

N = 41
CENTRE = SkyCoord(150.1, 2.2, unit="deg")


def wcs_turned(angle: float, mirrored: bool, centre: SkyCoord = CENTRE, scale: float = 0.262) -> WCS:
    """A tangential WCS whose y axis lies `angle` degrees from north, with east on the other side if mirrored."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [centre.ra.deg, centre.dec.deg], [(N + 1) / 2] * 2
    a = np.radians(angle)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    wcs.wcs.cd = scale / 3600 * np.diag([1.0 if mirrored else -1.0, 1.0]) @ turn
    return wcs


def decoded(png: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Pillow.open(io.BytesIO(png)).convert("RGB")).astype(int)


def noise(shape: tuple[int, ...], sigma: float = 0.01, seed: int = 1) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).normal(0, sigma, shape).astype(np.float32)


def legacy(pixels: Any, bands: tuple[str, ...] = ("g", "r", "i", "z"), **more: Any) -> Image:
    return Image(pixels, bands, "legacy", more.pop("wcs", None), more.pop("unit", u.nmgy), pixel_scale=0.262, **more)


def place_of(rgb: np.ndarray[Any, Any]) -> tuple[int, int]:
    """(row, column) of the brightest pixel."""
    row, column = np.unravel_index(rgb.sum(2).argmax(), rgb.shape[:2])
    return int(row), int(column)


def bad_places(rgb: np.ndarray[Any, Any]) -> set[tuple[int, int]]:
    """(row, column) of what is hatched."""
    bad = (rgb == pictures.HATCH).all(2) | (rgb == pictures.HATCH // 3).all(2)
    return {(int(y), int(x)) for y, x in zip(*np.nonzero(bad), strict=True)}


def with_source(wcs: WCS, north: float, east: float) -> Image:
    """An empty image with one bright pixel where a source lies so many arcsec north and east of the middle."""
    where = CENTRE.spherical_offsets_by(east * u.arcsec, north * u.arcsec)
    x, y = wcs.world_to_pixel(where)
    pixels = np.zeros((3, N, N), np.float32)
    pixels[:, round(float(y)), round(float(x))] = 5.0
    return legacy(pixels, ("g", "r", "z"), wcs=wcs)


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("angle", [0, 90, 180, 270, 17, -38, 133, 250])
def test_north_is_up_and_east_is_left(angle: float, mirrored: bool) -> None:
    wcs = wcs_turned(angle, mirrored)
    for north, east in ((3.4, 0.0), (0.0, 3.4)):
        image = with_source(wcs, north, east)
        row, column = place_of(decoded(pictures.picture(image).png))
        up, left = N // 2 - row, N // 2 - column
        if angle % 90 == 0:  # exact: a pixel's worth of rounding at most
            assert (up, left) == (13, 0) if north else (up, left) == (0, 13)
        else:  # turned by up to 45 degrees, and the compass says by how much
            turn = np.radians(pictures.compass_angle(image))
            expected = (13 * np.cos(turn), -13 * np.sin(turn)) if north else (13 * np.sin(turn), 13 * np.cos(turn))
            assert np.hypot(up - expected[0], left - expected[1]) < 1.2


@pytest.mark.parametrize("dec", [-90.0, -89.99999, -89.99, 89.8999, 89.9001, 89.99, 89.99999, 90.0])
def test_directions_hold_at_the_poles_and_across_ra_zero(dec: float) -> None:
    """At a pole itself "north" is what the WCS means by it: along the meridian of its reference point."""
    for angle in (0, 17, -40, 44, 90, 180, 250):
        for mirrored in (False, True):
            there, usual = (legacy(np.zeros((1, N, N), np.float32), ("r",), wcs=wcs_turned(angle, mirrored, centre))
                            for centre in (SkyCoord(0.00001, dec, unit="deg"), CENTRE))
            assert pictures.turn_of(there) == pictures.turn_of(usual)
            assert pictures.compass_angle(there) == pytest.approx(pictures.compass_angle(usual), abs=0.2)


def test_turning_an_oblong_picture_keeps_its_scale_bar_right() -> None:
    image = legacy(noise((3, 20, 50)), ("g", "r", "z"), wcs=wcs_turned(90, False))
    made = pictures.picture(image)
    assert made.size == (50, 20) == decoded(made.png).shape[:2]
    assert made.scale == pytest.approx(0.262)


def test_without_a_wcs_the_first_row_is_the_bottom() -> None:
    pixels = noise((3, 10, 10))
    pixels[:, 0, 2] = 9.0
    assert place_of(decoded(pictures.picture(legacy(pixels, ("g", "r", "z"))).png)) == (9, 2)
    assert pictures.compass_angle(legacy(pixels, ("g", "r", "z"))) is None


def test_colours_are_astropys_lupton_with_the_surveys_stretch() -> None:
    pixels = noise((4, 30, 30)) + np.linspace(0, 1, 30, dtype=np.float32)
    row, weights = SURVEYS["legacy"], (2.2 / 3.4, 1.0, 6.0 / 3.4)
    z, r, g = (pixels[i] * w for i, w in zip((3, 1, 0), weights, strict=True))
    expected = make_lupton_rgb(z, r, g, minimum=-0.11 * row.stretch, stretch=row.stretch, Q=row.q)[::-1]
    made = pictures.picture(legacy(pixels))
    assert np.abs(decoded(made.png) - expected).max() <= 1  # pixels times a factor of 1 within float32
    assert made.bands == ("z", "r", "g") and made.note == ""


def test_the_unit_does_not_change_a_picture_and_brightness_compares_between_objects() -> None:
    pixels = noise((4, 30, 30)) + 0.2
    same = pictures.picture(legacy(pixels * 3630.7805, unit=u.nJy))
    assert np.abs(decoded(same.png) - decoded(pictures.picture(legacy(pixels)).png)).max() <= 2
    fainter = decoded(pictures.picture(legacy(pixels / 4)).png)
    assert fainter.mean() < 0.7 * decoded(same.png).mean()


def test_one_sky_at_two_zero_points_looks_the_same() -> None:
    """HST's bands have their own zero points: a source of flat spectrum is as grey as the weights allow in any unit."""
    flat = np.full((2, 20, 20), 1.0, np.float32) + noise((2, 20, 20))
    hst = SURVEYS["hst-acs"]
    counts = np.stack([flat[i] * 10 ** (-0.4 * (26.0 - hst.band(b).zero_point)) for i, b in enumerate(("F606W", "F814W"))])
    by_counts = Image(counts, ("F606W", "F814W"), "hst-acs", None, hst.unit, pixel_scale=0.03)
    by_flux = Image(flat, ("F606W", "F814W"), "hst-acs", None, ab_unit(26.0), pixel_scale=0.03)
    assert np.abs(decoded(pictures.picture(by_counts).png) - decoded(pictures.picture(by_flux).png)).max() <= 2


@pytest.mark.parametrize("bands", [("g", "r", "z"), ("r",), ("g", "r")])
def test_masked_pixels_are_hatched_never_black(bands: tuple[str, ...]) -> None:
    mask = np.zeros((len(bands), 32, 32), bool)
    mask[:, 8:24, 4:12] = True
    rgb = decoded(pictures.picture(legacy(noise((len(bands), 32, 32)), bands, mask=mask)).png)
    patch = rgb[8:24, 4:12].reshape(-1, 3)
    lines, ground = pictures.HATCH.astype(int), (pictures.HATCH // 3).astype(int)
    hatch, dark = (patch == lines).all(1), (patch == ground).all(1)
    assert (hatch | dark).all() and hatch.mean() == 0.25
    outside = np.ones((32, 32), bool)
    outside[8:24, 4:12] = False
    assert not (rgb[outside] == lines).all(1).any()


def test_nan_and_pixels_without_weight_are_hatched_too() -> None:
    pixels, ivar = noise((3, 16, 16)), np.full((3, 16, 16), 1e4, np.float32)
    pixels[:, 15, 0] = np.nan
    ivar[:, 15, 4] = 0
    rgb = decoded(pictures.picture(legacy(pixels, ("g", "r", "z"), ivar=ivar)).png)
    assert bad_places(rgb) == {(0, 0), (0, 4)}


def test_a_band_that_is_empty_is_passed_over_and_named() -> None:
    pixels = noise((4, 30, 30)) + 0.1
    pixels[3] = 0
    made = pictures.picture(legacy(pixels))
    assert "z" not in made.bands and made.note == "z empty"
    assert not (decoded(made.png) == pictures.HATCH).all(2).any()
    pixels[3] = np.nan
    assert pictures.picture(legacy(pixels)).bands == made.bands


@pytest.mark.parametrize(("unit", "scale", "words"), [(None, 1.0, "unit is not known"), (u.nmgy, 1e-7, "all black"),
                                                      (u.nmgy, 1e5, "all burnt out")])
def test_what_the_surveys_stretch_cannot_show_is_stretched_by_its_own_noise(unit: Any, scale: float, words: str) -> None:
    y, x = np.indices((40, 40))
    source = 20 * np.exp(-((x - 20) ** 2 + (y - 20) ** 2) / 18)
    pixels = ((noise((3, 40, 40), 1.0) + source + 100) * scale).astype(np.float32)
    made = pictures.picture(legacy(pixels, ("g", "r", "z"), unit=unit))
    rgb = decoded(made.png)
    assert words in made.note
    assert rgb[18:22, 18:22].mean() > np.median(rgb) + 60 and np.median(rgb) < 90


def test_one_band_is_grey_between_its_percentiles() -> None:
    pixels = noise((1, 60, 60), 1.0)
    pixels[0, 30, 30] = 1e6  # one hot pixel must not take the range
    rgb = decoded(pictures.picture(legacy(pixels, ("r",), unit=None)).png)
    assert (rgb[..., 0] == rgb[..., 1]).all() and (rgb[..., 1] == rgb[..., 2]).all()
    assert rgb.max() == 255 and 90 < np.median(rgb) < 230


def test_a_jpegs_colours_are_shown_as_they_are() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (3, 12, 14)).astype(np.float32)
    made = pictures.picture(Image(pixels, ("R", "G", "B"), "sdss", calibrated=False))
    assert np.array_equal(decoded(made.png), pixels.transpose(1, 2, 0)[::-1])
    assert "not calibrated" in made.note


def test_counts_named_like_colours_are_stretched_not_clipped() -> None:
    pixels = noise((3, 30, 30), 20.0) + 1000
    made = pictures.picture(Image(pixels, ("r", "g", "b"), None, calibrated=False))
    assert "stretch of its own" in made.note and np.median(decoded(made.png)) < 90


def test_a_huge_image_is_averaged_not_cut_and_its_scale_follows() -> None:
    pixels = np.zeros((3, 1200, 2500), np.float32)
    pixels[:, 1195:, 2495:] = 0.5  # a corner that a cut about the middle would lose
    pixels[:, 600:605, 1200:1205] = np.nan
    made = pictures.picture(legacy(pixels, ("g", "r", "z")))
    rgb = decoded(made.png)
    assert made.size == (240, 500) == rgb.shape[:2]
    assert made.scale == pytest.approx(5 * 0.262) and "5 × 5" in made.note
    assert place_of(rgb) == (0, 499)
    assert bad_places(rgb) == {(239 - 120, 240)}


@pytest.mark.parametrize("pixels", [
    np.zeros((3, 8, 8)), np.full((3, 8, 8), np.nan), np.full((3, 8, 8), -1e30), np.full((3, 8, 8), np.inf),
    np.full((1, 8, 8), np.nan), np.full((2, 1, 1), 7.0),
])
def test_degenerate_images_make_a_picture_without_warnings(pixels: Any, recwarn: pytest.WarningsRecorder) -> None:
    bands = ("g", "r", "z")[: len(pixels)]
    made = pictures.picture(legacy(pixels.astype(np.float32), bands))
    assert decoded(made.png).shape[:2] == made.size == pixels.shape[1:]
    assert not [str(w.message) for w in recwarn]


def test_real_cutouts_have_dark_skies_and_bright_sources(shared_data: Path) -> None:
    for file, bands, note in (("legacysurvey_dr9/cutout_59.1067_-30.4848.fits", ("z", "r", "g"), ""),
                              ("hsc_grizy/hsc_ra=150.24071_dec=2.06514.fits", ("i", "r", "g"),  # bands divided by their means
                               "stretch of its own: its unit is not known")):
        image = next(o for o in read(shared_data / file) if o.images).images[0]
        made = pictures.picture(image)
        rgb = decoded(made.png)
        assert made.bands == bands and made.note == note
        assert np.quantile(rgb.max(2), 0.02) < 130 and rgb.max() > 150
