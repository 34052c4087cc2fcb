"""What was measured of one object on the sky: images, spectra, light curves, scalars, sources. Frozen, checked, with units.

Readers make these, the store keeps them, codecs and models read them. Arrays are read-only; astropy units stand at the
border, plain floats inside. ``mask`` is True where a pixel is bad. ``history`` says in a few words where each part came
from (file, HDU, conversions), so that any number in a plot can be followed back.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import SkyCoord
from astropy.time import Time
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
BoolArray = NDArray[np.bool_]


def _frozen(array: Any, dtype: Any = None) -> NDArray[Any]:
    """A read-only view in native byte order (FITS delivers big-endian, which torch and numba refuse)."""
    out = np.asarray(array, dtype=dtype)
    if not out.dtype.isnative:
        out = out.astype(out.dtype.newbyteorder("="))
    out = out.view()
    out.flags.writeable = False
    return out


def _frozen_float(array: Any) -> FloatArray:
    """As `_frozen`, for measured values: integers become float32, floats keep their precision."""
    out = np.asarray(array)
    return _frozen(out if out.dtype.kind == "f" else out.astype(np.float32))


def _same_shape(name: str, array: NDArray[Any] | None, shape: tuple[int, ...]) -> None:
    if array is not None and array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}, but the data it belongs to has {shape}")


def _as_unit(unit: u.UnitBase | str | None) -> u.UnitBase | None:
    return None if unit is None else u.Unit(unit)


def _brief(thing: Any) -> str:
    """What a notebook shows of it: of arrays their type and shape, nothing of what is not there."""
    def short(value: Any) -> str:
        if isinstance(value, np.ndarray):
            return f"{value.dtype} {value.shape}"
        if isinstance(value, Mapping):
            return f"{{{', '.join(value)}}}"
        if isinstance(value, SkyCoord):
            return f"{value.ra.deg:.5f} {value.dec.deg:+.5f}"
        if isinstance(value, WCS | Time):
            return type(value).__name__
        return str(value) if isinstance(value, u.UnitBase) else repr(value)

    there = [(f.name, value) for f in fields(thing) if (value := getattr(thing, f.name)) is not None]
    said = [f"{name}={short(value)}" for name, value in there if not isinstance(value, tuple | Mapping) or len(value)]
    return f"{type(thing).__name__}({', '.join(said)})"


@dataclass(frozen=True)
class Scalar:
    """One number (or class name, or vector such as 55 XP coefficients) with its error and unit.

    Raises ValueError if a numeric value is not finite: an absent value is absent, never NaN.
    """

    value: float | int | bool | str | NDArray[Any]
    error: float | NDArray[Any] | None = None
    unit: u.UnitBase | None = None

    def __post_init__(self) -> None:
        value: Any = self.value
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, (list, tuple, np.ndarray)):
            value = _frozen(value)
        if not isinstance(value, (str, bool)) and not np.all(np.isfinite(value)):
            raise ValueError(f"a Scalar must be finite, got {value!r}; leave the value out when it is not known")
        object.__setattr__(self, "value", value)
        error: Any = self.error
        if error is not None:
            error = _frozen_float(error) if np.ndim(error) else float(error)
            if not np.all(np.isfinite(error)):  # an unknown error is no error, not a NaN one
                error = None
        object.__setattr__(self, "error", error)
        object.__setattr__(self, "unit", _as_unit(self.unit))


@dataclass(frozen=True)
class Image:
    """One survey's cutout in one or more bands, north and east as the WCS says.

    pixels: (bands, ny, nx) flux per pixel in `unit`; bands: one name a plane ("g" in the survey's own naming);
    survey: a key of `engine.io.surveys.SURVEYS`, or the instrument's name; ivar: inverse variance in 1/unit^2;
    mask: True where bad; psf: (bands, py, px); calibrated: False where counts cannot be turned into a flux (JPEG);
    pixel_scale: arcsec, taken from the WCS when there is one.
    """

    pixels: FloatArray
    bands: tuple[str, ...]
    survey: str | None = None
    wcs: WCS | None = None
    unit: u.UnitBase | None = None
    ivar: FloatArray | None = None
    mask: BoolArray | None = None
    psf: FloatArray | None = None
    calibrated: bool = True
    pixel_scale: float | None = field(default=None, kw_only=True)
    history: tuple[str, ...] = field(default=(), kw_only=True)

    __repr__ = _brief

    def __post_init__(self) -> None:
        pixels = _frozen_float(self.pixels)
        if pixels.ndim != 3:
            raise ValueError(f"pixels must be (bands, ny, nx), got shape {pixels.shape}")
        bands = tuple(str(b) for b in self.bands)
        if len(bands) != len(pixels):
            raise ValueError(f"{len(pixels)} planes of pixels but {len(bands)} band names {bands}")
        if len(set(bands)) != len(bands):
            raise ValueError(f"band names must differ, got {bands}")
        ivar = None if self.ivar is None else _frozen_float(self.ivar)
        mask = None if self.mask is None else _frozen(self.mask, bool)
        _same_shape("ivar", ivar, pixels.shape)
        _same_shape("mask", mask, pixels.shape)
        psf = None if self.psf is None else _frozen_float(self.psf)
        if psf is not None and (psf.ndim != 3 or len(psf) != len(pixels)):
            raise ValueError(f"psf must be (bands, py, px) with {len(pixels)} bands, got shape {psf.shape}")
        wcs = None if self.wcs is None or not self.wcs.has_celestial else self.wcs
        if wcs is not None and wcs.naxis > 2:  # `celestial` copies, which is slow
            wcs = wcs.celestial
        scale = self.pixel_scale
        if wcs is not None:
            scale = float(np.mean(proj_plane_pixel_scales(wcs))) * 3600.0
        for name, value in [("pixels", pixels), ("bands", bands), ("ivar", ivar), ("mask", mask), ("psf", psf),
                            ("wcs", wcs), ("unit", _as_unit(self.unit)), ("pixel_scale", scale),
                            ("history", tuple(self.history))]:
            object.__setattr__(self, name, value)

    @property
    def size(self) -> tuple[int, int]:
        """(ny, nx) in pixels."""
        return self.pixels.shape[1], self.pixels.shape[2]

    @property
    def good(self) -> BoolArray:
        """(bands, ny, nx): finite and not masked."""
        finite: BoolArray = np.isfinite(self.pixels)
        return finite if self.mask is None else finite & ~self.mask


@dataclass(frozen=True)
class Spectrum:
    """One 1-D spectrum. wavelength: (n,) Angstrom in vacuum, strictly increasing; flux, ivar, mask: (n,).

    resolution: lambda / FWHM, one number or (n,); mask True where bad; calibrated False for counts.
    """

    wavelength: FloatArray
    flux: FloatArray
    ivar: FloatArray | None = None
    mask: BoolArray | None = None
    resolution: float | FloatArray | None = None
    survey: str | None = None
    unit: u.UnitBase | None = None
    calibrated: bool = True
    history: tuple[str, ...] = field(default=(), kw_only=True)

    __repr__ = _brief

    def __post_init__(self) -> None:
        wavelength = _frozen(self.wavelength, np.float64)
        flux = _frozen_float(self.flux)
        if wavelength.ndim != 1 or len(wavelength) < 2:
            raise ValueError(f"wavelength must be (n,) with n >= 2, got shape {wavelength.shape}")
        if not (np.all(np.isfinite(wavelength)) and wavelength[0] > 0 and np.all(np.diff(wavelength) > 0)):
            raise ValueError("wavelength must be positive, finite and strictly increasing")
        ivar = None if self.ivar is None else _frozen_float(self.ivar)
        mask = None if self.mask is None else _frozen(self.mask, bool)
        for name, array in [("flux", flux), ("ivar", ivar), ("mask", mask)]:
            _same_shape(name, array, wavelength.shape)
        resolution: Any = self.resolution
        if resolution is not None and np.ndim(resolution):
            resolution = _frozen_float(resolution)
            _same_shape("resolution", resolution, wavelength.shape)
        for name, value in [("wavelength", wavelength), ("flux", flux), ("ivar", ivar), ("mask", mask),
                            ("resolution", resolution), ("unit", _as_unit(self.unit)),
                            ("history", tuple(self.history))]:
            object.__setattr__(self, name, value)


def unit_of(thing: Image | Spectrum) -> str:
    """What an error says of its unit: "in ct, not calibrated", "of unknown unit"."""
    return ("of unknown unit" if thing.unit is None else f"in {thing.unit}") + ("" if thing.calibrated else ", not calibrated")


@dataclass(frozen=True)
class LightCurve:
    """Fluxes of one band over time, in order of time. time: (n,) astropy Time; flux, error: (n,) in `unit`."""

    time: Time
    flux: FloatArray
    error: FloatArray | None = None
    band: str = ""
    unit: u.UnitBase | None = None
    history: tuple[str, ...] = field(default=(), kw_only=True)

    __repr__ = _brief

    def __post_init__(self) -> None:
        flux = _frozen_float(self.flux)
        error = None if self.error is None else _frozen_float(self.error)
        if flux.ndim != 1 or self.time.shape != flux.shape:
            raise ValueError(f"time has shape {self.time.shape} and flux {flux.shape}; both must be (n,)")
        _same_shape("error", error, flux.shape)
        order = np.argsort(self.time.mjd, kind="stable")
        if np.any(np.diff(order) < 0):
            object.__setattr__(self, "time", self.time[order])
            flux, error = _frozen(flux[order]), None if error is None else _frozen(error[order])
        for name, value in [("flux", flux), ("error", error), ("unit", _as_unit(self.unit)),
                            ("history", tuple(self.history))]:
            object.__setattr__(self, name, value)


@dataclass(frozen=True)
class Catalog:
    """The sources found in a scene, one row each. columns: name -> (n,); units: name -> unit, where it has one."""

    columns: Mapping[str, NDArray[Any]]
    units: Mapping[str, u.UnitBase] = field(default_factory=dict)
    history: tuple[str, ...] = field(default=(), kw_only=True)

    __repr__ = _brief

    def __post_init__(self) -> None:
        columns = {name: _frozen(values) for name, values in self.columns.items()}
        lengths = {name: len(values) for name, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"columns of a catalog must be equally long, got {lengths}")
        units = {name: u.Unit(unit) for name, unit in self.units.items()}
        if unknown := set(units) - set(columns):
            raise ValueError(f"units given for columns that do not exist: {sorted(unknown)}")
        object.__setattr__(self, "columns", MappingProxyType(columns))
        object.__setattr__(self, "units", MappingProxyType(units))
        object.__setattr__(self, "history", tuple(self.history))

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


@dataclass(frozen=True)
class SkyObject:
    """All that is known of one object. position is ICRS; scalars maps a name to its `Scalar` ("z" is the redshift)."""

    id: str
    position: SkyCoord | None = None
    images: tuple[Image, ...] = ()
    spectra: tuple[Spectrum, ...] = ()
    lightcurves: tuple[LightCurve, ...] = ()
    scalars: Mapping[str, Scalar] = field(default_factory=dict)
    catalog: Catalog | None = None
    history: tuple[str, ...] = field(default=(), kw_only=True)

    __repr__ = _brief

    def __post_init__(self) -> None:
        if not str(self.id):
            raise ValueError("an object needs an id that is not empty")
        position = self.position
        if position is not None:
            if not position.isscalar:
                raise ValueError(f"position must be one coordinate, got {position.shape}")
            position = position if position.frame.name == "icrs" else position.icrs  # the transformation is slow
            if not (np.isfinite(position.ra.deg) and np.isfinite(position.dec.deg)):
                raise ValueError("position must be finite; leave it out when it is not known")
        for name, value in [("id", str(self.id)), ("position", position), ("images", tuple(self.images)),
                            ("spectra", tuple(self.spectra)), ("lightcurves", tuple(self.lightcurves)),
                            ("scalars", MappingProxyType(dict(self.scalars))), ("history", tuple(self.history))]:
            object.__setattr__(self, name, value)

    def image(self, survey: str | None = None) -> Image | None:
        """The first image, or the first of that survey; None if there is none."""
        return next((i for i in self.images if survey in (None, i.survey)), None)

    def spectrum(self, survey: str | None = None) -> Spectrum | None:
        """The first spectrum, or the first of that survey; None if there is none."""
        return next((s for s in self.spectra if survey in (None, s.survey)), None)

    def with_history(self, *lines: str) -> SkyObject:
        return replace(self, history=(*self.history, *lines))

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("a SkyObject is one object; iterate over .images, .spectra or .lightcurves")

    # Mapping proxies do not pickle; worker processes need objects to travel.
    def __reduce__(self) -> Any:
        return (_rebuild, (self.id, self.position, self.images, self.spectra, self.lightcurves,
                           dict(self.scalars), self.catalog, self.history))


def _rebuild(id: str, position: Any, images: Any, spectra: Any, lightcurves: Any, scalars: Any, catalog: Any,
             history: Any) -> SkyObject:
    return SkyObject(id, position, images, spectra, lightcurves, scalars, catalog, history=history)
