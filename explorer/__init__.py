"""The app on top of the engine. `explorer.view(sky)` shows a sky in a notebook, `omnisky serve` in the browser."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from engine.sky import Sky


def view(sky: Sky | Any, height: int = 760) -> Any:
    """A sky (or its folder) as a Panel object: the app's map, card and neighbours; `.row` is the chosen object's row.

    A small server on 127.0.0.1 answers the page's questions as long as this Python runs. Raises what `engine.open` raises.
    """
    from explorer.notebook import view as made

    return made(sky, height)
