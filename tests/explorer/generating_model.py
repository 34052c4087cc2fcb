"""A model of AION-1's kind with random weights, and a sky of simulated objects to generate from."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from engine import demo_sky, maps
from engine.checkpoints import save_aion
from engine.embeddings import Embeddings
from engine.models.omni import Omni, OmniConfig
from engine.objects import SkyObject
from engine.store import Store

DOMAINS = ("tok_image", "tok_image_hsc", "tok_spectrum_desi", "tok_spectrum_sdss", "tok_flux_g", "tok_z")
COUNT = 8  # objects; the last has nothing


def model(folder: Path) -> Path:
    """Written as Hugging Face lays it out, with small codecs."""
    torch.manual_seed(0)
    save_aion(folder, Omni(OmniConfig(DOMAINS, DOMAINS, norm_bias=False, act_layer="SiLU", dim=64, encoder_depth=2,
                                      decoder_depth=2, num_heads=4, num_register_tokens=1)))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[1] / "codecs")
        from small_codecs import written

        for name in ("image", "spectrum", "FLUX_G", "Z"):
            shutil.move(written(folder / "made", name), folder / "codecs" / name)
    return folder


def objects() -> list[SkyObject]:
    """Simulated ones that have everything, and one with nothing."""
    some = [o for o in demo_sky.objects(3, 0, 60) if len(o.images) == 2 and len(o.spectra) == 2]
    return [*some[: COUNT - 1], SkyObject("bare")]


def sky(path: Path) -> Path:
    """Vectors are random: who is like whom does not matter here."""
    some = objects()
    store = Store.create(path)
    store.append(some, ["by hand"] * len(some))
    vectors = np.random.default_rng(0).normal(size=(len(some), 8)).astype(np.float32)
    about = {"space": "image", "checksum": "a" * 64}
    Embeddings.create(path / "embeddings" / "image", 8, {**about, "model": "none", "inputs": {}, "version": 1}).append(vectors)
    maps.fit(vectors, "pca", name="pca-image", about=about).save(path / "maps" / "pca-image")
    return path
