"""`python -m tools.bench.reference_generation`: tokens of a spectrum drawn from an image's, beside the reference's sampler.

Both have the same random weights of AION-1's base size and draw 273 tokens of a DESI spectrum from 576 of an image in as many
steps, by turns; theirs is `GenerationSampler` of polymathic-aion 0.0.2, which its public interface does not reach. Codecs are
left out. Each follows its own schedule: by "roar" theirs draws equal shares, ours most tokens early. Theirs reads all tokens
again in every round; ours reads each once, and, for comparison, all again; operations say what that costs.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checkpoints import load_aion
from engine.generation import draws, grids, reading
from engine.modalities import MODALITIES
from engine.models.omni import Omni, OmniConfig
from tools.bench.reference_lines import Line, Program, compared, machine
from tools.bench.reference_omni import block_product, fast_bfloat16, loaded, saved

SOURCE, TARGET = "tok_image", "tok_spectrum_desi"
SCHEMES: tuple[draws.Scheme, ...] = ("roar", "maskgit")
WANTED = 0.25  # of the reference's seconds, in the fastest dtype that ours has on this processor
HALF, AGAIN = "reference, bfloat16 autocast", ", all tokens read again"
Draw = Callable[[], Tensor]


def image(batch: int) -> Tensor:
    """Random tokens of images (B, 576)."""
    m = MODALITIES[SOURCE]
    return torch.randint(0, m.vocabulary, (batch, m.tokens), generator=torch.Generator().manual_seed(1))


def checked(ids: Tensor, complete: Tensor, batch: int) -> Tensor:
    """The ids (B, n) if they are a spectrum's and all drawn. Raises RuntimeError if not: such a time would mean nothing."""
    m = MODALITIES[TARGET]
    right = ids.shape == (batch, m.tokens) and not ids.is_floating_point() and bool(complete.all())
    if not right or ids.min() < 0 or ids.max() >= m.vocabulary:
        raise RuntimeError(f"ids {tuple(ids.shape)} from {int(ids.min())} to {int(ids.max())}, {int(complete.sum())} drawn; "
                           f"expected {(batch, m.tokens)} below {m.vocabulary}")
    return ids


# -- ours -----------------------------------------------------------------------------------------------------------


def ours(model: Omni, tokens: Tensor, settings: draws.Settings) -> Draw:
    """What `OmniBundle.generate` does between reading tokens and decoding them: one sample an object."""
    hidden = {SOURCE: torch.zeros_like(tokens, dtype=torch.bool)}

    def draw() -> Tensor:
        noise = [draws.generator(0, row) for row in range(len(tokens))]
        *_, last = grids.generate(model, {SOURCE: tokens}, hidden, TARGET, settings, noise)
        return checked(last.ids, last.known, len(tokens))

    return draw


# -- theirs ---------------------------------------------------------------------------------------------------------


def asked(model: Any, tokens: Tensor) -> dict[str, dict[str, Tensor]]:
    """What the reference's sampler starts from: all of the image, nothing of the spectrum."""
    from aion.fourm.generate import init_empty_target_modality, init_full_input_modality

    info, batch = model.modality_info, len(tokens)
    inputs = init_full_input_modality({SOURCE: {"tensor": tokens}}, info, SOURCE, tokens.device)
    return init_empty_target_modality(inputs, info, TARGET, batch, MODALITIES[TARGET].tokens, tokens.device)


def schedule(scheme: str, steps: int) -> list[dict[str, Any]]:
    """The reference's own, as its 4M demos choose it: linear for roar, cosine for maskgit; no guidance."""
    from aion.fourm.generate import build_chained_generation_schedules

    return build_chained_generation_schedules(
        cond_domains=[SOURCE], target_domains=[TARGET], tokens_per_target=[MODALITIES[TARGET].tokens],
        autoregression_schemes=[scheme], decoding_steps=[steps], token_decoding_schedules=["cosine"], temps=[1.0],
        temp_schedules=["constant"], cfg_scales=[1.0], cfg_schedules=["constant"])


def theirs(model: Any, tokens: Tensor, settings: draws.Settings, half: bool = False) -> Draw:
    """The reference's sampler; half: under bfloat16 autocast, the only way it has to that."""
    from aion.fourm.generate import GenerationSampler

    sampler, start, steps = GenerationSampler(model), asked(model, tokens), schedule(settings.scheme, settings.steps)

    def draw() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            drawn = sampler.generate(start, steps, seed=0)[TARGET]
        return checked(drawn["tensor"], ~drawn["input_mask"], len(tokens))

    return draw


def first_logits(model: Any, tokens: Tensor) -> Tensor:
    """What the reference's sampler makes of the image alone, (B, n, V): the maskgit way asks for all tokens."""
    from aion.fourm.generate import GenerationSampler

    logits, _ = GenerationSampler(model).forward_enc_dec_maskgit_batched(asked(model, tokens), TARGET)
    return logits


# -- both -----------------------------------------------------------------------------------------------------------


def models(folder: Path, **changes: Any) -> tuple[Any, dict[str, Omni]]:
    """The reference's model and ours, in bfloat16 too where the processor is quick in it, of the same saved weights."""
    domains = [SOURCE, TARGET]  # other modalities only take memory
    saved(folder, domains_in=domains, domains_out=domains, **changes)
    mine = {"float32": load_aion(folder)}
    if fast_bfloat16():
        mine["bfloat16"] = load_aion(folder, torch.bfloat16)
    return loaded(folder), mine


