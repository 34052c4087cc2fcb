"""`python -m tools.bench.reference`: ours beside AION-1's own package (polymathic-aion 0.0.2), in one run and by turns.

Random weights of the published sizes are saved by the reference and loaded by both. Seconds are medians by the clock of repeats
that take turns; on a machine that others use too, compare the ratios of processor time with --threads 1. The share of a plain
matrix product says how much a faster program could still gain.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from tools.bench.reference_lines import Line, machine

PARTS = ("computing", "loading", "codecs", "sky")


@dataclass(frozen=True)
class Target:
    """The most that a ratio may be; least, most: bounds of other figures of a line."""

    ratio: float
    least: Mapping[str, float] = field(default_factory=dict)
    most: Mapping[str, float] = field(default_factory=dict)


def targets(on: Mapping[str, Any]) -> dict[tuple[str, str], Target]:
    """Task (without its number of objects) and program -> what it must reach on a machine with these features."""
    half = {"bfloat16": 0.25 if on["amx"] else 0.33} if on["fast_bfloat16"] else {}
    equal, near = {"equal tokens": 0.93}, {"off by (sigma)": 0.1}
    found = {
        "tok_image -> context": {"float32": Target(0.85)} | {name: Target(ratio) for name, ratio in half.items()},
        "tok_image -> tok_z": {"float32": Target(0.85)} | {name: Target(ratio) for name, ratio in half.items()},
        "tok_spectrum_desi -> tok_image": {name: Target(0.35) for name in half},
        "encode images": {"exact": Target(0.9, {"equal tokens": 0.999}), "fast": Target(0.5, equal)},
        "decode images": {"exact": Target(0.9, most={"off by (sigma)": 1e-3}), "fast": Target(0.5, most=near)},
        "encode spectra": {"exact": Target(0.8, {"equal tokens": 0.999}), "fast": Target(0.5)},
        "decode spectra": {"exact": Target(0.8, most={"off by (sigma)": 1e-3}), "fast": Target(0.5)},
        "loading, every page touched": {"float32": Target(0.4, most={"peak / weights": 1.15})},
        "embed a sky of objects": {name: Target(0.25, {"inside the model": 0.9}) for name in ("exact", "fast")},
    }
    return {(task, program): target for task, programs in found.items() for program, target in programs.items()}


@dataclass(frozen=True)
class Row:
    """One of our programs beside the reference. reached: None where there is no target."""

    work: str
    program: str
    reference_seconds: float
    seconds: float
    ratio: float
    cpu_ratio: float
    target: float | None
    reached: bool | None
    gflops: float | None
    share: float | None
    reference_gflops: float | None
    reference_share: float | None
    figures: dict[str, float]
    note: str


def rows(lines: Sequence[Line], goals: Mapping[tuple[str, str], Target]) -> list[Row]:
    """Each line of ours beside the reference's of the same task."""
    theirs = {line.task: line for line in lines if line.program == "reference"}
    return [row(line, theirs[line.task], goals.get((kind(line.task), line.program)))
            for line in lines if line.program != "reference"]


def row(line: Line, other: Line, goal: Target | None) -> Row:
    reached = None if goal is None else (
        line.ratio <= goal.ratio and all(line.figures[name] >= low for name, low in goal.least.items())
        and all(line.figures[name] <= high for name, high in goal.most.items()))
    bounds = [] if goal is None else [f"{name} >= {low:g}" for name, low in goal.least.items()]
    bounds += [] if goal is None else [f"{name} <= {high:g}" for name, high in goal.most.items()]
    note = "; ".join(filter(None, (line.note, f"wanted: {', '.join(bounds)}" if bounds else "")))
    return Row(line.task, line.program, other.seconds, line.seconds, line.ratio, line.cpu_ratio, goal and goal.ratio, reached,
               line.gflops, line.share, other.gflops, other.share, line.figures, note)


def kind(task: str) -> str:
    """A task without its number of objects: "8 x tok_image -> tok_z" is "tok_image -> tok_z"."""
    return " ".join(word for word in task.split() if not word.isdigit() and word != "x")


# -- what is shown --------------------------------------------------------------------------------------------------

BRACKETS = "In brackets: the reference's own. The plain product is torch's, of two matrices; its convolutions can be faster."
HEAD = ("work", "ours", "reference (s)", "ours (s)", "ratio", "target", "", "by processor time", "GFLOP/s",
        "of a plain product", "also")


