"""Turned objects as tokens: those of turned measurements, stored beside the others and read for training."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from small_codecs import catalog_codec, image_codec, scalar_codec, written
from typer.testing import CliRunner

from engine import checkpoints, demo_sky, jobs
from engine.augment import WAYS, turned
from engine.checkpoints import save_aion
from engine.cli import app
from engine.models.omni import Omni, OmniConfig
from engine.objects import Catalog, Image, Scalar, SkyObject
from engine.records import Records
from engine.store import Store


@pytest.mark.parametrize("way", WAYS)
def test_tokens_of_a_turned_object_are_those_of_turned_measurements(way: tuple[int, bool]) -> None:
    codec = image_codec()
    some = list(demo_sky.objects(3, 0, 3))
    for survey in ("legacy", "hsc"):
        before = [i for o in some if (i := o.image(survey)) is not None]
        moved = [np.rot90(np.where(i.mask, 0, i.pixels), -way[0], (-2, -1)) for i in before]  # rows run north, columns west
        moved = [m[..., ::-1] if way[1] else m for m in moved]
        plain = [SkyObject("o", images=(Image(m, i.bands, survey, unit=i.unit, pixel_scale=i.pixel_scale),))
                 for m, i in zip(moved, before, strict=True)]
        ours = codec.encode([turned(o, *way) for o in some], survey=survey)
        assert torch.equal(ours, codec.encode(plain, survey=survey))
        if way != WAYS[0]:
            assert not torch.equal(ours, codec.encode(some, survey=survey))


@pytest.mark.parametrize("way", WAYS)
def test_tokens_of_turned_shapes(way: tuple[int, bool]) -> None:
    columns = {"x": np.array([3.0, 30.0]), "y": np.array([20.0, 7.0]), "shape_e1": np.array([0.1, 0.2]),
               "shape_e2": np.array([-0.3, 0.4]), "shape_r": np.array([1.0, 2.0])}
    thing = SkyObject("o", scalars={"shape11": Scalar(0.2), "shape22": Scalar(1.5), "shape12": Scalar(0.4)},
                      catalog=Catalog(columns, {"shape_r": "arcsec"}))
    after = turned(thing, *way)
    sign1, sign2 = (-1) ** way[0], (-1) ** (way[0] + way[1])
    x, y = columns["x"], columns["y"]
    for _ in range(way[0]):
        x, y = 95 - y, x
    x = 95 - x if way[1] else x
    codec = catalog_codec()
    e1, e2 = sign1 * columns["shape_e1"], sign2 * columns["shape_e2"]
    there = [torch.from_numpy(a)[None] for a in (x, y, e1, e2, columns["shape_r"])]
    assert codec.encode(after)[:10].tolist() == codec.tokenize(*there)[0].tolist()
    expected = {"11": (0.2, 1.5)[way[0] % 2], "22": (1.5, 0.2)[way[0] % 2], "12": sign2 * 0.4}
    for ij, value in expected.items():
        table = scalar_codec(f"i_sdssshape_shape{ij}", "cdf")
        assert table.tokenize(after.scalars[f"shape{ij}"].value) == table.tokenize(value)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of AION-1's kind with small codecs."""
    domains = ("tok_image", "tok_spectrum_desi", "tok_flux_g", "catalog")
    made = tmp_path_factory.mktemp("bundle") / "aion-small"
    save_aion(made, Omni(OmniConfig(domains, domains, norm_bias=False, act_layer="SiLU", dim=32, encoder_depth=1,
                                    decoder_depth=1, num_heads=4)))
    for name in ("image", "spectrum", "FLUX_G", "catalog"):
        shutil.copytree(written(tmp_path_factory.mktemp(name), name), made / "codecs" / name)
    return made


def test_copies_are_stored_beside_the_objects(folder: Path, tmp_path: Path) -> None:
    some = list(demo_sky.objects(3, 0, 6))
    sky = tmp_path / "s.sky"
    Store.create(sky, lossless=True).append([*some, SkyObject("bare")], ["x"] * 7)
    steps = jobs.tokenize(sky, folder, copies=2)
    next(steps)
    steps.close()  # type: ignore[attr-defined]
    done = CliRunner().invoke(app, ["tokenize", str(sky), "--model", str(folder), "--copies", "2"])
    assert done.exit_code == 0 and "6 have tok_image@2" in done.output, done.output
    names = {path.name for path in (sky / "tokens").iterdir()}
    assert names == {"tok_image", "tok_image@1", "tok_image@2", "tok_spectrum_desi", "tok_flux_g",
                     "catalog", "catalog@1", "catalog@2"}, "what does not change has no copies"
    bundle = checkpoints.load(folder)
    assert isinstance(bundle, checkpoints.OmniBundle)
    for way in (1, 2):
        records = Records.open(sky / "tokens" / f"tok_image@{way}")
        expected = bundle.ids("tok_image", [turned(Store(sky).read(row), *WAYS[way]) for row in range(6)])[1]
        assert np.array_equal(records.values, expected.numpy()) and records.rows.tolist() == list(range(6))
        assert records.reach == 7 and records.manifest["turned"] == {"quarter turns": way, "flipped": False}
    assert not np.array_equal(records.values, Records.open(sky / "tokens" / "tok_image").values)
    done = CliRunner().invoke(app, ["tokenize", str(sky), "--model", str(folder), "--copies", "8"])
    assert done.exit_code == 2
    with pytest.raises(ValueError, match="7 other ways, so there are no 9 copies"):
        list(jobs.tokenize(sky, folder, copies=9))
