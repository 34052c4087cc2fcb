"""A whole model of AION-1's kind, small and random: objects to vectors, and through a sky."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_codecs import written

import engine
from engine import checkpoints, demo_sky, jobs
from engine.checkpoints import OmniBundle, save_aion
from engine.codecs import CodecWarning
from engine.models.omni import Omni, OmniConfig
from engine.objects import Scalar, SkyObject
from engine.store import Store

DOMAINS = ("tok_image", "tok_image_hsc", "tok_spectrum_desi", "tok_flux_g", "tok_z", "catalog")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bundle") / "aion-small"
    sizes = OmniConfig(DOMAINS, DOMAINS, norm_bias=False, act_layer="SiLU", dim=32, encoder_depth=1, decoder_depth=1,
                       num_heads=4, num_register_tokens=2)
    save_aion(made, Omni(sizes))
    for name in ("image", "spectrum", "FLUX_G", "Z", "catalog"):
        shutil.copytree(written(tmp_path_factory.mktemp(name), name), made / "codecs" / name)
    return made


@pytest.fixture(scope="module")
def bundle(folder: Path) -> OmniBundle:
    found = checkpoints.load(folder)
    assert isinstance(found, OmniBundle)
    return found


@pytest.fixture(scope="module")
def objects() -> list[SkyObject]:
    return list(demo_sky.objects(3, 0, 6))


def test_the_answer_is_no_input_unless_it_is_named(bundle: OmniBundle, objects: list[SkyObject]) -> None:
    assert bundle.measured == ("tok_image", "tok_image_hsc", "tok_spectrum_desi", "tok_flux_g")
    tokens, _ = bundle.tokenize(objects)
    assert list(tokens) == list(bundle.measured) and tokens["tok_image"].shape == (6, 576)
    other = [SkyObject(o.id, o.position, o.images, o.spectra, scalars={**o.scalars, "z": Scalar(0.9)}) for o in objects]
    np.testing.assert_array_equal(bundle.embed(objects), bundle.embed(other))
    assert not np.allclose(bundle.embed(objects, ["tok_z", "tok_image"]), bundle.embed(other, ["tok_z", "tok_image"]))


def test_pools_count_real_tokens_only(bundle: OmniBundle, objects: list[SkyObject]) -> None:
    inputs = ["tok_image", "tok_flux_g"]
    faint = SkyObject("faint", images=objects[1].images)  # no flux
    encoded = bundle.embed([objects[0], faint], inputs, pool="none")
    own = {key: encoded.context[:, encoded.slices[key]] for key in inputs}
    assert encoded.visible[1].sum() == encoded.slices["registers"].stop + 576
    mean, balanced = (bundle.embed([objects[0], faint], inputs, pool=pool) for pool in ("mean", "balanced"))
    tokens = torch.cat([own["tok_image"], own["tok_flux_g"]], 1)
    np.testing.assert_allclose(mean[0], tokens[0].mean(0), atol=1e-5)
    np.testing.assert_allclose(balanced[0], (own["tok_image"][0].mean(0) + own["tok_flux_g"][0].mean(0)) / 2, atol=1e-5)
    for pooled in (mean, balanced):
        np.testing.assert_allclose(pooled[1], own["tok_image"][1].mean(0), atol=1e-5)


def test_a_row_depends_on_its_object_alone(bundle: OmniBundle, objects: list[SkyObject]) -> None:
    bare = [SkyObject("nothing"), SkyObject("flux", scalars={"flux_g": Scalar(3.0, unit="nmgy")})]
    together = bundle.embed([*objects, *bare])
    for row, thing in enumerate([*objects, *bare]):
        np.testing.assert_allclose(together[row : row + 1], bundle.embed([thing]), atol=1e-5)
    assert np.isnan(together[-2]).all() and np.isfinite(together[-1]).all()


def test_what_does_not_fit_is_named(bundle: OmniBundle, objects: list[SkyObject]) -> None:
    with pytest.raises(KeyError, match="'tok_ebv': aion-small has no such input"):
        bundle.embed(objects, ["tok_ebv"])
    with pytest.raises(ValueError, match="pool is 'max'"):
        bundle.embed(objects, pool="max")  # type: ignore[arg-type]
    odd = SkyObject("odd", scalars={"flux_g": Scalar(3.0, unit="Angstrom")})
    with pytest.warns(CodecWarning, match="odd goes without tok_flux_g"):
        found = bundle.embed([objects[0], odd], ["tok_flux_g"])
    assert np.isfinite(found[0]).all() and np.isnan(found[1]).all()


def test_a_sky_is_embedded_and_its_spaces_are_honest(folder: Path, objects: list[SkyObject], tmp_path: Path) -> None:
    store = Store.create(tmp_path / "s.sky")
    store.append(objects, ["x"] * len(objects))
    assert list(jobs.prepare(store.path, folder))[-1].fraction == 1
    sky = engine.open(store.path)
    assert sky.spaces == ("image", "spectrum") and "umap-image" in sky.maps
    manifest = json.loads((store.path / "embeddings" / "image" / "manifest.json").read_text())
    assert manifest["inputs"] == {"modalities": ["tok_image", "tok_image_hsc"], "pool": "balanced"}
    assert len(sky.near(sky.ids[0], "image", "image", k=3).ids) == 3
    with pytest.raises(ValueError, match="image and spectrum vectors of aion-small lie in spaces of their own"):
        sky.near(sky.ids[0], "image", "spectrum")
