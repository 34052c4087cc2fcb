"""The command `omnisky`: the engine's verbs, and the two that open the page."""

from __future__ import annotations

import json
import sys
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from engine.cli import app
from engine.console import one_sentence

if TYPE_CHECKING:
    from explorer.desk import Desk

LOCAL = ("127.0.0.1", "localhost")
Port = Annotated[int, typer.Option(help="Where the page answers.", min=1, max=65535)]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Do not open a browser.")]
Model = Annotated[Path | None, typer.Option(help="A folder with a model; the one shipped with Omnisky if left out.")]


def demo_folder(objects: int, seed: int) -> Path:
    """Where the demo sky of this size and seed is kept; another simulator, and another shipped model, make another sky."""
    from platformdirs import user_data_path

    from engine.demo_sky import VERSION
    from engine.model_files import SHIPPED

    return user_data_path("omnisky") / f"{SHIPPED.name}-v{VERSION}-{seed}-{objects}.sky"


@app.command()
def demo(
    objects: Annotated[int, typer.Option(help="How many objects the simulated survey has.", min=10)] = 3000,
    port: Port = 5006,
    no_browser: NoBrowser = False,
    seed: Annotated[int, typer.Option(help="Of the simulated sky.")] = 2026,
    folder: Annotated[Path | None, typer.Option(help="Where the sky is kept; by default among your user data.")] = None,
    model: Model = None,
) -> None:
    """Simulate a survey, embed it, and open its map: the page is there at once, the map follows by itself.

    The second start finds everything done. Stop with Ctrl-C; run again to go on.
    """
    from explorer.app import serve
    from explorer.desk import Desk
    from explorer.startup import Work

    path = folder or demo_folder(objects, seed)
    with one_sentence():
        path.parent.mkdir(parents=True, exist_ok=True)
        desk = Desk(path, model)

        def ready(address: str) -> None:
            said(address, no_browser)
            if not done(desk, objects, model):
                Work(desk, "demo", objects=objects, seed=seed, model=None if model is None else str(model))

        until_stopped(lambda: serve(desk, port=port, ready=ready))


@app.command("serve")
def serve_sky(
    sky: Annotated[Path, typer.Argument(help="The sky to show.", metavar="SKY")],
    port: Port = 5006,
    host: Annotated[str, typer.Option(help="Where to answer; any but 127.0.0.1 needs --login or --public.")] = "127.0.0.1",
    login: Annotated[Path | None, typer.Option(help='A JSON file of user names and passwords: {"ada": "secret"}.')] = None,
    public: Annotated[bool, typer.Option("--public", help="Anyone who reaches the address may look.")] = False,
    no_browser: NoBrowser = False,
    model: Model = None,
) -> None:
    """Show a sky in the browser. What it lacks (vectors, maps, indexes) is made while the page is open."""
    if host not in LOCAL and not (login or public):
        raise typer.BadParameter(f"{host} can be reached from other machines: add --login FILE, or --public if anyone may look",
                                 param_hint="--host")
    if login is not None:
        check_login(login)
    from explorer.app import serve
    from explorer.desk import Desk
    from explorer.startup import Work, needs_work

    with one_sentence():
        desk = Desk(sky, model)
        if not desk.there:
            raise FileNotFoundError(f"{sky} is not a sky; make one with: omnisky ingest {sky} FILES")

        def ready(address: str) -> None:
            said(address, no_browser)
            if needs_work(desk):
                Work(desk, "prepare", model=None if model is None else str(model))

        until_stopped(lambda: serve(desk, host=host, port=port, login=login, ready=ready))


def check_login(path: Path) -> None:
    """Raises typer.BadParameter unless the file holds names and passwords."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise typer.BadParameter(f"{path} cannot be read as JSON ({error})", param_hint="--login") from error
    if not isinstance(content, dict) or not content or not all(isinstance(v, str) and v for v in content.values()):
        raise typer.BadParameter(f'{path} must hold names and passwords, such as {{"ada": "secret"}}', param_hint="--login")


def done(desk: Desk, objects: int, model: Path | None) -> bool:
    """Whether the demo sky is complete, with vectors of this model."""
    from engine.model_files import model_of, vectors_checksum
    from explorer.startup import needs_work

    if not desk.there or len(desk.sky) < objects or needs_work(desk):
        return False
    known = {desk.sky.embeddings(space).manifest["checksum"] for space in desk.sky.spaces}
    return known == {vectors_checksum(model_of(desk.path) if model is None else model, desk.path)}


def said(address: str, no_browser: bool) -> None:
    typer.echo(f"Omnisky is at {address}   (Ctrl-C stops it)")
    sys.stdout.flush()
    if not no_browser:
        webbrowser.open(address)


def until_stopped(run: Any) -> None:
    try:
        run()
    except KeyboardInterrupt:
        typer.echo("\nStopped. Run the same command to go on.", err=True)


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line."""
    return app(args=arguments)


if __name__ == "__main__":
    main()
