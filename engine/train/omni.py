"""Masked multimodal training of the transformer from stored tokens: data, model, optimiser, resume, curve, the finished model.

4M's objective (Mizrahi et al. 2023, arXiv:2312.06647) with AION-1's sizes (Parker et al. 2025, arXiv:2510.17960). One process
on a CPU or a GPU, or several: `torchrun --no-python omnisky train omni ...`.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine import checkpoints
from engine.checkpoints.tokenizers import config_of
from engine.checkpoints.training import whole
from engine.files import only_writer
from engine.model_files import read_json, weights_checksum
from engine.models.omni import Omni, OmniConfig
from engine.models.processor import mixed_precision
from engine.pairs import How
from engine.steps import Step
from engine.train import parallel
from engine.train.codec_folder import copied, holder
from engine.train.data import write_json
from engine.train.loop import keep_until
from engine.train.masking import Layout
from engine.train.omni_batches import Batch, Batches
from engine.train.omni_recipes import OmniRecipe, available, check_memory, chosen, give_back, held
from engine.train.omni_step import MaskedOmni, weights
from engine.train.optim import adamw_omni, average, rate_at
from engine.train.placed_heads import pairs_of, place_heads
from engine.train.recorded import Recorded, lengths
from engine.train.token_data import TokenData, cells_of, copies_of, joined, seen, tokens_of


def run(recipe: str | OmniRecipe, skies: Sequence[str | Path], codecs: str | Path, out: str | Path, pair: How | None = None,
        start: str | Path | None = None) -> Iterator[Step]:
    """Train a recipe on the tokens of skies into the folder `out`; run again to go on where it stopped.

    codecs: the folder of codecs, or the model folder, whose codecs made the tokens. out/curve.jsonl: a line a report;
    out/tensorboard: the same, if tensorboard is installed; out/checkpoint: all that is needed to go on; out/model: the averaged
    weights with the codecs, for `checkpoints.load`. The last Step's preview is that folder, earlier ones are lines of the
    curve. A killed and resumed run gives the weights of an uninterrupted one, bit for bit, on the same machine with the same
    threads. pair: rows of the same object, in whichever sky, are read as one: those within so many arcsec (`engine.pairs`), or
    "id". Turned copies of objects take part if they are stored (`omnisky tokenize --copies`). start: a model's folder, whose
    weights the run begins with; then the sizes are that model's, and so are codecs that `codecs` does not have.

    Raises KeyError for an unknown recipe; ValueError for tokens of other codecs, a run of another recipe or of other tokens in
    `out`, a run that does not fit the memory, that another process is at, and a loss that is no number (the last checkpoint is
    kept); FileNotFoundError if neither folder has a codec that the result needs.
    """
    recipe, out = chosen(recipe), Path(out)
    device = parallel.start()
    begun = None if start is None else Path(start)
    this = prepared(recipe, [Path(sky) for sky in skies], Path(codecs), out, device, pair, begun)
    first, seconds = checkpoints.resume(out / "checkpoint", this.module.model, this.optimiser, this.averages)
    if first == recipe.steps and _is_result(out / "model", this.marks):  # with what was fitted on it since
        yield _done(out)
        return
    out.mkdir(parents=True, exist_ok=True)
    with only_writer(out / "run.lock", str(out)) if parallel.world()[0] == 0 else nullcontext():
        yield from _train(this, first, time.monotonic() - seconds)


@dataclass(frozen=True)
class Training:
    """What a run consists of. averages: parameter -> its average, what the run is for."""

    recipe: OmniRecipe
    config: OmniConfig
    data: TokenData
    module: MaskedOmni
    optimiser: torch.optim.Optimizer
    averages: dict[str, Tensor]
    device: torch.device
    skies: list[Path]
    pair: How | None
    codecs: Path
    out: Path
    marks: dict[str, str]  # of recipe and tokens: a checkpoint must have the same
    start: Path | None = None  # the model that it began with

    @property
    def layout(self) -> Layout:
        return self.module.layout

    @cached_property
    def batches(self) -> Batches:
        return Batches(self.data, self.layout, self.recipe, *parallel.world())


def prepared(recipe: OmniRecipe, skies: list[Path], codecs: Path, out: Path, device: torch.device, pair: How | None = None,
             start: Path | None = None) -> Training:
    """All that can be wrong is found here, before anything long begins."""
    processes = parallel.world()[1]
    if recipe.batch % (recipe.pieces * processes):
        raise ValueError(f"a batch of {recipe.batch} in {recipe.pieces} pieces cannot be shared among {processes} processes")
    known = config_of(codecs) if start is None else _begun(start, codecs)
    records = tokens_of(skies, known, codecs)
    domains = [key for key in known.domains if any(key in some for some in records)]
    config = recipe.config(domains, known.sizes) if start is None else replace(
        known, use_act_checkpoint=recipe.recompute, soften=recipe.soften, calibration={})
    layout = Layout(config)
    named = {key for sources, target, _ in recipe.budgets.translations for key in (*sources, target)}
    if missing := sorted(named - set(config.domains)):
        raise ValueError(f"the recipe translates {', '.join(missing)}, which the tokens do not have; there are "
                         f"{', '.join(config.domains)}")
    check_memory(recipe, config, available(device), processes, device.type, held())
    cells = [cells_of(sky) for sky in skies] if recipe.split == "positions" else None
    led = None if pair is None else joined(skies, records, known, pair)
    copies = copies_of(skies, records, known, codecs)
    data = TokenData(records, layout, recipe.batch, recipe.seed, recipe.validation, recipe.withheld, cells, led, copies)
    tokens: list[Any] = [{key: [r.manifest["codec"], len(r), r.reach] for key, r in some.items()}
                         for some in (*records, *(of_sky for copy in copies for of_sky in copy))]
    tokens += [] if led is None else [hashlib.sha256(led.tobytes()).hexdigest()]
    marks = {"digest": recipe.digest(config), "tokens": hashlib.sha256(json.dumps(tokens).encode()).hexdigest()[:16]}
    if start is not None:
        marks["start"] = weights_checksum(start)[:16]
    previous = _previous(out, marks, recipe)
    if device.type == "cpu":
        torch.set_num_threads(recipe.threads)
        if recipe.recompute:  # for whom memory counts more than time
            give_back()
    torch.manual_seed(recipe.seed)
    model = Omni(config, device)
    if start is None:
        model.init_weights(recipe.seed)
    else:
        model.load_state_dict(checkpoints.load_aion(start).state_dict())
    if previous is not None:
        model.read_tokens(tuple(previous["token_heads"]))
    elif recipe.placed:
        first = Batches(data, layout, recipe)[0]
        place_heads(MaskedOmni(model, recipe.soften), pairs_of(model, recipe.budgets.translations), data,
                    first.pieces[0].to(device), weights(first.counts, recipe.loss, layout).to(device), recipe.placed)
    config = model.config
    if recipe.part == "decoder":  # tables and vectors of modalities are the encoder's, too
        for name, p in model.named_parameters():
            p.requires_grad_(name.startswith(("decoder.", "decoder_norm.", "mask_token")))
    module = parallel.apply(MaskedOmni(model, recipe.soften))
    if device.type == "cuda" and processes == recipe.pieces == 1 and not recipe.recompute:
        module.through = Recorded(module, recipe, lengths(recipe, config, available(device)))
    if recipe.compiled and device.type == "cuda":  # on a CPU it gains nothing
        torch._dynamo.config.recompile_limit = 64  # a program for each of the heads that read tokens, and for odd lengths
        for block in (*model.encoder, *model.decoder):
            block.compile(dynamic=True)  # the number of tokens changes from batch to batch
    averages = {name: p.detach().clone() for name, p in model.named_parameters()}
    optimiser = adamw_omni(model, recipe.rate, recipe.decay, recipe.betas)
    return Training(recipe, config, data, module, optimiser, averages, device, skies, pair, codecs, out, marks, start)


def _begun(start: Path, codecs: Path) -> OmniConfig:
    """Of the model to begin with. Raises ValueError if the codecs make other tokens than it reads, FileNotFoundError if one
    that the result must have is neither among them nor the model's own."""
    config, made = checkpoints.read_config(start), config_of(codecs)
    for key in config.domains:
        holder(config.modality(key).folder, codecs, start)
    for key in sorted({*config.domains} & {*made.domains}):
        read, new = config.modality(key), made.modality(key)
        if (read.tokens, read.vocabulary) != (new.tokens, new.vocabulary):
            raise ValueError(f"{start} reads {read.tokens} tokens of {read.vocabulary:,} ids as {key}, {codecs} makes "
                             f"{new.tokens} of {new.vocabulary:,}; begin with a model of these codecs, or from nothing")
    return config


