"""A training run from top to bottom: cache, model, optimiser, resume, steps, curve, checkpoints, the finished bundle."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from engine import checkpoints
from engine.models import AstroClip, losses
from engine.models.processor import mixed_precision
from engine.steps import Step
from engine.train.data import PairSource, Render, build_cache
from engine.train.optim import adamw, rate_at
from engine.train.recipes import RECIPES, Recipe

RENDERING = 0.1  # the share of a run's progress that the cache takes


def run(recipe: str | Recipe, out: str | Path, render: Render | None = None) -> Iterator[Step]:
    """Train a recipe into the folder `out`; run again to go on where it stopped.

    out/cache: prepared objects; out/curve.jsonl: one line a report; out/checkpoint: everything to go on; out/model: the
    finished bundle. The last Step's preview is the path of the bundle, earlier ones are rows of the curve. A killed and
    resumed run gives the numbers of an uninterrupted one, bit for bit, on the same machine with the same threads.
    Raises KeyError for an unknown recipe, ValueError if `out` holds a run of another recipe.
    """
    recipe = _recipe(recipe)
    out = Path(out)
    if render is None:
        from engine import simulate

        render = simulate.render
    previous = checkpoints.last_step(out / "checkpoint")
    if previous is not None and previous["digest"] != recipe.digest():
        raise ValueError(f"{out} holds a run of another recipe ({previous['recipe']['name']}, {previous['digest']}); "
                         "train into a new folder, or remove this one")
    for step in build_cache(recipe, out / "cache", render):
        yield Step(RENDERING * step.fraction, step.note)
    yield from train(recipe, out, PairSource(recipe, out / "cache"))


def _recipe(recipe: str | Recipe) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    if recipe not in RECIPES:
        raise KeyError(f"{recipe!r} is not a recipe we know; choose one of {', '.join(RECIPES)}")
    return RECIPES[recipe]()


def train(recipe: Recipe, out: Path, source: PairSource) -> Iterator[Step]:
    """The steps themselves, from the last checkpoint on."""
    torch.set_num_threads(recipe.threads)
    torch.manual_seed(recipe.seed)
    model = AstroClip(recipe.model)
    model.init_weights(recipe.seed)
    optimiser = adamw(model, recipe.rate, recipe.decay)
    first, seconds = checkpoints.resume(out / "checkpoint", model, optimiser)
    curve = out / "curve.jsonl"
    keep_until(curve, first)
    started = time.monotonic() - seconds
    for step in range(first, recipe.steps):
        row = train_step(model, optimiser, recipe, source, step)
        last = step + 1 == recipe.steps
        reports = last or (step + 1) % recipe.report_every == 0
        if reports:
            row |= validate(model, recipe, source)
            row["seconds"] = round(time.monotonic() - started, 1)
            with curve.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if (step + 1) % recipe.checkpoint_every == 0 or last:
            state = {"step": step + 1, "seconds": time.monotonic() - started, "recipe": recipe.to_dict(),
                     "digest": recipe.digest()}
            checkpoints.save_training(out / "checkpoint", model, optimiser, state)
        if reports:  # after the checkpoint: who reads the note may stop here
            note = f"step {step + 1} of {recipe.steps}: loss {row['loss']:.3f}, held-out top-1 {row['held_out_top1']:.2f}"
            yield Step(RENDERING + (1 - RENDERING) * (step + 1) / recipe.steps, note, row)
    trained = {"recipe": recipe.to_dict(), "digest": recipe.digest(), "hours": (time.monotonic() - started) / 3600,
               "command": f"omnisky train {recipe.name}", "torch": str(torch.__version__)}
    checkpoints.save(out / "model", model, trained)
    yield Step(1.0, f"trained; the model is in {out / 'model'}", str(out / "model"))


def train_step(model: AstroClip, optimiser: torch.optim.Optimizer, recipe: Recipe, source: PairSource,
               step: int) -> dict[str, Any]:
    """One step of the optimiser; what it saw, as plain numbers."""
    rate = rate_at(step, recipe.steps, recipe.rate, recipe.warmup)
    for group in optimiser.param_groups:
        group["lr"] = rate
    model.train()
    with mixed_precision("cpu", recipe.bfloat16):
        loss, parts = losses(model, source.train(step), recipe.draw)
    optimiser.zero_grad(set_to_none=True)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
    if not math.isfinite(float(norm)):
        raise ValueError(f"the gradient at step {step} is not finite (loss {float(loss.detach())}); lower the learning rate")
    optimiser.step()
    row = {"step": step + 1, "rate": rate, "loss": float(loss.detach()), "gradient": float(norm)}
    return row | {name: float(value) for name, value in parts.items()}


@torch.no_grad()
def validate(model: AstroClip, recipe: Recipe, source: PairSource) -> dict[str, float]:
    """Retrieval of spectra by images among held-out objects: how often the right one is first, and in the first ten."""
    model.eval()
    images, spectra = [], []
    count = min(recipe.validation, 1024)
    for start in range(0, count, 128):
        batch = source.held_out(start, min(128, count - start))
        with mixed_precision("cpu", recipe.bfloat16):
            images.append(model.encode_image(batch.stamps, batch.photometry, batch.present))
            spectra.append(model.encode_spectrum(batch.flux, batch.weight))
    similarity = torch.cat(images) @ torch.cat(spectra).T
    rank = (similarity > similarity.diagonal()[:, None]).sum(1)
    return {"held_out_top1": float((rank < 1).float().mean()), "held_out_top10": float((rank < 10).float().mean())}


def keep_until(curve: Path, step: int) -> None:
    """Drop the lines of a curve after this step: they will be written again."""
    if curve.exists():
        lines = [line for line in curve.read_text().splitlines() if line.endswith("}") and json.loads(line)["step"] <= step]
        curve.write_text("".join(line + "\n" for line in lines))
