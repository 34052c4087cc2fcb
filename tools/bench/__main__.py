"""`python -m tools.bench`: how fast each stage and each interaction is, beside a named peer in the same run.

Prints a table and writes it as JSON. The skies it measures on are kept in a cache folder (the large one is built once).
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from platformdirs import user_cache_path
from rich.console import Console
from rich.table import Table

from tools.bench import large, million, pipeline
from tools.bench.measure import Bench, Row

Stage = Callable[[Bench], Iterator[Row]]
STAGES: dict[str, Stage] = {
    "simulate": pipeline.simulate, "store": pipeline.store, "embed": pipeline.embed, "map": pipeline.chart,
    "picture": pipeline.picture}
LARGE: dict[str, Stage] = {"open": large.opening, "search": large.search, "tiles": large.tiles, "memory": large.memory}
if find_spec("tools.bench.browser"):  # the page itself
    LARGE["browser"] = import_module("tools.bench.browser").rows


def shown(row: Row) -> tuple[str, str, str, str, str]:
    """A line of the table."""
    value = "-" if math.isnan(row.value) else f"{row.value:,.3g}" if row.value < 1000 else f"{row.value:,.0f}"
    return row.name, f"{value} {row.unit}", row.peer or "", "" if row.ratio is None else f"{row.ratio:.3g} x", row.note


def main() -> None:
    stages = {**STAGES, **LARGE}
    parser = argparse.ArgumentParser(prog="make bench", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where the table is written (bench.json)")
    parser.add_argument("--only", nargs="+", choices=stages, metavar="STAGE", help=f"some of: {', '.join(stages)}")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the large sky (1,000,000)")
    parser.add_argument("--cache", type=Path, default=user_cache_path("omnisky") / "bench", help="folder of the large sky")
    parser.add_argument("--model", type=Path, help="folder of the model to measure; the shipped one by default")
    chosen = parser.parse_args()
    console = Console()
    if not console.is_terminal:
        console = Console(width=200)  # in a log the notes need no folding
    bench = Bench(chosen.cache, chosen.rows, chosen.model)
    names = chosen.only or list(stages)
    if any(name in LARGE for name in names):
        bench.cache.mkdir(parents=True, exist_ok=True)
        with console.status("") as status:
            for step in million.build(bench.million, bench.rows):
                status.update(f"a sky of {bench.rows:,} rows: {100 * step.fraction:.0f} %  {step.note}")
    rows: list[Row] = []
    table = Table("what", "value", "peer", "better by", "note")
    for name in names:
        with console.status(f"measuring {name} ..."):
            for row in stages[name](bench):
                rows.append(row)
                table.add_row(*shown(row))
    console.print(table)
    chosen.json.write_text(json.dumps({"on": large.environment(), "rows": [asdict(r) for r in rows]}, indent=1))
    console.print(f"written to {chosen.json}")


if __name__ == "__main__":
    main()
