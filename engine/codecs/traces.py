"""Spectra of objects as the spectrum codec takes them, and decoded ones as Spectrum objects: units, masks, wavelengths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.codecs.border import batched, warn

if TYPE_CHECKING:
    from engine.codecs.spectrum import SpectrumCodec
    from engine.objects import SkyObject, Spectrum

Array = NDArray[Any]


def encode(codec: SpectrumCodec, objects: SkyObject | Sequence[SkyObject], survey: str | None, use_mask: bool) -> Tensor:
    """See `SpectrumCodec.encode`. Spectra on the same wavelengths go through the network together."""
    some, single = batched(objects)
    found = [spectrum_of(o, survey) for o in some]
    groups: dict[tuple[int, float, float], list[list[int]]] = {}
    for row, spectrum in enumerate(found):  # equal ends do not make equal grids
        grid = spectrum.wavelength
        alike = groups.setdefault((len(grid), float(grid[0]), float(grid[-1])), [])
        same = next((rows for rows in alike if np.array_equal(found[rows[0]].wavelength, grid)), None)
        alike.append([row]) if same is None else same.append(row)
    tokens = torch.zeros(len(some), codec.config.tokens, dtype=torch.int16, device=codec.device)
    estimated = []
    for rows in (rows for alike in groups.values() for rows in alike):
        parts = [arrays(found[row], some[row].id) for row in rows]
        estimated += [some[row].id for row in rows if found[row].ivar is None]
        flux, ivar, mask = (torch.from_numpy(np.stack(p)) for p in zip(*parts, strict=True))
        tokens[rows] = codec.tokenize(flux, ivar, mask, torch.tensor(found[rows[0]].wavelength), use_mask).short()
    warn("no inverse variance; it was estimated from the scatter of neighbouring pixels", estimated)
    return tokens[0] if single else tokens


def spectrum_of(obj: SkyObject, survey: str | None) -> Spectrum:
    """The spectrum to encode. Raises KeyError if the object has none (of that survey)."""
    able = [s for s in obj.spectra if survey in (None, s.survey)]
    if not able:
        raise KeyError(f"object {obj.id} has no spectrum{f' of {survey}' if survey else ''}; it has "
                       f"{', '.join(str(s.survey) for s in obj.spectra) or 'none'}")
    return min(able, key=lambda s: (not s.calibrated, s.survey != "desi", s.survey != "sdss"))


def arrays(spectrum: Spectrum, name: str) -> tuple[Array, Array, Array]:
    """Flux and ivar (n,) in 1e-17 erg/s/cm2/A, float32, and mask. Raises ValueError as `SpectrumCodec.encode` says."""
    from engine import adapt_inputs
    from engine.objects import unit_of

    factor = adapt_inputs.spectrum_factor(spectrum)
    if factor is None:
        raise ValueError(f"the spectrum of object {name} ({spectrum.survey}) is {unit_of(spectrum)}: "
                         "it must be a flux density, as 1e-17 erg / (s cm2 Angstrom)")
    flux = np.asarray(spectrum.flux, np.float64)
    bad = ~np.isfinite(flux) if spectrum.mask is None else ~np.isfinite(flux) | spectrum.mask
    if bad.all():
        raise ValueError(f"the spectrum of object {name} has no good pixel")
    if spectrum.ivar is None:
        ivar = adapt_inputs.estimated_ivar(flux[None, None], bad[None, None])[0, 0].astype(np.float64)
    else:
        ivar = np.nan_to_num(np.asarray(spectrum.ivar, np.float64), nan=0.0, posinf=0.0, neginf=0.0)
    flux = np.where(np.isfinite(flux), flux, 0.0)
    return (flux * factor).astype(np.float32), (ivar / factor**2).astype(np.float32), bad


def spectra(flux: Tensor, mask: Tensor, wavelength: Any) -> list[Spectrum]:
    """Decoded flux and mask (B, n) as Spectrum objects at wavelength (n,) or (B, n)."""
    from engine.io.surveys import SPECTRUM_UNIT
    from engine.objects import Spectrum

    grid = np.broadcast_to(np.asarray(torch.as_tensor(wavelength).cpu(), np.float64), tuple(flux.shape))
    return [Spectrum(w, f, None, m, unit=SPECTRUM_UNIT, history=("decoded from tokens; the codec keeps no inverse variance",))
            for w, f, m in zip(grid, flux.cpu().numpy(), mask.cpu().numpy(), strict=True)]
