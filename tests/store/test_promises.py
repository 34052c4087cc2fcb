"""What a sky promises: killed anywhere it opens; the same file twice is stored once; one writer; a full disk, damaged files
and a folder without write permission are one sentence each."""

from __future__ import annotations

import multiprocessing
import os
import random
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from samples_of_objects import make_object

from engine import jobs
from engine.files import NoRoom
from engine.store import Store

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="kills and limits its own child processes as Linux does")


def children() -> Any:
    """Processes that start quickly (the server has imported everything) and clean (nothing of pytest's is in them)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["engine.jobs", "engine.io.fits_images", "engine.io.tables", "samples_of_objects"])
    return context


def in_child(function: Callable[..., Any], *arguments: Any) -> Any:
    """What the function returns, or the error it raises, in a process of its own."""
    here, there = children().Pipe()
    process = children().Process(target=_answer, args=(there, function, arguments))
    process.start()
    try:
        assert here.poll(60), "the child does not answer"
        return here.recv()
    finally:
        process.join(10)
        process.kill()


def _answer(pipe: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        pipe.send(function(*arguments))
    except Exception as error:
        pipe.send(error)


def ingest(sky: Path, files: list[Path], steps: Any = None) -> None:
    jobs.BATCH = 4
    for step in jobs.ingest(sky, files):
        if steps is not None:
            steps.send(step.note)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Twenty images, a file each, and a table of thirty objects."""
    folder = tmp_path_factory.mktemp("files")
    rng = np.random.default_rng(6)
    for i in range(20):
        hdu = fits.PrimaryHDU(rng.normal(size=(48, 48)).astype(np.float32))
        hdu.header.update(CTYPE1="RA---TAN", CTYPE2="DEC--TAN", CRVAL1=150.0 + i, CRVAL2=2.0, CRPIX1=24.5, CRPIX2=24.5,
                          CD1_1=-7e-5, CD2_2=7e-5, CD1_2=0.0, CD2_1=0.0, FILTER="r", BUNIT="nanomaggy")
        hdu.writeto(folder / f"cutout-{i:02d}.fits")
    rows = "\n".join(f"t{i},{10 + i},{-5 - i},{0.01 * i + 0.1}" for i in range(30))
    (folder / "table.csv").write_text(f"id,ra,dec,z\n{rows}\n")
    return sorted(folder.iterdir())


def content(sky: Path) -> list[Any]:
    """Ids, positions, values and pixels in order of arrival."""
    store = Store(sky)
    objects = [store.read(row) for row in range(len(store))]
    return [(o.id, o.position.ra.deg, o.position.dec.deg, sorted((k, s.value) for k, s in o.scalars.items()),
             [im.pixels.tobytes() for im in o.images]) for o in objects]


def test_killed_again_and_again_it_opens_and_the_ingest_goes_on(files: list[Path], tmp_path: Path) -> None:
    ingest(tmp_path / "whole.sky", files)
    expected = content(tmp_path / "whole.sky")
    assert len(expected) == 50
    sky, chance, sizes = tmp_path / "killed.sky", random.Random(7), [0]
    while sizes[-1] < 50:
        known = sizes[-1] if sizes[-1] <= 20 else 15 + sizes[-1] // 4  # steps that find nothing new: a file, or four rows
        steps, there = children().Pipe()
        process = children().Process(target=ingest, args=(sky, files, there))
        process.start()
        there.close()
        begun = time.perf_counter()
        for _ in range(known + chance.randrange(5)):
            begun = time.perf_counter()
            assert steps.poll(120), "the child does not answer"
            try:
                steps.recv()
            except EOFError:  # it has reached the end
                break
        time.sleep(chance.random() * min(time.perf_counter() - begun, 1.0))  # into the middle of what comes next
        process.kill()
        process.join()
        if (sky / "sky.json").exists():
            got = content(sky)
            assert got == expected[: len(got)]
            sizes.append(len(got))
    ingest(sky, files)
    assert content(sky) == expected
    assert sizes == sorted(sizes) and len(set(sizes)) > 4, f"the kills hit nothing: {sizes}"


def test_the_same_files_twice_are_stored_once(files: list[Path], tmp_path: Path) -> None:
    for _ in range(2):
        *_, last = jobs.ingest(tmp_path / "a.sky", files)
    assert last.preview == {"bad": [], "new": 0, "duplicates": 50}
    assert len(Store(tmp_path / "a.sky")) == 50
    shutil.copy(files[0], tmp_path / "another-name.fits")
    *_, last = jobs.ingest(tmp_path / "a.sky", [tmp_path / "another-name.fits"])
    assert last.preview["new"] + last.preview["duplicates"] == 1


def test_a_folder_left_by_a_killed_create_becomes_a_sky(tmp_path: Path) -> None:
    (tmp_path / "a.sky" / "rows").mkdir(parents=True)
    (tmp_path / "a.sky" / "sky.json.tmp").write_text("{")
    assert len(Store.create(tmp_path / "a.sky")) == 0
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("")
    with pytest.raises(ValueError, match=r"b exists and is not a sky"):
        Store.create(tmp_path / "b")


def append_one(path: Path, i: int) -> int:
    store = Store(path)
    store.append([make_object(i)], ["f"])
    return len(store)


