"""The page on the large sky in headless Chromium: wheel, jump, click; beside hv.rasterize showing the same points."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
from playwright.sync_api import Page, sync_playwright

from tools.bench.measure import Bench, Row, Times
from tools.browser import find
from tools.screenshots import FLAGS, wait_for

WHEELS, JUMPS, CLICKS, REST = 24, 24, 30, 1.2  # seconds between gestures: a person's pace
MAP = "umap-image"
# The browser's own time stamp of the gesture is where each measurement begins, so that nothing before it is missed.
LISTEN = "for (const kind of ['wheel', 'pointerup']) { addEventListener(kind, e => { window.began ??= e.timeStamp; }, true); }"
# Resolves with the milliseconds from there until the condition holds at the end of a frame.
UNTIL = """async condition => { const f = new Function("return " + condition), give_up = performance.now() + 10000;
  for (;;) { await new Promise(requestAnimationFrame);
    if (window.began !== undefined && f()) { const t = performance.now() - window.began; window.began = undefined; return t; }
    if (performance.now() > give_up) { window.began = undefined; return NaN; } } }"""
BOX = "(() => { const r = omnisky.canvas.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })()"
WHERE = "row => omnisky.ask('where.json', { map: omnisky.state.map, rows: row })"
SHARP = "omnisky.map.sharp && !omnisky.map.queued"
PAINTED = """omnisky.times.card && omnisky.times.neighbours && omnisky.times.spectrum
  && [...omnisky.root.querySelectorAll('.card img, .strip img')].every(i => i.complete && i.naturalWidth)"""
# The peer's plot is a Bokeh figure: its picture has changed for the last time when nothing follows for a second.
LAST_CHANGE = """async () => { const view = [...Bokeh.index][0], t0 = performance.now();
  const find = v => v.canvas_view ? v : [...(v.child_views ?? [])].map(find).find(Boolean);
  const canvas = find(view).canvas_view.primary.canvas;
  const c = new OffscreenCanvas(64, 64).getContext("2d", { willReadFrequently: true });
  let last = NaN, before = "";
  while (performance.now() - t0 < 2500) {
    await new Promise(requestAnimationFrame); c.drawImage(canvas, 0, 0, 64, 64);
    const now = c.getImageData(0, 0, 64, 64).data.join();
    if (before && now !== before) { last = performance.now() - t0; }
    before = now; }
  return last; }"""
PEER = """
import sys, numpy as np, holoviews as hv, panel as pn
from holoviews.operation.datashader import rasterize
import engine
hv.extension("bokeh")
xy = engine.open(sys.argv[1]).map(sys.argv[2]).xy
points = rasterize(hv.Points(xy[np.isfinite(xy).all(1)]))
points = points.opts(width=960, height=560, cnorm="eq_hist", active_tools=["wheel_zoom"])
pn.serve({"/": lambda: pn.pane.HoloViews(points)}, port=int(sys.argv[3]), show=False, verbose=False)
"""


def rows(bench: Bench) -> Iterator[Row]:
    """Milliseconds of each interaction and the server's memory."""
    port = free_port()
    command = [sys.executable, "-m", "explorer.cli", "serve", str(bench.million), "--no-browser", "--port", str(port)]
    with running(command) as server, sync_playwright() as p:
        wait_for(f"http://localhost:{port}/")
        browser = p.chromium.launch(executable_path=find(), args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"http://localhost:{port}/?map={MAP}&c=density")
        page.wait_for_function(f"window.omnisky && omnisky.answer && {SHARP}", timeout=120_000)
        page.evaluate(LISTEN)
        wheel, jump, click, colour = wheels(page), jumps(page), clicks(page), colours(page)
        memory = psutil.Process(server.pid).memory_info().rss / 2**20
        browser.close()
    theirs = peer(bench)
    note = f"{bench.rows:,} points, headless Chromium"
    yield wheel.row("wheel tick to sharp tiles", "hv.rasterize" if theirs else None, theirs, note)
    yield jump.row("jump to an unseen region", note=note)
    yield click.row("click to card, spectrum and neighbours painted", note=note)
    yield colour.row("colour by another column", note=note + "; each column for the first time")
    yield Row("server memory after this", memory, "MB")


