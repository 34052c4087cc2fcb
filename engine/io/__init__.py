"""Files -> objects: `read(path)` for a person, `scan(path)` for ingest. Formats are found from what the files contain."""

from __future__ import annotations

import hashlib
import os
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path

from engine.io import sniff
from engine.io.errors import ReadError, ReadWarning
from engine.objects import SkyObject

__all__ = ["ReadError", "ReadWarning", "Source", "read", "scan"]

# What lies in folders for people and programs to read, not for us.
_PROSE = re.compile(r"(read.?me|licen[cs]e|copying|notice|authors|citation|changelog|contributing)\b.*|"
                    r".*\.(md|rst|pdf|py|ipynb)|(md5|sha\d+)sums?(\.txt)?|.*\.(md5|sha\d+)(sums?)?", re.I)


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

    Raises ReadError for a single file that cannot be read, FileNotFoundError if there is none. Among several, what cannot
    be read is passed over with one ReadWarning at the end that counts them; ReadError is raised if nothing could be read.
    """
    single = isinstance(path, str | Path) and not Path(path).is_dir()
    problems: list[ReadError] = []
    count = 0
    for _, reader in _works(path, survey):
        try:
            for found in reader():
                count += 1
                yield found
        except ReadError as problem:
            if single:
                raise
            problems.append(problem)
    if problems and not count:
        more = f" ({len(problems):,} files could not be read, none could; this is the first)" if len(problems) > 1 else ""
        raise ReadError(problems[0].path, problems[0].sentence + more)
    if problems:
        warnings.warn(f"{len(problems):,} files could not be read and were left out, the first: {problems[0].sentence}",
                      ReadWarning, stacklevel=2)


def scan(path: str | Path | Sequence[str | Path], survey: str | None = None, *,
         on_error: Callable[[Path, str], None]) -> Iterator[Source]:
    """The units of work to ingest, each with its digest; what cannot be recognised goes to on_error(path, sentence)."""
    for files, reader in _works(path, survey):
        try:
            if files[0].is_dir():  # a catalogue of many files that is not whole: reading it says what is missing
                next(reader())
            sniff.format_of(files[0])
            digest = hashlib.sha256()
            for file in files:
                with file.open("rb") as opened:
                    digest.update(hashlib.file_digest(opened, "sha256").digest())
        except (ReadError, OSError) as error:
            on_error(files[0], str(error))
            continue
        yield Source(files, digest.hexdigest(), reader)


Work = tuple[tuple[Path, ...], Callable[[], Iterator[SkyObject]]]


def _works(path: str | Path | Sequence[str | Path], survey: str | None) -> Iterator[Work]:
    """(files, how to read them) of each unit of work. Single files that are given are not joined with what lies beside."""
    from engine.io import join

    for given in [path] if isinstance(path, str | Path) else path:
        place = Path(given)
        if not place.exists():
            raise FileNotFoundError(f"there is no file or folder {place}")
        if place.is_file():
            yield _with_beside(place), partial(_read_file, place, survey)
            continue
        files, catalogues = _walk(place)
        for folder in catalogues:
            yield from _catalogue(folder, survey, alone=folder == place)
        yield from join.works(files, survey)


def _with_beside(path: Path) -> tuple[Path, ...]:
    """The file, and the Redrock file that a DESI coadd takes its redshifts from."""
    from engine.io import desi

    beside = desi.redrock_beside(path)
    return (path, beside) if beside else (path,)


def _walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """(files, HATS catalogues) inside a folder; nothing hidden, no prose, nothing of a catalogue's inside."""
    from engine.io import parquet

    files: list[Path] = []
    catalogues: list[Path] = []
    for place, names, here in os.walk(folder):
        if parquet.is_hats(Path(place)):
            catalogues.append(Path(place))
            names.clear()
            continue
        names[:] = sorted(n for n in names if not n.startswith("."))
        files += [Path(place) / n for n in sorted(here) if not n.startswith(".") and not _PROSE.fullmatch(n)]
    return [f for f in files if f.is_file()], catalogues


def _catalogue(folder: Path, survey: str | None, alone: bool) -> Iterator[Work]:
    """The partitions of a HATS catalogue. Margins and indexes that lie beside catalogues repeat their rows: nothing of them."""
    from engine.io import parquet

    try:
        partitions = parquet.hats_files(folder)
    except ReadError as problem:
        if alone or not parquet.repeats_rows(folder):
            yield (folder,), partial(_raise, problem)
        return
    yield from (((p,), partial(_read_file, p, survey)) for p in partitions)


def _raise(problem: ReadError) -> Iterator[SkyObject]:
    raise problem
    yield  # a reader is a generator


def _read_file(path: Path, survey: str | None) -> Iterator[SkyObject]:
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}")
    kind = sniff.format_of(path)
    if kind == "fits":
        yield from _read_fits(path, survey)
    else:
        yield from import_module(f"engine.io.{kind}").read_file(path, survey)


def _read_fits(path: Path, survey: str | None) -> Iterator[SkyObject]:
    from engine.io import desi, fits_files, fits_images, fits_spectra, fits_tables, parts

    with fits_files.open_fits(path) as hdus:
        if desi.is_desi(hdus):
            yield from desi.objects_of(path, hdus, survey)
        elif fits_spectra.kind_of(hdus):
            yield from fits_spectra.objects_of(path, hdus, survey)
        elif fits_images.image_hdus(hdus) and not fits_tables.is_time_series(hdus):
            yield fits_images.object_of(parts.stem(path), fits_images.planes_of(path, hdus, survey), path)
        else:
            yield from fits_tables.objects_of(path, hdus, survey)
