"""What was generated as FITS files that say so: images with WCS, spectra, numbers with their distribution, seeds and settings.

A file has a primary header with the provenance, and for every target TARGET_TYPICAL, _MEAN, _SPREAD and _SAMPLES (images), one
table with such columns (spectra, coefficients), or the distribution and the samples of a number. `engine.io` reads the typical
image and the spectrum back, with the mark that they were generated.
"""

from __future__ import annotations

import errno
import hashlib
import re
from collections.abc import Iterator
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from engine.files import read_json, replace_bytes, write_json
from engine.modalities import plain_name
from engine.model_files import checksum
from engine.steps import Step

if TYPE_CHECKING:
    from astropy.io import fits

    from engine.generation.objects import Request
    from engine.generation.results import Generated, Part
    from engine.objects import Image, SkyObject, Spectrum
    from engine.store import Store

SURVEY_WORDS = {"legacy": "LegacySurvey", "hsc": "HSC"}  # as `engine.io` knows them in a header
MANIFEST = "generated.json"
QUANTILES = (0.025, 0.16, 0.5, 0.84, 0.975)


# ---------------------------------------------------------------------------------------------------------- one object


def hdus(made: Generated, of: SkyObject, about: dict[str, Any]) -> fits.HDUList:
    """The file of one object. about: model, checksum, inputs, seed, scheme and other settings, as `provenance` gives them."""
    from astropy.io import fits

    first = fits.PrimaryHDU()
    header = first.header
    header["OBJECT"] = (made.id, "id of the object in its sky")
    if of.position is not None:
        header["RA_TARG"], header["DEC_TARG"] = float(of.position.ra.deg), float(of.position.dec.deg)
    _mark(header, "; ".join(part.origin for part in made.parts.values()))
    for key, value in about.items():
        header[key] = (", ".join(value), "token keys") if isinstance(value, (list, tuple)) else value
    header["TARGETS"] = (", ".join(made.parts), "token keys")
    found = [first]
    for key, part in made.parts.items():
        name = plain_name(key).upper()
        found += _part(name, part)
        for line in (part.origin, *(f"{name}: sample {i}" for i in range(len(part.samples)))):
            header.add_history(line)
    return fits.HDUList(found)


def provenance(request: Request) -> dict[str, Any]:
    """Header keys of what was asked."""
    bundle, named, how = request.bundle, request.named, asdict(request.settings)
    words = {"scheme": "SCHEME", "steps": "STEPS", "temperature": "TEMPERAT", "top_k": "TOP_K", "top_p": "TOP_P",
             "guidance": "GUIDANCE", "cache": "CACHE"}
    return {"MODEL": bundle.folder.name, "CHECKSM": bundle.checksum, "CONFIG": checksum(bundle.folder / "config.json"),
            "ASKED": ["all"] if named is None else list(named),
            **{words[name]: value for name, value in how.items() if value is not None},
            "SEED": request.seed, "NSAMPLES": request.samples}


def _mark(header: fits.Header, origin: str) -> None:
    header["HIERARCH GENERATED"] = (True, "made up by a model, not measured")
    header["MADE_BY"] = origin


def _part(name: str, part: Part) -> list[Any]:
    from engine.objects import Catalog, Image, Spectrum

    first = part.samples[0]
    if isinstance(first, Image):
        return _image(name, part, first)
    if isinstance(first, Spectrum):
        return [_spectrum(name, part, first)]
    if isinstance(first, Catalog):
        return [_catalogue(name, part)]
    return _number(name, part) if part.distribution is not None else [_coefficients(name, part)]


def _image(name: str, part: Part, first: Image) -> list[Any]:
    """Typical, mean, spread (bands, y, x) and the samples (sample, bands, y, x)."""
    from astropy.io import fits

    from engine.generation.results import array_of

    typical = first if part.typical is None else part.typical
    planes = {"TYPICAL": array_of(typical), "MEAN": part.mean, "SPREAD": part.spread,
              "SAMPLES": np.stack([array_of(one) for one in part.samples])}
    found = []
    for what, pixels in planes.items():
        hdu = fits.ImageHDU(np.asarray(pixels, np.float32), name=f"{name}_{what}")
        if first.wcs is not None:
            hdu.header.update(first.wcs.to_header())
        elif first.pixel_scale is not None:
            hdu.header["PIXSCALE"] = (first.pixel_scale, "arcsec; no place on the sky is known")
        _describe(hdu.header, first, part)
        if what != "TYPICAL":
            hdu.header["IMAGETYP"] = (f"MODEL {what}", "what the pixels are")
        if what == "SAMPLES":
            _counted_axes(hdu.header)
        found.append(hdu)
    return found


