"""How sure a trained model may be of the numbers that it tells: fitted on objects that it has not seen, whole inputs at a time.

Training shows some tokens of an object, seldom all of an image or a spectrum, and spreads the labels of a number over its bins;
what is said of a whole spectrum is then too modest. Shape letters: n objects, V ids.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from engine.checkpoints.aion import load_aion
from engine.files import read_json
from engine.generation import reading
from engine.modalities import FLUXES
from engine.models.calibration import Knots, between, calibrated, entropy, mixed
from engine.models.omni import Omni
from engine.records import Records
from engine.steps import Step
from engine.train.token_data import seen, tokens_of

ENTROPIES = (0.0, 0.5, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
STIFF = 1e-3  # times the squared differences of neighbouring powers' logarithms and shares' logits, beside a mean log score
FEW = -4.0  # logit of the shares at the start
LEVELS = (0.68, 0.95)
SHARPER, FEWER = (1.0, 1.02, 1.04, 1.06, 1.08), (1.0, 0.9, 0.8, 0.7)  # what powers and shares are multiplied by
LEAST, READ = 100, 64  # objects of a choice of inputs; read at a time


def run(folder: Path, sky: Path, objects: int) -> Iterator[Step]:
    """Fit powers and shares of every number on an even grid, and write them into the model's config.json; the last Step tells
    what the log scores gain. Each choice of inputs counts alike: every image and spectrum alone, the catalogue's fluxes alone,
    and they with each image; of each at most so many objects.

    Raises ValueError for a model that tells no such number, for a sky without objects to fit on, and for tokens that the model
    was trained on.
    """
    model = load_aion(folder)
    model.config = replace(model.config, calibration={})
    [records] = tokens_of([sky], model.config, folder)
    _check_unseen(folder, sky, records)
    targets = [key for key, m in model.outputs.items() if m.codec == "grid"]
    if not targets:
        raise ValueError(f"{folder} tells no number on an even grid, so that there is nothing to calibrate")
    found, gains = {}, {}
    for number, target in enumerate(targets):
        parts = []
        every = choices(model, target)
        for i, keys in enumerate(every):
            part = said(model, records, keys, target, objects) if {target, *keys} <= set(records) else None
            if part is not None:
                parts.append(part)
            yield Step((number + (i + 1) / len(every)) / len(targets), f"{target} from {', '.join(keys)}: read")
        if not parts:
            raise ValueError(f"{sky}: fewer than {LEAST} objects have {target} and an input of it")
        found[target] = fitted(parts)
        each = [score(calibrated(logits, found[target]), ids) - score(logits, ids) for logits, ids in parts]
        gains[target] = sum(each) / len(each)
    path = folder / "config.json"
    part_of = path.with_name("config.json.part")
    part_of.write_text(json.dumps(replace(model.config, calibration=found).as_dict(), indent=2, sort_keys=True) + "\n")
    part_of.replace(path)
    gained = ", ".join(f"{target} {gain:+.4f}" for target, gain in gains.items())
    yield Step(1.0, f"calibrated; log scores of what it was fitted on: {gained}", {"powers": found, "log score": gains})


def _check_unseen(folder: Path, sky: Path, records: Mapping[str, Records]) -> None:
    """Raises ValueError if the model says that it, or the one that it began with, was trained on these tokens."""
    mine, about = seen(records), folder / "training.json"
    story = read_json(about) if about.is_file() else {}
    while isinstance(story, dict):  # what it began with may be just a name
        for theirs in story.get("seen", []):
            shared = mine.keys() & theirs.keys()
            if shared and all(mine[key] == theirs[key] for key in shared):
                raise ValueError(f"{sky} has the tokens that {folder} was trained on, of which it is surer than of others; "
                                 "calibrate it on objects that it has not seen: another sky, another --seed of `train tokens`")
        story = story.get("began with")


def choices(model: Omni, target: str) -> list[tuple[str, ...]]:
    """The inputs that a target is told from."""
    inputs = {key: m for key, m in model.inputs.items() if key != target}
    images, spectra = ([key for key, m in inputs.items() if m.kind == kind] for kind in ("image", "spectrum"))
    fluxes = tuple(key for key in FLUXES if key in inputs)
    alone = [(key,) for key in (*images, *spectra)]
    return alone + ([fluxes, *((key, *fluxes) for key in images)] if fluxes else [])


def said(model: Omni, sky: Mapping[str, Records], keys: tuple[str, ...], target: str, objects: int
         ) -> tuple[Tensor, Tensor] | None:
    """What the model says of a target (n, V) from some inputs, and what it is, (n,); None if too few objects have all."""
    rows = sky[target].rows
    for key in keys:
        rows = np.intersect1d(rows, sky[key].rows)
    if len(rows) < LEAST:
        return None
    rows = rows[np.linspace(0, len(rows) - 1, min(objects, len(rows))).astype(int)]
    parts = []
    for start in range(0, len(rows), READ):
        tokens = {key: torch.from_numpy(sky[key].at(rows[start : start + READ])[1].astype(np.int64)) for key in keys}
        parts.append(reading.predict(model, tokens, {}, [target])[target][:, 0].log_softmax(-1))
    return torch.cat(parts), torch.from_numpy(sky[target].at(rows)[1][:, 0].astype(np.int64))


def score(logits: Tensor, ids: Tensor) -> float:
    """The mean log score in nats."""
    return -float(F.cross_entropy(logits, ids))


def fitted(parts: Sequence[tuple[Tensor, Tensor]]) -> tuple[tuple[float, float, float], ...]:
    """(entropy, power, share) with the best mean log score of parts, each log-probabilities (n, V) and ids (n,); then all
    powers and all shares times a number, so that ranges hold what they say: by the score alone they hold more."""
    at = torch.tensor(ENTROPIES)
    logs = torch.zeros(len(at), requires_grad=True)  # of the powers, which are positive
    odds = torch.full((len(at),), FEW, requires_grad=True)
    spread_out = [entropy(logits) for logits, _ in parts]
    optimiser = torch.optim.LBFGS([logs, odds], max_iter=50, line_search_fn="strong_wolfe")

    def lost() -> Tensor:
        optimiser.zero_grad()
        each = [F.nll_loss(mixed(logits, between(h, at, logs.exp()), between(h, at, odds.sigmoid())), ids)
                for (logits, ids), h in zip(parts, spread_out, strict=True)]
        loss = torch.stack(each).mean() + STIFF * (logs.diff().square().sum() + odds.diff().square().sum())
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(lost)  # type: ignore[no-untyped-call]
    found = torch.stack([logs.exp(), odds.sigmoid()]).detach().double().numpy()
    return min((_rounded(found, *scale) for scale in product(SHARPER, FEWER)), key=lambda knots: missed(parts, knots))


def _rounded(found: NDArray[np.float64], sharper: float, fewer: float) -> tuple[tuple[float, float, float], ...]:
    """Knots of powers and shares (2, k), both times a number."""
    scaled = (found * [[sharper], [fewer]]).round(4)
    return tuple((h, float(power), float(share)) for h, power, share in zip(ENTROPIES, *scaled, strict=True))


def missed(parts: Sequence[tuple[Tensor, Tensor]], knots: Knots) -> float:
    """How far the shares of truths in ranges of `LEVELS`, over all parts alike, are from what they are called, in squared
    standard deviations of one truth."""
    held = torch.tensor([[covered(calibrated(logits, knots), ids, level) for level in LEVELS] for logits, ids in parts]).mean(0)
    level = torch.tensor(LEVELS)
    return float(((held - level).square() / (level * (1 - level))).sum())


def covered(said: Tensor, ids: Tensor, level: float) -> float:
    """The share of truths in the middle range that holds `level` of the probability; a bin at its end counts in part."""
    p = said.exp()
    mine = p.gather(1, ids[:, None])[:, 0]
    above = p.cumsum(1).gather(1, ids[:, None])[:, 0]
    low, high = (1 - level) / 2, (1 + level) / 2
    within = above.clamp(low, high) - (above - mine).clamp(low, high)
    return float((within / mine.clamp_min(1e-30)).clamp(0, 1).mean())
