"""The page when things come late, fail or change under the hand: answers that overtake each other, keys, errors, themes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import card_sky
import pytest
from card_page import Visit, server, visit

pytestmark = pytest.mark.browser
LOADED = "omnisky.card.view?.flux?.length === 7781"


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Visit]:
    sky = card_sky.build(tmp_path_factory.mktemp("desk") / "card.sky")
    with server(sky) as address, visit(address) as made:
        made.page.set_default_timeout(60_000)
        made.open("galaxy-00")
        yield made


@pytest.fixture(autouse=True)
def nothing_went_wrong(seen: Visit) -> Iterator[None]:
    """No error is thrown; a test that lets answers fail clears what the browser says of that."""
    seen.trouble.clear()
    yield
    seen.page.unroute_all()
    assert seen.trouble == []


def late(seen: Visit, pattern: str) -> list[Any]:
    """Holds back what matches, until `continue_` is called on what is in the list."""
    held: list[Any] = []
    seen.page.route(re.compile(pattern), lambda route: held.append(route))
    return held


# -------------------------------------------------------------------------------------- answers that overtake each other


def test_card_and_neighbours_are_of_one_object_whatever_is_asked_meanwhile(seen: Visit) -> None:
    seen.open("galaxy-03")
    held = late(seen, r"/object/11\.json")
    seen.page.evaluate("void omnisky.go(11)")
    seen.until(lambda: held)
    seen.page.evaluate("omnisky.setMap('pca-spectrum')")
    seen.page.wait_for_function("omnisky.answer.row === 11")
    held[0].continue_()
    seen.page.wait_for_function("omnisky.card.card.row === 11")
    assert seen.page.evaluate("[omnisky.state.row, omnisky.state.id, omnisky.answer.row]") == [11, "galaxy-11", 11]
    assert "o=galaxy-11" in seen.page.url


def test_a_card_that_fails_leaves_card_and_neighbours_of_what_was_shown(seen: Visit) -> None:
    page = seen.page
    seen.open("galaxy-03", map="pca-image")
    held = late(seen, r"/object/7\.json")
    page.evaluate("omnisky.model.row = 7")
    seen.until(lambda: held)
    page.evaluate("omnisky.setMap('pca-spectrum')")
    page.wait_for_function("omnisky.answer.row === 7")
    held[0].fulfill(status=500, json={"error": "a file is damaged"})
    page.wait_for_function("omnisky.answer.row === 3")
    assert page.evaluate("[omnisky.state.row, omnisky.card.card.row, omnisky.model.row]") == [3, 3, 3]
    seen.trouble.clear()


@pytest.mark.parametrize(("question", "late_one"), [
    (r"find\.json\?q=7$", "omnisky.find('7')"), ("surprise.json", "omnisky.surprise()"),
    ("tap.json", "omnisky.map.pick(...omnisky.map.toScreen(...omnisky.map.marks.near.find(Boolean)))"),
    (r"find\.json\?q=galaxy-05", "history.back()")])
def test_what_was_wanted_last_is_shown(seen: Visit, question: str, late_one: str) -> None:
    page = seen.page
    seen.open("galaxy-05", near="image-image")
    page.evaluate("omnisky.go(6)")
    page.wait_for_function("omnisky.answer.row === 6")
    held = late(seen, question)
    page.evaluate(f"void {late_one}")
    seen.until(lambda: held)
    page.evaluate("omnisky.find('11')")
    page.wait_for_function("omnisky.card.card.row === 11")
    with page.expect_response(lambda r: re.search(question, r.url) is not None):
        held[0].continue_()
    page.wait_for_timeout(300)  # time enough to go where it should not
    assert page.evaluate("[omnisky.state.row, omnisky.card.card.row]") == [11, 11] and "o=galaxy-11" in page.url


def test_a_reading_stays_until_its_own_time(seen: Visit) -> None:
    page = seen.page
    seen.open("galaxy-03")
    page.evaluate("() => { window.real = setTimeout; window.setTimeout = (act, ms) => real(act, ms === 4000 ? 500 : ms); }")
    page.evaluate("omnisky.find('7')")
    page.evaluate("omnisky.find('150.1 +80')")
    page.wait_for_timeout(800)
    assert "open the nearest" in page.locator(".reading").inner_text()
    page.evaluate("() => { window.setTimeout = real; }")


def test_the_legend_is_of_the_colours_there_are(seen: Visit) -> None:
    page, ramp = seen.page, "omnisky.legend.querySelector('.ramp')?.style.background"
    seen.open("galaxy-03", c="z")
    page.wait_for_function(ramp)
    dark = page.evaluate(ramp)
    held = late(seen, "theme=light")
    page.evaluate("omnisky.toggleTheme()")
    seen.until(lambda: held)
    page.evaluate("omnisky.toggleTheme()")
    with page.expect_response(lambda r: "theme=light" in r.url):
        held[0].continue_()
    page.wait_for_timeout(200)
    assert page.evaluate(ramp) == dark
    fails(seen, "legend.json")
    page.evaluate("omnisky.setColour('class')")
    page.wait_for_function("omnisky.legend.textContent === ''")
    seen.trouble.clear()


# ------------------------------------------------------------------------------------------------------------------ keys


def test_a_key_does_one_thing_where_it_is_pressed(seen: Visit) -> None:
    page = seen.page
    seen.open("galaxy-03")
    page.evaluate("""() => { const g = omnisky.card.generate; window.done = [];
        g.press = () => done.push("press"); g.stop = () => done.push("stop"); }""")
    page.locator("canvas.map").focus()
    page.keyboard.press("?")
    page.keyboard.press("Escape")
    assert page.locator(".help").count() == 0 and page.evaluate("done") == []
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Enter")
    assert page.evaluate("done") == ["stop", "press"]
    page.get_by_role("searchbox").fill("17")
    page.get_by_role("searchbox").press("Control+Enter")
    seen.wait_for("galaxy-17")
    assert page.evaluate("done.filter(d => d === 'press').length") == 1


def test_arrow_down_comes_back_and_never_leaves_the_page(seen: Visit) -> None:
    page = seen.page
    page.goto("data:text/html,elsewhere")
    seen.open("galaxy-10", near="image-image")
    page.locator("canvas.map").focus()
    page.keyboard.press("ArrowUp")
    page.wait_for_function("omnisky.state.id !== 'galaxy-10' && omnisky.answer.row === omnisky.state.row")
    page.keyboard.press("ArrowDown")
    seen.wait_for("galaxy-10")
    page.keyboard.press("ArrowDown")
    page.wait_for_timeout(500)
    assert page.url.startswith(seen.address) and seen.chosen() == "galaxy-10"


def test_enter_opens_the_neighbour_that_is_lit(seen: Visit) -> None:
    page = seen.page
    seen.open("galaxy-10", near="image-image")
    page.locator("canvas.map").focus()
    page.keyboard.press("Enter")
    second = page.locator(".neighbour").nth(1).get_attribute("title")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    page.wait_for_function("omnisky.state.id !== 'galaxy-10'")
    assert seen.chosen() == second
    page.wait_for_function("omnisky.answer.row === omnisky.state.row")
    page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="keys").focus()
    page.keyboard.press("Enter")
    assert page.locator(".help").count() == 1 and seen.chosen() == second
    page.keyboard.press("Escape")


ACTIVE = "(e => e && [e.dataset.name, e.className.split(' ')[0]])(omnisky.root.getRootNode().activeElement)"


def test_what_comes_in_the_place_of_what_had_the_focus_has_it(seen: Visit) -> None:
    page = seen.page
    seen.open("galaxy-10", near="image-image")
    page.get_by_role("button", name="spectrum ▸ spectrum").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("omnisky.root.querySelector('.strip .switch .on').textContent === 'spectrum ▸ spectrum'")
    assert page.evaluate(ACTIVE) == ["spectrum-spectrum", "on"]
    third = page.locator(".neighbour").nth(2).get_attribute("title")
    page.locator(".neighbour").nth(2).click()
    seen.wait_for(str(third))
    page.wait_for_function("omnisky.answer.row === omnisky.state.row")
    assert page.evaluate(ACTIVE) == ["2", "neighbour"]
    page.keyboard.press("ArrowRight")
    assert page.evaluate(ACTIVE) == ["0", "neighbour"], "Enter opens what is lit"
    page.locator(".centre .switch button").nth(1).focus()
    name = page.evaluate(ACTIVE)
    page.evaluate("omnisky.take({ ...omnisky.now, maps: omnisky.now.maps.map(m => ({ ...m, placed: m.placed + 1 })) })")
    page.evaluate("omnisky.mapByHand = true")
    page.evaluate("omnisky.take({ ...omnisky.now, maps: [{ ...omnisky.now.maps[0], name: 'new' }, ...omnisky.now.maps] })")
    assert page.evaluate(ACTIVE)[0] == name[0]
    page.get_by_role("button", name="copy").focus()
    page.evaluate("omnisky.go(4)")
    page.wait_for_function("omnisky.card.card.row === 4")
    assert page.evaluate(ACTIVE)[1] == "desk"
    seen.open("galaxy-03")


def test_after_another_direction_arrow_up_opens_the_first(seen: Visit) -> None:
    page = seen.page
    seen.open("galaxy-10", near="image-image")
    page.locator("canvas.map").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.evaluate("omnisky.direct('image', 'spectrum')")
    page.wait_for_function("omnisky.map.marks.lit === null")
    first = page.locator(".neighbour").first.get_attribute("title")
    page.keyboard.press("ArrowUp")
    page.wait_for_function("omnisky.state.id !== 'galaxy-10'")
    assert seen.chosen() == first


def test_nothing_acts_behind_the_help(seen: Visit) -> None:
    page = seen.page
    seen.open("galaxy-10")
    page.locator("canvas.map").focus()
    page.keyboard.press("?")
    for key in ("1", "d", "Tab", "Enter"):
        page.keyboard.press(key)
    page.wait_for_timeout(200)
    assert seen.chosen() == "galaxy-10" and page.evaluate("omnisky.theme") == "dark" and page.locator(".help").count() == 1
    page.keyboard.press("?")
    assert page.locator(".help").count() == 0 and page.evaluate(ACTIVE)[1] == "map"


# ---------------------------------------------------------------------------------------------------- colours and sizes


def test_an_unknown_theme_is_dark(seen: Visit) -> None:
    seen.open("galaxy-01", theme="sepia")
    assert seen.page.evaluate("[omnisky.theme, omnisky.root.dataset.theme]") == ["dark", "dark"]


def test_a_sky_that_grows_leaves_the_map_where_the_hand_has_put_it(seen: Visit) -> None:
    page = seen.page
    seen.open("galaxy-03")
    page.evaluate("""(m => { m.zoom(8); m.view.x += 3000 / m.view.scale; m.moved(); })(omnisky.map)""")
    before = page.evaluate("omnisky.map.view")
    with page.expect_response(lambda r: "/near/3.json" in r.url):
        page.evaluate("omnisky.take({ ...omnisky.now, maps: omnisky.now.maps.map(m => ({ ...m, placed: m.placed + 1 })) })")
    page.wait_for_timeout(200)
    assert page.evaluate("omnisky.map.view") == before


def test_another_theme_leaves_what_was_set_on_the_card(seen: Visit) -> None:
    page = seen.page
    seen.open("galaxy-01")
    page.wait_for_function(LOADED)
    page.locator(".redshift input[type=number]").fill("0.5")
    page.get_by_label("smoothing in pixels").select_option("15")
    page.evaluate("omnisky.card.view.keep([5000, 5500]); omnisky.card.root.scrollTop = 120")
    page.locator("canvas.map").focus()
    set_by_hand = "(v => [v.z, v.smooth, ...v.range, v.colours.data, omnisky.card.root.scrollTop])(omnisky.card.view)"
    dark = page.evaluate(set_by_hand)
    page.keyboard.press("d")
    light = page.evaluate(set_by_hand)
    page.keyboard.press("d")
    assert dark[:4] == light[:4] == [0.5, 15, 5000, 5500] and dark[5] == light[5] and dark[4] != light[4]
    assert page.locator(".redshift input[type=number]").input_value() == "0.5"


def test_what_is_drawn_follows_the_size_of_its_place(seen: Visit) -> None:
    page = seen.page
    seen.open("galaxy-00")
    page.locator("canvas.map").focus()
    page.keyboard.press("f")
    page.evaluate("omnisky.go(1)")
    page.wait_for_function("omnisky.answer.row === 1")
    page.keyboard.press("f")
    sharp = """which => [...omnisky.root.querySelectorAll(which)].map(e => e.width === e.clientWidth * devicePixelRatio
        && e.getContext("2d").getImageData(0, 0, e.width, e.height).data.some(v => v > 0))"""
    width = "omnisky.root.querySelector('.neighbour canvas').width"
    page.wait_for_function(f"({sharp})('.curves canvas').every(Boolean)")
    assert len(page.evaluate(sharp, ".curves canvas")) > 0
    narrow = page.evaluate(width)
    page.set_viewport_size({"width": 1900, "height": 900})
    page.wait_for_function(f"({sharp})('.neighbour canvas').every(Boolean)")
    assert page.evaluate(width) > narrow and len(page.evaluate(sharp, ".neighbour canvas")) == 8
    page.set_viewport_size({"width": 1440, "height": 900})


TWO = """async () => { // desks side by side, as in a notebook
    const { start } = await import(new URL("static/desk.js", omnisky.base).href), row = document.createElement("div");
    document.querySelector("#sky").style.display = "none";
    row.style.cssText = "display: flex; width: 1800px"; document.body.append(row); window.two = [];
    for (const i of [0, 1]) {
        const el = document.createElement("div");
        el.style.cssText = "width: 900px; height: 600px"; row.append(el);
        two.push(await start({ model: { base: omnisky.base }, el, page: false }));
        while (!two[i].answer) { await new Promise(done => setTimeout(done, 50)); }
    } }"""


def test_a_desk_goes_by_its_own_width_and_covers_no_other(seen: Visit) -> None:
    page = seen.page
    seen.open("galaxy-03")
    assert page.evaluate("getComputedStyle(omnisky.root).display") == "grid"
    page.evaluate(TWO)
    sizes = page.evaluate("two.map(d => [getComputedStyle(d.root).display, d.centre.clientWidth > 800])")
    assert sizes == 2 * [["block", True]]
    boxes = page.evaluate("""() => { const d = two[1];
        d.root.scrollTop = 300; d.help(); d.say("here"); // measured at once, since words go after a while
        return [".help", ".toast"].map(w => d.root.querySelector(w).getBoundingClientRect().toJSON()); }""")
    assert all(b["left"] >= 900 and b["top"] >= 0 and b["bottom"] <= 600 and b["right"] <= 1800 for b in boxes)
    page.evaluate("two[1].help()")
    page.evaluate("two[1].root.querySelectorAll('.neighbour')[1].focus()")
    page.keyboard.press("Enter")
    page.wait_for_function("two[1].answer.row === two[1].state.row && two[1].state.row !== two[0].state.row")
    row = page.evaluate("two[1].state.row")
    page.keyboard.press("1")
    page.wait_for_function("row => two[1].state.row !== row", arg=row)
    seen.open("galaxy-03")


def test_the_map_of_a_narrow_desk_is_as_high_as_the_desk_allows(seen: Visit) -> None:
    page = seen.page
    seen.open("galaxy-03")
    page.evaluate(TWO)
    page.evaluate("two[1].root.parentNode.style.width = '400px'")
    heights = "two.map(d => d.root.querySelector('.mapbox').clientHeight)"
    for height in (900, 1600):  # of the window
        page.set_viewport_size({"width": 1440, "height": height})
        assert page.evaluate(heights) == [360, 360]
    page.evaluate("two[1].root.parentNode.style.height = '900px'")
    assert page.evaluate(heights) == [360, 400], "no higher than wide"
    page.set_viewport_size({"width": 1440, "height": 900})
    seen.open("galaxy-03")


# ------------------------------------------------------------------------------------------------------- what goes wrong


def test_a_position_that_cannot_be_copied_is_said(seen: Visit) -> None:
    seen.open("galaxy-03")
    seen.page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined, configurable: true })")
    seen.page.locator("canvas.map").focus()
    seen.page.keyboard.press("c")
    assert seen.page.locator(".toast").inner_text() == "150.3 2 (ICRS, degrees)"


def test_a_view_that_is_gone_asks_nothing_until_it_is_back(seen: Visit) -> None:
    page, asked = seen.page, []
    seen.open("galaxy-03")
    page.route(re.compile("/tile/"), lambda route: route.abort())
    page.evaluate("() => { window.real = setTimeout; window.setTimeout = then => real(then, 20); omnisky.setColour('mag_r'); }")
    page.evaluate("void omnisky.poll()")
    page.on("request", lambda r: asked.append(r.url) if re.search("state.json|/tile/", r.url) else None)
    seen.until(lambda: any("state.json" in url for url in asked) and any("/tile/" in url for url in asked))
    page.evaluate("window.place = omnisky.root.parentNode; omnisky.root.remove()")
    page.wait_for_timeout(300)
    asked.clear()
    page.wait_for_timeout(300)
    assert asked == []
    page.unroute_all()
    page.evaluate("place.append(omnisky.root)")
    seen.until(lambda: any("state.json" in url for url in asked) and any("/tile/" in url for url in asked))
    page.evaluate("() => { window.setTimeout = real; }")
    seen.open("galaxy-03")
    seen.trouble.clear()


def test_views_that_are_gone_are_forgotten(seen: Visit) -> None:
    """Each run of a notebook's cell leaves one behind."""
    page = seen.page
    seen.open("galaxy-03")
    page.evaluate("() => { const real = setTimeout; window.setTimeout = (then, ms) => real(then, Math.min(ms, 100)); }")
    page.evaluate("""async () => { const { start } = await import(new URL("static/desk.js", omnisky.base).href);
        const el = document.createElement("div");
        el.style.cssText = "width: 900px; height: 600px"; document.body.append(el);
        const app = await start({ model: { base: omnisky.base }, el, page: false });
        while (!app.answer) { await new Promise(done => setTimeout(done, 50)); }
        window.gone = new WeakRef(app); el.remove(); }""")
    client = page.context.new_cdp_session(page)

    def forgotten() -> bool:
        client.send("HeapProfiler.collectGarbage")
        return bool(page.evaluate("!gone.deref()"))

    seen.until(forgotten)
    assert page.evaluate("[gone.deref() ?? null, omnisky.state.id]") == [None, "galaxy-03"], "the page's own desk stays"
    seen.open("galaxy-03")


