"""Files -> objects: `read(path)` for a person, `scan(path)` for ingest. Formats are found from what the files contain."""

from __future__ import annotations

from engine.io.errors import ReadError

__all__ = ["ReadError"]
