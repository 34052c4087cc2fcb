"""Spectra as tokens: one for the level, 272 for the shape on a grid of its own, whatever the spectrograph.

After AION-1 (Parker et al. 2025, arXiv:2510.17960, sec. 3.2): flux is divided by a quantised mean, brought with its inverse
error to 3500 + 0.8 k Angstrom by linear interpolation, pressed together by arcsinh, and encoded by a ConvNeXt V2 with
look-up-free quantisation. Every token covers 32 pixels, 25.6 Angstrom.

Shape letters: B batch, n pixels of the instrument, G pixels of the grid (8704), T tokens of the shape (272), W width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from engine.codecs import convnext
from engine.codecs.border import Values, measured, token_batch, token_rows
from engine.codecs.quantizers import FSQ, LFQ, Table
from engine.models.inputs import asinh

if TYPE_CHECKING:
    from engine.objects import SkyObject, Spectrum

FAINTEST = 0.1  # 1e-17 erg/s/cm2/A; no spectrum is divided by less
PIECE = 256  # spectra at a time on a GPU


@dataclass(frozen=True)
class SpectrumConfig:
    """Sizes of the network and its grid (Angstrom). scaling: of the normalised flux; clips: of flux and inverse variance.

    fsq: levels of finite scalar quantisation, as the codecs that we train have it, instead of the signs of `bits` channels;
    use_mask: whether bad pixels are bridged and get no weight where a call does not say. strides: neighbours that each stage of
    the encoder joins, in the decoder's stages in reverse; plain: blocks of two convolutions, which cost less at few positions.
    """

    encoder_depths: tuple[int, ...] = (3, 3, 9, 3)
    encoder_widths: tuple[int, ...] = (96, 192, 384, 512)
    decoder_depths: tuple[int, ...] = (3, 3, 9, 3)
    decoder_widths: tuple[int, ...] = (384, 192, 96, 2)
    start: float = 3500.0
    step: float = 0.8
    pixels: int = 8704
    width: int = 512
    bits: int = 10
    levels: int = 1024
    scaling: float = 0.2
    clip_ivar: float | None = 100.0
    clip_flux: float | None = None
    fsq: tuple[int, ...] | None = None
    use_mask: bool = False
    strides: tuple[int, ...] = (4, 2, 2, 2)
    plain: bool = False

    @property
    def tokens(self) -> int:
        """Of one spectrum, with the one for the level."""
        return 1 + self.pixels // prod(self.strides)


class SpectrumCodec(nn.Module):
    """Spectra of DESI, SDSS and others, flux in 1e-17 erg/s/cm2/A against vacuum wavelength in Angstrom, to 273 tokens."""

    def __init__(self, config: SpectrumConfig) -> None:
        super().__init__()
        self.config = config
        self.quantizer = LFQ(config.bits) if config.fsq is None else FSQ(config.fsq)
        self.levels = Table(config.levels)
        strides, plain = config.strides, config.plain
        self.encoder = convnext.encoder(2, config.encoder_depths, config.encoder_widths, strides, plain)
        self.norm = nn.LayerNorm(config.width, eps=convnext.EPSILON)
        self.norm_code = nn.LayerNorm(config.width)
        self.to_code = nn.Linear(config.width, self.quantizer.channels)
        self.from_code = nn.Linear(self.quantizer.channels, config.width)
        self.decoder = convnext.decoder(config.width, config.decoder_depths, config.decoder_widths, strides[::-1], plain)

    @property
    def vocabulary(self) -> int:
        return self.quantizer.vocabulary

    @property
    def device(self) -> torch.device:
        return self.levels.values.device

    def wavelength(self) -> Tensor:
        """(G,) of the grid, Angstrom, float32."""
        c = self.config
        return torch.arange(c.pixels, device=self.device) * c.step + c.start

    @torch.no_grad()
    def tokenize(self, flux: Values, ivar: Values, mask: Values, wavelength: Values, use_mask: bool | None = None) -> Tensor:
        """flux, ivar (its inverse variance), mask (True where bad): (B, n); wavelength (n,) or (B, n) -> int32 (B, 273).

        Bad pixels do not count for the level, but for the shape they do, as AION-1 was trained; use_mask=True bridges them in
        flux and gives them no weight; None: as the config says. NaN counts as 0 (and is bridged too with use_mask). Inputs are
        left as they are.
        Raises ValueError for shapes that do not fit, wavelengths that do not increase, or none on the grid.
        """
        level, x = self.prepared(flux, ivar, mask, wavelength, use_mask)
        shape = [self.quantizer.encode(self.latents_of(piece)) for piece in x.split(at_a_time(x)) if len(piece)]
        rest = torch.cat(shape) if shape else level.new_zeros(0, self.config.tokens - 1)
        return torch.cat([level[:, None].int(), rest.int()], 1)

    @torch.no_grad()
    def latents(self, flux: Values, ivar: Values, mask: Values, wavelength: Values, use_mask: bool | None = None) -> Tensor:
        """The shape before quantisation: (B, 272, bits), float32."""
        _, x = self.prepared(flux, ivar, mask, wavelength, use_mask)
        return torch.cat([self.latents_of(piece) for piece in x.split(at_a_time(x))])

    def prepared(self, flux: Values, ivar: Values, mask: Values, wavelength: Values, use_mask: bool | None
                 ) -> tuple[Tensor, Tensor]:
        """Ids of the levels (B,) and what the encoder takes, (B, G, 2)."""
        c = self.config
        y, w = (measured(v, self.device).float() for v in (flux, ivar))
        bad = measured(mask, self.device)
        grid = self._wavelengths(wavelength, y)
        if y.ndim != 2 or w.shape != y.shape or bad.shape != y.shape or bad.dtype != torch.bool:
            raise ValueError(f"flux, ivar and mask must be (B, n), the mask bool, got {tuple(y.shape)}, {tuple(w.shape)}, "
                             f"{tuple(bad.shape)} {bad.dtype}")
        if c.use_mask if use_mask is None else use_mask:
            bad = bad | ~torch.isfinite(y)
            y, w = bridge(y, bad, grid), torch.where(bad, 0.0, w)
        y, w = torch.nan_to_num(y), torch.nan_to_num(w)
        y = y if c.clip_flux is None else y.clamp(-c.clip_flux, c.clip_flux)
        error = (w if c.clip_ivar is None else w.clamp(0, c.clip_ivar)).sqrt()
        mean = torch.where(bad, 0.0, y).sum(1) / ((~bad).sum(1) + 1.0)
        level = self.levels.encode(torch.log10(mean.clamp_min(FAINTEST) + 1.0))
        norm = self.level_of(level)
        pair = torch.stack([(y / norm - 1.0) * c.scaling, error / norm * c.scaling], 1)
        x = interpolate(grid, pair, self.wavelength())
        return level, asinh(x).transpose(1, 2)

    def level_of(self, level: Tensor) -> Tensor:
        """(B, 1): the flux that an id of the level stands for."""
        return (10 ** self.levels.decode(level)[:, None] - 1.0).clamp_min(FAINTEST)

    def _wavelengths(self, wavelength: Values, like: Tensor) -> Tensor:
        """Checked, (n,) or (B, n) float32."""
        x = measured(wavelength, self.device).float()
        if x.ndim == 0 or (x.shape != like.shape[-1:] and x.shape != like.shape) or x.shape[-1] < 2:
            raise ValueError(f"wavelength must be (n,) or (B, n) beside flux {tuple(like.shape)}, got {tuple(x.shape)}")
        check_wavelength(x)
        low, high = self.config.start, self.config.start + self.config.step * (self.config.pixels - 1)
        if bool(((x[..., -1] < low) | (x[..., 0] > high)).any()):
            raise ValueError(f"wavelengths from {float(x.min()):.1f} to {float(x.max()):.1f} Angstrom do not overlap with the "
                             f"codec's, {low:.1f} to {high:.1f}")
        return x

    def latents_of(self, x: Tensor) -> Tensor:
        return self.to_code(self.norm_code(self.norm(self.encoder(x).float())))

    @torch.no_grad()
    def detokenize(self, tokens: Values, wavelength: Values | None = None) -> tuple[Tensor, Tensor]:
        """Tokens (B, 273) -> flux in 1e-17 erg/s/cm2/A and mask (True where bad), (B, G) on the codec's grid, or (B, n).

        wavelength: (n,) or (B, n) in Angstrom, increasing; beyond the grid flux is the level and the mask True. Raises
        ValueError for an id out of range or another number of tokens.
        """
        ids = token_rows(tokens, self.config.tokens, self.device)
        return self.decode_codes(self.level_of(ids[:, 0])[:, 0], self.codes_of(ids[:, 1:]), wavelength)

    def codes_of(self, ids: Values) -> Tensor:
        """Ids of the shape, of any shape (...), -> code vectors (..., D) in [-1, 1]. Raises ValueError for one out of range."""
        return self.quantizer.decode(torch.as_tensor(ids, device=self.device))

    @torch.no_grad()
    def decode_codes(self, level: Tensor, codes: Tensor, wavelength: Values | None = None) -> tuple[Tensor, Tensor]:
        """The level (B,), flux in 1e-17 erg/s/cm2/A, and code vectors (B, 272, D), such as means of codes weighted by their
        probability, -> flux and mask as `detokenize` gives them."""
        norm = level[:, None]
        pieces = [self.drawn(piece)
                  for piece in codes.split(at_a_time(codes)) if len(piece)]
        drawn = torch.cat(pieces) if pieces else codes.new_zeros(0, self.config.pixels, self.config.decoder_widths[-1])
        drawn = drawn.transpose(1, 2)
        if wavelength is None:
            outside = torch.zeros_like(drawn[:, 0], dtype=torch.bool)
        else:
            own, at = self.wavelength(), measured(wavelength, self.device).float()
            if at.ndim not in (1, 2) or (at.ndim == 2 and len(at) != len(codes)):
                raise ValueError(f"wavelength must be (n,) or ({len(codes)}, n), got {tuple(at.shape)}")
            check_wavelength(at)
            drawn = interpolate(own, drawn, at)
            outside = ((at < own[0]) | (at > own[-1])).expand(drawn[:, 0].shape)
        flux = (drawn[:, 0] + 1.0) * norm
        bad = outside if drawn.shape[1] == 1 else outside | (drawn[:, 1] > 0)
        return flux, bad

    def drawn(self, codes: Tensor) -> Tensor:
        """Code vectors (B, 272, D) -> (B, G, 1 or 2): flux / level - 1, and where positive the mask."""
        return self.decoder(self.from_code(codes)).float()

    def encode(self, objects: SkyObject | Sequence[SkyObject], survey: str | None = None, use_mask: bool | None = None
               ) -> Tensor:
        """Objects -> int16 tokens (B, 273), (273,) of one object.

        survey: such as "desi" or "sdss"; None: DESI's where there is one, else SDSS's, else the first calibrated one. Raises
        KeyError naming an object without such a spectrum, ValueError for one that is not a flux density, not on the grid's
        wavelengths, or without a good pixel.
        """
        from engine.codecs import traces

        return traces.encode(self, objects, survey, self.config.use_mask if use_mask is None else use_mask)

    def decode(self, tokens: Values, wavelength: Values | None = None) -> Spectrum | list[Spectrum]:
        """Tokens (B, 273) -> a Spectrum an object; (273,) -> one. wavelength: as `detokenize`, the codec's grid if None."""
        from engine.codecs import traces

        ids, single = token_batch(tokens, self.config.tokens, self.device)
        flux, mask = self.detokenize(ids, wavelength)
        spectra = traces.spectra(flux, mask, self.wavelength() if wavelength is None else wavelength)
        return spectra[0] if single else spectra


