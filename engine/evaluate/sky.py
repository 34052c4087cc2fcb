"""The test sky of a model of AION-1's kind: objects in numbers and tokens; no pixel stays in memory.

Shape letters: n objects, m tokens of a modality.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluate.astroclip import encode_image, encode_spectrum, galaxy_classes, magnitude
from engine.steps import Step

if TYPE_CHECKING:
    from torch import Tensor

    from engine.checkpoints import Bundle, OmniBundle
    from engine.objects import SkyObject

Array = NDArray[Any]
BATCH = 64
KEPT = ("s_flux_g", "s_flux_r", "s_flux_i", "s_flux_z", "t_flux_g", "t_flux_r", "t_flux_i", "t_flux_z", "s_z", "t_z",
        "s_log_mstar", "class")


@dataclass(frozen=True)
class OmniSky:
    """Test objects first, then the database. values: what the simulator says of each, (n,); tokens, hidden: (n, m), as
    `OmniBundle.tokenize` gives them; rival: what an AstroCLIP makes of the test objects' images and spectra, (test, d) each."""

    seed: int
    test: int
    values: dict[str, Array]
    tokens: dict[str, Tensor]
    hidden: dict[str, Tensor]
    rival: tuple[Array, Array] | None = None

    def __len__(self) -> int:
        return len(self.values["t_z"])

    @property
    def asked(self) -> NDArray[np.bool_]:
        """(n,): which are test objects."""
        return np.arange(len(self)) < self.test

    @property
    def magnitudes(self) -> Array:
        """(n, 4): g, r, i, z of the catalogue."""
        return magnitude(np.stack([self.values[f"s_flux_{b}"] for b in "griz"], axis=1))

    @property
    def true_magnitudes(self) -> Array:
        return magnitude(np.stack([self.values[f"t_flux_{b}"] for b in "griz"], axis=1))

    @property
    def z(self) -> Array:
        return self.values["t_z"]

    @property
    def galaxy(self) -> NDArray[np.bool_]:
        from engine.simulate import CLASSES

        return np.isin(self.values["class"], galaxy_classes(CLASSES)) & np.isfinite(self.z)

    @property
    def quasar(self) -> NDArray[np.bool_]:
        from engine.simulate import CLASSES

        return (self.values["class"] == CLASSES.index("quasar")) & np.isfinite(self.z)

    def has(self, keys: tuple[str, ...]) -> NDArray[np.bool_]:
        """(n,): which objects have all of these modalities."""
        there = np.ones(len(self), bool)
        for key in keys:
            there &= ~self.hidden[key].all(1).numpy() if key in self.hidden else False
        return there


def observe(bundle: OmniBundle, seed: int, objects: int, database: int, keys: tuple[str, ...], rival: Bundle | None = None
            ) -> Generator[Step, None, OmniSky]:
    """Simulate objects 0 to objects + database - 1 and tokenise them, batch by batch. rival: an AstroCLIP to compare with."""
    import torch

    from engine.codecs.border import unsaid
    from engine.train.data import prepare

    vectors: list[tuple[Array, Array]] = []
    total = objects + database
    values: dict[str, list[Array]] = {}
    tokens: dict[str, Tensor] = {}
    hidden: dict[str, Tensor] = {}
    for start, rendered, some in batches(seed, 0, total):
        for name in KEPT:
            values.setdefault(name, []).append(rendered[name].numpy())
        if rival is not None and start < objects:
            prepared = prepare(rendered, rival.model.config.grid)
            vectors.append((encode_image(rival.model, prepared), encode_spectrum(rival.model, prepared)))
        with unsaid():
            found, lacking = bundle.tokenize(some, keys)
        for key, ids in found.items():
            if key not in tokens:
                tokens[key] = torch.zeros(total, ids.shape[1], dtype=torch.long)
                hidden[key] = torch.ones(total, ids.shape[1], dtype=torch.bool)
            tokens[key][start : start + len(some)], hidden[key][start : start + len(some)] = ids, lacking[key]
        yield Step((start + len(some)) / total, f"simulated and tokenised {start + len(some):,} of {total:,} objects")
    images, spectra = (np.concatenate(parts)[:objects] for parts in zip(*vectors, strict=True)) if vectors else (None, None)
    return OmniSky(seed, objects, {name: np.concatenate(parts) for name, parts in values.items()}, tokens, hidden,
                   None if images is None or spectra is None else (images, spectra))


def batches(seed: int, start: int, stop: int, size: int = BATCH) -> Iterator[tuple[int, dict[str, Tensor], list[SkyObject]]]:
    """The number of the first, what the simulator renders of objects start to stop - 1, truth included, and the objects."""
    import torch

    from engine import demo_sky
    from engine.simulate import render

    for first in range(start, stop, size):
        index = torch.arange(first, min(first + size, stop))
        rendered = render(seed, index, truth=True)
        yield first, rendered, [demo_sky.one(rendered, i, int(number), seed) for i, number in enumerate(index)]
