"""The Panel app: one page on one sky, served on this machine only unless asked otherwise."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import panel as pn
import param
from panel.custom import JSComponent
from tornado.web import RequestHandler

from engine import tiles, zorder
from explorer.desk import Desk
from explorer.routes import STATIC, routes

TEMPLATE = """
{% extends base %}
{% block preamble %}<link rel="icon" type="image/svg+xml" href="favicon.svg">{% endblock %}
{% block contents %}
<style>html, body { margin: 0; height: 100%; background: #0e1116; } #sky { position: fixed; inset: 0; }</style>
<div id="sky">{{ embed(roots.sky) }}</div>
{% endblock %}
"""


class SkyView(JSComponent):
    """The page as a component. base: where the desk's answers are; row: the chosen object, both ways; page: whether the
    browser's address belongs to it."""

    base = param.String()
    row = param.Integer(default=None, allow_None=True)
    page = param.Boolean(default=False)

    _esm = """
export async function render({ model, el }) {
  Object.assign(el.style, { width: "100%", height: "100%" });
  const { start } = await import(new URL(model.base + "static/desk.js", location.href).href);
  const app = await start({ model, el, page: model.page });
  model.on("row", () => { if (model.row !== null && model.row !== app.state.row) { app.go(model.row); } });
}
"""


class Favicon(RequestHandler):
    """The browser asks for it unasked."""

    def get(self) -> None:
        self.set_header("Content-Type", "image/svg+xml")
        self.finish((STATIC / "favicon.svg").read_bytes())


def warm_up() -> None:
    """Compile what the first gestures need, beside the start of the server."""
    zorder.warm_up()
    tiles.warm_up()


def page(base: str) -> Callable[[], Any]:
    """What Panel calls for each visitor."""
    def visit() -> Any:
        template = pn.Template(TEMPLATE)
        template.add_panel("sky", SkyView(base=base, page=True, sizing_mode="stretch_both"))
        return template

    return visit


def free_port(host: str, port: int) -> None:
    """Raises ValueError if something else listens there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ValueError(f"port {port} on {host} cannot be used ({error.strerror}); choose another with --port") from error


def serve(desk: Desk, host: str = "127.0.0.1", port: int = 5006, login: Path | None = None,
          ready: Callable[[str], None] | None = None, **options: Any) -> Any:
    """Serve the page until stopped. login: a JSON file of user names and passwords; ready: called with the address.

    Raises ValueError if the port is taken.
    """
    free_port(host, port)
    threading.Thread(target=warm_up, daemon=True).start()
    prefix = f"sky/{secrets.token_urlsafe(16)}/"
    patterns = [*routes(desk, "/" + prefix), (r"/favicon\.(?:ico|svg)", Favicon)]
    if login is not None:
        options |= {"basic_auth": str(login), "cookie_secret": secrets.token_hex(32)}
    origins = [f"{host}:{port}", f"localhost:{port}"] if host in ("127.0.0.1", "localhost") else ["*"]
    if ready is not None:
        threading.Timer(0.1, ready, [f"http://{'localhost' if host == '127.0.0.1' else host}:{port}/"]).start()
    return pn.serve({"/": page(prefix)}, address=host, port=port, show=False, title="Omnisky", websocket_origin=origins,
                    extra_patterns=patterns, verbose=False, **options)