def fails(seen: Visit, pattern: str, error: str = "a file is damaged", times: int | None = None) -> None:
    seen.page.route(re.compile(pattern), lambda route: route.fulfill(status=500, json={"error": error}), times=times)


def test_what_fails_is_said_and_what_was_shown_stays(seen: Visit) -> None:
    page = seen.page
    seen.open("galaxy-03")
    toast = page.locator(".toast")
    for pattern, act in ((r"/object/7\.json", "omnisky.go(7)"), ("find.json", "omnisky.find('7')"),
                         ("surprise.json", "omnisky.surprise()"), ("tap.json", "omnisky.map.pick(200, 200)"),
                         ("legend.json", "omnisky.setColour('class')")):
        fails(seen, pattern, f"{act} was in vain")
        page.evaluate(act)
        page.wait_for_function("words => omnisky.toast.textContent === words", arg=f"{act} was in vain")
        assert toast.is_visible() and seen.chosen() == "galaxy-03"
        assert page.evaluate("[omnisky.state.row, omnisky.card.card.row, omnisky.answer.row]") == [3, 3, 3]
    fails(seen, "near/8.json", "the vectors are damaged")
    page.evaluate("omnisky.go(8)")
    page.wait_for_function("omnisky.answer.row === 8")
    assert "the vectors are damaged" in page.locator(".strip").inner_text() and page.locator(".neighbour").count() == 0
    page.route(re.compile("find.json"), lambda route: route.abort())
    page.evaluate("omnisky.find('7')")
    page.wait_for_function("omnisky.toast.textContent === 'The server does not answer.'")
    seen.trouble.clear()


