"""Long work on a sky: complete, repeatable, growing with the sky, and whole after any number of kills."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.coordinates import SkyCoord
from standin_sky import render

import engine
from engine import checkpoints, demo_sky, jobs, vectors
from engine.embeddings import Embeddings
from engine.models import AstroClip, AstroClipConfig
from engine.objects import Image, Scalar, SkyObject, Spectrum
from engine.simulate import stream
from engine.steps import Step
from engine.store import Store

CONFIG = AstroClipConfig(width=32, image_layers=1, spectrum_layers=1, heads=2, expand=2, space=16, drawn=64)
SPACES = ("image", "spectrum")
N = 40


def bundle(folder: Path, seed: int = 3) -> Path:
    model = AstroClip(CONFIG)
    model.init_weights(seed)
    checkpoints.save(folder, model, {"command": "none"})
    return folder


def standins(start: int, count: int) -> Iterator[SkyObject]:
    """Objects with an image and a spectrum, but the third of every five without the first and the fourth without the second."""
    sky = render(1, torch.arange(start, start + count))
    for i in range(count):
        number = start + i
        image = Image(sky["legacy"][i].numpy(), tuple("griz"), "legacy", ivar=sky["legacy_ivar"][i].numpy(), pixel_scale=0.262)
        spectrum = Spectrum(3600 + 0.8 * np.arange(7781), sky["desi"][i].numpy(), sky["desi_ivar"][i].numpy(), survey="desi")
        yield SkyObject(f"s{number}", SkyCoord(number, 0.0, unit="deg"), () if number % 5 == 2 else (image,),
                        () if number % 5 == 3 else (spectrum,), scalars={"z": Scalar(0.01 * number)})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle(tmp_path_factory.mktemp("model") / "m")


@pytest.fixture
def sky(tmp_path: Path) -> Path:
    Store.create(tmp_path / "a.sky").append(list(standins(0, N)), ["f"] * N)
    return tmp_path / "a.sky"


def run(steps: Iterator[Step]) -> list[Step]:
    """All steps; they never go back, and end at 1."""
    done = list(steps)
    fractions = [s.fraction for s in done]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0, fractions
    return done


def test_embed_gives_every_object_the_vectors_of_the_model(sky: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vectors, "BATCH", 16)
    notes = [s.note for s in run(jobs.embed(sky, model))]
    assert notes[0] == "embedded 16 of 40 objects" and len(notes) == 4
    opened = engine.open(sky)
    expected = checkpoints.load(model).vectors(list(opened))
    for space in SPACES:
        there = opened.vectors(space)
        assert there.shape == (N, 16) and opened.embeddings(space).manifest["checksum"] == checkpoints.load(model).checksum
        np.testing.assert_allclose(there, expected[space], atol=0.02)  # float16, and bfloat16 in other batches
        lacks = np.arange(N) % 5 == {"image": 2, "spectrum": 3}[space]
        np.testing.assert_array_equal(np.isnan(there[:, 0]), lacks)


def test_embed_again_does_nothing_and_newcomers_are_added(sky: Path, model: Path) -> None:
    run(jobs.embed(sky, model))
    before = {s: (sky / "embeddings" / s / "vectors.f16").stat() for s in SPACES}
    run(jobs.embed(sky, model))
    assert before == {s: (sky / "embeddings" / s / "vectors.f16").stat() for s in SPACES}
    old = np.array(Embeddings.open(sky / "embeddings" / "image").vectors)
    Store(sky).append(list(standins(N, 7)), ["g"] * 7)
    run(jobs.embed(sky, model))
    grown = Embeddings.open(sky / "embeddings" / "image").vectors
    assert len(grown) == N + 7
    np.testing.assert_array_equal(grown[:N], old)


def test_another_model_replaces_the_vectors_maps_and_index(sky: Path, model: Path, tmp_path: Path) -> None:
    for job in (jobs.embed(sky, model), jobs.map(sky, kind="pca"), jobs.index(sky)):
        run(job)
    opened = engine.open(sky)
    old, old_map = np.array(opened.vectors("image")), opened.map("pca-image")
    assert opened.near("s0", "image", "image", k=3).rows
    other = bundle(tmp_path / "other", seed=4)
    for job in (jobs.embed(sky, other), jobs.map(sky, kind="pca"), jobs.index(sky)):
        run(job)
    assert opened.refresh()
    new = opened.vectors("image")
    assert new.shape == old.shape and not np.allclose(new[0], old[0], atol=0.05)
    checksum = checkpoints.load(other).checksum
    assert opened.map("pca-image").manifest["checksum"] == checksum != old_map.manifest["checksum"]
    assert json.loads((sky / "index" / "image.json").read_text())["vectors"] == checksum
    cosine = np.nan_to_num(np.asarray(new, float) @ np.asarray(new[0], float))
    best = np.argsort(-cosine)[1:4]
    np.testing.assert_allclose(opened.near("s0", "image", "image", k=3).similarity, cosine[best], atol=5e-3)


def test_maps_have_the_contract_s_names_and_newcomers_keep_the_old_in_place(sky: Path, model: Path) -> None:
    run(jobs.embed(sky, model))
    run(jobs.map(sky))
    opened = engine.open(sky)
    assert set(opened.maps) == {f"{kind}-{space}" for kind in ("umap", "pca") for space in SPACES} | {"sky"}
    before = {name: opened.map(name).xy for name in opened.maps}
    for name, xy in before.items():
        lacks = np.arange(N) % 5 == (2 if name.endswith("image") else 3 if name.endswith("spectrum") else -1)
        np.testing.assert_array_equal(np.isnan(xy).any(1), lacks)
        assert len(opened.zindex(name).rows) == (~lacks).sum()
    Store(sky).append(list(standins(N, 10)), ["g"] * 10)
    for job in (jobs.embed(sky, model), jobs.map(sky)):
        run(job)
    assert opened.refresh()
    for name, xy in before.items():
        grown = opened.map(name).xy
        assert len(grown) == N + 10 and np.isfinite(grown[N:]).all(1).sum() == (10 if name == "sky" else 8)
        np.testing.assert_array_equal(grown[:N], xy)


def test_a_damaged_map_is_made_again(sky: Path, model: Path) -> None:
    run(jobs.embed(sky, model))
    run(jobs.map(sky, "image", "pca"))
    whole = engine.open(sky).map("pca-image").xy
    for name in ("model.npz", "xy.npy", "manifest.json"):
        path = sky / "maps" / "pca-image" / name
        path.write_bytes(path.read_bytes()[:40])
        with pytest.raises(ValueError, match="pca-image"):
            engine.open(sky).map("pca-image")
        run(jobs.map(sky, "image", "pca"))
        np.testing.assert_array_equal(engine.open(sky).map("pca-image").xy, whole)


def test_one_sentence_with_the_command(sky: Path, model: Path, tmp_path: Path) -> None:
    for job in (jobs.map(sky), jobs.index(sky)):
        with pytest.raises(ValueError, match=r"no vectors yet; run: omnisky embed .*a\.sky$"):
            next(job)
    with pytest.raises(KeyError, match=r"no space 'image' .*none yet; run: omnisky embed"):
        engine.open(sky).near("s0")
    with pytest.raises(FileNotFoundError, match=r"nothing is not a model"):
        next(jobs.embed(sky, tmp_path / "nothing"))
    with pytest.raises(FileNotFoundError, match=r"no folder .*b\.sky"):
        next(jobs.embed(tmp_path / "b.sky", model))
    run(jobs.embed(sky, model))
    with pytest.raises(ValueError, match="no space 'xray'; choose one of image, spectrum"):
        next(jobs.map(sky, "xray"))
    vectors = sky / "embeddings" / "image" / "vectors.f16"
    vectors.write_bytes(vectors.read_bytes()[:-1])
    for job in (jobs.embed(sky, model), jobs.map(sky), jobs.index(sky)):
        with pytest.raises(ValueError, match=r"vectors\.f16 is damaged.* run: omnisky embed"):
            next(job)


def test_an_empty_sky(tmp_path: Path, model: Path) -> None:
    Store.create(tmp_path / "a.sky")
    run(jobs.embed(tmp_path / "a.sky", model))
    with pytest.raises(ValueError, match="no vectors yet"):
        next(jobs.map(tmp_path / "a.sky"))


def test_only_one_process_embeds(sky: Path, model: Path) -> None:
    from engine.files import only_writer

    held = only_writer(sky / "embeddings.lock", "x")
    with held, pytest.raises(ValueError, match="another process is writing to the embeddings"):
        next(jobs.embed(sky, model))


@pytest.fixture
def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_sky, "BATCH", 8)
    monkeypatch.setattr(jobs, "FIRST_MAP", 16)
    monkeypatch.setattr(jobs, "KINDS", ("pca",))
    monkeypatch.setattr("engine.maps.warm_up", lambda: None)


def in_process(seed: int, start: int, stop: int) -> Iterator[list[SkyObject]]:
    """`demo_sky.batches` without its child process, whose start takes seconds."""
    for first in range(start, stop, demo_sky.BATCH):
        yield list(demo_sky.objects(seed, first, min(demo_sky.BATCH, stop - first)))


def test_the_child_process_renders_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_sky, "BATCH", 2)
    objects = [o for batch in demo_sky.batches(5, 3, 8) for o in batch]
    for here, there in zip(demo_sky.objects(5, 3, 5), objects, strict=True):
        assert here.id == there.id and here.scalars.keys() == there.scalars.keys()
        np.testing.assert_allclose(here.images[1].pixels, there.images[1].pixels, rtol=1e-3, atol=1e-2)
        np.testing.assert_allclose(here.spectra[0].flux, there.spectra[0].flux, rtol=1e-3, atol=1e-3)


def test_the_child_process_ends_with_who_reads_it(monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    popen = subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *a, **k: started.append(popen(*a, **k)) or started[-1])
    steps = stream.rendered(5, 0, 1000, 2)
    next(steps)
    steps.close()
    assert started[0].poll() is not None
    monkeypatch.setattr(sys, "executable", "false")
    with pytest.raises(RuntimeError, match="ended early"):
        next(stream.rendered(5, 0, 1000, 2))


def test_demo_shows_a_map_early_and_ends_complete(tmp_path: Path, model: Path, small_demo: None,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d.sky"
    placed = []
    for step in jobs.demo(path, 24, seed=5, model=model):
        assert step.fraction <= 1.0
        if (path / "maps" / "pca-image" / "manifest.json").exists():
            placed.append(len(engine.open(path).map("pca-image").xy))
    assert placed[0] == 16 and placed[-1] == 24, "a map of the first, then of all"
    sky = engine.open(path)
    assert sky.ids.tolist() == [demo_sky.object_id(i) for i in range(24)]
    assert set(sky.maps) == {"pca-image", "pca-spectrum", "sky"}
    assert step.fraction == 1.0 and sky.near("demo-000003", k=4).rows
    stamp = sorted((p.stat().st_mtime_ns, str(p)) for p in path.rglob("*") if p.is_file() and p.suffix != ".lock")
    run(jobs.demo(path, 24, seed=5, model=model))
    assert stamp == sorted((p.stat().st_mtime_ns, str(p)) for p in path.rglob("*") if p.is_file() and p.suffix != ".lock")
    with pytest.raises(ValueError, match="other objects than the simulated sky with seed 6"):
        next(jobs.demo(path, 24, seed=6, model=model))
    said = demo_sky.made(5, 0)
    monkeypatch.setattr(demo_sky, "VERSION", 99)
    with pytest.raises(ValueError, match=f"begins with: {said}; this is version 99; choose another folder"):
        next(jobs.demo(path, 48, seed=5, model=model))


def test_demo_can_be_stopped_at_any_step_and_made_larger(
        tmp_path: Path, model: Path, small_demo: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_sky, "batches", in_process)
    path = tmp_path / "d.sky"
    for stop_after in (1, 2, 3):
        steps = jobs.demo(path, 20, seed=5, model=model)
        for _ in range(stop_after):
            next(steps)
        steps.close()
        engine.open(path)
    run(jobs.demo(path, 20, seed=5, model=model))
    run(jobs.demo(path, 48, seed=5, model=model))
    sky = engine.open(path)
    assert len(sky) == 48 == len(sky.vectors("image")) == len(sky.map("pca-spectrum").xy)
    direct = checkpoints.load(model).vectors(list(demo_sky.objects(5, 0, 48)))
    np.testing.assert_allclose(sky.vectors("spectrum"), direct["spectrum"], atol=0.03)


KILLER = """
import os, random, signal, sys, time, traceback
import torch
torch.set_num_threads(1)
from engine import demo_sky, jobs, maps, vectors
from engine.embeddings import Embeddings
from engine.store import Store
job, sky, model = sys.argv[1:]
vectors.BATCH, jobs.FIRST_MAP, jobs.KINDS, demo_sky.BATCH = 2, 8, ("pca",), 4
maps.warm_up = lambda: None
demo_sky.batches = lambda seed, a, b: (list(demo_sky.objects(seed, i, min(4, b - i))) for i in range(a, b, 4))
def work():
    if job == "demo":
        list(jobs.demo(sky, 20, 5, model))
    else:
        list(jobs.embed(sky, model)); list(jobs.map(sky)); list(jobs.index(sky))
