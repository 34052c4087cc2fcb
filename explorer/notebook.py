"""The page in a notebook: one small server in a thread of this process, and the component that asks it."""

from __future__ import annotations

import asyncio
import secrets
import sys
import threading
from pathlib import Path

import panel as pn
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application

import engine
from engine.sky import Sky
from explorer.app import SkyView
from explorer.desk import Desk
from explorer.routes import routes


def view(sky: Sky | str | Path, height: int) -> SkyView:
    """See `explorer.view`."""
    _load()
    desk = Desk.of(sky if isinstance(sky, Sky) else engine.open(sky))
    prefix = f"/sky/{secrets.token_urlsafe(16)}/"
    port = listen(Application(routes(desk, prefix)))
    return SkyView(base=f"http://127.0.0.1:{port}{prefix}", height=height, sizing_mode="stretch_width")


def _load() -> None:
    """Panel's scripts, from this machine (in a notebook Panel would fetch them from afar), and with every view, since a page
    that was reloaded has lost them."""
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if hasattr(shell, "kernel"):
        pn.extension(inline=True)


def listen(application: Application) -> int:
    """Serve on a free port of 127.0.0.1 from a thread of its own; returns the port."""
    [socket] = bind_sockets(0, "127.0.0.1")

    def run() -> None:
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        HTTPServer(application).add_socket(socket)
        loop.run_forever()

    threading.Thread(target=run, name="omnisky-notebook", daemon=True).start()
    return int(socket.getsockname()[1])
