"""A page that is open before its sky is there: progress, the map by itself, newcomers, and what went wrong."""

from __future__ import annotations

import shutil
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import small_sky
from card_page import Visit, visit

from engine.embeddings import Embeddings
from engine.objects import Scalar, SkyObject
from engine.store import Store
from explorer.desk import Desk
from explorer.startup import Work

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_sky.build(tmp_path_factory.mktemp("growth") / "small.sky", 60)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "later.sky")


@pytest.fixture
def seen(desk: Desk) -> Iterator[Visit]:
    """A page on a desk of this process, so that the test can play the worker."""
    pytest.importorskip("panel")
    from explorer.app import serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ready = threading.Event()
    server = serve(desk, port=port, ready=lambda _: ready.set(), threaded=True)
    assert ready.wait(20)
    try:
        with visit(f"http://127.0.0.1:{port}") as made:
            yield made
            assert made.trouble == []
    finally:
        server.stop()


def test_the_page_turns_into_the_map_without_reload_and_takes_newcomers_in(seen: Visit, desk: Desk, folder: Path) -> None:
    page = seen.page
    desk.progress = {"running": True, "fraction": 0.37, "note": "simulated and embedded 370 of 1,000 objects"}
    page.goto(seen.address)
    page.wait_for_function("window.omnisky?.now")
    wait = page.locator(".wait")
    assert "370 of 1,000" in wait.inner_text() and "37 %" in wait.inner_text()
    page.evaluate("window.sameage = true")
    shutil.copytree(folder, folder.with_name("copy"))
    folder.with_name("copy").rename(desk.path)
    page.wait_for_function("omnisky.answer && omnisky.map.sharp")
    assert page.evaluate("window.sameage") and wait.is_hidden()
    assert "37 %" in page.locator(".job").inner_text() and "60 objects" in page.locator(".chip").last.inner_text()
    chosen = page.evaluate("omnisky.state.row")

    Store(desk.path).append([small_sky.galaxy(i) for i in range(60, 70)], ["more"] * 10)
    desk.sky.map("umap-image").grow(small_sky.vectors_of(10, 0)).save(desk.path / "maps" / "umap-image")
    asked: list[str] = []
    page.on("request", lambda r: asked.append(r.url) if "/tile/umap-image/" in r.url else None)
    page.wait_for_function("omnisky.now.maps[0].placed === 70 && omnisky.map.layers.length === 1 && omnisky.map.sharp")
    assert "70 objects" in page.locator(".chip").last.inner_text() and asked
    assert page.evaluate("[window.sameage, omnisky.state.row]") == [True, chosen]
    desk.progress = {"running": False, "fraction": 1.0, "note": "ready"}
    page.wait_for_function("omnisky.root.querySelector('.job').hidden")


def test_a_column_and_a_space_that_come_later_are_offered(seen: Visit, desk: Desk, folder: Path) -> None:
    """The maps stay as they are: nothing but the version says that there is more."""
    page = seen.page
    shutil.copytree(folder, desk.path)
    desk.progress = {"running": True, "fraction": 0.9, "note": "embedded"}
    page.goto(seen.address)
    page.wait_for_function("window.omnisky?.answer")
    assert page.locator("option[value=mass]").count() == 0
    Store(desk.path).append([SkyObject("late", scalars={"mass": Scalar(10.5)})], ["more"])
    about = {**small_sky.MANIFEST, "space": "joint", "inputs": []}
    Embeddings.create(desk.path / "embeddings" / "joint", small_sky.DIM, about).append(small_sky.vectors_of(60, 2))
    page.wait_for_function("omnisky.spaces.includes('joint') && omnisky.comparable.joint.length === 3")
    page.wait_for_function("omnisky.colourChoice.querySelector('option[value=mass]')")


