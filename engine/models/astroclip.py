"""AstroCLIP: images and spectra in one space (Parker et al. 2024, MNRAS 531, 4990), at the size of a laptop.

Shape letters: B batch, D width, S width of the shared space, M = drawn / 2 bins of the drawn spectrum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.blocks import Perceptron, initialise
from engine.models.image import ImageEncoder
from engine.models.inputs import WavelengthGrid
from engine.models.spectrum import Specformer

SCALE_RANGE = (5.0, 60.0)  # of the logits; a free temperature runs away (Radford et al. 2021 clip theirs at 100)


@dataclass(frozen=True)
class AstroClipConfig:
    """Sizes. space: width of the shared vectors; drawn: numbers that are drawn from a vector, shape and lines, half each;
    scale: of the logits at the start, the paper's 15.5."""

    width: int = 192
    image_layers: int = 3
    spectrum_layers: int = 3
    heads: int = 3
    expand: int = 3
    space: int = 128
    window: int = 20
    binning: int = 4
    drawn: int = 768
    scale: float = 15.5

    @property
    def grid(self) -> WavelengthGrid:
        return WavelengthGrid(binning=self.binning)


@dataclass(frozen=True)
class Pairs:
    """A batch of prepared inputs of the same objects (see `engine.models.inputs`); drawing: (B, 2, M) as `drawing` makes it."""

    stamps: dict[str, Tensor]
    photometry: Tensor
    present: Tensor
    flux: Tensor
    weight: Tensor
    drawing: Tensor


class AstroClip(nn.Module):
    """Two encoders into one space of unit vectors, and a decoder that draws the spectrum from a vector (training only)."""

    def __init__(self, config: AstroClipConfig) -> None:
        super().__init__()
        self.config = config
        c = config
        self.image = ImageEncoder(c.width, c.image_layers, c.heads, c.expand)
        self.spectrum = Specformer(c.grid, c.window, c.width, c.spectrum_layers, c.heads, c.expand)
        self.image_head = Perceptron(c.width, 2 * c.width, c.space)
        self.spectrum_head = Perceptron(c.width, 2 * c.width, c.space)
        self.draw = Perceptron(c.space, 3 * c.width, c.drawn)
        self.log_scale = nn.Parameter(torch.tensor(math.log(c.scale)))

    def init_weights(self, seed: int) -> None:
        """Fill all tensors from one seed; see `blocks.initialise` for the table."""
        generator = torch.Generator().manual_seed(seed)
        initialise(self, max(self.config.image_layers, self.config.spectrum_layers), generator)

    def encode_image(self, stamps: dict[str, Tensor], photometry: Tensor, present: Tensor) -> Tensor:
        """(B, S) unit vectors in float32."""
        x = self.image(stamps, photometry, present)
        with torch.autocast(x.device.type, enabled=False):
            return F.normalize(self.image_head(x.float()), dim=-1)

    def encode_spectrum(self, flux: Tensor, weight: Tensor) -> Tensor:
        """(B, S) unit vectors in float32."""
        x = self.spectrum(flux, weight)
        with torch.autocast(x.device.type, enabled=False):
            return F.normalize(self.spectrum_head(x.float()), dim=-1)

    def scale(self) -> Tensor:
        return self.log_scale.exp().clamp(*SCALE_RANGE)

    def drawing_loss(self, vectors: Tensor, drawing: Tensor) -> Tensor:
        """(2,) mean squared errors of what the vectors (B, S) draw of shape and lines; drawing: (B, 2, M)."""
        drawn = self.draw(vectors * vectors.shape[-1] ** 0.5).unflatten(1, (2, -1))
        return ((drawn - drawing) ** 2).mean((0, 2))


def contrastive_loss(a: Tensor, b: Tensor, scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE of matching rows, (B, S) each (van den Oord et al. 2018; Radford et al. 2021)."""
    logits = scale * a @ b.T
    target = torch.arange(len(a), device=a.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def losses(model: AstroClip, batch: Pairs, draw_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The training loss and its parts: InfoNCE, plus draw_weight times both vectors' drawing losses."""
    image = model.encode_image(batch.stamps, batch.photometry, batch.present)
    spectrum = model.encode_spectrum(batch.flux, batch.weight)
    match = contrastive_loss(image, spectrum, model.scale())
    with torch.autocast(image.device.type, enabled=False):
        from_image = model.drawing_loss(image, batch.drawing)
        from_spectrum = model.drawing_loss(spectrum, batch.drawing)
    found = (image.detach() @ spectrum.detach().T).argmax(1) == torch.arange(len(image), device=image.device)
    parts = {"match": match.detach(), "top1": found.float().mean(), "scale": model.scale().detach(),
             "shape_image": from_image[0].detach(), "lines_image": from_image[1].detach(),
             "shape_spectrum": from_spectrum[0].detach(), "lines_spectrum": from_spectrum[1].detach()}
    return match + draw_weight * (from_image + from_spectrum).sum(), parts
