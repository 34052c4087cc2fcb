"""Files -> objects: `read(path)` for a person, `scan(path)` for ingest. Formats are found from what the files contain."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

from engine.io import sniff
from engine.io.errors import ReadError
from engine.objects import SkyObject

__all__ = ["ReadError", "Source", "read", "scan"]


@dataclass(frozen=True)
class Source:
    """One unit of work: the files of one object, or one file of many. digest: SHA-256 over all their contents."""

    files: tuple[Path, ...]
    digest: str
    read: Callable[[], Iterator[SkyObject]]

    @property
    def path(self) -> Path:
        """The file that the unit is named after."""
        return self.files[0]


def read(path: str | Path | Sequence[str | Path], survey: str | None = None) -> Iterator[SkyObject]:
    """The objects in a file, a folder (searched recursively) or a list of them; a folder's files are joined by object.

    Raises ReadError for a single file that cannot be read, FileNotFoundError if there is none.
    """
    for _, reader in _works(path, survey):
        yield from reader()


def scan(path: str | Path | Sequence[str | Path], survey: str | None = None, *,
         on_error: Callable[[Path, str], None]) -> Iterator[Source]:
    """The units of work to ingest, each with its digest; what cannot be recognised goes to on_error(path, sentence)."""
    for files, reader in _works(path, survey):
        try:
            sniff.format_of(files[0])
            digest = hashlib.sha256()
            for file in files:
                with file.open("rb") as opened:
                    digest.update(hashlib.file_digest(opened, "sha256").digest())
        except (ReadError, OSError) as error:
            on_error(files[0], str(error))
            continue
        yield Source(files, digest.hexdigest(), reader)


def _works(path: str | Path | Sequence[str | Path], survey: str | None
           ) -> Iterator[tuple[tuple[Path, ...], Callable[[], Iterator[SkyObject]]]]:
    """(files, how to read them) of each unit of work. Single files that are given are not joined with what lies beside."""
    from engine.io import join, parquet

    for given in [path] if isinstance(path, str | Path) else path:
        place = Path(given)
        found = list(_files(place))
        if place.is_dir() and not parquet.is_hats(place):
            yield from join.works(found, survey)
        else:
            yield from ((_with_beside(p), partial(_read_file, p, survey)) for p in found)


def _with_beside(path: Path) -> tuple[Path, ...]:
    """The file, and the Redrock file that a DESI coadd takes its redshifts from."""
    from engine.io import desi

    beside = desi.redrock_beside(path)
    return (path, beside) if beside else (path,)


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
            visible = (p for p in inside if not any(q.startswith(".") for q in p.relative_to(place).parts))
            yield from sorted(p for p in visible if p.is_file())


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
