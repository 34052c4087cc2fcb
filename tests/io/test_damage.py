"""Damaged files: the right object or one sentence with the file's name, quickly and in little memory. Seeded."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from engine.io import ReadError, read


def _image(path: Path) -> None:
    rng = np.random.default_rng(0)
    hdus = [fits.PrimaryHDU(rng.normal(size=(20, 20)).astype("f4")), fits.ImageHDU(np.ones((20, 20), "f4"), name="IVAR"),
            fits.ImageHDU(np.zeros((20, 20), "i4"), name="MASK")]
    hdus[0].header.update(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=10.0, CRVAL2=5.0, CRPIX1=4.0, CRPIX2=4.0, CDELT1=-1e-5,
                          CDELT2=1e-5, FILTER="r", BUNIT="nanomaggy")
    fits.HDUList(hdus).writeto(path)


def _spectrum(path: Path) -> None:
    n = 300
    coadd = Table({"flux": np.ones(n, "f4"), "loglam": (3.6 + 1e-4 * np.arange(n)).astype("f4"), "ivar": np.ones(n, "f4"),
                   "and_mask": np.zeros(n, "i4")})
    row = Table({"PLATE": [1], "MJD": [2], "FIBERID": [3], "CLASS": ["GALAXY"], "Z": [0.1], "Z_ERR": [1e-4], "ZWARNING": [0]})
    fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(coadd, name="COADD"),
                  fits.BinTableHDU(row, name="SPECOBJ")]).writeto(path)


def _table(path: Path) -> None:
    rows = Table({"ID": np.arange(40), "RA": np.linspace(0, 9, 40), "DEC": np.linspace(0, 9, 40),
                  "Z_SPEC": np.linspace(0, 1, 40),
                  "NAME": [f"object {i}" for i in range(40)], "COEFF": np.ones((40, 5), "f4")})
    rows.write(path)


MAKERS: dict[str, Callable[[Path], None]] = {"image": _image, "spectrum": _spectrum, "table": _table}
KEYS = (b"NAXIS   =", b"NAXIS1  =", b"NAXIS2  =", b"PCOUNT  =", b"GCOUNT  =", b"TFIELDS =", b"BITPIX  =", b"TFORM1  =",
        b"CRVAL1  =")


def _damage(raw: bytes, rng: random.Random) -> bytes:
    """The bytes cut off, overwritten, with NaN everywhere, with one absurd value in a header, or gzip that ends too soon."""
    data = bytearray(raw)
    kind = rng.choice(("cut", "bytes", "text", "nan", "header", "gzip"))
    if kind == "cut":
        return bytes(data[:rng.randrange(len(data))])
    if kind in ("bytes", "text"):
        for _ in range(30):
            data[rng.randrange(len(data) if kind == "bytes" else 5760)] = rng.randrange(32, 127 if kind == "text" else 256)
    elif kind == "nan":
        at = rng.randrange(2880, len(data))
        data[at:] = (b"\x7f\xc0\x00\x00" * (len(data) // 4 + 1))[:len(data) - at]
    elif kind == "header":
        at = data.find(rng.choice(KEYS), rng.randrange(len(data) // 2))
        if at >= 0:
            data[at + 10:at + 30] = str(rng.choice((10**9, 10**15, 2**31, -5, 0, 7, "'1PE(99)'", "NaN"))).rjust(20).encode()
    else:
        packed = gzip.compress(bytes(data), 1)
        return packed[:rng.randrange(1, len(packed))]
    return bytes(data)


@pytest.mark.parametrize("kind", MAKERS)
def test_damage_gives_objects_or_one_sentence(kind: str, tmp_path: Path) -> None:
    MAKERS[kind](tmp_path / "whole.fits")
    raw = (tmp_path / "whole.fits").read_bytes()
    rng = random.Random(kind)
    path = tmp_path / "damaged.fits"
    refused = 0
    for _ in range(120):
        path.write_bytes(_damage(raw, rng))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                list(read(path))
        except ReadError as problem:  # anything else fails the test
            refused += 1
            assert "damaged.fits" in str(problem) and "\n" not in str(problem) and len(str(problem)) < 500
    assert refused > 30  # the damage was damage


@pytest.mark.parametrize("key, value", [("NAXIS2", 4_000_000_000), ("NAXIS1", 10**12), ("PCOUNT", 10**15), ("NAXIS2", -1)])
def test_absurd_tables_eat_no_memory(key: str, value: int, tmp_path: Path) -> None:
    _table(tmp_path / "table.fits")
    data = bytearray((tmp_path / "table.fits").read_bytes())
    at = data.index(f"{key:8s}=".encode(), 2880)
    data[at + 10:at + 30] = str(value).rjust(20).encode()
    (tmp_path / "table.fits").write_bytes(data)
    tracemalloc.start()
    with pytest.raises(ReadError, match=r"table\.fits"):
        list(read(tmp_path / "table.fits"))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50 << 20


def test_an_absurd_image_eats_no_memory(tmp_path: Path) -> None:
    _image(tmp_path / "image.fits")
    data = bytearray((tmp_path / "image.fits").read_bytes())
    at = data.index(b"NAXIS1  =")
    data[at + 10:at + 30] = str(10**9).rjust(20).encode()
    (tmp_path / "image.fits").write_bytes(data)
    with pytest.raises(ReadError, match=r"image.fits.*cut off"):
        list(read(tmp_path / "image.fits"))


@pytest.mark.parametrize("content, said", [(b"", "empty"), (b"<html>404</html>", "not FITS"), (b"SIMPLE  =", "FITS"),
                                           (gzip.compress(b"x" * 99, mtime=0)[:20], "cut off|cannot be opened|not FITS")])
def test_no_fits_at_all(content: bytes, said: str, tmp_path: Path) -> None:
    (tmp_path / "download.fits").write_bytes(content)
    with pytest.raises(ReadError, match=rf"(?s)download.fits.*({said})"):
        list(read(tmp_path / "download.fits"))


def test_a_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from engine.io import fits_files

    monkeypatch.setattr(fits_files.unpacked, "__defaults__", (1 << 20,))
    (tmp_path / "bomb.fits.gz").write_bytes(gzip.compress(b"SIMPLE  =" + b" " * (4 << 20)))
    with pytest.raises(ReadError, match=r"bomb\.fits\.gz:? unpacks to more"):
        list(read(tmp_path / "bomb.fits.gz"))


@pytest.mark.parametrize("missing", ["loglam", "flux"])
def test_spectra_without_a_column(missing: str, tmp_path: Path) -> None:
    _spectrum(tmp_path / "spec.fits")
    with fits.open(tmp_path / "spec.fits") as hdus:
        coadd = Table(hdus["COADD"].data)
        coadd.remove_column(missing)
        fits.HDUList([fits.PrimaryHDU(), fits.BinTableHDU(coadd, name="COADD")]).writeto(tmp_path / "less.fits")
    with pytest.raises(ReadError, match=r"less.fits.*not both wavelength and flux"):
        list(read(tmp_path / "less.fits"))
