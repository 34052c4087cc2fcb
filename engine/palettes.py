"""Colours of maps: density, numbers and classes, on a dark and on a light ground. Arrays of sRGB bytes, nothing else.

Colours are mixed in OKLab (Ottosson 2020), where equal steps look equally large. Numbers use viridis without the end
that would drown in the ground, brightened on a dark one and darkened on a light one; classes the eight colours of Okabe &
Ito (2008), then the farthest remaining ones, as Glasbey et al. (2007) choose them, so that they can be told apart with any
kind of colour vision as long as possible.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

BACKGROUND = {"dark": "#0e1116", "light": "#ffffff"}
GLOW = {"dark": "#1d2c3d", "light": "#dfeaf4"}  # the ground where the map is crowded
GROUND_POINT = {"dark": "#3a424d", "light": "#c4ccd4"}  # points without a value
DENSITY = {"dark": ("#586574", "#4f7ea6", "#56b4e9", "#a5dcf7", "#f2fbff"),
           "light": ("#8595a5", "#568db8", "#0072b2", "#004f80", "#00263f")}
OKABE_ITO = ("#e69f00", "#56b4e9", "#009e73", "#f0e442", "#0072b2", "#d55e00", "#cc79a7", "#000000")
VIRIDIS = ("#440154", "#482878", "#3e4a89", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6dcd59", "#b4de2c", "#fde725")
VIRIDIS_PART = {"dark": (0.16, 1.0), "light": (0.0, 0.9)}
VIRIDIS_LIGHTNESS = {"dark": (0.635, 1.0), "light": (0.0, 0.597)}  # OKLab, of its ends: a contrast of 3 also where it is faded
LIGHTNESS = {"dark": (0.62, 0.97), "light": (0.25, 0.597)}  # of classes, the same
LONELY = {"dark": 0.78, "light": 0.865}  # share of the colour that a single dot has, the rest being ground

_TO_LMS = np.array([[0.4122214708, 0.5363325363, 0.0514459929], [0.2119034982, 0.6806995451, 0.1073969566],
                    [0.0883024619, 0.2817188376, 0.6299787005]])
_TO_LAB = np.array([[0.2104542553, 0.7936177850, -0.0040720468], [1.9779984951, -2.4285922050, 0.4505937099],
                    [0.0259040371, 0.7827717662, -0.8086757660]])


def rgb(colour: str) -> Bytes:
    """"#rrggbb" as three bytes."""
    return np.frombuffer(bytes.fromhex(colour.lstrip("#")), np.uint8)


def hexes(colours: Bytes) -> list[str]:
    """(n, 3) bytes as "#rrggbb"."""
    return ["#" + bytes(c).hex() for c in np.asarray(colours, np.uint8)]


def to_oklab(colours: NDArray[np.generic]) -> NDArray[np.float64]:
    """sRGB bytes (..., 3) -> OKLab (..., 3): lightness 0 to 1, then green-red and blue-yellow."""
    c = np.asarray(colours, float) / 255
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    return np.cbrt(linear @ _TO_LMS.T) @ _TO_LAB.T


def from_oklab(lab: NDArray[np.float64]) -> Bytes:
    """OKLab (..., 3) -> sRGB bytes, clipped to what a screen can show."""
    linear = np.clip((lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_LMS).T, 0, 1)
    c = np.where(linear <= 0.0031308, linear * 12.92, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.round(c * 255).astype(np.uint8)


def mix(stops: NDArray[np.generic] | list[Bytes], at: NDArray[np.floating]) -> Bytes:
    """Colours at places 0 to 1 along evenly spaced stops (k, 3) -> (n, 3)."""
    lab = to_oklab(np.asarray(stops))
    places = np.linspace(0, 1, len(lab))
    return from_oklab(np.stack([np.interp(at, places, lab[:, i]) for i in range(3)], axis=-1))


@cache
def numbers(theme: str, n: int = 256) -> Bytes:
    """(n, 3) colours from low to high."""
    low, high = VIRIDIS_PART[theme]
    lab = to_oklab(mix([rgb(c) for c in VIRIDIS], np.linspace(low, high, n)))
    ends, (least, most) = (lab[0, 0], lab[-1, 0]), VIRIDIS_LIGHTNESS[theme]
    lab[:, 0] = np.interp(lab[:, 0], ends, (max(ends[0], least), min(ends[1], most)))  # hues stay, and their order
    return from_oklab(lab)


@cache
def density(theme: str, n: int = 256) -> Bytes:
    """(n, 3) colours from lonely to crowded: grey to blue to the far end of the theme."""
    return mix([rgb(c) for c in DENSITY[theme]], np.linspace(0, 1, n))


@cache
def glow(theme: str, n: int) -> Bytes:
    """(n, 3) colours of the ground itself, the first one the bare background."""
    return mix([rgb(BACKGROUND[theme]), rgb(GLOW[theme])], np.linspace(0, 1, n))


def _clear_of_ground(colours: Bytes, theme: str) -> Bytes:
    """The same hues, moved in lightness as far as needed to be seen on the theme's ground."""
    lab = to_oklab(colours)
    lab[..., 0] = np.clip(lab[..., 0], *LIGHTNESS[theme])
    return from_oklab(lab)


@cache
def classes(n: int, theme: str) -> Bytes:
    """(n, 3) colours of n classes; the first k are the same whatever n is."""
    base = np.array([rgb(c) for c in OKABE_ITO])
    if theme == "dark":
        base[-1] = rgb("#e6edf3")  # black cannot be seen there
    chosen = list(_clear_of_ground(base, theme))
    if n > len(chosen):
        steps = np.arange(16, 256, 24)
        grid = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(-1, 3).astype(np.uint8)
        lightness = to_oklab(grid)[:, 0]
        low, high = LIGHTNESS[theme]
        grid = grid[(lightness > low) & (lightness < high)]
        lab = to_oklab(grid)
        avoid = to_oklab(np.array([*chosen, rgb(BACKGROUND[theme]), rgb(GROUND_POINT[theme])]))
        distance = ((lab[:, None] - avoid[None]) ** 2).sum(-1).min(axis=1)
        while len(chosen) < n:
            far = int(np.argmax(distance))
            chosen.append(grid[far])
            distance = np.minimum(distance, ((lab - lab[far]) ** 2).sum(-1))
    return np.array(chosen[:n], np.uint8).reshape(-1, 3)


def fade(colours: Bytes, theme: str, steps: int, faintest: float = 1.0) -> Bytes:
    """Each of (k, 3) colours in `steps` strengths, from nearly the ground to the colour itself -> (k * steps, 3).

    faintest: the strength of a single dot, which has a share of `LONELY`; what is below are the soft rims of dots.
    """
    ground, target = to_oklab(rgb(BACKGROUND[theme])), to_oklab(colours)
    strength = np.arange(1, steps + 1) / steps
    lonely = 1.0 if faintest == 1 else LONELY[theme]
    share = np.interp(strength, (0, faintest, 1), (0, lonely, 1))[None, :, None]
    return from_oklab(ground + (target[:, None] - ground) * share).reshape(-1, 3)
