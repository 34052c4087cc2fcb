"""Vectors of a whole sky: `engine.jobs.embed` beside the loop that a user of AION-1's own package writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
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
from engine.store import Store
from tools.bench import reference_codecs as codecs
from tools.bench import reference_omni as omni
from tools.bench.reference_lines import Line, Seconds, by_turns, flops, ratios, timed

BATCH = 8  # objects at a time in the reference's loop
INPUTS = {"image": "tok_image", "spectrum": "tok_spectrum_desi"}
WATCHED: dict[str, tuple[tuple[type, str], ...]] = {
    "transformer": ((Omni, "encode"),),
    "codecs": tuple((codec, name) for codec in (ImageCodec, SpectrumCodec) for name in ("encode", "tokenize"))}


def sky(place: Path, objects: int, sample: int, **changes: Any) -> list[Line]:
    """A sky of so many objects by ours; the reference's loop over a sample of them, half before and half after, scaled."""
    folder = omni.saved(place / "aion-base-two", domains_in=list(INPUTS.values()), domains_out=["tok_z"], **changes)
    made = codecs.pairs(folder, codecs.inputs(BATCH))
    reference = omni.loaded(folder)
    store, small = made_sky(place / "measured.sky", objects), made_sky(place / "first.sky", BATCH)
    batches = list(stored(store, min(sample, objects)))
    loop = Loop(reference, made)
    embed(small.path, folder)  # all is imported and warm
    loop.run(batches[:1])

    half = len(batches) // 2
    before = timed(lambda: loop.run(batches[:half]))
    clock = Clock()
    with clock.watching():
        seconds = timed(lambda: embed(store.path, folder))
    after = timed(lambda: loop.run(batches[half:]))

    done = sum(len(batch["legacy"]) for batch in batches)
    theirs = (before[0] + after[0]) * objects / done, (before[1] + after[1]) * objects / done
    note = "" if done == objects else f"the reference's time is of {done} objects, scaled"
    return lines(objects, folder, seconds, theirs, clock, note, similar(store.path, loop.vectors))


def lines(objects: int, folder: Path, seconds: Seconds, theirs: Seconds, clock: Clock, note: str, cosine: float) -> list[Line]:
    task, operations = f"embed a sky of {objects} objects", objects * work(folder)
    products = {dtype: omni.block_product(read_config(folder), BATCH * 576, dtype) for dtype in (torch.float32, torch.bfloat16)}
    timings = by_turns({str(dtype): product.call() for dtype, product in products.items()}, 5)
    out = []
    for program, taken, dtype in (("reference", theirs, torch.float32),
                                  ("ours", seconds, torch.bfloat16 if omni.fast_bfloat16() else torch.float32)):
        gflops = operations / taken[0] / 1e9
        share = gflops / (products[dtype].operations / timings[str(dtype)][0] / 1e9)
        out.append(Line(task, program, *taken, *ratios(taken, theirs), gflops, share, note=note))
    figures = {"inside the model": clock.inside / seconds[0], "cosine to the reference": cosine}
    parts = ", ".join(f"{name} {spent / seconds[0]:.0%}" for name, spent in clock.spent.items())
    out[1] = Line(**{**vars(out[1]), "figures": figures, "note": "; ".join(filter(None, (f"time: {parts}", note)))})
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


def embed(sky: Path, model: Path) -> None:
    for _ in jobs.embed(sky, model):
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

    def run(self, batches: list[dict[str, Tensor]]) -> None:
        with torch.inference_mode():
            for batch in batches:
                tokens = {"image": self.codecs.image.encode(codecs.images(batch)),
                          "spectrum": self.codecs.spectrum.encode(codecs.spectra(batch))}
                for space, ids in tokens.items():
                    context = self.model.encode({INPUTS[space]: ids}, num_encoder_tokens=ids.shape[1])
                    self.vectors[space].append(context.mean(1))


def similar(sky: Path, vectors: dict[str, list[Tensor]]) -> float:
    """The median cosine between our vectors of a sky and the reference's, less what all objects have in common.

    Of the reference's the first batch is there twice.
    """
    found = []
    for space, batches in vectors.items():
        theirs = F.normalize(torch.cat(batches[1:]), dim=1)
        ours = torch.from_numpy(np.asarray(Embeddings.open(sky / "embeddings" / space).vectors[: len(theirs)], np.float32))
        found.append(F.cosine_similarity(ours - theirs.mean(0), theirs - theirs.mean(0)))
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
