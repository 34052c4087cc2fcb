"""NumPy files: scenes (.npz with images, variance, mask, psfs, catalog) and single-band images (.npy with files beside).

Nothing is ever unpickled. What a file unpacks to is known from its headers before any of it is read.
"""

from __future__ import annotations

import ast
import re
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.io import fits

from engine.io.errors import ReadError
from engine.io.fits_files import text
from engine.io.fits_headers import calibration
from engine.io.nested import survey_of
from engine.io.surveys import SURVEYS, match_band
from engine.io.units import clean_unit
from engine.objects import Catalog, Image, SkyObject

MAX_BYTES = 4 << 30
DAMAGE = (
    ValueError,
    EOFError,
    SyntaxError,
    tokenize.TokenError,
    zlib.error,
    zipfile.BadZipFile,
    OSError,
    TypeError,
    OverflowError,
    RecursionError,
    NotImplementedError,
    RuntimeError,
    KeyError,
)  # what NumPy and zipfile raise on damaged files
IMAGES = ("images", "image", "im", "data", "pixels", "flux", "cutout", "arr_0")
VARIANCES = ("variance", "var", "variances")
IVARS = ("ivar", "invvar", "weight", "weights")
SIGMAS = ("sigma", "sig", "noise", "rms", "error", "err")
MASKS = ("mask", "masks")
PSFS = ("psfs", "psf")
BANDS = ("filters", "bands", "band", "filter")
UNITS = ("unit", "units", "bunit")
SOURCES = ("catalog", "catalogue", "peaks", "sources")
ROLES = {"im": IMAGES, "mask": MASKS, "psf": PSFS, "sig": SIGMAS, "var": VARIANCES, "ivar": IVARS}


def read_file(path: Path, survey: str | None = None) -> Iterator[SkyObject]:
    """The one object of an .npz scene or .npy image. Raises ReadError for pickles, bombs, damage and foreign shapes."""
    path = Path(path)
    with path.open("rb") as stream:
        magic = stream.read(6)
    if magic[:2] == b"PK":
        yield _scene(path, load_npz(path), survey)
    elif magic == b"\x93NUMPY":
        yield _single(path, survey)
    elif not magic:
        raise ReadError(path, "is empty; copy or download it again")
    elif magic[:1] == b"\x80":
        raise ReadError(
            path, "is a Python pickle, which is never opened because it can run code; save the arrays with numpy.savez"
        )
    else:
        raise ReadError(path, "is not a NumPy file; save the arrays with numpy.save or numpy.savez")


# -- loading without trust ------------------------------------------------------------------------------------------

def _header(stream: Any, path: Path) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Shape and type of the array that a stream holds, from its header alone. Raises ReadError if it is a pickle or too big."""
    try:
        version = np.lib.format.read_magic(stream)
        size = int.from_bytes(stream.read(2 if version == (1, 0) else 4), "little")
        if size > 1 << 20:
            raise ValueError(f"{size:,} bytes")
        header = ast.literal_eval(stream.read(size).decode("utf-8" if version[0] > 2 else "latin-1"))
        shape = tuple(int(n) for n in header["shape"])
        dtype = np.lib.format.descr_to_dtype(header["descr"])
    except DAMAGE as problem:
        raise ReadError(path, f"has a damaged header ({' '.join(str(problem).split())[:100]}); copy it again") from problem
    if dtype.hasobject:
        raise ReadError(
            path, "holds pickled Python objects, which are never opened because they can run code; save plain arrays"
        )
    if np.prod([float(n) for n in shape]) * dtype.itemsize > MAX_BYTES or any(n < 0 for n in shape):
        raise ReadError(
            path, f"holds an array of shape {shape}, more than {MAX_BYTES >> 30} GiB; it is damaged or made to harm"
        )
    return shape, dtype


def load_npy(path: Path) -> np.ndarray:
    """The array of an .npy file. Raises ReadError."""
    with path.open("rb") as stream:
        shape, dtype = _header(stream, path)
        need = int(np.prod(shape, dtype=float)) * dtype.itemsize
        if path.stat().st_size - stream.tell() < need:
            raise ReadError(
                path, f"is cut off: it promises {need:,} bytes and has {path.stat().st_size - stream.tell():,}; copy it again"
            )
    try:
        return np.load(path, allow_pickle=False)
    except DAMAGE as problem:
        raise ReadError(path, f"is damaged ({' '.join(str(problem).split())[:100]}); copy it again") from problem


def load_npz(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, sizes checked before anything is unpacked. Raises ReadError."""
    try:
        with zipfile.ZipFile(path) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            if not members:
                raise ReadError(path, "is a zip archive without NumPy arrays; unpack it and read its files")
            total = sum(m.file_size for m in members)
            if total > MAX_BYTES or len(members) > 10_000:
                raise ReadError(
                    path, f"would unpack to {total >> 20:,} MiB in {len(members):,} arrays; it is damaged or made to harm"
                )
            out = {}
            for member in members:
                with archive.open(member) as stream:
                    shape, dtype = _header(stream, path)
                if int(np.prod(shape, dtype=float)) * dtype.itemsize > member.file_size:
                    raise ReadError(path, f"promises more in {member.filename} than it holds; it is cut off, copy it again")
                with archive.open(member) as stream:
                    out[member.filename.removesuffix(".npy")] = np.lib.format.read_array(stream, allow_pickle=False)
            return out
    except ReadError:
        raise
    except DAMAGE as problem:
        raise ReadError(path, f"is damaged or cut off ({' '.join(str(problem).split())[:100]}); copy it again") from problem