random.seed(1)
kills = 0
while True:
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    time.sleep(random.uniform(0, 0.12) * (kills + 1))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        break
    kills += 1
    if os.path.exists(sky + "/sky.json"):
        Store(sky)
    for space in ("image", "spectrum"):
        if os.path.exists(f"{sky}/embeddings/{space}/manifest.json"):
            Embeddings.open(f"{sky}/embeddings/{space}")
print(kills, os.WEXITSTATUS(status))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="kills by signal")
@pytest.mark.parametrize("job", ["prepare", "demo"])
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(job: str, sky: Path, model: Path, tmp_path: Path) -> None:
    path = sky if job == "prepare" else tmp_path / "d.sky"
    command = [sys.executable, "-c", KILLER, job, str(path), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    kills, code = (int(x) for x in done.stdout.split()[-2:])
    assert (code, done.returncode) == (0, 0), done.stderr
    assert kills >= 3, "it was killed while it worked"
    opened = engine.open(path)
    rows = N if job == "prepare" else 20
    assert len(opened) == rows and len(set(opened.ids)) == rows
    expected = checkpoints.load(model).vectors(list(opened))
    for space in SPACES:
        assert opened.vectors(space).shape == (rows, 16)
        np.testing.assert_allclose(opened.vectors(space), expected[space], atol=0.03)
        assert opened.map(f"pca-{space}").xy.shape == (rows, 2)
        np.testing.assert_array_equal(np.isnan(opened.map(f"pca-{space}").xy[:, 0]), np.isnan(opened.vectors(space)[:, 0]))
        assert json.loads((path / "index" / f"{space}.json").read_text())["rows"] == rows
