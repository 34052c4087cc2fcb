"""FITS images -> `Image`s: several HDUs, cubes, one band a file; inverse variance, masks and PSFs that lie beside them.

A `Plane` is one band's pixels with what belongs to it. `planes_of` finds them in one file, `images` puts planes on the same
pixel grid together, in the order of the survey's bands. Pixels and ivar stay as delivered; what is bad goes to `mask`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from engine.io import parts
from engine.io.errors import ReadError
from engine.io.fits_files import is_table, name_of, number, open_fits, pixels_of, shape_of, text
from engine.io.fits_headers import bad_bits, band_in_name, band_of, calibration, known_band, made_up, survey_of, wcs_of
from engine.io.surveys import SURVEYS
from engine.objects import Image, SkyObject

# What an HDU holds, by the words in its EXTNAME or IMAGETYP; the first match wins. "ivar" before "var".
_ROLES = (
    ("ivar", r"INVVAR|IVAR|INVERSE.?VAR"), ("variance", r"^VAR$|VARIANCE|^VAR_?\d*$|(^|_)STAT$"),
    ("sigma", r"^ERR(OR)?S?$|SIGMA|^RMS$|UNCERT|NOISE|^STD"), ("mask", r"^(BAD)?MASK(BITS)?$|^DQ|FLAGS?$|BADPIX|^BPM"),
    ("weight", r"WHT|WEIGHT|^WGT"), ("psf", r"PSF"),
    ("other", r"^CON$|WMAP|VAR_POISSON|VAR_RNOISE|VAR_FLAT|NEXP|DEPTH|MODEL|RESID|^SKY|CHI2|BLOBMODEL|EXP(TIME|MAP)?$|SEGM|"
              r"^CTX|CONTEXT"),
)
_ROLE_NAMES = {"oow": "weight", "ood": "mask", "psf": "psf", "copsf": "psf", "ivar": "ivar", "invvar": "ivar", "wht": "weight",
               "weight": "weight", "dq": "mask", "mask": "mask", "rms": "sigma", "err": "sigma", "noise": "sigma",
               "var": "variance",
               "psfs": "psf", "std": "sigma"}
_ALONE = ("wht", "weight", "dq", "mask", "rms", "err", "var", "psf", "psfs", "copsf")  # as a name's last word
_CP_PRODUCT = re.compile(r"_oo([iwd])_")  # DECam Community Pipeline: image, weight, data quality


@dataclass(frozen=True)
class Plane:
    """One band: pixels (ny, nx) as delivered, mask (True = bad) and what else is known of it."""

    band: str
    pixels: NDArray[Any]
    mask: NDArray[np.bool_]
    ivar: NDArray[Any] | None
    psf: NDArray[Any] | None
    wcs: WCS | None
    unit: u.UnitBase | None
    calibrated: bool
    survey: str | None
    history: tuple[str, ...]


def role_of_file(path: Path) -> str:
    """"image", or what a file beside an image holds by its name: "psf", "ivar", "weight", "mask", "sigma", "variance"."""
    product = _CP_PRODUCT.search(path.name)
    if product:
        return {"i": "image", "w": "ivar", "d": "mask"}[product[1]]  # CP weights are inverse variances (Valdes et al. 2014)
    words = [w for w in re.split(r"[^a-z0-9]+", path.name.lower()) if w]
    return next((_ROLE_NAMES[w] for w in words if w in _ROLE_NAMES), "image")


def _role(hdu: Any) -> str:
    for said in (text(hdu.header.get("IMAGETYP", "")).upper(), name_of(hdu), text(hdu.header.get("EXTTYPE", "")).upper()):
        for role, pattern in _ROLES:
            if said and re.search(pattern, said):
                return role
    return "image"


def image_hdus(hdus: fits.HDUList) -> list[Any]:
    """The HDUs with two- or three-dimensional pixels; axes of length one at the front do not count."""
    return [h for h in hdus if not is_table(h) and len(_squeezed(h)) in (2, 3) and min(_squeezed(h)[-2:]) > 1]


def _squeezed(hdu: Any) -> tuple[int, ...]:
    shape = shape_of(hdu)
    while len(shape) > 2 and shape[0] == 1:
        shape = shape[1:]
    return shape


@dataclass
class _File:
    """What is known of all planes of a file."""

    path: Path
    hdus: fits.HDUList
    survey: str | None
    how: str

    def headers(self, hdu: Any) -> list[fits.Header]:
        return [hdu.header] if hdu is self.hdus[0] else [hdu.header, self.hdus[0].header]


def planes_of(path: Path, hdus: fits.HDUList, asked: str | None) -> list[Plane]:
    """Every band in an open file. Raises ReadError if the pixels are no image of the sky."""
    found = image_hdus(hdus)
    role, words = role_of_file(path), re.split(r"[^a-z0-9]+", parts.stem(path).lower())
    if role != "image" and (_CP_PRODUCT.search(path.name) or words[-1] in _ALONE or {"invvar", "ivar"} & {*words}):
        raise ReadError(path, f"holds by its name only the {role} of an image; read it together with that image, in a folder, "
                              "or rename it")
    survey, how = survey_of([h.header for h in [*found, hdus[0]]], path, asked)
    file = _File(path, hdus, survey, how)
    roles = {id(h): _role(h) for h in found}
    science = [h for h in found if roles[id(h)] == "image"]
    if not science:
        raise ReadError(path,
                        "holds no image, only what belongs to one (masks, weights or PSFs); read it together with its image")
    planes: list[Plane] = []
    for hdu in science:
        planes += _planes_of_hdu(file, hdu, [h for h in found if roles[id(h)] not in ("image", "other")], roles, len(science))
    if sum(p.band == "unknown" for p in planes) > 16:
        raise ReadError(path,
                        f"holds {len(planes)} images that name neither band nor object, such as stamps cut for a catalogue; "
                              "save one file an object")
    return _distinct(planes)


def _bands(file: _File, hdu: Any, count: int) -> list[str]:
    """Names of the planes of an HDU: BANDS or BAND0.. of a cube, BAND/FILTER, the file's name, the survey's order."""
    headers = file.headers(hdu)
    if count > 1:
        for header in headers:
            listed = [text(header.get(f"BAND{i}", "")) for i in range(count)]
            if all(listed):
                return [known_band(b, file.survey) or b for b in listed]
            said = text(header.get("BANDS", ""))
            split = [b for b in re.split(r"[^A-Za-z0-9]+", said) if b]
            names = split if len(split) == count else list(said) if len(said) == count else []
            if names:
                return [known_band(b, file.survey) or b for b in names]
        row = SURVEYS.get(file.survey or "")
        if row is not None and len(row.bands) == count:
            return list(row.bands)
        return [f"plane {i}" for i in range(count)]
    band = band_of(headers, file.survey)
    named = band_in_name(parts.stem(file.path), file.survey)
    return [band or (named[1] if named else "unknown")]


def _planes_of_hdu(file: _File, hdu: Any, beside: list[Any], roles: dict[int, str], science: int) -> list[Plane]:
    shape = _squeezed(hdu)
    header = hdu.header
    spectral = {text(header.get("CTYPE3", "")).upper()[:4]} & {"WAVE", "AWAV", "FREQ", "VRAD", "VOPT", "VELO", "LAMB"}
    if len(shape) == 3 and (spectral or shape[0] > 16):
        raise ReadError(file.path,
                        f"holds a cube of {shape[0]} planes, a spectral cube and not an image in a few bands; extract "
                                   "spectra or band images from it first")
    if max(shape[-2:]) > 20 * min(shape[-2:]) and min(shape[-2:]) < 16:
        raise ReadError(file.path, f"holds {min(shape[-2:])} rows of {max(shape[-2:]):,} pixels, which is no image of the sky; "
                                   "leave it out")
    pixels = pixels_of(file.path, hdu).reshape(shape if len(shape) == 3 else (1, *shape))
    if pixels.dtype.kind not in "fiu":
        raise ReadError(file.path, f"holds pixels of type {pixels.dtype}, which is no measurement")
    wcs, wcs_note = wcs_of(header)
    bands = _bands(file, hdu, len(pixels))
    scaled = _scaled_to_one(pixels)
    planes = []
    for index, (band, values) in enumerate(zip(bands, pixels, strict=True)):
        values, asinh_note = _linear(values, file.headers(hdu))
        cal = calibration(file.headers(hdu), file.survey, band, values.dtype.kind in "iu", scaled)
        notes = [f"{file.path.name} HDU {file.hdus.index_of(hdu) if name_of(hdu) else _index(file.hdus, hdu)}",
                 f"survey {file.survey or 'unknown'} {file.how}", cal.note, *asinh_note]
        if wcs is None:
            notes.append(wcs_note)
        if band == "unknown" or band.startswith("plane "):
            notes.append("the header names no band")
        elif len(bands) > 1 and not any("BANDS" in h or "BAND0" in h for h in file.headers(hdu)):
            notes.append(f"bands assumed in the survey's order {''.join(b if len(b) == 1 else ' ' + b for b in bands)}")
        notes += made_up(file.headers(hdu))
        ivar, mask, psf, more = _companions(file, hdu, band, index, values, beside, roles, science)
        planes.append(_checked(Plane(band, values, mask, ivar, psf, wcs, cal.unit, cal.calibrated, file.survey,
                                     (*notes, *more))))
    return planes


def _index(hdus: fits.HDUList, hdu: Any) -> int:
    return next(i for i, h in enumerate(hdus) if h is hdu)


def _scaled_to_one(pixels: NDArray[Any]) -> bool:
    """Whether someone divided every one of some bands (bands, y, x) by its own mean: what is left has no unit and no colour."""
    return len(pixels) > 1 and bool(np.allclose(pixels.mean((1, 2), dtype=np.float64), 1.0, rtol=0, atol=1e-5))


def _linear(values: NDArray[Any], headers: list[fits.Header]) -> tuple[NDArray[Any], list[str]]:
    """Undo the asinh compression of Pan-STARRS stacks (Waters et al. 2020, section 4.2): f = offset + soft (e^x - e^-x)."""
    for header in headers:
        soft, offset = number(header.get("BSOFTEN")), number(header.get("BOFFSET"))
        if soft and offset is not None:
            x = values.astype(np.float64) * (np.log(10) / 2.5)
            return (offset + soft * 2 * np.sinh(x)).astype(np.float32), [f"asinh undone (BSOFTEN {soft:g}, BOFFSET {offset:g})"]
    return values, []


def _companions(file: _File, hdu: Any, band: str, index: int, values: NDArray[Any], beside: list[Any], roles: dict[int, str],
                science: int) -> tuple[NDArray[Any] | None, NDArray[np.bool_], NDArray[Any] | None, list[str]]:
    """(ivar, mask, psf, notes) from the HDUs beside an image that have its band or stand directly after it."""
    ivar, psf, mask, notes = None, None, np.zeros(values.shape, bool), []
    at = _index(file.hdus, hdu)
    following = [h for h in file.hdus[at + 1:] if any(h is b for b in beside)]
    for other in beside:
        own = band_of([other.header], file.survey)
        version = other.header.get("EXTVER", 1) == hdu.header.get("EXTVER", 1)
        shape = _squeezed(other)
        if not (own == band if own else (science == 1 or (version and len(following) > 0 and (
                other.header.get("EXTVER") is not None or other is following[0])))):
            continue
        role = roles[id(other)]
        if role == "psf":
            data = pixels_of(file.path, other).reshape(shape)
            psf = data if data.ndim == 2 else data[index] if len(data) > index and len(_squeezed(hdu)) == 3 else None
            continue
        if shape != _squeezed(hdu):
            continue
        data = pixels_of(file.path, other).reshape(shape)
        data = data[index] if data.ndim == 3 else data
        new_ivar, new_mask, note = meaning(role, data, other.header, file.survey)
        ivar = new_ivar if new_ivar is not None else ivar
        mask |= new_mask
        notes.append(f"{note} from HDU {_index(file.hdus, other)}")
    return ivar, mask, psf, notes


def meaning(role: str, data: NDArray[Any], header: fits.Header, survey: str | None
            ) -> tuple[NDArray[Any] | None, NDArray[np.bool_], str]:
    """(ivar or None, bad pixels, a word for it) of a plane beside an image. A weight map is only good for where it is zero."""
    if role == "mask":
        bits = bad_bits(header, survey)
        flags = data.astype(np.int64) if data.dtype.kind in "fiub" else data
        return None, (flags != 0 if bits is None else (flags & bits) != 0), "mask"
    with np.errstate(all="ignore"):
        if role == "ivar":
            return data, ~(data > 0) | ~np.isfinite(data), "ivar"
        if role in ("variance", "sigma"):
            good = np.isfinite(data) & (data > 0)
            inverse = np.where(good, 1.0 / (data.astype(np.float64) if role == "variance" else data.astype(np.float64) ** 2),
                               0.0)
            return inverse.astype(np.float32) if np.max(inverse, initial=0) < 1e38 else inverse, ~good, f"ivar as 1/{role}"
        return None, ~(data > 0), "mask where the weight is zero"


def _checked(plane: Plane) -> Plane:
    """Mask what cannot be a measurement: pixels that are not finite, and bands that are constant (no data at all)."""
    values, mask, notes = plane.pixels, plane.mask.copy(), list(plane.history)
    finite = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
    if not finite.all():
        mask |= ~finite
        notes.append(f"{plane.band}: {int((~finite).sum()):,} pixels that are not finite are masked")
    good = values[finite]
    if not good.size or good.min() == good.max():
        mask[:] = True
        what = "no finite pixel" if not good.size else f"all pixels {good[0]:g}"
        notes.append(f"{plane.band}: no data ({what}), the whole band is masked")
    return replace(plane, mask=mask, history=tuple(notes))


def _distinct(planes: list[Plane]) -> list[Plane]:
    """Planes of no known band get a number, so that they can stand side by side."""
    unknown = [p for p in planes if p.band == "unknown"]
    if len(unknown) < 2:
        return planes
    names = {id(p): f"plane {i}" for i, p in enumerate(unknown)}
    return [replace(p, band=names[id(p)]) if id(p) in names else p for p in planes]


def images(planes: list[Plane]) -> tuple[Image, ...]:
    """Planes on the same pixel grid and in the same unit as one `Image` in the survey's order of bands, the others apart."""
    groups: list[list[Plane]] = []
    for plane in planes:
        home = next((g for g in groups if _same_grid(g[0], plane) and plane.band not in {p.band for p in g}), None)
        if home is None:
            groups.append([plane])
        else:
            home.append(plane)
    return tuple(_image(_ordered(g)) for g in groups)


