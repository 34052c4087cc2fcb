"""Finds a Chromium for the browser tests; installs one where that is possible, and says which."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "microsoft-edge")


def system_browser() -> str | None:
    """Path of a Chromium-like browser: the one named in OMNISKY_CHROMIUM, else the first found on PATH."""
    chosen = os.environ.get("OMNISKY_CHROMIUM")
    if chosen:
        return chosen if os.access(chosen, os.X_OK) else None
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def playwright_browser() -> str | None:
    """Path of the Chromium that Playwright downloaded earlier, if it did."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as p:
        path = p.chromium.executable_path
    return path if os.access(path, os.X_OK) else None


def find() -> str | None:
    return system_browser() or playwright_browser()


def install() -> None:
    """Debian's package where apt and root allow it, else Playwright's download."""
    if shutil.which("apt-get") and os.geteuid() == 0:
        print("[browser] installing Debian's chromium")
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run(["apt-get", "update", "-qq"], check=False, env=quiet, stdout=subprocess.DEVNULL)
        done = subprocess.run(["apt-get", "install", "-y", "-qq", "chromium"], check=False, env=quiet,
                              stdout=subprocess.DEVNULL)
        if done.returncode == 0:
            return
    print("[browser] downloading Playwright's Chromium")
    subprocess.run([sys.executable, "-m", "playwright", "install", "chromium"], check=False)


def main() -> int:
    if find() is None:
        install()
    path = find()
    if path is None:
        print("No Chromium was found or could be installed, so the browser tests cannot run. Install Chromium or Chrome, "
              "or set OMNISKY_CHROMIUM to its path.", file=sys.stderr)
        return 1
    print(f"[browser] {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