def wheels(page: Page) -> Times:
    """Single ticks at a place, in and out again, a person's pace apart."""
    box = page.evaluate(BOX)
    page.mouse.move(box[0] + 0.6 * box[2], box[1] + 0.45 * box[3])
    taken = []
    for i in range(WHEELS):
        time.sleep(REST)
        page.mouse.wheel(0, -120 if i % 8 < 6 else 360)
        taken.append(page.evaluate(UNTIL, SHARP))
    return Times(tuple(taken))


def jumps(page: Page) -> Times:
    """To places of random objects, 20 to 200 times closer than the whole map."""
    random, taken = np.random.default_rng(5), []
    for closer in np.geomspace(20, 200, JUMPS):
        time.sleep(REST)
        row = int(random.integers(0, page.evaluate("omnisky.now.objects")))
        [[x, y]] = page.evaluate(WHERE, row)
        half = page.evaluate("omnisky.map.layer.extent.side") / closer / 2
        page.evaluate("v => { window.began = performance.now(); omnisky.map.setRange(v); }",
                      [x - half, x + half, y - half, y + half])
        taken.append(page.evaluate(UNTIL, SHARP))
    return Times(tuple(taken))


def clicks(page: Page) -> Times:
    """Real clicks on points in view, until pictures, spectrum and neighbours are painted."""
    taken = []
    for i in range(CLICKS):
        page.evaluate("omnisky.map.fit()")
        time.sleep(REST)
        left, top, width, height = page.evaluate(BOX)
        place = page.evaluate(WHERE, 7919 * (i + 1) % page.evaluate("omnisky.now.objects"))
        if place[0] is None:
            continue
        x, y = page.evaluate("p => omnisky.map.toScreen(...p)", place[0])
        if not (20 < x < width - 60 and 20 < y < height - 20):
            continue
        page.evaluate("omnisky.times = {}")
        page.mouse.click(left + x, top + y)
        taken.append(page.evaluate(UNTIL, PAINTED))
    return Times(tuple(taken))


def colours(page: Page) -> Times:
    """The whole map by every column in turn, none of them seen before."""
    page.evaluate("omnisky.map.fit()")
    taken = []
    for name in page.evaluate("omnisky.columns.map(c => c.name).filter(c => c !== omnisky.state.colour)"):
        time.sleep(REST)
        page.evaluate("c => { window.began = performance.now(); omnisky.setColour(c); }", name)
        taken.append(page.evaluate(UNTIL, f"{SHARP} && omnisky.map.layers.length === 1"))
    return Times(tuple(taken))


def peer(bench: Bench) -> Times | None:
    """The same ticks on hv.rasterize; None where datashader is not installed."""
    try:
        import datashader  # noqa: F401
    except ImportError:
        return None
    port, taken = free_port(), []
    with running([sys.executable, "-c", PEER, str(bench.million), MAP, str(port)]), sync_playwright() as p:
        wait_for(f"http://localhost:{port}/")
        browser = p.chromium.launch(executable_path=find(), args=list(FLAGS))
        page = browser.new_page(viewport={"width": 1100, "height": 700})
        page.goto(f"http://localhost:{port}/")
        page.wait_for_selector("canvas", state="attached", timeout=120_000)
        time.sleep(5)
        page.mouse.move(500, 300)
        for i in range(WHEELS // 2):
            page.mouse.wheel(0, -120 if i % 8 < 6 else 360)
            taken.append(page.evaluate(LAST_CHANGE))
        browser.close()
    return Times(tuple(t for t in taken if t is not None and t == t)) if taken else None


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[Any]:
    process = subprocess.Popen(command, env={**os.environ, "BOKEH_LOG_LEVEL": "error"})
    try:
        yield process
    finally:
        process.terminate()
        process.wait(10)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
