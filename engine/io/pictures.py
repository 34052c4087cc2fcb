"""JPEG and PNG pictures (SDSS, Legacy Surveys colour cutouts) as images that are not calibrated."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image as Picture
from PIL import UnidentifiedImageError

from engine.io.errors import ReadError
from engine.io.surveys import SURVEYS, find_survey
from engine.objects import Image, SkyObject

FORMATS = ("JPEG", "PNG")


def read_file(path: Path, survey: str | None = None) -> Iterator[SkyObject]:
    """The picture as one object with one `Image`: bands R, G, B, no unit, calibrated False.

    The survey asked for is kept as its survey; its bands stay R, G, B since 8-bit colours are stretched, not fluxes. Rows
    are turned over so that the first row is the bottom, as in FITS. Raises ReadError for damaged, foreign and huge files.
    """
    path = Path(path)
    if path.stat().st_size == 0:
        raise ReadError(path, "is empty; copy or download it again")
    pixels, grey = _pixels(path)
    row = find_survey(survey) if survey else next((find_survey(p) for p in ("sdss", "legacy") if _named(path, p)), None)
    key = row.key if row else survey
    note = "rows turned over: the top of the picture is taken as north, so the last row is the top, as in FITS"
    image = Image(np.ascontiguousarray(pixels[:, ::-1]), ("grey",) if grey else ("R", "G", "B"), key, calibrated=False,
                  history=(path.name, note, "8-bit colours, stretched for the eye: not a flux"
                           + (f"; R, G, B are {', '.join(SURVEYS[key].rgb)} in this survey's pictures"
                              if key in SURVEYS and len(SURVEYS[key].rgb) == 3 and not grey else "")))
    yield SkyObject(
        path.name[: -len(path.suffix)] if path.suffix else path.name, images=(image,), history=(f"{path.name}: picture",)
    )


def _named(path: Path, survey: str) -> bool:
    return any(part.lower().startswith(survey) for part in path.absolute().parts[-4:])


def _pixels(path: Path) -> tuple[np.ndarray, bool]:
    """(bands, ny, nx) float32 from 0 to 255, top row first, and whether it is grey. Raises ReadError."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", Picture.DecompressionBombWarning)
        try:
            with Picture.open(path, formats=FORMATS) as picture:
                if picture.mode in ("I", "F", "I;16", "I;16B"):
                    return np.asarray(picture, dtype=np.float32)[None], True
                grey = picture.mode in ("1", "L", "LA")
                array = np.asarray(picture.convert("L" if grey else "RGB"), dtype=np.float32)
        except (Picture.DecompressionBombWarning, Picture.DecompressionBombError) as problem:
            raise ReadError(
                path,
                f"has more than {Picture.MAX_IMAGE_PIXELS:,} pixels, too many for a picture of an object; cut out the "
                "part you need",
            ) from problem
        except UnidentifiedImageError as problem:
            raise ReadError(
                path, "is not a JPEG or PNG picture, whatever its name says; convert it or correct its name"
            ) from problem
        except (
            OSError,
            SyntaxError,
            ValueError,
            EOFError,
            OverflowError,
            MemoryError,
            TypeError,
            IndexError,
            AttributeError,
        ) as problem:
            message = " ".join(str(problem).split())[:100]  # Pillow's decoders report damage in all of these ways
            raise ReadError(path, f"is a damaged or cut off picture ({message}); copy it again") from problem
    return (array[None] if grey else np.moveaxis(array, -1, 0)), grey
