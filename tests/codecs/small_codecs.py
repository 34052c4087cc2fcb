"""Small codecs with random weights, and folders of them as Hugging Face lays them out."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from engine.checkpoints import save_aion
from engine.checkpoints.codecs import theirs
from engine.codecs import (
    CatalogCodec,
    CatalogConfig,
    ImageCodec,
    ImageConfig,
    ScalarCodec,
    ScalarConfig,
    SegmentationCodec,
    SegmentationConfig,
    SpectrumCodec,
    SpectrumConfig,
)
from engine.modalities import MODALITIES
from engine.models.omni import Omni, OmniConfig

IMAGE = ImageConfig(width=32, projection=11, units=1)
SPECTRUM = SpectrumConfig(encoder_depths=(1, 1, 1, 1), encoder_widths=(8, 8, 16, 16), decoder_depths=(1, 1, 1, 1),
                          decoder_widths=(16, 8, 8, 2), width=16)
CONFIGS: dict[str, dict[str, Any]] = {
    "image": {"quantizer_levels": [7, 5, 5, 5, 5], "hidden_dims": 32, "multisurvey_projection_dims": 11, "num_consecutive": 1,
              "n_compressions": 2, "embedding_dim": 5, "range_compression_factor": 0.01, "mult_factor": 10.0},
    "spectrum": {"encoder_depths": [1, 1, 1, 1], "encoder_dims": [8, 8, 16, 16], "decoder_depths": [1, 1, 1, 1],
                 "decoder_dims": [16, 8, 8, 2], "latent_channels": 16, "embedding_dim": 10, "dim": 10, "codebook_size": 1024},
    "segmentation_map": {"encoder_output_dim": 16, "embedding_dim": 4, "res_hidden_dims": 8},
    "catalog": {"mask_value": 9999},
    "a_g": {"modality": "a_g", "codebook_size": 1024, "reservoir_size": 1000},
    "FLUX_G": {"modality": "FLUX_G", "codebook_size": 1024, "reservoir_size": 1000, "min_log_value": -3},
    "Z": {"modality": "Z", "codebook_size": 1024},
    "bp_coefficients": {"modality": "bp_coefficients", "codebook_size": 64, "reservoir_size": 100, "num_quantizers": 55,
                        "compression_fns": ["arcsinh"], "decompression_fns": ["sinh"]},
}


def filled(codec: Any, seed: int = 0) -> Any:
    """Random weights of a size that keeps signals alive, tables that increase."""
    generator = torch.Generator().manual_seed(seed)
    for name, value in codec.state_dict().items():
        if name.endswith("values"):
            value.copy_(torch.randn(value.shape, generator=generator).sort(-1).values)
        elif value.is_floating_point():
            noise = torch.randn(value.shape, generator=generator)
            if value.ndim > 1:
                value.copy_(noise * (1.2 / value[0].numel()) ** 0.5)
            else:
                value.copy_(1 + 0.3 * noise if name.endswith("weight") else 0.05 * noise)
            if "running_var" in name:
                value.copy_(value.abs() + 0.5)
    if isinstance(codec, SpectrumCodec):
        codec.levels.values.copy_(torch.linspace(-1, 5, len(codec.levels.values)))
    if isinstance(codec, ImageCodec):
        codec.state_dict()["readout.weight"].mul_(0.03)
    return codec.eval().requires_grad_(False)


def image_codec() -> ImageCodec:
    return filled(ImageCodec(IMAGE))


def spectrum_codec(**changes: Any) -> SpectrumCodec:
    return filled(SpectrumCodec(SpectrumConfig(**(SPECTRUM.__dict__ | changes))))


def segmentation_codec() -> SegmentationCodec:
    return filled(SegmentationCodec(SegmentationConfig(width=16, decoder_width=16, hidden=8)))


def scalar_codec(folder: str, kind: Any, channels: int | None = None) -> ScalarCodec:
    codec = filled(ScalarCodec(ScalarConfig(folder, kind, 1024, channels)))
    if kind == "grid":
        codec.table.values.copy_(torch.linspace(0, 1, 1024))
    return codec


def catalog_codec() -> CatalogCodec:
    return filled(CatalogCodec(CatalogConfig()))


def written(folder: Path, name: str, prefix: str = "_quantizer.") -> Path:
    """A codec in folder/name under the published names."""
    build: dict[str, Any] = {"image": image_codec, "spectrum": spectrum_codec, "segmentation_map": segmentation_codec,
                             "catalog": catalog_codec, "a_g": lambda: scalar_codec("a_g", "cdf"),
                             "FLUX_G": lambda: scalar_codec("FLUX_G", "log"), "Z": lambda: scalar_codec("Z", "grid"),
                             "bp_coefficients": lambda: filled(ScalarCodec(ScalarConfig("bp_coefficients", "multi", 64, 55)))}
    codec = build[name]()
    tensors = {}
    for ours, value in codec.state_dict().items():
        names = theirs(codec, ours)
        rows = value if len(names) > 1 else value[None]
        tensors |= {re.sub("^_quantizer[.]", prefix, n): row.contiguous().clone() for n, row in zip(names, rows, strict=True)}
    (folder / name).mkdir(parents=True)
    save_file(tensors, folder / name / "model.safetensors")
    (folder / name / "config.json").write_text(json.dumps(CONFIGS[name]))
    return folder / name


def bundle(folder: Path, domains: Sequence[str]) -> Path:
    """A transformer of AION-1's kind with random weights, and its codecs, in `folder`."""
    sizes = {key: (55, 64) for key in domains if key == "tok_xp_bp"}
    config = OmniConfig(tuple(domains), tuple(domains), norm_bias=False, act_layer="SiLU", dim=16, encoder_depth=1,
                        decoder_depth=1, num_heads=2, num_register_tokens=1, sizes=sizes)
    save_aion(folder, Omni(config))
    for name in {MODALITIES[key].folder for key in domains}:
        shutil.move(written(folder / "made", name), folder / "codecs" / name)
    return folder
