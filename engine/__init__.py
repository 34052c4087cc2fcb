"""Omnisky's engine: objects, readers, store, models and search. `engine.open(folder)` is the way in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0.dev0"

if TYPE_CHECKING:
    from engine.sky import Sky


def open(path: Any) -> Sky:
    """Open a sky folder. Raises FileNotFoundError if there is none, ValueError if the folder is not a sky."""
    from engine.sky import Sky

    return Sky(path)