def test_a_spectrum_that_cannot_be_read_is_said(seen: Visit) -> None:
    page, empty = seen.page, seen.page.locator(".spectra .empty")
    seen.open("galaxy-01")
    page.wait_for_function(LOADED)
    assert empty.is_hidden() and page.locator(".toast").get_attribute("role") == "status"
    fails(seen, "/spectrum/1/1", "the file is damaged")
    page.get_by_role("button", name="sdss", exact=True).click()
    empty.wait_for()
    assert page.locator(".toast").inner_text() == "the file is damaged" and page.locator("canvas.spectrum").is_hidden()
    page.get_by_role("button", name="desi", exact=True).click()
    page.locator("canvas.spectrum").wait_for()
    assert empty.is_hidden()
    page.route(re.compile("/spectrum/2/"), lambda route: route.abort())
    page.evaluate("omnisky.go(2)")
    empty.wait_for()
    seen.trouble.clear()


def test_an_object_whose_address_could_not_be_read_is_asked_for_again(seen: Visit) -> None:
    page = seen.page
    fails(seen, "find.json", "busy", times=1)
    page.goto(f"{seen.address}/?o=galaxy-09")
    page.wait_for_function("window.omnisky?.state.id === 'galaxy-09'")
    assert "o=galaxy-09" in page.url
    seen.trouble.clear()


