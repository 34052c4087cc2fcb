"""The desk's answers, against the sky itself: no browser, no server."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_sky
from PIL import Image

import engine
from engine import skymap
from engine.store import Store
from explorer import desk as desk_module
from explorer.desk import Cache, Desk


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_sky.build(tmp_path_factory.mktemp("desk") / "small.sky")


@pytest.fixture(scope="module")
def desk(folder: Path) -> Desk:
    return Desk(folder)


def test_what_a_page_begins_with(desk: Desk) -> None:
    start = desk.start()
    assert (start["name"], start["objects"], start["spaces"]) == ("small", small_sky.COUNT, ["image", "spectrum"])
    assert [m["name"] for m in start["maps"]] == ["umap-image", "umap-spectrum", "pca-image", "pca-spectrum"]
    assert [c["name"] for c in start["columns"]] == ["density", "z", "class", "mag_r", "shape_r", "preserved"]
    assert {c["name"]: c["unit"] for c in start["columns"]}["mag_r"] == "AB mag"
    assert start["maps"][0]["placed"] == small_sky.COUNT and start["first"] == desk.good_first()
    json.dumps(start, allow_nan=False)


def test_a_page_begins_with_the_map_of_most_vectors(tmp_path: Path, folder: Path) -> None:
    path = shutil.copytree(folder, tmp_path / "mixed.sky")
    sky = engine.open(path)
    for name in ("umap-image", "pca-image"):  # two images among spectra; all have positions
        chart = sky.map(name)
        some = np.where(np.arange(small_sky.COUNT)[:, None] < 2, chart.xy, np.float32(np.nan))
        replace(chart, xy=some).save(path / "maps" / name)
    replace(sky.map("pca-spectrum"), xy=sky.map("pca-spectrum").xy[:-10],  # not yet as far as the other of its space
            manifest={**sky.map("pca-spectrum").manifest, "rows": small_sky.COUNT - 10}).save(path / "maps" / "pca-spectrum")
    skymap.sky_map(sky.column("ra"), sky.column("dec")).save(path / "maps" / "sky")
    found = [(m["name"], m["placed"]) for m in Desk(path).maps()]
    assert found == [("umap-spectrum", 160), ("umap-image", 2), ("pca-image", 2), ("pca-spectrum", 150), ("sky", 160)]


@pytest.mark.parametrize(("file", "content"), [("manifest.json", b"{"), ("manifest.json", b"{}"), ("xy.npy", b"damaged"),
                                                ("xy.npy", None), ("manifest.json", b'{"format": 1}')])
def test_a_damaged_map_is_all_that_is_missing(tmp_path: Path, folder: Path, file: str, content: bytes | None) -> None:
    desk = Desk(shutil.copytree(folder, tmp_path / "some.sky"))
    broken = desk.path / "maps" / "umap-image" / file
    if content is None:
        broken.unlink()
    else:
        broken.write_bytes(content)
    for found in (desk.state(), desk.start()):
        assert [m["name"] for m in found["maps"]] == ["umap-spectrum", "pca-image", "pca-spectrum"]
        [said] = found["damaged"]
        assert said.startswith("The map UMAP · image is left out: ") and "umap-image" in said and "omnisky map" in said
        assert str(tmp_path) not in said and found["objects"] == small_sky.COUNT
    assert desk.near(11, "image", "image", 6, "pca-image")["neighbours"]


def test_the_map_holds_all_its_points(desk: Desk) -> None:
    [m] = [m for m in desk.maps() if m["name"] == "umap-image"]
    xy = desk.sky.map("umap-image").xy
    assert (xy >= [m["x0"], m["y0"]]).all() and (xy <= [m["x0"] + m["side"], m["y0"] + m["side"]]).all()


def test_tap_finds_the_nearest_within_reach(desk: Desk) -> None:
    xy, rng = desk.sky.map("umap-image").xy, np.random.default_rng(0)
    for x, y in rng.uniform(-4, 4, (200, 2)):
        distance = np.hypot(*(xy - [x, y]).T)
        answer = desk.tap("umap-image", x, y, 0.3)
        assert answer["row"] == (int(distance.argmin()) if distance.min() <= 0.3 else None)
        if answer["row"] is not None:
            assert answer["id"] == desk.sky.ids[answer["row"]]


def test_a_tile_is_a_picture_in_the_theme_asked_for(desk: Desk) -> None:
    for theme, dark in (("dark", True), ("light", False)):
        tile = Image.open(io.BytesIO(desk.tile("umap-image", "1", "z", theme, 0, 0, 0))).convert("L")
        assert tile.size == (512, 512) and (np.median(np.asarray(tile)) < 60) == dark
    with pytest.raises(KeyError, match="theme"):
        desk.tile("umap-image", "1", "z", "pink", 0, 0, 0)
    for name, colour in (("absent", "z"), ("umap-image", "absent")):
        with pytest.raises(KeyError):
            desk.tile(name, "1", colour, "dark", 0, 0, 0)


def test_the_legend_counts_what_is_there(desk: Desk) -> None:
    legend = desk.legend("umap-image", "class", "dark")
    kinds, counts = np.unique(desk.sky.column("class"), return_counts=True)
    assert {c["name"]: c["count"] for c in legend["classes"]} == dict(zip(kinds.tolist(), counts.tolist(), strict=True))
    assert len({c["colour"] for c in legend["classes"]}) == len(kinds)
    z = desk.legend("umap-image", "z", "light")
    assert z["unknown"] == 1 and z["low"] < z["high"] and len(set(z["ramp"])) == len(z["ramp"])
    assert desk.legend("umap-image", "density", "dark")["scale"] == "density"
    with pytest.raises(KeyError, match="no column 'absent'"):
        desk.legend("umap-image", "absent", "dark")


def test_where_tells_places_and_who_has_none(desk: Desk) -> None:
    xy = desk.sky.map("pca-image").xy
    assert desk.where("pca-image", [3, 5, 10**6]) == [pytest.approx(xy[3].tolist()), pytest.approx(xy[5].tolist()), None]


def test_neighbours_are_those_of_the_sky(desk: Desk) -> None:
    for query in ("image", "spectrum"):
        for among in ("image", "spectrum"):
            answer = desk.near(11, query, among, 6, "umap-image")
            vectors = desk.sky.vectors(among).astype(np.float32)
            similarity = vectors @ desk.sky.vectors(query)[11].astype(np.float32)
            similarity[11] = -2
            best = similarity.argsort()[::-1][:6]
            got = [n["row"] for n in answer["neighbours"]]
            np.testing.assert_allclose(similarity[got], similarity[best], atol=1e-3)
            assert 11 not in got and [n["id"] for n in answer["neighbours"]] == [desk.sky.ids[r] for r in got]
            assert [n["place"] for n in answer["neighbours"]] == desk.where("umap-image", got)
    answer = desk.near(11, "sound", "image", 6)
    assert answer["neighbours"] == [] and "no sound vectors" in answer["note"]


def test_find_and_what_was_not_found(desk: Desk) -> None:
    assert desk.find("small:33")["row"] == 33 and desk.find("33")["row"] == 33
    far = desk.find("151 3")
    assert far["row"] is None and far["nearest"] == int(np.hypot(
        (desk.sky.column("ra") - 151) * np.cos(np.radians(3)), desk.sky.column("dec") - 3).argmin())
    assert far["reading"].endswith("away.") and "no id" in desk.find("nobody")["reading"]


def test_a_surprise_is_bright_more_often(desk: Desk) -> None:
    bright = desk.sky.column("mag_r")
    chosen = [desk.surprise(seed) for seed in range(60)]
    assert len(set(chosen)) > 5 and np.median(bright[chosen]) < np.median(bright) - 1


def test_the_cache_forgets_the_oldest_first() -> None:
    cache, made = Cache(10), []

    def make(name: str) -> bytes:
        made.append(name)
        return name.encode() * 4

    for name in "abacab":
        assert cache.get(name, lambda name=name: make(name)) == name.encode() * 4
    assert made == ["a", "b", "c", "b"]


def test_a_sky_that_grows_gets_new_versions(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "LOOK_EVERY", 0.0)
    path = tmp_path / "later.sky"
    desk = Desk(path)
    empty = desk.start()
    assert empty["objects"] == 0 and empty["maps"] == [] and empty["columns"] == []
    with pytest.raises(LookupError):
        desk.card(0)
    Store.create(path)
    assert desk.state()["objects"] == 0 and desk.start()["first"] is None
    shutil.rmtree(path)
    shutil.copytree(folder, path)
    desk = Desk(path)
    before = desk.state()
    assert desk.state() == before
    Store(path).append([small_sky.galaxy(i) for i in range(200, 203)], ["more"] * 3)
    grown = desk.state()
    assert grown["objects"] == small_sky.COUNT + 3 and grown["version"] > before["version"]
    assert [m["version"] for m in grown["maps"]] == [m["version"] for m in before["maps"]]  # no tile has changed
    chart = desk.sky.map("umap-image")
    newcomers = small_sky.vectors_of(3, 0)
    chart.grow(newcomers).save(path / "maps" / "umap-image")
    newer = desk.state()
    assert newer["maps"][0]["placed"] == small_sky.COUNT + 3
    changed = [a["version"] != b["version"] for a, b in zip(newer["maps"], grown["maps"], strict=True)]
    assert changed == [True, False, False, False]
    desk.tile("umap-image", str(newer["maps"][0]["version"]), "z", "dark", 0, 0, 0)
    desk.tile("umap-image", str(newer["maps"][0]["version"]), "preserved", "dark", 0, 0, 0)
    assert desk.card(small_sky.COUNT + 1)["id"] == "small:201"


def test_an_object_to_show_first_is_looked_for_once_while_the_sky_stays_as_it_is(
        tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk_module, "LOOK_EVERY", 0.0)
    desk = Desk(shutil.copytree(folder, tmp_path / "some.sky"))
    first = desk.start()["first"]
    cells, read = desk.sky.store.cells, []
    monkeypatch.setattr(desk.sky.store, "cells", lambda *what: read.append(what) or cells(*what))
    assert desk.start()["first"] == desk.good_first() == first and read == []
    Store(desk.path).append([small_sky.galaxy(300)], ["more"])
    assert desk.start()["first"] is not None and read


def test_a_desk_of_an_open_sky_opens_it_once(folder: Path) -> None:
    sky = engine.open(folder)
    assert Desk.of(sky).sky is sky


def test_what_is_no_sky_is_said(tmp_path: Path) -> None:
    (tmp_path / "sky.json").write_text("{")
    with pytest.raises(ValueError, match=r"sky\.json is damaged"):
        Desk(tmp_path)
