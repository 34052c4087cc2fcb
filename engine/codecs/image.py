"""Images as tokens: one convolutional autoencoder for the nine bands of two surveys, with FSQ between its halves.

After AION-1 (Parker et al. 2025, arXiv:2510.17960, sec. 3.1): pixel values are pressed together by arcsinh, any subset of the
bands is projected into a common space (the field embedding of Multiple Physics Pretraining, McCabe et al. 2023, sec. 4.2), and
an encoder like MAGVIT-v2's (Yu et al. 2023, arXiv:2310.05737) makes one token of every 4 x 4 pixels.

Shape letters: B batch, C bands given, P width of the common space, W width, N pixels a side (96), S tokens a side (24),
D latent channels. Tensors lie channels last in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.codecs.border import Values, measured, token_batch, token_rows, warn
from engine.codecs.quantizers import FSQ
from engine.models.inputs import asinh

if TYPE_CHECKING:
    from engine.objects import Image, SkyObject

SIZE = 96  # pixels a side of a stamp
HSC_UNIT = 10 ** ((27.0 - 22.5) / 2.5)  # what 1 nmgy is in HSC pixels, whose zero point is 27; 63.0957
PIECE = {"cpu": 8, "cuda": 256}  # images at a time: the largest tensors of more do not fit into a processor's cache


@dataclass(frozen=True)
class Band:
    """limit: what pixels are clipped to, unit: what 1 nmgy is, both in the survey's own pixel values."""

    name: str
    limit: float
    unit: float = 1.0

    @property
    def survey(self) -> str:
        """The key of `engine.io.surveys`."""
        return "hsc" if self.name.startswith("HSC-") else "legacy"


BANDS = (  # in the order of the channels of the field embedding
    Band("HSC-G", 80.0, HSC_UNIT), Band("HSC-R", 110.0, HSC_UNIT), Band("HSC-I", 200.0, HSC_UNIT),
    Band("HSC-Z", 330.0, HSC_UNIT), Band("HSC-Y", 500.0, HSC_UNIT),
    Band("DES-G", 6.0), Band("DES-R", 15.0), Band("DES-I", 20.0), Band("DES-Z", 25.0),
)
INDEX = {band.name: i for i, band in enumerate(BANDS)}
BANDS_OF = {survey: tuple(b.name for b in BANDS if b.survey == survey) for survey in ("legacy", "hsc")}


def band_indices(bands: str | Sequence[str], one_survey: bool = False) -> list[int]:
    """Channels of bands such as "DES-G", or of a survey's, "legacy" or "hsc".

    Raises KeyError for an unknown band, ValueError for none, for one twice, and for bands of two surveys where that is refused.
    """
    names = list(BANDS_OF.get(bands, (bands,))) if isinstance(bands, str) else list(bands)
    for name in names:
        if name not in INDEX:
            raise KeyError(f"unknown band {name!r}; the image codec knows {', '.join(INDEX)}")
    if not names or len(set(names)) != len(names):
        raise ValueError(f"bands must be at least one and all different, got {names}")
    found = [INDEX[name] for name in names]
    if one_survey and len({BANDS[i].survey for i in found}) > 1:
        raise ValueError(f"bands of two surveys in one image: {', '.join(names)}; give each survey an image of its own")
    return found


@dataclass(frozen=True)
class ImageConfig:
    """Sizes of the network. softening (nmgy): where arcsinh turns from linear to logarithmic; gain: of what comes out of it."""

    levels: tuple[int, ...] = (7, 5, 5, 5, 5)
    width: int = 512
    projection: int = 54
    halvings: int = 2
    units: int = 4
    softening: float = 0.01
    gain: float = 10.0

    @property
    def side(self) -> int:
        return SIZE >> self.halvings

    @property
    def tokens(self) -> int:
        return self.side**2


# -- network --------------------------------------------------------------------------------------------------------


