"""Legacy images as HSC images: the typical generation beside plain restorations and the codec's own ceiling.

Shape letters: B objects, C bands (g, r, i, z, which both surveys have), N pixels a side, S scales.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.codecs.border import unsaid
from engine.codecs.image import HSC_UNIT
from engine.evaluate import images, restoration
from engine.evaluate.figures import SIGMA, Figure, bootstrapped, plain
from engine.evaluate.views import HSC, LEGACY
from engine.generation import decoded, reading
from engine.modalities import FLUXES

if TYPE_CHECKING:
    from engine.checkpoints import OmniBundle
    from engine.objects import SkyObject

Array = NDArray[Any]
Measured = dict[str, dict[str, Array]]  # row -> what was measured of each object
Rows = dict[str, dict[str, Figure]]
Rendered = Mapping[str, Tensor]
SCALE = restoration.HSC.scale
ELONGATED = 0.15  # ellipticity of the truth from which an orientation counts
MODEL, CEILING = "model, typical", "ceiling: HSC's own tokens, decoded"
WITHOUT = "model, typical, from an image in g, r, z alone"  # as those of the Legacy Surveys up to DR9
PIECE = 16
COHERENT = 0.7  # with the truth: scales on which the input measures


def able(bundle: OmniBundle) -> bool:
    return LEGACY in bundle.codecs and HSC in bundle.codecs and HSC in bundle.model.outputs


def inputs(bundle: OmniBundle) -> list[str]:
    """What a translation reads: the Legacy image, and fluxes if the model has them."""
    return [LEGACY, *(key for key in FLUXES if key in bundle.codecs)]


def baselines(rendered: Rendered) -> dict[str, restoration.Fitted]:
    """Restorations, fitted on objects that are not tested."""
    return restoration.fitted(legacy(rendered), seeing(rendered), truth(rendered), seen(rendered))


def compared(bundle: OmniBundle, rendered: Rendered, some: list[SkyObject], plain_ways: Mapping[str, restoration.Fitted]
             ) -> Measured:
    """Every way from these objects' Legacy images to HSC's pixels, measured against the truth."""
    made = {MODEL: typical(bundle, some), WITHOUT: typical(bundle, [without_i(thing) for thing in some], [LEGACY])}
    made |= {f"baseline: {name}": way(legacy(rendered), seeing(rendered)) for name, way in plain_ways.items()}
    own: Any = bundle.codecs[HSC]
    with unsaid():
        codes = own.encode(some, survey="hsc").long()
    made[CEILING] = torch.stack([pixels_of(one) for one in decoded.measurements(own, bundle.modalities[HSC], codes)])
    return {name: measured(x, truth(rendered), seen(rendered)) for name, x in made.items()}


def typical(bundle: OmniBundle, some: list[SkyObject], keys: list[str] | None = None) -> Tensor:
    """(B, C, N, N) in nmgy: `decoded.expected` of what the inputs, or some of them, say in one step."""
    return torch.stack([pixels_of(one) for one in expected(bundle, some, keys or inputs(bundle), HSC)])


def without_i(thing: SkyObject) -> SkyObject:
    """With a Legacy image that has no good pixel in i."""
    image = thing.image("legacy")
    assert image is not None
    mask = np.zeros(image.pixels.shape, bool) if image.mask is None else image.mask.copy()
    mask[image.bands.index("i")] = True
    return replace(thing, images=(replace(image, mask=mask),))


def expected(bundle: OmniBundle, some: list[SkyObject], keys: list[str], target: str) -> Iterator[Any]:
    """The typical measurement of each object."""
    m, codec = bundle.model.outputs[target], bundle.codecs[target]
    beyond = torch.arange(m.vocabulary) >= torch.tensor(decoded.reaches(codec, m.tokens))[:, None]
    for start in range(0, len(some), PIECE):
        with unsaid():
            tokens, hidden = bundle.tokenize(some[start : start + PIECE], keys)
        logits = reading.predict(bundle.model, tokens, hidden, [target])[target]
        for p in logits.masked_fill(beyond, -torch.inf).softmax(-1):
            yield decoded.expected(codec, m, p)


def pixels_of(image: Any) -> Tensor:
    """An HSC image's bands that Legacy has, too, in nmgy."""
    return torch.tensor(np.asarray(image.pixels[: restoration.SHARED], np.float32)) / HSC_UNIT


