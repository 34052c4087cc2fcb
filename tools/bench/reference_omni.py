"""The transformer beside AION-1's own package, with random weights of base size that the reference saves and both load."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checkpoints import load_aion
from engine.modalities import AION, MODALITIES
from engine.models.omni import Omni, OmniConfig
from engine.models.processor import fast_bfloat16
from tools.bench.reference_lines import Line, Product, Program, Seconds, Ways, compared, medians, ratios

__all__ = ["BASE", "computing", "fast_bfloat16", "loading", "saved", "work"]

KEYS = [m.key for m in AION]
BASE: dict[str, Any] = {
    "domains_in": KEYS, "domains_out": KEYS, "dim": 768, "encoder_depth": 12, "decoder_depth": 12, "num_heads": 12,
    "norm_bias": False, "qkv_bias": False, "proj_bias": False, "mlp_bias": False, "act_layer": "SiLU", "gated_mlp": True,
    "qk_norm": True}
TASKS = (("tok_image", None), ("tok_image", "tok_z"), ("tok_spectrum_desi", "tok_image"))
LOADING = """
import sys, time
import torch
{imports}
torch.set_num_threads(int(sys.argv[2]))
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


def saved(folder: Path, **changes: Any) -> Path:
    """The folder, with random weights of base size (but for the changes) that the reference saved there."""
    from aion import AION as Reference

    if not (folder / "config.json").is_file():
        torch.manual_seed(0)
        model = Reference(BASE | changes)
        with torch.no_grad():
            for embedding in model.encoder_embeddings.values():  # else positions are all that vectors tell of
                embedding.token_emb.weight *= 50
        model.save_pretrained(folder)
    return folder


def loaded(folder: Path) -> Any:
    """The reference's own model of what it saved."""
    from aion import AION as Reference

    return Reference.from_pretrained(folder).eval().requires_grad_(False)


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


def block_product(config: OmniConfig, tokens: int, dtype: torch.dtype) -> Product:
    """The size and dtype of an encoder block's first product."""
    return Product(tokens, config.dim, 3 * config.dim, dtype)


def ways(reference: Any, ours: dict[str, Omni], tokens: dict[str, Tensor], target: str | None) -> Ways:
    """How each program does a task."""
    if target is None:
        count = sum(value.shape[1] for value in tokens.values())
        peers: Ways = {"reference": lambda: reference.encode(tokens, num_encoder_tokens=count)}
        return peers | {name: lambda m=m: m.encode(tokens) for name, m in ours.items()}  # type: ignore[misc]
    from aion import modalities

    asked = {"tok_z": modalities.Z, "tok_image": modalities.LegacySurveyImage}[target]
    peers = {"reference": lambda: reference(tokens, asked)}
    return peers | {name: lambda m=m: m.logits(tokens, [target]) for name, m in ours.items()}  # type: ignore[misc]


def computing(folder: Path, reference: Any, batch: int, repeats: int) -> list[Line]:
    """Encoding and logits, in float32 by both, in bfloat16 by ours."""
    ours = {"float32": load_aion(folder), "bfloat16": load_aion(folder, torch.bfloat16)}
    config, lines = ours["float32"].config, []
    for source, target in TASKS:
        m = MODALITIES[source]
        tokens = {source: torch.randint(0, m.vocabulary, (batch, m.tokens), generator=torch.Generator().manual_seed(1))}
        done = work(config, batch, source, target)
        programs = {name: Program(call, done, block_product(
            config, batch * m.tokens, ours.get(name, ours["float32"]).mask_token.dtype))
            for name, call in ways(reference, ours, tokens, target).items()}
        lines += compared(f"{batch} x {source} -> {target or 'context'}", programs, repeats)
    return lines


def loading(folder: Path, repeats: int) -> list[Line]:
    """Loading with every page of the weights touched, each time in a process of its own, by turns."""
    times: dict[str, list[Seconds]] = {name: [] for name in LOADERS}
    peaks, sizes = dict.fromkeys(LOADERS, 0.0), dict.fromkeys(LOADERS, 0.0)
    for _ in range(repeats):
        for name, (imports, load) in LOADERS.items():
            script = LOADING.format(imports=imports, load=load)
            command = [sys.executable, "-c", script, str(folder), str(torch.get_num_threads())]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            clock, cpu, peak, sizes[name] = map(float, done.stdout.split()[-4:])
            times[name].append((clock, cpu))
            peaks[name] = max(peaks[name], peak)
    seconds = {name: medians(some) for name, some in times.items()}
    return [Line("loading, every page touched", name, *seconds[name], *ratios(seconds[name], seconds["reference"]),
                 peak_mb=peaks[name], note=f"weights {sizes[name]:.0f} MB, peak {peaks[name]:.0f} MB",
                 figures={"peak / weights": peaks[name] / sizes[name]}) for name in LOADERS]