def test_an_object_of_the_address_opens_when_it_comes(seen: Visit, desk: Desk, folder: Path) -> None:
    """Until then another is shown, the page says so, and the address stays; one that never comes is said to be unknown."""
    page, later = seen.page, small_sky.galaxy(65).id
    shutil.copytree(folder, desk.path)
    desk.progress = {"running": True, "fraction": 0.9, "note": "simulated"}
    page.goto(f"{seen.address}?o={later}")
    page.wait_for_function("window.omnisky?.answer")
    assert page.locator(".toast").inner_text() == f"{later} is not in the sky yet; it opens as soon as it is"
    first = page.evaluate("omnisky.state.id")
    page.evaluate("omnisky.map.zoom(2)")
    page.wait_for_function("location.search.includes('view=')")
    assert first != later and page.evaluate("new URLSearchParams(location.search).get('o')") == later
    Store(desk.path).append([small_sky.galaxy(i) for i in range(60, 70)], ["more"] * 10)
    page.wait_for_function(f"omnisky.state.id === '{later}'")

    page.goto(f"{seen.address}?o=7")  # an id may be a number; there is a row 7
    page.wait_for_function("window.omnisky?.awaited === '7'")
    desk.progress = {"running": False, "fraction": 1.0, "note": "ready"}
    page.wait_for_function("omnisky.awaited === null && new URLSearchParams(location.search).get('o') !== '7'")
    assert page.locator(".toast").inner_text() == "No object is called 7"


def test_a_worker_that_fails_says_why_on_the_page(seen: Visit, desk: Desk, tmp_path: Path) -> None:
    seen.page.goto(seen.address)
    seen.page.wait_for_function("window.omnisky?.now")
    Work(desk, "demo", objects=20, seed=1, model=str(tmp_path / "no-model"))
    box = seen.page.locator(".wait .bad")
    box.wait_for(timeout=300_000)  # the worker imports the engine, and others are at work, too
    assert "no-model" in box.inner_text() and "Traceback" not in box.inner_text()
    assert str(tmp_path) not in str(desk.state()["progress"]), "where it lies is no visitor's business"


def test_a_sky_without_maps_says_what_to_run(seen: Visit, desk: Desk) -> None:
    Store.create(desk.path).append([small_sky.galaxy(i) for i in range(3)], ["few"] * 3)
    seen.page.goto(seen.address)
    box = seen.page.locator(".wait .box")
    box.wait_for()
    assert "omnisky embed" in box.inner_text() and "no map" in box.inner_text()


def test_a_damaged_map_is_said_beside_the_others(seen: Visit, desk: Desk, folder: Path) -> None:
    page, notice = seen.page, seen.page.locator(".notice")
    shutil.copytree(folder, desk.path)
    manifests = sorted(desk.path.glob("maps/*/manifest.json"))
    whole = [manifest.read_text() for manifest in manifests]
    manifests[0].write_text("{")
    page.goto(f"{seen.address}?map={manifests[0].parent.name}")
    page.wait_for_function("window.omnisky?.answer && omnisky.map.sharp")
    said = notice.inner_text()
    assert "PCA · image is left out" in said and "pca-image/manifest.json" in said and str(desk.path.parent) not in said
    assert page.evaluate("[omnisky.state.map, omnisky.now.maps.length]") == ["umap-image", 3]
    for manifest in manifests[1:]:
        manifest.write_text("{")
    page.locator(".wait .bad").wait_for()
    assert page.locator(".wait").inner_text().count("is left out") == 4 and notice.is_hidden()
    for manifest, content in zip(manifests, whole, strict=True):
        manifest.write_text(content)
    page.wait_for_function("omnisky.answer && omnisky.wait.hidden && omnisky.now.maps.length === 4")
    assert notice.is_hidden()


def test_what_the_desk_cannot_answer_is_said_on_a_page_that_stays(seen: Visit, desk: Desk, folder: Path) -> None:
    """404 is what a server says, too, that was started again under another path; only then is the page asked anew."""
    page, went = seen.page, []
    shutil.copytree(folder, desk.path)
    page.on("load", lambda: went.append(page.url))
    page.goto(seen.address)
    page.wait_for_function("window.omnisky?.answer")
    page.route("**/state.json", lambda route: route.fulfill(status=404, json={"error": "sky.json is damaged"}), times=1)
    page.locator(".notice").wait_for()
    assert "sky.json is damaged" in page.locator(".notice").inner_text()
    page.locator(".notice").wait_for(state="hidden")
    assert len(went) == 1
    page.route("**/state.json", lambda route: route.fulfill(status=404, content_type="text/html", body="not here"), times=1)
    seen.until(lambda: len(went) == 2)
    seen.trouble.clear()
