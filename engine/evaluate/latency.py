"""How long things take on this machine: the first preview, a whole spectrum, a whole image; vectors a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from engine.evaluate import translation
from engine.evaluate.figures import Figure, plain
from engine.evaluate.sky import OmniSky
from engine.evaluate.views import DESI, HSC, LEGACY
from engine.generation.draws import Settings

if TYPE_CHECKING:
    from engine.checkpoints import OmniBundle
    from engine.objects import SkyObject

Rows = dict[str, dict[str, Figure]]
REPEATED = 3


def rows(bundle: OmniBundle, sky: OmniSky, some: Sequence[SkyObject]) -> Rows:
    """Medians of three, after one that does not count."""
    made: Rows = {}
    if LEGACY in bundle.codecs:
        for target, name in ((DESI, "DESI spectrum"), (HSC, "HSC image")):
            if target in bundle.model.outputs and target in bundle.codecs:
                made[f"{name} from a Legacy image, {Settings().steps} steps"] = {
                    "first preview (s)": seconds(lambda key=target: next(drawn(bundle, some[0], key))),  # type: ignore[misc]
                    "whole (s)": seconds(lambda key=target: list(drawn(bundle, some[0], key)))}  # type: ignore[misc]
    everything = [key for key in bundle.measured if key in sky.tokens]
    count = min(64, len(sky))
    tokens, hidden = ({key: of[key][:count] for key in everything} for of in (sky.tokens, sky.hidden))
    spaces = bundle.manifests
    each = {space: seconds(lambda about=about: bundle.unit_vectors(about, tokens, hidden, count)).value  # type: ignore[misc]
            for space, about in spaces.items()}
    for name, took in {**each, " and ".join(each): sum(each.values())}.items():
        made[f"vectors of {name} from tokens"] = {"objects/s": plain(count / took)}
    few = list(some[:16])
    whole = seconds(lambda: bundle.vectors(few)).value
    made[f"vectors of {' and '.join(spaces)} from pixels"] = {"objects/s": plain(len(few) / whole)}
    return made


def drawn(bundle: OmniBundle, thing: SkyObject, target: str):  # type: ignore[no-untyped-def]
    """The steps of one generation."""
    from engine import generation

    return generation.generate(bundle, thing, target, inputs=translation.inputs(bundle))


def seconds(work: Callable[[], object]) -> Figure:
    took = []
    for _ in range(REPEATED + 1):
        start = time.perf_counter()
        work()
        took.append(time.perf_counter() - start)
    return plain(float(np.median(took[1:])))
