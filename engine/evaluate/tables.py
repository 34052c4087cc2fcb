"""A model's table: which kind it is of, how it is made, and how it is written."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from engine.evaluate.astroclip import ALIKE
from engine.evaluate.astroclip import measure as measure_astroclip
from engine.evaluate.figures import Figure
from engine.evaluate.omni import measure as measure_omni
from engine.steps import Step

DATABASE = {"astroclip": 4000, "omni": 2}  # objects; times the test objects


def run(model: str | Path | None = None, objects: int = 1000, database: int | None = None, seed: int = 2027) -> Iterator[Step]:
    """Measure the model in a folder, the shipped one if None; the last step's preview is its table.

    objects are tested; `database` further ones have known redshifts (None: 4000 for an AstroCLIP, twice the objects for a model
    of AION-1's kind). Raises FileNotFoundError or ValueError if the model cannot be loaded (see `engine.checkpoints.load`).
    """
    from engine import checkpoints

    bundle = checkpoints.load(model)
    if isinstance(bundle, checkpoints.OmniBundle):
        return measure_omni(bundle, objects, DATABASE["omni"] * objects if database is None else database, seed)
    return measure_astroclip(bundle, objects, DATABASE["astroclip"] if database is None else database, seed)


def as_json(table: Mapping[str, Any]) -> str:
    """The table as JSON; what is not a number is null."""
    return json.dumps(_jsonable(table), indent=1)


def _jsonable(x: Any) -> Any:
    if isinstance(x, Figure):
        return _jsonable({name: value for name, value in vars(x).items() if value is not None})
    if isinstance(x, Mapping):
        return {name: _jsonable(value) for name, value in x.items()}
    if isinstance(x, list | tuple):
        return [_jsonable(value) for value in x]
    return None if isinstance(x, float) and not math.isfinite(x) else x


def written(table: Mapping[str, Any]) -> str:
    """The table as text."""
    sets = ", ".join(f"{count:,} {name}" for name, count in table["sets"].items())
    head = f"{table['model']} ({table['checksum'][:12]}) on a simulated sky with seed {table['seed']}: {sets}."
    if "sections" not in table:
        lines = [head, f"Redshift: R2 of kNN among galaxies. Alike: candidates {ALIKE}. "
                 "Brackets: 95 % over test objects."]
        for row, figures in table["rows"].items():
            lines += ["", row, *(f"  {name:<26} {value}" for name, value in figures.items())]
        return "\n".join(lines)
    lines = [head, "Brackets: 95 % bootstrap intervals over test objects."]
    for title, section in table["sections"].items():
        lines += ["", title.upper(), *section["notes"], *columns(section["rows"])]
    if table["left_out"]:
        lines += ["", "LEFT OUT", *table["left_out"]]
    return "\n".join(lines)


def columns(rows: Mapping[str, Mapping[str, Figure]]) -> list[str]:
    """Aligned lines, a row each; rows that have the same figures share their heading."""
    lines: list[str] = []
    heading: tuple[str, ...] = ()
    left = max((len(row) for row in rows), default=0)
    widths: dict[str, int] = {}
    for figures in rows.values():
        for name, value in figures.items():
            widths[name] = max(widths.get(name, len(name)), len(str(value)))
    for row, figures in rows.items():
        if tuple(figures) != heading:
            heading = tuple(figures)
            lines.append("  ".join([" " * left, *(f"{name:<{widths[name]}}" for name in figures)]).rstrip())
        lines.append("  ".join([f"{row:<{left}}", *(f"{value!s:<{widths[name]}}" for name, value in figures.items())]).rstrip())
    return lines
