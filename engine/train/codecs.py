"""Training of codecs from top to bottom: cache, network, optimiser, resume, steps, curve, checkpoints, the finished folder.

Targets are what was measured without its noise, which the simulator knows: with noisy targets codes are spent on noise.
Shape letters: B batch, C bands of one survey, n pixels of a spectrum, G pixels of the codec's grid, N pixels a side.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine import checkpoints
from engine.codecs import Codec, CompactConfig, CompactImageCodec, SegmentationCodec, SegmentationConfig, SpectrumCodec
from engine.codecs.compact import COLOUR, light
from engine.codecs.convnext import Down, Up
from engine.codecs.quantizers import FSQ
from engine.codecs.spectrum import interpolate
from engine.files import only_writer, read_json
from engine.models.inputs import asinh
from engine.models.processor import mixed_precision
from engine.steps import Step
from engine.train import codec_figures, codec_tables, parallel
from engine.train.codec_data import SPECTROGRAPHS, SURVEYS, CodecSource, Images, Spectra, build_cache
from engine.train.codec_figures import perplexity
from engine.train.codec_recipes import RECIPES, CodecRecipe, Kind
from engine.train.data import Render, write_json
from engine.train.loop import RENDERING, keep_until
from engine.train.optim import adamw, rate_at

RADII = (1.0, 2.0, 4.0, 8.0)  # arcsec, of the apertures whose flux must be right
HELD_OUT = 128  # objects that the curve looks at
REACH = 1.5  # of latents before they are rounded; tanh(1.5) = 0.905
LARGE = 3.0  # sigma: beyond it an error of a spectrum's pixel counts linearly
BRIGHTEST = 3.2  # log10 of the highest level of a spectrum, 1e-17 erg/s/cm2/A
Losses = tuple[Tensor, dict[str, Tensor], Tensor]  # what to minimise, its parts, the ids


def run(kind: Kind, out: str | Path, recipe: str | CodecRecipe = "demo", render: Render | None = None) -> Iterator[Step]:
    """Train a codec into the folder `out`; run again to go on where it stopped.

    out/cache: the sky; out/curve.jsonl: one line a report; out/checkpoint: everything to go on; out/model: the finished codec,
    for scalars a folder each; out/figures.json: how good it is on objects it never saw, beside plain baselines. The last Step's
    preview is the path of the model. A killed and resumed run gives the numbers of an uninterrupted one, bit for bit, on the
    same machine with the same threads. Raises KeyError for an unknown kind or recipe; ValueError if `out` holds a run of
    another recipe, if another process is at it, and at a step whose loss is not finite (the last checkpoint is kept).
    """
    recipe, out = _recipe(kind, recipe), Path(out)
    device = parallel.start()
    if render is None:
        from engine import simulate

        render = partial(simulate.render, device=device)
    previous = _previous(out)
    if previous is not None and previous["digest"] != recipe.digest():
        raise ValueError(f"{out} holds a run of another recipe ({previous['recipe']['kind']}, {previous['recipe']['name']}, "
                         f"{previous['digest']}); train into a new folder, or remove this one")
    if previous is not None and (out / "figures.json").is_file() and is_made(recipe.kind, out):
        # Tokens know a codec by its files: they stay as they are.
        yield _done(out)
        return
    torch.set_num_threads(recipe.threads)
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out / "run.lock", str(out)):
        for step in build_cache(recipe, out / "cache", render, device):
            yield Step(RENDERING * step.fraction, step.note)
        source = CodecSource(recipe, out / "cache", device)
        if recipe.kind == "scalars":
            figures = codec_tables.fit(recipe, source, out / "model")
        else:
            codec = build(recipe).to(device)
            yield from train(codec, recipe, out, source)
            yield Step(0.99, "measuring what the codec keeps")
            figures = codec_figures.measure(checkpoints.load_codec(out / "model"), recipe, render)
        write_json(out / "figures.json", figures)
    yield _done(out)


def _previous(out: Path) -> dict[str, Any] | None:
    """What the run in a folder says of itself; None if there is none. Scalars are fitted at once, without checkpoints; anew if
    they do not say of which recipe they are, as once they did not."""
    if not is_made("scalars", out):
        return checkpoints.last_step(out / "checkpoint")
    trained = read_json(_last_file("scalars", out)).get("trained", {})
    return trained if "digest" in trained else None


def is_made(kind: Kind, out: Path) -> bool:
    """Whether the codec of the run in a folder is there, and whole."""
    return _last_file(kind, out).is_file()


def _last_file(kind: Kind, out: Path) -> Path:
    """What is written last of a codec; of scalars, which have a folder each, the catalogue is the last."""
    return out / "model" / ("catalog" if kind == "scalars" else "") / "config.json"


def _done(out: Path) -> Step:
    return Step(1.0, f"trained; the model is in {out / 'model'}", str(out / "model"))


def _recipe(kind: Kind, recipe: str | CodecRecipe) -> CodecRecipe:
    if isinstance(recipe, CodecRecipe):
        return recipe
    if recipe not in RECIPES:
        raise KeyError(f"{recipe!r} is not a recipe we know; choose one of {', '.join(RECIPES)}")
    if kind not in RECIPES[recipe]:
        raise KeyError(f"{kind!r} is not a codec that can be trained; choose one of {', '.join(RECIPES[recipe])}")
    return RECIPES[recipe][kind]


def build(recipe: CodecRecipe) -> Codec:
    """The codec of a recipe with random weights, which depend on its seed alone."""
    torch.manual_seed(recipe.seed)
    if isinstance(recipe.model, CompactConfig):
        return CompactImageCodec(recipe.model)
    if isinstance(recipe.model, SegmentationConfig):
        return SegmentationCodec(recipe.model)
    assert recipe.model is not None
    codec = SpectrumCodec(recipe.model)
    codec.levels.values.copy_(torch.linspace(math.log10(1.1), BRIGHTEST, recipe.model.levels))
    for module in codec.modules():
        if isinstance(module, (Down, Up)):
            fan = module.weight[0].numel() if isinstance(module, Down) else len(module.weight)
            nn.init.trunc_normal_(module.weight, std=fan**-0.5)
    return codec


# -- losses ---------------------------------------------------------------------------------------------------------------


def image_losses(codec: CompactImageCodec, batch: Images, recipe: CodecRecipe) -> Losses:
    """Squared error of the pressed pixels of all the survey's bands, given or not, and error of their fluxes in apertures."""
    norm = codec.brightness_of(codec.brightness(batch.flux, batch.given, batch.survey))
    z = codec.latents_of(batch.flux, batch.given, batch.survey, norm)
    share, truth = codec.shares_of(codec.quantizer.through(z), batch.survey), batch.truth / norm[:, None, None, None]
    pixels = F.mse_loss(codec.pressed(share), codec.pressed(truth))
    ours, theirs = (asinh(light(x, RADII, batch.survey) / COLOUR) for x in (share, truth))
    fluxes = F.smooth_l1_loss(ours, theirs, beta=0.02)
    loss = pixels + recipe.photometry * fluxes + recipe.reach * beyond(z)
    return loss, {"pixels": pixels, "fluxes": fluxes}, codec.quantizer.encode(z.detach())