def _counted_axes(header: fits.Header) -> None:
    """The axes of samples that are not on the sky; WCSAXES, which stands first, counts those, too."""
    header["WCSAXES"] = (4, "x, y, band, sample")
    for axis, name, what in ((3, "BAND", "number of the band, from 0"), (4, "SAMPLE", "number of the sample, from 0")):
        header[f"CTYPE{axis}"] = (name, what)
        header[f"CRPIX{axis}"], header[f"CRVAL{axis}"], header[f"CDELT{axis}"] = 1.0, 0.0, 1.0


def _describe(header: fits.Header, image: Image, part: Part) -> None:
    """Survey, bands and unit, as our own reader and others take them."""
    from astropy import units as u

    header["SURVEY"] = SURVEY_WORDS.get(image.survey or "", image.survey or "unknown")
    if all(len(band) == 1 for band in image.bands):
        header["BANDS"] = "".join(image.bands)
    else:
        header["BAND"] = ",".join(image.bands)
    if image.unit is not None and image.unit.is_equivalent(u.nmgy):
        factor = float(image.unit.to(u.nmgy))
        header["BUNIT"] = "nanomaggy" if factor == 1 else "count"
        header["MAGZERO"] = (round(22.5 - 2.5 * np.log10(factor), 6), "AB magnitude of one unit")
    elif image.unit is not None:
        header["BUNIT"] = image.unit.to_string()
    _mark(header, part.origin)


def _table(name: str, columns: dict[str, tuple[Any, Any]], part: Part) -> Any:
    """columns: name -> (values, unit or None); rows of a vector column are vectors."""
    from astropy.io import fits
    from astropy.table import Table

    hdu = fits.table_to_hdu(Table({column: np.asarray(values) for column, (values, _) in columns.items()}))
    hdu.name = name
    for i, (_, unit) in enumerate(columns.values(), 1):
        if unit is not None:
            hdu.header[f"TUNIT{i}"] = _unit_text(unit)
    _mark(hdu.header, part.origin)
    return hdu


def _unit_text(unit: Any) -> str:
    """As the FITS standard writes it, or in astropy's words where it has none."""
    from astropy import units as u

    unit = u.Unit(unit)
    try:
        return str(unit.to_string("fits"))
    except ValueError:
        return str(unit.to_string())


def _spread_columns(part: Part, unit: Any) -> dict[str, tuple[Any, Any]]:
    from engine.generation.results import array_of

    samples = np.stack([array_of(one) for one in part.samples], axis=-1)
    typical = samples[:, 0] if part.typical is None else array_of(part.typical)
    return {"typical": (typical, unit), "mean": (part.mean, unit), "spread": (part.spread, unit), "samples": (samples, unit)}


def _spectrum(name: str, part: Part, first: Spectrum) -> Any:
    hdu = _table(name, {"wavelength": (first.wavelength, "Angstrom"), **_spread_columns(part, first.unit)}, part)
    hdu.header["SURVEY"] = (first.survey or "unknown", "whose spectrum it is like")
    hdu.header["SPECSYS"] = "BARYCENT"
    hdu.header["VACUUM"] = (True, "wavelengths are those in vacuum")
    return hdu


def _coefficients(name: str, part: Part) -> Any:
    first: Any = part.samples[0]
    rows = np.arange(len(np.atleast_1d(first.value)))
    return _table(name, {"coefficient": (rows, None), **_spread_columns(part, first.unit)}, part)


def _number(name: str, part: Part) -> list[Any]:
    """The distribution, bin by bin, its moments and quantiles in the header; and the numbers that were drawn."""
    d = part.distribution
    assert d is not None
    bins = _table(name, {"lower": (d.lower, d.unit), "upper": (d.upper, d.unit), "middle": (d.middle, d.unit),
                         "probability": (d.probabilities, None)}, part)
    header = bins.header
    header["MEAN"], header["STD"], header["ENTROPY"] = d.mean, d.std, (d.entropy, "nats")
    for q in QUANTILES:
        header[f"Q{round(1000 * q):03d}"] = (d.quantile(q), f"quantile {q:g}")
    header["POSTERIR"] = (d.posterior, "a posterior, for a sky like the model's")
    drawn = np.array([getattr(one, "value", np.nan) for one in part.samples], float)
    return [bins, _table(f"{name}_SAMPLES", {"sample": (np.arange(len(drawn)), None), "value": (drawn, d.unit)}, part)]


def _catalogue(name: str, part: Part) -> Any:
    """The sources of all samples, one a row."""
    catalogs: list[Any] = list(part.samples)
    first = catalogs[0]
    number = np.concatenate([np.full(len(one), i) for i, one in enumerate(catalogs)])
    columns = {key: (np.concatenate([one.columns[key] for one in catalogs]), first.units.get(key)) for key in first.columns}
    return _table(name, {"sample": (number, None), **columns}, part)