def _previous(out: Path, marks: dict[str, str], recipe: OmniRecipe) -> dict[str, Any] | None:
    """What a run that this one continues says of itself. Raises ValueError if the folder holds another."""
    previous = checkpoints.last_step(out / "checkpoint")
    if previous is None:
        return None
    for mark, what in (("digest", "another recipe or of a model with other modalities"),
                       ("tokens", "other tokens (a sky has grown, they were made anew, or are paired otherwise)"),
                       ("start", "other weights to begin with")):
        if previous.get(mark) != marks.get(mark):
            then, now = previous.get("recipe", {}), json.loads(json.dumps(recipe.to_dict()))  # tuples are lists there
            other = [f"{name} {then[name]}, not {value}" for name, value in now.items() if then.get(name, value) != value]
            told = f": {'; '.join(other)}" if mark == "digest" and other else ""
            raise ValueError(f"{out} holds a run of {what} (recipe {then.get('name', 'unknown')}, {previous.get('step')} steps"
                             f"{told}); train into a new folder, or remove this one")
    return previous


def _train(this: Training, first: int, started: float) -> Iterator[Step]:
    """The steps themselves, from the last checkpoint on."""
    recipe, out, writes = this.recipe, this.out, parallel.world()[0] == 0
    curve = _Curve(out, first) if writes else None
    steps = range(first, recipe.steps)
    before: Taken | None = None
    for step, batch in zip(steps, this.batches.of_steps(steps, this.device), strict=True):
        taken = train_step(this, step, batch)
        last = step + 1 == recipe.steps
        reports, saves = (last or (step + 1) % every == 0 for every in (recipe.report_every, recipe.checkpoint_every))
        for one in (before, taken if reports or saves else None):
            if one is not None:
                one.check(out)
        before = taken
        if reports:
            row = taken.row(this.layout) | validate(this) | {"seconds": round(time.monotonic() - started, 1)}
            if curve is not None:
                curve.add(row)
        if saves:
            state = {"step": step + 1, "seconds": time.monotonic() - started, "recipe": recipe.to_dict(),
                     "token_heads": this.config.token_heads, **this.marks}
            checkpoints.save_training(out / "checkpoint", this.module.model, this.optimiser, state, this.averages)
        if reports:  # after the checkpoint: who reads the note may stop here
            note = f"step {step + 1:,} of {recipe.steps:,}: loss {row['loss']:.3f}"
            note += f", held out {row['held_out']:.3f}" if "held_out" in row else ""
            note += f", {this.data.paired:,} rows paired" if this.pair is not None else ""
            yield Step((step + 1) / recipe.steps, note, row)
    _save_result(this, (time.monotonic() - started) / 3600)
    parallel.wait()
    yield _done(out)


