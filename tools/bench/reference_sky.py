"""Vectors of a whole sky: `engine.jobs.embed` beside the loop that a user of AION-1's own package writes."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from engine import demo_sky, jobs
from engine.checkpoints import load_codec
from engine.checkpoints.aion import read_config
from engine.codecs import ImageCodec, SpectrumCodec
from engine.embeddings import Embeddings
from engine.models.omni import Omni
from engine.models.processor import fast_bfloat16
from engine.store import Store
from tools.bench import reference_codecs as codecs
from tools.bench import reference_omni as omni
from tools.bench.reference_lines import Line, Seconds, by_turns, flops, ratios, timed

BATCH = 8  # objects at a time in the reference's loop
INPUTS = {"image": "tok_image", "spectrum": "tok_spectrum_desi"}
WATCHED: dict[str, tuple[tuple[type, str], ...]] = {
    "transformer": ((Omni, "encode"),),
    "codecs": tuple((codec, name) for codec in (ImageCodec, SpectrumCodec) for name in ("encode", "tokenize"))}
PROGRAMS: dict[str, dict[str, Any]] = {"exact": {}, "fast": {"quick": True}}  # options of `jobs.embed`


@dataclass(frozen=True)
class Run:
    """One of ours from the first pixel to the last vector."""

    seconds: Seconds
    clock: Clock
    cosine: float


def sky(place: Path, objects: int, sample: int, **changes: Any) -> list[Line]:
    """A sky of so many objects by ours; the reference's loop over a sample of them, half before and half after, scaled."""
    folder = omni.saved(place / "aion-base-two", domains_in=list(INPUTS.values()), domains_out=["tok_z"], **changes)
    made = codecs.pairs(folder, codecs.inputs(BATCH))
    loop = Loop(omni.loaded(folder), made)
    store, small = made_sky(place / "measured.sky", objects), made_sky(place / "first.sky", BATCH)
    batches = list(stored(store, min(sample, objects)))
    for options in PROGRAMS.values():  # all is imported and warm
        embed(small.path, folder, **options)
    loop.run(batches[:1])
    loop.forget()

    half = len(batches) // 2
    before = timed(lambda: loop.run(batches[:half]))
    runs = {name: embedded(store.path, folder, options) for name, options in PROGRAMS.items()}
    after = timed(lambda: loop.run(batches[half:]))

    done = sum(len(batch["legacy"]) for batch in batches)
    theirs = (before[0] + after[0]) * objects / done, (before[1] + after[1]) * objects / done
    note = "" if done == objects else f"the reference's time is of {done} objects, scaled"
    found = {name: Run(seconds, clock, similar(vectors, loop.vectors)) for name, (seconds, clock, vectors) in runs.items()}
    return lines(objects, folder, theirs, found, note)


def embedded(path: Path, folder: Path, options: dict[str, Any]) -> tuple[Seconds, Clock, dict[str, Tensor]]:
    """A sky without vectors embedded, and its vectors."""
    for old in ("embeddings", "tokens"):
        shutil.rmtree(path / old, ignore_errors=True)
    clock = Clock()
    with clock.watching():
        seconds = timed(lambda: embed(path, folder, **options))
    return seconds, clock, {space: torch.from_numpy(np.array(Embeddings.open(path / "embeddings" / space).vectors, np.float32))
                            for space in INPUTS}


def lines(objects: int, folder: Path, theirs: Seconds, runs: dict[str, Run], note: str) -> list[Line]:
    """What the programs did in the seconds they took."""
    task, operations = f"embed a sky of {objects} objects", objects * work(folder)
    dtypes = {"reference": torch.float32} | dict.fromkeys(runs, torch.bfloat16 if fast_bfloat16() else torch.float32)
    products = {dtype: omni.block_product(read_config(folder), BATCH * 576, dtype) for dtype in dtypes.values()}
    plain = by_turns({str(dtype): product.call() for dtype, product in products.items()}, 5)
    out = []
    for program, dtype in dtypes.items():
        taken = runs[program].seconds if program in runs else theirs
        gflops = operations / taken[0] / 1e9
        share = gflops / (products[dtype].operations / plain[str(dtype)][0] / 1e9)
        out.append(Line(task, program, *taken, *ratios(taken, theirs), gflops, share, note=note))
        if program in runs:
            run = runs[program]
            parts = ", ".join(f"{name} {spent / taken[0]:.0%}" for name, spent in run.clock.spent.items())
            out[-1] = replace(out[-1], note="; ".join(filter(None, (f"time: {parts}", note))), figures={
                "inside the model": run.clock.inside / taken[0], "cosine to the reference": run.cosine})
    return out


