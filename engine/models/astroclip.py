"""AstroCLIP: images and spectra in one space (Parker et al. 2024, MNRAS 531, 4990), at the size of a laptop.

Shape letters: B batch, D width, S width of the shared space, M bins of the drawn spectrum.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.models.blocks import Perceptron, initialise
from engine.models.image import ImageEncoder
from engine.models.inputs import WavelengthGrid, rebin
from engine.models.spectrum import Specformer, logarithmic_edges, normalise

SCALE_RANGE = (5.0, 60.0)  # of the logits; a free temperature runs away (Radford et al. 2021 clip theirs at 100)


@dataclass(frozen=True)
class AstroClipConfig:
    """Sizes. space: width of the shared vectors; scale: of the logits at the start, the paper's 15.5."""

    width: int = 192
    image_layers: int = 3
    spectrum_layers: int = 3
    heads: int = 3
    expand: int = 3
    space: int = 128
    window: int = 20
    binning: int = 4
    drawn: int = 256
    scale: float = 15.5

    @property
    def grid(self) -> WavelengthGrid:
        return WavelengthGrid(binning=self.binning)


@dataclass(frozen=True)
class Pairs:
    """A batch of prepared inputs of the same objects (see `engine.models.inputs`)."""

    stamps: dict[str, Tensor]
    photometry: Tensor
    present: Tensor
    flux: Tensor
    weight: Tensor


class AstroClip(nn.Module):
    """Two encoders into one space of unit vectors, and a decoder that draws the spectrum from a vector (training only)."""

    drawn_edges: Tensor

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
        self.register_buffer("drawn_edges", logarithmic_edges(c.grid, c.drawn), persistent=False)

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

    def drawing_loss(self, vectors: Tensor, flux: Tensor, weight: Tensor) -> Tensor:
        """How badly the vectors draw the measured spectrum: squared error in units of its scatter, weighted by quality."""
        mean_flux, certainty = rebin(flux, weight, self.drawn_edges, self.spectrum.centres)
        _, _, mean, scatter = normalise(flux, weight)
        target = ((mean_flux - mean) / scatter).clamp(-4, 8)
        quality = (certainty > 0) / (1 + (1 / (certainty * scatter).clamp_min(1e-6)) ** 2)
        error = (self.draw(vectors * vectors.shape[-1] ** 0.5) - target) ** 2
        return (error * quality).sum() / quality.sum().clamp_min(1.0)


def contrastive_loss(a: Tensor, b: Tensor, scale: Tensor | float) -> Tensor:
    """Symmetric InfoNCE of matching rows, (B, S) each (van den Oord et al. 2018; Radford et al. 2021)."""
    logits = scale * a @ b.T
    target = torch.arange(len(a), device=a.device)
    return 0.5 * (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target))


def losses(model: AstroClip, batch: Pairs, draw_weight: float) -> tuple[Tensor, dict[str, Tensor]]:
    """The training loss and its parts: InfoNCE, plus draw_weight times both vectors' drawing loss."""
    image = model.encode_image(batch.stamps, batch.photometry, batch.present)
    spectrum = model.encode_spectrum(batch.flux, batch.weight)
    match = contrastive_loss(image, spectrum, model.scale())
    with torch.autocast(image.device.type, enabled=False):
        from_image = model.drawing_loss(image, batch.flux, batch.weight)
        from_spectrum = model.drawing_loss(spectrum, batch.flux, batch.weight)
    found = (image.detach() @ spectrum.detach().T).argmax(1) == torch.arange(len(image), device=image.device)
    parts = {"match": match.detach(), "draw_image": from_image.detach(), "draw_spectrum": from_spectrum.detach(),
             "top1": found.float().mean(), "scale": model.scale().detach()}
    return match + draw_weight * (from_image + from_spectrum), parts
