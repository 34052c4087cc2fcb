"""Opening FITS files safely: compressed ones, damaged ones, huge ones; and small helpers for their headers and tables."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from astropy.io import fits
from astropy.io.fits.hdu.compressed import CompImageHDU
from numpy.typing import NDArray

from engine.io.errors import ReadError

MAX_UNPACKED = 1 << 30  # bytes of a .gz, .bz2 or .xz unpacked in memory
MAX_PIXELS = 64_000_000  # in one object; whole mosaics are cut up first
MAX_HDUS = 20_000
MAX_HEADER = 32 << 20  # bytes
BLOCK = 2880  # FITS files are made of blocks of so many bytes
_PACKERS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}


def unpacked(path: Path, limit: int = MAX_UNPACKED) -> bytes | None:
    """The content of a compressed file, or None if it is not compressed. Raises ReadError if damaged or over `limit`."""
    with path.open("rb") as stream:
        magic = stream.read(6)
    opener = next((opener for start, opener in _PACKERS.items() if magic.startswith(start)), None)
    if opener is None:
        return None
    try:
        with opener(path, "rb") as stream:
            content = stream.read(limit + 1)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as problem:
        raise ReadError(path, f"is compressed but damaged or cut off ({problem}); copy it again") from problem
    if len(content) > limit:
        raise ReadError(path, f"unpacks to more than {limit >> 20} MiB; unpack it yourself if you trust it")
    return content


@contextmanager
def quiet() -> Iterator[None]:
    """No warnings of astropy on slightly non-standard headers: real surveys are full of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def open_fits(path: Path) -> Iterator[fits.HDUList]:
    """The HDUs of a FITS file, checked to be as long as its headers say. Raises ReadError for anything that goes wrong.

    What goes wrong inside the block is turned into a ReadError too: astropy raises nearly every exception there is on
    damaged files.
    """
    try:
        content = unpacked(path)
        size = path.stat().st_size if content is None else len(content)
        with path.open("rb") if content is None else io.BytesIO(content) as stream:
            _check_axes(path, stream, 0)
            with quiet():
                hdus = fits.open(path if content is None else io.BytesIO(content), lazy_load_hdus=True)
            with hdus:
                with quiet():
                    _check_lengths(path, hdus, size, stream)
                yield hdus
    except ReadError:
        raise
    except Exception as problem:
        what = " ".join(str(problem).split())[:160] or "no reason given"
        raise ReadError(path, f"cannot be read as FITS ({type(problem).__name__}: {what}); it is damaged or not what its "
                              "header says: copy it again") from problem


def _check_axes(path: Path, stream: BinaryIO, start: int) -> None:
    """Refuse numbers of axes or columns that FITS does not allow, over which astropy counts for hours. Raises ReadError."""
    stream.seek(start)
    for _ in range(MAX_HEADER // BLOCK):
        block = stream.read(BLOCK)
        for at in range(0, len(block), 80):
            card = block[at:at + 80]
            if card[:8].rstrip() in (b"NAXIS", b"TFIELDS") and card[8:9] == b"=":
                value = number(card[9:].split(b"/")[0].decode("ascii", "replace").strip())
                if value is not None and not 0 <= value <= 999:
                    raise ReadError(path, f"says {card[:8].decode().strip()} = {value:.15g}, where FITS allows 0 to 999; it is "
                                          "damaged, copy it again")
            if card[:8] == b"END     ":
                return
        if len(block) < BLOCK:
            return


def _check_lengths(path: Path, hdus: fits.HDUList, size: int, stream: BinaryIO) -> None:
    """Every HDU must lie inside the file. Raises ReadError."""
    if size == 0:
        raise ReadError(path, "is empty (0 bytes); copy it again")
    count = 0
    while True:
        try:
            hdu = hdus[count]
        except IndexError:
            break
        info = hdu.fileinfo() or {}
        start = info.get("datLoc") or 0
        declared = _declared(hdu, info)
        if declared < 0 or start + declared > size:
            raise ReadError(path, f"is cut off: HDU {count} should end at byte {start + declared:,} but the file has "
                                  f"{size:,}; copy it again")
        _check_axes(path, stream, start + int(info.get("datSpan") or 0))
        count += 1
        if count > MAX_HDUS:
            raise ReadError(path, f"has more than {MAX_HDUS:,} HDUs; split it")
    if count == 0:
        raise ReadError(path, "holds no FITS header; copy it again")


def _declared(hdu: Any, info: dict[str, Any]) -> int:
    """Bytes of data an HDU says it has, without padding: some writers leave the last block short."""
    if isinstance(hdu, CompImageHDU):  # its size is that of the image once unpacked
        return max(0, int(info.get("datSpan") or 0) - BLOCK + 1)
    return int(hdu.size)


def is_table(hdu: Any) -> bool:
    return isinstance(hdu, (fits.BinTableHDU, fits.TableHDU)) and not isinstance(hdu, CompImageHDU)


def shape_of(hdu: Any) -> tuple[int, ...]:
    """Shape of an image HDU in NumPy's order from its header alone; () if it has no data or is a table."""
    if is_table(hdu):
        return ()
    header = hdu.header
    axes = [header.get(f"NAXIS{i}", 0) for i in range(1, int(header.get("NAXIS", 0) or 0) + 1)]
    if not axes or not all(isinstance(n, int) and n > 0 for n in axes):
        return ()
    return tuple(reversed(axes))


def pixels_of(path: Path, hdu: Any) -> NDArray[Any]:
    """The data of an image HDU in native byte order, scaled. Raises ReadError if there are too many pixels."""
    count = int(np.prod(shape_of(hdu), dtype=float))
    if count > MAX_PIXELS:
        shape = " x ".join(f"{n:,}" for n in shape_of(hdu))
        raise ReadError(path, f"holds an image of {shape} pixels, more than the {MAX_PIXELS:,} an object may have; "
                              "cut out the objects first")
    with quiet():
        data = np.array(hdu.data)
    return data if data.dtype.isnative else data.astype(data.dtype.newbyteorder("="))


def native(array: Any) -> NDArray[Any]:
    """A copy in native byte order, free of the file it came from."""
    out = np.array(array)
    return out if out.dtype.isnative else out.astype(out.dtype.newbyteorder("="))


def name_of(hdu: Any) -> str:
    """EXTNAME (or HDUNAME) in upper case, "" if there is none."""
    return str(hdu.header.get("EXTNAME", hdu.header.get("HDUNAME", "")) or "").strip().upper()


def columns_of(hdu: Any) -> dict[str, str]:
    """Lower-case column name -> name in the file, of a table HDU."""
    return {str(name).strip().lower(): str(name) for name in (hdu.columns.names or [])} if is_table(hdu) else {}


def rows_of(hdu: Any) -> int:
    """Rows a table says it has. A header that does not say a number says none."""
    value = hdu.header.get("NAXIS2", 0)
    return value if isinstance(value, int) else 0


def number(value: Any) -> float | None:
    """A header's value as a finite number, or None."""
    if isinstance(value, bool) or value is None:
        return None
    try:
        out = float(value)
    except (TypeError, ValueError):
        return None
    return out if np.isfinite(out) else None


def text(value: Any) -> str:
    """A header's or cell's value as stripped text."""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    return str(value).strip()
