"""Images of objects as the image codec takes them, and decoded pixels as Images: surveys, units, scales, bad pixels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.codecs.border import batched, warn
from engine.codecs.image import SIZE, stamp
from engine.models.inputs import HSC, LEGACY, Field

if TYPE_CHECKING:
    from engine.objects import Image, SkyObject

Array = NDArray[Any]
FIELDS = {field.survey: replace(field, size=SIZE) for field in (LEGACY, HSC)}
PREFIX = {"legacy": "DES-", "hsc": "HSC-"}


def encode(tokenize: Callable[[Tensor, Sequence[str]], Tensor], objects: SkyObject | Sequence[SkyObject], survey: str | None,
           resample: bool) -> Tensor:
    """See `ImageCodec.encode`. Images of the same bands and size go through the network together."""
    some, single = batched(objects)
    field = FIELDS[survey] if survey in FIELDS else common_field(some, survey)
    groups: dict[tuple[Any, ...], list[tuple[int, Array]]] = {}
    resampled = []
    for row, obj in enumerate(some):
        pixels, bands, moved = stamp_of(obj, field, resample)
        resampled += [obj.id] if moved else []
        groups.setdefault((bands, pixels.shape[1:]), []).append((row, pixels))
    warn(f"brought to the bands and the {field.scale}\" pixels of {field.survey}", resampled)
    parts = []
    for (bands, size), members in groups.items():
        if min(size) < field.size:
            warn(f"{size[0]} x {size[1]} pixels, padded with zeros to {field.size} x {field.size}",
                 [some[row].id for row, _ in members])
        if lacking := [b for b in field.bands if PREFIX[field.survey] + b.upper() not in bands]:
            warn(f"no {', '.join(lacking)} of {field.survey}, filled in as usual", [some[row].id for row, _ in members])
        parts.append(tokenize(stamp(torch.from_numpy(np.stack([p for _, p in members]))), bands))
    order = torch.tensor([row for members in groups.values() for row, _ in members])
    tokens = torch.cat(parts).short()[order.argsort().to(parts[0].device)]
    return tokens[0] if single else tokens


def common_field(objects: list[SkyObject], survey: str | None) -> Field:
    """The first survey that every object has an image of. Raises KeyError if there is none."""
    if survey is not None:
        raise KeyError(f"the image codec knows no survey {survey!r}; it knows {', '.join(FIELDS)}")
    for key, field in FIELDS.items():
        if all(o.image(key) is not None for o in objects):
            return field
    raise KeyError("no survey of " + " and ".join(FIELDS) + " has an image of every object; object "
                   f"{objects[0].id} has {', '.join(str(i.survey) for i in objects[0].images) or 'none'}. "
                   "survey= and resample=True bring other surveys' images to one of them")


def stamp_of(obj: SkyObject, field: Field, resample: bool) -> tuple[Array, tuple[str, ...], bool]:
    """Pixels (C, ny, nx) float32 in the survey's values with 0 where bad, the codec's names of their bands, and whether they
    were brought to another scale. A band without a good pixel is none. Raises as `ImageCodec.encode` says."""
    from engine import adapt_inputs
    from engine.objects import unit_of

    image = obj.image(field.survey)
    if image is None and resample and obj.images:
        image = obj.images[0]
    if image is None:
        raise KeyError(f"object {obj.id} has no image of {field.survey}; it has "
                       f"{', '.join(str(i.survey) for i in obj.images) or 'none'}" +
                       (" (resample=True brings them to it)" if obj.images else ""))
    named = {survey for b in image.bands for survey, prefix in PREFIX.items() if b.startswith(prefix)}
    if len(named) > 1:
        raise ValueError(f"the image of object {obj.id} has bands of two surveys, {', '.join(image.bands)}; give each survey "
                         "an image of its own")
    channels = adapt_inputs.channels_of(image, field)
    if image.survey == field.survey and len(channels) < len(image.bands):
        unknown = [b for b in image.bands if b not in field.bands]
        if not channels:
            raise KeyError(f"object {obj.id} has the bands {unknown} of {field.survey}; the image codec knows {field.bands}")
        warn(f"bands {unknown} are not known to the image codec and left out", [obj.id])
    planes = list(channels.values())
    names = tuple(PREFIX[field.survey] + field.bands[c].upper() for c in channels)
    factor = adapt_inputs.to_field_unit(image, [image.bands[p] for p in planes], field) if planes else None
    if factor is None:
        raise ValueError(f"the image of object {obj.id} ({image.survey}, {', '.join(image.bands)}) is {unit_of(image)}: "
                         "it cannot be turned into nmgy")
    pixels = np.asarray(image.pixels[planes], np.float32)
    bad = ~image.good[planes] | ~np.isfinite(pixels)  # what is beyond float32, too
    seen = np.flatnonzero(~bad.all((1, 2)))
    if not len(seen):
        raise ValueError(f"the image of object {obj.id} has no good pixel")
    planes, names = [planes[i] for i in seen], tuple(names[i] for i in seen)
    pixels, bad, factor = pixels[seen], bad[seen], factor[seen]
    scale = image.pixel_scale or field.scale
    if abs(scale / field.scale - 1) > adapt_inputs.SAME_SCALE:
        if not resample:
            raise ValueError(f"the image of object {obj.id} has {scale:.4g}\" pixels and the codec was trained on "
                             f"{field.scale}\" of {field.survey}; resample=True brings it to them")
        moved, _, lost = adapt_inputs.stamp_of(image, field, planes, obj.position)
        return np.where(lost, 0.0, moved).astype(np.float32), names, True
    return np.where(bad, 0.0, pixels) * factor[:, None, None], names, image.survey != field.survey


def images(pixels: Array, bands: Sequence[str]) -> list[Image]:
    """Decoded pixels (B, C, 96, 96) as Images of the bands' survey, in its unit."""
    from engine.io.surveys import SURVEYS
    from engine.objects import Image

    survey = next(key for key, prefix in PREFIX.items() if bands[0].startswith(prefix))
    names = tuple(b.removeprefix(PREFIX[survey]).lower() for b in bands)
    return [Image(p, names, survey, unit=SURVEYS[survey].unit, pixel_scale=FIELDS[survey].scale,
                  history=("decoded from tokens",)) for p in pixels]
