"""Map tiles: where the points are painted, what colours them, and that neighbouring tiles agree."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from engine import palettes, tiles
from engine.tiles import PIXELS, Tiles, scale_of
from engine.zorder import ZIndex


def picture(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture(scope="module")
def cloud() -> np.ndarray:
    rng = np.random.default_rng(2)
    centre = rng.normal(size=(20, 2)) * 4
    return (centre[rng.integers(20, size=40_000)] + rng.normal(size=(40_000, 2)) * 0.3).astype(np.float32)


@pytest.fixture(scope="module")
def made(cloud: np.ndarray) -> Tiles:
    rng = np.random.default_rng(4)
    number = cloud[:, 0] + rng.normal(size=len(cloud))
    number[::50] = np.nan
    kind = np.array(["spiral", "elliptical", "lens", ""])[rng.integers(4, size=len(cloud))]
    return Tiles(ZIndex.build(cloud), {"number": number, "kind": kind}.__getitem__)


def pixel_of(index: ZIndex, xy: np.ndarray, z: int) -> tuple[np.ndarray, ...]:
    """Tile and pixel (row 0 on top) of positions at zoom z, computed the plain way."""
    e = index.extent
    u = (xy.astype(float) - [e.x0, e.y0]) * ((PIXELS << z) / e.side)
    column, up = np.floor(u).astype(int).T
    return column // PIXELS, up // PIXELS, column % PIXELS, PIXELS - 1 - up % PIXELS


@pytest.mark.parametrize("z", [0, 1, 3, 6])
def test_counts_per_pixel_are_those_of_a_plain_histogram(made: Tiles, cloud: np.ndarray, z: int) -> None:
    x, y, column, row = pixel_of(made.index, cloud, z)
    tile_x, tile_y = int(x[7]), int(y[7])
    here = (x == tile_x) & (y == tile_y)
    want = np.zeros((PIXELS, PIXELS))
    np.add.at(want, (row[here], column[here]), 1)
    everything, chosen, _ = made.layer()._cells(z, tile_x, tile_y)
    assert here.any() and np.array_equal(everything, want) and np.array_equal(chosen, want)


@pytest.mark.parametrize("z", [0, 2])
def test_the_colour_of_a_pixel_is_the_mean_of_its_points(made: Tiles, cloud: np.ndarray, z: int) -> None:
    layer = made.layer("number")
    x, y, column, row = pixel_of(made.index, cloud, z)
    tile_x, tile_y = int(x[7]), int(y[7])
    place = layer.scale.place(made._column("number"))
    here = (x == tile_x) & (y == tile_y) & np.isfinite(place)
    total, count = np.zeros((2, PIXELS, PIXELS))
    np.add.at(total, (row[here], column[here]), place[here])
    np.add.at(count, (row[here], column[here]), 1)
    _, chosen, hue = layer._cells(z, tile_x, tile_y)
    mean = total[count > 0] / count[count > 0]
    assert np.array_equal(chosen, count)
    assert np.abs(hue[count > 0] + 0.5 - mean * tiles.COLOURS).max() <= 0.501


@pytest.mark.parametrize("z", [0, 3])
def test_the_class_of_a_pixel_is_the_commonest_one(made: Tiles, cloud: np.ndarray, z: int) -> None:
    layer = made.layer("kind")
    x, y, column, row = pixel_of(made.index, cloud, z)
    tile_x, tile_y = int(x[7]), int(y[7])
    label = np.empty(len(cloud), int)
    label[made.index.rows] = layer.label
    here = (x == tile_x) & (y == tile_y) & (label >= 0)
    tally = np.zeros((3, PIXELS, PIXELS))
    np.add.at(tally, (label[here], row[here], column[here]), 1)
    _, chosen, hue = layer._cells(z, tile_x, tile_y)
    rows, columns = np.nonzero(chosen)
    assert len(rows) > 20
    assert np.array_equal(tally[hue[rows, columns], rows, columns], tally.max(axis=0)[rows, columns])


@pytest.mark.parametrize("z", [2, 5, 9, 12])
def test_a_lonely_point_is_a_disc_centred_where_it_lies(z: int) -> None:
    points = np.array([[0, 0], [1, 0.37], [0.61, 0.92], [0.133, 0.71]], np.float32)
    made = Tiles(ZIndex.build(points))
    ground = picture(tiles.blank("dark"))[0, 0].astype(int)
    x, y, column, row = pixel_of(made.index, points, z)
    for i in range(len(points)):
        shown = picture(made.png(z, int(x[i]), int(y[i])))
        assert shown.shape == (PIXELS, PIXELS, 3)
        bright = np.abs(shown.astype(int) - ground).sum(-1) * (np.abs(shown.astype(int) - ground).max(-1) > 90)
        assert bright.any(), "the point is not painted"
        lines, columns = np.nonzero(bright)
        near = np.hypot(lines - row[i], columns - column[i]) < 8
        assert near.any()
        weight = bright[lines[near], columns[near]]
        assert abs(np.average(columns[near], weights=weight) - column[i]) <= 1.0
        assert abs(np.average(lines[near], weights=weight) - row[i]) <= 1.0
        assert tiles.SMALLEST_DISC <= made.ground.disc(z) <= tiles.LARGEST_DISC


def test_discs_and_glow_continue_across_the_border_of_two_tiles() -> None:
    rng = np.random.default_rng(8)
    made = Tiles(ZIndex.build(rng.random((3_000, 2))))
    z = 3
    radius = made.ground.disc(z)
    layer = made.layer()
    assert radius > 1
    together = np.concatenate([layer._discs(z, 3, 4, radius)[0], layer._discs(z, 4, 4, radius)[0]], axis=1)
    e = made.index.extent
    u = (made.index.xy - [e.x0, e.y0]) * ((PIXELS << z) / e.side) - [3 * PIXELS, 4 * PIXELS]
    plain = np.zeros((PIXELS, 2 * PIXELS), np.float32)
    tiles._splat(u[:, 0].copy(), u[:, 1].copy(), np.ones(len(u), np.float32), radius, plain)
    assert np.allclose(together, plain[::-1], atol=1e-3)
    glow = np.concatenate([made.ground.glow(z, 3, 4), made.ground.glow(z, 4, 4)], axis=1).astype(int)
    assert np.abs(np.diff(glow, axis=1)).max() <= 1


def test_points_without_a_value_stay_as_grey_ground(made: Tiles, cloud: np.ndarray) -> None:
    half = Tiles(made.index, {"x": np.where(cloud[:, 0] > 0, cloud[:, 0], np.nan)}.__getitem__).layer("x")
    everything, chosen, _ = half._cells(0, 0, 0)
    indices = half.indices(0, 0, 0)
    grey = (indices >= tiles.GLOW_STEPS) & (indices < tiles.DATA_START)
    assert np.array_equal(grey, (everything > 0) & (chosen == 0)) and grey.any()
    assert np.array_equal(indices >= tiles.DATA_START, chosen > 0)


def test_brightness_follows_the_count_on_every_zoom(made: Tiles) -> None:
    layer = made.layer()
    for z in (0, 4, 7, 11):
        strength = layer._strength(z)
        assert strength[0] == 0 and strength[1] >= tiles.FAINTEST
        assert np.all(np.diff(strength) >= 0) and strength[-1] <= 1


def test_a_tile_is_opaque_its_corners_are_ground_and_themes_differ(made: Tiles) -> None:
    dark, light = (made.png(0, 0, 0, theme=theme) for theme in ("dark", "light"))
    assert Image.open(io.BytesIO(dark)).mode == "P" and "transparency" not in Image.open(io.BytesIO(dark)).info
    assert bytes(picture(dark)[0, 0]) == bytes(palettes.rgb(palettes.BACKGROUND["dark"]))
    assert bytes(picture(light)[0, 0]) == bytes(palettes.rgb(palettes.BACKGROUND["light"]))


@pytest.mark.parametrize("where", [(40, 0, 0), (2, 4, 0), (2, 0, -1), (-1, 0, 0)])
def test_beyond_the_map_there_is_one_pixel_of_ground(made: Tiles, where: tuple[int, int, int]) -> None:
    assert made.png(*where) == tiles.blank("dark") and picture(tiles.blank("dark")).shape == (1, 1, 3)


def test_a_map_without_points_is_bare_ground() -> None:
    empty = Tiles(ZIndex.build(np.empty((0, 2))))
    assert empty.png(0, 0, 0, theme="light") == tiles.blank("light")
    assert Tiles(ZIndex.build(np.full((5, 2), np.nan))).png(3, 1, 1) == tiles.blank("dark")


def test_scales_know_numbers_logarithms_and_classes() -> None:
    rng = np.random.default_rng(0)
    assert scale_of(None).kind == "density"
    plain = scale_of(np.r_[rng.normal(size=1000), np.nan])
    assert plain.kind == "number" and not plain.log and plain.low == pytest.approx(-2.05, abs=0.3)
    wide = scale_of(10 ** rng.normal(0, 2, size=1000))
    assert wide.log and wide.place(np.array([np.sqrt(wide.low * wide.high)]))[0] == pytest.approx(0.5)
    assert np.isnan(wide.place(np.array([-1.0, 0.0]))).all()
    named = scale_of(np.array(["b", None, "a", "b", ""], dtype=object))
    assert named.kind == "class" and named.classes == ("b", "a")
    assert scale_of(np.full(4, 7.0)).high > 7.0 and scale_of(np.full(4, np.nan)).kind == "number"
    assert scale_of(np.array([True, False])).classes == ("True", "False")


def test_classes_keep_their_colours_as_the_sky_grows_and_can_be_told_apart() -> None:
    for theme in ("dark", "light"):
        few, many = palettes.classes(5, theme), palettes.classes(tiles.COLOURS, theme)
        assert np.array_equal(few, many[:5])
        lab = palettes.to_oklab(np.vstack([many, palettes.rgb(palettes.BACKGROUND[theme])[None]]))
        apart = np.sqrt(((lab[:, None] - lab[None]) ** 2).sum(-1)) + np.eye(len(lab))
        assert apart.min() > 0.06


def contrast(colours: np.ndarray, theme: str) -> np.ndarray:
    """With the ground, as WCAG 2.2 has it; 1.4.11 asks for 3."""
    one, other = (np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722]
                  for c in (colours / 255, palettes.rgb(palettes.BACKGROUND[theme]) / 255))
    return np.asarray((np.maximum(one, other) + 0.05) / (np.minimum(one, other) + 0.05))


def test_numbers_get_ever_lighter_and_are_seen_on_their_ground() -> None:
    for theme in ("dark", "light"):
        numbers = palettes.numbers(theme, 32)
        assert (np.diff(palettes.to_oklab(numbers)[:, 0]) > 0).all()
        assert contrast(numbers, theme).min() > 3 and contrast(palettes.density(theme, 32), theme).min() > 3
    strength = 0.7  # of most dots of a small sky, seen whole
    lonely = palettes.fade(palettes.numbers("dark", 32), "dark", 10).reshape(32, 10, 3)[:, round(10 * strength) - 1]
    assert contrast(lonely, "dark").min() > 3


@pytest.mark.parametrize("theme", ["dark", "light"])
@pytest.mark.parametrize(("kind", "colours"), [("density", 0), ("number", tiles.COLOURS), *(("class", n) for n in (1, 8, 27))])
def test_a_single_dot_of_any_colour_is_seen_on_its_ground(kind: str, colours: int, theme: str) -> None:
    drawn = tiles._palette(kind, colours, theme)[tiles.DATA_START:]
    drawn = drawn if kind == "density" else drawn[:colours * tiles.STRENGTHS]
    by_strength = contrast(drawn, theme).reshape(max(colours, 1), -1)
    single = int(by_strength.shape[1] * tiles.FAINTEST)  # what is fainter are the soft rims
    assert by_strength[:, single:].min() >= 3


def test_oklab_there_and_back() -> None:
    colours = np.random.default_rng(1).integers(0, 256, size=(200, 3)).astype(np.uint8)
    assert np.abs(palettes.from_oklab(palettes.to_oklab(colours)).astype(int) - colours).max() <= 1
    assert palettes.hexes(palettes.rgb("#56b4e9")[None]) == ["#56b4e9"]


def test_more_classes_than_colours_share_the_last_one() -> None:
    names = np.array([f"class {i}" for i in range(60)])
    rng = np.random.default_rng(3)
    made = Tiles(ZIndex.build(rng.random((60, 2))), {"c": names}.__getitem__)
    assert made.layer("c").label.max() == tiles.COLOURS - 1
    assert picture(made.png(1, 0, 0, "c")).shape == (PIXELS, PIXELS, 3)


def test_unknown_columns_and_short_ones_are_refused(made: Tiles, cloud: np.ndarray) -> None:
    with pytest.raises(KeyError):
        made.png(0, 0, 0, "nothing")
    with pytest.raises(KeyError, match="no columns"):
        Tiles(made.index).png(0, 0, 0, "z")
    with pytest.raises(ValueError, match="3 values"):
        Tiles(made.index, {"z": np.zeros(3)}.__getitem__).layer("z")
