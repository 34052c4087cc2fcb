"""Long work is a generator of Steps: who calls it decides to print, draw or ignore them; closing it stops the work."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """How far the work is (0 to 1), one line about it, and something to show, if there is anything yet."""

    fraction: float
    note: str
    preview: Any = None
