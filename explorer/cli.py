"""The verbs of the app: `omnisky serve` shows a sky, `omnisky demo` makes one first and shows it while it grows."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from engine.console import one_sentence

log = logging.getLogger("omnisky")

Port = Annotated[int, typer.Option(help="Port to answer on.")]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")]


def serve(
    sky: Annotated[Path, typer.Argument(help="The sky to show.", metavar="SKY")],
    port: Port = 5006,
    host: Annotated[str, typer.Option(help="Address; others than 127.0.0.1 need --login or --public.")] = "127.0.0.1",
    login: Annotated[str | None, typer.Option(help="NAME: ask visitors for this name and a password (from OMNISKY_PASSWORD, "
                                                   "or typed once here).")] = None,
    public: Annotated[bool, typer.Option("--public", help="Let anyone in who can reach the address.")] = False,
    no_browser: NoBrowser = False,
) -> None:
    """Show a sky in the browser: the map, the card of an object, what resembles it."""
    if host not in ("127.0.0.1", "localhost", "::1") and not (login or public):
        raise typer.BadParameter(f"{host} can be reached by others: add --login NAME, or --public to let anyone in",
                                 param_hint="--host")
    with one_sentence():
        from explorer import app

        app.serve(sky, host=host, port=port, login=login, open_browser=not no_browser)


def demo(
    objects: Annotated[int, typer.Option(help="How many objects to simulate.", min=1)] = 3000,
    port: Port = 5006,
    seed: Annotated[int, typer.Option(help="Seed of the simulated sky.")] = 1,
    sky: Annotated[Path | None, typer.Option(help="Where to keep it (demo.sky, or demo-SEED.sky for another seed).")] = None,
    no_browser: NoBrowser = False,
) -> None:
    """Make a simulated sky and roam it while it grows. The second time it is there at once."""
    folder = sky or Path("demo.sky" if seed == 1 else f"demo-{seed}.sky")
    with one_sentence():
        from explorer import app, jobs

        command = ("engine.demo", str(folder), "--objects", str(objects), "--seed", str(seed), "--json")
        app.serve(folder, port=port, open_browser=not no_browser, jobs=jobs.Background(*command))
