"""`omnisky generate`: FITS files of what a model made, for one object and for a whole sky, and what readers find in them."""

from __future__ import annotations

import inspect
import json
import shutil
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from typer.testing import CliRunner

from engine import checkpoints, cli, demo_sky, generation, io, jobs, modalities
from engine.cli import app
from engine.generation import Settings, exports
from engine.objects import SkyObject
from engine.store import Store

sys.path.insert(0, str(Path(__file__).parent / "codecs"))
import small_codecs

DOMAINS = ("tok_image", "tok_image_hsc", "tok_spectrum_desi", "tok_xp_bp", "tok_flux_g", "tok_z", "catalog", "tok_segmap")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_codecs.bundle(tmp_path_factory.mktemp("bundle") / "aion-small", DOMAINS)


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = Store.create(tmp_path_factory.mktemp("sky") / "four.sky")
    things = [*demo_sky.objects(3, 0, 3), SkyObject("bare/one")]
    store.append(things, ["a"] * len(things))
    return store.path


def omnisky(*arguments: Any) -> Any:
    return CliRunner().invoke(app, [str(a) for a in ("generate", *arguments)], env={"COLUMNS": "200", "NO_COLOR": "1"})


def test_an_image_with_wcs_units_spread_and_seeds(model: Path, sky: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "x.fits"
    done = omnisky(sky, "--object", "demo-000001", "--target", "hsc_image", "--samples", 3, "--out", out, "--model", model,
                   "--inputs", "tok_image,tok_flux_g", "--steps", 2, "--seed", 7, "--temperature", 0.9, "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["file"] == str(out)
    bundle = checkpoints.load(model)
    with fits.open(out, checksum=True) as hdus:
        head = hdus[0].header
        assert head["GENERATED"] is True and head["MODEL"] == "aion-small" and head["CHECKSM"] == bundle.checksum
        assert (head["SEED"], head["NSAMPLES"], head["SCHEME"], head["STEPS"], head["TEMPERAT"]) == (7, 3, "roar", 2, 0.9)
        assert head["ASKED"] == "tok_image, tok_flux_g" and head["OBJECT"] == "demo-000001"
        assert "tok_image_hsc from tok_image, tok_flux_g" in "".join(map(str, head["HISTORY"]))
        shapes = {h.name: h.data.shape for h in hdus[1:]}
        assert shapes == {"HSC_IMAGE_TYPICAL": (5, 96, 96), "HSC_IMAGE_MEAN": (5, 96, 96), "HSC_IMAGE_SPREAD": (5, 96, 96),
                          "HSC_IMAGE_SAMPLES": (3, 5, 96, 96)}
        samples = hdus["HSC_IMAGE_SAMPLES"].data
        np.testing.assert_allclose(hdus["HSC_IMAGE_MEAN"].data, samples.mean(0), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(hdus["HSC_IMAGE_SPREAD"].data, samples.std(0, ddof=1), rtol=1e-2, atol=1e-3)
        typical, header = np.array(hdus["HSC_IMAGE_TYPICAL"].data), hdus["HSC_IMAGE_TYPICAL"].header
        assert (header["BUNIT"], header["MAGZERO"], header["BANDS"]) == ("count", 27.0, "grizy")
        place = WCS(header).celestial.pixel_to_world(47.5, 47.5)
    [thing] = demo_sky.objects(3, 1, 1)
    assert thing.position is not None and place.separation(thing.position).arcsec < 0.01
    [back] = io.read(out)
    [image] = back.images
    assert image.survey == "hsc" and image.bands == tuple("grizy") and image.calibrated and generation.generated(image)
    np.testing.assert_array_equal(image.pixels, typical)
    hsc = thing.image("hsc")
    assert hsc is not None and image.unit is not None and hsc.unit is not None and image.unit.to(hsc.unit) == pytest.approx(1)
    assert image.pixel_scale == pytest.approx(0.168, rel=1e-3)


def test_samples_of_an_image_have_axes_for_band_and_sample(model: Path, sky: Path, tmp_path: Path) -> None:
    out = tmp_path / "x.fits"
    done = omnisky(sky, "--object", "demo-000001", "--target", "hsc_image", "--samples", 2, "--out", out, "--model", model,
                   "--inputs", "tok_image", "--steps", 2)
    assert done.exit_code == 0, done.stderr
    with fits.open(out) as hdus:
        hdus.verify("exception")
        samples, typical = (WCS(hdus[f"HSC_IMAGE_{what}"].header) for what in ("SAMPLES", "TYPICAL"))
    assert samples.naxis == 4 and list(samples.wcs.ctype) == ["RA---TAN", "DEC--TAN", "BAND", "SAMPLE"]
    assert samples.celestial.to_header() == typical.celestial.to_header()
    np.testing.assert_allclose(samples.pixel_to_world_values(47.5, 47.5, 2, 1)[2:], (2, 1))


def test_a_chain_of_a_spectrum_and_a_redshift(model: Path, sky: Path, tmp_path: Path) -> None:
    out = tmp_path / "s.fits"
    done = omnisky(sky, "--object", "0", "--target", "desi_spectrum,redshift", "--samples", 2, "--out", out, "--model", model,
                   "--inputs", "tok_image", "--steps", 2, "--json")
    assert done.exit_code == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])["redshift"]
    table = Table.read(out, hdu="DESI_SPECTRUM")
    assert table["wavelength"].unit == "Angstrom" and table["samples"].shape == (7781, 2)
    assert "erg" in str(table["typical"].unit)
    np.testing.assert_allclose(table["mean"], np.mean(table["samples"], axis=1), rtol=1e-4, atol=1e-4)
    bins = Table.read(out, hdu="REDSHIFT")
    assert bins["probability"].sum() == pytest.approx(1) and np.isinf(bins["upper"][-1])
    header = fits.getheader(out, "REDSHIFT")
    assert header["GENERATED"] is True and header["MEAN"] == pytest.approx(said["mean"]) and header["POSTERIR"] is True
    assert header["MEAN"] == pytest.approx((bins["probability"] * bins["middle"]).sum())
    assert len(Table.read(out, hdu="REDSHIFT_SAMPLES")) == 2
    [back] = io.read(out)
    assert generation.generated(back) and generation.generated(back.spectra[0]) and len(back.spectra[0].flux) == 7781
    np.testing.assert_allclose(back.spectra[0].flux, table["typical"], rtol=1e-6)


def test_other_kinds_of_targets(model: Path, sky: Path, tmp_path: Path) -> None:
    out = tmp_path / "o.fits"
    done = omnisky(sky, "--object", "2", "--target", "catalogue,segmentation,xp_bp,legacy_image", "--out", out, "--model",
                   model, "--inputs", "tok_flux_g", "--steps", 2)
    assert done.exit_code == 0, done.stderr
    with fits.open(out) as hdus:
        assert "sample" in hdus["CATALOGUE"].columns.names and len(hdus["XP_BP"].data) == 55
        assert hdus["LEGACY_IMAGE_TYPICAL"].header["BUNIT"] == "nanomaggy"
        assert hdus["SEGMENTATION_TYPICAL"].data.shape[-2:] == (96, 96) and np.isnan(hdus["SEGMENTATION_SPREAD"].data).all()


def test_a_whole_sky_goes_on_where_it_stopped(model: Path, sky: Path, tmp_path: Path) -> None:
    out = tmp_path / "all"
    settings: dict[str, Any] = {"scheme": "one-step", "seed": 3, "samples": 8}

    def run(**more: Any) -> Any:
        return jobs.generate(sky, ["tok_z"], out, model=model, inputs=["tok_flux_g"], **(settings | more))

    steps = run()
    next(step for step in steps if step.note == "generated for 1 of 4 objects")
    steps.close()  # type: ignore[attr-defined]
    assert len(list(out.glob("*.fits"))) == 1 and not list(out.glob("*.tmp"))
    first = next(out.glob("*.fits"))
    stamp, content = first.stat().st_mtime_ns, first.read_bytes()
    *_, last = run()
    assert last.preview == {"files": 3, "new": 2, "without": 1} and first.stat().st_mtime_ns == stamp
    assert sorted(p.name for p in out.glob("*.fits")) == [f"demo-00000{i}.fits" for i in range(3)]
    *_, last = run()
    assert last.preview["new"] == 0
    first.unlink()
    list(run())
    assert first.read_bytes() == content, "in the same batch as at first"
    with pytest.raises(ValueError, match=r"with other settings \(SEED\); choose another folder"):
        list(run(seed=4))
    about = json.loads((out / "generated.json").read_text())
    (out / "generated.json").write_text(json.dumps(about | {"CONFIG": "as it was calibrated before"}))
    with pytest.raises(ValueError, match=r"with other settings \(CONFIG\)"):
        list(run())
    alone = tmp_path / "alone.fits"
    list(jobs.generate(sky, ["tok_z"], alone, "demo-000000", model, inputs=["tok_flux_g"], **settings))
    np.testing.assert_array_equal(fits.getdata(alone, "REDSHIFT_SAMPLES")["value"],
                                  fits.getdata(out / "demo-000000.fits", "REDSHIFT_SAMPLES")["value"])
    content = alone.read_bytes()
    list(jobs.generate(sky, ["tok_z"], alone, "demo-000000", model, inputs=["tok_flux_g"], **settings))
    assert alone.read_bytes() == content and "20" not in fits.getheader(alone, 1).comments["CHECKSUM"], "no time is told"


def test_a_wrong_call_leaves_no_folder(model: Path, sky: Path, tmp_path: Path) -> None:
    for wrong, error in (({"inputs": ["tok_z"]}, ValueError), ({"samples": 0}, ValueError), ({"bogus": 1}, TypeError),
                         ({"inputs": ["tok_mass"]}, KeyError), ({"steps": 0}, ValueError)):
        with pytest.raises(error):
            list(jobs.generate(sky, ["tok_z"], tmp_path / "all", model=model, **wrong))
        assert not list(tmp_path.iterdir())


def test_a_sky_is_read_once(model: Path, sky: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    once = checkpoints.OmniBundle.tokenize

    def counted(self: checkpoints.OmniBundle, things: list[SkyObject], keys: Any) -> Any:
        read.extend(thing.id for thing in things)
        return once(self, things, keys)

    monkeypatch.setattr(checkpoints.OmniBundle, "tokenize", counted)
    steps = list(jobs.generate(sky, ["tok_z"], tmp_path / "all", model=model, inputs=["tok_flux_g"], samples=8))
    assert sorted(read) == sorted(map(str, Store(sky).ids)) and all(step.preview is None for step in steps[:-1])


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes) -> None:
        path.with_name(path.name + ".tmp").write_bytes(data[:10])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(exports, "replace_bytes", full)
    with pytest.raises(OSError, match=r"no room for .*x.fits; what was written before is kept"):
        exports.save(tmp_path / "x.fits", fits.HDUList([fits.PrimaryHDU()]))
    assert not list(tmp_path.iterdir())


def test_wrong_usage_and_wrong_data(model: Path, sky: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.fits"
    fits.PrimaryHDU(np.zeros((4, 4))).writeto(mine)
    (tmp_path / "folder").mkdir()
    shutil.copy(mine, tmp_path / "folder")
    one = ("--object", "0", "--model", model, "--inputs", "tok_flux_g")
    for arguments, code, says in (
            (("--target", "jwst_image", "--out", "x.fits", *one), 2, "'jwst_image' is no target; choose one of legacy_image"),
            (("--target", "redshift", "--out", "x.fits", "--scheme", "best", *one), 2, "scheme is 'best'"),
            (("--target", "redshift", "--out", mine, *one), 1, "is there and was not generated"),
            (("--target", "redshift", "--out", tmp_path, *one), 1, "is a folder; one object goes into a file"),
            (("--target", "mag_g", "--out", tmp_path / "y.fits", *one), 1, "'tok_mag_g' is not an output of this model"),
            (("--target", "redshift", "--out", tmp_path / "y.fits", "--object", "nobody", "--model", model), 1, "no object is"),
            (("--target", "redshift", "--out", mine, "--model", model), 1, "is a file; a whole sky goes into a folder"),
            (("--target", "redshift", "--out", tmp_path / "folder", "--model", model), 1, "FITS files of something else"),
            (("--target", "redshift", "--out", tmp_path / "y.fits", "--object", "3", "--model", model), 1, "none of the")):
        done = omnisky(sky, *arguments)
        assert done.exit_code == code and says in " ".join(done.stderr.replace("│", " ").split()), (arguments, done.stderr)
    assert not (tmp_path / "y.fits").exists()


def test_the_verb_explains_itself() -> None:
    done = omnisky("--help")
    assert done.exit_code == 0 and "Example: omnisky generate " in done.stdout
    assert all(option in done.stdout for option in ("--json", "--verbose", "--top-k", "--guidance", "--inputs", "--scheme"))
    offered = inspect.signature(cli.generate).parameters
    taken = inspect.signature(generation.asked).parameters
    for name, value in (asdict(Settings()) | {name: taken[name].default for name in ("seed", "samples")}).items():
        assert offered[name].default == value, f"{name} is by default what it is in Python"


def test_names_of_targets_and_files() -> None:
    assert [modalities.target_key(n) for n in ("hsc_image", "tok_image", "flux_g", "redshift")] == \
        ["tok_image_hsc", "tok_image", "tok_flux_g", "tok_z"]
    assert exports.file_name("demo-1") == "demo-1.fits"
    names = {exports.file_name(id) for id in ("a/b", "a_b", "a b", "../x", ".hidden")}
    assert len(names) == 5 and not any("/" in name or name.startswith(".") for name in names)
