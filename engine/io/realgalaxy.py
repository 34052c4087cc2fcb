"""Stamps cut for a catalogue, as GalSim keeps them (RealGalaxy): each row names the HDU of its stamp and of its PSF.

Layout: GalSim documentation, "RealGalaxyCatalog" and "COSMOSCatalog" (Rowe et al. 2015, A&C 10, 121): GAL_FILENAME, GAL_HDU,
PSF_FILENAME, PSF_HDU, BAND, PIXEL_SCALE, NOISE_VARIANCE; further columns in NAME_fits.fits and NAME_selection.fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.io import parts
from engine.io.errors import ReadError
from engine.io.fits_files import columns_of, is_table, number, open_fits, pixels_of, rows_of, shape_of, text
from engine.io.surveys import SURVEYS
from engine.objects import Image, SkyObject

_NEEDED = {"ident", "gal_filename", "gal_hdu"}
_POINTERS = ("gal_filename", "gal_hdu", "psf_filename", "psf_hdu", "noise_filename")  # of no use once they are followed


@dataclass(frozen=True)
class Stamps:
    """A catalogue of stamps. named: the files its rows name and that are there; beside: its tables of further columns."""

    catalogue: Path
    named: tuple[Path, ...]
    beside: tuple[Path, ...]

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.catalogue, *self.named, *self.beside)


def find(tables: Sequence[Path]) -> list[Stamps]:
    """The catalogues of stamps among these tables."""
    found = []
    for path in tables:
        try:
            named = _named(path)
        except (ReadError, OSError):
            continue  # said when the file itself is read
        if named is None:
            continue
        stem = parts.stem(path)
        beside = tuple(t for t in tables if t.parent == path.parent and t.name.startswith((f"{stem}_fits.fits",
                                                                                            f"{stem}_selection.fits")))
        found.append(Stamps(path, named, beside))
    return found


def _named(path: Path) -> tuple[Path, ...] | None:
    """The files that exist of those that a table's rows name, or None if it is no catalogue of stamps."""
    if ".fit" not in path.name.lower():
        return None
    with open_fits(path) as hdus:
        table = next((h for h in hdus if is_table(h) and rows_of(h) and set(columns_of(h)) >= _NEEDED), None)
        if table is None:
            return None
        names = columns_of(table)
        words = {text(v) for c in ("gal_filename", "psf_filename", "noise_filename") if c in names
                 for v in np.unique(table.data[names[c]])}
    inside = (path.parent / w for w in sorted(words) if w and Path(w).name == w)  # never a file outside of the folder
    return tuple(p for p in inside if p.is_file())


def objects_of(stamps: Stamps, survey: str | None) -> Iterator[SkyObject]:
    """One object a row: its stamp with PSF where their files are there, and all columns. Raises ReadError."""
    from engine.io import _read_file
    from engine.io.folders import merge

    further = [{o.id: o for o in _read_file(p, survey)} for p in stamps.beside]
    named = {p.name: p for p in stamps.named}
    with ExitStack() as stack:
        opened: dict[str, Any] = {}

        def pixels(name: str, hdu: int) -> NDArray[Any] | None:
            if name not in named:
                return None
            if name not in opened:
                opened[name] = stack.enter_context(open_fits(named[name]))
            if not 0 <= hdu < len(opened[name]) or len(shape_of(opened[name][hdu])) != 2:
                raise ReadError(named[name],
                                f"has no image in HDU {hdu}, though {stamps.catalogue.name} names it; copy both again")
            return pixels_of(named[name], opened[name][hdu])

        for row in _read_file(stamps.catalogue, survey):
            image, note = _image(row, pixels, survey)
            rest = [t[row.id] for t in further if row.id in t]
            joined = ", ".join(p.name for p, t in zip(stamps.beside, further, strict=True) if row.id in t)
            whole = merge([row, *rest], row.id, note + (f"; joined by IDENT {row.id}: {joined}" if joined else ""))
            yield replace(whole, images=() if image is None else (image,),
                          scalars={n: s for n, s in whole.scalars.items() if n not in _POINTERS})


def _image(row: SkyObject, pixels: Any, asked: str | None) -> tuple[Image | None, str]:
    """(the stamp of a row or None, what to say of it)."""
    value = {n: s.value for n, s in row.scalars.items()}
    name, hdu = str(value.get("gal_filename", "")), int(value.get("gal_hdu", -1))
    stamp = pixels(name, hdu)
    if stamp is None:
        return None, f"no stamp: the catalogue names {name or 'no file'}, which is not beside it"
    band = str(value.get("band", "unknown"))
    key = asked or next((k for k in ("hst-acs", "hst-wfc3", "jwst-nircam") if band in SURVEYS[k].bands), None)
    known = SURVEYS.get(key or "")
    notes = [f"{name} HDU {hdu}"]
    psf_name = str(value.get("psf_filename", ""))
    psf = pixels(psf_name, int(value.get("psf_hdu", -1))) if psf_name else None
    notes.append(f"PSF from {psf_name} HDU {value['psf_hdu']}"
                 if psf is not None else f"no PSF: {psf_name or 'its file'} is not here")
    good = np.isfinite(stamp)
    variance = number(value.get("noise_variance"))
    ivar = None
    if variance is not None and variance > 0:
        ivar = np.where(good, 1.0 / variance, 0.0).astype(np.float32)[None]
        notes.append("ivar is 1/NOISE_VARIANCE everywhere; the noise of these stamps is correlated")
    unit = None if known is None else known.unit
    notes.append(f"unit assumed: {unit} as in {known.title}" if known is not None and unit is not None else "unit unknown")
    zero = None if known is None or band not in known.bands else known.bands[band].zero_point
    image = Image(stamp.astype(np.float32)[None], (band,), key, None, unit, ivar, ~good[None],
                  None if psf is None else psf.astype(np.float32)[None], zero is not None,
                  pixel_scale=number(value.get("pixel_scale")), history=tuple(notes))
    return image, f"stamp of HDU {hdu} of {name}"