def work(folder: Path) -> float:
    """Operations for one object: those of the codecs, and of the transformer for each of its inputs."""
    one, config = codecs.inputs(1), read_config(folder)
    image, spectrum = (load_codec(folder / "codecs" / name) for name in ("image", "spectrum"))
    arrays = (*(one[f"desi{part}"] for part in ("", "_ivar", "_mask")), one["wavelength"])
    calls: tuple[Callable[[], Any], ...] = (lambda: image.tokenize(one["legacy"], codecs.LEGACY),  # type: ignore[call-arg]
                                            lambda: spectrum.tokenize(*arrays))
    return sum(map(flops, calls)) + sum(omni.work(config, 1, key, None) for key in INPUTS.values())


def made_sky(path: Path, objects: int) -> Store:
    """The simulated sky on disk."""
    store = Store.create(path)
    for batch in demo_sky.batches(codecs.SEED, 0, objects):
        store.append(batch, ["simulated"] * len(batch))
    return store


def embed(sky: Path, model: Path, **options: Any) -> None:
    for _ in jobs.embed(sky, model, **options):
        pass


def stored(store: Store, count: int) -> Iterator[dict[str, Tensor]]:
    """The pixels and spectra of the first objects of a sky, a batch at a time, as a user reads them for the reference."""
    for first in range(0, count, BATCH):
        some = [store.read(row) for row in range(first, min(first + BATCH, count))]
        pictures, spectra = [o.image("legacy") for o in some], [o.spectrum("desi") for o in some]
        batch = {"legacy": [np.where(bad(p.pixels, p.mask), 0.0, p.pixels) for p in pictures],  # type: ignore[union-attr]
                 "desi": [s.flux for s in spectra], "desi_ivar": [s.ivar for s in spectra],  # type: ignore[union-attr]
                 "desi_mask": [bad(s.flux, s.mask) for s in spectra]}  # type: ignore[union-attr]
        tensors = {key: torch.from_numpy(np.stack(values)) for key, values in batch.items()}  # type: ignore[call-overload]
        floats = {key: value if value.dtype == torch.bool else value.float() for key, value in tensors.items()}
        yield floats | {"wavelength": torch.from_numpy(spectra[0].wavelength.copy()).float()}  # type: ignore[union-attr]


def bad(values: Any, mask: Any) -> Any:
    return ~np.isfinite(values) if mask is None else ~np.isfinite(values) | mask


@dataclass
class Loop:
    """The reference's own: its codecs, then its model, of each the mean over the tokens."""

    model: Any
    codecs: codecs.Pairs
    vectors: dict[str, list[Tensor]] = field(default_factory=lambda: {space: [] for space in INPUTS})

    def forget(self) -> None:
        self.vectors = {space: [] for space in INPUTS}

    def run(self, batches: list[dict[str, Tensor]]) -> None:
        with torch.inference_mode():
            for batch in batches:
                tokens = {"image": self.codecs.image.encode(codecs.images(batch)),
                          "spectrum": self.codecs.spectrum.encode(codecs.spectra(batch))}
                for space, ids in tokens.items():
                    context = self.model.encode({INPUTS[space]: ids}, num_encoder_tokens=ids.shape[1])
                    self.vectors[space].append(context.mean(1))


def similar(ours: dict[str, Tensor], theirs: dict[str, list[Tensor]]) -> float:
    """The median cosine between our vectors of a sky and the reference's, less what all objects have in common."""
    found = []
    for space, batches in theirs.items():
        some = F.normalize(torch.cat(batches), dim=1)
        found.append(F.cosine_similarity(ours[space][: len(some)] - some.mean(0), some - some.mean(0)))
    return float(torch.cat(found).median())


class Clock:
    """How long any thread was inside the calls watched, in all and by name; calls within calls count once."""

    def __init__(self) -> None:
        self.inside = 0.0
        self.spent: dict[str, float] = {}
        self._open: dict[str, int] = {}
        self._since = 0.0
        self._lock = threading.Lock()

    @contextmanager
    def watching(self, calls: dict[str, tuple[tuple[type, str], ...]] = WATCHED) -> Iterator[None]:
        with ExitStack() as patches:
            for name, methods in calls.items():
                for owner, method in methods:
                    patches.enter_context(patch.object(owner, method, self._clocked(name, getattr(owner, method))))
            yield

    def _clocked(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def clocked(*args: Any, **options: Any) -> Any:
            self._step(name, 1)
            try:
                return call(*args, **options)
            finally:
                self._step(name, -1)
        return clocked

    def _step(self, name: str, change: int) -> None:
        """Count the time since the last step for what was open until now."""
        with self._lock:
            now = time.perf_counter()
            busy = [n for n, depth in self._open.items() if depth]
            for n in busy:
                self.spent[n] = self.spent.get(n, 0.0) + now - self._since
            self.inside += now - self._since if busy else 0.0
            self._since = now
            self._open[name] = self._open.get(name, 0) + change
