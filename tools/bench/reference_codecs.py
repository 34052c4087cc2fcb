"""The image and spectrum codecs beside AION-1's own (polymathic-aion 0.0.2), same weights, same inputs: times and agreement.

    python -m tools.bench.reference_codecs [--threads 2] [--repeats 7] [--out codecs.json]

Reference, ours and our fast copy take turns within each repeat, so that a slow minute of the machine touches all alike; medians
are compared. With --threads 1 they are of processor time, for a machine that others use too. Weights are random (there is no
network here), images and spectra are of the simulated sky.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from engine.checkpoints import load_codec
from engine.codecs import fast

BATCH = 8
SEED = 23
LEGACY = ["DES-G", "DES-R", "DES-I", "DES-Z"]
Calls = dict[str, Callable[[], Any]]
Row = dict[str, Any]


def randomised(module: nn.Module) -> Any:
    """Weights that keep signals alive; fresh ones have closed gates and zeros."""
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            inputs = p[0].numel()
            if p.ndim > 1 and inputs > 1 and "grn" not in name:
                p.copy_(noise * (1.2 / inputs) ** 0.5)
            else:
                p.copy_(1 + 0.1 * noise if name.endswith("weight") else 0.1 * noise)
    return module.eval()


def spread(projection: Any, z: Tensor) -> None:
    """Scale the last layer before rounding so that its latents z (B, D, T) fill the levels, as trained ones do."""
    mean, scatter = z.mean((0, 2)), z.std((0, 2))
    with torch.no_grad():
        projection.weight /= scatter.view(-1, *[1] * (projection.weight.ndim - 1))
        projection.bias.sub_(mean).div_(scatter)


def pairs(folder: Path, sky: dict[str, Tensor]) -> tuple[Any, Any, Any, Any]:
    """Reference and ours of the image codec, then of the spectrum codec."""
    from aion import modalities
    from aion.codecs.image import ImageCodec
    from aion.codecs.spectrum import SpectrumCodec

    image = randomised(ImageCodec(quantizer_levels=[7, 5, 5, 5, 5]))
    spectrum = randomised(SpectrumCodec(encoder_dims=(96, 192, 384, 512), decoder_dims=(384, 192, 96, 2), embedding_dim=10))
    with torch.no_grad():
        image.subsample_out.weight *= 0.05  # pixel values as of a trained decoder
        spread(image.pre_quant_proj, image._encode(modalities.LegacySurveyImage(flux=sky["legacy"].clone(), bands=LEGACY)))
        spread(spectrum.quant_conv, spectrum._encode(desi(sky))[0])
    image.save_pretrained(str(folder), modality=modalities.LegacySurveyImage)
    spectrum.save_pretrained(str(folder), modality=modalities.DESISpectrum)
    return image, load_codec(folder / "codecs" / "image"), spectrum, load_codec(folder / "codecs" / "spectrum")


def inputs() -> dict[str, Tensor]:
    """Images and spectra of BATCH simulated objects."""
    from engine.simulate import GRIDS, render

    return render(SEED, torch.arange(BATCH)) | {"wavelength": GRIDS["desi"]().float()}


def desi(sky: dict[str, Tensor]) -> Any:
    """The spectra as the reference takes them."""
    from aion.modalities import DESISpectrum

    flux, ivar, mask = (sky[f"desi{part}"] for part in ("", "_ivar", "_mask"))
    return DESISpectrum(flux=flux, ivar=ivar, mask=mask, wavelength=sky["wavelength"].repeat(len(flux), 1))


def interleaved(calls: Calls, repeats: int) -> dict[str, float]:
    """Median seconds of each, taken in turns; with one thread of processor time, which others' work does not stretch."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            start = clock()
            call()
            times[name].append(clock() - start)
    return {name: float(np.median(t)) for name, t in times.items()}


def matmul_rate(dtype: torch.dtype) -> float:
    """GFLOP/s of a plain product of two 2048 x 2048 matrices."""
    a, b = (torch.randn(2048, 2048).to(dtype) for _ in range(2))
    seconds = interleaved({"mm": lambda: a @ b}, 9)["mm"]
    return 2 * 2048**3 / seconds / 1e9


