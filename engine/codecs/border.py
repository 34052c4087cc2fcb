"""Where objects with units meet arrays without: what all codecs share at that border. astropy is imported on first use."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from engine.modalities import MODALITIES, Modality

if TYPE_CHECKING:
    from engine.objects import SkyObject

Values = Tensor | ArrayLike


class CodecWarning(UserWarning):
    """Something was done to make an object fit: padding, resampling, a noise estimated. The text names the objects."""


def warn(message: str, ids: Sequence[str] | None = None) -> None:
    """A CodecWarning, about some objects of which the first three are named; none for an empty list of objects."""
    if ids is not None:
        names = ", ".join(ids[:3]) + (f" and {len(ids) - 3} more" if len(ids) > 3 else "")
        message = f"{names}: {message}"
    if ids is None or ids:
        warnings.warn(message, CodecWarning, stacklevel=3)


@contextmanager
def unsaid() -> Iterator[None]:
    """Without `CodecWarning`s: of simulated objects, which lack a band now and then as real ones do, no one need be told."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CodecWarning)
        yield


def row_of(folder: str) -> Modality:
    """The first modality whose codec lies in this folder. Raises KeyError if there is none."""
    for modality in MODALITIES.values():
        if modality.folder == folder:
            return modality
    known = sorted({m.folder for m in MODALITIES.values()})
    raise KeyError(f"no modality has a codec named {folder!r}; there are {', '.join(known)}")


def batched(objects: SkyObject | Sequence[SkyObject]) -> tuple[list[SkyObject], bool]:
    """The objects as a list, and whether there was one alone. Raises ValueError for none, TypeError for anything else."""
    from engine.objects import SkyObject

    if isinstance(objects, SkyObject):
        return [objects], True
    some = list(objects)
    if not some:
        raise ValueError("there are no objects to encode")
    for o in some:
        if not isinstance(o, SkyObject):
            raise TypeError(f"a codec encodes SkyObjects, got {type(o).__name__}")
    return some, False


def measured(values: Values, device: torch.device) -> Tensor:
    """Measurements as a tensor. Arrays of files may be read-only or of the other byte order, which torch does not take."""
    if isinstance(values, np.ndarray) and (not values.flags.writeable or not values.dtype.isnative):
        values = np.array(values, values.dtype.newbyteorder("="))
    return torch.as_tensor(values, device=device)


def token_rows(tokens: Values, length: int, device: torch.device) -> Tensor:
    """Tokens (B, length) as a tensor. Raises ValueError for another shape."""
    ids = torch.as_tensor(tokens, device=device)
    if ids.ndim != 2 or ids.shape[1] != length:
        raise ValueError(f"tokens must be (B, {length}), got the shape {tuple(ids.shape)}")
    return ids


def token_batch(tokens: Values, length: int, device: torch.device) -> tuple[Tensor, bool]:
    """Tokens as (B, length), and whether they came without B. Raises ValueError for another shape."""
    ids = torch.as_tensor(tokens, device=device)
    if ids.ndim not in (1, 2) or ids.shape[-1] != length:
        raise ValueError(f"expected (B, {length}) tokens, or ({length},) of one object, got the shape {tuple(ids.shape)}")
    return (ids[None], True) if ids.ndim == 1 else (ids, False)


def read_unit(unit: str | None) -> Any:
    """A modality's unit as astropy's; None stays None."""
    import astropy.units as u

    return None if unit is None else u.Unit(unit)


def in_unit(value: Any, unit: Any, wanted: str | None, what: str) -> Any:
    """A value in the unit wanted; without a unit it is taken to be in it. Raises ValueError if it cannot be converted.

    Jy, maggies and AB magnitudes turn into one another; of a flux that is not positive there is no magnitude (NaN, inf).
    """
    import astropy.units as u

    target = read_unit(wanted)
    if unit is None or unit == target:
        return np.asarray(value)
    from engine.io.surveys import MAGGIES

    plain = u.dimensionless_unscaled if target is None else target
    if unit == u.mag and plain.is_equivalent(u.ABmag, MAGGIES):  # surveys mean AB when they write mag
        unit = u.ABmag
    try:
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((np.asarray(value) * unit).to_value(plain, MAGGIES))
    except (u.UnitConversionError, u.UnitTypeError, TypeError) as error:
        raise ValueError(f"{what} is in {unit}, which is not {'a plain number' if target is None else f'a unit of {target}'}"
                         ) from error