class Linear(nn.Linear):
    """Computed in the type of what comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class Convolution(nn.Conv2d):
    """Computed in the type of its weights, given back in the type of what came in."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class Halving(nn.Conv2d):
    """Half as many pixels a side, twice as many channels."""

    exact = True  # in a fast copy, too: what it rounds runs through all units after it, for a twentieth of their products

    def __init__(self, width: int) -> None:
        super().__init__(width, 2 * width, 3, stride=2, padding=1)


class Gate(nn.Module):
    """What share of each channel passes, from a weighted mean over all pixels: (B, W, y, x) -> (B, W, 1, 1).

    The global context of Cao et al. 2020 (arXiv:2012.13375), with a sigmoid.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        hidden = max(16, width // 2)
        self.score = Linear(width, 1)
        self.narrow = Linear(width, hidden)
        self.widen = Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # (B, y x, W), no copy
        weight = self.score(pixels).mT.float().softmax(-1).to(x.dtype)  # (B, 1, y x); along the last axis it is vectorised
        context = (weight @ pixels)[:, 0]
        return torch.sigmoid(self.widen(F.leaky_relu(self.narrow(context), 0.1)))[..., None, None]


class Unit(nn.Module):
    """Residual unit: 3 x 3, 1 x 1, gated, added to what came in, whose type it keeps."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)
        self.mix = nn.Conv2d(width, width, 1)
        self.gate = Gate(width)

    def forward(self, x: Tensor) -> Tensor:
        y = F.elu(self.conv(x.to(self.conv.weight.dtype)), inplace=True)
        y = F.elu(self.mix(y).to(x.dtype), inplace=True)
        return torch.addcmul(x, y, self.gate(y))


