"""How the command line speaks: a bar or JSON lines for long work, one sentence for an error, plain exit codes."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import typer

from engine.steps import Step

DATA_ERROR, USAGE_ERROR = 1, 2


def follow(steps: Iterator[Step], as_json: bool = False) -> Step | None:
    """Run the work to its end, showing each Step: a bar on a terminal, lines elsewhere, JSON lines with ``as_json``.

    Ctrl-C closes the generator, so the work stops at a whole batch and can go on later. Returns the last Step.
    """
    last: Step | None = None
    try:
        if as_json or not sys.stderr.isatty():
            for last in steps:
                _line(last, as_json)
        else:
            last = _bar(steps)
    except KeyboardInterrupt:
        typer.echo("\nStopped. What was done is kept; run the same command to go on.", err=True)
        raise typer.Exit(130) from None
    finally:
        close = getattr(steps, "close", None)
        if close is not None:
            close()
    return last


def _line(step: Step, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"fraction": round(step.fraction, 4), "note": step.note}))
        sys.stdout.flush()
    else:
        typer.echo(f"{100 * step.fraction:5.1f} %  {step.note}", err=True)


def _bar(steps: Iterator[Step]) -> Step | None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    last: Step | None = None
    columns = (BarColumn(40), TextColumn("{task.percentage:5.1f} %"), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=1.0)
        for last in steps:
            progress.update(task, completed=last.fraction, description=last.note.replace("[", r"\["))
    return last


def report(facts: dict[str, Any], as_json: bool) -> None:
    """Print what a command found: aligned lines for people, one JSON object for scripts."""
    if as_json:
        typer.echo(json.dumps(facts, default=str))
        return
    width = max((len(name) for name in facts), default=0)
    for name, value in facts.items():
        typer.echo(f"{name:<{width}}  {value}")


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn an error that the user can mend into one sentence on stderr and exit code 1; with -v, the traceback too."""
    try:
        yield
    except (ValueError, KeyError, OSError) as error:
        logging.getLogger("omnisky").info("the error in full", exc_info=True)
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        typer.echo(f"Error: {text}", err=True)
        raise typer.Exit(DATA_ERROR) from None
