"""Folders: what belongs to one object comes together, what does not stays apart, and the history says so."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from PIL import Image as Picture

from engine.io import ReadError, ReadWarning, read, scan
from engine.io.folders import image_key, image_name


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


def test_light_curves_take_their_row_of_a_table(tmp_path: Path) -> None:
    for name in ("ZTF18aa", "ZTF19bb"):
        lines = "".join(f"{58000 + i},{18 + 0.1 * i},0.05,g\n" for i in range(12))
        (tmp_path / f"{name}.csv").write_text("mjd,mag,magerr,band\n" + lines)
    (tmp_path / "a_classes.csv").write_text("ZTFID,type,z\nZTF18aa,SN Ia,0.05\nZTF20cc,SN II,0.02\n")
    found = {o.id: o for o in read(tmp_path)}
    assert set(found) == {"ZTF18aa", "ZTF19bb", "ZTF20cc"}
    assert found["ZTF18aa"].scalars["type"].value == "SN Ia" and len(found["ZTF18aa"].lightcurves[0].flux) == 12
    assert found["ZTF19bb"].lightcurves and "type" not in found["ZTF19bb"].scalars and not found["ZTF20cc"].lightcurves


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


@pytest.mark.parametrize("name, expected", [
    ("hsc_ra=150.24071_dec=2.06514.fits", "hsc_ra=150.24071_dec=2.06514"),
    ("psf_hsc_ra=150.24071_dec=2.06514.fits", "hsc_ra=150.24071_dec=2.06514"),
    ("cutout_59.1067_-30.4848.fits", "59.1067_-30.4848"), ("copsf_59.1067_-30.4848.fits.gz", "59.1067_-30.4848"),
    ("ceers_f115w_10983.fits", "ceers_10983"), ("frame-r-001729-3-0012.fits.bz2", "frame-001729-3-0012"),
    ("field.g.mask.fits", "field"), ("c4d_140818_232043_ood_z_ls9.fits.fz", "c4d_140818_232043_ls9"), ("mask.fits", "mask")])
def test_names_keep_their_dots_and_signs(name: str, expected: str) -> None:
    assert image_name(Path(name)) == expected


def test_a_sign_makes_another_object() -> None:
    assert image_key(Path("10.5_-8.7_g.fits")) != image_key(Path("10.5_8.7_r.fits"))


def test_side_files_join_their_image_and_bad_files_stop_nothing(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((8, 8), bool)
    mask[2, 3] = True
    for name, array in (("im", rng.normal(size=(8, 8))), ("mask", mask), ("psf", np.ones((3, 3)) / 9),
                        ("sig", np.full((8, 8), 2.0))):
        np.save(tmp_path / f"gal1_{name}.npy", array)
    (tmp_path / "a_bad.fits").write_text("an error page")
    np.save(tmp_path / "lonely_mask.npy", mask)
    with pytest.warns(ReadWarning, match="2 files could not be read and were left out, the first: lonely_mask.npy"):
        (found,) = read(tmp_path)
    image = found.images[0]
    assert found.id == "gal1" and image.psf is not None and image.mask is not None and image.mask[0, 2, 3]
    assert image.ivar is not None and image.ivar[0, 0, 0] == pytest.approx(0.25)
    told: list[str] = []
    assert len(list(scan(tmp_path, on_error=lambda path, sentence: told.append(path.name)))) == 2 and told == ["a_bad.fits"]


def test_a_folder_of_bad_files_alone_is_an_error(tmp_path: Path) -> None:
    for name in ("a.fits", "b.fits"):
        (tmp_path / name).write_text("an error page")
    with pytest.raises(ReadError, match=r"a\.fits.*2 files"):
        list(read(tmp_path))


def test_hidden_files_and_prose_are_passed_over(tmp_path: Path) -> None:
    for name in ("README.md", "readme.txt", "LICENSE", ".DS_Store", "legacysurvey_dr10.sha256sum", "notes.pdf"):
        (tmp_path / name).write_text("words, and more words")
    (tmp_path / "table.csv").write_text("id,ra,dec\na,1,2\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert [o.id for o in read(tmp_path)] == ["a"]


def test_a_hats_catalogue_inside_a_folder(tmp_path: Path) -> None:
    for name, kind, ids in (("sky", "object", [1, 2]), ("sky_margin", "margin", [2])):
        folder = tmp_path / "deep" / name / "dataset" / "Norder=0" / "Dir=0"
        folder.mkdir(parents=True)
        Table({"id": ids, "ra": np.array(ids, float), "dec": np.array(ids, float)}).write(folder / "Npix=4.parquet")
        properties = f"dataproduct_type={kind}\nhats_col_ra=ra\nhats_col_dec=dec\n"
        (tmp_path / "deep" / name / "hats.properties").write_text(properties)
        (tmp_path / "deep" / name / "partition_info.csv").write_text("Norder,Npix\n0,4\n")
        (tmp_path / "deep" / name / "dataset" / "_metadata").write_bytes(b"PAR1")
    (tmp_path / "table.csv").write_text("id,ra,dec\na,1,2\n")
    told: list[str] = []
    sources = list(scan(tmp_path, on_error=lambda path, sentence: told.append(sentence)))
    assert sorted(o.id for s in sources for o in s.read()) == ["1", "2", "a"] and not told
    (tmp_path / "deep" / "sky" / "dataset" / "Norder=0" / "Dir=0" / "Npix=4.parquet").unlink()
    assert not list(scan(tmp_path / "deep", on_error=lambda path, sentence: told.append(sentence)))
    assert len(told) == 1 and "without partitions" in told[0]


def test_stamps_of_a_catalogue_come_with_psf_and_columns(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = (12, 15, 10)
    stamps = [rng.normal(size=(n, n + 1)) for n in sizes]
    psfs = [rng.random((n, n)) for n in (5, 7, 9)]
    for name, arrays in (("real_images", stamps), ("real_PSFs", psfs)):
        fits.HDUList([fits.PrimaryHDU(arrays[0]), *map(fits.ImageHDU, arrays[1:])]).writeto(tmp_path / f"{name}.fits")
    fits.PrimaryHDU(rng.random((9, 9))).writeto(tmp_path / "noise.fits")
    Table({"IDENT": [7, 8, 9], "RA": [150.0, 150.1, 150.2], "DEC": [2.0, 2.1, 2.2], "BAND": ["F814W"] * 3, "GAL_HDU": [2, 0, 1],
           "GAL_FILENAME": ["real_images.fits"] * 3, "PSF_HDU": [1, 2, 0], "PSF_FILENAME": ["real_PSFs.fits"] * 3,
           "PIXEL_SCALE": [0.03] * 3, "NOISE_VARIANCE": [4e-6] * 3, "NOISE_FILENAME": ["noise.fits"] * 3}).write(
        tmp_path / "real_catalog.fits")
    Table({"IDENT": [9, 7, 8], "ZPHOT": [0.9, 0.7, 0.8]}).write(tmp_path / "real_catalog_fits.fits")
    found = {o.id: o for o in read(tmp_path)}
    assert set(found) == {"7", "8", "9"}
    for id, stamp, psf, z in (("7", 2, 1, 0.7), ("8", 0, 2, 0.8), ("9", 1, 0, 0.9)):
        (image,) = found[id].images
        np.testing.assert_allclose(image.pixels[0], stamps[stamp].astype("f4"))
        np.testing.assert_allclose(image.psf[0], psfs[psf].astype("f4"))
        assert image.survey == "hst-acs" and image.bands == ("F814W",) and image.pixel_scale == pytest.approx(0.03)
        assert image.ivar[0, 0, 0] == pytest.approx(2.5e5) and found[id].scalars["z_phot"].value == pytest.approx(z)


@pytest.mark.parametrize("folder, objects, images, spectra", [("deep2_hst_deimos", 26, 26, 26), ("sdss_pairs", 7, 7, 7),
                                                              ("lens_surveys", 2, 2, 0), ("hsc_grizy", 2, 2, 0),
                                                              ("legacysurvey_dr9", 4, 4, 0)])
def test_real_folders(shared_data: Path, folder: str, objects: int, images: int, spectra: int) -> None:
    found = list(read(shared_data / folder))
    assert len({o.id for o in found}) == len(found) == objects
    assert sum(len(o.images) for o in found) == images and sum(len(o.spectra) for o in found) == spectra
