"""JPEG and PNG pictures: never calibrated, first row at the bottom, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from engine.io.errors import ReadError
from engine.io.pictures import read_file


def test_rows_are_turned_over(tmp_path: Path) -> None:
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 1] = (255, 100, 50)  # in the top row
    Picture.fromarray(pixels).save(tmp_path / "1237.5_-3.2.png")
    (found,) = read_file(tmp_path / "1237.5_-3.2.png")
    image = found.images[0]
    assert found.id == "1237.5_-3.2" and image.bands == ("R", "G", "B") and image.pixels.shape == (3, 4, 6)
    assert image.pixels[:, 3, 1].tolist() == [255, 100, 50] and not image.calibrated and image.unit is None
    assert any("turned over" in line for line in image.history)


def test_grey_palette_and_transparent_pictures(tmp_path: Path) -> None:
    Picture.fromarray(np.full((5, 5), 7, np.uint8)).save(tmp_path / "grey.png")
    Picture.fromarray(np.full((5, 5, 4), 9, np.uint8)).save(tmp_path / "alpha.png")
    assert next(read_file(tmp_path / "grey.png")).images[0].bands == ("grey",)
    assert next(read_file(tmp_path / "alpha.png")).images[0].pixels.shape == (3, 5, 5)


def test_real_pictures(shared_data: Path) -> None:
    files = sorted((shared_data / "sdss_pairs" / "images").iterdir())
    found = [o for f in files for o in read_file(f)]
    assert len(found) == 7 and all(o.images[0].survey == "sdss" and not o.images[0].calibrated for o in found)
    assert found[0].id == files[0].stem
    spiral = sorted((shared_data / "sdss_spirals_jpeg" / "jpeg").iterdir())[0]
    assert next(read_file(spiral)).images[0].pixels.shape == (3, 120, 120)


def test_too_many_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Picture.fromarray(np.zeros((50, 50), np.uint8)).save(tmp_path / "huge.png")
    for limit in (2000, 100):  # Pillow warns above the limit and refuses above twice the limit: both are refused here
        monkeypatch.setattr(Picture, "MAX_IMAGE_PIXELS", limit)
        with pytest.raises(ReadError, match=r"huge\.png has|huge\.png: has"):
            list(read_file(tmp_path / "huge.png"))


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\xff\xd8\xff\xe0broken", b"\x89PNG\r\n\x1a\n"])
def test_foreign_and_cut_off(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.jpg").write_bytes(content)
    with pytest.raises(ReadError, match=r"x\.jpg"):
        list(read_file(tmp_path / "x.jpg"))


def test_corrupted_at_random_only_read_errors(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    for kind in ("jpg", "png"):
        Picture.fromarray(rng.integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(tmp_path / f"w.{kind}")
    refused = 0
    for i in range(120):
        kind = ("jpg", "png")[i % 2]
        raw = bytearray((tmp_path / f"w.{kind}").read_bytes())
        raw = raw[:rng.integers(1, len(raw))] if i % 3 == 0 else raw
        for at in rng.integers(0, len(raw), 4):
            raw[at] = rng.integers(256)
        (tmp_path / f"damaged.{kind}").write_bytes(raw)
        try:
            assert len(list(read_file(tmp_path / f"damaged.{kind}"))) == 1
        except ReadError as problem:
            assert "damaged." in str(problem)
            refused += 1
    assert refused > 20
