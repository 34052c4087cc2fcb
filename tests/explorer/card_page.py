"""A browser on the card's small sky: the page, and all that went wrong while it was open."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).resolve().parents[2]
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
SERVE = "import sys; from explorer.app import serve; from explorer.desk import Desk; "\
        "serve(Desk(sys.argv[1]), port=int(sys.argv[2]))"


def until(true: Callable[[], Any], seconds: float = 60, what: str = "it", pause: Callable[[float], None] = time.sleep) -> None:
    """Asks again and again until it is so; fails if that takes too long."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"{what}: not within {seconds:.0f} s"
        pause(0.05)


@dataclass
class Visit:
    """page: Playwright's; address: of the server; trouble: console errors, failed and foreign requests."""

    page: Any
    address: str
    trouble: list[str] = field(default_factory=list)

    def open(self, row_id: str, **query: str) -> None:
        asked = "&".join([f"o={row_id}", *(f"{k}={v}" for k, v in query.items())])
        self.page.goto(f"{self.address}/?{asked}")
        self.page.wait_for_function("id => window.omnisky?.state.id === id && omnisky.times.neighbours > 0", arg=row_id)

    def chosen(self) -> str:
        return str(self.page.evaluate("omnisky.state.id"))

    def until(self, true: Callable[[], Any]) -> None:
        """While what the page does, and what tests do for it, goes on."""
        until(true, pause=lambda seconds: self.page.wait_for_timeout(1000 * seconds))

    def wait_for(self, row_id: str) -> None:
        self.page.wait_for_function("id => omnisky.state.id === id && omnisky.times.neighbours > 0", arg=row_id)


@contextmanager
def server(sky: Path) -> Iterator[str]:
    """The app in a process of its own, as users run it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryFile("w+") as complaints:  # a pipe that no one reads would stop the server when it is full
        process = subprocess.Popen([sys.executable, "-c", SERVE, str(sky), str(port)], cwd=ROOT, stdout=subprocess.DEVNULL,
                                   stderr=complaints, env={**os.environ, "OMP_NUM_THREADS": "1"})
        try:
            until(lambda: process.poll() is not None or answers(address), 300, "the server's answer")  # others are at work, too
            if process.poll() is not None:
                complaints.seek(0)
                raise RuntimeError(complaints.read())
            yield address
        finally:
            process.terminate()
            process.wait(20)


def answers(address: str) -> bool:
    try:
        urlopen(address, timeout=5).close()
    except (URLError, OSError):
        return False
    return True


@contextmanager
def visit(address: str) -> Iterator[Visit]:
    """A fresh page; skips where there is no browser."""
    sync_api = pytest.importorskip("playwright.sync_api")
    chromium = next((p for n in ("chromium", "google-chrome", "chrome") if (p := shutil.which(n))), None)
    with sync_api.sync_playwright() as playwright:
        try:
            browser = playwright.chromium.launch(executable_path=chromium, args=QUIET)
        except sync_api.Error as error:
            pytest.skip(f"no browser can be started: {str(error).splitlines()[0]}")
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.set_default_timeout(20_000)
        seen = Visit(page, address)
        page.on("console", lambda m: seen.trouble.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda e: seen.trouble.append(str(e)))
        page.on("request", lambda r: None if r.url.startswith((address, "data:", "blob:")) or "127.0.0.1" in r.url
                else seen.trouble.append(f"left the machine: {r.url}"))
        page.on("response", lambda r: seen.trouble.append(f"{r.status} {r.url}") if r.status >= 400 else None)
        yield seen
        browser.close()
