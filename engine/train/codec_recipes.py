"""What training a codec is made of: sizes, data, schedule, one dataclass for all kinds. Another one is `replace(...)` of it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from engine.codecs.compact import CompactConfig
from engine.codecs.segmentation import SegmentationConfig
from engine.codecs.spectrum import SpectrumConfig

Kind = Literal["image", "spectrum", "segmap", "scalars"]
Model = CompactConfig | SpectrumConfig | SegmentationConfig


@dataclass(frozen=True)
class CodecRecipe:
    """One run on the simulated sky.

    model: None for scalars, whose tables are counted, not trained. objects: index 0 to objects - 1 of the sky with this seed;
    validation: further ones, for the curve and the figures. legacy: the share of a batch that is of this survey; desi: how
    often a batch is of this spectrograph; drop_some: the share of objects that bands are left out of, drop: each band's chance
    then. photometry: weight of the loss of fluxes in apertures, reach: of latents that are too large; floor: error of a
    spectrum's pixel that counts at least, as a share of its mean flux. entries: of a number's table; redshifts:
    of the redshift's grid.
    """

    kind: Kind
    name: str
    model: Model | None = None
    seed: int = 11
    objects: int = 16384
    validation: int = 512
    batch: int = 64
    steps: int = 3000
    rate: float = 1.5e-3
    warmup: int = 200
    decay: float = 0.01
    clip: float = 1.0
    legacy: float = 0.55
    drop_some: float = 0.3
    drop: float = 0.4
    photometry: float = 0.3
    reach: float = 0.02
    desi: float = 0.7
    floor: float = 0.03
    entries: int = 256
    redshifts: int = 1024
    threads: int = 1  # two codecs side by side, a thread each, take less time than one after the other
    bfloat16: bool = True
    report_every: int = 100
    checkpoint_every: int = 100

    def __post_init__(self) -> None:
        if self.batch > self.objects:
            raise ValueError(f"a batch ({self.batch}) cannot be larger than the training set ({self.objects})")

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)

    def digest(self) -> str:
        """Sixteen hex digits that change with anything in the recipe that changes the numbers of the run."""
        numbers = {k: v for k, v in self.to_dict().items() if k not in ("report_every", "checkpoint_every")}
        return hashlib.sha256(json.dumps(numbers, sort_keys=True).encode()).hexdigest()[:16]


SPECTRUM = SpectrumConfig(  # 136 tokens of 64 pixels, 51 Angstrom, and one for the level; all blocks work at that length
    encoder_depths=(0, 3), encoder_widths=(160, 160), decoder_depths=(3, 0), decoder_widths=(160, 1), strides=(64, 1),
    plain=True, width=160, levels=1000, fsq=(7, 5, 5, 5, 5), use_mask=True)
SEGMAP = SegmentationConfig(levels=(8, 5, 5, 5), width=96, decoder_width=96, hidden=32)
TINY_SPECTRUM = replace(SPECTRUM, encoder_depths=(0, 1), encoder_widths=(16, 16), decoder_depths=(1, 0),
                        decoder_widths=(16, 1), width=16)

DEMO: dict[Kind, CodecRecipe] = {
    "image": CodecRecipe("image", "demo", CompactConfig(), rate=6e-4),
    "spectrum": CodecRecipe("spectrum", "demo", SPECTRUM, steps=3000, rate=1e-3, decay=0.05),
    "segmap": CodecRecipe("segmap", "demo", SEGMAP, objects=8192, steps=1200, rate=1e-3),
    "scalars": CodecRecipe("scalars", "demo", objects=16384, steps=0),
}
TINY: dict[Kind, CodecRecipe] = {
    kind: replace(recipe, name="tiny", model=model, objects=64, validation=16, batch=16, steps=min(12, recipe.steps), warmup=3,
                  bfloat16=False, report_every=1, checkpoint_every=4, entries=32)
    for (kind, recipe), model in zip(DEMO.items(), (CompactConfig(width=32, blocks=1), TINY_SPECTRUM,
                                                    replace(SEGMAP, width=16, decoder_width=16, hidden=8), None), strict=True)}
RECIPES = {"demo": DEMO, "tiny": TINY}
