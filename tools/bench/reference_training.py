"""`python -m tools.bench.reference_training`: a step of masked training beside that of AION-1's own package, by turns.

Theirs is `FourM.forward` of polymathic-aion 0.0.2 (its masks are ready-made: the package has none to make them), backward and
AdamW; ours is all that `omni.train_step` does: reading tokens from disk, choosing, both passes, clipping, AdamW, averaging.
Same sizes, budgets, batch, tokens of the demo's modalities, bfloat16 autocast; on a processor that does not multiply in
bfloat16 ours is float32, and the reference in float32 takes its turns, too. On a GPU ours has its blocks compiled, which is how
it trains there.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from engine.checkpoints import save_aion
from engine.model_files import codec_checksum
from engine.models.omni import Omni
from engine.models.omni_config import OmniConfig
from engine.models.processor import fast_bfloat16
from engine.records import Records
from engine.train import omni
from engine.train.masking import Budgets, choose
from engine.train.omni_recipes import RECIPES, OmniRecipe
from tools.bench.reference_lines import Product, Seconds, flops, machine, medians, ratios, timed

SCALARS = ("tok_z", "tok_flux_g", "tok_flux_r", "tok_flux_z", "tok_shape_r", "tok_shape_e1", "tok_shape_e2", "tok_ebv")
SIZES = {"tok_image": (64, 1000), "tok_image_hsc": (64, 1000), "tok_spectrum_desi": (64, 1000), "tok_spectrum_sdss": (16, 1000),
         **dict.fromkeys(SCALARS, (1, 256))}
OBJECTS = 4096
LEAST = {"demo": 1.5, "base": 1.1}  # times the reference's speed that ours must reach on a CPU
ON_GPU = 2.0
BATCH = {"demo": 64, "base": 8}  # objects; on a GPU more fit


def recipe_of(size: str, heads: int, batch: int, device: str) -> OmniRecipe:
    """Budgets and batches of the comparison."""
    common: dict[str, Any] = {"withheld": (), "validation": 0.0, "warmup": 0.0, "threads": torch.get_num_threads(), "pieces": 1,
                              "compiled": device == "cuda", "batch": batch}
    if size == "base":
        return replace(RECIPES["base"], **common, budgets=Budgets((256,), 128, asked=()))
    budgets = Budgets((64,), 48, asked=())
    return replace(RECIPES["small"], **common, budgets=budgets, dim=192, encoder=4, decoder=4, heads=heads,
                   mlp_ratio=4.0, loss="modality", share_tables=False)


def sizes_of(size: str) -> dict[str, tuple[int, int]]:
    """Tokens and ids; base has twice the image tokens in each direction, to fill its budgets."""
    return SIZES | ({"tok_image": (256, 4375), "tok_image_hsc": (256, 4375)} if size == "base" else {})


def our_training(recipe: OmniRecipe, sizes: dict[str, tuple[int, int]], place: Path, device: str) -> omni.Training:
    """A run on random tokens of objects that have everything."""
    config, random = recipe.config(sizes, sizes), np.random.default_rng(0)
    save_aion(place / "model", Omni(replace(config, dim=8, num_heads=1, encoder_depth=1, decoder_depth=1)))
    for key, (n, vocabulary) in sizes.items():
        codec = place / "model/codecs" / config.modality(key).folder
        codec.mkdir(parents=True, exist_ok=True)
        (codec / "config.json").write_text("{}")
        save_file({"weight": torch.ones(1)}, codec / "model.safetensors")
        records = Records.create(place / "sky/tokens" / key, (n,), "<u2", {"codec": codec_checksum(codec)})
        records.append(np.arange(OBJECTS), random.integers(0, vocabulary, (OBJECTS, n)), OBJECTS)
    return omni.prepared(recipe, [place / "sky"], place / "model", place / "out", torch.device(device))


def our_step(this: omni.Training) -> Callable[[], Any]:
    steps = range(10**6)
    batches = zip(steps, this.batches.of_steps(steps, this.device), strict=True)
    return lambda: omni.train_step(this, *next(batches))


def reference_model(config: OmniConfig) -> Any:
    """The reference's transformer with tables of these sizes, made of its own parts as its `FM` does."""
    from functools import partial

    from aion.fourm.decoder_embeddings import ImageTokenDecoderEmbedding
    from aion.fourm.encoder_embeddings import ImageTokenEncoderEmbedding
    from aion.fourm.fm import FourM
    from aion.fourm.fm_utils import LayerNorm
    from aion.fourm.modality_info import MODALITY_INFO

    def tables(kind: Any, **options: Any) -> dict[str, Any]:
        return {key: kind(vocab_size=config.modality(key).vocabulary, patch_size=1,
                          image_size=(1, config.modality(key).tokens), **options) for key in config.domains}

    return FourM(encoder_embeddings=tables(ImageTokenEncoderEmbedding),
                 decoder_embeddings=tables(ImageTokenDecoderEmbedding, share_embedding=False),
                 modality_info={key: MODALITY_INFO[key] for key in config.domains}, dim=config.dim,
                 encoder_depth=config.encoder_depth, decoder_depth=config.decoder_depth, num_heads=config.num_heads,
                 mlp_ratio=config.mlp_ratio, qkv_bias=False, proj_bias=False, mlp_bias=False, act_layer=torch.nn.SiLU,
                 norm_layer=partial(LayerNorm, eps=1e-6, bias=False), gated_mlp=True, qk_norm=True)