def programs(reference: Any, mine: dict[str, Omni], tokens: Tensor, settings: draws.Settings) -> dict[str, Program]:
    """Ways to draw, the reference's in float32 first."""
    calls: dict[str, tuple[Draw, torch.dtype]] = {"reference": (theirs(reference, tokens, settings), torch.float32)}
    if "bfloat16" in mine:
        calls[HALF] = theirs(reference, tokens, settings, half=True), torch.bfloat16
    config, again = mine["float32"].config, replace(settings, cache=False)
    for name, model in mine.items():
        calls[name] = ours(model, tokens, settings), model.mask_token.dtype
        calls[name + AGAIN] = ours(model, tokens, again), model.mask_token.dtype
    count = {name: operations(config, again if name.endswith(AGAIN) else settings, name not in ("reference", HALF))
             for name in calls}
    return {name: Program(call, len(tokens) * count[name], block_product(config, tokens.numel(), dtype))
            for name, (call, dtype) in calls.items()}


def operations(config: OmniConfig, settings: draws.Settings, mine: bool) -> float:
    """Of one spectrum, two a multiplication; torch's counter would leave out fused attention, which ours has."""
    n = MODALITIES[TARGET].tokens
    counts = (draws.counts(settings.scheme, n, settings.steps) if mine
              else [int(step["num_tokens"]) for step in schedule(settings.scheme, settings.steps)])
    known = [0, *accumulate(counts[:-1])]  # before each step
    asked = counts if settings.scheme == "roar" else [n - done for done in known]
    if mine:
        asked = [n, *asked[1:]]  # ours says of all tokens what it thinks of them at first
    seen = [MODALITIES[SOURCE].tokens + done for done in known]
    read = [seen[0], *counts[:-1]] if mine and settings.cache else seen
    return sum(passed(config, *each) for each in zip(read, seen, asked, strict=True))


def passed(config: OmniConfig, read: int, seen: int, asked: int) -> float:
    """Operations of encoder and decoder in a round: tokens read, those that they and the ones asked for see."""
    d, mlp = config.dim, (3 if config.gated_mlp else 2) * config.dim * config.hidden
    encoder = config.encoder_depth * (2 * read * (4 * d * d + mlp) + 4 * read * seen * d) + 2 * read * d * d
    decoder = config.decoder_depth * (2 * asked * (6 * d * d + mlp) + 4 * read * d * d + 4 * asked * (asked + seen) * d)
    return float(encoder + decoder + 2 * asked * d * MODALITIES[TARGET].vocabulary)


def difference(theirs: Tensor, mine: Omni, tokens: Tensor) -> float:
    """Of the first step's logits: root mean square, as a share of their own spread. Shows that both are the same model."""
    hidden = {SOURCE: torch.zeros_like(tokens, dtype=torch.bool)}
    logits = reading.predict(mine, {SOURCE: tokens}, hidden, [TARGET])[TARGET]
    return float((logits - theirs).square().mean().sqrt() / theirs.std())


def shown(line: Line, operations: float, apart: float | None, half: float | None) -> dict[str, Any]:
    """A line with what it must reach; apart: see `difference`; half: seconds of the reference under autocast."""
    found = {key: value for key, value in asdict(line).items() if key not in ("peak_mb", "note", "figures")}
    found |= {"operations (TFLOP)": operations / 1e12}
    if apart is None:
        return found
    beside = {} if half is None else {"ratio to autocast": line.seconds / half}
    return found | beside | {"wanted": WANTED, "reached": line.ratio <= WANTED, "first logits differ by": apart}


def measured(reference: Any, mine: dict[str, Omni], batch: int, repeats: int, settings: draws.Settings) -> list[dict[str, Any]]:
    """A line for each way to draw."""
    tokens = image(batch)
    ways = programs(reference, mine, tokens, settings)
    with torch.inference_mode():
        right = first_logits(reference, tokens)
    apart = {name: difference(right, model, tokens) for name, model in mine.items()}
    lines = compared(f"{batch} x {SOURCE} -> {TARGET}, {settings}", ways, repeats)
    half = next((line.seconds for line in lines if line.program == HALF), None)
    return [shown(line, ways[line.program].operations, apart.get(line.program), half) for line in lines]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--batch", type=int, nargs="+", default=[1], help="objects at a time, one number or several (1)")
    parser.add_argument("--scheme", choices=SCHEMES, default="roar", help="of both (roar)")
    parser.add_argument("--steps", type=int, default=8, help="of both (8)")
    parser.add_argument("--threads", type=int, default=2, help="of torch (2)")
    parser.add_argument("--repeats", type=int, default=5, help="turns, after one to warm up (5)")
    parser.add_argument("--layers", type=int, default=12, help="blocks of encoder and of decoder, fewer for a quick look (12)")
    chosen = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"  # the reference must not go looking for models
    torch.set_num_threads(chosen.threads)
    on = machine() | {"repeats": chosen.repeats, "layers": chosen.layers}
    settings, lines = draws.Settings(chosen.scheme, chosen.steps), []
    with tempfile.TemporaryDirectory(prefix="omnisky-bench-") as place:
        both = models(Path(place) / "aion-base", encoder_depth=chosen.layers, decoder_depth=chosen.layers)
        for batch in chosen.batch:
            print(f"measuring a batch of {batch} ...", file=sys.stderr, flush=True)
            lines += measured(*both, batch, chosen.repeats, settings)
    print(json.dumps({"on": on | {"load after": round(os.getloadavg()[0], 2)}, "lines": lines}, indent=1))


if __name__ == "__main__":
    main()
