"""Folders -> units of work: bands, side files, pictures and spectra of one object found by their names and by tables' ids.

Three rules, none of them a survey's own. Files whose names differ only in a band or in a role (mask, psf, weight) are one
image. An image and a spectrum are one object if a long number of the name, or an id the spectrum holds, is the same.
A table's row belongs to the object whose id, or whose file, it names.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from engine.io import arrays, parts, sniff
from engine.io.errors import ReadError
from engine.objects import Scalar, SkyObject

MAX_TABLE = 64 << 20  # bytes; a larger table is a catalogue of its own and is not searched for the folder's objects
_LONG = re.compile(r"(?<!\d)\d{5,}(?!\d)")
_DECIMAL = re.compile(r"(?<![\d.])[+-]?\d{1,3}\.\d+(?![\d.])")  # a coordinate, whose digits are no id
_ROLE = r"(?:co)?psfs?|ivar|invvar|wht|weight|mask|dq|rms|err|noise|var|std|cutout|image|img|sci"


@dataclass(frozen=True)
class Unit:
    """Files that are read together. files: the first is the one it is named after; kind: "image", "spectrum" or "other"."""

    files: tuple[Path, ...]
    kind: str


def image_name(path: Path) -> str:
    """A file's name without its band and role, all else as it was: the id of the image that files of this name are."""
    from engine.io.fits_headers import band_in_name

    name = re.sub(r"_oo[iwd]_", "_", parts.stem(path))  # the products of DECam's pipeline
    found = band_in_name(name, None)
    for word in (re.escape(found[0]) if found else None, _ROLE):
        if word is not None:
            at = list(re.finditer(rf"(^|[_. -])({word})(?![A-Za-z0-9])", name, re.I if word is _ROLE else 0))
            for match in reversed(at[-1:] if word is not _ROLE else at):
                name = name[:match.start()] + name[match.end():]
    return name.strip("_. ") or parts.stem(path)


def image_key(path: Path) -> str:
    """What all files of one image have in common: folder, and name without band and role. Only for telling which they are."""
    return f"{path.parent}/{image_name(path)}"


def ids_in(path: Path) -> set[str]:
    """The long numbers of a file's name, each of which may be an id."""
    return set(_LONG.findall(_DECIMAL.sub(" ", parts.stem(path))))


def units(files: Sequence[Path]) -> Iterator[Unit]:
    """The files as units of work, in order of name. Files that cannot be told apart from others stay units of their own."""
    groups: dict[str, list[Path]] = defaultdict(list)
    kinds: dict[str, str] = {}
    for path in files:
        try:
            kind = _kind(path)
        except (ReadError, OSError):
            kind = "other"
        if kind == "image":
            key = image_key(path)
        elif kind == "array":
            key, kind = f"{path.parent}/{arrays.role_of(path)[1]}", "image"
        else:
            key = str(path)
        groups[key].append(path)
        kinds[key] = kind
    for key, members in groups.items():
        yield Unit(tuple(sorted(members, key=_main_first)), kinds[key])


def _main_first(path: Path) -> tuple[bool, str]:
    from engine.io.fits_images import role_of_file

    side = arrays.role_of(path)[0] not in ("", "im") if path.suffix == ".npy" else role_of_file(path) != "image"
    return side, path.name


def _kind(path: Path) -> str:
    """"image", "array", "spectrum", "table" or "other", from what the file holds; FITS files are opened for it."""
    format = sniff.format_of(path)
    if format == "pictures":
        return "picture"
    if format == "arrays":
        return "array" if path.suffix == ".npy" else "other"
    if format != "fits":
        return "table" if format == "tables" else "other"
    from engine.io import desi, fits_files, fits_images, fits_spectra, fits_tables

    with fits_files.open_fits(path) as hdus:
        if desi.is_desi(hdus):
            return "other"
        if fits_spectra.kind_of(hdus):
            return "spectrum"
        if fits_tables.is_time_series(hdus):
            return "other"
        found = fits_images.image_hdus(hdus)
        return "other" if len(found) > 50 else "image" if found else "table"


def read_image(unit: Unit, survey: str | None) -> Iterator[SkyObject]:
    """The one object of FITS files that differ in band or role. Raises ReadError if none of them holds an image."""
    from engine.io import fits_images
    from engine.io.fits_files import open_fits

    planes, sides, notes = [], [], list[str]()
    for path in unit.files:
        role = fits_images.role_of_file(path)
        if role != "image" and len(unit.files) > 1:
            sides.append((path, role))
            continue
        with open_fits(path) as hdus:
            planes += fits_images.planes_of(path, hdus, survey)
    if sides and planes:
        planes = fits_images.with_side_files(planes, sides)
    if len(unit.files) > 1:
        notes.append(f"joined by name: {', '.join(p.name for p in unit.files)}")
    name = image_name(unit.files[0]) if len(unit.files) > 1 else parts.stem(unit.files[0])
    yield fits_images.object_of(name, planes, unit.files[0]).with_history(*notes)


def merge(parts: Sequence[SkyObject], id: str, note: str) -> SkyObject:
    """Several parts of one object as one: the first position that is known, everything that was measured, all histories."""
    scalars: dict[str, Scalar] = {}
    for part in reversed(parts):
        scalars.update(part.scalars)
    return replace(parts[0], id=id, position=next((p.position for p in parts if p.position is not None), None),
                   images=tuple(i for p in parts for i in p.images), spectra=tuple(s for p in parts for s in p.spectra),
                   lightcurves=tuple(c for p in parts for c in p.lightcurves), scalars=scalars,
                   catalog=next((p.catalog for p in parts if p.catalog is not None), None),
                   history=tuple(dict.fromkeys([*(line for p in parts for line in p.history), note])))


def spectrum_ids(path: Path) -> set[str]:
    """The ids a spectrum file can be found by: the long numbers of its name and the identifiers of an SDSS file."""
    from engine.io.fits_files import columns_of, open_fits, text

    found = ids_in(path)
    with open_fits(path) as hdus:
        for hdu in hdus:
            names = columns_of(hdu)
            if "bestobjid" in names and "plate" in names:
                found.add(text(hdu.data[names["bestobjid"]][0]))
    return {i for i in found if i.strip("0-") and i != "-1"}
