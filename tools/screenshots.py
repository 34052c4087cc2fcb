"""Takes the README's pictures from the running app: 1440x900 and 1280x720, dark and light, of the demo sky."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from playwright.sync_api import Page, sync_playwright  # noqa: E402

from tools.browser import find  # noqa: E402

FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync"]
SHOTS = [("explore-dark", 1440, 900, "dark"), ("explore-light", 1440, 900, "light"), ("projector-dark", 1280, 720, "dark")]


def wait_for_map(url: str, seconds: float = 240.0) -> None:
    """Wait until the server answers; the page itself turns into the map."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            urllib.request.urlopen(url, timeout=2).close()
            return
        except OSError:
            time.sleep(0.3)
    raise TimeoutError(f"the app did not answer at {url} within {seconds:.0f} s")


def shoot(page: Page, path: Path) -> None:
    page.wait_for_function("document.body.dataset.omnisky === 'ready'", timeout=240_000)
    page.wait_for_timeout(2500)  # tiles and pictures of the neighbours
    page.screenshot(path=path)
    print(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--objects", type=int, default=3000)
    parser.add_argument("--port", type=int, default=5077)
    parser.add_argument("--out", type=Path, default=ROOT / "assets" / "screenshots")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    url = f"http://127.0.0.1:{chosen.port}/"
    command = [sys.executable, "-m", "engine.cli", "demo", "--no-browser", "--objects", str(chosen.objects),
               "--port", str(chosen.port)]
    server = subprocess.Popen(command, cwd=ROOT)
    try:
        wait_for_map(url)
        with sync_playwright() as p:
            browser = p.chromium.launch(executable_path=find(), args=FLAGS)
            for name, width, height, theme in SHOTS:
                page = browser.new_page(viewport={"width": width, "height": height})
                page.goto(f"{url}?theme={theme}")
                shoot(page, chosen.out / f"{name}.png")
                page.close()
            browser.close()
    finally:
        server.terminate()
        server.wait(timeout=20)
    return 0


if __name__ == "__main__":
    sys.exit(main())
