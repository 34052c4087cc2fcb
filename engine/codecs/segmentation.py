"""Segmentation maps (any field of numbers from 0 to 1) as tokens: a small convolutional autoencoder with FSQ.

The codec of AION-1's segmentation maps (Parker et al. 2025, arXiv:2510.17960, sec. 3.3); the network is that of VQ-VAE
(van den Oord et al. 2017, arXiv:1711.00937, sec. 4.1).

Shape letters: B batch, N pixels a side (96), S tokens a side (12), W width, D latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from engine.codecs.border import Values, batched, measured, token_batch, token_rows, warn
from engine.codecs.image import PIECE, SIZE, stamp
from engine.codecs.quantizers import FSQ
from engine.models.inputs import LEGACY

if TYPE_CHECKING:
    from engine.objects import Image, SkyObject

BAND = "segmentation"  # the name of the one plane of an `Image` that holds a map


@dataclass(frozen=True)
class SegmentationConfig:
    """Sizes of the network. stretch: how far the output reaches beyond 0 and 1 before it is clipped, or None."""

    levels: tuple[int, ...] = (8, 5, 5, 5)
    width: int = 512
    decoder_width: int = 512
    hidden: int = 64
    layers: int = 2
    halvings: int = 3
    stretch: float | None = None

    @property
    def side(self) -> int:
        return SIZE >> self.halvings

    @property
    def tokens(self) -> int:
        return self.side**2


class Residual(nn.Module):
    """3 x 3, batch norm, 1 x 1, added to what came in. Its batch norm needs eval(), which loading sets."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, hidden, 3, padding=1)
        self.norm = nn.BatchNorm2d(hidden)
        self.mix = nn.Conv2d(hidden, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(self.norm(self.conv(x.relu())).relu())


def narrower(width: int, halvings: int) -> list[int]:
    """Widths between the field and the middle: W / 4, W / 2 for three halvings."""
    return [width >> i for i in range(halvings - 1, 0, -1)]


def residuals(width: int, c: SegmentationConfig) -> nn.Sequential:
    return nn.Sequential(*(Residual(width, c.hidden) for _ in range(c.layers)))


def encoder(c: SegmentationConfig) -> nn.Sequential:
    """(B, 1, N, N) -> (B, W, S, S)."""
    sizes = [1, *narrower(c.width, c.halvings), c.width]
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(c.width, c.width, 3, padding=1), residuals(c.width, c))


def decoder(c: SegmentationConfig) -> nn.Sequential:
    """(B, W, S, S) -> (B, 1, N, N). Widths fall to W / 4 and rise again on the way out, as they were trained."""
    width = c.decoder_width
    sizes = [width, *narrower(width, c.halvings), 1]
    layers: list[nn.Module] = [nn.ConvTranspose2d(width, width, 3, padding=1), residuals(width, c)]
    for inputs, outputs in pairwise(sizes):
        layers += [nn.ReLU(), nn.ConvTranspose2d(inputs, outputs, 4, stride=2, padding=1)]
    return nn.Sequential(*layers)