# -- arrays to objects ----------------------------------------------------------------------------------------------

def _pick(arrays: dict[str, np.ndarray], names: tuple[str, ...]) -> np.ndarray | None:
    lower = {k.lower(): v for k, v in arrays.items()}
    return next((lower[n] for n in names if n in lower), None)


def _scene(path: Path, arrays: dict[str, np.ndarray], survey: str | None) -> SkyObject:
    pixels = _pick(arrays, IMAGES)
    if pixels is None or pixels.ndim not in (2, 3) or pixels.dtype.kind not in "fiu" or not pixels.size:
        raise ReadError(path, f"holds {', '.join(sorted(arrays)[:8])} but no array named images of shape (bands, ny, nx)")
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    found = _pick(arrays, BANDS)
    names = [str(b) for b in np.ravel(found).tolist()] if found is not None and found.dtype.kind in "US" else []
    image = _image(path, pixels, names, arrays, survey)
    table = _pick(arrays, SOURCES)
    catalog = None if table is None else _catalog(path, table)
    return SkyObject(
        path.stem, images=(image,), catalog=catalog, history=(f"{path.name}: scene with {', '.join(sorted(arrays))}",)
    )


def _single(path: Path, survey: str | None) -> SkyObject:
    """One .npy image with the files beside it that share its name: gal1_im.npy, gal1_mask.npy, gal1_psf.npy, gal1_sig.npy."""
    role, base = role_of(path)
    if role not in ("", "im"):
        owner = path.with_name(f"{base}_im.npy")
        raise ReadError(path, f"is the {role} of an image, not an image" + (f"; read {owner.name}" if owner.exists() else ""))
    pixels = load_npy(path)
    if pixels.ndim not in (2, 3) or pixels.dtype.kind not in "fiu" or 0 in pixels.shape or min(pixels.shape[-2:]) < 2:
        raise ReadError(
            path, f"holds an array of shape {pixels.shape} and type {pixels.dtype}, not an image (ny, nx) or (bands, ny, nx)"
        )
    beside = {r: load_npy(p) for r, p in companions(path).items() if p != path} if role else {}
    pixels = pixels[None] if pixels.ndim == 2 else pixels
    return SkyObject(base, images=(_image(path, pixels, [], beside, survey),),
                     history=(path.name, *(f"{r} from {p.name}" for r, p in companions(path).items() if p != path and role)))


def role_of(path: Path) -> tuple[str, str]:
    """("im", "mask", "psf", "sig", "var", "ivar" or "", the object's name) of a file such as gal1_psf.npy."""
    found = re.fullmatch(r"(.+)[_\-.]([A-Za-z]+)", path.stem)
    role = next((r for r, names in ROLES.items() if found and found[2].lower() in names), "")
    return (role, found[1]) if found and role else ("", path.stem)


def companions(path: Path) -> dict[str, Path]:
    """The files of the same object beside an .npy image, its own among them: role -> path."""
    base = role_of(path)[1]
    beside = sorted(p for p in path.parent.iterdir() if p.suffix == ".npy" and p.name.startswith(base))
    return {role_of(p)[0]: p for p in beside if role_of(p)[1] == base and role_of(p)[0]}