def at_a_time(like: Tensor) -> int:
    """Spectra computed together: on a CPU one a thread, so that what a block makes of them fits into its cache."""
    return torch.get_num_threads() if like.device.type == "cpu" else PIECE


def check_wavelength(x: Tensor) -> None:
    """Raises ValueError unless finite and increasing along the last axis."""
    if not bool(torch.isfinite(x).all()):
        raise ValueError("wavelengths must be finite")
    step = x.diff(dim=-1)
    if bool((step <= 0).any()):
        first = int((step.reshape(-1, step.shape[-1]) <= 0).any(0).nonzero()[0])
        raise ValueError(f"wavelengths must increase; from pixel {first} to {first + 1} they do not")


def interpolate(x: Tensor, y: Tensor, new: Tensor) -> Tensor:
    """Values y (B, C, n) at x, (n,) or (B, n), linearly at new, (m,) or (B, m): (B, C, m), 0 beyond the ends of x.

    Where x and new are the same for all, places are looked for once.
    """
    if x.ndim != new.ndim:  # one of them is an object's own
        x, new = (v if v.ndim == 2 else v.expand(len(y), -1) for v in (x, new))
    at = (torch.searchsorted(x.contiguous(), new.contiguous()) - 1).clamp(0, x.shape[-1] - 2)
    left, right = x.gather(-1, at), x.gather(-1, at + 1)
    share, width = new - left, left - right
    beyond = (new < x[..., :1]) | (new > x[..., -1:])
    if at.ndim == 1:
        low, high = y[..., at], y[..., at + 1]
    else:
        at, share, width, beyond = (v[:, None].expand(-1, y.shape[1], -1) for v in (at, share, width, beyond))
        low, high = y.gather(-1, at), y.gather(-1, at + 1)
    return (low + share * ((low - high) / width)).masked_fill_(beyond, 0.0)


def bridge(y: Tensor, bad: Tensor, wavelength: Tensor) -> Tensor:
    """Values (B, n) with the bad ones replaced by a straight line between their good neighbours; 0 where a row has none."""
    place = torch.arange(y.shape[1], device=y.device).expand(y.shape)
    last = y.shape[1] - 1
    before = torch.where(bad, -1, place).cummax(1).values
    after = torch.where(bad, last + 1, place).flip(1).cummin(1).values.flip(1)
    none = (before < 0) & (after > last)
    left, right = torch.where(before < 0, after, before).clamp(0, last), torch.where(after > last, before, after).clamp(0, last)
    x = wavelength.expand(y.shape)
    width = x.gather(1, right) - x.gather(1, left)
    share = torch.where(width > 0, (x - x.gather(1, left)) / width.clamp_min(1e-6), 0.0)
    known = torch.where(bad, 0.0, y)
    filled = torch.lerp(known.gather(1, left), known.gather(1, right), share)
    return torch.where(bad, torch.where(none, 0.0, filled), y)
