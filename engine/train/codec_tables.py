"""Tables of numbers: quantiles of the simulated catalogue, and redshift in equal steps of ln(1 + z)."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from engine import checkpoints
from engine.codecs import CatalogCodec, CatalogConfig, ScalarCodec, ScalarConfig
from engine.codecs.catalog import COLUMNS
from engine.modalities import AION, Modality
from engine.train.codec_data import CodecSource
from engine.train.codec_recipes import CodecRecipe

HIGHEST_REDSHIFT = 6.0


def fit(recipe: CodecRecipe, source: CodecSource, folder: Path) -> dict[str, Any]:
    """Write a codec of every scalar that the sky has into folder/NAME, and that of the catalogue; how well each keeps held-out
    values, by name."""
    figures, trained = {}, {"recipe": recipe.to_dict(), "digest": recipe.digest()}
    for modality in AION:
        name = str(modality.scalar) if modality.codec == "multi" else f"s_{modality.scalar}"
        if modality.codec not in ("cdf", "log", "grid", "multi") or name not in source.arrays:
            continue
        values = known(source.read(name, source.rows))
        codec = fitted(modality, values, recipe.redshifts if modality.codec == "grid" else recipe.entries)
        checkpoints.save_codec(folder / modality.folder, codec, trained | {"objects": len(values)})
        figures[modality.folder] = kept(codec, known(source.read(name, source.held_out(recipe.validation))))
    shapes = known(torch.stack([source.read(f"s_{name}", source.rows) for name in COLUMNS[2:]], 1))
    checkpoints.save_codec(folder / "catalog", catalogue(shapes, recipe.entries), trained | {"objects": len(shapes)})
    return figures


def catalogue(shapes: Tensor, entries: int) -> CatalogCodec:
    """Quantiles of e1, e2 and r (B, 3)."""
    codec = CatalogCodec(CatalogConfig(size=entries))
    for table, values in zip(codec.tables.values(), shapes.T, strict=True):
        table.values.copy_(quantiles(values, entries))  # type: ignore[union-attr,operator]
    return codec


def quantiles(values: Tensor, entries: int) -> Tensor:
    """(entries,) of values (B,), or (C, entries) of (B, C). torch.quantile takes no more than 16 million values."""
    return torch.from_numpy(np.quantile(values.numpy(), np.linspace(0, 1, entries), axis=0).T)


def known(values: Tensor) -> Tensor:
    """Rows (B, ...) without NaN."""
    return values[torch.isfinite(values.flatten(1) if values.ndim > 1 else values[:, None]).all(1)]


def fitted(modality: Modality, values: Tensor, entries: int) -> ScalarCodec:
    """A table of one modality: quantiles of values (B,) or (B, C), in what they are pressed to; none of a redshift.

    Raises ValueError if there are no values.
    """
    if not len(values):
        raise ValueError(f"the sky has no values of {modality.name}; render more objects")
    channels = values.shape[1] if values.ndim > 1 else None
    codec = ScalarCodec(ScalarConfig(modality.folder, modality.codec, entries, channels, centre=True))  # type: ignore[arg-type]
    if modality.codec == "grid":
        codec.table.values.copy_(torch.linspace(0, math.log1p(HIGHEST_REDSHIFT), entries, dtype=torch.float64).expm1())
    else:
        codec.table.values.copy_(quantiles(codec.table.squeeze.forward(values), entries))
    return codec


def kept(codec: ScalarCodec, values: Tensor) -> dict[str, float]:
    """How far decoded values are from values (B,) or (B, C): the median, and as a share of their spread."""
    if not len(values):
        return {"objects": 0}
    error = (codec.detokenize(codec.tokenize(values, saturate=True)) - values).abs()
    spread = (values - values.median(0).values).abs().median(0).values.clamp_min(1e-12)
    return {"objects": len(values), "median_error": float(error.median()),
            "share_of_spread": float((error.median(0).values / spread).median())}
