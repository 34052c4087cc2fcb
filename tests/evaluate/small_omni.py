"""A model of AION-1's kind with random weights and compact codecs, small enough to be measured in a test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from engine.checkpoints import save_aion, save_codec
from engine.checkpoints.tokenizers import config_of
from engine.codecs import CompactConfig, CompactImageCodec, SpectrumCodec
from engine.modalities import AION
from engine.models.omni import Omni
from engine.simulate import render
from engine.train.codec_recipes import TINY_SPECTRUM
from engine.train.codec_tables import fitted

SCALARS = ("flux_g", "flux_r", "flux_i", "flux_z", "z")


def written(folder: Path, entries: int = 64) -> Path:
    """A bundle in `folder`: images, spectra, fluxes and redshift."""
    torch.manual_seed(0)
    image = CompactImageCodec(CompactConfig(levels=(8, 5, 5, 6), width=16, blocks=1)).eval().requires_grad_(False)
    save_codec(folder / "codecs" / "image", image, {})
    spectrum = SpectrumCodec(TINY_SPECTRUM).eval().requires_grad_(False)
    spectrum.levels.values.copy_(torch.linspace(0, 3, len(spectrum.levels.values)))
    save_codec(folder / "codecs" / "spectrum", spectrum, {})
    sky = render(1, torch.arange(32))
    for m in AION:
        if m.scalar in SCALARS and m.codec in ("log", "grid"):
            values = sky[f"s_{m.scalar}"]
            save_codec(folder / "codecs" / m.folder, fitted(m, values[torch.isfinite(values)], entries), {})
    config = config_of(folder)
    save_aion(folder, Omni(replace(config, dim=16, encoder_depth=1, decoder_depth=1, num_heads=2)))
    return folder
