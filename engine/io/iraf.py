"""Wavelengths of IRAF's multispec format: a dispersion function a row, in the header's WAT2 lines.

Source: IRAF, noao.onedspec, "specwcs" help page (Valdes 1993). Linear, log-linear, Chebyshev and Legendre functions are read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from astropy.io import fits
from numpy.polynomial import chebyshev, legendre
from numpy.typing import NDArray

from engine.io.errors import ReadError
from engine.io.fits_files import text

_SERIES = {1: chebyshev.chebval, 2: legendre.legval}
_OTHERS = {3: "cubic splines", 4: "linear splines", 5: "pixel arrays", 6: "sampled arrays"}


def is_multispec(header: fits.Header) -> bool:
    return text(header.get("CTYPE1", "")).upper().startswith("MULTISPE") and any(k.startswith("WAT2_") for k in header)


def unit_of(header: fits.Header) -> str:
    """The unit that the first axis states, "" if none."""
    found = re.search(r"\bunits=(\S+)", _lines(header, 1))
    return found[1] if found else ""


def wavelengths(path: Path, header: fits.Header, count: int) -> list[NDArray[np.float64] | None]:
    """One array of `count` wavelengths a row, in order of the rows, None where IRAF calls a row not calibrated.

    Raises ReadError for a dispersion function that is not read.
    """
    found = re.findall(r'spec(\d+)\s*=\s*"([^"]*)"', _lines(header, 2))
    if not found:
        raise ReadError(path, "is an IRAF multispec file without a dispersion in its header; save it as a table of wavelength "
                              "and flux")
    rows = [_wavelengths(path, said, count) for _, said in sorted(found, key=lambda item: int(item[0]))]
    if all(r is None for r in rows):
        raise ReadError(path, "is an IRAF file whose pixels are not calibrated in wavelength yet; run dispcor on it first")
    return rows


def _lines(header: fits.Header, axis: int) -> str:
    """The text of WAT<axis>_001, WAT<axis>_002, ...: full cards of 68 characters, of which FITS drops the blanks at the end."""
    cards = sorted(k for k in header if re.fullmatch(rf"WAT{axis}_\d{{3}}", k))
    return "".join(str(header[k]).ljust(68) for k in cards)


def _wavelengths(path: Path, said: str, count: int) -> NDArray[np.float64] | None:
    """aperture beam type w1 dw nw z low high [weight offset function parameters ...]..."""
    try:
        words = [float(w) for w in said.split()]
        kind, start, step, used, z = int(words[2]), words[3], words[4], int(words[5]), words[6]
        pixel = np.arange(count, dtype=float)
        if kind == -1:
            return None
        if kind in (0, 1):
            wave = start + step * pixel
            wave = 10.0**wave if kind == 1 else wave
        else:
            wave = _functions(path, words[9:], pixel + 1.0)
    except ReadError:
        raise
    except (IndexError, ValueError) as problem:
        raise ReadError(path, "has an IRAF multispec header that is cut off or damaged; copy the file again") from problem
    wave[used:] = np.nan  # shorter orders are padded
    return wave / (1.0 + z)


def _functions(path: Path, words: Sequence[float], pixel: NDArray[np.float64]) -> NDArray[np.float64]:
    """The weighted sum of the functions of a non-linear dispersion at these pixels, of which the first is 1."""
    total, at = np.zeros_like(pixel), 0
    while at < len(words):
        weight, offset, kind = words[at], words[at + 1], int(words[at + 2])
        if kind not in _SERIES:
            raise ReadError(path, f"has an IRAF dispersion of {_OTHERS.get(kind, f'kind {kind}')}, which is not read (linear, "
                                  "log-linear, Chebyshev and Legendre are); resample it with dispcor")
        order, low, high = int(words[at + 3]), words[at + 4], words[at + 5]
        terms = words[at + 6:at + 6 + order]
        if len(terms) < order or high <= low:
            raise ValueError("terms are missing")
        total += weight * (offset + _SERIES[kind]((2.0 * pixel - low - high) / (high - low), terms))
        at += 6 + order
    return total