def save(path: Path, file: fits.HDUList) -> None:
    """Whole or not at all, checksums included; the same again is the same bytes. Raises OSError, on a full disk with a
    sentence."""
    file.update_extend()
    for hdu in file:
        hdu.add_checksum(when="of this HDU")  # astropy would tell the time there
    buffer = BytesIO()
    file.writeto(buffer)
    try:
        replace_bytes(path, buffer.getvalue())
    except OSError as error:
        path.with_name(path.name + ".tmp").unlink(missing_ok=True)
        if error.errno == errno.ENOSPC:
            raise OSError(f"no room for {path}; what was written before is kept: make room and run it again") from error
        raise


# ------------------------------------------------------------------------------------------------------------- exports


def export(request: Request, thing: SkyObject, out: Path) -> Iterator[Step]:
    """One object's targets into a FITS file. The last preview sums up.

    Raises what `generate` raises; ValueError if `out` is there and no such export.
    """
    from engine.generation.objects import run

    if out.is_dir():
        raise ValueError(f"{out} is a folder; one object goes into a file, such as {out / 'x.fits'}")
    if out.exists() and not is_export(out):
        raise ValueError(f"{out} is there and was not generated; choose another name")
    for step in run(request, [thing]):
        yield Step(0.98 * step.fraction, step.note)
    made: Generated = step.preview[0]
    out.parent.mkdir(parents=True, exist_ok=True)
    save(out, hdus(made, thing, provenance(request)))
    numbers = {plain_name(key): {"mean": d.mean, "std": d.std} | {f"q{q:g}": d.quantile(q) for q in QUANTILES}
               for key, part in made.parts.items() if (d := part.distribution) is not None}
    about = {"file": str(out), "object": made.id}
    yield Step(1.0, f"{made.id}: {', '.join(map(plain_name, request.chain))} in {out}", about | numbers)


def is_export(path: Path) -> bool:
    """Whether a file is one of ours, by its primary header."""
    from astropy.io import fits

    try:
        return fits.getheader(path, 0).get("GENERATED") is True
    except (OSError, ValueError):
        return False


def export_all(request: Request, store: Store, folder: Path) -> Iterator[Step]:
    """Every object of a sky that has an input, a file each in a folder; what is there already is not made again.

    The last preview counts: files, new, and without (objects that have none of the inputs). Raises ValueError if the folder
    holds other settings' files, or another process writes to it.
    """
    from engine.files import only_writer

    about = {"targets": list(request.chain), **provenance(request)}
    if folder.is_file():
        raise ValueError(f"{folder} is a file; a whole sky goes into a folder (or name one object with --object)")
    folder.mkdir(parents=True, exist_ok=True)
    with only_writer(folder / "generated.lock", str(folder)):
        if (folder / MANIFEST).is_file():
            if (there := read_json(folder / MANIFEST)) != about:
                wrong = [key for key in about | there if about.get(key) != there.get(key)]
                raise ValueError(f"{folder} holds what was generated with other settings ({', '.join(wrong)}); choose another "
                                 "folder, or the same settings to go on")
        elif any(folder.glob("*.fits")):
            raise ValueError(f"{folder} holds FITS files of something else; choose an empty folder")
        else:
            write_json(folder / MANIFEST, about)
        yield from _missing(request, store, folder)


def _missing(request: Request, store: Store, folder: Path) -> Iterator[Step]:
    from engine.generation.objects import batch, with_inputs

    about, total = provenance(request), len(store)
    there, new, without = 0, 0, 0
    for start in range(0, total, request.at_once):  # the same objects share a batch, and its rounding, however often it stopped
        rows = range(start, min(start + request.at_once, total))
        paths = [folder / file_name(str(store.ids[row])) for row in rows]
        todo = {i for i, path in enumerate(paths) if not path.is_file()}
        there += len(rows) - len(todo)
        if not todo:
            continue
        things = [store.read(row) for row in rows]
        tokens, hidden = request.bundle.tokenize(things, request.inputs)
        able = np.flatnonzero(with_inputs(things, hidden)).tolist()
        without += len(todo - {*able})
        if not todo & {*able}:
            continue
        tokens, hidden = ({key: value[able] for key, value in each.items()} for each in (tokens, hidden))
        made = yield from batch(request, [things[i] for i in able], tokens, hidden, start, total)
        for i, one in zip(able, made, strict=True):
            if i in todo:
                save(paths[i], hdus(one, things[i], about))
                new += 1
                yield Step(rows.stop / total * 0.999, f"generated for {there + new + without:,} of {total:,} objects")
    lost = f"; {without:,} have none of the inputs" if without else ""
    yield Step(1.0, f"{there + new:,} files in {folder}, {new:,} of them new{lost}",
               {"files": there + new, "new": new, "without": without})


def file_name(id: str) -> str:
    """A file's name from an id, two of which never share one."""
    safe = re.sub(r"[^\w.+-]", "_", id)[:150]
    if safe == id and not id.startswith("."):
        return f"{safe}.fits"
    return f"{safe.lstrip('.')}-{hashlib.sha256(id.encode()).hexdigest()[:8]}.fits"
