"""The code on docs/aion.md runs as it is written there."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from small_codecs import written

from engine import demo_sky
from engine.checkpoints import save_aion
from engine.models.omni import Omni, OmniConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "aion.md"


def test_from_a_file_to_logits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    domains = ("tok_image", "tok_z")
    save_aion(tmp_path / "aion-base", Omni(OmniConfig(domains, domains, norm_bias=False, act_layer="SiLU", dim=32,
                                                      encoder_depth=1, decoder_depth=1, num_heads=4)))
    for name in ("image", "Z"):
        shutil.copytree(written(tmp_path / f"made-{name}", name), tmp_path / "aion-base" / "codecs" / name)
    image = next(iter(demo_sky.objects(3, 0, 1))).image("legacy")
    assert image is not None and isinstance(image.wcs, WCS)
    header = image.wcs.to_header()
    header["BANDS"], header["BUNIT"] = "griz", "nanomaggy"
    fits.writeto(tmp_path / "galaxy.fits", np.asarray(image.pixels, np.float32), header)

    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    names: dict[str, Any] = {}
    monkeypatch.chdir(tmp_path)
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert len(blocks) == 1 and names["ids"].shape == (1, 576)
    assert names["encoded"].context.shape == (1, 576, 32) and names["encoded"].visible.all()
    assert names["logits"].shape == (1, 1, 1025) and names["vector"].shape == (1, 32) and np.isfinite(names["vector"]).all()


@pytest.mark.parametrize("path", re.findall(r"`((?:engine|tests)/[\w/.]+)`", PAGE.read_text(encoding="utf-8")))
def test_the_rooms_it_names_are_there(path: str) -> None:
    assert (PAGE.parents[1] / path).exists()
