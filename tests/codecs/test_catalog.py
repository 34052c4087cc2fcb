"""Catalogues: columns to ids, ids to sequences, and every way back."""

from __future__ import annotations

import astropy.units as u
import numpy as np
import pytest
import torch
from small_codecs import catalog_codec

from engine.codecs import CodecWarning
from engine.objects import Catalog, Image, SkyObject

NAN = float("nan")


def columns(count: int, seed: int = 0) -> list[torch.Tensor]:
    """x, y, e1, e2, r, (2, count) each."""
    generator = torch.Generator().manual_seed(seed)
    place = torch.randint(0, 96, (2, 2, count), generator=generator).float()
    return [*place, *torch.randn(3, 2, count, generator=generator)]


def test_ranges_and_order() -> None:
    codec = catalog_codec()
    assert codec.ranges == (0, 96, 192, 1216, 2240, 3264)
    ids = codec.tokenize(*columns(3)).unflatten(1, (3, 5))
    for i, (low, high) in enumerate(zip(codec.ranges[:-1], codec.ranges[1:], strict=True)):
        assert bool(((ids[..., i] >= low) & (ids[..., i] < high)).all())


@pytest.mark.parametrize("absent", [9999.0, NAN])
def test_absent_sources(absent: float) -> None:
    codec = catalog_codec()
    given = columns(3)
    for c in given:
        c[0, 1] = absent
    ids = codec.tokenize(*given)
    assert ids[0, 5:10].tolist() == [9999] * 5 and (ids == 9999).sum() == 5
    back = codec.detokenize(ids)
    assert all(bool(c[0, 1].isnan()) and int(c.isnan().sum()) == 1 for c in back)
    assert torch.equal(back[0].nan_to_num(9999), given[0].nan_to_num(9999))
    given[3][1, 2] = absent
    with pytest.raises(ValueError, match="source 2 of object 1 lacks shape_e2"):
        codec.tokenize(*given)


def test_sequences_for_the_transformer() -> None:
    codec = catalog_codec()
    ids = codec.tokenize(*columns(20))
    ids[0, 10:95] = 9999  # three sources, the last one late
    sequence = codec.to_sequence(ids)
    assert sequence.shape == (2, 50) and sequence.max() < 3468
    assert sequence[0, 0] == 2 and sequence[0, 16] == 3 and bool((sequence[0, 17:] == 0).all())
    assert torch.equal(sequence[0, 11:16], ids[0, 95:] + 204)
    assert sequence[1, 46] == 3 and torch.equal(sequence[1, 1:46], ids[1, :45] + 204)  # nine whole ones fit
    back = codec.from_sequence(sequence)
    assert back.shape == (2, 100)
    assert torch.equal(back[0, :15], torch.cat([ids[0, :10], ids[0, 95:]])) and bool((back[0, 15:] == 9999).all())
    assert torch.equal(back[1, :45], ids[1, :45])
    assert codec.from_sequence(sequence, sources=2).shape == (2, 10)
    assert torch.equal(codec.from_sequence(sequence[:, 1:13])[0, :10], back[0, :10])  # no start, no end, a source cut off


def test_ids_that_cannot_be() -> None:
    codec = catalog_codec()
    ids = codec.tokenize(*columns(2))
    ids[1, 7] = 5
    with pytest.raises(ValueError, match="id 5 of source 1 of object 1 is not of shape_e1, whose ids go from 192 to 1215"):
        codec.detokenize(ids)
    left = codec.detokenize(ids, malformed="absent")
    assert bool(left[0][1, 1].isnan()) and not bool(left[0][0].isnan().any())
    with pytest.raises(ValueError, match="id 4000 is not of a catalogue"):
        codec.to_sequence(torch.full((1, 5), 4000))
    with pytest.raises(ValueError, match="id 7 in sequence 0 is not of a catalogue; those go from 204 to 3467"):
        codec.from_sequence(torch.tensor([[2, 7, 300, 301, 302, 303, 3]]))
    with pytest.raises(ValueError, match=r"\(B, 5 L\)"):
        codec.detokenize(torch.zeros(1, 7).long())


@pytest.mark.parametrize(("column", "value", "message"), [
    (0, 96.0, "off the 96 x 96 stamp"), (1, -1.0, "off the 96 x 96 stamp"), (4, float("inf"), "infinite"),
])
def test_values_that_cannot_be(column: int, value: float, message: str) -> None:
    given = columns(2)
    given[column][0, 1] = value
    with pytest.raises(ValueError, match=message):
        catalog_codec().tokenize(*given)


def scene(count: int, units: dict[str, str] | None = None, size: int = 96, **more: object) -> SkyObject:
    generator = np.random.default_rng(count)
    values = {"x": generator.uniform(0, size - 1, count), "y": generator.uniform(0, size - 1, count),
              "shape_e1": generator.normal(size=count), "shape_e2": generator.normal(size=count),
              "shape_r": generator.uniform(0, 2, count)}
    image = Image(np.zeros((1, size, size), np.float32), ("g",), "legacy")
    return SkyObject(f"scene-{count}", images=(image,), catalog=Catalog(values, units or {"shape_r": "arcsec"}), **more)  # type: ignore[arg-type]


def test_objects_there_and_back() -> None:
    codec = catalog_codec()
    objects = [scene(3), scene(0), scene(20)]
    ids = codec.encode(objects)
    assert ids.dtype == torch.int16 and ids.shape == (3, 100)
    found = codec.decode(ids)
    assert [len(c) for c in found] == [3, 0, 20] and found[0].units["shape_r"] == u.arcsec
    np.testing.assert_allclose(found[0].columns["x"], np.round(objects[0].catalog.columns["x"]))
    assert len(codec.decode(codec.encode(objects[0]))) == 3
    minutes = scene(3, {"shape_r": "arcmin"})
    assert not torch.equal(codec.encode(minutes), codec.encode(scene(3)))


def test_objects_that_do_not_fit() -> None:
    codec = catalog_codec()
    with pytest.warns(CodecWarning, match="scene-30: more than 20 sources"):
        assert codec.encode(scene(30)).shape == (100,)
    large = scene(19, size=160)  # positions count from the corner of the cutout, tokens from that of its middle
    inside = [abs(np.round(large.catalog.columns[c]) - 79.5) < 48 for c in "xy"]
    assert len(codec.decode(codec.encode(large))) == (inside[0] & inside[1]).sum()
    with pytest.raises(KeyError, match="object a has no catalogue"):
        codec.encode(SkyObject("a"))
    with pytest.raises(KeyError, match="no shape_e1"):
        codec.encode(SkyObject("a", catalog=Catalog({"x": np.zeros(1), "y": np.zeros(1)})))
    with pytest.raises(ValueError, match="shape_r of the catalogue of object scene-2 is in nmgy"):
        codec.encode(scene(2, {"shape_r": "nmgy"}))
