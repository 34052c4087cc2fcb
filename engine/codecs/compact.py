"""Images as 145 tokens, with a network that a laptop can train: one for the brightness, 144 for the shape.

The stamp is divided by the light in its middle, which has a token of its own; what is left is pressed together by arcsinh and
cut into 12 x 12 patches. All layers but the last work on that grid of patches, so that a step of training costs little:
convolutions on all pixels take twenty times as long. Between the halves lies FSQ (Mentzer et al. 2023, arXiv:2309.15505).
One network for the nine bands of two surveys, any subset of one survey's at a time, as AION-1's image codec
(Parker et al. 2025, arXiv:2510.17960, sec. 3.1); tokens are of whole sets, what was not measured filled in.
`engine.train.codecs` trains it on images without noise.

Shape letters: B batch, C bands of one survey, W width, N pixels a side (96), S patches a side (12), D latent channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from engine.codecs.border import Values, measured, token_batch, token_rows, warn
from engine.codecs.image import BANDS, BANDS_OF, PIECE, SIZE, band_indices, stamp
from engine.codecs.quantizers import FSQ, check_ids
from engine.models.inputs import FIELDS, asinh

if TYPE_CHECKING:
    from engine.objects import Image, SkyObject

SURVEYS = tuple(BANDS_OF)
CHANNELS = {survey: [i for i, band in enumerate(BANDS) if band.survey == survey] for survey in SURVEYS}
SCALE = {field.survey: field.scale for field in FIELDS}  # arcsec a pixel
BRIGHTEST = 1e4  # nmgy; what pixels are clipped to
COLOUR = 0.05  # of the light in the middle: where an aperture's flux turns from linear to logarithmic


@dataclass(frozen=True)
class CompactConfig:
    """Sizes of the network.

    patch: pixels a side of a token. apertures: radii in arcsec whose light the network is told beside the pixels; the light
    within `aperture` is the brightness, from `faintest` (nmgy) in `steps` steps of `step` mag. softening: where arcsinh turns
    from linear to logarithmic, as a share of the brightness a pixel.
    """

    levels: tuple[int, ...] = (7, 5, 5, 5, 5)
    width: int = 128
    blocks: int = 3
    patch: int = 8
    smoothing: int = 12
    aperture: float = 2.0
    apertures: tuple[float, ...] = (1.0, 2.0, 4.0)
    faintest: float = 0.01
    step: float = 0.0125
    steps: int = 1200
    softening: float = 0.002

    def __post_init__(self) -> None:
        if SIZE % self.patch:
            raise ValueError(f"patch is {self.patch}; it must divide {SIZE}")
        if self.steps > FSQ(self.levels).vocabulary:
            raise ValueError(f"{self.steps} steps of brightness are more than the {FSQ(self.levels).vocabulary} ids of "
                             f"the levels {self.levels}")

    @property
    def side(self) -> int:
        return SIZE // self.patch

    @property
    def tokens(self) -> int:
        return self.side**2 + 1


@lru_cache(maxsize=32)
def disc(radius: float, scale: float, device: torch.device) -> Tensor:
    """(N, N): 1 within radius (arcsec) of the middle, 0 beyond. The middle is the corner between the four central pixels."""
    axis = (torch.arange(SIZE, device=device) - (SIZE - 1) / 2) * scale
    return ((axis[:, None] ** 2 + axis**2) <= radius**2).float()


def light(flux: Tensor, radii: Sequence[float], survey: str) -> Tensor:
    """(B, C, N, N) -> (B, C, radii): flux within each radius, arcsec, of the survey's pixels."""
    discs = torch.stack([disc(radius, SCALE[survey], flux.device) for radius in radii])
    with torch.autocast(flux.device.type, enabled=False):  # photometry needs more digits than bfloat16 has
        return flux.float().flatten(2) @ discs.flatten(1).T


