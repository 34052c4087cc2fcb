"""`omnisky VERB`: from survey files to a sky."""

from __future__ import annotations

import logging
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
    "Start with `omnisky ingest my.sky FILES`.",
)

SkyFolder = Annotated[Path, typer.Argument(help="The sky: a folder that ends in .sky by custom.", metavar="SKY")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON lines, for scripts.")]


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


def main(arguments: list[str] | None = None) -> Any:
    """Run the command line. Exit codes: 0 done, 1 the data are wrong, 2 wrong usage, 130 stopped by hand."""
    return app(args=arguments)


__all__ = ["DATA_ERROR", "USAGE_ERROR", "app", "main"]

if __name__ == "__main__":
    main()
