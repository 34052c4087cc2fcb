"""The map and the frame around it, with a real mouse: what is drawn where, what a click finds, what the address keeps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import small_sky
from card_page import Visit, server, visit

import engine
from engine.sky import Sky

pytestmark = pytest.mark.browser
READY = "window.omnisky?.answer && omnisky.map.sharp"
SPOT = """([x, y, scale, dx, dy]) => new Promise(done => { // centroid of what is drawn near a place, off its own spot in pixels
    const m = omnisky.map;
    m.marks = { chosen: null, near: [], lit: null };
    m.view = { scale, x: x + dx / scale, y: y + dy / scale };
    m.sharp = false; m.redraw();
    const look = () => {
        if (!m.sharp) { requestAnimationFrame(look); return; }
        const r = 14, [px, py] = m.toScreen(x, y), left = Math.round(px) - r, top = Math.round(py) - r, n = 2 * r + 1;
        const d = m.context.getImageData(left, top, n, n).data;
        const far = i => [0, 1, 2].reduce((s, k) => s + Math.abs(d[4 * i + k] - d[k]), 0);
        let sum = 0, sx = 0, sy = 0;
        for (let i = 0; i < n * n; i++) {
            const w = Math.max(0, far(i) - 60);
            sum += w; sx += w * (left + i % n + 0.5); sy += w * (top + Math.floor(i / n) + 0.5);
        }
        done(sum ? [sx / sum - px, sy / sum - py] : null);
    };
    requestAnimationFrame(look);
})"""
COVERAGE = """async ([name, colour]) => { // share of the canvas that is not bare ground, every frame of a change
    const m = omnisky.map, seen = [];
    const share = () => { const d = m.context.getImageData(0, 0, m.canvas.width, m.canvas.height).data; let n = 0;
        const far = i => Math.abs(d[i] - d[0]) + Math.abs(d[i + 1] - d[1]) + Math.abs(d[i + 2] - d[2]);
        for (let i = 0; i < d.length; i += 16) { n += far(i) > 60; }
        return n; };
    const frame = () => new Promise(done => requestAnimationFrame(done));
    const before = share();
    omnisky.setColour(colour);
    do { await frame(); seen.push(share()); } while (m.layers.length > 1 || !m.sharp);
    await frame();
    return [before, Math.min(...seen), share(), seen.length];
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_sky.build(tmp_path_factory.mktemp("map") / "small.sky")


@pytest.fixture(scope="module")
def sky(folder: Path) -> Sky:
    return engine.open(folder)


@pytest.fixture(scope="module")
def visitor(folder: Path) -> Iterator[Visit]:
    with server(folder) as address, visit(address) as made:
        yield made


@pytest.fixture
def seen(visitor: Visit) -> Iterator[Visit]:
    """The page as it greets a newcomer; whatever went wrong in a test fails it."""
    visitor.trouble.clear()
    opened(visitor, "?c=density&o=small:3")
    yield visitor
    visitor.page.evaluate("localStorage.clear()")
    assert visitor.trouble == []


def opened(seen: Visit, query: str) -> None:
    seen.page.goto(f"{seen.address}/{query}")
    seen.page.wait_for_function(READY)


def test_a_new_size_never_shows_an_empty_map(seen: Visit) -> None:
    least = seen.page.evaluate("""async () => { // what stands on the canvas when each frame ends, while its height changes
        const m = omnisky.map, seen = [], frame = () => new Promise(done => requestAnimationFrame(() => setTimeout(done)));
        for (const h of [300, 340, 280, 420]) { m.canvas.parentElement.style.flex = `0 0 ${h}px`; await frame();
            const d = m.context.getImageData(0, 0, m.canvas.width, m.canvas.height).data, ground = [d[0], d[1], d[2]].join();
            let n = 0; for (let i = 0; i < d.length; i += 4) { n += [d[i], d[i + 1], d[i + 2]].join() !== ground; }
            seen.push(m.canvas.height === h ? n : -1); }
        return Math.min(...seen); }""")
    assert least > 100


def place_of(seen: Visit, x: float, y: float) -> tuple[float, float]:
    """A place on the map in pixels of the window."""
    px, py, left, top = seen.page.evaluate("""([x, y]) => { const b = omnisky.map.canvas.getBoundingClientRect();
        return [...omnisky.map.toScreen(x, y), b.left, b.top]; }""", [x, y])
    return left + px, top + py


@pytest.mark.parametrize("zoom", [1.0, 5.0, 41.0, 300.0])
def test_tiles_lie_where_the_points_are(seen: Visit, zoom: float) -> None:
    scale = seen.page.evaluate("omnisky.map.fitted") * zoom
    for (x, y), (dx, dy) in zip(small_sky.ALONE, [(130, 90), (-170, 60), (75, -140)] * 2, strict=True):
        off = seen.page.evaluate(SPOT, [float(x), float(y), scale, dx, dy])
        assert off is not None, f"nothing is drawn at {x}, {y}"
        assert np.hypot(*off) < 1.0, f"drawn {off} pixels from {x}, {y}"


def test_a_click_chooses_the_nearest_object_or_none(seen: Visit, sky: Sky) -> None:
    xy, page, rng = sky.map("umap-image").xy, seen.page, np.random.default_rng(4)
    left, top, width, height = page.evaluate("""() => { const b = omnisky.map.canvas.getBoundingClientRect();
        return [b.left, b.top, b.width, b.height]; }""")
    chosen = missed = 0
    targets = [xy[row] for row in rng.choice(len(xy), 6, replace=False)] + [np.array([-6.3, 3.4]), np.array([6.9, -6.4])]
    for target in targets:
        px, py = np.add(place_of(seen, *map(float, target)), rng.uniform(-6, 6, 2)).round()
        if not (left < px < left + width - 50 and top < py < top + height):
            continue
        x, y = page.evaluate("at => omnisky.map.toMap(...at)", [px - left, py - top])
        distance = np.hypot(*(xy - [x, y]).T) * page.evaluate("omnisky.map.view.scale")
        before = page.evaluate("omnisky.state.row")
        expected = int(distance.argmin()) if distance.min() <= 12 else before
        with page.expect_response(re.compile("tap.json")):
            page.mouse.click(px, py)
        if distance.min() > 12:
            page.wait_for_timeout(400)  # time enough to go where it should not
        page.wait_for_function("row => omnisky.state.row === row && omnisky.answer.row === row", arg=expected)
        assert page.evaluate("omnisky.state.row") == expected
        chosen, missed = chosen + (expected != before), missed + (distance.min() > 12)
    assert chosen >= 4 and missed >= 1


def test_ring_and_numbers_stand_at_the_objects_places(seen: Visit, sky: Sky) -> None:
    marks, rows = seen.page.evaluate("[omnisky.map.marks, omnisky.answer.neighbours.map(n => n.row)]")
    xy = sky.map("umap-image").xy
    np.testing.assert_allclose(marks["chosen"], xy[3], rtol=1e-6)
    np.testing.assert_allclose(marks["near"], xy[rows], rtol=1e-6)
    assert rows == list(sky.near(3, "image", "spectrum", 8).rows)


def test_hover_shows_whose_point_it_is(seen: Visit) -> None:
    tip = seen.page.locator(".tip")
    seen.page.mouse.move(*place_of(seen, *small_sky.ALONE[4]))
    tip.wait_for(state="visible")
    assert tip.inner_text() == "small:4" and tip.locator("img").get_attribute("src").endswith("picture/4/1.png")
    seen.page.mouse.move(*place_of(seen, 6.9, -6.4))
    tip.wait_for(state="hidden")


def test_the_wheel_zooms_about_the_pointer_and_a_drag_carries_the_map(seen: Visit) -> None:
    page = seen.page
    px, py = np.floor(place_of(seen, *small_sky.ALONE[1]))  # browsers tell the pointer's place in whole pixels
    spot = page.evaluate("""([px, py]) => { const b = omnisky.map.canvas.getBoundingClientRect();
        return omnisky.map.toMap(px - b.left, py - b.top); }""", [px, py])
    page.mouse.move(px, py)
    before = page.evaluate("omnisky.map.view.scale")
    for _ in range(5):
        page.mouse.wheel(0, -240)
    page.wait_for_function("before => omnisky.map.view.scale > 30 * before", arg=before)
    np.testing.assert_allclose(place_of(seen, *spot), (px, py), atol=0.01)
    page.mouse.down()
    page.mouse.move(px - 80, py + 55, steps=4)
    page.mouse.up()
    np.testing.assert_allclose(place_of(seen, *spot), (px - 80, py + 55), atol=0.01)
    assert page.evaluate("omnisky.state.id") == "small:3"  # a drag is no click
    page.wait_for_function("new URLSearchParams(location.search).has('view')")
    page.keyboard.press("0")
    assert page.evaluate("omnisky.map.view.scale") == pytest.approx(before)


def test_a_new_colour_never_blanks_the_map(seen: Visit) -> None:
    asked: list[str] = []
    seen.page.on("request", lambda r: asked.append(r.url) if "/tile/" in r.url else None)
    before, least, after, frames = seen.page.evaluate(COVERAGE, ["umap-image", "mag_r"])
    assert before > 100 and frames >= 1 and least >= 0.9 * min(before, after)
    seen.page.wait_for_timeout(300)
    assert asked and all("/mag_r/dark/" in url for url in asked)


def test_the_legend_says_limits_units_classes_and_what_is_unknown(seen: Visit, sky: Sky) -> None:
    legend, choose = seen.page.locator(".legend"), seen.page.get_by_label("colour by")
    choose.select_option("mag_r")
    seen.page.wait_for_function("omnisky.legend.textContent.includes('AB mag')")
    numbers = [float(n) for n in re.findall(r"\d+\.?\d*", legend.inner_text().split("AB")[0])]
    low, high = np.percentile(sky.column("mag_r"), [2, 98])
    assert numbers == [pytest.approx(low, abs=0.06), pytest.approx(high, abs=0.06)]
    choose.select_option("z")
    seen.page.wait_for_function("omnisky.legend.textContent.includes('1 without a value')")
    choose.select_option("class")
    seen.page.wait_for_function("omnisky.legend.textContent.includes('elliptical')")
    kinds, counts = np.unique(sky.column("class"), return_counts=True)
    shown = {w.rsplit(" ", 1)[0]: int(w.rsplit(" ", 1)[1]) for w in legend.locator(".class").all_inner_texts()}
    assert shown == dict(zip(kinds.tolist(), counts.tolist(), strict=True))
    assert small_sky.MARKUP in shown and seen.page.evaluate("window.hacked") is None
    choose.select_option("preserved")
    seen.page.wait_for_function("!omnisky.legend.textContent.includes('elliptical')")
    assert seen.page.locator(".legend .ramp").count() == 1


def search(seen: Visit, text: str) -> str:
    box = seen.page.get_by_role("searchbox")
    seen.page.locator("canvas.map").focus()
    seen.page.keyboard.press("/")
    box.fill(text)
    with seen.page.expect_response(re.compile("find.json")):
        box.press("Enter")
    seen.page.locator(".reading span").wait_for()
    return seen.page.locator(".reading").inner_text()


def test_search_goes_there_says_how_it_read_and_never_jumps_far(seen: Visit) -> None:
    for text, row, words in [("small:12", 12, "id small:12"), ("17", 17, "row 17"), ("SMALL:4", 4, "id small:4"),
                             ("150.1 +2.0", 5, "10h00m24.00s"), ("10:00:24 +02:00:00", 5, "nearest object"),
                             ("J100024.00+020000.0", 5, "nearest object")]:
        assert words in search(seen, text)
        seen.page.wait_for_function("row => omnisky.state.row === row && omnisky.answer.row === row", arg=row)
    far = search(seen, "151.0 3.0")
    assert 'Nothing within 10"' in far and seen.page.evaluate("omnisky.state.row") == 5
    seen.page.get_by_role("button", name="open the nearest").click()
    seen.page.wait_for_function("omnisky.state.row !== 5")
    row = seen.page.evaluate("omnisky.state.row")
    assert "no id" in search(seen, "<b>what</b>") and seen.page.evaluate("omnisky.state.row") == row


def test_the_address_is_the_state(seen: Visit) -> None:
    page = seen.page
    opened(seen, "?map=pca-spectrum&c=mag_r&o=small:20&near=spectrum-image&view=-0.2,0.3,-0.1,0.2")
    state = page.evaluate("(s => [s.map, s.colour, s.id, s.query, s.among])(omnisky.state)")
    assert state == ["pca-spectrum", "mag_r", "small:20", "spectrum", "image"]
    x0, x1, y0, y1 = page.evaluate("omnisky.map.range()")
    assert x0 <= -0.2 + 1e-6 and x1 >= 0.3 - 1e-6 and y0 <= -0.1 + 1e-6 and y1 >= 0.2 - 1e-6
    assert (x0 + x1) / 2 == pytest.approx(0.05, abs=0.3) and min((x1 - x0) / 0.5, (y1 - y0) / 0.3) == pytest.approx(1, rel=1e-3)
    page.wait_for_timeout(500)
    kept, view = page.url, page.evaluate("omnisky.map.view")
    page.reload()
    page.wait_for_function(READY)
    page.wait_for_timeout(500)
    assert page.url == kept and page.evaluate("omnisky.map.view.scale") == pytest.approx(view["scale"], rel=1e-3)
    assert page.evaluate("omnisky.map.view.x") == pytest.approx(view["x"], rel=1e-3)


def test_back_and_forward_walk_through_objects_not_through_pans(seen: Visit) -> None:
    page = seen.page
    for row in (20, 30):
        page.evaluate("row => omnisky.go(row)", row)
        page.wait_for_function("row => omnisky.answer.row === row", arg=row)
        page.evaluate("omnisky.map.zoom(1.3)")
        page.wait_for_timeout(400)
    page.go_back()
    page.wait_for_function("omnisky.state.id === 'small:20' && omnisky.answer.row === 20")
    page.go_back()
    page.wait_for_function("omnisky.state.id === 'small:3'")
    page.go_forward()
    page.wait_for_function("omnisky.state.id === 'small:20'")
    assert page.locator(".card h2").inner_text().startswith("small:20")


def test_an_address_with_errors_says_so_and_shows_the_rest(seen: Visit) -> None:
    opened(seen, "?map=none&c=none&near=x-y&o=small:20&view=1,2,3&colour=z")
    assert "colour" in seen.page.locator(".toast").inner_text()
    assert seen.page.evaluate("[omnisky.state.map, omnisky.state.colour, omnisky.state.id]") == ["umap-image", "z", "small:20"]
    opened(seen, "?o=small:999")
    assert "small:999" in seen.page.locator(".toast").inner_text()
    assert seen.page.evaluate("omnisky.state.row") is not None


def test_choosing_a_colour_does_not_move_the_map(seen: Visit) -> None:
    heights = set()
    for colour in ("density", "z", "mag_r", "class"):
        seen.page.get_by_label("colour by").select_option(colour)
        seen.page.wait_for_timeout(150)
        heights.add(seen.page.evaluate("omnisky.canvas.getBoundingClientRect().height"))
    assert len(heights) == 1


def test_theme_is_kept_and_both_can_be_read(seen: Visit) -> None:
    page = seen.page
    page.locator("canvas.map").focus()
    for theme in ("dark", "light"):
        assert page.evaluate("omnisky.theme") == theme
        page.wait_for_function("theme => omnisky.map.layer.theme === theme && omnisky.map.sharp", arg=theme)
        colours = page.evaluate("""['ground', 'panel', 'raised', 'text', 'quiet', 'accent', 'error', 'absorption'].map(n =>
            getComputedStyle(omnisky.root).getPropertyValue('--' + n).trim())""")
        grounds, texts = [luminance(c) for c in colours[:2]], [luminance(c) for c in colours[3:]]
        ratios = [(max(g, t) + 0.05) / (min(g, t) + 0.05) for g in grounds for t in texts]
        assert min(ratios) >= 4.5
        if theme == "dark":
            page.keyboard.press("d")
    opened(seen, "")
    assert page.evaluate("omnisky.theme") == "light"


def luminance(colour: str) -> float:
    """Relative luminance of a hex colour (WCAG 2.2)."""
    digits = colour.lstrip("#")
    digits = digits if len(digits) == 6 else "".join(2 * d for d in digits)
    c = np.array([int(digits[i:i + 2], 16) for i in (0, 2, 4)]) / 255
    return float(np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4) @ [0.2126, 0.7152, 0.0722])


