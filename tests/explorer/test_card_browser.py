"""The card and the neighbours, as somebody at the screen uses them: read, drag, type, click, with keys alone."""

from __future__ import annotations

import re
from collections.abc import Iterator

import card_sky
import numpy as np
import pytest
from card_page import Visit, server, visit

pytestmark = pytest.mark.browser
DECODED = "async e => { await e.decode(); return e.naturalWidth; }"
PAINTED = "e => e.getContext('2d').getImageData(0, 0, e.width, e.height).data.some(v => v > 0)"
GREEN = """which => { // (x, y) of the pixels in the colour of band g
    const e = omnisky.root.querySelector(which), d = e.getContext("2d").getImageData(0, 0, e.width, e.height).data, out = [];
    for (let i = 0; i < d.length; i += 4) {
        if (d[i] < 40 && d[i + 1] > 120 && d[i + 3] > 200) { out.push([i / 4 % e.width, Math.floor(i / 4 / e.width)]); }
    }
    return out; }"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    sky = card_sky.build(tmp_path_factory.mktemp("card") / "card.sky")
    with server(sky) as address, visit(address) as made:
        yield made


@pytest.fixture(autouse=True)
def nothing_went_wrong(seen: Visit) -> Iterator[None]:
    seen.trouble.clear()
    yield
    assert seen.trouble == []


def neighbours(seen: Visit) -> list[str]:
    return [str(b.get_attribute("title")) for b in seen.page.locator(".neighbour").all()]


def test_the_card_shows_pictures_spectrum_and_numbers(seen: Visit) -> None:
    seen.open("galaxy-01")
    card, page = seen.page.locator(".card"), seen.page
    assert card.locator("h2").inner_text().split() == ["galaxy-01", "J100024.00+020000.0"]
    assert [f.inner_text().split("\n") for f in card.locator("figcaption").all()] == [
        ["DESI Legacy Imaging Surveys", "z r g · 0.262″/px"], ["Hyper Suprime-Cam SSP", "i r g · 0.168″/px"]]
    for i in range(2):
        image = card.locator("figure img").nth(i)
        assert image.evaluate(DECODED) == 48
        assert image.evaluate("e => getComputedStyle(e).imageRendering") == "pixelated"
    bar, box = card.locator(".pixels .bar").first.bounding_box(), card.locator(".pixels").first.bounding_box()
    seconds = float(card.locator(".pixels .bar").first.inner_text().strip("″"))
    assert bar and box and bar["width"] / box["width"] == pytest.approx(seconds / (48 * 0.262), rel=0.02)
    rows = {r.locator("th").inner_text(): r.inner_text() for r in card.locator(".scalars tr").all()}
    assert "0.030000 ± 0.000012" in rows["redshift z"]
    assert "18.100 ± 0.013" in rows["magnitude r"] and "AB mag" in rows["magnitude r"]
    page.wait_for_function("omnisky.card.view?.flux?.length === 7781")


def test_line_markers_follow_slider_and_field_without_asking_the_server(seen: Visit) -> None:
    seen.open("galaxy-01")
    page = seen.page
    page.wait_for_function("omnisky.card.view?.flux?.length === 7781")
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url) if re.search(r"/(object|spectrum|near|picture)", r.url) else None)
    before = page.locator("canvas.spectrum").screenshot()
    field, slider = page.locator(".redshift input[type=number]"), page.locator(".redshift input[type=range]")
    field.fill("0.5")
    assert page.evaluate("omnisky.card.view.z") == 0.5
    assert float(slider.input_value()) == pytest.approx(np.log(1.5), abs=1e-4)
    assert page.locator("canvas.spectrum").screenshot() != before
    slider.focus()
    page.keyboard.press("Home")
    assert page.evaluate("omnisky.card.view.z") == pytest.approx(-0.01, abs=1e-4)
    page.keyboard.press("End")
    assert float(field.input_value()) == pytest.approx(7, abs=2e-3)
    page.get_by_role("button", name="reset").click()
    assert float(field.input_value()) == pytest.approx(0.03)
    assert page.locator("canvas.spectrum").screenshot() == before and asked == []


def test_the_halpha_marker_stands_on_the_line(seen: Visit) -> None:
    seen.open("galaxy-05")
    page = seen.page
    page.wait_for_function("omnisky.card.view?.flux?.length === 7781")
    peak, marker = page.evaluate("""() => { const v = omnisky.card.view, i = v.flux.indexOf(Math.max(...v.flux));
        return [v.px(v.wave[i]), v.px(v.lines.find(l => l[0] === "Hα")[1] * (1 + v.z))]; }""")
    assert abs(peak - marker) < 1.5
    canvas = page.locator("canvas.spectrum")
    box = canvas.bounding_box()
    assert box
    page.mouse.move(box["x"] + marker, box["y"] + 100)
    for _ in range(8):
        page.mouse.wheel(0, -300)
    page.wait_for_function("omnisky.card.view.range[1] - omnisky.card.view.range[0] < 100")
    low, high = page.evaluate("omnisky.card.view.range")
    assert low < 6564.61 * 1.07 < high
    canvas.dblclick()
    assert page.evaluate("omnisky.card.view.range") == page.evaluate("omnisky.card.view.whole")


def test_a_narrow_line_is_drawn_however_far_out(seen: Visit) -> None:
    seen.open("galaxy-05")
    page = seen.page
    page.wait_for_function("omnisky.card.view?.flux?.length === 7781")
    most = page.evaluate("""() => { const v = omnisky.card.view; v.flux = v.flux.slice(); v.flux.fill(1); v.flux[4321] = 50;
        v.setSmooth(1);
        const step = v.columns(0, 7781, v.px), all = v.summaries(0, 7781, step);
        v.setSmooth(3);
        return [step, Math.max(...all.map(k => k.most))]; }""")
    assert most[0] > 5 and most[1] == 50


def test_two_spectra_are_tabs_and_a_light_curve_is_drawn(seen: Visit) -> None:
    seen.open("galaxy-01")
    page = seen.page
    page.get_by_role("button", name="sdss", exact=True).click()
    page.wait_for_function("omnisky.card.view?.flux?.length === 3800")
    page.get_by_role("button", name="desi", exact=True).click()
    page.wait_for_function("omnisky.card.view?.flux?.length === 7781")
    assert "AB mag" in page.locator(".curves").inner_text()
    page.wait_for_function(f"({GREEN})('.curves canvas').length > 20")
    rows = np.array(page.evaluate(GREEN, ".curves canvas"))
    rows = rows[rows[:, 1] > 25]  # below the legend
    thirds = np.digitize(rows[:, 0], np.linspace(rows[:, 0].min(), rows[:, 0].max(), 4)[1:3])
    left, middle, right = (rows[thirds == k, 1].mean() for k in range(3))
    assert middle < left - 10 and left < right - 10  # on the screen 17 mag is above 18, and that above 18.5


def test_what_is_missing_is_said(seen: Visit) -> None:
    seen.open("bare")
    words = seen.page.locator(".card").inner_text()
    for part in ("no position is known", "No image of this object.", "No spectrum of this object.", "No measured values."):
        assert part in words
    assert "This object has no image" in seen.page.locator(".strip").inner_text()
    assert neighbours(seen) == []


def test_markup_from_a_file_stays_text(seen: Visit) -> None:
    seen.open("galaxy-02")
    seen.page.get_by_text("where this comes from").click()
    assert seen.page.locator(".card").inner_text().count(card_sky.NASTY) == 2
    assert seen.page.title() != "broken" and seen.page.locator(".card img[src=x]").count() == 0


@pytest.mark.parametrize(("direction", "centre"), [("image ▸ image", 10), ("image ▸ spectrum", 16), ("spectrum ▸ image", 4),
                                                   ("spectrum ▸ spectrum", 10)])
def test_four_directions_lead_to_the_objects_that_resemble(seen: Visit, direction: str, centre: int) -> None:
    seen.open("galaxy-10")
    button = seen.page.get_by_role("button", name=direction, exact=True)
    button.click()
    beside = [f"galaxy-{centre + d:02d}" for d in ([0, -1, 1, -2, 2] if centre != 10 else [-1, 1, -2, 2])]
    seen.page.wait_for_function("ids => ids.includes(omnisky.root.querySelector('.neighbour')?.title)", arg=beside[:2])
    assert set(neighbours(seen)[: len(beside)]) == set(beside) and len(neighbours(seen)) == 8
    assert button.get_attribute("aria-pressed") == "true"
    assert direction.replace(" ▸ ", "-") in seen.page.url


def test_a_neighbour_has_picture_sparkline_similarity_and_redshift(seen: Visit) -> None:
    seen.open("galaxy-10", near="image-image")
    first = seen.page.locator(".neighbour").first
    similarity = np.cos(2 * np.pi / card_sky.GALAXIES)
    assert re.fullmatch(rf"1\s+{similarity:.2f}\s*z 0\.(110|130)", first.inner_text())
    assert re.match(r"neighbour 1: galaxy-(09|11), similarity 0\.97", str(first.get_attribute("aria-label")))
    assert first.locator("img").evaluate(DECODED) == 48
    assert first.locator("canvas").evaluate(PAINTED)
    small = first.locator("img").bounding_box()
    first.hover()
    large = first.locator("img").bounding_box()
    assert small and large and large["width"] > 2 * small["width"]


def test_click_number_and_tab_go_to_a_neighbour_and_back_returns(seen: Visit) -> None:
    seen.open("galaxy-10", near="image-image")
    page, second = seen.page, neighbours(seen)[1]
    page.locator(".neighbour").nth(1).click()
    seen.wait_for(second)
    assert second in page.url
    third = neighbours(seen)[2]
    page.locator("canvas.map").focus()
    page.keyboard.press("3")
    seen.wait_for(third)
    page.go_back()
    seen.wait_for(second)
    first = neighbours(seen)[0]
    page.locator(".neighbour").first.focus()
    page.keyboard.press("Enter")
    seen.wait_for(first)


def test_sightings_at_the_same_place_are_counted_not_listed(seen: Visit) -> None:
    seen.open("twin-0", near="image-image")
    assert "twin-1" not in neighbours(seen) and neighbours(seen)[0] == "galaxy-00"
    assert re.search(r"left out within 5″.*: [1-9]", seen.page.locator(".strip header").inner_text())


def test_an_object_without_an_image_is_a_neighbour_all_the_same(seen: Visit) -> None:
    seen.open("galaxy-03", near="spectrum-spectrum")
    assert neighbours(seen)[0] == "spectrum-only"
    assert "no image" in seen.page.locator(".neighbour").first.inner_text()


def test_light_and_dark_both_paint_the_card(seen: Visit) -> None:
    seen.open("galaxy-10")
    page = seen.page
    page.wait_for_function("omnisky.card.view?.flux?.length === 7781")
    ground = "getComputedStyle(omnisky.card.root).backgroundColor"
    dark = page.evaluate(ground)
    page.get_by_role("button", name="dark or light").click()
    assert page.evaluate(ground) != dark and page.evaluate("omnisky.card.view.colours.data") == "#3c5a75"
    page.get_by_role("button", name="dark or light").click()
    assert page.evaluate(ground) == dark


@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1280, 720), (800, 1100)])
def test_nothing_sticks_out_at_any_size(seen: Visit, width: int, height: int) -> None:
    seen.page.set_viewport_size({"width": width, "height": height})
    try:
        seen.open("galaxy-01")
        sizes = seen.page.evaluate("""() => { const c = omnisky.card.root, s = omnisky.strip.root;
            return [c.scrollWidth - c.clientWidth, s.scrollWidth - s.clientWidth, c.getBoundingClientRect().width]; }""")
        assert sizes[0] <= 1 and sizes[1] <= 1 and sizes[2] >= 360
    finally:
        seen.page.set_viewport_size({"width": 1440, "height": 900})