def spectrum_losses(codec: SpectrumCodec, batch: Spectra, recipe: CodecRecipe) -> Losses:
    """Error in units of the noise, which counts `floor` of the level at least; linear, not squared, beyond `LARGE`.

    Masked pixels and those that the spectrograph does not reach have no weight.
    """
    assert isinstance(codec.quantizer, FSQ)
    bad = ~torch.isfinite(batch.flux)
    level, x = codec.prepared(batch.flux, batch.ivar, bad, batch.wavelength, None)
    z = codec.latents_of(x)
    norm = codec.level_of(level)
    flux = (codec.drawn(codec.quantizer.through(z))[..., 0] + 1.0) * norm
    both = torch.stack([batch.truth, torch.where(bad, 0.0, batch.ivar)], 1)
    truth, ivar = interpolate(batch.wavelength, both, codec.wavelength()).unbind(1)
    weight = ivar / (1 + ivar * (recipe.floor * norm) ** 2)
    chi2 = weight * (flux - truth) ** 2
    chi = LARGE**2 * ((1 + chi2 / LARGE**2).sqrt() - 1).sum() / (ivar > 0).sum()
    return chi + recipe.reach * beyond(z), {"chi2": chi2.detach().sum() / (ivar > 0).sum()}, codec.quantizer.encode(z.detach())


def field_losses(codec: SegmentationCodec, field: Tensor, recipe: CodecRecipe) -> Losses:
    """Cross-entropy of every pixel."""
    z = codec.to_code(codec.encoder(field[:, None])).float().permute(0, 2, 3, 1)
    drawn = codec.decoder(codec.from_code(codec.quantizer.through(z).permute(0, 3, 1, 2)))[:, 0].float()
    error = (drawn.sigmoid() - field).detach().square().mean()
    loss = F.binary_cross_entropy_with_logits(drawn, field) + recipe.reach * beyond(z)
    return loss, {"squares": error}, codec.quantizer.encode(z.detach())


def beyond(z: Tensor) -> Tensor:
    """How far latents lie where tanh is flat, so that nothing is learned from them any more."""
    return F.relu(z.abs() - REACH).square().mean()


