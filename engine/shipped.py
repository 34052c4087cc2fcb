"""The model that comes with Omnisky: where it lies, and the checksum that tells models apart. Without torch."""

from __future__ import annotations

import hashlib
from pathlib import Path

SHIPPED = Path(__file__).resolve().parents[1] / "assets" / "astroclip-demo"


def checksum(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
