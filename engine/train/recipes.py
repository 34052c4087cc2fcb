"""What a run is made of: sizes, data, schedule. A recipe is a dataclass; another one is `replace(...)` of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from engine.models import AstroClipConfig


@dataclass(frozen=True)
class Recipe:
    """One run of AstroCLIP on the simulated sky.

    objects: training objects, index 0 to objects - 1 of the sky with this seed; validation: further ones, for the curve only.
    group: objects of like magnitude and colour that share a batch; batch: a multiple of group; draw: weight of the drawing
    loss; both, legacy, hsc: how often an object shows which survey; band_drop: chance that a band is left out.
    """

    name: str
    model: AstroClipConfig = field(default_factory=AstroClipConfig)
    seed: int = 1
    objects: int = 32768
    validation: int = 1024
    batch: int = 192
    group: int = 32
    steps: int = 1700
    rate: float = 1e-3
    warmup: int = 100
    decay: float = 0.05
    clip: float = 1.0
    draw: float = 4.0
    both: float = 0.6
    legacy: float = 0.2
    band_drop: float = 0.08
    sdss: float = 0.25
    threads: int = 2
    bfloat16: bool = True
    report_every: int = 20
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        if self.batch % self.group or self.objects < self.batch:
            raise ValueError(f"a batch ({self.batch}) is made of whole groups ({self.group}) and no larger than the "
                             f"training set ({self.objects})")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def digest(self) -> str:
        """Sixteen hex digits that change with anything in the recipe that changes the numbers of the run."""
        numbers = {k: v for k, v in self.to_dict().items() if k not in ("report_every", "checkpoint_every")}
        return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:16]


def astroclip_demo() -> Recipe:
    """The shipped model: well under an hour on two CPU cores, the simulated sky of the demo survey."""
    return Recipe("astroclip-demo")


def tiny() -> Recipe:
    """A few seconds, for tests and for a first try; it learns next to nothing."""
    model = AstroClipConfig(width=32, image_layers=1, spectrum_layers=1, heads=2, expand=2, space=16, drawn=64)
    return replace(astroclip_demo(), name="tiny", model=model, objects=64, validation=16, batch=16, group=4, steps=12,
                   warmup=3, threads=1, bfloat16=False, report_every=1, checkpoint_every=4)


RECIPES = {"astroclip-demo": astroclip_demo, "tiny": tiny}