class Up(nn.Module):
    """Twice as many pixels a side, half as many channels."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.spread = nn.Conv2d(width, 2 * width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(F.silu(self.spread(x), inplace=True), 2)


def units(width: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Unit(width) for _ in range(count)))


def encoder(c: ImageConfig) -> nn.Sequential:
    """(B, W / 4, N, N) -> (B, W, S, S) for two halvings."""
    width = c.width >> c.halvings
    layers: list[nn.Module] = [Unit(width)]
    for _ in range(c.halvings):
        layers += [Halving(width), units(2 * width, c.units)]
        width *= 2
    return nn.Sequential(*layers, Convolution(width, width, 7, padding=3), units(width, c.units))


def decoder(c: ImageConfig) -> nn.Sequential:
    """(B, W, S, S) -> (B, W / 4, N, N) for two halvings."""
    width = c.width
    layers: list[nn.Module] = [units(width, c.units), nn.Conv2d(width, width, 3, padding=1)]
    for _ in range(c.halvings):
        layers += [units(width, c.units), Up(width)]
        width //= 2
    return nn.Sequential(*layers, Unit(width))


def channels_last(half: nn.Sequential) -> None:
    """Lay the weights of a half out as its convolutions want them, once, on first use: what is not used stays in the file.

    Weights in training are left to their optimiser.
    """
    convolutions = [m for m in half.modules() if isinstance(m, nn.Conv2d)]
    weight = convolutions[0].weight
    if weight.requires_grad or weight.is_contiguous(memory_format=torch.channels_last):
        return
    with torch.inference_mode(False), torch.no_grad():
        for m in reversed(convolutions):  # the one looked at last, should two threads come here
            m.weight = nn.Parameter(m.weight.clone(memory_format=torch.channels_last), requires_grad=False)


class FieldEmbedding(nn.Module):
    """Any of the bands into the common space and its first convolution: (B, C, N, N) -> (B, W / 4, N, N).

    `sqrt(9 / C) (weight x + bias)` at every pixel, then 7 x 7. Both are linear, so they are made one convolution over the C
    bands and a plane of ones (the bias, which ends at the edge): a tenth of the products.
    """

    def __init__(self, projection: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(projection, len(BANDS)))
        self.bias = nn.Parameter(torch.zeros(projection))
        self.conv = nn.Conv2d(projection, width, 7, padding=3)

    def forward(self, x: Tensor, bands: list[int]) -> Tensor:
        planes = torch.cat([self.weight[:, bands], self.bias[:, None]], 1) * (len(BANDS) / len(bands)) ** 0.5
        kernel = torch.einsum("wpyx,pc->wcyx", self.conv.weight, planes)
        x = torch.cat([x, torch.ones_like(x[:, :1])], 1)
        return F.conv2d(x.contiguous(memory_format=torch.channels_last), kernel, self.conv.bias, padding=3)


class FieldReadout(nn.Module):
    """The last convolution and the way out of the common space, only for the bands wanted: (B, W / 4, N, N) -> (B, C, N, N)."""

    def __init__(self, projection: int, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, projection, 3, padding=1)
        self.weight = nn.Parameter(torch.zeros(len(BANDS), projection))
        self.bias = nn.Parameter(torch.zeros(len(BANDS)))

    def forward(self, x: Tensor, bands: list[int]) -> Tensor:
        assert self.conv.bias is not None
        weight = self.weight[bands]
        kernel = torch.einsum("cp,pwyx->cwyx", weight, self.conv.weight)
        return F.conv2d(x.float(), kernel, weight @ self.conv.bias + self.bias[bands], padding=1)


# -- codec ----------------------------------------------------------------------------------------------------------


class ImageCodec(nn.Module):
    """Images of the Legacy Surveys (DES-G, R, I, Z, nanomaggies) and HSC (HSC-G, R, I, Z, Y, zero point 27) to 576 tokens."""

    def __init__(self, config: ImageConfig) -> None:
        super().__init__()
        self.config = config
        self.quantizer = FSQ(config.levels)
        first = config.width >> config.halvings
        self.embed = FieldEmbedding(config.projection, first)
        self.encoder = encoder(config)
        self.norm = nn.LayerNorm(config.width)
        self.to_code = nn.Linear(config.width, self.quantizer.channels)
        self.from_code = nn.Linear(self.quantizer.channels, config.width)
        self.decoder = decoder(config)
        self.readout = FieldReadout(config.projection, first)

    @property
    def vocabulary(self) -> int:
        return self.quantizer.vocabulary

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    def _dtype(self) -> torch.dtype:
        """What the convolutions compute in; see `engine.codecs.fast`."""
        return next(self.encoder.parameters()).dtype

    @torch.no_grad()
    def tokenize(self, flux: Values, bands: str | Sequence[str]) -> Tensor:
        """flux (B, C, H, W) in the survey's own pixel values, any size -> int32 (B, 576), row by row. `flux` is left as it is.

        The central 96 x 96 pixels count; a smaller image is padded with zeros, with a `CodecWarning`. NaN pixels count as 0,
        infinite ones as the brightest there are. Raises KeyError for an unknown band, ValueError for another shape and for
        bands of two surveys at once.
        """
        ids = [self.quantizer.encode(z).flatten(1) for z in self._latents(flux, bands)]
        return torch.cat(ids) if ids else torch.zeros(0, self.config.tokens, dtype=torch.int32, device=self.device)

    @torch.no_grad()
    def latents(self, flux: Values, bands: str | Sequence[str]) -> Tensor:
        """The same before rounding: (B, 24, 24, D), float32."""
        return torch.cat(self._latents(flux, bands))

    def _latents(self, flux: Values, bands: str | Sequence[str]) -> list[Tensor]:
        x, found = self.prepared(flux, bands)
        return [self._encoded(piece, found) for piece in x.split(PIECE.get(x.device.type, 8)) if len(piece)]

    def prepared(self, flux: Values, bands: str | Sequence[str]) -> tuple[Tensor, list[int]]:
        """Cropped, clipped, in nmgy and pressed together: (B, C, 96, 96) float32, and the bands' channels."""
        found = band_indices(bands, one_survey=True)
        x = measured(flux, self.device)
        if x.ndim != 4 or x.shape[1] != len(found) or 0 in x.shape[2:]:
            raise ValueError(f"flux must be (B, {len(found)}, H, W) for the bands {[BANDS[i].name for i in found]}, got the "
                             f"shape {tuple(x.shape)}")
        if min(x.shape[2:]) < SIZE:
            warn(f"images of {x.shape[2]} x {x.shape[3]} pixels are smaller than {SIZE} x {SIZE}: padded with zeros")
        limit, unit = (torch.tensor(v, device=x.device)[:, None, None]
                       for v in ([BANDS[i].limit for i in found], [BANDS[i].unit for i in found]))
        x = stamp(x).float().clamp(-limit, limit).nan_to_num(0.0) / unit
        softening = self.config.softening
        return asinh(x / softening) * (softening * self.config.gain), found

    def _encoded(self, x: Tensor, bands: list[int]) -> Tensor:
        channels_last(self.encoder)
        h = self.encoder(self.embed(x, bands))  # float32 from unit to unit: rounding that would cost two tokens of a hundred
        return self.to_code(self.norm(h.permute(0, 2, 3, 1)))

    @torch.no_grad()
    def detokenize(self, tokens: Values, bands: str | Sequence[str]) -> Tensor:
        """Tokens (B, 576) -> flux (B, C, 96, 96) in the pixel values of each band's survey, float32.

        Only the bands wanted are computed, in any order, of both surveys if so wished. Raises KeyError for an unknown band,
        ValueError for an id out of range or another number of tokens.
        """
        found = band_indices(bands)
        ids = token_rows(tokens, self.config.tokens, self.device)
        codes = self.quantizer.decode(ids.unflatten(1, (self.config.side, -1)))
        flux = [self._decoded(piece, found) for piece in codes.split(PIECE.get(codes.device.type, 8)) if len(piece)]
        return torch.cat(flux) if flux else torch.zeros(0, len(found), SIZE, SIZE, device=self.device)

    def _decoded(self, codes: Tensor, bands: list[int]) -> Tensor:
        channels_last(self.decoder)
        h = self.from_code(codes).to(self._dtype()).permute(0, 3, 1, 2)  # channels last in memory, and so it stays
        x = self.readout(self.decoder(h), bands) / (self.config.gain * self.config.softening)
        unit = torch.tensor([BANDS[i].unit for i in bands], device=x.device)[:, None, None]
        return torch.sinh(x.clamp(-80, 80)).contiguous() * (self.config.softening * unit)  # beyond 80 floats end

    def encode(self, objects: SkyObject | Sequence[SkyObject], survey: str | None = None, resample: bool = False) -> Tensor:
        """Objects -> int16 tokens (B, 576), (576,) of one object. Bad pixels count as 0.

        survey: "legacy" or "hsc"; None: the first that every object has an image of. resample: bring images of other pixel
        scales or surveys to it, with a `CodecWarning`. Raises KeyError naming an object without such an image, ValueError for a
        pixel scale that is not the survey's, an unknown flux scale, or an image without a good pixel.
        """
        from engine.codecs import stamps

        return stamps.encode(self.tokenize, objects, survey, resample)

    def decode(self, tokens: Values, bands: str | Sequence[str]) -> Image | list[Image]:
        """Tokens (B, 576) -> an Image an object; (576,) -> one. bands: of one survey, such as ["DES-G", "DES-R"] or "hsc"."""
        from engine.codecs import stamps

        found = [BANDS[i] for i in band_indices(bands, one_survey=True)]
        ids, single = token_batch(tokens, self.config.tokens, self.device)
        images = stamps.images(self.detokenize(ids, [b.name for b in found]).cpu().numpy(), [b.name for b in found])
        return images[0] if single else images


def stamp(x: Tensor) -> Tensor:
    """The central (..., 96, 96), padded with zeros where there is less. Pixel H // 2 comes to 48 either way."""
    y0, x0 = ((n - SIZE) // 2 for n in x.shape[-2:])
    x = x[..., max(y0, 0) : max(y0, 0) + SIZE, max(x0, 0) : max(x0, 0) + SIZE]
    top, left = max(-y0, 0), max(-x0, 0)
    return F.pad(x, (left, SIZE - x.shape[-1] - left, top, SIZE - x.shape[-2] - top))
