"""The whole chain from the simulated sky to the trained transformer and its head on one GPU, in stages of minutes.

    while python -m engine.train.stages WORK KEPT --minutes 8.5; [ $? = 3 ]; do :; done

Torch, NumPy and safetensors are enough. WORK has everything; KEPT, at most 50 MB in files of at most 16 MB, is enough to go on
on another machine with an empty WORK: codecs, or their checkpoints, and the transformer's averaged weights in bfloat16
(moments start anew, and what is rendered is rendered again).
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp

from engine.modalities import FLUXES
from engine.steps import Step
from engine.train import codecs, head, omni, parallel, simulated_tokens
from engine.train.codec_data import CodecSource, build_cache
from engine.train.codec_folder import FOLDERS, copy_whole, gather
from engine.train.codec_recipes import RECIPES, CodecRecipe, Kind
from engine.train.kept import keep, unpack
from engine.train.omni_recipes import OmniRecipe, chosen

UNFINISHED = 3  # exit status: run it again
TRAINED: tuple[Kind, ...] = ("image", "spectrum")  # codecs that take long, side by side
TABLES: tuple[Kind, ...] = ("segmap", "scalars")


@dataclass(frozen=True)
class Plan:
    """codecs, omni: recipes; the transformer sees the tokens of so many objects of each sky, which are made side by side; its
    head is fitted on so many pairs of them (0: it has none)."""

    codecs: dict[Kind, CodecRecipe]
    omni: OmniRecipe
    objects: int
    pairs: int
    skies: tuple[int, ...] = (12,)  # seeds


def _larger(kind: Kind, **changes: Any) -> CodecRecipe:
    return replace(RECIPES["demo"][kind], name="gpu", batch=512, steps=4000, rate=1e-3, report_every=250,
                   checkpoint_every=250, **changes)


# Trained as a whole, too: where the same is seen at the same place, what one survey says of another, and redshifts.
TRANSLATIONS = ((("tok_spectrum_sdss",), "tok_spectrum_desi", 0.2),
                (("tok_spectrum_sdss", "tok_image"), "tok_spectrum_desi", 0.1),
                (("tok_image",), "tok_image_hsc", 0.1),
                (("tok_image",), "tok_spectrum_desi", 0.1),
                (("tok_spectrum_desi",), "tok_image", 0.05),
                *((sources, "tok_z", 0.05) for sources in (
                    FLUXES, (*FLUXES, "tok_image"), ("tok_image",), ("tok_image_hsc",), ("tok_spectrum_desi",),
                    ("tok_spectrum_sdss",))))


def _translating(recipe: OmniRecipe, blocks: int) -> OmniRecipe:
    """With translations, and heads for them in the last blocks."""
    return replace(recipe, placed=blocks, budgets=replace(recipe.budgets, translations=TRANSLATIONS))


SMALL = chosen("small", batch=2048, steps=5600, flat=0.8, rate=2e-3, compiled=True, validated=4096, report_every=200,
               checkpoint_every=200, soften=0.5)  # every 20 seconds
PLANS = {
    # Large batches: with small ones a GPU waits for the processor that starts its operations.
    "gpu": Plan({"image": _larger("image", objects=24_576), "spectrum": _larger("spectrum", objects=49_152),
                 "segmap": RECIPES["demo"]["segmap"], "scalars": replace(RECIPES["demo"]["scalars"], objects=65_536)},
                _translating(SMALL, 2), 60_000, 200_000, (12, 13, 14, 15)),
    # On from a model; the card of the shipped one says from which.
    "more": Plan({}, _translating(replace(SMALL, steps=6600, flat=0.45, rate=1.2e-3), 2), 30_000, 180_000,
                 (51, 52, 53, 54, 55, 56)),
    "tiny": Plan(RECIPES["tiny"], _translating(chosen("tiny", steps=20), 1), 64, 0),
}


def run(plan: Plan, work: Path, minutes: float, given: Path | None = None, begin: Path | None = None) -> Iterator[Step]:
    """Go on with a plan until it is done or the minutes are over, whichever comes first.

    given: codecs to take as they are; those of images and spectra are trained if they are not among them. begin: a model's
    folder, whose weights the transformer begins with. The last Step's fraction is 1 if all is done, and its preview is the
    model's folder.
    """
    until = time.monotonic() + 60 * minutes
    folder = work / "codecs"
    if not (folder / "done").is_file():
        if given is not None and not (folder / "codecs").is_dir():
            copy_whole(given / "codecs", folder / "codecs")
        yield Step(0.0, "codecs")
        if not _codecs(plan, folder, until, given):
            return
        (folder / "done").touch()
    skies = [work / f"tokens-{seed}" for seed in plan.skies]
    if not (work / "tokens-done").is_file():
        yield Step(0.2, "tokens")
        _side_by_side([(tokens, (plan.objects, seed, folder, sky, until)) for seed, sky in zip(plan.skies, skies, strict=True)])
        if time.monotonic() > until:
            return
        (work / "tokens-done").touch()
    model = work / "omni" / "model"
    if not model.is_dir():
        for step in omni.run(plan.omni, skies, folder, work / "omni", start=begin):
            yield Step(0.3, step.note, step.preview)
            if time.monotonic() > until:
                return
    if plan.pairs and not (model / "align").is_dir():
        for step in head.run(model, skies, plan.pairs, str(parallel.start())):
            yield Step(0.9, step.note, step.preview)
    yield Step(1.0, "all is done", str(model))


def _codecs(plan: Plan, out: Path, until: float, given: Path | None) -> bool:
    """Train codecs side by side, but those that are given; whether all are there."""
    kinds = [kind for kind in TRAINED if not (out / "codecs" / FOLDERS[kind]).is_dir()]
    kinds += TABLES if given is None else ()
    _side_by_side([(codec, (plan.codecs[kind], out / kind, until)) for kind in kinds])
    finished = all(codecs.is_made(kind, out / kind) for kind in kinds)
    if finished:
        gather({kind: out / kind for kind in kinds}, out)
    return finished


def _side_by_side(jobs: list[tuple[Callable[..., None], tuple[Any, ...]]]) -> None:
    """Each in a process of its own, until all have ended. Raises RuntimeError if one failed."""
    spawn = mp.get_context("spawn")
    work = [spawn.Process(target=target, args=arguments) for target, arguments in jobs]
    for process in work:
        process.start()
    for process in work:
        process.join()
    if any(process.exitcode for process in work):
        raise RuntimeError("a stage failed; what went wrong is said above")


def tokens(objects: int, seed: int, codecs: Path, out: Path, until: float) -> None:
    """Tokens of a sky, until all are there or time is over."""
    torch.set_num_threads(1)
    for _ in simulated_tokens.build(codecs, out, objects, seed, device=str(parallel.start())):
        if time.monotonic() > until:
            return
    print(f"tokens of the sky {seed} are made", flush=True)


def codec(recipe: CodecRecipe, out: Path, until: float) -> None:
    """Train a codec into a folder, as `codecs.run` does, but for the figures, until it is done or time is over."""
    from engine import simulate
    from engine.train import codec_tables

    device = parallel.start()
    torch.set_num_threads(recipe.threads)  # others work beside it

    def render(*args: Any, **options: Any) -> dict[str, torch.Tensor]:
        return simulate.render(*args, device=device, **options)

    def work() -> Iterator[Step]:
        yield from build_cache(recipe, out / "cache", render, device)
        source = CodecSource(recipe, out / "cache", device)
        if recipe.kind == "scalars":
            codec_tables.fit(recipe, source, out / "model")
        else:
            yield from codecs.train(codecs.build(recipe).to(device), recipe, out, source)

    for step in () if codecs.is_made(recipe.kind, out) else work():
        if step.preview is not None:
            print(f"{recipe.kind}: {step.note}", flush=True)
        if time.monotonic() > until:
            return


def main(arguments: list[str] | None = None) -> int:
    """The command line; the exit status: 0 if all is done, `UNFINISHED` if time was over before."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("work", type=Path, help="folder for everything")
    parser.add_argument("kept", type=Path, help="folder for what is enough to go on")
    parser.add_argument("--minutes", type=float, default=8.5)
    parser.add_argument("--plan", choices=list(PLANS), default="gpu")
    parser.add_argument("--codecs", type=Path, help="take codecs from here, those of numbers and maps at least")
    parser.add_argument("--begin", type=Path, help="the transformer begins with the weights of this model")
    parser.add_argument("--start", type=Path, help="what an earlier stage kept, if there is no WORK yet")
    options = parser.parse_args(arguments)
    if not PLANS[options.plan].codecs and None in (options.codecs, options.begin):
        parser.error(f"the plan {options.plan} goes on from a model: name it with --begin, and with --codecs the one whose "
                     "codecs it reads")
    if options.start is not None and not options.work.exists():
        unpack(options.start, options.work)
    fraction, said = 0.0, 0.0
    for step in run(PLANS[options.plan], options.work, options.minutes, options.codecs, options.begin):
        fraction = step.fraction
        if step.preview is not None or time.monotonic() - said > 10:
            said = time.monotonic()
            print(step.note, flush=True)
    keep(options.work, options.kept)
    print("all is done" if fraction == 1 else "time is over; run it again to go on")
    return 0 if fraction == 1 else UNFINISHED


if __name__ == "__main__":
    sys.exit(main())
