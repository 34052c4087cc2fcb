"""Folders: what belongs to one object comes together, what does not stays apart, and the history says so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image as Picture

from engine.io import read, scan


def _band(path: Path, value: float) -> None:
    hdu = fits.PrimaryHDU(np.random.default_rng(0).normal(value, 1, (8, 8)).astype("f4"))
    hdu.header.update(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=10.0, CRVAL2=5.0, CRPIX1=4.0, CRPIX2=4.0, CDELT1=-1e-5,
                      CDELT2=1e-5)
    hdu.writeto(path)


def test_bands_and_a_row_of_a_table_are_one_object(tmp_path: Path) -> None:
    for band, value in (("f115w", 1.0), ("f444w", 5.0)):
        for name in ("10983", "11097"):
            _band(tmp_path / f"ceers_{band}_{name}.fits", value)
    (tmp_path / "catalog.csv").write_text("id,ra,dec,redshift\n10983,10.0,5.0,1.5\n11097,10.0,5.0,2.5\n99999,1.0,1.0,0.5\n")
    found = {o.id: o for o in read(tmp_path)}
    assert set(found) == {"10983", "11097", "99999"}
    assert found["10983"].images[0].bands == ("F115W", "F444W") and found["10983"].scalars["z"].value == 1.5
    assert found["11097"].scalars["z"].value == 2.5 and not found["99999"].images
    assert any("joined by" in line for line in found["10983"].history)


def test_coordinates_in_names_are_no_ids(tmp_path: Path) -> None:
    names = ["10.5_-8.69756", "2.5_8.69756"]
    for name in names:
        Picture.fromarray(np.random.default_rng(1).integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / f"{name}.jpg")
    (tmp_path / "catalog.csv").write_text("filename,ra,dec\n10.5_-8.69756.jpg,10.5,-8.69756\n2.5_8.69756.jpg,2.5,8.69756\n")
    found = {o.id: o for o in read(tmp_path)}
    assert set(found) == set(names)
    assert found["2.5_8.69756"].position.dec.deg == pytest.approx(8.69756)


def test_a_source_has_one_digest_over_its_files(tmp_path: Path) -> None:
    for band in ("g", "r"):
        _band(tmp_path / f"field_{band}.fits", 1.0)
    first = list(scan(tmp_path, on_error=pytest.fail))
    assert len(first) == 1 and len(first[0].files) == 2
    assert [s.digest for s in scan(tmp_path, on_error=pytest.fail)] == [first[0].digest]
    (tmp_path / "field_r.fits").unlink()
    _band(tmp_path / "field_r.fits", 2.0)
    assert [s.digest for s in scan(tmp_path, on_error=pytest.fail)] != [first[0].digest]


@pytest.mark.parametrize("folder, objects, images, spectra", [("deep2_hst_deimos", 26, 26, 26), ("sdss_pairs", 7, 7, 7),
                                                              ("lens_surveys", 2, 2, 0), ("hsc_grizy", 2, 2, 0),
                                                              ("legacysurvey_dr9", 4, 4, 0)])
def test_real_folders(shared_data: Path, folder: str, objects: int, images: int, spectra: int) -> None:
    found = list(read(shared_data / folder))
    assert len({o.id for o in found}) == len(found) == objects
    assert sum(len(o.images) for o in found) == images and sum(len(o.spectra) for o in found) == spectra
