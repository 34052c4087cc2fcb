"""A model of the size of AION-1 base, random weights, through the product: memory, speed, and what bfloat16 costs."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from small_codecs import written

import engine
from engine import checkpoints, demo_sky, jobs
from engine.checkpoints import OmniBundle, save_aion
from engine.modalities import AION
from engine.models.omni import Omni, OmniConfig
from engine.models.processor import fast_bfloat16
from engine.store import Store

pytestmark = pytest.mark.slow
N = 12
EMBED = """
import sys
from engine import jobs
for step in jobs.embed(sys.argv[1], sys.argv[2]):
    pass
with open("/proc/self/status") as file:
    print(next(int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM")))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("base") / "aion-base-random"
    keys = [m.key for m in AION]
    save_aion(made, Omni(OmniConfig(keys, keys, norm_bias=False, qkv_bias=False, proj_bias=False, mlp_bias=False,
                                    act_layer="SiLU", gated_mlp=True, qk_norm=True)))
    for name in ("image", "spectrum"):
        shutil.copytree(written(tmp_path_factory.mktemp(name), name), made / "codecs" / name)
    return made


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sky") / "s.sky"
    Store.create(path).append(list(demo_sky.objects(3, 0, N)), ["x"] * N)
    return path


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the kernel does not tell the peak of memory")
def test_embedding_a_sky_holds_less_than_the_weights_and_a_little(folder: Path, sky: Path) -> None:
    done = subprocess.run([sys.executable, "-c", EMBED, str(sky), str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    peak, weights = float(done.stdout), (folder / "model.safetensors").stat().st_size / 2**20
    assert peak < 1.15 * weights, f"peak {peak:.0f} MB for weights of {weights:.0f} MB"


@pytest.mark.skipif(not fast_bfloat16(), reason="this processor does not multiply in bfloat16")
def test_vectors_in_bfloat16_are_near(folder: Path, sky: Path) -> None:
    list(jobs.embed(sky, folder, ["tok_image"], "alone"))
    opened, bundle = engine.open(sky), checkpoints.load(folder)
    assert isinstance(bundle, OmniBundle)
    tokens, hidden = bundle.tokenize(list(opened), ["tok_image"])
    exact = bundle.pooled(bundle.model, tokens, hidden, N, "balanced")
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    assert (opened.vectors("alone").astype(float) * exact).sum(1).min() > 0.99


def test_a_patch_is_computed_within_a_budget(folder: Path, sky: Path) -> None:
    opened = engine.open(sky)
    found = opened.patches(0, "tok_image", folder)
    assert found.shape == (24, 24, 768) and found.nbytes == 576 * 768 * 2
    assert torch.isfinite(torch.from_numpy(found.astype(np.float32))).all()