class SegmentationCodec(nn.Module):
    """Fields of numbers from 0 to 1 to 144 tokens and back."""

    def __init__(self, config: SegmentationConfig) -> None:
        super().__init__()
        self.config = config
        self.quantizer = FSQ(config.levels)
        self.encoder = encoder(config)
        self.to_code = nn.Conv2d(config.width, self.quantizer.channels, 1)
        self.from_code = nn.Conv2d(self.quantizer.channels, config.decoder_width, 1)
        self.decoder = decoder(config)

    @property
    def vocabulary(self) -> int:
        return self.quantizer.vocabulary

    @property
    def device(self) -> torch.device:
        return self.to_code.weight.device

    @torch.no_grad()
    def tokenize(self, field: Values) -> Tensor:
        """field (B, H, W) -> int32 (B, 144), row by row. The central 96 x 96 pixels count; less is padded with zeros, with a
        `CodecWarning`; NaN counts as 0. Raises ValueError for another shape."""
        return self.quantizer.encode(self.latents(field)).flatten(1)

    @torch.no_grad()
    def latents(self, field: Values) -> Tensor:
        """The same before rounding: (B, 12, 12, D), float32."""
        x = measured(field, self.device)
        if x.ndim != 3 or 0 in x.shape[1:]:
            raise ValueError(f"a field must be (B, H, W), got the shape {tuple(x.shape)}")
        if min(x.shape[1:]) < SIZE:
            warn(f"fields of {x.shape[1]} x {x.shape[2]} pixels are smaller than {SIZE} x {SIZE}: padded with zeros")
        x = stamp(x).float().nan_to_num(0.0)[:, None].to(memory_format=torch.channels_last)
        pieces = [self.to_code(self.encoder(p)) for p in x.split(PIECE.get(x.device.type, 8)) if len(p)]
        z = torch.cat(pieces) if pieces else x.new_zeros(0, self.quantizer.channels, self.config.side, self.config.side)
        return z.permute(0, 2, 3, 1)

    @torch.no_grad()
    def detokenize(self, tokens: Values) -> Tensor:
        """Tokens (B, 144) -> (B, 96, 96) from 0 to 1. Raises ValueError for an id out of range or another number of tokens."""
        ids = token_rows(tokens, self.config.tokens, self.device)
        z = self.quantizer.decode(ids.unflatten(1, (self.config.side, -1))).permute(0, 3, 1, 2)
        pieces = [self.decoder(self.from_code(p)) for p in z.split(PIECE.get(z.device.type, 8)) if len(p)]
        x = torch.cat(pieces)[:, 0].sigmoid() if pieces else z.new_zeros(0, SIZE, SIZE)
        if self.config.stretch is not None:
            x = (1 + 2 * self.config.stretch) * x - self.config.stretch
        return x.clamp(0.0, 1.0).contiguous()

    def encode(self, objects: SkyObject | Sequence[SkyObject]) -> Tensor:
        """Objects with an `Image` of the one band "segmentation" -> int16 tokens (B, 144), (144,) of one object.

        Raises KeyError naming an object without one, ValueError for values that are not from 0 to 1.
        """
        some, single = batched(objects)
        fields = [map_of(o) for o in some]
        small = [o.id for o, f in zip(some, fields, strict=True) if min(f.shape) < SIZE]
        warn(f"maps of less than {SIZE} x {SIZE} pixels, padded with zeros", small)
        tokens = self.tokenize(torch.stack([stamp(f) for f in fields])).short()
        return tokens[0] if single else tokens

    def decode(self, tokens: Values) -> Image | list[Image]:
        """Tokens (B, 144) -> an Image an object, of the one band "segmentation" on Legacy Surveys pixels; (144,) -> one."""
        from engine.objects import Image

        ids, single = token_batch(tokens, self.config.tokens, self.device)
        images = [Image(field[None], (BAND,), LEGACY.survey, pixel_scale=LEGACY.scale, history=("decoded from tokens",))
                  for field in self.detokenize(ids).cpu().numpy()]
        return images[0] if single else images


def map_of(obj: SkyObject) -> Tensor:
    """(H, W) of an object's segmentation map. Raises as `SegmentationCodec.encode` says."""
    image = next((i for i in obj.images if i.bands == (BAND,)), None)
    if image is None:
        raise KeyError(f"object {obj.id} has no image of the one band {BAND!r}; it has "
                       f"{', '.join('/'.join(i.bands) for i in obj.images) or 'no images'}")
    field = np.asarray(image.pixels[0], np.float32)
    if not np.isfinite(field).all() or field.min() < 0 or field.max() > 1:
        raise ValueError(f"the segmentation map of object {obj.id} goes from {field.min():g} to {field.max():g}; it must be "
                         "from 0 to 1 everywhere (a map of labels becomes one by `labels > 0`)")
    return torch.from_numpy(field.copy())
