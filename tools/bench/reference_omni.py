"""`python -m tools.bench.reference_omni`: the transformer beside AION-1's own package, in one run and by turns.

Random weights of base size are saved by the reference and loaded by both. Needs `pip install polymathic-aion==0.0.2`.
Times are medians of repeats that take turns, so that a busy machine is busy for both; where other programs compete, the
seconds of processor time with --threads 1 are the ones to compare. The share of a plain matrix product
(the size and dtype of an encoder block's first one) says how much a faster program could still gain.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checkpoints import load_aion
from engine.modalities import AION, MODALITIES
from engine.models.omni import Omni, OmniConfig
from engine.models.processor import fast_bfloat16, has_amx

KEYS = [m.key for m in AION]
BASE: dict[str, Any] = {
    "domains_in": KEYS, "domains_out": KEYS, "dim": 768, "encoder_depth": 12, "decoder_depth": 12, "num_heads": 12,
    "norm_bias": False, "qkv_bias": False, "proj_bias": False, "mlp_bias": False, "act_layer": "SiLU", "gated_mlp": True,
    "qk_norm": True}
TASKS = (("tok_image", None), ("tok_image", "tok_z"), ("tok_spectrum_desi", "tok_image"))
Ways = dict[str, Callable[[], Any]]
LOADING = """
import sys, time
import torch
{imports}
def memory(key):
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(key))
before, clock, cpu = memory("VmRSS"), time.perf_counter(), time.process_time()
model = {load}
sum(float(p.float().sum()) for p in model.parameters())
size = sum(p.nbytes for p in model.parameters()) / 2**20
print(time.perf_counter() - clock, time.process_time() - cpu, memory("VmHWM") - before, size)
"""
LOADERS = {"reference": ("from aion import AION", "AION.from_pretrained(sys.argv[1])"),
           "float32": ("from engine.checkpoints import load_aion", "load_aion(sys.argv[1])"),
           "bfloat16": ("from engine.checkpoints import load_aion", "load_aion(sys.argv[1], torch.bfloat16)")}


@dataclass(frozen=True)
class Line:
    """One task done by one program. ratios: its seconds over the reference's; share: of a plain product's speed."""

    task: str
    program: str
    seconds: float
    cpu_seconds: float
    ratio: float
    cpu_ratio: float
    gflops: float | None = None
    share: float | None = None
    peak_mb: float | None = None
    note: str = ""


def work(config: OmniConfig, batch: int, source: str, target: str | None) -> float:
    """Operations of a task, two a multiplication: the products of the blocks, attention and logits."""
    d, h, n = config.dim, config.hidden, config.modality(source).tokens
    mlp = (3 if config.gated_mlp else 2) * d * h
    total = config.encoder_depth * (2 * n * (4 * d * d + mlp) + 4 * n * n * d) + 2 * n * d * d
    if target is not None:
        t = config.modality(target).tokens
        total += config.decoder_depth * (2 * t * (6 * d * d + mlp) + 4 * n * d * d + 4 * t * (t + n) * d)
        total += 2 * t * d * config.modality(target).vocabulary
    return float(batch * total)


def programs(reference: Any, ours: dict[str, Omni], tokens: dict[str, Tensor], target: str | None) -> Ways:
    """The ways to do a task, by name."""
    if target is None:
        count = sum(value.shape[1] for value in tokens.values())
        peers: Ways = {"reference": lambda: reference.encode(tokens, num_encoder_tokens=count)}
        return peers | {name: lambda m=m: m.encode(tokens) for name, m in ours.items()}  # type: ignore[misc]
    from aion import modalities

    asked = {"tok_z": modalities.Z, "tok_image": modalities.LegacySurveyImage}[target]
    peers = {"reference": lambda: reference(tokens, asked)}
    return peers | {name: lambda m=m: m.logits(tokens, [target]) for name, m in ours.items()}  # type: ignore[misc]


def by_turns(ways: Ways, repeats: int) -> dict[str, tuple[float, float]]:
    """Median seconds of each way by the clock and of the processor; all are warmed up, then take turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    with torch.inference_mode():
        for turn in range(repeats + 1):
            for name, way in ways.items():
                clock, cpu = time.perf_counter(), time.process_time()
                way()
                if turn:
                    taken[name].append((time.perf_counter() - clock, time.process_time() - cpu))
    return {name: medians(times) for name, times in taken.items()}


