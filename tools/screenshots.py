"""The README's pictures, taken from the running app: `make screenshots`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from tools.browser import find

OUT = Path(__file__).resolve().parents[1] / "assets" / "screenshots"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")
SHOTS = {  # name -> width, height, address
    "explore": (1440, 900, "?map=umap-image&c=z&near=image-spectrum"),
    "explore-light": (1280, 720, "?map=umap-spectrum&c=class&near=spectrum-image&theme=light"),
}
READY = "window.omnisky && omnisky.now && !omnisky.now.progress.running && omnisky.answer && omnisky.map.sharp"


def wait_for(address: str, seconds: float = 120.0) -> None:
    """Until the server answers. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(address, timeout=5)
            return
        except OSError:
            time.sleep(0.5)
    raise TimeoutError(f"{address} did not answer within {seconds:.0f} s")


def shoot(page: Page, address: str, path: Path) -> None:
    page.goto(address)
    page.wait_for_function(READY, timeout=600_000)
    page.wait_for_function("[...document.querySelectorAll('*')].every(e => !e.shadowRoot || "
                           "[...e.shadowRoot.querySelectorAll('img')].every(i => i.complete))")
    page.wait_for_timeout(1500)
    page.screenshot(path=str(path))
    print(f"{path.name}: {path.stat().st_size // 1024} kB")


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--port", type=int, default=5016)
    arguments.add_argument("--objects", type=int, default=3000)
    asked = arguments.parse_args()
    OUT.mkdir(parents=True, exist_ok=True)
    address = f"http://localhost:{asked.port}/"
    server = subprocess.Popen([sys.executable, "-m", "explorer.cli", "demo", "--no-browser", "--port", str(asked.port),
                               "--objects", str(asked.objects)])
    try:
        wait_for(address)
        with sync_playwright() as p:
            browser = p.chromium.launch(executable_path=find(), args=list(FLAGS))
            for name, (width, height, query) in SHOTS.items():
                page = browser.new_page(viewport={"width": width, "height": height})
                shoot(page, address + query, OUT / f"{name}.png")
                page.close()
            browser.close()
    finally:
        server.terminate()
        server.wait(10)


if __name__ == "__main__":
    main()