def test_a_second_writer_is_told_so_and_readers_go_on(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "a.sky")
    store.append([make_object(0)], ["f"])
    with store.writing():
        told = in_child(append_one, store.path, 1)
        assert isinstance(told, ValueError) and "another process is writing to" in str(told) and "a.sky" in str(told)
        assert in_child(_length, store.path) == 1
    assert in_child(append_one, store.path, 1) == 2
    assert store.refresh() and len(store) == 2 and not store.refresh()


def test_a_second_ingest_is_told_at_once_and_the_first_goes_on(files: list[Path], tmp_path: Path) -> None:
    first = jobs.ingest(tmp_path / "a.sky", files)
    next(first)
    told = in_child(ingest, tmp_path / "a.sky", files)
    assert isinstance(told, ValueError) and "another process is writing to" in str(told)
    *_, last = first
    assert last.preview["new"] == 50 and not last.preview["bad"]


def test_an_object_that_cannot_be_stored_does_not_keep_the_others_out(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("engine.store.shards._MAX_CHUNK", 48 * 48 * 4 - 1)  # as if the images were larger than 2 GiB
    *_, last = jobs.ingest(tmp_path / "a.sky", files)
    assert last.preview["new"] == 30 and len(last.preview["bad"]) == 20
    assert all("cut it into smaller images" in sentence for _, sentence in last.preview["bad"])
    assert len(Store(tmp_path / "a.sky")) == 30


def _length(path: Path) -> int:
    return len(Store(path))


def append_with_little_room(path: Path, limit: int) -> None:
    store = Store(path)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))  # writes beyond fail, as they do on a full disk
    store.append([make_object(i) for i in range(10, 40)], ["f"] * 30)


@pytest.mark.parametrize("limit", [0, 1_000, 50_000])
def test_a_full_disk_is_one_sentence_and_the_sky_stays_whole(tmp_path: Path, limit: int) -> None:
    store = Store.create(tmp_path / "a.sky")
    store.append([make_object(i) for i in range(3)], ["f"] * 3)
    told = in_child(append_with_little_room, store.path, limit)
    assert isinstance(told, NoRoom) and "no room left to write" in str(told) and "\n" not in str(told), told
    assert sorted(p.name for p in (store.path / "pixels").iterdir()) == ["00000"]
    assert not list(store.path.rglob("*.tmp"))
    again = Store(store.path)
    assert len(again) == 3 and again.read(2).images[0].pixels.any()
    assert in_child(append_one, store.path, 50) == 4


DAMAGE = {
    "sky.json": lambda f: f.write_text("{"),
    "rows/part-00001.parquet": lambda f: f.write_bytes(f.read_bytes()[:-20]),
    "rows/part-00000.parquet": lambda f: f.write_bytes(b""),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_file_is_named_on_opening(tmp_path: Path, name: str) -> None:
    store = Store.create(tmp_path / "a.sky")
    for i in range(3):
        store.append([make_object(i)], ["f"])
    DAMAGE[name](store.path / name)
    with pytest.raises(ValueError, match=name):
        Store(store.path)


def test_damaged_and_missing_pixels_are_named_and_the_others_are_read(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "a.sky")
    for i in range(3):
        store.append([make_object(i)], ["f"])
    shard = next((store.path / "pixels" / "00000").glob("image-legacy*/pixels/c.0.0.0.0"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0xFF
    shard.write_bytes(data)
    shutil.rmtree(store.path / "pixels" / "00001")
    again = Store(store.path)
    with pytest.raises(ValueError, match=str(shard)):
        again.read(0)
    with pytest.raises(FileNotFoundError, match="00001"):
        again.read(1)
    assert again.pixels(0, "hsc") is not None and again.read(2).id == "obj-0-2"


def test_a_damaged_index_is_made_anew(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "a.sky")
    store.append([make_object(i) for i in range(5)], ["f"] * 5)
    store.save_healpix_index()
    good = np.array(store.healpix_index)
    keys = store.table(["_healpix_29"]).column("_healpix_29").to_numpy()
    assert np.all(np.diff(keys[good]) > 0)
    (store.path / "index" / "healpix.npy").write_bytes(b"\x93NUMPY")
    np.testing.assert_array_equal(Store(store.path).healpix_index, good)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that users other than its owner may look into (pytest's own may not be)."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def read_without_permission(path: Path, warm: Path) -> tuple[int, str]:
    Store(warm).read(0)  # imports everything while that is allowed
    if os.geteuid() == 0:
        os.setuid(65534)
    store = Store(path)
    assert np.isfinite(store.healpix_index).all() and store.read(1).images[0].pixels.any() and len(store.table())
    try:
        store.append([make_object(5)], ["f"])
    except (OSError, ValueError) as error:
        return len(store), str(error)
    return len(store), "was written"


def test_a_sky_without_write_permission_opens(open_folder: Path, tmp_path: Path) -> None:
    store = Store.create(open_folder / "a.sky")
    store.append([make_object(i) for i in range(3)], ["f"] * 3)
    shutil.copytree(store.path, tmp_path / "warm.sky")
    for path in [store.path, *store.path.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    answer = in_child(read_without_permission, store.path, tmp_path / "warm.sky")
    for path in [store.path, *store.path.rglob("*")]:
        path.chmod(0o755)
    assert isinstance(answer, tuple), answer
    assert answer[0] == 3 and "a.sky" in answer[1] and "ermission" in answer[1]