def medians(times: list[tuple[float, float]]) -> tuple[float, float]:
    return statistics.median(t[0] for t in times), statistics.median(t[1] for t in times)


def computing(folder: Path, reference: Any, batch: int, repeats: int) -> list[Line]:
    """Encoding and logits, in float32 by both, in bfloat16 by ours."""
    ours = {"float32": load_aion(folder), "bfloat16": load_aion(folder, torch.bfloat16)}
    config, lines = ours["float32"].config, []
    for source, target in TASKS:
        m = MODALITIES[source]
        tokens = {source: torch.randint(0, m.vocabulary, (batch, m.tokens), generator=torch.Generator().manual_seed(1))}
        ways = programs(reference, ours, tokens, target)
        for name, model in ours.items():  # a plain product in the same turns
            a, w = (torch.ones(rows, config.dim, dtype=model.mask_token.dtype) for rows in (batch * m.tokens, 3 * config.dim))
            ways[f"product {name}"] = lambda a=a, w=w: torch.nn.functional.linear(a, w)  # type: ignore[misc]
        seconds = by_turns(ways, repeats)
        for name in ("reference", *ours):
            plain = "float32" if name == "reference" else name
            done, product = work(config, batch, source, target), 6 * batch * m.tokens * config.dim**2
            share = (done / seconds[name][1]) / (product / seconds[f"product {plain}"][1])
            lines.append(Line(f"{batch} x {source} -> {target or 'context'}", name, *seconds[name],
                              *ratios(seconds[name], seconds["reference"]), done / seconds[name][0] / 1e9, share))
    return lines


def ratios(ours: tuple[float, float], theirs: tuple[float, float]) -> tuple[float, float]:
    return ours[0] / theirs[0], ours[1] / theirs[1]


def loading(folder: Path, repeats: int) -> list[Line]:
    """Loading with every page of the weights touched, each time in a process of its own, by turns."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in LOADERS}
    peaks, sizes = dict.fromkeys(LOADERS, 0.0), dict.fromkeys(LOADERS, 0.0)
    for _ in range(repeats):
        for name, (imports, load) in LOADERS.items():
            script = LOADING.format(imports=imports, load=load)
            done = subprocess.run([sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True)
            clock, cpu, peak, sizes[name] = map(float, done.stdout.split()[-4:])
            times[name].append((clock, cpu))
            peaks[name] = max(peaks[name], peak)
    seconds = {name: medians(some) for name, some in times.items()}
    return [Line("loading, every page touched", name, *seconds[name], *ratios(seconds[name], seconds["reference"]),
                 peak_mb=peaks[name], note=f"weights {sizes[name]:.0f} MB") for name in LOADERS]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--repeats", type=int, default=5, help="timed repeats of each (5)")
    parser.add_argument("--batch", type=int, default=8, help="objects at a time (8)")
    parser.add_argument("--layers", type=int, default=12, help="blocks of encoder and decoder (12, as in base)")
    parser.add_argument("--threads", type=int, help="of torch; its own choice by default")
    parser.add_argument("--only", choices=("computing", "loading"), help="one of the two parts")
    parser.add_argument("--out", type=Path, default=Path("reference_omni.json"), help="where the lines go")
    chosen = parser.parse_args()
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    from aion import AION as Reference

    size = BASE | {"encoder_depth": chosen.layers, "decoder_depth": chosen.layers}
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        reference = Reference(size).eval().requires_grad_(False)
        reference.save_pretrained(folder)
        lines = [] if chosen.only == "loading" else computing(folder, reference, chosen.batch, chosen.repeats)
        del reference
        lines += [] if chosen.only == "computing" else loading(folder, chosen.repeats)
    on = {"torch": torch.__version__, "threads": torch.get_num_threads(), "bfloat16": fast_bfloat16(), "amx": has_amx(),
          "layers": chosen.layers, "repeats": chosen.repeats}
    for line in lines:
        rest = f"peak {line.peak_mb or 0:.0f} MB, {line.note}"
        if line.gflops is not None:
            rest = f"{line.gflops:5.0f} GFLOP/s, {line.share:4.0%} of a product"
        print(f"{line.task:32} {line.program:10} {line.seconds:7.3f} s {line.ratio:5.2f} x "
              f"  processor {line.cpu_seconds:7.3f} s {line.cpu_ratio:5.2f} x   {rest}")
    chosen.out.write_text(json.dumps({"on": on, "lines": [asdict(line) for line in lines]}, indent=1) + "\n")


if __name__ == "__main__":
    main()
