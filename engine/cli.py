"""`omnisky VERB`: from files to a sky, from a sky to vectors and a map, and the app on top of it."""

from __future__ import annotations

import logging
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any

import typer

from engine import __version__
from engine.console import DATA_ERROR, USAGE_ERROR, follow, one_sentence, report

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A foundation model of the sky in an astronomer's hands.\n\n"
    "Start with `omnisky demo`, or with your own files: ingest, embed, index, map, serve.",
)

SkyFolder = Annotated[Path, typer.Argument(help="The sky: a folder that ends in .sky by custom.", metavar="SKY")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON lines, for scripts.")]
Model = Annotated[Path | None, typer.Option(help="Folder of the model; the shipped AstroCLIP when left out.")]


def _version(value: bool) -> None:
    if value:
        typer.echo(f"omnisky {__version__}")
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Say more, with tracebacks.")] = False,
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="%(name)s: %(message)s")


@app.command()
def ingest(
    sky: SkyFolder,
    files: Annotated[list[Path], typer.Argument(help="Files and folders (searched recursively) to read.")],
    survey: Annotated[str | None, typer.Option(help="The survey they come from, where the files do not say it.")] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="Keep every bit of the pixels (skies grow 3-4 times).")] = False,
    json: Json = False,
) -> None:
    """Read survey files into a sky. Run again to go on or to add files; a file read twice is stored once."""
    from engine import jobs
    from engine.io.surveys import SURVEYS

    if survey is not None and survey not in SURVEYS:
        known = ", ".join(SURVEYS)
        raise typer.BadParameter(f"{survey!r} is not a survey we know; choose one of {known}", param_hint="--survey")
    missing = [str(f) for f in files if not f.exists()]
    if missing:
        raise typer.BadParameter(f"no such file or folder: {', '.join(missing)}", param_hint="FILES")
    with one_sentence():
        outcome = follow(jobs.ingest(sky, files, survey=survey, lossless=lossless), json)
    bad = (outcome.preview or {}).get("bad", []) if outcome else []
    for path, sentence in bad:
        typer.echo(sentence if str(path) in sentence else f"{path}: {sentence}", err=True)
    if bad:
        raise typer.Exit(DATA_ERROR)


@app.command()
def embed(sky: SkyFolder, model: Model = None, json: Json = False) -> None:
    """Turn every object into vectors, one a space (image, spectrum). Stops and goes on at any object."""
    from engine import jobs

    with one_sentence():
        follow(jobs.embed(sky, model), json)


@app.command()
def index(sky: SkyFolder, json: Json = False) -> None:
    """Build the search index of every space (exact under 200,000 objects, inverted lists above)."""
    from engine import jobs

    with one_sentence():
        follow(jobs.index(sky), json)


@app.command("map")
def map_(
    sky: SkyFolder,
    space: Annotated[str, typer.Option(help="Which vectors to lay out.")] = "image",
    kind: Annotated[str, typer.Option(help="umap or pca.")] = "umap",
    json: Json = False,
) -> None:
    """Lay the objects out in two dimensions. Objects that came later are placed by their neighbours."""
    from engine import jobs

    if kind not in ("umap", "pca"):
        raise typer.BadParameter(f"{kind!r} is neither umap nor pca", param_hint="--kind")
    with one_sentence():
        follow(jobs.map(sky, space=space, kind=kind), json)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="What to train: astroclip-demo, or tiny for a try.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run (runs/RECIPE): checkpoints, loss curve, model.")] = None,
    json: Json = False,
) -> None:
    """Train a model from nothing. A run that was killed goes on where it stopped."""
    from engine import train as training

    with one_sentence():
        follow(training.run(recipe, out or Path("runs") / recipe), json)


@app.command()
def evaluate(
    task: Annotated[str, typer.Argument(help="Which table: astroclip.")] = "astroclip",
    model: Model = None,
    objects: Annotated[int, typer.Option(help="Test objects, never trained on.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the test sky.")] = 2027,
    json: Json = False,
) -> None:
    """Measure a model on a simulated sky with a new seed, beside plain baselines."""
    from engine import evaluate as evaluation

    if task != "astroclip":
        raise typer.BadParameter(f"{task!r} is not a table we know; choose astroclip", param_hint="TASK")
    with one_sentence():
        typer.echo(evaluation.astroclip(model, objects=objects, seed=seed, as_json=json))


@app.command()
def export(
    sky: SkyFolder,
    out: Annotated[Path, typer.Argument(help="Folder to write.")],
    hats: Annotated[bool, typer.Option("--hats", help="A HATS catalogue: sorted and partitioned by HEALPix.")] = False,
    json: Json = False,
) -> None:
    """Write the catalogue of a sky for other tools."""
    from engine import store

    if not hats:
        raise typer.BadParameter("say which format: --hats", param_hint="--hats")
    with one_sentence():
        rows = store.Store(sky).export_hats(out)
    report({"written": str(out), "rows": rows}, json)


@app.command()
def doctor(json: Json = False) -> None:
    """Say what is installed, which device models run on, and what is wrong."""
    from engine import doctor as checks

    facts, problems = checks.examine()
    report({**facts, "problems": problems or "none"} if json else facts, json)
    if not json:
        for problem in problems:
            typer.echo(f"Problem: {problem}", err=True)
    if problems:
        raise typer.Exit(DATA_ERROR)


def _add_verbs_of_other_packages() -> None:
    """Verbs that live above the engine (serve, demo) announce themselves as entry points: the engine never imports them."""
    for point in sorted(entry_points(group="omnisky.verbs"), key=lambda p: p.name):
        app.command(point.name)(point.load())


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line. Exit codes: 0 done, 1 the data are wrong, 2 wrong usage, 130 stopped by hand."""
    _add_verbs_of_other_packages()
    return app(args=arguments)


__all__ = ["DATA_ERROR", "USAGE_ERROR", "app", "main"]

if __name__ == "__main__":
    main()