def cells(row: Row) -> tuple[str, ...]:
    """A row of the table."""
    also = [f"{name} {value:.4g}" for name, value in row.figures.items()] + [row.note]
    return (row.work, row.program, f"{row.reference_seconds:.2f}", f"{row.seconds:.2f}", f"{row.ratio:.3f}",
            "" if row.target is None else f"<= {row.target:g}", {None: "", True: "reached", False: "missed"}[row.reached],
            f"{row.cpu_ratio:.3f}", beside(row.gflops, row.reference_gflops, ".0f"),
            beside(row.share, row.reference_share, ".0%"), "; ".join(filter(None, also)))


def beside(ours: float | None, theirs: float | None, form: str) -> str:
    """Ours, and the reference's in brackets."""
    return "" if ours is None or theirs is None else f"{ours:{form}} ({theirs:{form}})"


def described(on: Mapping[str, Any]) -> str:
    features = (("avx512_bf16", "AVX512-bf16"), ("amx", "AMX"))
    has = ", ".join(f"{'with' if on[key] else 'without'} {name}" for key, name in features)
    changed = "" if on["layers"] == 12 else f"; {on['layers']} layers instead of base's 12"
    return (f"{on['processor']} ({on['cores']} cores, {has}), {on['threads']} threads, torch {on['torch']}, medians of "
            f"{on['repeats']} repeats, load before {on['load']}{changed}")


def markdown(table: Sequence[Row], on: Mapping[str, Any]) -> str:
    """The table as a file to read."""
    head = ["# Ours beside AION-1's own package", "", f"Made by `make bench-reference` on {described(on)}.", BRACKETS, ""]
    body = [HEAD, ("---",) * len(HEAD), *map(cells, table)]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in body), ""])


def show(table: Sequence[Row], on: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    console = console if console.is_terminal else Console(width=220)  # in a log the notes need no folding
    shown = Table(*HEAD, title=described(on))
    for line in table:
        shown.add_row(*cells(line))
    console.print(shown)


def write(folder: Path, lines: Sequence[Line], table: Sequence[Row], on: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    content = {"on": on, "rows": [asdict(row) for row in table], "lines": [asdict(line) for line in lines]}
    (folder / "reference.json").write_text(json.dumps(content, indent=1) + "\n")
    (folder / "reference.md").write_text(markdown(table, on))


# -- what is run ----------------------------------------------------------------------------------------------------


def measured(part: str, place: Path, chosen: argparse.Namespace) -> list[Line]:
    """The lines of one part; its models are made in `place`."""
    from tools.bench import reference_codecs, reference_omni, reference_sky

    layers = {"encoder_depth": chosen.layers, "decoder_depth": chosen.layers}
    if part == "codecs":
        return reference_codecs.codecs(place / "codecs-alone", chosen.batch, chosen.repeats, chosen.compiled)
    if part == "sky":
        return reference_sky.sky(place, chosen.objects, chosen.sample, **layers)
    folder = reference_omni.saved(place / "aion-base", **layers)
    if part == "loading":
        return reference_omni.loading(folder, chosen.repeats)
    return reference_omni.computing(folder, reference_omni.loaded(folder), chosen.batch, chosen.repeats)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-reference", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART",
                        help=f"some of: {', '.join(PARTS)}; the files then hold these alone")
    parser.add_argument("--threads", type=int, default=2, help="of torch (2)")
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats of each, but of the sky one (5)")
    parser.add_argument("--batch", type=int, default=8, help="objects at a time (8)")
    parser.add_argument("--objects", type=int, default=256, help="of the sky (256)")
    parser.add_argument("--sample", type=int, default=32, help="so many of them for the reference; its time is scaled (32)")
    parser.add_argument("--layers", type=int, default=12, help="blocks of encoder and of decoder, fewer for a quick look (12)")
    parser.add_argument("--compiled", action="store_true", help="codecs compiled by torch, too (minutes, a C++ compiler)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks"), help="folder of reference.json and .md (benchmarks)")
    return parser.parse_args()


def main() -> None:
    chosen = arguments()
    os.environ["HF_HUB_OFFLINE"] = "1"  # the reference must not go looking for models
    torch.set_num_threads(chosen.threads)
    on = machine() | {"repeats": chosen.repeats, "layers": chosen.layers}
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(prefix="omnisky-bench-") as place:
        for part in chosen.only or PARTS:
            print(f"measuring {part} ...", file=sys.stderr, flush=True)
            lines += measured(part, Path(place), chosen)
            table = rows(lines, targets(on))
            write(chosen.out, lines, table, on)  # after each part: the rest may fail
    show(table, on)
    print(f"written to {chosen.out / 'reference.json'} and reference.md")


if __name__ == "__main__":
    main()