LOSSES: dict[str, Callable[..., Losses]] = {"image": image_losses, "spectrum": spectrum_losses, "segmap": field_losses}


def drawn(source: CodecSource, step: int) -> list[Any]:
    """The batches of one step."""
    if source.recipe.kind == "segmap":
        return source.fields(step)
    return source.images(step) if source.recipe.kind == "image" else source.spectra(step)


def unseen(source: CodecSource) -> dict[str, Any]:
    """Held-out objects by instrument."""
    if source.recipe.kind == "image":
        return {survey: source.held_out_images(survey, HELD_OUT) for survey in SURVEYS}
    if source.recipe.kind == "spectrum":
        return {name: source.held_out_spectra(name, HELD_OUT) for name in SPECTROGRAPHS}
    return {"maps": source.held_out_fields(HELD_OUT)}


# -- steps ----------------------------------------------------------------------------------------------------------------


def train(codec: Codec, recipe: CodecRecipe, out: Path, source: CodecSource) -> Iterator[Step]:
    """The steps themselves, from the last checkpoint on, and the finished codec."""
    optimiser = adamw(codec, recipe.rate, recipe.decay)
    first, seconds = checkpoints.resume(out / "checkpoint", codec, optimiser)
    curve = out / "curve.jsonl"
    keep_until(curve, first)
    started = time.monotonic() - seconds
    for step in range(first, recipe.steps):
        row = train_step(codec, optimiser, recipe, source, step)
        if (step + 1) % recipe.report_every == 0 or step + 1 == recipe.steps:
            row |= validate(codec, recipe, source)
            row["seconds"] = round(time.monotonic() - started, 1)
            with curve.open("a") as file:
                file.write(json.dumps(row) + "\n")
        if (step + 1) % recipe.checkpoint_every == 0 or step + 1 == recipe.steps:
            state = {"step": step + 1, "seconds": time.monotonic() - started, "recipe": recipe.to_dict(),
                     "digest": recipe.digest()}
            checkpoints.save_training(out / "checkpoint", codec, optimiser, state)
        if "seconds" in row:  # after the checkpoint: who reads the note may stop here
            note = f"step {step + 1} of {recipe.steps}: loss {row['loss']:.4f}, held out {row['held_out']:.4f}"
            yield Step(RENDERING + (0.98 - RENDERING) * (step + 1) / recipe.steps, note, row)
    trained = {"recipe": recipe.to_dict(), "digest": recipe.digest(), "hours": (time.monotonic() - started) / 3600,
               "command": f"omnisky train codec {recipe.kind} --recipe {recipe.name}", "torch": str(torch.__version__)}
    checkpoints.save_codec(out / "model", codec, trained)


def train_step(codec: Codec, optimiser: torch.optim.Optimizer, recipe: CodecRecipe, source: CodecSource,
               step: int) -> dict[str, Any]:
    """One step of the optimiser; what it saw, as plain numbers."""
    rate = rate_at(step, recipe.steps, recipe.rate, recipe.warmup)
    for group in optimiser.param_groups:
        group["lr"] = rate
    codec.train()
    optimiser.zero_grad(set_to_none=True)
    batches, row = drawn(source, step), dict[str, Any](step=step + 1, rate=rate)
    for batch in batches:
        with mixed_precision(source.device, recipe.bfloat16):
            loss, parts, _ = LOSSES[recipe.kind](codec, batch, recipe)
        (loss / len(batches)).backward()
        for name, value in ({"loss": loss} | parts).items():
            row[name] = row.get(name, 0.0) + float(value.detach()) / len(batches)
    norm = torch.nn.utils.clip_grad_norm_(codec.parameters(), recipe.clip)
    if not math.isfinite(float(norm)):
        raise ValueError(f"the gradient at step {step} is not finite (loss {row['loss']}); the last good "
                         "checkpoint is kept. Lower the learning rate in a new folder")
    optimiser.step()
    return row | {"gradient": float(norm)}


@torch.no_grad()
def validate(codec: Codec, recipe: CodecRecipe, source: CodecSource) -> dict[str, float]:
    """Loss of held-out objects by instrument and on average, and how many ids are in use, as a perplexity."""
    codec.eval()
    row: dict[str, float] = {}
    for name, batch in unseen(source).items():
        with mixed_precision(source.device, recipe.bfloat16):
            loss, _, ids = LOSSES[recipe.kind](codec, batch, recipe)
        row |= {f"held_out_{name}": float(loss), f"perplexity_{name}": perplexity(ids)}
    losses = [value for name, value in row.items() if name.startswith("held_out_")]
    return row | {"held_out": sum(losses) / len(losses)}