def test_a_page_whose_beginning_fails_says_so_and_goes_on(seen: Visit) -> None:
    page = seen.page
    fails(seen, "start.json", "sky.json is damaged")
    page.goto(seen.address)
    page.locator(".wait .bad").wait_for()
    assert "sky.json is damaged" in page.locator(".wait").inner_text()
    page.unroute_all()
    page.wait_for_function("omnisky.answer && omnisky.wait.hidden")
    page.evaluate("() => { window.said = []; omnisky.say = words => said.push(words); }")
    page.route(re.compile("state.json"), lambda route: route.abort(), times=1)
    page.wait_for_function("omnisky.lost === false")
    assert page.evaluate("said") == ["Connection lost, trying again. The page stays readable.", "connected again"]
    seen.trouble.clear()


def test_what_fails_while_a_sky_grows_is_said_once_and_until_it_works(seen: Visit) -> None:
    page, notice = seen.page, seen.page.locator(".notice")
    seen.open("galaxy-03")
    page.evaluate("""() => { window.said = []; omnisky.say = words => said.push(words);
        Object.assign(omnisky.now, { version: -1, progress: { running: true } }); }""")
    fails(seen, "start.json", "a column is damaged")
    for _ in range(2):
        with page.expect_response(lambda r: "start.json" in r.url):
            pass
    notice.wait_for()
    assert "a column is damaged" in notice.inner_text() and page.evaluate("said") == []
    page.unroute_all()
    notice.wait_for(state="hidden")
    seen.trouble.clear()


