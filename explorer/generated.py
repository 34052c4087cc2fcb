"""What a model generated, as the page shows it: pictures with the mark in their pixels, bands of spectra, curves. No torch."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from engine.io.surveys import SURVEYS
from engine.objects import Image, Spectrum
from explorer import pictures
from explorer.words import GENERATED, NOT_OBSERVED

if TYPE_CHECKING:
    from engine.generation import Distribution

Array = NDArray[Any]
SIDE = 384  # pixels that a marked picture has at least: its words must be readable
WORDS = 38  # their height
ORANGE, PLATE, PALE = (230, 159, 0), (14, 17, 22), (230, 237, 243)
RED, WHITE, BLUE = (np.array(c, float) for c in ((178, 24, 43), (247, 247, 247), (33, 102, 172)))  # of ColorBrewer's RdBu
CHI = 5.0  # sigma at its ends
BINS = 160  # of a curve
SHOWN = (0.001, 0.999)  # quantiles between which a curve is drawn


# ------------------------------------------------------------------------------------------------------------ pictures


def look_for(survey: str, measured: Image | None) -> pictures.Look | None:
    """That of the measured image of a survey, else the survey's own: what was generated never gets a stretch of its own."""
    found = None if measured is None else pictures.look_of(measured)
    return found or (pictures.usual(SURVEYS[survey]) if survey in SURVEYS else None)


def stamp(image: Image, look: pictures.Look | None) -> bytes:
    """PNG of a generated image, enlarged pixel by pixel, with a dashed frame, the word in it and its history in the file."""
    rgb = np.asarray(Pillow.open(io.BytesIO(pictures.picture(image, look).png)).convert("RGB"))
    below = "" if np.isfinite(image.pixels).all() else NOT_OBSERVED
    return marked(rgb, GENERATED, below, image.history)


def residual(chi: Array, like: Image, side: float, history: Sequence[str]) -> bytes:
    """PNG of chi (B, ny, nx) on the pixels of a measured image, all bands together: red where less was measured than the
    generated one would give, blue where more, white where they agree, `CHI` sigma at the ends; hatched where unknown. Framed
    to `side` arcsec as the pictures beside it are."""
    known = np.isfinite(chi)
    summed = np.where(known, chi, 0).sum(0) / np.sqrt(np.maximum(known.sum(0), 1))
    summed = np.where(known.any(0), summed, np.nan)[None]
    plane = pictures.framed(replace(like, pixels=summed, bands=("chi",), ivar=None, mask=None, psf=None), side).pixels[0]
    unknown = np.isnan(plane)
    shade = np.clip(np.where(unknown, 0, plane) / CHI, -1, 1)[..., None]
    rgb = np.where(shade < 0, WHITE + (WHITE - RED) * shade, WHITE + (BLUE - WHITE) * shade).astype(np.uint8)
    rgb = pictures.upright(pictures.hatched(rgb, unknown), pictures.turn_of(like))
    return marked(rgb, "chi", "", history)  # the font has no χ


def marked(rgb: Array, above: str, below: str, history: Sequence[str]) -> bytes:
    """PNG of (ny, nx, 3) bytes, enlarged, framed, with words at the top left and the bottom right."""
    small = Pillow.fromarray(np.ascontiguousarray(rgb))
    factor = max(1, -(-SIDE // max(small.size)))
    large = small.resize((small.width * factor, small.height * factor), Pillow.Resampling.NEAREST)
    draw, font = ImageDraw.Draw(large), ImageFont.load_default(WORDS)
    dashed(draw, large.size)
    words(draw, font, above, (0, 0), ORANGE)
    if below:
        box = draw.textbbox((0, 0), below, font)
        words(draw, font, below, (int(large.width - box[2] - 24), int(large.height - box[3] - 22)), PALE)
    about = PngInfo()
    about.add_itxt("Description", "; ".join(history))
    out = io.BytesIO()
    large.save(out, "PNG", compress_level=1, pnginfo=about)
    return out.getvalue()


def dashed(draw: ImageDraw.ImageDraw, size: tuple[int, int], dash: int = 18, width: int = 6) -> None:
    """A dashed orange frame."""
    x1, y1 = size[0] - 1, size[1] - 1
    for at in range(0, max(size), 2 * dash):
        for y in (0, y1 - width + 1):
            draw.rectangle((at, y, at + dash, y + width - 1), ORANGE)
        for x in (0, x1 - width + 1):
            draw.rectangle((x, at, x + width - 1, at + dash), ORANGE)


def words(draw: ImageDraw.ImageDraw, font: Any, text: str, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    """Text on a dark plate, since it may stand on a bright galaxy."""
    box = draw.textbbox((at[0] + 12, at[1] + 8), text, font)
    draw.rectangle((box[0] - 12, box[1] - 10, box[2] + 12, box[3] + 10), PLATE)
    draw.text((at[0] + 12, at[1] + 8), text, colour, font)


def measured(image: Image, side: float) -> bytes:
    """PNG of a measured image, framed to as many arcsec as the generated one beside it."""
    return pictures.picture(pictures.framed(image, side)).png


# ------------------------------------------------------------------------------------------------- spectra and numbers


def band(spectra: Sequence[Spectrum]) -> bytes:
    """Four little-endian float32 arrays one after the other: wavelength, and of the spectra's flux the median, the 16 % and the
    84 % quantile. Of one spectrum all three are itself."""
    flux = np.stack([np.where(np.isfinite(s.flux), s.flux, 0) for s in spectra])
    middle, low, high = np.quantile(flux, (0.5, 0.16, 0.84), axis=0)
    return np.concatenate([np.asarray(a, "<f4") for a in (spectra[0].wavelength, middle, low, high)]).tobytes()


def curve(d: Distribution, truth: float | None) -> dict[str, Any]:
    """A distribution for the page: its density at `BINS` equal steps from low to high (the largest is 1), with the truth in
    reach, quantiles, and what lies in the bin without an upper end."""
    low, high = (d.quantile(q) for q in SHOWN)
    low, high = min(low, low if truth is None else truth), max(high, high if truth is None else truth)
    margin = 0.06 * max(high - low, 1e-4)
    low, high = low - margin, high + margin
    edges = np.linspace(low, high, BINS + 1)
    finite = np.isfinite(d.lower) & np.isfinite(d.upper)
    below = float(d.probabilities[~np.isfinite(d.lower)].sum())
    ends = np.concatenate([d.lower[finite][:1], d.upper[finite]])
    sums = np.interp(edges, ends, below + np.concatenate([[0], np.cumsum(d.probabilities[finite])]))
    density = np.diff(sums)
    name, beyond = d.open_top
    return {"low": low, "high": high, "density": [round(float(v), 4) for v in density / max(float(density.max()), 1e-30)],
            "median": d.quantile(0.5), "p16": d.quantile(0.16), "p84": d.quantile(0.84), "truth": truth,
            "posterior": d.posterior, "beyond": f"{name}: {beyond:.0%}" if beyond >= 0.01 and np.isinf(d.upper[-1]) else ""}
