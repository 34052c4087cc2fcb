"""Files -> objects: `read(path)` for a person, `scan(path)` for ingest. Formats are found from what the files contain."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from engine.io import sniff
from engine.io.errors import ReadError
from engine.objects import SkyObject

__all__ = ["ReadError", "Source", "read", "scan"]


@dataclass(frozen=True)
class Source:
    """One file to read. digest: SHA-256 of its content, so that the same file twice is known again."""

    path: Path
    digest: str
    survey: str | None = None

    def read(self) -> Iterator[SkyObject]:
        return _read_file(self.path, self.survey)


def read(path: str | Path | Sequence[str | Path], survey: str | None = None) -> Iterator[SkyObject]:
    """The objects in a file, a folder (searched recursively) or a list of them.

    Raises ReadError for a single file that cannot be read, FileNotFoundError if there is none.
    """
    for file in _files(path):
        yield from _read_file(file, survey)


def scan(path: str | Path | Sequence[str | Path], survey: str | None = None, *,
         on_error: Callable[[Path, str], None]) -> Iterator[Source]:
    """The files to ingest, each with its digest; what cannot be recognised goes to on_error(path, sentence)."""
    for file in _files(path):
        try:
            sniff.format_of(file)
            with file.open("rb") as opened:
                digest = hashlib.file_digest(opened, "sha256").hexdigest()
        except (ReadError, OSError) as error:
            on_error(file, str(error))
            continue
        yield Source(file, digest, survey)


def _files(path: str | Path | Sequence[str | Path]) -> Iterator[Path]:
    from engine.io import parquet

    for given in [path] if isinstance(path, str | Path) else path:
        place = Path(given)
        if not place.exists():
            raise FileNotFoundError(f"there is no file or folder {place}")
        if place.is_file():
            yield place
        elif parquet.is_hats(place):
            yield from parquet.hats_files(place)
        else:
            inside = place.rglob("*")
            yield from sorted(p for p in inside if p.is_file() and not any(q.startswith(".") for q in p.relative_to(place).parts))


def _read_file(path: Path, survey: str | None) -> Iterator[SkyObject]:
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    kind = sniff.format_of(path)
    if kind == "fits":
        yield from _read_fits(path, survey)
    else:
        yield from import_module(f"engine.io.{kind}").read_file(path, survey)


def _read_fits(path: Path, survey: str | None) -> Iterator[SkyObject]:
    from engine.io import desi, fits_files, fits_images, fits_spectra, fits_tables

    with fits_files.open_fits(path) as hdus:
        if desi.is_desi(hdus):
            yield from desi.objects_of(path, hdus, survey)
        elif fits_spectra.kind_of(hdus):
            yield from fits_spectra.objects_of(path, hdus, survey)
        elif fits_images.image_hdus(hdus):
            yield fits_images.object_of(path.name.split(".fits")[0], fits_images.planes_of(path, hdus, survey), path)
        else:
            yield from fits_tables.objects_of(path, hdus, survey)