def reference_batches(this: omni.Training, count: int) -> list[dict[str, dict[str, torch.Tensor]]]:
    """What its forward takes, masks and all, of the batches of our first steps. A mask is True where nothing is shown."""
    batches = []
    for step in range(count):
        ids, there = this.data.read(this.data.rows_of(step))
        chosen = choose(there, this.layout, this.recipe.budgets, this.recipe.seed, step)
        read, asked = (torch.ones(there.shape, dtype=torch.bool).scatter_(1, places, False)
                       for places in (chosen.inputs, chosen.targets))
        batch = {}
        for key, own in this.layout.slices.items():
            shown = ~asked[:, own]
            order = torch.zeros(shown.shape, dtype=torch.long)  # all targets of a modality see each other
            order.scatter_(1, shown.byte().argmax(1, keepdim=True), shown.sum(1, keepdim=True))
            batch[key] = {"tensor": ids[:, own], "input_mask": read[:, own], "target_mask": asked[:, own],
                          "decoder_attention_mask": order}
        batches.append(batch)
    return batches


def reference_step(this: omni.Training, half: bool = True) -> Callable[[], Any]:
    """half: in bfloat16 autocast."""
    from aion.fourm.fm import FourM

    torch.manual_seed(0)
    model, recipe = reference_model(this.config).train().to(this.device), this.recipe
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.rate, betas=recipe.betas, weight_decay=recipe.decay)
    batches = [{key: {name: x.to(this.device) for name, x in some.items()} for key, some in batch.items()}
               for batch in reference_batches(this, 8)]
    steps = iter(range(10**9))

    def step() -> None:
        optimiser.zero_grad(set_to_none=True)
        with torch.autocast(this.device.type, torch.bfloat16, enabled=half):
            loss, _ = FourM.forward(model, batches[next(steps) % 8], max(recipe.budgets.inputs), recipe.budgets.targets)
        loss.backward()
        optimiser.step()

    return step


def by_turns(ways: dict[str, Callable[[], Any]], repeats: int, each: int, device: str) -> dict[str, Seconds]:
    """Median seconds of a step; all are warmed up, then take turns of a few steps. On a GPU, which is at work on one step while
    the next is begun, a turn is timed as a whole."""
    together = each if device == "cuda" else 1
    taken: dict[str, list[Seconds]] = {name: [] for name in ways}
    for turn in range(repeats + 1):
        for name, way in ways.items():
            for _ in range(each // together):
                wall, processor = timed(lambda way=way: finished(way, together))  # type: ignore[misc]
                if turn:
                    taken[name].append((wall / together, processor / together))
    return {name: medians(times) for name, times in taken.items()}


def finished(way: Callable[[], Any], times: int) -> None:
    """Some calls, and all that they set going on a GPU."""
    for _ in range(times):
        way()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def measured(recipe: OmniRecipe, size: str, repeats: int, each: int, device: str) -> dict[str, Any]:
    """Objects a second of both, and how near ours is to a plain product of matrices."""
    sizes = sizes_of(size)
    with tempfile.TemporaryDirectory() as place:
        this = our_training(recipe, sizes, Path(place), device)
        ways = {"reference": reference_step(this), "ours": our_step(this)}
        half = device == "cuda" or fast_bfloat16()
        if not half:
            ways["reference in float32"] = reference_step(this, half)
        work = flops(ways["ours"])
        product = Product(recipe.batch * max(recipe.budgets.inputs), this.config.dim, 3 * this.config.dim,
                          torch.bfloat16 if half else torch.float32)
        plain = product.call(device)
        seconds = by_turns(ways | {"product": lambda: [plain() for _ in range(20)]}, repeats, each, device)
    rate = 20 * product.operations / seconds["product"][0]
    faster = ratios(seconds["reference"], seconds["ours"])
    speeds = {f"{name} (objects/s)": recipe.batch / seconds[name][0] for name in ways}
    return {"size": size, "heads": this.config.num_heads, "batch": recipe.batch, "inputs": max(recipe.budgets.inputs),
            "targets": recipe.budgets.targets, **speeds, "faster": faster[0], "faster by processor time": faster[1],
            **({} if half else {"faster than in float32": ratios(seconds["reference in float32"], seconds["ours"])[0]}),
            "wanted": LEAST[size] if device == "cpu" else ON_GPU, "GFLOP/s": work / seconds["ours"][0] / 1e9,
            "share of a plain product": work / seconds["ours"][0] / rate, "GFLOP/s of that product": rate / 1e9}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--size", choices=sorted(LEAST), default="demo")
    parser.add_argument("--heads", type=int, default=3, help="of the demo size (3)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--batch", type=int, help=f"objects a step ({BATCH['demo']}, of the base size {BATCH['base']})")
    parser.add_argument("--threads", type=int, default=2, help="of torch (2)")
    parser.add_argument("--repeats", type=int, default=5, help="turns (5)")
    parser.add_argument("--steps", type=int, default=4, help="a turn (4)")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    recipe = recipe_of(chosen.size, chosen.heads, chosen.batch or BATCH[chosen.size], chosen.device)
    result = measured(recipe, chosen.size, chosen.repeats, chosen.steps, chosen.device)
    print(json.dumps(result | {"on": machine() | {"load": os.getloadavg()[0]}}, indent=1))


if __name__ == "__main__":
    main()
