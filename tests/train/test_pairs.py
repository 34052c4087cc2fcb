"""Rows of several surveys that are one object: found by position or id, read as one, and trained on; turned copies, too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import astropy.units as u
import h5py
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from numpy.typing import NDArray
from test_omni_training import CONFIG, KEYS, RECIPE, SIZES, toy_model
from typer.testing import CliRunner

from engine import jobs
from engine.cli import app
from engine.model_files import codec_checksum
from engine.objects import SkyObject
from engine.pairs import leaders, nearest, same
from engine.records import Records
from engine.steps import Step
from engine.store import Store
from engine.train import omni
from engine.train.masking import Layout
from engine.train.token_data import TokenData, copies_of, joined, tokens_of

ARCSEC = 1 / 3600
N = 60


def at(*dec: float, ra: float = 10.0) -> NDArray[np.float64]:
    """(n, 2) positions at declinations in arcsec."""
    return np.array([[ra, d * ARCSEC] for d in dec])


# ------------------------------------------------------------------------------------------------------------ who pairs


def pairs(a: NDArray[Any], b: NDArray[Any], radius: float) -> list[tuple[int, int]]:
    return list(zip(*(rows.tolist() for rows in nearest(a, b, radius)), strict=True))


def test_only_each_others_nearest_pair() -> None:
    assert pairs(at(0, 2), at(0.9), 3) == [(0, 0)], "the second's nearest is the first's"
    assert pairs(at(0, 2), at(0.9, 2.6), 3) == [(0, 0), (1, 1)]
    assert pairs(at(0, 1, 2), at(1.2), 3) == [(1, 0)]
    assert pairs(at(1.2), at(0, 1, 2), 3) == [(0, 1)]


def test_the_radius_counts() -> None:
    assert pairs(at(0), at(0.9), 0.899) == [] and pairs(at(0), at(0.9), 0.901) == [(0, 0)]
    assert pairs(at(0), at(0), 1) == [(0, 0)]
    assert pairs(np.array([[359.9999, 0.0]]), np.array([[0.0001, 0.0]]), 1) == [(0, 0)]
    assert pairs(np.array([[0.0, 89.9999]]), np.array([[180.0, 89.9999]]), 0.73) == [(0, 0)]
    for radius in (0, -1, np.nan, np.inf):
        with pytest.raises(ValueError, match="within a radius in arcsec"):
            leaders([at(0), at(1)], radius)


def test_what_has_no_position_pairs_with_nothing() -> None:
    nowhere = np.array([[np.nan, np.nan]])
    assert pairs(np.concatenate([nowhere, at(0)]), np.concatenate([at(0.5), nowhere]), 1) == [(1, 0)]
    assert pairs(nowhere, nowhere, 1) == [] and pairs(np.zeros((0, 2)), at(0), 1) == []


@pytest.mark.parametrize(("n", "m"), [(300, 500), (500, 300)])
def test_pairs_are_those_of_astropy(n: int, m: int) -> None:
    random = np.random.default_rng(1)
    a, b = random.uniform(0, 30, (n, 2)) * ARCSEC, random.uniform(0, 30, (m, 2)) * ARCSEC
    a[:, 1] += 70
    b[:, 1] += 70
    here, there = (SkyCoord(*x.T, unit="deg") for x in (a, b))
    to_b, near, _ = here.match_to_catalog_sky(there)
    to_a = there.match_to_catalog_sky(here)[0]
    expected = [(i, int(j)) for i, j in enumerate(to_b) if to_a[j] == i and near[i] < 1.0 * u.arcsec]
    assert pairs(a, b, 1.0) == expected and 50 < len(expected) < 300


def test_ids() -> None:
    a, b = np.array(["x", "", "y", "z", "y"]), np.array(["z", "y", "", "w"])
    assert [rows.tolist() for rows in same(a, b)] == [[2, 3], [1, 0]]
    assert leaders([a, b], "id").tolist() == [0, 1, 2, 3, 4, 3, 2, 7, 8]


def test_three_skies_and_rows_of_one() -> None:
    first, second, third = at(0, 60), at(0.4, 120), at(0.8, 60.2, 120.3, 0.1)
    assert leaders([first, second, third], 1.0).tolist() == [0, 1, 0, 3, 4, 1, 3, 0], "at the place of the one that leads"
    alone = np.array([[10.0, 0.0], [10.0, 0.0], [10.0, 0.2 * ARCSEC], [10.0, 1.0]])
    assert leaders([alone], 1.0).tolist() == [0, 1, 2, 3], "rows of a sky are left alone unless their surveys are known"
    assert leaders([alone], 1.0, [np.array([1, 1, 2, 2])]).tolist()[2] in (0, 1)
    assert leaders([alone], 1.0, [np.array([3, 1, 1, 2])]).tolist() == [0, 1, 2, 3], "no survey may be in both"
    assert leaders([at(0), at(0)], 1.0, [np.array([1]), np.array([1])]).tolist() == [0, 0], "of two skies it may"


# -------------------------------------------------------------------------- two surveys, from their files to rows of tokens


def survey_file(path: Path, numbers: NDArray[Any], sky: NDArray[Any], kind: str, prefix: str) -> None:
    """Objects in the Multimodal Universe's layout: images of HSC or spectra of DESI."""
    random = np.random.default_rng(len(numbers))
    with h5py.File(path, "w") as file:
        file["object_id"] = [f"{prefix}{n}".encode() for n in numbers]
        file["ra"], file["dec"] = sky.T
        if kind == "hsc":
            file["image_band"] = np.array([[b"hsc-g", b"hsc-r", b"hsc-i", b"hsc-z", b"hsc-y"]] * len(numbers))
            file["image_flux"] = random.normal(size=(len(numbers), 5, 8, 8)).astype("f4")
        else:
            file["spectrum_lambda"] = np.tile(np.linspace(3600.0, 9824.0, 50), (len(numbers), 1))
            file["spectrum_flux"] = random.normal(size=(len(numbers), 50)).astype("f4")
            file["spectrum_ivar"] = np.ones((len(numbers), 50), "f4")


