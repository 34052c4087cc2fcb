"""Whether several draws of an image or a spectrum hold the truth between them, and agree with what they were made from.

Draws of many tokens are plausible, not calibrated: this says how far. Shape letters: B objects, S samples, J lines.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.evaluate import images, lines, spectra, translation
from engine.evaluate.figures import Figure, bootstrapped, plain
from engine.evaluate.views import DESI, HSC, SDSS
from engine.generation import draws
from engine.generation.grids import ROWS
from engine.generation.reading import Reading, log_likelihood
from engine.steps import Step

if TYPE_CHECKING:
    from engine.checkpoints import OmniBundle
    from engine.objects import SkyObject

Array = NDArray[Any]
Rows = dict[str, dict[str, Figure]]
Rendered = Mapping[str, Tensor]
SAMPLES, SCORED = 8, 32
NOMINAL = (SAMPLES - 1) / (SAMPLES + 1)  # of truths lie between the least and the largest of the draws, if one is as the other
PLACE = 0.05  # of the brightest pixel: where pixels count


def image_draws(bundle: OmniBundle, rendered: Rendered, some: list[SkyObject], seed: int
                ) -> Generator[Step, None, tuple[dict[str, Array], list[bool]]]:
    """Whether the truth lies within the draws: of the pixels with light the share (B,), of aperture flux, colour and half-light
    radius 0 or 1; and whether each object's first draw, observed again, agrees with its Legacy image."""
    true, there = translation.truth(rendered), translation.seen(rendered)
    held: dict[str, list[float]] = {"pixels": [], "flux in 2\"": [], "g - r": [], "half-light radius": []}
    consistent: list[bool] = []
    for row, thing in enumerate(some):
        part = yield from _drawn(bundle, thing, HSC, translation.inputs(bundle), seed, row / len(some))
        draws = torch.stack([translation.pixels_of(one) for one in part.samples])
        ours, right = (images.magnitudes(x, translation.SCALE).numpy() for x in (draws, true[row : row + 1]))
        sizes, size = (images.half_light(x[:, 1], translation.SCALE).numpy() for x in (draws, true[row : row + 1]))
        bright = there[row] & (true[row] > PLACE * true[row].amax((-1, -2), keepdim=True))
        within = lines.inside(draws.numpy(), true[row].numpy())[bright.numpy()]
        held["pixels"].append(float(within.mean()) if len(within) else np.nan)
        held["flux in 2\""].append(float(lines.inside(ours[:, 1], right[0, 1])))
        held["g - r"].append(float(lines.inside(ours[:, 0] - ours[:, 1], right[0, 0] - right[0, 1])))
        held["half-light radius"].append(float(lines.inside(sizes, size[0])))
        consistent.append(agrees(part.samples[0], thing.image("legacy")))
    return {name: np.array(values) for name, values in held.items()}, consistent


def spectrum_draws(bundle: OmniBundle, rendered: Rendered, some: list[SkyObject], seed: int
                   ) -> Generator[Step, None, tuple[dict[str, Array], list[bool]]]:
    """The same of DESI spectra drawn from SDSS ones: pixels, the level, and the lines that are there at 5 sigma."""
    good, truth = spectra.observed(rendered).numpy(), rendered["desi_truth"].numpy()
    held: dict[str, list[float]] = {"pixels": [], "level": [], "lines": []}
    consistent: list[bool] = []
    for row, thing in enumerate(some):
        part = yield from _drawn(bundle, thing, DESI, [SDSS], seed, row / len(some))
        draws = np.stack([np.asarray(one.flux) for one in part.samples])
        held["pixels"].append(float(lines.inside(draws, truth[row])[good[row]].mean()))
        held["level"].append(float(lines.inside(draws[:, good[row]].mean(1), truth[row][good[row]].mean())))
        own = {name: value[row : row + 1].expand(SAMPLES, *value.shape[1:]) for name, value in rendered.items()}
        of = spectra.measured(torch.from_numpy(draws).float(), own)
        real = np.isfinite(of["line error"][0]) & (of["true line"][0] >= lines.SIGNIFICANT * of["line error"][0])
        within = lines.inside(of["line"], of["true line"][0])
        held["lines"].append(float(within[real].mean()) if real.any() else np.nan)
        consistent.append(agrees(part.samples[0], next(s for s in thing.spectra if s.survey == "sdss")))
    return {name: np.array(values) for name, values in held.items()}, consistent


def _drawn(bundle: OmniBundle, thing: SkyObject, target: str, keys: list[str], seed: int, share: float
           ) -> Generator[Step, None, Any]:
    """The `Part` of one object."""
    from engine import generation

    made: Any = None
    for step in generation.generate(bundle, thing, target, inputs=keys, samples=SAMPLES, seed=seed):
        made = step.preview
        yield Step(share, f"{SAMPLES} draws of {target} of {thing.id}")
    return made[0][target]


def agrees(made: Any, measured: Any) -> bool:
    from engine.generation.reobserved import reobserve

    return reobserve(made, measured).consistent


def likelihoods(bundle: OmniBundle, tokens: Mapping[str, Tensor], hidden: Mapping[str, Tensor], keys: Sequence[str],
                target: str, seed: int) -> dict[str, Figure]:
    """What the model thinks of the tokens that there are, from inputs: nats a token by the chain rule, in one round or in as
    many as draws take, with every token read once or all again in every round. tokens, hidden: key -> (B, n), of objects that
    have the target and an input; the first `SCORED` are taken."""
    ids = tokens[target][:SCORED].to(bundle.model.mask_token.device)
    order = draws.orders([draws.generator(seed, row, target) for row in range(len(ids))], ids.shape[1], ids.device)
    rounds = draws.counts("roar", ids.shape[1], draws.Settings().steps)
    out = {}
    for name, cache, each in (("in one round", True, [ids.shape[1]]), (f"in {len(rounds)} rounds", True, rounds),
                              (f"in {len(rounds)} rounds, read again", False, rounds)):
        parts = []
        for rows in torch.arange(len(ids)).split(ROWS):
            given, lacking = ({key: of[key][rows] for key in keys} for of in (tokens, hidden))
            reading = Reading(bundle.model, given, lacking, target, cache)
            parts.append(log_likelihood(reading, torch.arange(len(rows)), ids[rows], order[rows], each))
        said = torch.cat(parts).mean(1).cpu().numpy()
        out[name] = bootstrapped(len(said), lambda some, x=said: x[some].mean(-1), n=len(said))  # type: ignore[misc]
    return out


def coverage(held: Mapping[str, Array]) -> dict[str, Figure]:
    out = {}
    for name, values in held.items():
        known = values[np.isfinite(values)]
        out[name] = bootstrapped(len(known), lambda some, x=known: x[some].mean(-1),  # type: ignore[misc]
                                 n=len(known)) if len(known) else plain(float("nan"), n=0)
    return out


def agreement(consistent: list[bool]) -> dict[str, Figure]:
    values = np.array(consistent, float)
    return {"consistent": bootstrapped(len(values), lambda some: values[some].mean(-1), n=len(values))}
