"""What a model makes of each choice of inputs: pooled vectors, reduced tokens, and its own distribution of the redshift.

Shape letters: n objects, D width, K bins of the redshift, T tokens, d of a reduced one.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluate.sky import OmniSky
from engine.generation import reading
from engine.modalities import FLUXES
from engine.steps import Step

if TYPE_CHECKING:
    from engine.checkpoints import OmniBundle

Array = NDArray[Any]
BATCH = 32
LEGACY, HSC, DESI, SDSS = "tok_image", "tok_image_hsc", "tok_spectrum_desi", "tok_spectrum_sdss"
REDSHIFT = "tok_z"
VIEWS: dict[str, tuple[str, ...]] = {
    "Legacy image": (LEGACY,), "HSC image": (HSC,), "magnitudes": FLUXES,
    "Legacy image + magnitudes": (LEGACY, *FLUXES), "DESI spectrum": (DESI,),
    "SDSS spectrum": (SDSS,), "Legacy image + DESI spectrum": (LEGACY, DESI)}
TOGETHER = "Legacy image + DESI spectrum"
KEYS = tuple(dict.fromkeys(key for keys in VIEWS.values() for key in keys))


@dataclass(frozen=True)
class View:
    """keys: the inputs; there (n,): which objects have them; balanced, mean (n, D): pooled vectors, 0 where not there; redshift
    (n, K): probabilities of the ids of its codec, None if the model has no such token; reduced (n, T, d) int8, where asked."""

    keys: tuple[str, ...]
    there: NDArray[np.bool_]
    balanced: Array
    mean: Array
    redshift: Array | None
    reduced: Array | None = None


def known_views(bundle: OmniBundle) -> tuple[dict[str, tuple[str, ...]], list[str]]:
    """The views that a model has all inputs of, and a sentence for each of the others."""
    lacking = {name: [key for key in keys if key not in bundle.codecs] for name, keys in VIEWS.items()}
    said = [f"{name}: the model has no {', '.join(keys)}" for name, keys in lacking.items() if keys]
    return {name: VIEWS[name] for name, keys in lacking.items() if not keys}, said


def read(bundle: OmniBundle, sky: OmniSky, keys: tuple[str, ...], reduced: bool = False) -> Generator[Step, None, View]:
    """Encode what every object shows of these inputs. reduced: keep the tokens, too, by `engine.reduction`."""
    import torch

    from engine.checkpoints import omni
    from engine.reduction import Reduction

    there = sky.has(keys)
    balanced, mean = (np.zeros((len(sky), bundle.dim), np.float32) for _ in range(2))
    tokens, hidden = ({key: some[key] for key in keys if key in some} for some in (sky.tokens, sky.hidden))
    says = REDSHIFT in bundle.model.outputs and REDSHIFT in bundle.codecs
    reach = bundle.codecs[REDSHIFT].vocabulary if says else 0
    redshift = np.zeros((len(sky), reach), np.float32) if says else None
    small: Array | None = None
    reduction: Reduction | None = None
    rows = np.flatnonzero(there)
    for start in range(0, len(rows), BATCH):
        part = rows[start : start + BATCH]
        encoded = omni.read(bundle.model, tokens, hidden, torch.from_numpy(part))
        balanced[part] = omni.pooled(encoded, "balanced").numpy()
        mean[part] = omni.pooled(encoded, "mean").numpy()
        if redshift is not None:
            with torch.inference_mode():
                logits = reading.says(bundle.model, encoded, REDSHIFT)
            redshift[part] = logits[:, 0, :reach].softmax(-1).numpy()
        if reduced:
            context = encoded.context[:, encoded.slices["registers"].stop :].float().numpy()
            reduction = reduction or Reduction.fit(context.reshape(-1, context.shape[2]))
            steps = reduction.encode(context)
            small = np.zeros((len(sky), *steps.shape[1:]), np.int8) if small is None else small
            small[part] = steps
        done = start + len(part)
        yield Step(done / len(rows), f"{', '.join(keys)}: encoded {done:,} of {len(rows):,} objects")
    return View(keys, there, balanced, mean, redshift, small)


def middles(bundle: OmniBundle) -> Array:
    """(K,): the redshift that an id of the codec stands for."""
    lower, upper = edges(bundle)
    return (lower + upper) / 2


def edges(bundle: OmniBundle) -> tuple[Array, Array]:
    """Lower and upper end (K,) of what each id of the redshift stands for; open ends are closed at one more step."""
    codec: Any = bundle.codecs[REDSHIFT]
    lower, upper = (end.numpy().astype(float) for end in codec.bounds())
    lower[0], upper[-1] = upper[0] - (upper[1] - upper[0]), lower[-1] + (lower[-1] - lower[-2])
    return lower, upper