def test_keys_act_on_the_page_but_not_while_typing(seen: Visit) -> None:
    page = seen.page
    page.locator("canvas.map").focus()
    page.keyboard.press("?")
    assert "surprise me" in page.locator(".help").inner_text()
    page.keyboard.press("Escape")
    assert page.locator(".help").count() == 0
    scale = page.evaluate("omnisky.map.view.scale")
    page.keyboard.press("+")
    assert page.evaluate("omnisky.map.view.scale") == pytest.approx(2 * scale)
    page.keyboard.press("/")
    page.keyboard.type("ds0+")
    assert page.get_by_role("searchbox").input_value() == "ds0+"
    assert page.evaluate("[omnisky.theme, omnisky.state.id]") == ["dark", "small:3"]
    assert page.evaluate("omnisky.map.view.scale") == pytest.approx(2 * scale)
    page.keyboard.press("Escape")
    page.keyboard.press("s")
    page.wait_for_function("omnisky.state.id !== 'small:3'")


def test_the_first_visit_has_a_card_open_and_one_hint(seen: Visit) -> None:
    opened(seen, "")
    assert seen.page.evaluate("omnisky.state.colour") == "z" and seen.page.locator(".neighbour").count() == 8
    assert "Click one" in seen.page.locator(".hint").inner_text()
    seen.page.locator("canvas.map").click(position={"x": 30, "y": 300})
    assert seen.page.locator(".hint").is_hidden()


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1280, 720), (800, 1000)])
def test_the_frame_fits_the_window(seen: Visit, width: int, height: int) -> None:
    page = seen.page
    page.set_viewport_size({"width": width, "height": height})
    try:
        page.wait_for_function("omnisky.map.width === omnisky.map.canvas.parentElement.getBoundingClientRect().width")
        boxes = page.evaluate("""['top', 'mapbox', 'card', 'strip'].map(n => { const b = omnisky.root.querySelector('.' + n)
            .getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; })""")
        top, mapbox, card, strip = boxes
        assert top[3] - top[1] == 48 and mapbox[2] - mapbox[0] > 400 and mapbox[3] - mapbox[1] > 250
        assert all(b[0] >= -1 and b[2] <= width + 1 for b in boxes)
        if width > 1000:
            assert mapbox[2] <= card[0] + 1 and mapbox[3] <= strip[1] + 1 and strip[3] <= height + 1
        else:
            assert mapbox[3] <= card[1] + 1 or mapbox[3] <= strip[1] + 1
    finally:
        page.set_viewport_size({"width": 1440, "height": 900})


def test_the_map_stays_put_when_the_window_changes_but_keeps_its_shape(seen: Visit) -> None:
    seen.page.set_viewport_size({"width": 1100, "height": 900})
    try:
        seen.page.wait_for_function("omnisky.map.width < 800 && omnisky.map.sharp")
        a, b = place_of(seen, 0, 0), place_of(seen, 1, 1)
        assert b[0] - a[0] == pytest.approx(a[1] - b[1])  # north of the map is up, and a unit is a unit both ways
    finally:
        seen.page.set_viewport_size({"width": 1440, "height": 900})


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_axe_finds_no_barrier(seen: Visit, theme: str) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    opened(seen, f"?theme={theme}&o=small:3")
    found = axe.Axe().run(seen.page).response["violations"]
    assert [(v["id"], [n["html"] for n in v["nodes"]]) for v in found] == []