def _image(path: Path, pixels: np.ndarray, names: list[str], arrays: dict[str, np.ndarray], survey: str | None) -> Image:
    key = survey_of([], names, path, survey) or next((k for k in ("hsc", "legacy") if path.stem.lower().startswith(k)), None)
    row = SURVEYS.get(key or "")
    bands = names if len(names) == len(pixels) else [str(i + 1) for i in range(len(pixels))] if len(pixels) > 1 else ["1"]
    bands = [(match_band(b, row.bands) if row and names else None) or b for b in bands]
    notes, ivar, mask = [path.name], None, ~np.isfinite(pixels)
    if not names:
        notes.append("bands are not stated")
    for options, power in ((IVARS, None), (VARIANCES, 1), (SIGMAS, 2)):
        found = _pick(arrays, options)
        if found is not None and ivar is None and found.size == pixels.size:
            values = found.astype(float).reshape(pixels.shape)
            with np.errstate(all="ignore"):
                ivar = values if power is None else np.where(np.isfinite(values) & (values > 0), 1 / values**power, 0)
            ivar = np.where(np.isfinite(ivar) & (ivar > 0), ivar, 0).astype(np.float32)
            notes.append("ivar" if power is None else "ivar as 1/variance" if power == 1 else "ivar as 1/sigma^2")
            mask |= ivar == 0
    flags = _pick(arrays, MASKS)
    if flags is not None and flags.size in (pixels.size, pixels[0].size) and flags.dtype.kind in "fiub":
        bad, how = _bad_pixels(flags.reshape(-1, *pixels.shape[1:]), key)
        mask |= bad
        notes.append(how)
    for band, plane, bad in zip(bands, pixels, mask, strict=True):
        finite = plane[np.isfinite(plane)]
        if not finite.size or finite.min() == finite.max():
            bad[:] = True
            notes.append(f"{band}: no data, the whole band is masked")
    psf = _pick(arrays, PSFS)
    psf = None if psf is None or psf.dtype.kind not in "fiu" else psf[None] if psf.ndim == 2 else psf
    psf = psf if psf is not None and psf.ndim == 3 and len(psf) == len(pixels) else None
    unit, calibrated, how = _unit(_pick(arrays, UNITS), key, bands[0])
    return Image(np.where(np.isfinite(pixels), pixels, 0), tuple(bands), key, None, unit, ivar, mask, psf, calibrated,
                 pixel_scale=row.pixel_scale if row else None, history=(*notes, how))


def _unit(said: np.ndarray | None, survey: str | None, band: str) -> tuple[u.UnitBase | None, bool, str]:
    """Unit of the pixels, whether they are calibrated, and how that is known: what the file says (once, or the same for every
    band), else the survey's own."""
    texts = [] if said is None or said.dtype.kind not in "US" else [text(v) for v in np.ravel(said).tolist()]
    told = sorted({t for t in texts if t})
    if len(told) > 1:
        return None, False, f"units of bands differ ({', '.join(told)}), not calibrated"
    if told and (unit := clean_unit(told[0])) is not None:
        found = calibration([fits.Header({"BUNIT": told[0]})], survey, band)
        return found.unit, found.calibrated, f"unit {unit} as the file says"
    row = SURVEYS.get(survey or "")
    unit = row.unit if row else None
    why = f"{told[0]!r} is not understood" if told else "not stated"
    if unit is not None:
        return unit, True, f"unit {unit}, the survey's own (assumed; {why})"
    return None, False, f"unit {why}, not calibrated"


HSC_BAD = 1 << 0 | 1 << 1 | 1 << 8  # BAD, SAT, NO_DATA of the HSC pipeline (Bosch et al. 2018, PASJ 70, S5)


def _bad_pixels(flags: np.ndarray, survey: str | None) -> tuple[np.ndarray, str]:
    """Where a mask marks bad pixels: not zero; of HSC's bits only three, for they name much that is not bad (DETECTED)."""
    if survey == "hsc" and flags.dtype.kind in "iu" and flags.max(initial=0) > 1:
        return (flags & HSC_BAD) != 0, "mask: HSC bits BAD, SAT, NO_DATA"
    return flags != 0, "mask: pixels that are not zero"


def _catalog(path: Path, table: np.ndarray) -> Catalog | None:
    """Sources as columns: a structured array's fields, or x and y of an (n, 2) array (pixels, first pixel at 0)."""
    if table.dtype.names:
        columns = {n: table[n].ravel() for n in table.dtype.names if table[n].dtype.kind in "fiubSU" and table[n].ndim == 1}
    elif table.ndim == 2 and table.shape[1] >= 2 and table.dtype.kind in "fiu":
        columns = {n: table[:, i] for i, n in enumerate(("x", "y"))}
    else:
        return None
    return Catalog(columns, history=(f"{path.name}: positions in pixels of the scene",)) if columns else None