def _done(out: Path) -> Step:
    return Step(1.0, f"trained; the model is in {out / 'model'}", str(out / "model"))


def _is_result(model: Path, marks: Mapping[str, str]) -> bool:
    """Whether a folder is what a run with these marks saved."""
    about = model / "training.json"
    return about.is_file() and marks.items() <= read_json(about).items()


@dataclass(frozen=True)
class Taken:
    """A step of the optimiser that was begun. A GPU is still at work on it: its numbers (M + 2,), the summed loss of each
    modality, the loss and the length of the gradient, are there when `ready`. counts: (M,) targets."""

    step: int
    rate: float
    counts: Tensor
    numbers: Tensor
    ready: torch.cuda.Event | None

    def check(self, out: Path) -> None:
        """Wait for it. Raises ValueError for a loss or gradient that is no number; only the checkpoint is good then."""
        if self.ready is not None:
            self.ready.synchronize()
        loss, norm = self.numbers[-2:].tolist()
        if not (math.isfinite(loss) and math.isfinite(norm)):
            kept = checkpoints.last_step(out / "checkpoint")
            where = "there is no checkpoint yet" if kept is None else (
                f"the checkpoint in {out / 'checkpoint'}, of step {kept['step']}, is kept")
            raise ValueError(f"step {self.step}, on the batch of that number, has the loss {loss} and the gradient {norm}: it "
                             f"does not count, and {where}. Train into a new folder with a lower rate (now {self.rate:.2g})")

    def row(self, layout: Layout) -> dict[str, Any]:
        """What it saw, as plain numbers, after `check`."""
        loss, norm = self.numbers[-2:].tolist()
        found = _by_modality("loss", self.numbers[:-2], self.counts, layout)
        return {"step": self.step, "rate": self.rate, "loss": loss, "gradient": norm} | found


def train_step(this: Training, step: int, batch: Batch) -> Taken:
    """Begin one step of the optimiser. Nothing here waits for a GPU: it would be idle while the next step is begun."""
    recipe, module = this.recipe, this.module
    rate = rate_at(step, recipe.steps, recipe.rate, round(recipe.warmup * recipe.steps), flat=round(recipe.flat * recipe.steps))
    for group in this.optimiser.param_groups:
        group["lr"] = rate
    module.train()
    this.optimiser.zero_grad(set_to_none=True)
    counts = batch.counts
    weight = weights(counts, recipe.loss, this.layout).to(this.device, non_blocking=True)
    sums = torch.zeros(len(counts), device=this.device)
    for number, piece in enumerate(batch.pieces):
        parallel.last_piece(module, number + 1 == recipe.pieces)
        with mixed_precision(this.device, recipe.bfloat16):
            each = module(piece.to(this.device))
        # Gradients are averaged over processes, but each has a share of one sum.
        ((each * weight).sum() * parallel.world()[1]).backward()
        sums += each.detach()
    sums = parallel.summed(sums)
    norm = parallel.gathered(torch.nn.utils.clip_grad_norm_(module.parameters(), recipe.clip))
    this.optimiser.step()
    new = [parallel.local(p.detach()) for p in module.model.parameters()]
    average([parallel.local(p) for p in this.averages.values()], new, recipe.average, step)
    numbers, ready = _brought(torch.cat([sums, (sums * weight).sum()[None], norm[None]]))
    return Taken(step + 1, rate, counts, numbers, ready)


