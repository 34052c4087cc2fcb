"""Turned objects as tokens: those of turned measurements, stored beside the others and read for training."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from small_codecs import catalog_codec, image_codec, scalar_codec

from engine import demo_sky
from engine.augment import WAYS, turned
from engine.objects import Catalog, Image, Scalar, SkyObject


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
