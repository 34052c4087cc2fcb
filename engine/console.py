"""How the command line speaks: a bar or JSON lines for long work, one sentence for an error, plain exit codes."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Annotated, Any

import typer

from engine.steps import Step

DATA_ERROR, USAGE_ERROR, STOPPED = 1, 2, 130
BLOCKS = "▁▂▃▄▅▆▇█"


def _verbose(value: bool) -> None:
    if value:
        logging.getLogger().setLevel(logging.INFO)


Json = Annotated[bool, typer.Option("--json", help="Print JSON lines, for scripts.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", callback=_verbose, help="Say more; tracebacks of errors.")]


def follow(steps: Iterator[Step], as_json: bool = False, curve: str | None = None) -> Step | None:
    """Run the work to its end, showing each Step: a bar on a terminal, lines elsewhere, JSON lines with ``as_json``.

    curve: the number in the Steps' previews that is drawn beside the bar. Ctrl-C closes the generator, so the work stops at
    a whole batch and can go on later. Of the processes that torchrun started only the first speaks. Returns the last Step.
    """
    last: Step | None = None
    try:
        if os.environ.get("RANK", "0") != "0":
            for step in steps:
                last = step
        elif as_json or not sys.stderr.isatty():
            for last in steps:
                _line(last, as_json)
        else:
            last = _bar(steps, curve)
    except KeyboardInterrupt:
        typer.echo("\nStopped. What was done is kept; run the same command to go on.", err=True)
        raise typer.Exit(STOPPED) from None
    finally:
        close = getattr(steps, "close", None)
        if close is not None:
            close()
    return last


def _line(step: Step, as_json: bool) -> None:
    if as_json:
        more = step.preview if isinstance(step.preview, Mapping) else {} if step.preview is None else {"result": step.preview}
        typer.echo(json.dumps({"fraction": round(step.fraction, 4), "note": step.note, **more}, default=str))
        sys.stdout.flush()
    else:
        typer.echo(f"{100 * step.fraction:5.1f} %  {step.note}", err=True)


def _bar(steps: Iterator[Step], curve: str | None) -> Step | None:
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    last: Step | None = None
    values: list[float] = []
    columns = (BarColumn(40), TextColumn("{task.percentage:5.1f} %"), TimeRemainingColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=1.0)
        for last in steps:
            if curve is not None and isinstance(last.preview, Mapping) and curve in last.preview:
                values.append(float(last.preview[curve]))
            progress.update(task, completed=last.fraction, description=f"{sparkline(values)} {escape(last.note)}".lstrip())
    return last


def sparkline(values: Sequence[float], width: int = 24) -> str:
    """A curve in one line of text: the lowest value the lowest block, means where there are more values than blocks."""
    if not values:
        return ""
    cuts = [round(i * len(values) / min(width, len(values))) for i in range(min(width, len(values)) + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(cuts)]
    low, span = min(means), max(means) - min(means)
    return "".join(BLOCKS[round((m - low) / span * (len(BLOCKS) - 1)) if span > 0 else 0] for m in means)


def report(facts: dict[str, Any], as_json: bool) -> None:
    """Print what a command found: aligned lines for people, one JSON object for scripts."""
    if as_json:
        typer.echo(json.dumps(facts, default=str))
        return
    width = max((len(name) for name in facts), default=0)
    for name, value in facts.items():
        typer.echo(f"{name:<{width}}  {value}")


def table(rows: Sequence[Mapping[str, Any]], formats: Mapping[str, str]) -> str:
    """Rows as aligned columns with a heading, in the order of the first appearance; what a row lacks stays blank."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[format(row[n], formats.get(n, "")) if n in row else "" for n in names] for row in rows]
    widths = [max(len(n), *(len(c[i]) for c in cells)) for i, n in enumerate(names)]
    left = [any(isinstance(row.get(n), str) for row in rows) for n in names]
    lines = [[f"{c:<{w}}" if to_left else f"{c:>{w}}" for c, w, to_left in zip(line, widths, left, strict=True)]
             for line in [names, *cells]]
    return "\n".join("  ".join(line).rstrip() for line in lines)


@contextmanager
def one_sentence() -> Iterator[None]:
    """Turn an error that the user can mend into one sentence on stderr and exit code 1 (with -v, the traceback too), a warning
    into one without the line of ours that gave it, and Ctrl-C into exit code 130."""
    try:
        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *_, **__: typer.echo(f"Warning: {message}", err=True)
            yield
    except (ValueError, KeyError, OSError) as error:
        logging.getLogger("omnisky").info("the error in full", exc_info=True)
        text = error.args[0] if isinstance(error, KeyError) and error.args else error
        typer.echo(f"Error: {text}", err=True)
        raise typer.Exit(DATA_ERROR) from None
    except KeyboardInterrupt:
        typer.echo("\nStopped.", err=True)
        raise typer.Exit(STOPPED) from None
