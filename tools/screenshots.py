"""The README's pictures, taken from the running app: `make screenshots`."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from tools.browser import find

OUT = Path(__file__).resolve().parents[1] / "assets" / "screenshots"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync")
SHOTS = {  # name -> width, height, address, whether something is generated first
    "explore": (1440, 900, "?map=umap-image&c=z&near=image-spectrum&o=demo-002507", False),
    "generate": (1440, 900, "?map=umap-spectrum&c=class&near=spectrum-image&theme=light&o=demo-000488", True),
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


def shoot(page: Page, address: str, path: Path, generate: bool) -> None:
    page.goto(address)
    page.wait_for_function(READY, timeout=600_000)
    if generate:
        page.evaluate("omnisky.card.generate.start()")
        page.wait_for_function("omnisky.card.generate.status === 'done'", timeout=300_000)
        page.evaluate("omnisky.card.generate.root.scrollIntoView()")
    page.wait_for_function("[...document.querySelectorAll('*')].every(e => !e.shadowRoot || "
                           "[...e.shadowRoot.querySelectorAll('img')].every(i => i.complete))")
    page.wait_for_timeout(1500)
    page.screenshot(path=str(path))
    Image.open(path).quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)  # assets are kept small
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
            for name, (width, height, query, generate) in SHOTS.items():
                page = browser.new_page(viewport={"width": width, "height": height})
                shoot(page, address + query, OUT / f"{name}.png", generate)
                page.close()
            browser.close()
    finally:
        server.terminate()
        server.wait(10)


if __name__ == "__main__":
    main()
