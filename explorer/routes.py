"""What the browser asks by HTTP: tiles, pictures, spectra and small JSON answers, under a path nobody can guess.

Answers are computed in threads, so that the server never waits for a disk; what can never change under its address is
kept by the browser for ever.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tornado.web import HTTPError, RequestHandler, StaticFileHandler

from explorer.desk import Desk
from explorer.words import without_places

POOL = ThreadPoolExecutor(4, thread_name_prefix="desk")
STATIC = Path(__file__).with_name("static")
LONG = "private, max-age=31536000, immutable"
log = logging.getLogger("omnisky")


class Answer(RequestHandler):
    """One question to the desk. `ask(desk, *path, **query)` gives bytes (sent as they are) or a dictionary (as JSON)."""

    def initialize(self, desk: Desk, ask: Callable[..., Any], kind: str, keep: bool) -> None:
        self.desk, self.ask, self.kind, self.keep = desk, ask, kind, keep

    def set_default_headers(self) -> None:
        self.set_header("Access-Control-Allow-Origin", "*")  # a notebook's page asks from its own port; the path is the secret
        self.set_header("X-Content-Type-Options", "nosniff")

    async def get(self, *path: str) -> None:
        query = {name: self.get_query_argument(name) for name in self.request.query_arguments if name != "v"}
        try:
            answer = await asyncio.get_running_loop().run_in_executor(POOL, lambda: self.ask(self.desk, *path, **query))
        except (KeyError, IndexError, LookupError, ValueError, TypeError) as error:
            raise HTTPError(404, reason="Not there") from error
        self.set_header("Content-Type", self.kind)
        self.set_header("Cache-Control", LONG if self.keep else "no-store")
        self.finish(answer if isinstance(answer, bytes) else json.dumps(answer, allow_nan=False))

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        error = kwargs.get("exc_info", (None, None, None))[1]
        cause = getattr(error, "__cause__", None) or error
        said = str(cause.args[0]) if cause is not None and cause.args else "something went wrong"
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"error": without_places(said, self.desk.path)}))


class Order(Answer):
    """One that sets something going, by POST alone."""

    async def get(self, *path: str) -> None:
        raise HTTPError(405)

    async def post(self, *path: str) -> None:
        await super().get(*path)


class Static(StaticFileHandler):
    """Our scripts and styles."""

    def set_extra_headers(self, path: str) -> None:
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Cache-Control", "no-cache")


def tile(desk: Desk, name: str, version: str, colour: str, theme: str, z: str, x: str, y: str) -> bytes:
    return desk.tile(name, version, colour, theme, int(z), int(x), int(y))


def near(desk: Desk, row: str, query: str = "image", among: str = "spectrum", k: str = "8", map: str = "") -> dict[str, Any]:
    return desk.near(int(row), query, among, min(int(k), 100), map or None)


def routes(desk: Desk, prefix: str) -> list[tuple[str, Any, dict[str, Any]]]:
    """Tornado's rules for one desk under `prefix` (begins and ends with a slash)."""
    def rule(pattern: str, ask: Callable[..., Any], kind: str = "application/json", keep: bool = False) -> Any:
        return (prefix + pattern, Answer, {"desk": desk, "ask": ask, "kind": kind, "keep": keep})

    def order(pattern: str, ask: Callable[..., Any]) -> Any:
        return (prefix + pattern, Order, {"desk": desk, "ask": ask, "kind": "application/json", "keep": False})

    name = r"([^/]+)"
    return [
        rule("start.json", Desk.start), rule("state.json", Desk.state),
        rule(rf"tile/{name}/(\w+)/{name}/(\w+)/(\d+)/(\d+)/(\d+)\.png", tile, "image/png", True),
        rule("legend.json", lambda d, map, colour, theme: d.legend(map, colour, theme)),
        rule("tap.json", lambda d, map, x, y, r: d.tap(map, float(x), float(y), float(r))),
        rule("where.json", lambda d, map, rows: d.where(map, [int(r) for r in rows.split(",")])),
        rule(r"object/(\d+)\.json", lambda d, row: d.card(int(row))),
        rule(r"picture/(\d+)/(\d+)\.png", lambda d, row, i: d.picture(int(row), int(i)), "image/png", True),
        rule(r"spectrum/(\d+)/(\d+)\.bin", lambda d, row, i: d.spectrum(int(row), int(i)), "application/octet-stream", True),
        rule(r"near/(\d+)\.json", near),
        rule("find.json", lambda d, q: d.find(q)), rule("surprise.json", lambda d, seed: {"row": d.surprise(int(seed))}),
        order(r"generate/(\d+)\.json", lambda d, row, source, seed, visitor: d.generate(int(row), source, int(seed), visitor)),
        order(r"stop/([\w-]+)\.json", lambda d, run, visitor: d.runs.stop(run, visitor)),
        rule(r"run/([\w-]+)\.json", lambda d, run, visitor: d.runs.state(run, visitor)),
        rule(r"run/([\w-]+)/([\w.-]+)\.png", lambda d, run, name: d.runs.file(run, f"{name}.png"), "image/png", True),
        rule(r"run/([\w-]+)/([\w.-]+)\.bin", lambda d, run, name: d.runs.file(run, f"{name}.bin"),
             "application/octet-stream", True),
        (prefix + r"static/(.*)", Static, {"path": str(STATIC)}),
    ]
