"""Which reader a file needs, found from its first bytes (through gzip, bzip2 and xz), never from its name alone."""

from __future__ import annotations

import bz2
import gzip
import lzma
import zlib
from pathlib import Path
from typing import Any

from engine.io.errors import ReadError

_PACKED: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
_MAGIC = {b"SIMPLE  =": "fits", b"\x89HDF\r\n\x1a\n": "hdf5", b"PAR1": "parquet", b"\x93NUMPY": "arrays",
          b"PK\x03\x04": "arrays", b"\xff\xd8\xff": "pictures", b"\x89PNG": "pictures"}


def format_of(path: Path) -> str:
    """Name of the module that reads this file. Raises ReadError if it is empty or cannot be unpacked."""
    try:
        with path.open("rb") as file:
            head = file.read(16)
        opener = next((o for magic, o in _PACKED.items() if head.startswith(magic)), None)
        if opener is not None:
            with opener(path, "rb") as file:
                head = file.read(16)
    except (OSError, EOFError, zlib.error, lzma.LZMAError) as error:
        raise ReadError(path, f"{path.name} cannot be opened ({error}); copy it again") from error
    if not head:
        raise ReadError(path, f"{path.name} is empty; copy it again")
    found = next((reader for magic, reader in _MAGIC.items() if head.startswith(magic)), None)
    if found is None and path.suffix.lower() in (".fits", ".fit", ".fz"):
        raise ReadError(path, f"{path.name} is not FITS, whatever its name says (it does not begin with SIMPLE); download it "
                              "again")
    return found or "tables"
