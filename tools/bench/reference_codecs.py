"""The image and spectrum codecs beside AION-1's own, same weights, same inputs: times and agreement.

Weights are random, of the published sizes; images and spectra are of the simulated sky.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from engine.checkpoints import load_codec
from engine.codecs import fast
from tools.bench.reference_lines import Line, Product, Program, Ways, compared, flops

SEED = 23
LEGACY = ["DES-G", "DES-R", "DES-I", "DES-Z"]


class Pairs(NamedTuple):
    """The reference's codecs and ours, with the same weights."""

    image: Any
    our_image: Any
    spectrum: Any
    our_spectrum: Any


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


def pairs(folder: Path, sky: dict[str, Tensor]) -> Pairs:
    """Random codecs that the reference saves into FOLDER/codecs, and ours from there."""
    from aion import modalities
    from aion.codecs.image import ImageCodec
    from aion.codecs.spectrum import SpectrumCodec

    image = randomised(ImageCodec(quantizer_levels=[7, 5, 5, 5, 5]))
    spectrum = randomised(SpectrumCodec(encoder_dims=(96, 192, 384, 512), decoder_dims=(384, 192, 96, 2), embedding_dim=10))
    with torch.no_grad():
        image.subsample_out.weight *= 0.05  # pixel values as of a trained decoder
        spread(image.pre_quant_proj, image._encode(images(sky)))
        spread(spectrum.quant_conv, spectrum._encode(spectra(sky))[0])
    image.save_pretrained(str(folder), modality=modalities.LegacySurveyImage)
    spectrum.save_pretrained(str(folder), modality=modalities.DESISpectrum)
    return Pairs(image, load_codec(folder / "codecs" / "image"), spectrum, load_codec(folder / "codecs" / "spectrum"))


def inputs(count: int) -> dict[str, Tensor]:
    """Images and spectra of some simulated objects."""
    from engine.simulate import GRIDS, render

    return render(SEED, torch.arange(count)) | {"wavelength": GRIDS["desi"]().float()}


def images(sky: dict[str, Tensor]) -> Any:
    """The images as the reference takes them: a copy, for it writes into them."""
    from aion.modalities import LegacySurveyImage

    return LegacySurveyImage(flux=sky["legacy"].clone(), bands=LEGACY)


def spectra(sky: dict[str, Tensor]) -> Any:
    """The spectra as the reference takes them."""
    from aion.modalities import DESISpectrum

    flux, ivar, mask = (sky[f"desi{part}"] for part in ("", "_ivar", "_mask"))
    return DESISpectrum(flux=flux, ivar=ivar, mask=mask, wavelength=sky["wavelength"].repeat(len(flux), 1))


def codecs(place: Path, batch: int, repeats: int, compiled: bool) -> list[Line]:
    """Encoding and decoding of images and spectra, by the reference, by ours, our fast copies and (if wished) compiled ones."""
    with torch.inference_mode():
        sky = inputs(batch)
        made = pairs(place, sky)
        return (image_lines(made.image, copies(made.our_image, place / "codecs" / "image", compiled), sky, repeats) +
                spectrum_lines(made.spectrum, copies(made.our_spectrum, place / "codecs" / "spectrum", compiled), sky, repeats))


def copies(ours: Any, folder: Path, compiled: bool) -> dict[str, Any]:
    """Our codec by the ways it can compute."""
    found = {"exact": ours, "fast": fast(ours)}
    if compiled:
        found["compiled"] = load_codec(folder)
        for half in (found["compiled"].encoder, found["compiled"].decoder):
            half.compile()
    return found


def image_lines(reference: Any, ours: dict[str, Any], sky: dict[str, Tensor], repeats: int) -> list[Line]:
    flux, tokens = sky["legacy"], reference.encode(images(sky))
    encode: Ways = {"reference": lambda: reference.encode(images(sky))}
    encode |= {name: lambda c=codec: c.tokenize(flux, LEGACY) for name, codec in ours.items()}  # type: ignore[misc]
    decode: Ways = {"reference": lambda: reference.decode(tokens, bands=LEGACY).flux}
    decode |= {name: lambda c=codec: c.detokenize(tokens, LEGACY) for name, codec in ours.items()}  # type: ignore[misc]
    return both(f"{len(flux)} images", encode, decode, repeats)


def spectrum_lines(reference: Any, ours: dict[str, Any], sky: dict[str, Tensor], repeats: int) -> list[Line]:
    given, arrays = spectra(sky), (*(sky[f"desi{part}"] for part in ("", "_ivar", "_mask")), sky["wavelength"])
    tokens = reference.encode(given)
    encode: Ways = {"reference": lambda: reference.encode(given)}
    encode |= {name: lambda c=codec: c.tokenize(*arrays) for name, codec in ours.items()}  # type: ignore[misc]
    decode: Ways = {"reference": lambda: reference.decode(tokens).flux}
    decode |= {name: lambda c=codec: c.detokenize(tokens)[0] for name, codec in ours.items()}  # type: ignore[misc]
    return both(f"{len(given.flux)} spectra", encode, decode, repeats)


def both(what: str, encode: Ways, decode: Ways, repeats: int) -> list[Line]:
    """Lines of the way to tokens and of the way back, with how well they agree with the reference's."""
    return [*agreeing(f"encode {what}", encode, "equal tokens", equal, repeats),
            *agreeing(f"decode {what}", decode, "off by (sigma)", away, repeats)]


def agreeing(task: str, calls: Ways, figure: str, measure: Any, repeats: int) -> list[Line]:
    results = {name: call() for name, call in calls.items()}
    counted = {name: flops(call) for name, call in calls.items() if name != "compiled"}  # whose inside torch cannot see
    products = {"fast": Product(dtype=torch.bfloat16)}
    programs = {name: Program(call, counted.get(name, counted["exact"]), products.get(name, Product()))
                for name, call in calls.items()}
    return [line if line.program == "reference" else
            replace(line, figures={figure: measure(results[line.program], results["reference"])})
            for line in compared(task, programs, repeats)]


def equal(a: Tensor, b: Tensor) -> float:
    return float((a.long() == b.long()).float().mean())


def away(a: Tensor, b: Tensor) -> float:
    """The root mean square of a difference, in units of the scatter of b."""
    return float((a - b).square().mean().sqrt() / b.std())