def test_a_worker_that_fails_is_seen_though_there_is_a_map(seen: Visit) -> None:
    page, notice = seen.page, seen.page.locator(".notice")
    seen.open("galaxy-03")
    now = page.evaluate("omnisky.now")
    error = "codecs/image/config.json is damaged or not JSON (Expecting property name); fetch or train it again with: omni " * 2
    page.set_viewport_size({"width": 1280, "height": 720})
    top = page.locator(".top").evaluate("e => [...e.children].map(c => c.getBoundingClientRect().width)")

    def failed(error: str) -> None:
        page.evaluate("now => omnisky.take(now)", now | {"progress": {"running": False, "error": error}})

    failed(error)
    assert error.strip() in notice.inner_text()
    assert notice.evaluate("e => e.scrollWidth <= e.clientWidth && e.clientHeight > 40"), "it takes the lines that it needs"
    assert page.locator(".top").evaluate("e => [...e.children].map(c => c.getBoundingClientRect().width)") == top
    notice.get_by_role("button", name="close").click()
    failed(error)
    assert notice.is_hidden()
    failed("another")
    assert notice.is_visible()
    page.evaluate("now => omnisky.take(now)", now)
    assert notice.is_hidden()
    page.set_viewport_size({"width": 1440, "height": 900})


@pytest.mark.parametrize("width", [1280, 800, 420])
def test_long_words_and_narrow_windows_keep_everything_on_the_page(seen: Visit, width: int) -> None:
    page, long = seen.page, "x" * 224
    blank = "<svg xmlns='http://www.w3.org/2000/svg'/>"
    page.route(re.compile(r"/picture/3/[2-5]"), lambda r: r.fulfill(content_type="image/svg+xml", body=blank))
    page.set_viewport_size({"width": width, "height": 720})
    seen.open("galaxy-03")
    page.evaluate("""long => { const app = omnisky, card = structuredClone(app.card.card);
        card.scalars.unshift({ title: long, text: "0.17", unit: "" });
        Object.assign(card, { id: long, images: Array(3).fill(card.images).flat() });
        app.card.show(card); app.reading.textContent = long; app.say(long); app.help(); app.root.scrollTop = 700; }""", long)
    for what in (".reading", ".toast", ".help table"):
        box = page.locator(what).bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= width
        assert what == ".reading" or (box["y"] >= 0 and box["y"] + box["height"] <= 720)
    assert page.evaluate("omnisky.root.scrollWidth") <= width
    number = page.evaluate("""() => { const r = document.createRange(), e = omnisky.card.root.querySelector(".scalars td");
        r.selectNodeContents(e); return r.getClientRects().length; }""")
    assert number == 1 and "4 of 6 images" in page.locator(".card").inner_text()
    page.keyboard.press("Escape")
    page.set_viewport_size({"width": 1440, "height": 900})