def _brought(numbers: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
    """Numbers on their way from a GPU, and when they are there."""
    if not numbers.is_cuda:
        return numbers, None
    here = torch.empty(numbers.shape, dtype=numbers.dtype, pin_memory=True).copy_(numbers, non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()
    return here, ready


def _by_modality(name: str, sums: Tensor, counts: Tensor, layout: Layout) -> dict[str, float]:
    """The mean cross-entropy of each modality that has targets."""
    each = zip(layout.keys, sums.tolist(), counts.tolist(), strict=True)
    return {f"{name}/{key}": total / count for key, total, count in each if count}


@torch.no_grad()
def validate(this: Training) -> dict[str, float]:
    """The cross-entropy of objects that are never trained on, by the averaged weights: always the same ones, chosen alike."""
    recipe, whole_pieces = this.recipe, this.recipe.pieces * parallel.world()[1]
    rows = this.data.held_out[: min(recipe.validated, len(this.data.held_out)) // whole_pieces * whole_pieces]
    if not len(rows):
        return {}
    sums, counts = torch.zeros(len(this.layout.keys), device=this.device), torch.zeros(len(this.layout.keys), dtype=torch.long)
    _swap(this)
    this.module.eval()
    for number, start in enumerate(range(0, len(rows), recipe.batch)):
        batch = this.batches.of(rows[start : start + recipe.batch], -1 - number)
        counts += batch.counts
        for piece in batch.pieces:
            # Compiled without gradients, too, blocks would take a minute longer to begin.
            eager = torch.compiler.set_stance("force_eager") if recipe.compiled else nullcontext()
            with eager, mixed_precision(this.device, recipe.bfloat16):
                sums += this.module(piece.to(this.device))
    parallel.release(this.module)
    _swap(this)
    sums = parallel.summed(sums)
    loss = float((sums * weights(counts, recipe.loss, this.layout).to(this.device)).sum())
    return {"held_out": loss} | _by_modality("held_out", sums, counts, this.layout)


@torch.no_grad()
def _swap(this: Training) -> None:
    """Weights and their averages change places."""
    for p, other in zip(this.module.model.parameters(), this.averages.values(), strict=True):
        mine, kept = parallel.local(p), parallel.local(other)
        before = mine.clone()
        mine.copy_(kept)
        kept.copy_(before)


class _Curve:
    """The losses on disk: curve.jsonl, and TensorBoard's own files where that is installed."""

    def __init__(self, out: Path, first: int) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.path = out / "curve.jsonl"
        keep_until(self.path, first)
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            self.board = None
        else:
            self.board = SummaryWriter(str(out / "tensorboard"), purge_step=first + 1)

    def add(self, row: dict[str, Any]) -> None:
        with self.path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self.board is not None:
            for name, value in row.items():
                self.board.add_scalar(name, value, row["step"])
            self.board.flush()


def _before(start: Path | None) -> dict[str, Any]:
    """How the model was trained that a run began with, as far as it says so: published ones do not."""
    if start is None:
        return {}
    about = start / "training.json"
    return {"began with": read_json(about) if about.is_file() else start.name}


def _save_result(this: Training, hours: float) -> None:
    """The averaged weights, the codecs that made their tokens, and how they were made; whole or not at all."""
    tensors = {name: whole(p) for name, p in this.averages.items()}
    if parallel.world()[0] > 0:
        return
    model = Omni(replace(this.config, use_act_checkpoint=False), device="meta")
    model.load_state_dict(tensors, assign=True)
    part, result = this.out / "model.part", this.out / "model"
    shutil.rmtree(part, ignore_errors=True)
    checkpoints.save_aion(part, model.to(getattr(torch, this.recipe.stored)))
    # What the model reads beyond the tokens, it learned by its own codecs.
    copied(this.config, part, this.codecs, *(() if this.start is None else (this.start,)))
    write_json(part / "training.json", {
        "recipe": this.recipe.to_dict(), **this.marks, "hours": round(hours, 4), "objects": len(this.data.train),
        "paired": this.data.paired,
        "skies": [sky.name for sky in this.skies], "seen": [seen(some) for some in this.data.skies],
        "codecs": this.codecs.name, "pair": this.pair, "torch": str(torch.__version__)}
        | _before(this.start))
    shutil.rmtree(result, ignore_errors=True)
    part.rename(result)