def _same_grid(a: Plane, b: Plane) -> bool:
    if a.pixels.shape != b.pixels.shape or a.survey != b.survey or a.unit != b.unit or (a.wcs is None) != (b.wcs is None):
        return False
    if a.wcs is None or b.wcs is None:
        return True
    ny, nx = a.pixels.shape
    x, y = np.array([0.0, nx - 1.0, 0.0]), np.array([0.0, ny - 1.0, ny - 1.0])
    moved = np.hypot(*(np.array(b.wcs.world_to_pixel_values(*a.wcs.pixel_to_world_values(x, y))) - [x, y]))
    return bool(np.all(moved < 0.5))  # half a pixel


def _ordered(planes: list[Plane]) -> list[Plane]:
    row = SURVEYS.get(planes[0].survey or "")
    order = list(row.bands) if row else []
    return sorted(planes, key=lambda p: order.index(p.band) if p.band in order else len(order))


def _image(planes: list[Plane]) -> Image:
    first = planes[0]
    kind = np.float64 if any(p.pixels.dtype == np.float64 for p in planes) else np.float32
    ivars = [p.ivar for p in planes if p.ivar is not None]  # a band without ivar has no known noise: 0 would say "bad"
    ivar = np.stack(ivars) if len(ivars) == len(planes) else None
    psfs = [p.psf for p in planes if p.psf is not None]
    same = len(psfs) == len(planes) and len({p.shape for p in psfs}) == 1
    row = SURVEYS.get(first.survey or "")
    notes = list(dict.fromkeys(line for p in planes for line in p.history))
    if first.wcs is None and row is not None and row.pixel_scale:
        notes.append(f"pixel scale assumed: {row.pixel_scale} arcsec as in {row.title}")
    return Image(np.stack([p.pixels.astype(kind) for p in planes]), tuple(p.band for p in planes), first.survey, first.wcs,
                 first.unit, ivar, np.stack([p.mask for p in planes]), np.stack(psfs) if same else None,
                 all(p.calibrated for p in planes),
                 pixel_scale=row.pixel_scale if first.wcs is None and row is not None else None, history=tuple(notes))


