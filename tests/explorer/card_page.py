"""A browser on the card's small sky: the page, and all that went wrong while it was open."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
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

    def wait_for(self, row_id: str) -> None:
        self.page.wait_for_function("id => omnisky.state.id === id && omnisky.times.neighbours > 0", arg=row_id)


@contextmanager
def server(sky: Path) -> Iterator[str]:
    """The app in a process of its own, as users run it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-c", SERVE, str(sky), str(port)], cwd=ROOT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            if process.poll() is not None:
                raise RuntimeError((process.stderr.read() if process.stderr else b"").decode())
            try:
                urlopen(address, timeout=5).close()
                break
            except (URLError, OSError):
                time.sleep(0.1)
        yield address
    finally:
        process.terminate()
        process.wait(20)


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
