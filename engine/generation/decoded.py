"""From drawn tokens, or from what is expected of them, to what was measured: pixels, fluxes, numbers with their distribution.

Shape letters: B objects or samples, n tokens, V ids, D channels of a code, K bins.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from engine.codecs import CatalogCodec, Codec, CompactImageCodec, ImageCodec, ScalarCodec, SegmentationCodec, SpectrumCodec
from engine.codecs.border import read_unit
from engine.codecs.image import BANDS_OF, PIECE, band_indices
from engine.codecs.segmentation import BAND
from engine.modalities import Modality
from engine.models.inputs import WavelengthGrid

if TYPE_CHECKING:
    from engine.objects import Catalog, Image, Scalar, Spectrum

    Measured = Image | Spectrum | Scalar | Catalog

Array = NDArray[Any]


@dataclass(frozen=True)
class Distribution:
    """What a model says of one number: probabilities of the bins of its codec.

    probabilities, lower, upper: (K,), the ends in `unit`, infinite where a bin is open; middle: (K,) what a bin stands for, an
    open one its finite end (of a redshift grid up to 1, "z >= 1" counts as its end). posterior: whether it may be read as one
    and draws follow it: not at another temperature than 1, truncated or guided, nor if several tokens of a target before it in
    a chain were drawn otherwise than by roar.
    """

    name: str
    probabilities: Array
    lower: Array
    upper: Array
    middle: Array
    unit: str | None
    posterior: bool

    @property
    def mean(self) -> float:
        return float(self.probabilities @ self.middle)

    @property
    def std(self) -> float:
        return float(np.sqrt(self.probabilities @ (self.middle - self.mean) ** 2))

    @property
    def entropy(self) -> float:
        """Of the bins, in nats."""
        p = self.probabilities[self.probabilities > 0]
        return float(-(p * np.log(p)).sum())

    @property
    def open_top(self) -> tuple[str, float]:
        """The bin without an upper end, such as "z >= 1", and its probability."""
        return f"{self.name} >= {float(self.lower[-1]):.4g}", float(self.probabilities[-1])

    def quantile(self, q: float) -> float:
        """Linear within a bin; in an open one its finite end. Raises ValueError unless 0 <= q <= 1."""
        if not 0 <= q <= 1:
            raise ValueError(f"q is {q!r}; a quantile is asked for from 0 to 1")
        sums = np.cumsum(self.probabilities)
        k = min(int(np.searchsorted(sums, q * sums[-1])), len(sums) - 1)
        low, high = float(self.lower[k]), float(self.upper[k])
        if not np.isfinite(low) or not np.isfinite(high):
            return high if np.isfinite(high) else low
        share = (q * sums[-1] - (sums[k] - self.probabilities[k])) / max(float(self.probabilities[k]), 1e-300)
        return low + min(max(float(share), 0.0), 1.0) * (high - low)


def distribution(codec: ScalarCodec, m: Modality, probabilities: Tensor, posterior: bool) -> Distribution:
    """Of one number: probabilities (V,), 0 of ids that the codec does not have."""
    lower, upper = (end.cpu().numpy().astype(float) for end in codec.bounds())
    middle = codec.detokenize(torch.arange(codec.vocabulary), centre=True).cpu().numpy().astype(float)
    middle = np.where(np.isinf(lower), upper, np.where(np.isinf(upper), lower, middle))
    p = probabilities[: codec.vocabulary].double().cpu().numpy()
    return Distribution(m.scalar or m.key, p / p.sum(), lower, upper, middle, m.unit, posterior)


# -------------------------------------------------------------------------------------------------------- drawn tokens


def reaches(codec: Codec, n: int) -> list[int]:
    """How many ids the codec knows for each of n tokens: a model's vocabulary may be larger, and a first token that stands for
    the level has a table of its own."""
    if isinstance(codec, SpectrumCodec):
        return [codec.levels.vocabulary, *[codec.vocabulary] * (n - 1)]
    if isinstance(codec, CompactImageCodec):
        return [codec.config.steps, *[codec.vocabulary] * (n - 1)]
    return [codec.vocabulary] * n


def measurements(codec: Codec, m: Modality, ids: Tensor) -> list[Measured]:
    """Ids (B, n) as images, spectra, scalars or catalogues, with units; numbers are middles of bins. A DESI spectrum comes on
    DESI's pixels, any other on the codec's grid."""
    found: Any
    if isinstance(codec, ImageCodec | CompactImageCodec):
        found = codec.decode(ids, m.survey)
    elif isinstance(codec, SpectrumCodec):
        spectra: Any = codec.decode(ids, wavelength(codec, m))
        found = [replace(s, survey=m.survey) for s in spectra]
    elif isinstance(codec, CatalogCodec):
        found = codec.decode(codec.from_sequence(ids))
    elif isinstance(codec, ScalarCodec):
        found = codec.decode(ids if codec.config.channels is not None else ids[:, 0], centre=True)
    else:
        found = codec.decode(ids)
    return list(found)


def wavelength(codec: SpectrumCodec, m: Modality) -> Tensor:
    """(n,) Angstrom: where the spectra of a survey are."""
    return WavelengthGrid().wavelength() if m.survey == "desi" else codec.wavelength()


# ---------------------------------------------------------------------------------------------------- expected tokens


def expected(codec: Codec, m: Modality, probabilities: Tensor, ids: Tensor | None = None, known: Tensor | None = None
             ) -> Measured | None:
    """The "typical" measurement of one object: every token the mean of its codes, weighted by probabilities (n, V).

    It is no draw: each place is as smooth as the model is unsure of it. It comes closest to the truth (in the mean square), and
    lacks the detail that a sample has. ids, known (n,): tokens that are known already. None for a catalogue or a single number,
    which have no mean code (`distribution` tells of a number).
    """
    from engine.codecs import stamps, traces
    from engine.objects import Image, Scalar

    p = probabilities.float()
    if ids is not None and known is not None:
        p = torch.where(known[:, None], F.one_hot(ids, p.shape[-1]).float(), p)
    with torch.inference_mode():
        if isinstance(codec, ImageCodec | CompactImageCodec):
            names = list(BANDS_OF[m.survey])
            if isinstance(codec, ImageCodec):
                flux = image_from_codes(codec, mean_codes(codec, p)[None], names)
            else:
                steps = codec.brightness_of(torch.arange(codec.config.steps, device=codec.device))
                flux = codec.decode_codes(mean_level(p[0], steps), mean_codes(codec, p[1:])[None], names)
            return stamps.images(flux.cpu().numpy(), names)[0]
        if isinstance(codec, SegmentationCodec):
            field = field_from_codes(codec, mean_codes(codec, p)[None]).cpu().numpy()
            return Image(field, (BAND,), m.survey, pixel_scale=stamps.FIELDS[m.survey].scale, history=("decoded from tokens",))
        if isinstance(codec, SpectrumCodec):
            levels = codec.level_of(torch.arange(codec.levels.vocabulary, device=codec.device))[:, 0]
            at = wavelength(codec, m)
            flux, mask = codec.decode_codes(mean_level(p[0], levels), mean_codes(codec, p[1:])[None], at)
            return replace(traces.spectra(flux, mask, at)[0], survey=m.survey)
        if isinstance(codec, ScalarCodec) and codec.config.channels is not None:
            ends = torch.cat([codec.table.values[:, :1], codec.table.values], 1).to(p)
            middle = (ends[:, 1:] + ends[:, :-1]) / 2
            value = codec.table.squeeze.inverse((p[:, : codec.vocabulary] * middle).sum(-1))
            return Scalar(value.cpu().numpy(), None, read_unit(m.unit))
    return None


def mean_codes(codec: CompactImageCodec | ImageCodec | SegmentationCodec | SpectrumCodec, p: Tensor) -> Tensor:
    """(n, V) -> codes (n, D)."""
    every = codec.quantizer.decode(torch.arange(codec.quantizer.vocabulary, device=codec.device))
    return p[:, : len(every)].to(codec.device) @ every.to(p.dtype)


def mean_level(p: Tensor, levels: Tensor) -> Tensor:
    """Probabilities (V,) of fluxes (k,), of which the first are meant -> (1,), their mean in magnitudes."""
    return (p[: len(levels)].to(levels.device) @ levels.float().log())[None].exp()


def image_from_codes(codec: ImageCodec, codes: Tensor, bands: list[str]) -> Tensor:
    """Codes (B, n, D), not necessarily of an id -> flux (B, C, 96, 96), as `ImageCodec.detokenize`."""
    grid = codes.unflatten(1, (codec.config.side, -1))
    return torch.cat([codec._decoded(piece, band_indices(bands)) for piece in grid.split(PIECE.get(grid.device.type, 8))])


def field_from_codes(codec: SegmentationCodec, codes: Tensor) -> Tensor:
    """Codes (B, n, D) -> (B, 96, 96) from 0 to 1, as `SegmentationCodec.detokenize`."""
    grid = codes.unflatten(1, (codec.config.side, -1)).permute(0, 3, 1, 2)
    x = codec.decoder(codec.from_code(grid))[:, 0].sigmoid()
    stretch = codec.config.stretch or 0.0
    return ((1 + 2 * stretch) * x - stretch).clamp(0.0, 1.0)
