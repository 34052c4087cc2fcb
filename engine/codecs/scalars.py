"""Numbers as tokens: fluxes, shapes, magnitudes, redshifts and the 55 coefficients of a Gaia XP spectrum, one table each.

Shape letters: B batch, C coefficients (55).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from engine.codecs.border import Values, batched, in_unit, measured, read_unit, row_of
from engine.codecs.quantizers import ARCSINH, LINEAR, Squeeze, Table, logarithm
from engine.modalities import Modality

if TYPE_CHECKING:
    from engine.objects import Scalar, SkyObject

LEAST_REDSHIFT = -0.01  # 3,000 km/s towards us; anything below is a flag, not a star


@dataclass(frozen=True)
class ScalarConfig:
    """What a table is of. folder: the codec's name (`engine.modalities`); size: entries K; channels: None for one number;
    centre: whether ids stand for the middle of their bin where a call does not say (in tables of ours; not in AION-1's)."""

    folder: str
    codec: Literal["cdf", "log", "grid", "multi"]
    size: int
    channels: int | None = None
    floor: float | None = -3.0  # of the natural logarithm, in `log`
    centre: bool = False

    @property
    def squeeze(self) -> Squeeze:
        return {"log": logarithm(self.floor), "multi": ARCSINH}.get(self.codec, LINEAR)


class ScalarCodec(nn.Module):
    """Scalars of one modality to ids and back (AION-1, Parker et al. 2025, arXiv:2510.17960, sec. 3).

    Ids are rounded up to the next entry of the table, as AION-1 was trained; `detokenize(ids, centre=True)` takes that half
    bin off again. AION-1's redshift grid ends at 1, ours at 6.
    """

    def __init__(self, config: ScalarConfig) -> None:
        super().__init__()
        self.config = config
        self.table = Table(config.size, config.channels, config.squeeze)

    @property
    def modality(self) -> Modality:
        """The row of `engine.modalities`. Raises KeyError if there is none of this folder."""
        return row_of(self.config.folder)

    @property
    def vocabulary(self) -> int:
        return self.table.vocabulary

    @torch.no_grad()
    def tokenize(self, values: Values, saturate: bool = False) -> Tensor:
        """Values of any shape, (..., C) for coefficients, in the modality's unit -> ids of that shape, int64.

        saturate: give what lies beyond the redshift grid its first or last id. Raises ValueError for values that are not
        finite, for redshifts beyond the grid otherwise, and for a wrong number of coefficients.
        """
        x = measured(values, self.table.values.device).float()
        name, channels = self.config.folder, self.config.channels
        if channels is not None and (x.ndim == 0 or x.shape[-1] != channels):
            raise ValueError(f"{name} has {channels} coefficients, got the shape {tuple(x.shape)}")
        bad = ~torch.isfinite(x)
        if bad.any():
            raise ValueError(f"{int(bad.sum())} of {x.numel()} values of {name} are not finite (the first is "
                             f"{float(x[bad][0])}); leave the value out where it is not known")
        if self.config.codec == "grid" and not saturate:
            low, high = LEAST_REDSHIFT, float(self.table.values[-1])
            out = (x > high) | (x < low)
            if out.any():
                raise ValueError(f"{int(out.sum())} of {x.numel()} values of {name} lie beyond its grid (the first is "
                                 f"{float(x[out][0]):g}), which goes from 0 to {high:g} (down to {low:g} for stars); "
                                 "saturate=True gives them the nearest id")
        return self.table.encode(x)

    @torch.no_grad()
    def detokenize(self, ids: Values, centre: bool | None = None) -> Tensor:
        """Ids of any shape, (..., C) for coefficients, -> values in the modality's unit, float32.

        centre: the middle of the bin (in the squeezed value: where half of the objects lie to either side), not its upper end,
        which is what AION-1 gives; None: as the config says. Raises ValueError for ids that are not integers from 0 to K - 1.
        """
        tokens = torch.as_tensor(ids, device=self.table.values.device)
        channels = self.config.channels
        if channels is not None and (tokens.ndim == 0 or tokens.shape[-1] != channels):
            raise ValueError(f"{self.config.folder} has {channels} ids an object, got the shape {tuple(tokens.shape)}")
        return self.table.decode(tokens, self.config.centre if centre is None else centre)

    @torch.no_grad()
    def bounds(self) -> tuple[Tensor, Tensor]:
        """Lower and upper end of what each id stands for, (K,) or (C, K) each; -inf and inf at the ends."""
        upper = self.table.squeeze.inverse(self.table.values)
        edge = torch.full_like(upper[..., :1], torch.inf)
        upper = torch.cat([upper[..., :-1], edge], -1)
        return torch.cat([-edge, upper[..., :-1]], -1), upper

    def encode(self, objects: SkyObject | Sequence[SkyObject], saturate: bool = False) -> Tensor:
        """Objects -> int16 ids (B,) or (B, C); one object without B. A scalar without a unit is taken to be in the modality's.

        Raises KeyError naming the objects without such a scalar, ValueError for another unit.
        """
        some, single = batched(objects)
        ids = self.tokenize(torch.stack([self._value(o) for o in some]), saturate).short()
        return ids[0] if single else ids

    def _value(self, obj: SkyObject) -> Tensor:
        name, unit = self.modality.scalar or self.config.folder, self.modality.unit
        scalar = obj.scalars.get(name)
        if scalar is None and name in ("ra", "dec") and obj.position is not None:
            return torch.tensor(float(getattr(obj.position, name).deg))
        if scalar is None:
            raise KeyError(f"object {obj.id} has no scalar {name!r} for {self.modality.key}; "
                           f"it has {', '.join(obj.scalars) or 'none'}")
        if isinstance(scalar.value, (str, bool)):
            raise ValueError(f"{name} of object {obj.id} is {scalar.value!r}, not a number")
        return torch.tensor(in_unit(scalar.value, scalar.unit, unit, f"{name} of object {obj.id}"), dtype=torch.float32)

    def decode(self, ids: Values, centre: bool | None = None, open_bins: Literal["text", "number"] = "text"
               ) -> Scalar | list[Scalar]:
        """Ids (B,) or (B, C) -> a Scalar an object, with its unit; ids of one object without B -> one Scalar.

        The last id of a redshift has no upper end: it is shown as "z >= 1", or as the number 1 with open_bins="number".
        """
        from engine.objects import Scalar

        if open_bins not in ("text", "number"):
            raise ValueError(f"open_bins must be 'text' or 'number', got {open_bins!r}")
        tokens = torch.as_tensor(ids)
        single = tokens.ndim == (0 if self.config.channels is None else 1)
        tokens = tokens[None] if single else tokens
        values: Any = self.detokenize(tokens, centre).cpu().numpy()
        out = []
        for token, value in zip(tokens.tolist(), values, strict=True):
            if self.config.codec == "grid" and token == self.vocabulary - 1:
                value = float(self.table.values[-1])
                out.append(Scalar(f"{self.modality.scalar} >= {value:g}" if open_bins == "text" else value))
            else:
                out.append(Scalar(value, None, read_unit(self.modality.unit)))
        return out[0] if single else out