def position_of(image: Image) -> SkyCoord | None:
    """Where the middle of the image lies on the sky, None without WCS."""
    if image.wcs is None:
        return None
    ny, nx = image.size
    try:
        ra, dec = image.wcs.pixel_to_world(float((nx - 1) / 2), float((ny - 1) / 2)).icrs.spherical.lon.deg, None
        dec = image.wcs.pixel_to_world(float((nx - 1) / 2), float((ny - 1) / 2)).icrs.spherical.lat.deg
    except ValueError:  # outside the projection
        return None
    return parts.position(ra, dec)


def object_of(id: str, planes: list[Plane], path: Path) -> SkyObject:
    """One object from its planes. Raises ReadError if none of them holds a single good pixel."""
    if all(p.mask.all() for p in planes):
        raise ReadError(path, "holds no good pixel (all are NaN, constant or masked); leave it out")
    found = images(planes)
    where = next((c for c in map(position_of, found) if c is not None), None)
    note = () if where is None else ("position is the middle of the image",)
    return SkyObject(id, where, found, history=note)


def with_side_files(planes: list[Plane], sides: list[tuple[Path, str]]) -> list[Plane]:
    """Planes with the PSF, weight or mask that lie in files beside them (as (path, role)), where the shapes agree."""
    for path, role in sides:
        with open_fits(path) as hdus:
            found = image_hdus(hdus)
            layers: list[tuple[str | None, NDArray[Any], fits.Header]] = []
            for hdu in found:
                data = pixels_of(path, hdu).reshape(_squeezed(hdu))
                band = band_of([hdu.header], planes[0].survey)
                layers += [(band, data, hdu.header)] if data.ndim == 2 else [(None, d, hdu.header) for d in data]
        planes = [_with_layer(p, i, layers, path, role, len(planes)) for i, p in enumerate(planes)]
    return planes


def _with_layer(plane: Plane, index: int, layers: list[Any], path: Path, role: str, count: int) -> Plane:
    """The layer of a side file that belongs to this plane: of the same band, else in the same order."""
    layer = next((entry for entry in layers if entry[0] == plane.band and entry[0] is not None), None)
    if layer is None and len(layers) in (1, count) and (len(layers) == count or count == 1):
        layer = layers[index if len(layers) == count else 0]
    if layer is None:
        return plane
    _, data, header = layer
    if role == "psf":
        return replace(plane, psf=data.astype(np.float32), history=(*plane.history, f"PSF from {path.name}"))
    if data.shape != plane.pixels.shape:
        return replace(plane, history=(*plane.history, f"{path.name} is not on the pixels of the image, left out"))
    ivar, bad, note = meaning(role, data, header, plane.survey)
    return replace(plane, ivar=plane.ivar if ivar is None else ivar, mask=plane.mask | bad,
                   history=(*plane.history, f"{note} from {path.name}"))