def flops(call: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        call()
    return float(counter.get_total_flops())


def row(name: str, calls: Calls, repeats: int, rates: dict[str, float], **agreement: Any) -> Row:
    seconds = interleaved(calls, repeats)
    work = flops(calls["ours"])
    out: Row = {"name": name, "seconds": seconds, "gflop": work / 1e9}
    out["reference gflop"] = flops(calls["reference"]) / 1e9
    out["ratio"] = {k: seconds[k] / seconds["reference"] for k in ("ours", "fast")}
    out["gflop/s"] = {k: (out["reference gflop"] if k == "reference" else out["gflop"]) / t for k, t in seconds.items()}
    out["of matmul"] = {k: v / rates["bfloat16" if k == "fast" else "float32"] for k, v in out["gflop/s"].items()}
    out |= agreement
    print(f"{name:22s} reference {seconds['reference']:.3f} s, ours x {out['ratio']['ours']:.2f}, "
          f"fast x {out['ratio']['fast']:.2f}; {agreement}", flush=True)
    print("  GFLOP/s (share of a matmul's): " + ", ".join(
        f"{k} {v:.0f} ({out['of matmul'][k]:.2f})" for k, v in out["gflop/s"].items()), flush=True)
    return out


def equal(a: Tensor, b: Tensor) -> float:
    return float((a.long() == b.long()).float().mean())


def away(a: Tensor, b: Tensor) -> float:
    """The root mean square of a difference, in units of the scatter of b."""
    return float((a - b).square().mean().sqrt() / b.std())


def image_rows(reference: Any, ours: Any, sky: dict[str, Tensor], repeats: int, rates: dict[str, float]) -> list[Row]:
    from aion.modalities import LegacySurveyImage

    quick, flux = fast(ours), sky["legacy"]
    calls: Calls = {"reference": lambda: reference.encode(LegacySurveyImage(flux=flux.clone(), bands=LEGACY)),
                    "ours": lambda: ours.tokenize(flux, LEGACY), "fast": lambda: quick.tokenize(flux, LEGACY)}
    tokens = calls["reference"]()
    encode = row("image encode of 8", calls, repeats, rates, equal=equal(calls["ours"](), tokens),
                 fast_equal=equal(calls["fast"](), tokens), different_tokens=len(tokens.unique()))
    calls = {"reference": lambda: reference.decode(tokens, bands=LEGACY).flux,
             "ours": lambda: ours.detokenize(tokens, LEGACY), "fast": lambda: quick.detokenize(tokens, LEGACY)}
    drawn = calls["reference"]()
    return [encode, row("image decode of 8", calls, repeats, rates, away=away(calls["ours"](), drawn),
                        fast_away=away(calls["fast"](), drawn))]


def spectrum_rows(reference: Any, ours: Any, sky: dict[str, Tensor], repeats: int, rates: dict[str, float]) -> list[Row]:
    quick, wavelength = fast(ours), sky["wavelength"]
    flux, ivar, mask = (sky[f"desi{part}"] for part in ("", "_ivar", "_mask"))
    given = desi(sky)
    calls: Calls = {"reference": lambda: reference.encode(given), "ours": lambda: ours.tokenize(flux, ivar, mask, wavelength),
                    "fast": lambda: quick.tokenize(flux, ivar, mask, wavelength)}
    tokens = calls["reference"]()
    encode = row("spectrum encode of 8", calls, repeats, rates, equal=equal(calls["ours"](), tokens),
                 fast_equal=equal(calls["fast"](), tokens), different_tokens=len(tokens.unique()))
    calls = {"reference": lambda: reference.decode(tokens).flux, "ours": lambda: ours.detokenize(tokens)[0],
             "fast": lambda: quick.detokenize(tokens)[0]}
    drawn = calls["reference"]()
    return [encode, row("spectrum decode of 8", calls, repeats, rates, away=away(calls["ours"](), drawn),
                        fast_away=away(calls["fast"](), drawn))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", choices=("image", "spectrum"))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        rates = {"float32": matmul_rate(torch.float32), "bfloat16": matmul_rate(torch.bfloat16)}
        print({k: f"{v:.0f} GFLOP/s" for k, v in rates.items()}, flush=True)
        sky = inputs()
        image, ours_image, spectrum, ours_spectrum = pairs(Path(folder), sky)
        rows = []
        if options.only != "spectrum":
            rows += image_rows(image, ours_image, sky, options.repeats, rates)
        if options.only != "image":
            rows += spectrum_rows(spectrum, ours_spectrum, sky, options.repeats, rates)
    report = {"torch": torch.__version__, "threads": options.threads, "processor": platform.processor() or platform.machine(),
              "matmul gflop/s": rates, "rows": rows}
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