def legacy(rendered: Rendered) -> Tensor:
    """(B, C, N, N) in nmgy, 0 where bad."""
    return torch.where(rendered["legacy_mask"], 0.0, rendered["legacy"])


def seeing(rendered: Rendered) -> Tensor:
    return rendered["legacy_fwhm"]


def truth(rendered: Rendered) -> Tensor:
    return rendered["hsc_truth"][:, : restoration.SHARED] / HSC_UNIT


def seen(rendered: Rendered) -> Tensor:
    return ~rendered["hsc_mask"][:, : restoration.SHARED]


def measured(pixels: Tensor, true: Tensor, there: Tensor) -> dict[str, Array]:
    """Of each object (B,), and by scale (B, S); pixels that were not observed count as right."""
    pixels = torch.where(there, pixels, true)
    ours, right = (images.magnitudes(x, SCALE) for x in (pixels, true))
    elongated, angle = images.shapes(true[:, 1], SCALE)
    _, found = images.shapes(pixels[:, 1], SCALE)
    power, coherence = images.spectra(pixels[:, 1], true[:, 1], SCALE)
    off = ours - right
    out = {"psnr": images.psnr(pixels, true, there), "r": off[:, 1], "g-r": off[:, 0] - off[:, 1],
           "turn": torch.where(elongated > ELONGATED, images.turned(found, angle), torch.nan), "power": power,
           "coherence": coherence}
    return {name: value.double().numpy() for name, value in out.items()}


def rows(found: Measured) -> Rows:
    out: Rows = {}
    for name, of in found.items():
        psnr, turn = of["psnr"][np.isfinite(of["psnr"])], of["turn"][np.isfinite(of["turn"])]
        out[name] = {"PSNR (dB)": bootstrapped(len(psnr), lambda some, x=psnr: np.median(x[some], axis=-1),  # type: ignore[misc]
                                               n=len(psnr)),
                     "|r off| (mag)": scatter(of["r"]), "|g-r off| (mag)": scatter(of["g-r"])}
        if len(turn):
            out[name]["turned by (deg)"] = bootstrapped(
                len(turn), lambda some, x=turn: np.median(x[some], axis=-1))  # type: ignore[misc]
    return out


def scatter(off: Array) -> Figure:
    """The median distance from the truth, as a standard deviation; an offset counts."""
    return bootstrapped(len(off), lambda some: SIGMA * np.median(np.abs(off[some]), axis=-1))


def power_rows(found: Measured) -> tuple[Rows, list[str]]:
    """Power over the truth's by scale, r band, and which scales the input measures."""
    names = images.scale_names()
    out: Rows = {}
    for name, of in found.items():
        out[f"power, {name}"] = {scale: bootstrapped(
            len(of["power"]), lambda some, x=of["power"][:, i]: np.median(x[some], axis=-1))  # type: ignore[misc]
            for i, scale in enumerate(names)}
    shown = {name: np.median(of["coherence"], axis=0) for name, of in found.items()}
    for name, values in shown.items():
        out[f"coherence, {name}"] = {scale: plain(float(value)) for scale, value in zip(names, values, strict=True)}
    measured_at = [scale for scale, value in zip(names, shown["baseline: resampling"], strict=True) if value >= COHERENT]
    rest = [scale for scale in names if scale not in measured_at]
    return out, [f"Measured by the Legacy image (coherence with the truth at least {COHERENT}): "
                 f"{', '.join(measured_at) or 'none'}; invented where there is power at {', '.join(rest) or 'none'}."]
