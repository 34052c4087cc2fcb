"""Codecs that we trained, in a folder: config.json with a "kind" and the fields of the codec's config, model.safetensors."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from engine.checkpoints.tensors import read_tensors, write_tensors
from engine.codecs import (
    CatalogCodec,
    CatalogConfig,
    Codec,
    CompactConfig,
    CompactImageCodec,
    ScalarCodec,
    ScalarConfig,
    SegmentationCodec,
    SegmentationConfig,
    SpectrumCodec,
    SpectrumConfig,
)
from engine.codecs.quantizers import Table

OURS: dict[str, tuple[Callable[[Any], Codec], Callable[..., Any]]] = {
    "compact": (CompactImageCodec, CompactConfig), "spectrum": (SpectrumCodec, SpectrumConfig),
    "segmentation": (SegmentationCodec, SegmentationConfig), "scalar": (ScalarCodec, ScalarConfig),
    "catalog": (CatalogCodec, CatalogConfig)}


def save_codec(folder: str | Path, codec: Codec, trained: Mapping[str, Any]) -> None:
    """Write a codec that we trained. trained: how (plain values), kept in config.json beside the sizes.

    Matrices are written in float16, at half the size: `halved` gives the codec that will be read.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    kind = next(kind for kind, (build, _) in OURS.items() if type(codec) is build)
    write_tensors(folder / "model.safetensors", {name: value.half() if is_matrix(name, value) else value
                                                 for name, value in codec.state_dict().items()})
    content = {"kind": kind, **asdict(codec.config), "trained": dict(trained)}
    part = folder / "config.json.part"
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(folder / "config.json")


def is_matrix(name: str, value: Tensor) -> bool:
    """Tables of measured values are none: they keep all their digits."""
    return value.is_floating_point() and value.ndim > 1 and not name.endswith("values")


def halved(codec: torch.nn.Module) -> None:
    """Round the matrices of a codec to what `save_codec` writes, in place."""
    with torch.no_grad():
        for name, value in codec.state_dict().items():
            if is_matrix(name, value):
                value.copy_(value.half())


def own_codec(config: Mapping[str, Any], folder: Path) -> Codec:
    """A codec that `save_codec` wrote. Raises ValueError as `load_codec` says."""
    content = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items() if k != "trained"}
    kind = content.pop("kind")
    if kind not in OURS:
        raise ValueError(f"{folder / 'config.json'} is of the kind {kind!r}; codecs of ours are {', '.join(OURS)}")
    build, sizes_of = OURS[kind]
    try:
        codec = build(sizes_of(**content))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder / 'config.json'} does not describe a {kind} codec: {error}") from error
    read_tensors(folder / "model.safetensors", codec)
    for name, table in codec.named_modules():
        if isinstance(table, Table) and not rises(table.values):
            raise ValueError(f"{folder / 'model.safetensors'}: {name}.values is not a table of numbers that increase")
    return codec.eval().requires_grad_(False)


def rises(values: Tensor) -> bool:
    """Whether all are finite and none is below the one before."""
    return bool(values.isfinite().all() & (values.diff() >= 0).all())
