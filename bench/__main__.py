"""`python -m bench [NAME ...]`: run the benchmarks, print one table, write bench.json."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

HERE = Path(__file__).parent


def names() -> list[str]:
    return sorted(p.stem for p in HERE.glob("*.py") if not p.stem.startswith("_"))


def main() -> int:
    """Each row is a dict: what, value, unit, peer (name), peer_value, ratio, target, note; absent keys are left blank."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"which: {', '.join(names())} (all when left out)")
    parser.add_argument("--out", type=Path, default=Path("bench.json"))
    chosen = parser.parse_args()
    unknown = set(chosen.names) - set(names())
    if unknown:
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}; choose from {', '.join(names())}")
    rows: list[dict[str, Any]] = []
    for name in chosen.names or names():
        print(f"[bench] {name}", file=sys.stderr)
        rows += [{"bench": name, **row} for row in importlib.import_module(f"bench.{name}").run()]
    show(rows)
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    chosen.out.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))
    print(f"[bench] written to {chosen.out}", file=sys.stderr)
    return 0


def show(rows: list[dict[str, Any]]) -> None:
    columns = ("bench", "what", "value", "unit", "target", "peer", "peer_value", "ratio", "note")
    table = Table(*columns, title="Omnisky benchmarks")
    for row in rows:
        cells = [row.get(c, "") for c in columns]
        table.add_row(*[f"{c:.3g}" if isinstance(c, float) else str(c) for c in cells])
    Console().print(table)


if __name__ == "__main__":
    sys.exit(main())