class Block(nn.Module):
    """Residual block on the grid of patches: norm, 3 x 3, GELU, 3 x 3, and what all patches say on average.

    What runs from block to block stays in float32; convolutions compute in the type of their weights.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        self.everywhere = nn.Linear(width, width)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        whole = self.everywhere(y.mean((2, 3)).to(self.everywhere.weight.dtype))
        y = self.first(y.to(self.first.weight.dtype)) + whole[..., None, None]
        return x + self.second(F.gelu(y)).float()


class CompactImageCodec(nn.Module):
    """Images of the Legacy Surveys (DES-G, R, I, Z, nanomaggies) and HSC (HSC-G, R, I, Z, Y, zero point 27) to 145 tokens.

    The first token is the brightness, the others the shape, row by row.
    """

    def __init__(self, config: CompactConfig) -> None:
        super().__init__()
        self.config = config
        c, bands = config, len(BANDS)
        self.quantizer = FSQ(c.levels)
        self.pixels_in = nn.Parameter(torch.randn(c.width, bands, c.patch**2) * c.patch**-1 * 0.3)
        self.light_in = nn.Parameter(torch.randn(c.width, bands, len(c.apertures)) * 0.3)
        self.given = nn.Parameter(torch.randn(bands, c.width) * 0.1)  # says which bands there are
        self.encoder = nn.Sequential(*(Block(c.width) for _ in range(c.blocks)))
        self.norm = nn.GroupNorm(8, c.width)
        self.to_code = nn.Linear(c.width, self.quantizer.channels)
        # Colours belong to the whole stamp: every token says a part of them, one that depends on where it stands.
        whole = c.side**2 * self.quantizer.channels
        self.colours_in = nn.Parameter(torch.randn(whole, bands, len(c.apertures)) * 0.1)
        self.colours_out = nn.Linear(whole, c.width)
        self.from_code = nn.Linear(self.quantizer.channels, c.width)
        self.survey = nn.Parameter(torch.randn(len(SURVEYS), c.width) * 0.1)  # tells the decoder whose pixels are wanted
        self.decoder = nn.Sequential(*(Block(c.width) for _ in range(c.blocks)))
        self.pixels_out = nn.Parameter(torch.randn(bands, c.patch**2, c.width) * c.width**-0.5 * 0.3)
        self.pixels_bias = nn.Parameter(torch.zeros(bands, c.patch**2))
        self.gain = nn.Linear(c.width, bands)
        self.smooth_in = nn.Parameter(torch.randn(c.smoothing, bands, 3, 3) * 0.15)
        self.smooth_out = nn.Parameter(torch.zeros(bands, c.smoothing, 3, 3))
        nn.init.zeros_(self.gain.weight)

    @property
    def vocabulary(self) -> int:
        return self.quantizer.vocabulary

    @property
    def device(self) -> torch.device:
        return self.given.device

    # -- brightness -------------------------------------------------------------------------------------------------

    def brightness(self, flux: Tensor, given: Tensor, survey: str) -> Tensor:
        """Ids (B,) int64 of the light in the middle: flux (B, C, N, N) in nmgy, the mean of the bands given (B, C)."""
        c = self.config
        inside = light(flux, (c.aperture,), survey)[..., 0] * given
        mean = inside.sum(1) / given.sum(1).clamp_min(1)
        mags = 2.5 * torch.log10(mean.clamp_min(c.faintest) / c.faintest)
        return (mags / c.step).round().long().clamp(0, c.steps - 1)

    def brightness_of(self, ids: Values) -> Tensor:
        """Ids (B,) of the first token -> nmgy. An id beyond the table counts as the brightest. Raises ValueError if it is none
        of the codec's."""
        c = self.config
        ids = check_ids(torch.as_tensor(ids, device=self.device), self.vocabulary, "the brightness").clamp_max(c.steps - 1)
        return c.faintest * 10 ** (0.4 * c.step * ids)

    # -- network ----------------------------------------------------------------------------------------------------

    def pressed(self, share: Tensor) -> Tensor:
        """Flux as a share of the brightness, pressed together."""
        return asinh(share / self.config.softening)

    def latents_of(self, flux: Tensor, given: Tensor, survey: str, norm: Tensor) -> Tensor:
        """flux (B, C, N, N) in nmgy, given (B, C) bool, norm (B,) nmgy -> (B, S, S, D) before rounding."""
        channels = CHANNELS[survey]
        share = flux * (given / norm[:, None])[..., None, None]
        patches = F.pixel_unshuffle(self.pressed(share), self.config.patch).contiguous(memory_format=torch.channels_last)
        colours = asinh(light(share, self.config.apertures, survey) / COLOUR)
        with torch.autocast(flux.device.type, enabled=False):
            told = torch.einsum("bca,wca->bw", colours, self.light_in[:, channels]) + given.float() @ self.given[channels]
            x = F.conv2d(patches, self.pixels_in[:, channels].flatten(1)[..., None, None]) + told[..., None, None]
            parts = torch.einsum("bca,wca->bw", colours, self.colours_in[:, channels])
        x = self.norm(self.encoder(x).float())
        z = self.to_code(x.permute(0, 2, 3, 1)).float()
        return z + parts.view_as(z)

    def shares_of(self, codes: Tensor, survey: str) -> Tensor:
        """Codes (B, S, S, D) in [-1, 1] -> flux of all the survey's bands as a share of the brightness, (B, C, N, N)."""
        channels, c = CHANNELS[survey], self.config
        whole = self.colours_out(codes.flatten(1)) + self.survey[SURVEYS.index(survey)]
        x = (self.from_code(codes) + whole[:, None, None]).float().permute(0, 3, 1, 2)
        x = self.decoder(x.contiguous(memory_format=torch.channels_last)).float()
        weight, bias = self.pixels_out[channels].flatten(0, 1), self.pixels_bias[channels].flatten()
        with torch.autocast(x.device.type, enabled=False):
            y = F.pixel_shuffle(F.conv2d(x, weight[..., None, None], bias), c.patch)
            y = y + F.conv2d(F.gelu(F.conv2d(y, self.smooth_in[:, channels], padding=1)), self.smooth_out[channels], padding=1)
            gain = self.gain(x.mean((2, 3)))[:, channels].clamp(-3, 3).exp()
        return torch.sinh(y.clamp(-10, 10)) * (c.softening * gain[..., None, None])

    # -- tokens -----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def tokenize(self, flux: Values, bands: str | Sequence[str]) -> Tensor:
        """flux (B, C, H, W) in the survey's own pixel values, any size -> int32 (B, 145). `flux` is left as it is.

        The central 96 x 96 pixels count; a smaller image is padded with zeros, with a `CodecWarning`. NaN pixels count as 0,
        infinite ones as the brightest there are. A band of the survey that is not given is filled in as it usually is, so that
        tokens mean the same to whoever learned to read those of whole sets: without it, the brightness of g, r, z alone (DR9)
        would be taken for that of g, r, i, z. Raises KeyError for an unknown band, ValueError for another shape and for
        bands of two surveys at once.
        """
        x, given, survey = self.prepared(flux, bands)
        rows = [torch.zeros(0, self.config.tokens, dtype=torch.int32, device=self.device)]
        for piece in x.split(PIECE.get(x.device.type, 8)):
            if len(piece):
                ids = self._ids(piece, given, survey)
                if not given.all():
                    usual = self.detokenize(ids, survey) / BANDS[CHANNELS[survey][0]].unit
                    ids = self._ids(torch.where(given[..., None, None], piece, usual), torch.ones_like(given), survey)
                rows.append(ids)
        return torch.cat(rows)

    def _ids(self, flux: Tensor, given: Tensor, survey: str) -> Tensor:
        """(B, C, N, N) in nmgy, of which the bands (1, C) are given -> int32 (B, 145)."""
        there = given.expand(len(flux), -1)
        level = self.brightness(flux, there, survey)
        z = self.latents_of(flux, there, survey, self.brightness_of(level))
        return torch.cat([level[:, None].int(), self.quantizer.encode(z).flatten(1)], 1)

    def prepared(self, flux: Values, bands: str | Sequence[str]) -> tuple[Tensor, Tensor, str]:
        """In nmgy with all of the survey's bands, (B, C, 96, 96) float32; which are given, (1, C) bool; the survey."""
        found = band_indices(bands, one_survey=True)
        x = measured(flux, self.device)
        if x.ndim != 4 or x.shape[1] != len(found) or 0 in x.shape[2:]:
            raise ValueError(f"flux must be (B, {len(found)}, H, W) for the bands {[BANDS[i].name for i in found]}, got the "
                             f"shape {tuple(x.shape)}")
        if min(x.shape[2:]) < SIZE:
            warn(f"images of {x.shape[2]} x {x.shape[3]} pixels are smaller than {SIZE} x {SIZE}: padded with zeros")
        survey = BANDS[found[0]].survey
        places = [CHANNELS[survey].index(i) for i in found]
        out = x.new_zeros(len(x), len(CHANNELS[survey]), SIZE, SIZE, dtype=torch.float32)
        out[:, places] = (stamp(x).float() / BANDS[found[0]].unit).clamp(-BRIGHTEST, BRIGHTEST).nan_to_num(0.0)
        given = torch.zeros(1, out.shape[1], dtype=torch.bool, device=x.device)
        given[0, places] = True
        return out, given, survey

    @torch.no_grad()
    def detokenize(self, tokens: Values, bands: str | Sequence[str]) -> Tensor:
        """Tokens (B, 145) -> flux (B, C, 96, 96) in the pixel values of each band's survey, float32.

        Bands of the tokens' own survey that were not given are filled in as they usually are. Raises KeyError for an unknown
        band, ValueError for an id out of range or another number of tokens.
        """
        ids = token_rows(tokens, self.config.tokens, self.device)
        return self.decode_codes(self.brightness_of(ids[:, 0]), self.codes_of(ids[:, 1:]), bands)

    def codes_of(self, ids: Values) -> Tensor:
        """Ids of the shape, of any shape (...), -> code vectors (..., D) in [-1, 1]; `codes_of(torch.arange(vocabulary))` is
        the whole codebook. Raises ValueError for an id out of range."""
        return self.quantizer.decode(torch.as_tensor(ids, device=self.device))

    @torch.no_grad()
    def decode_codes(self, brightness: Tensor, codes: Tensor, bands: str | Sequence[str]) -> Tensor:
        """Brightness (B,) in nmgy and code vectors (B, 144, D), such as means of codes weighted by their probability, -> flux
        (B, C, 96, 96) as `detokenize` gives it."""
        found, side = band_indices(bands), self.config.side
        out = torch.zeros(len(codes), len(found), SIZE, SIZE, device=self.device)
        grid = codes.unflatten(1, (side, side))
        for survey in SURVEYS:
            wanted = [(k, CHANNELS[survey].index(i)) for k, i in enumerate(found) if BANDS[i].survey == survey]
            if not wanted:
                continue
            to, of = (list(places) for places in zip(*wanted, strict=True))
            unit = BANDS[CHANNELS[survey][0]].unit
            size = PIECE.get(codes.device.type, 8)
            for start in range(0, len(codes), size):
                some = slice(start, start + size)
                share = self.shares_of(grid[some], survey)[:, of]
                out[some, to] = share * (brightness[some] * unit)[:, None, None, None]
        return out

    def encode(self, objects: SkyObject | Sequence[SkyObject], survey: str | None = None, resample: bool = False) -> Tensor:
        """Objects -> int16 tokens (B, 145), (145,) of one object. Bad pixels count as 0.

        survey: "legacy" or "hsc"; None: the first that every object has an image of. resample: bring images of other pixel
        scales or surveys to it, with a `CodecWarning`. Raises KeyError naming an object without such an image, ValueError for a
        pixel scale that is not the survey's, an unknown flux scale, or an image without a good pixel.
        """
        from engine.codecs import stamps

        return stamps.encode(self.tokenize, objects, survey, resample)

    def decode(self, tokens: Values, bands: str | Sequence[str]) -> Image | list[Image]:
        """Tokens (B, 145) -> an Image an object; (145,) -> one. bands: of one survey, such as ["DES-G", "DES-R"] or "hsc"."""
        from engine.codecs import stamps

        names = [BANDS[i].name for i in band_indices(bands, one_survey=True)]
        ids, single = token_batch(tokens, self.config.tokens, self.device)
        images = stamps.images(self.detokenize(ids, names).cpu().numpy(), names)
        return images[0] if single else images
