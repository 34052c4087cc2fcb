"""What a person types into a search box -> a position; and who is near a position among a million."""

from __future__ import annotations

import re
from typing import Any

import astropy.units as u
import numpy as np
from astropy.coordinates import Angle, SkyCoord
from numpy.typing import NDArray
from scipy.spatial import cKDTree

_J_NAME = re.compile(r"J?(\d{2})(\d{2})(\d{2}(?:\.\d*)?)([+\-−–])(\d{2})(\d{2})(\d{2}(?:\.\d*)?)?$", re.IGNORECASE)
_SEXAGESIMAL = re.compile(r"[:hHdD°'′\"″]")


def parse(text: str) -> SkyCoord | None:
    """The ICRS position a text means: ``Jhhmmss.ss+ddmmss``, two numbers in degrees, or sexagesimal (hours, degrees).

    None if it reads like no position at all. Raises ValueError with a sentence for one that cannot be (declination 95).
    """
    text = text.strip().replace("−", "-").replace("–", "-")
    if match := _J_NAME.match(re.sub(r"^[A-Za-z]+[ _]+(?=J\d)|\s", "", text)):
        h, m, s, sign, d, dm, ds = match.groups()
        return _coordinate(f"{h}h{m}m{s}s", f"{sign}{d}d{dm}m{ds or 0}s", text)
    pair = _split(text)
    if pair is None:
        return None
    first, second = pair
    if _SEXAGESIMAL.search(first) or " " in first:
        hours = "d" not in first.lower() and "°" not in first
        return _coordinate(_units(first, "hms" if hours else "dms"), _units(second, "dms"), text)
    return _coordinate(f"{first}d", f"{_units(second, 'dms') if _SEXAGESIMAL.search(second) else second + 'd'}", text)


def _split(text: str) -> tuple[str, str] | None:
    """Right ascension and declination as two texts of numbers; None if the text is anything else."""
    if not re.fullmatch(r"[\s\d.+\-:,;hmsdHMSD°'′\"″]+", text) or not re.search(r"\d", text):
        return None
    text = re.sub(r"\s+", " ", text)
    parts = [p.strip() for p in re.split(r"[,;]", text) if p.strip()]
    if len(parts) == 1:
        signed = re.search(r"(?<=[\d\sSs\"″.])\s*(?=[+-])", parts[0][1:])
        if signed:
            cut = signed.end() + 1
            parts = [parts[0][:cut].strip(), parts[0][cut:].strip()]
        else:
            words = parts[0].split(" ")
            half = len(words) // 2
            parts = [" ".join(words[:half]), " ".join(words[half:])] if len(words) in (2, 6) else []
    ok = len(parts) == 2 and all(re.match(r"[+-]?\s?\d|[+-]?\.\d", p) for p in parts)
    return (parts[0], parts[1]) if ok else None


def _units(text: str, letters: str) -> str:
    """"10:00:28.6" or "10 00 28.6" -> "10h00m28.6s"; a sign survives a zero ("-00:12")."""
    sign = "-" if text.lstrip().startswith("-") else ""
    numbers = re.findall(r"\d+\.?\d*|\.\d+", text)
    return sign + "".join(f"{n}{unit}" for n, unit in zip(numbers, letters, strict=False))


def _coordinate(ra: str, dec: str, text: str) -> SkyCoord:
    try:
        angle_ra, angle_dec = Angle(ra).to_value(u.deg), Angle(dec).to_value(u.deg)
        if not -360 <= angle_ra <= 360:
            raise ValueError("right ascension must lie within 0 and 360 degrees")
        return SkyCoord(angle_ra, angle_dec, unit="deg")
    except ValueError as error:
        raise ValueError(f"{text!r} is not a position on the sky: {str(error).rstrip('.')}") from error


def spell(position: SkyCoord) -> str:
    """ "10h00m28s +02°12'21" (ICRS)", to the precision in which positions are copied."""
    ra = position.ra.to_string(u.hour, sep="hms", precision=2, pad=True).replace("24h", "00h")  # rounded up from just below
    degrees, minutes, seconds = position.dec.to_string(u.deg, sep=":", precision=1, pad=True, alwayssign=True).split(":")
    return f"{ra} {degrees}°{minutes}'{seconds}\" (ICRS)"


def separation_text(arcsec: float) -> str:
    """ "0.4"", "2.3'", "1.2°"."""
    if arcsec < 60:
        return f'{arcsec:.1f}"'
    return f"{arcsec / 60:.1f}'" if arcsec < 3600 else f"{arcsec / 3600:.1f}°"


def unit_vectors(ra: Any, dec: Any) -> NDArray[np.float64]:
    """(n, 3) of positions in degrees."""
    a, d = np.radians(np.asarray(ra, float)), np.radians(np.asarray(dec, float))
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def _chord(arcsec: float) -> float:
    return float(2 * np.sin(np.radians(arcsec / 3600) / 2))


class SkyTree:
    """Nearest rows to positions on the sphere. ra, dec: (n,) degrees, NaN where unknown (such rows are never found)."""

    def __init__(self, ra: NDArray[Any], dec: NDArray[Any]) -> None:
        self.rows = np.flatnonzero(np.isfinite(ra) & np.isfinite(dec))
        self._tree = cKDTree(unit_vectors(ra[self.rows], dec[self.rows]), balanced_tree=False, compact_nodes=False)

    def nearest(self, ra: float, dec: float) -> tuple[int, float] | None:
        """(row, separation in arcsec) of the nearest object; None if none has a position."""
        if not len(self.rows):
            return None
        chord, i = self._tree.query(unit_vectors(ra, dec))
        return int(self.rows[i]), float(np.degrees(2 * np.arcsin(min(chord / 2, 1.0))) * 3600)

    def within(self, ra: float, dec: float, radius: float) -> NDArray[np.int64]:
        """Rows within `radius` arcsec, in no particular order."""
        return self.rows[self._tree.query_ball_point(unit_vectors(ra, dec), _chord(radius))]
