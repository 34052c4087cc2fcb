"""Maps that need no vectors: where the objects stand on the sky, or, without positions, the order of their arrival."""

from __future__ import annotations

import astropy.units as u
import numpy as np
from astropy.coordinates import UnitSphericalRepresentation, angular_separation
from astropy.wcs import WCS
from numpy.typing import ArrayLike, NDArray

from engine.maps import Map

REGION = 60.0  # degrees: what lies within that of its middle is drawn about it, anything larger as the whole sky


def sky_map(ra: ArrayLike, dec: ArrayLike, before: Map | None = None) -> Map:
    """The sky, north up and east left, in degrees from its middle. ra, dec: (n,) degrees, NaN where not known.

    before: an earlier map, whose middle is kept as long as everything can be seen from there.

    Equal-area: a region zenithally about its middle, the whole sky by Mollweide (Calabretta & Greisen 2002, A&A 395, 1077).
    """
    ra, dec = np.asarray(ra, float), np.asarray(dec, float)
    known = np.isfinite(ra) & np.isfinite(dec)
    xy = np.full((len(ra), 2), np.nan, np.float32)
    projection, centre = "MOL", (0.0, 0.0)
    if known.any():
        projection, centre = _view(ra[known], dec[known], before)
        wcs = WCS(naxis=2)
        wcs.wcs.ctype, wcs.wcs.crval = [f"RA---{projection}", f"DEC--{projection}"], centre
        wcs.wcs.cdelt, wcs.wcs.crpix = [-1.0, 1.0], [0.0, 0.0]
        xy[known] = np.stack(wcs.wcs_world2pix(ra[known], dec[known], 0), axis=1) + 1
    about = {"kind": "sky", "rows": len(ra), "projection": projection, "centre": list(centre), "frame": "ICRS"}
    return Map("sky", xy, {}, about, np.full(len(ra), np.nan, np.float32))


def _view(ra: NDArray[np.float64], dec: NDArray[np.float64], before: Map | None) -> tuple[str, tuple[float, float]]:
    """Projection and centre (degrees) that show all the positions."""
    points = UnitSphericalRepresentation(ra * u.deg, dec * u.deg)
    if before is not None:
        projection, (lon, lat) = before.manifest["projection"], before.manifest["centre"]
        if projection == "MOL" or _reach(points, UnitSphericalRepresentation(lon * u.deg, lat * u.deg)) < REGION:
            return projection, (lon, lat)
    mean = points.to_cartesian().mean()
    if mean.norm() < 1e-9:
        return "MOL", (0.0, 0.0)
    middle = mean.represent_as(UnitSphericalRepresentation)
    lon, lat = float(middle.lon.deg), float(middle.lat.deg)
    return ("ZEA", (lon, lat)) if _reach(points, middle) < REGION else ("MOL", (lon, 0.0))


def _reach(points: UnitSphericalRepresentation, middle: UnitSphericalRepresentation) -> float:
    """How far the farthest point lies from the middle, in degrees."""
    return float(angular_separation(points.lon, points.lat, middle.lon, middle.lat).max().to_value(u.deg))


def arrival_map(rows: int) -> Map:
    """All rows in the order of their arrival, line by line as one reads, in a square."""
    side = max(int(np.ceil(np.sqrt(rows))), 1)
    line, place = np.divmod(np.arange(rows), side)
    xy = np.stack([place, -line], axis=1).astype(np.float32)
    return Map("arrival", xy, {}, {"kind": "arrival", "rows": rows}, np.full(rows, np.nan, np.float32))