def tokens(sky: Path, model: Path, truth: dict[str, int]) -> Path:
    """Stand-in tokens that say whose they are: HSC's and the catalogue of rows with images, DESI's and z of spectra."""
    store = Store(sky)
    rows: dict[str, list[int]] = {key: [] for key in KEYS}
    numbers = []
    for row in range(len(store)):
        thing = store.read(row)
        keys = ("tok_image_hsc", "catalog") if thing.images else ("tok_spectrum_desi", "tok_z")
        for key in keys:
            rows[key].append(row)
        numbers.append(truth[f"{thing.position.ra.deg:.8f}"])  # type: ignore[union-attr]
    for key, some in rows.items():
        if some:
            value = np.array(numbers)[some] % 11 + (1 if key == "catalog" else 0)
            ids = np.repeat(value[:, None], SIZES[key][0], 1)
            write(sky, model, key, key, some, ids, len(store))
    return sky


def write(sky: Path, model: Path, name: str, key: str, rows: Any, ids: Any, reach: int) -> None:
    manifest = {"key": key, "codec": codec_checksum(model / "codecs" / CONFIG.modality(key).folder)}
    Records.create(sky / "tokens" / name, (SIZES[key][0],), "<u2", manifest).append(rows, ids, reach)


class Surveys:
    """Images of objects 0 to N - 1, spectra of some of them and of others, in another order and 0.2" off."""

    def __init__(self, folder: Path) -> None:
        random = np.random.default_rng(3)
        self.model = toy_model(folder / "codecs-of")
        sky = random.uniform(0, 0.1, (2 * N, 2)) + np.array([150.0, 2.0])
        self.imaged = random.permutation(N)
        self.spectra = random.permutation(np.concatenate([random.permutation(N)[: N // 2], np.arange(N, N + 20)]))
        off = sky[self.spectra] + random.uniform(-0.2, 0.2, (len(self.spectra), 2)) * ARCSEC
        (folder / "a").mkdir()
        (folder / "b").mkdir()
        survey_file(folder / "a/images.hdf5", self.imaged, sky[self.imaged], "hsc", "")
        survey_file(folder / "b/spectra.hdf5", self.spectra, off, "desi", "")
        self.truth = {f"{ra:.8f}": int(n) for where, which in ((sky[self.imaged], self.imaged), (off, self.spectra))
                      for (ra, _), n in zip(where, which, strict=True)}
        self.a, self.b, self.both = (folder / f"{name}.sky" for name in ("a", "b", "both"))
        self.notes = [list(jobs.ingest(self.a, [folder / "a"], "hsc"))[-1].note,
                      list(jobs.ingest(self.b, [folder / "b"], "desi"))[-1].note]
        list(jobs.ingest(self.both, [folder / "a"], "hsc"))
        self.notes.append(list(jobs.ingest(self.both, [folder / "b"], "desi"))[-1].note)
        for made in (self.a, self.b, self.both):
            tokens(made, self.model, self.truth)

    def number(self, sky: Path, row: int) -> int:
        position = Store(sky).read(row).position
        assert position is not None
        return self.truth[f"{position.ra.deg:.8f}"]

    def data(self, skies: list[Path], how: Any, **changes: Any) -> TokenData:
        records = tokens_of(skies, CONFIG, self.model)
        led = None if how is None else joined(skies, records, CONFIG, how)
        return TokenData(records, Layout(CONFIG), **({"batch": 16, "seed": 1, "validation": 0.2, "led": led} | changes))


@pytest.fixture(scope="module")
def surveys(tmp_path_factory: pytest.TempPathFactory) -> Surveys:
    return Surveys(tmp_path_factory.mktemp("pairs"))


def test_files_of_two_surveys_make_rows_of_their_own(surveys: Surveys) -> None:
    """What ingesting does with the same id from files that say nothing of each other: both stay, one is renamed."""
    assert len(Store(surveys.both)) == len(surveys.imaged) + len(surveys.spectra)
    names = Store(surveys.both).ids.tolist()
    shared = set(surveys.imaged.tolist()) & set(surveys.spectra.tolist())
    assert len(shared) == N // 2 and all(f"{n}" in names and f"{n}~2" in names for n in shared)


@pytest.mark.parametrize("how", [1.0, "id"])
@pytest.mark.parametrize("where", ["two skies", "one sky"])
def test_rows_are_joined_as_in_truth(surveys: Surveys, how: Any, where: str) -> None:
    skies = [surveys.a, surveys.b] if where == "two skies" else [surveys.both]
    numbers = [surveys.number(sky, row) for sky in skies for row in range(len(Store(sky)))]
    led = joined(skies, tokens_of(skies, CONFIG, surveys.model), CONFIG, how)
    first: dict[int, int] = {}
    assert led.tolist() == [first.setdefault(n, row) for row, n in enumerate(numbers)]
    data = surveys.data(skies, how)
    assert data.paired == N // 2 and len(data.train) + len(data.held_out) == len(set(numbers))
    rows = np.sort(np.concatenate([data.train, data.held_out]))[::-1]
    ids, there = data.read(rows)
    imaged, seen = set(surveys.imaged.tolist()), set(surveys.spectra.tolist())
    for i, row in enumerate(rows):
        n = numbers[row]
        for key, has in (("tok_image_hsc", n in imaged), ("tok_spectrum_desi", n in seen), ("tok_z", n in seen)):
            own = data.layout.slices[key]
            assert there[i, own].all() == there[i, own].any() == has
            assert not has or (ids[i, own] == n % 11).all()


def test_numbers_of_another_survey_are_none_of_its_rows(surveys: Surveys, tmp_path: Path) -> None:
    """Tables of spectra tell fluxes of imaging surveys, too; rows that have nothing but numbers go by those."""
    [own] = tokens_of([surveys.both], CONFIG, surveys.model)
    led = joined([surveys.both], [own], CONFIG, 1.0)
    rows = len(led)
    write(tmp_path, surveys.model, "tok_flux_g", "tok_flux_g", np.arange(rows), np.zeros((rows, 1)), rows)
    fluxes = Records.open(tmp_path / "tokens/tok_flux_g")
    assert np.array_equal(joined([surveys.both], [own | {"tok_flux_g": fluxes}], CONFIG, 1.0), led)
    with pytest.raises(ValueError, match="nearest"):
        joined([surveys.both], [{"tok_flux_g": fluxes}], CONFIG, 1.0)


@pytest.mark.parametrize(("how", "says"), [(1e-6, "nearest within 1e-06 arcsec"), ("id", "they share no id; --pair 1")])
def test_no_pair_at_all_is_said(surveys: Surveys, how: Any, says: str) -> None:
    records = tokens_of([surveys.a], CONFIG, surveys.model)
    with pytest.raises(ValueError, match=says):
        joined([surveys.a], records, CONFIG, how)


def test_what_several_skies_have_is_the_first_ones(surveys: Surveys, tmp_path: Path) -> None:
    other = Store.create(tmp_path / "c.sky")
    other.append([Store(surveys.b).read(row) for row in range(len(Store(surveys.b)))], ["f"] * len(Store(surveys.b)))
    for key in ("tok_spectrum_desi", "tok_flux_g"):
        write(other.path, surveys.model, key, key, range(len(other)), np.full((len(other), SIZES[key][0]), 11), len(other))
    data = surveys.data([surveys.b, other.path], 1.0)
    ids, there = data.read(data.train)
    assert len(data.train) + len(data.held_out) == len(surveys.spectra)
    assert (ids[:, data.layout.slices["tok_spectrum_desi"]] < 11).all() and there[:, data.layout.slices["tok_flux_g"]].all()
    assert (ids[:, data.layout.slices["tok_flux_g"]] == 11).all()


def test_joined_rows_obey_what_single_ones_do(surveys: Surveys) -> None:
    """Withheld pairs are never together, no object is on both sides of validation, and the order is the same each time."""
    skies = [surveys.a, surveys.b]
    data = surveys.data(skies, 1.0, withheld=(("hsc", "desi"),))
    rows = np.concatenate([data.train, data.held_out])
    there, whole = data.read(rows)[1], surveys.data(skies, 1.0).read(rows)[1]
    hsc, desi = (data.layout.slices[key] for key in ("tok_image_hsc", "tok_spectrum_desi"))
    both = whole[:, hsc].any(1) & whole[:, desi].any(1)
    assert int(both.sum()) == N // 2 and not (there[:, hsc].any(1) & there[:, desi].any(1)).any()
    assert (there[:, hsc].any(1) | there[:, desi].any(1))[both].all()
    assert len(np.unique(rows)) == len(rows)
    again = surveys.data(skies, 1.0)
    assert all(np.array_equal(data.rows_of(step), again.rows_of(step)) for step in (0, 1, 7))


def run(surveys: Surveys, out: Path, how: Any = 1.0) -> Iterator[Step]:
    return omni.run(replace(RECIPE, steps=12), [surveys.a, surveys.b], surveys.model, out, how)


def test_a_paired_run_that_was_stopped_goes_on_as_if_it_had_not(surveys: Surveys, tmp_path: Path) -> None:
    list(run(surveys, tmp_path / "whole"))
    steps = run(surveys, tmp_path / "parts")
    assert list(islice(steps, 3))[-1].note.startswith("step 12 ")
    steps.close()  # type: ignore[attr-defined]
    assert not (tmp_path / "parts/model").exists()
    list(run(surveys, tmp_path / "parts"))
    one, two = ((tmp_path / name / "model/model.safetensors").read_bytes() for name in ("whole", "parts"))
    assert one == two
    assert '"paired": 30' in (tmp_path / "whole/model/training.json").read_text()
    with pytest.raises(ValueError, match=r"a run of other tokens .*paired otherwise"):
        next(run(surveys, tmp_path / "whole", None))


def test_pairing_from_the_command_line(surveys: Surveys, tmp_path: Path) -> None:
    start = ["train", "omni", "--sky", str(surveys.a), "--codecs", str(surveys.model), "--recipe", "tiny", "--steps", "2"]
    done = CliRunner().invoke(app, [*start, "--sky", str(surveys.b), "--out", str(tmp_path / "out"), "--pair", "1.5"])
    assert done.exit_code == 0, done.output
    assert '"paired": 30' in (tmp_path / "out/model/training.json").read_text()
    done = CliRunner().invoke(app, [*start, "--out", str(tmp_path / "no"), "--pair", "near"])
    assert done.exit_code == 2 and "neither a radius in arcsec nor id" in done.output
    bare = tmp_path / "tokens-only"
    write(bare, surveys.model, "tok_image_hsc", "tok_image_hsc", [0], np.zeros((1, 16)), 1)
    done = CliRunner().invoke(app, [*start, "--sky", str(bare), "--out", str(tmp_path / "no"), "--pair", "1"])
    assert done.exit_code == 1 and "no objects with ids and positions to pair" in done.output


# --------------------------------------------------------------------------------------------------------- turned copies


@pytest.fixture
def copied(surveys: Surveys, tmp_path: Path) -> list[Path]:
    """Two skies whose images and catalogues have two copies: ids are 1 and 2, those of the originals 5."""
    skies = [tmp_path / "a.sky", tmp_path / "b.sky"]
    for sky, key in zip(skies, ("tok_image_hsc", "catalog"), strict=True):
        Store.create(sky).append([SkyObject(f"o{i}", SkyCoord(10 + i, 20, unit="deg")) for i in range(200)], ["f"] * 200)
        for name, value in ((key, 5), (f"{key}@1", 1), (f"{key}@2", 2)):
            write(sky, surveys.model, name, key, range(200), np.full((200, SIZES[key][0]), value), 200)
        write(sky, surveys.model, "tok_z", "tok_z", range(200), np.full((200, 1), 7), 200)
    return skies


def test_every_epoch_draws_an_object_or_one_of_its_copies(surveys: Surveys, copied: list[Path]) -> None:
    records = tokens_of(copied, CONFIG, surveys.model)
    copies = copies_of(copied, records, CONFIG, surveys.model)
    assert len(copies) == 2 and [set(some) for some in copies[0]] == [{"tok_image_hsc"}, {"catalog"}]
    data = surveys.data(copied, 1.0, copies=copies)
    assert data.paired == 200
    rows, epoch = data.train, len(data.train) // 16
    shown = []
    for step in (0, epoch - 1, epoch, 5 * epoch):
        ids, there = data.read(rows, step)
        image, catalog, z = (ids[:, data.layout.slices[key]] for key in ("tok_image_hsc", "catalog", "tok_z"))
        assert there[:, data.layout.slices["catalog"]].all() and (z == 7).all()
        assert (image == image[:, :1]).all() and (image[:, 0] == catalog[:, 0]).all(), "all of an object turns, or nothing"
        shown.append(image[:, 0].numpy())
        assert all(0.2 < (shown[-1] == value).mean() < 0.5 for value in (5, 1, 2))
    assert np.array_equal(shown[0], shown[1]) and not np.array_equal(shown[1], shown[2])
    assert (data.read(rows)[0][:, data.layout.slices["tok_image_hsc"]] == 5).all(), "what is held out is never turned"
    assert not np.array_equal(data.ways(rows, 0), surveys.data(copied, 1.0, copies=copies, seed=2).ways(rows, 0))


def test_copies_that_are_not_whole_are_refused(surveys: Surveys, copied: list[Path], tmp_path: Path) -> None:
    list(omni.run(replace(RECIPE, steps=2), copied, surveys.model, tmp_path / "out", 1.0))
    write(copied[1], surveys.model, "catalog@2", "catalog", [0], np.full((1, 6), 2), 10)
    with pytest.raises(ValueError, match=r"catalog@2 lacks turned copies, .*omnisky tokenize --copies 2"):
        next(omni.run(RECIPE, copied, surveys.model, tmp_path / "new", 1.0))
