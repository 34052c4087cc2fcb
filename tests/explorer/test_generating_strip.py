"""The Generate strip: what is offered, what is shown and how it is marked, runs that are shared and stopped, and the page."""

from __future__ import annotations

import io
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import card_page
import generating_model
import numpy as np
import psutil
import pytest
from astropy.wcs import WCS
from card_page import Visit, server, until, visit
from PIL import Image as Pillow

from engine import checkpoints, generation
from engine.codecs import CodecWarning
from engine.generation import Distribution
from engine.model_files import ASTROCLIP
from engine.objects import Image, SkyObject, Spectrum
from engine.steps import Step
from explorer import generated, pictures, runs
from explorer.desk import Desk
from explorer.generator import Frame, Shows, frames, send
from explorer.runs import Runs
from explorer.sources import has, offer, sources_of

SERVE = "import sys; from pathlib import Path; from explorer.app import serve; from explorer.desk import Desk; "\
        "serve(Desk(sys.argv[1], Path({model!r})), port=int(sys.argv[2]))"
TURNED = """() => { // where north is drawn if the input is turned, what is generated otherwise, and the truth has no WCS
    const g = omnisky.card.generate, part = structuredClone(g.parts.tok_image_hsc), root = document.createElement("div");
    part.measured.input.north = -35; part.measured.true.north = null; part.shown.forEach(one => { one.north = 20; });
    g.stamps({ root }, part);
    return [...root.querySelectorAll(".north")].map(n => `${n.closest("figure").className} ${n.getAttribute("style")}`); }"""
DECODED = "async e => { await e.decode(); return e.naturalWidth; }"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generating_model.model(tmp_path_factory.mktemp("model") / "omni-small")


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generating_model.sky(tmp_path_factory.mktemp("generating") / "some.sky")


@pytest.fixture(scope="module")
def bundle(model: Path) -> checkpoints.OmniBundle:
    found = checkpoints.load(model)
    assert isinstance(found, checkpoints.OmniBundle)
    return found


@pytest.fixture(scope="module")
def galaxy() -> SkyObject:
    return generating_model.objects()[0]


def decoded(png: bytes) -> np.ndarray[Any, Any]:
    return np.asarray(Pillow.open(io.BytesIO(png)).convert("RGB")).astype(int)


# ------------------------------------------------------------------------------------------------------------- offers


def test_what_is_offered_depends_on_model_and_object(model: Path, galaxy: SkyObject, tmp_path: Path) -> None:
    found = offer(model, galaxy)
    targets = {s["key"]: [t["key"] for t in s["targets"]] for s in found["sources"]}
    assert targets == {"legacy": ["tok_z", "tok_image_hsc", "tok_spectrum_desi"], "desi": ["tok_z", "tok_image"],
                       "hsc": ["tok_z", "tok_image", "tok_spectrum_desi"], "sdss": ["tok_z", "tok_spectrum_desi"]}
    assert found["why"] == "" and [s["name"] for s in found["sources"]] == ["Legacy", "HSC", "SDSS", "DESI"]
    assert sources_of(model)["legacy"].inputs == ("tok_image", "tok_flux_g")
    one = SkyObject("one", images=galaxy.images[:1])
    assert has(one, "legacy") and [s["key"] for s in offer(model, one)["sources"]] == ["legacy"]
    for folder, thing, why in ((ASTROCLIP, galaxy, "astroclip-demo, the model of this sky, compares"),
                               (model, SkyObject("bare"), "no image or spectrum"), (None, galaxy, "--model FOLDER")):
        assert offer(folder, thing)["sources"] == [] and why in offer(folder, thing)["why"]
    (tmp_path / "config.json").write_text("{")
    why = offer(tmp_path, galaxy)["why"]
    assert f"{tmp_path.name}/config.json is damaged" in why and str(tmp_path.parent) not in why


def test_only_fluxes_are_offered_since_the_model_refuses_all_else(bundle: checkpoints.OmniBundle, galaxy: SkyObject) -> None:
    bare = replace(galaxy, scalars={}, images=tuple(replace(i, calibrated=False) for i in galaxy.images),
                   spectra=tuple(replace(s, calibrated=False) for s in galaxy.spectra))
    for source in sources_of(bundle.folder).values():
        with pytest.warns(CodecWarning) if source.key in ("legacy", "hsc") else nullcontext():
            assert bundle.tokenize([bare], source.inputs)[0] == {}
        assert set(bundle.tokenize([galaxy], source.inputs)[0]) == set(source.inputs)
    assert offer(bundle.folder, bare)["sources"] == [] and "no image or spectrum" in offer(bundle.folder, bare)["why"]
    both = replace(bare, spectra=(*bare.spectra, *galaxy.spectra))
    assert [s["key"] for s in offer(bundle.folder, both)["sources"]] == ["sdss", "desi"]


def test_the_desk_refuses_what_is_not_offered(model: Path, sky: Path) -> None:
    desk = Desk(sky, model)
    assert desk.card(0)["generate"]["done"] == []
    with pytest.raises(LookupError, match="no xyz to generate from; it has legacy, hsc, sdss, desi"):
        desk.generate(0, "xyz", 0, "ada")
    with pytest.raises(LookupError, match="it has nothing"):
        desk.generate(generating_model.COUNT - 1, "legacy", 0, "ada")
    with pytest.raises(LookupError, match="cannot generate"):
        _ = Desk(sky, ASTROCLIP).runs


# ------------------------------------------------------------------------------------------------------ what is shown


def test_a_red_word_says_what_is_odd_about_the_input(bundle: checkpoints.OmniBundle, model: Path, galaxy: SkyObject) -> None:
    image = galaxy.image("hsc")
    assert image is not None
    some = replace(image, pixels=image.pixels[:4], bands=image.bands[:4], psf=None, ivar=None, mask=None)
    with pytest.warns(CodecWarning, match="no y of hsc"):
        steps = list(frames(bundle, replace(galaxy, images=(some,)), sources_of(model)["hsc"], 4))
    check = next(f.parts["tok_image"] for f in reversed(steps) if "tok_image" in f.parts)["shown"][0]["check"]
    assert not check["consistent"] and check["number"].endswith("The measured image has no y: models take it to be as usual.")



@pytest.fixture(scope="module")
def told(bundle: checkpoints.OmniBundle, model: Path, galaxy: SkyObject) -> list[Frame]:
    return list(frames(bundle, galaxy, sources_of(model)["hsc"], 4))


def test_frames_tell_target_by_target(told: list[Frame], bundle: checkpoints.OmniBundle, galaxy: SkyObject) -> None:
    assert [f.fraction for f in told] == sorted(f.fraction for f in told) and told[-1].fraction == 1
    parts: dict[str, dict[str, Any]] = {}
    files: dict[str, bytes] = {}
    seen: dict[str, list[str]] = {}
    for frame in told:
        files |= frame.files
        for target, new in frame.parts.items():
            parts[target] = parts.get(target, {}) | new
            seen.setdefault(target, []).append("end" if new.get("done") else "preview" if "done" not in new else "beginning")
    assert list(parts) == ["tok_z", "tok_image", "tok_spectrum_desi"] and all(p["done"] for p in parts.values())
    assert all(s[0] == "beginning" and s[-1] == "end" for s in seen.values()) and "preview" in seen["tok_image"]
    image = parts["tok_image"]
    assert [one["title"] for one in image["shown"]] == ["sample 1", "sample 2", "sample 3", "sample 4", "typical"]
    assert set(image["measured"]) == {"input", "true"} and {one["file"] for one in image["shown"]} <= set(files)
    assert image["side"] == pytest.approx(96 * 0.262) and "scheme roar, 16 steps" in image["origin"]
    check = image["shown"][0]["check"]  # random weights agree with nothing
    assert check["consistent"] is False and check["number"].startswith("even if noise, colour terms and 5 % of flux")
    assert "inconsistent with the input" in check["why"] and "models" not in check["number"]
    assert decoded(files[check["file"]]).shape[0] >= 384
    band = np.frombuffer(files[parts["tok_spectrum_desi"]["file"]], "<f4").reshape(4, -1)
    assert band.shape == (4, 7781) and (band[2] <= band[1]).all() and (band[1] <= band[3]).all() and (band[2] < band[3]).any()
    [last] = list(generation.generate(bundle, galaxy, "tok_spectrum_desi", inputs=sources_of(bundle.folder)["hsc"].inputs,
                                      seed=4, samples=8))[-1].preview
    flux = np.median([s.flux for s in last["tok_spectrum_desi"].samples], axis=0)
    np.testing.assert_allclose(band[1], flux, rtol=1e-4, atol=1e-4)
    assert parts["tok_z"]["curve"]["truth"] == pytest.approx(galaxy.scalars["z"].value)


def test_every_preview_is_shown(bundle: checkpoints.OmniBundle, galaxy: SkyObject, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[str] = []
    generate = generation.generate

    def counted(*arguments: Any, **options: Any) -> Iterator[Step]:
        for step in generate(*arguments, **options):
            given.extend([arguments[2]] if step.preview is not None else [])
            yield step

    monkeypatch.setattr(generation, "generate", counted)
    monkeypatch.setattr(generation.objects, "PREVIEW_EVERY", 0.0)  # how many there are is the engine's to say
    told = list(frames(bundle, galaxy, replace(sources_of(bundle.folder)["desi"], targets=("tok_z", "tok_image")), 4))
    shown = [target for frame in told for target, new in frame.parts.items() if new.get("done") is not False]
    assert shown == given and len(given) > 16


def test_a_generated_picture_bears_the_mark_and_says_what_was_not_observed(told: list[Frame]) -> None:
    files = {name: content for frame in told for name, content in frame.files.items()}
    rgb, given = decoded(files["tok_image.sample-1.png"]), decoded(files["tok_image.input.png"])
    assert rgb.shape == (384, 384, 3)
    orange = (rgb == generated.ORANGE).all(2)
    assert orange[0].mean() == pytest.approx(0.5, abs=0.1) and orange[:, -1].mean() == pytest.approx(0.5, abs=0.1)
    assert orange[10:60, 10:200].sum() > 300, "the word"
    about: Any = Pillow.open(io.BytesIO(files["tok_image.sample-1.png"]))
    assert "generated by omni-small" in about.text["Description"]
    small = rgb[2::4, 2::4]
    hatch = (small == pictures.HATCH).all(2) | (small == pictures.HATCH // 3).all(2)
    inside = np.abs(np.arange(96) - 47.5) * 0.262 <= 8.064
    middle = inside[:, None] & inside
    assert not hatch[middle].any() and hatch[20:76, 4:16].all()
    assert 94 <= len(given) <= 150 and abs(len(given) * 0.168 - 25.15) < 0.34, "the input in the same frame"
    there = (given == pictures.HATCH).all(2) | (given == pictures.HATCH // 3).all(2)
    assert there[0].all() and not there[len(given) // 2 - 30 : len(given) // 2 + 30, len(given) // 2].any()


def test_chi_is_red_where_too_little_was_measured_and_blue_where_too_much(galaxy: SkyObject) -> None:
    like = galaxy.image("legacy")
    assert like is not None
    chi = np.zeros((2, *like.size))
    chi[:, 70, 10], chi[:, 70, 80], chi[:, 20, 10], chi[1, 20, 80] = -20, 20, np.nan, np.nan
    side = like.size[0] * 0.262
    rgb = decoded(generated.residual(chi, like, side, ("generated by someone",)))
    rgb = rgb[2::4, 2::4][::-1]  # north is up: rows from below
    assert tuple(rgb[70, 10]) == (178, 24, 43) and tuple(rgb[70, 80]) == (33, 102, 172)
    assert tuple(rgb[40, 40]) == tuple(rgb[20, 80]) == (247, 247, 247) and rgb[20, 10].max() < 130


def test_chi_is_framed_as_the_pictures_beside_it(galaxy: SkyObject) -> None:
    like = galaxy.image("legacy")
    assert like is not None
    chi = np.zeros((1, *like.size))
    chi[:, like.size[0] // 2 + 20, like.size[1] // 2 + 20] = -20
    for side in (16.128, 36.0):  # of HSC's stamps; larger than the image itself
        rgb, beside = decoded(generated.residual(chi, like, side, ())), decoded(generated.measured(like, side))
        factor = len(rgb) // len(beside)
        assert len(beside) * factor == len(rgb)
        assert abs(np.argwhere((rgb == (178, 24, 43)).all(2)).mean(0) / factor - len(beside) / 2 - (-20, 20)).max() < 1.1


@pytest.mark.parametrize(("angle", "north"), [(35, 35.0), (0, 0.0), (None, None)])
def test_north_of_every_picture_is_told_where_it_is_known(bundle: checkpoints.OmniBundle, galaxy: SkyObject,
                                                          angle: float | None, north: float | None) -> None:
    turned = replace(galaxy, images=tuple(replace(i, wcs=turned_by(angle, i)) for i in galaxy.images))
    shows = Shows(bundle, turned, sources_of(bundle.folder)["hsc"], "tok_image")
    parts, files = shows.beginning()
    assert {name: (one["file"] in files, one["north"]) for name, one in parts["tok_image"]["measured"].items()} == {
        "input": (True, north), "true": (True, north)}
    [preview] = shows.preview(turned.image("legacy"))[0]["tok_image"]["shown"]
    assert preview["north"] == north


def turned_by(angle: float | None, image: Image) -> WCS | None:
    if angle is None:
        return None
    wcs, a = WCS(naxis=2), np.radians(angle)
    wcs.wcs.ctype, wcs.wcs.crval, wcs.wcs.crpix = ["RA---TAN", "DEC--TAN"], [150, 2], [n / 2 + 0.5 for n in image.size[::-1]]
    assert image.pixel_scale is not None
    wcs.wcs.cd = image.pixel_scale / 3600 * np.diag([-1, 1]) @ [[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]]
    return wcs


def test_both_surveys_pictures_share_one_look(galaxy: SkyObject) -> None:
    image = galaxy.image("hsc")
    assert image is not None
    stamp = decoded(generated.stamp(image, generated.look_for("hsc", image)))[2::4, 2::4]
    plain = decoded(pictures.picture(image).png)
    assert np.array_equal(stamp[20:90, 5:90], plain[20:90, 5:90])
    counts = replace(image, pixels=image.pixels * 100, unit=None, calibrated=False)
    fixed = generated.look_for("hsc", counts)
    assert fixed is not None and (fixed.stretch, fixed.note) == (pictures.SURVEYS["hsc"].stretch, ""), "not one for counts"
    fixed = generated.look_for("legacy", None)
    assert fixed is not None and (fixed.stretch, fixed.note) == (pictures.SURVEYS["legacy"].stretch, "")


def test_a_curve_is_the_distribution_with_the_truth_in_reach() -> None:
    edges = np.linspace(0, 1, 1025)
    middle = (edges[1:] + edges[:-1]) / 2
    p = np.exp(-0.5 * ((middle - 0.3) / 0.02) ** 2)
    d = Distribution("z", p / p.sum(), edges[:-1], edges[1:], middle, None, True)
    c = generated.curve(d, 0.5)
    at = c["low"] + (np.arange(generated.BINS) + 0.5) / generated.BINS * (c["high"] - c["low"])
    assert c["low"] < 0.3 - 0.06 and c["high"] > 0.5 and max(c["density"]) == 1
    weights = np.array(c["density"])
    mean = (at * weights).sum() / weights.sum()
    assert mean == pytest.approx(0.3, abs=1e-3)
    assert np.sqrt(((at - mean) ** 2 * weights).sum() / weights.sum()) == pytest.approx(0.02, rel=0.03)
    assert [c["p16"], c["median"], c["p84"]] == pytest.approx([0.28, 0.3, 0.32], abs=1e-3)
    assert generated.curve(d, None)["high"] < 0.4


def test_a_band_of_one_is_itself() -> None:
    one = Spectrum(np.arange(5.0) + 4000, np.array([1.0, 2, np.nan, 4, 5]))
    band = np.frombuffer(generated.band([one]), "<f4").reshape(4, 5)
    assert (band[0] == one.wavelength).all() and all((row == [1, 2, 0, 4, 5]).all() for row in band[1:])


# --------------------------------------------------------------------------------------------------------------- runs


class Silent(Runs):
    """Without a process: orders are kept, frames are put in by hand."""

    def __init__(self, model: Path = Path("model")) -> None:
        super().__init__(Path("sky"), model)
        self.told: list[dict[str, Any]] = []

    def _tell(self, order: dict[str, Any]) -> None:
        self.told.append(order)

    def frame(self, number: int) -> None:
        self._take({"run": number, "fraction": 0.5, "note": "half", "parts": {"tok_z": {"a": number}}}, {"f.png": b"x" * 10})


def test_runs_wait_for_each_other_and_are_shared() -> None:
    made = Silent()
    assert made.start(1, "legacy", 0, "ada")["status"] == "running"
    second = made.start(2, "legacy", 0, "bob")
    assert (second["status"], second["ahead"]) == ("waiting", 1)
    assert made.start(1, "legacy", 0, "eve")["run"] == "1-legacy-0" and len(made.told) == 1
    made.frame(1)
    state = made.state("1-legacy-0", "ada")
    assert state["parts"] == {"tok_z": {"a": 1, "version": state["version"]}} and state["fraction"] == 0.5
    assert made.stop("1-legacy-0", "ada")["status"] == "stopped" and len(made.told) == 1, "eve still watches"
    made._take({"run": 1, "ending": "done"}, {})
    assert made.state("1-legacy-0", "eve")["status"] == "done" and made.file("1-legacy-0", "f.png") == b"x" * 10
    assert [o["run"] for o in made.told] == [1, 2] and made.state("2-legacy-0", "bob")["status"] == "running"
    assert made.done(1) == ["1-legacy-0"] and made.start(1, "legacy", 0, "eve")["status"] == "done" and len(made.told) == 2
    for wrong in (lambda: made.file("1-legacy-0", "g.png"), lambda: made.state("9-legacy-0", "ada")):
        with pytest.raises(LookupError):
            wrong()


def test_a_visitor_wants_one_thing_at_a_time() -> None:
    made = Silent()
    for row in (1, 2, 3):
        made.start(row, "legacy", 0, "ada")
    assert [made.state(f"{row}-legacy-0", "bob")["status"] for row in (1, 2, 3)] == ["stopped", "stopped", "running"]
    assert [o.get("row", o) for o in made.told] == [1, {"stop": 1}, 2, {"stop": 2}, 3]


def test_what_is_stopped_ends_and_begins_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Silent()
    made.start(1, "legacy", 0, "ada")
    made.frame(1)
    made.stop("1-legacy-0", "ada")
    assert made.told[-1] == {"stop": 1} and made.state("1-legacy-0", "ada")["parts"], "what there was stays readable"
    again = made.start(1, "legacy", 0, "ada")
    assert made.told[-1]["run"] == 2 and again["parts"] == {}
    made.frame(1)  # a late word of the first
    made._take({"run": 1, "ending": "stopped"}, {})
    assert made.state("1-legacy-0", "ada")["status"] == "running" and made.state("1-legacy-0", "ada")["parts"] == {}
    made._take({"run": 2, "ending": "failed", "error": "no such input"}, {})
    assert made.state("1-legacy-0", "ada") | {"status": "failed", "note": "no such input"} == made.state("1-legacy-0", "ada")
    made.start(3, "legacy", 0, "bob")
    now = time.monotonic()
    monkeypatch.setattr(runs.time, "monotonic", lambda: now + 2 * runs.PATIENCE)
    made.frame(3)
    assert made.told[-1] == {"stop": 3}, "bob has left"


def test_a_process_that_dies_while_it_sends_has_sent_what_was_whole() -> None:
    sent = io.BytesIO()
    send(sent, {"a.png": b"abc", "b.png": b""}, run=1)
    whole = sent.tell()
    send(sent, {"a.png": b"def"}, run=1)
    for most in (whole, whole + 10, sent.tell() - 1):
        assert [files for _, files in runs.received(io.BytesIO(sent.getvalue()[:most]))] == [{"a.png": b"abc", "b.png": b""}]


@pytest.mark.parametrize("silent", [False, True])
def test_who_waits_is_next_when_the_one_before_just_leaves(silent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Silent()
    made.start(1, "legacy", 0, "ada")
    made.start(2, "legacy", 0, "bob")
    now = time.monotonic()
    for seconds in (0.6, 1.2):  # of ada's patience: bob goes on asking
        monkeypatch.setattr(runs.time, "monotonic", lambda s=seconds: now + s * runs.PATIENCE)
        if not silent:
            made.frame(1)
        state = made.state("2-legacy-0", "bob")
    assert (state["status"], state["note"]) == ("running", "starting")
    assert [o.get("row", o) for o in made.told] == [1, {"stop": 1}, 2]
    made._take({"run": 1, "ending": "stopped"}, {})
    assert len(made.told) == 3 and made.state("2-legacy-0", "bob")["status"] == "running"


def test_asking_again_keeps_the_place_in_the_queue() -> None:
    made = Silent()
    for row, visitor in ((1, "ada"), (2, "bob"), (3, "eve")):
        made.start(row, "legacy", 0, visitor)
    assert made.start(2, "legacy", 0, "bob")["ahead"] == made.start(2, "legacy", 0, "ida")["ahead"] == 1
    made.start(1, "legacy", 0, "ada")
    assert made.state("2-legacy-0", "bob")["ahead"] == 1, "what runs is before what waits"
    made._take({"run": 1, "ending": "failed", "error": "no such input"}, {})
    assert [o["row"] for o in made.told] == [1, 2] and made.start(1, "legacy", 0, "ada")["ahead"] == 2, "anew: at the end"


@pytest.mark.parametrize(("looked_at", "kept"), [(None, [2, 3]), (1, [1, 3])])
def test_what_was_looked_at_longest_ago_is_forgotten_beyond_a_budget(looked_at: int | None, kept: list[int],
                                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "KEPT_BYTES", 25)
    made = Silent()
    for number in (1, 2, 3):
        made.start(number, "legacy", 0, "ada")
        made.frame(number)
        if number == 3 and looked_at is not None:
            made.state(f"{looked_at}-legacy-0", "bob")
        made._take({"run": number, "ending": "done"}, {})
    assert [row for row in (1, 2, 3) if made.done(row) == [f"{row}-legacy-0"]] == kept


@pytest.mark.parametrize(("size", "most"), [("KEPT_BYTES", 40), ("KEPT_RUNS", 4)])
def test_what_was_stopped_or_failed_is_forgotten_too(size: str, most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, size, most)
    made = Silent()
    for number in range(1, 31):
        key = made.start(number, "legacy", 0, "ada")["run"]
        made.frame(number)
        if number % 2:
            made._take({"run": number, "ending": "failed", "error": "no such input"}, {})
        else:
            made.stop(key, "ada")
            made._take({"run": number, "ending": "stopped"}, {})
        assert made.state(key, "ada")["parts"], "the last one stays readable"
    assert list(made._runs) == [f"{number}-legacy-0" for number in range(27, 31)]


def generators(of: int | None = None) -> list[psutil.Process]:
    return [p for p in psutil.Process(of).children(recursive=True) if "explorer.generator" in " ".join(p.cmdline())]


def test_a_process_that_fails_or_dies_is_said(sky: Path, tmp_path: Path) -> None:
    made = Runs(sky, tmp_path)
    key = made.start(0, "legacy", 0, "ada")["run"]
    until(lambda: made.state(key, "ada")["status"] == "failed")
    note = made.state(key, "ada")["note"]
    assert f"{tmp_path.name} is not a model" in note and str(tmp_path.parent) not in note
    [process] = generators()
    process.send_signal(signal.SIGSTOP)
    made.start(0, "legacy", 0, "ada")
    process.kill()
    until(lambda: made.state(key, "ada")["status"] == "failed")
    assert "exit code -9" in made.state(key, "ada")["note"] and generators() == []
    made.close()


def test_who_waits_behind_a_process_that_hangs_is_served_by_another(sky: Path, tmp_path: Path,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "LONGEST", 0.5)
    made = Runs(sky, tmp_path)
    first = made.start(0, "legacy", 0, "ada")["run"]
    [process] = generators()
    process.send_signal(signal.SIGSTOP)
    made.stop(first, "ada")
    second = made.start(1, "legacy", 0, "bob")["run"]
    assert made.state(second, "bob")["status"] == "running" and process.is_running()
    until(lambda: made.state(second, "bob")["status"] == "failed")
    assert "is not a model" in made.state(second, "bob")["note"] and not process.is_running()
    assert made.state(first, "ada")["status"] == "stopped" and len(generators()) == 1
    made.close()


def test_after_closing_nothing_is_alive_or_begins(sky: Path, tmp_path: Path) -> None:
    before = set(threading.enumerate())
    made = Runs(sky, tmp_path)
    made.start(0, "legacy", 0, "ada")
    made.start(1, "legacy", 0, "bob")
    [process] = generators()
    process.send_signal(signal.SIGSTOP)  # it is busy
    made.close()
    for follower in set(threading.enumerate()) - before:
        follower.join(10)
    assert generators() == [] and not process.is_running()
    with pytest.raises(LookupError, match="was forgotten; generate again"):
        made.state("1-legacy-0", "bob")
    with pytest.raises(LookupError, match="model was changed"):
        made.start(1, "legacy", 0, "bob")
    assert generators() == []


def test_another_model_ends_what_the_last_one_was_at(model: Path, sky: Path, tmp_path: Path) -> None:
    desk = Desk(sky, shutil.copytree(model, tmp_path / "first"))
    desk.generate(0, "legacy", 0, "ada")
    desk.generate(1, "legacy", 0, "bob")
    [process] = generators()
    desk.model = model
    new = desk.runs
    assert new.model == model and desk.runs is new and not process.is_running() and generators() == []
    assert desk.generate(1, "legacy", 0, "bob")["status"] == "running" and len(generators()) == 1
    new.close()


def test_what_another_model_made_is_not_offered(model: Path, sky: Path, tmp_path: Path) -> None:
    desk = Desk(sky, model)
    desk._runs = made = Silent(model)
    made.start(0, "legacy", 0, "ada")
    made.frame(1)
    made._take({"run": 1, "ending": "done"}, {})
    assert desk.card(0)["generate"]["done"] == ["0-legacy-0"]
    desk.model = shutil.copytree(model, tmp_path / "another")
    assert desk.card(0)["generate"]["done"] == []


def test_no_address_stands_for_the_pictures_of_two_models() -> None:
    """A browser keeps a picture for ever under its run and version."""
    versions = []
    for name in ("one", "another"):
        made = Silent(Path(name))
        made.start(1, "legacy", 0, "ada")
        made.frame(1)
        made.frame(1)
        versions += [made.state("1-legacy-0", "ada")["parts"]["tok_z"]["version"]]
    assert versions[0] < versions[1]


# ----------------------------------------------------------------------------------------------------------- the page


@pytest.fixture(scope="module")
def seen(model: Path, sky: Path) -> Iterator[Visit]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(card_page, "SERVE", SERVE.format(model=str(model)))
        with server(sky) as address, visit(address) as made:
            yield made


@pytest.mark.browser
def test_generate_shows_previews_stops_and_ends(seen: Visit, galaxy: SkyObject) -> None:
    page, strip = seen.page, seen.page.locator(".generate")
    page.goto(seen.address + f"/?o={galaxy.id}")
    page.wait_for_function("id => window.omnisky?.state.id === id && omnisky.card.generate.row !== null", arg=galaxy.id)
    go = strip.locator(".go")
    assert go.inner_text() == "Generate" and "HSC image, DESI spectrum, redshift" in strip.inner_text()
    go.click()
    page.wait_for_function("omnisky.card.generate.parts.tok_image_hsc?.shown.length", timeout=60_000)
    [process] = [p for parent in psutil.Process().children() for p in generators(parent.pid)]
    process.send_signal(signal.SIGSTOP)  # it is busy for ever: the page goes on
    try:
        assert go.inner_text() == "Stop" and "%" in strip.locator(".note").inner_text()
        assert strip.locator(".stamps .generated figcaption").inner_text().split() == ["generated", "unfinished"]
        assert strip.locator(".stamps .generated img").evaluate(DECODED) == 384
        page.keyboard.press("Escape")
        page.wait_for_function("omnisky.card.generate.status === 'stopped'")
        assert go.inner_text() == "Generate" and "unfinished" in strip.locator(".note").inner_text()
        assert strip.locator(".stamps .generated img").is_visible(), "the last preview stays"
    finally:
        process.send_signal(signal.SIGCONT)
    page.keyboard.press("Control+Enter")
    page.wait_for_function("omnisky.card.generate.status === 'done'", timeout=90_000)
    assert go.inner_text() == "Draw again" and strip.locator(".thumbs button").count() >= 5
    assert [c.inner_text() for c in strip.locator(".stamps figcaption b").all()] == ["input", "generated", "measured"]
    assert "8 samples" in strip.inner_text() and "seed 0" in strip.inner_text() and "not calibrated" in strip.inner_text()
    page.wait_for_function("(({ over, flux }) => over && flux)(omnisky.card.generate.slots.tok_spectrum_desi.view)")
    assert "inconsistent with the input" in strip.locator(".slot.image .verdict.bad").inner_text()
    strip.get_by_role("button", name="χ per pixel").click()
    assert "χ per pixel" in strip.locator(".stamps .generated figcaption").inner_text()
    strip.get_by_role("button", name="typical").click()
    assert strip.locator(".stamps .generated figcaption").inner_text().split() == ["generated", "typical"]
    assert [n.get_attribute("style") for n in strip.locator(".stamps .north").all()] == ["transform:rotate(0deg)"] * 3
    assert page.evaluate(TURNED) == ["input transform:rotate(-35deg)", "generated transform:rotate(20deg)"]
    page.keyboard.press("v")
    assert strip.locator(".stamps .veil").is_visible()
    page.keyboard.press("v")
    assert not strip.locator(".stamps .veil").is_visible()
    other = generating_model.objects()[1].id
    page.evaluate("omnisky.go(1)")
    page.wait_for_function("id => omnisky.state.id === id && omnisky.card.generate.status === 'idle'", arg=other)
    page.evaluate("omnisky.go(0)")
    page.wait_for_function("omnisky.card.generate.status === 'done'")  # kept: nothing is made again
    assert seen.trouble == []


@pytest.mark.browser
def test_the_seed_that_was_typed_is_drawn_by_key_and_by_mouse(seen: Visit, galaxy: SkyObject) -> None:
    page, strip = seen.page, seen.page.locator(".generate")
    page.goto(seen.address + f"/?o={generating_model.objects()[2].id}")
    page.wait_for_function("window.omnisky?.card.generate.row === 2")
    posted: list[str] = []
    page.on("request", lambda r: posted.append(r.url.split("seed=")[1].split("&")[0]) if "/generate/2.json" in r.url else None)
    field, go = strip.locator("input[type=number]"), strip.locator(".go")
    field.fill("7")
    field.press("Control+Enter")
    page.wait_for_function("omnisky.card.generate.active")
    assert go.inner_text() == "Stop"
    go.click()
    field.fill("9")
    go.click()
    page.wait_for_function("omnisky.card.generate.active")
    assert posted == ["7", "9"] and page.evaluate("omnisky.card.generate.key").endswith("-9")
    go.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    assert go.evaluate("e => e === e.getRootNode().activeElement"), "the focus stays on the button"
    page.keyboard.press("Escape")
    for typed, drawn in (("-3", "0"), ("1e21", "999999"), ("12", "12")):
        field.fill(typed)
        field.press("Enter")
        page.wait_for_function("omnisky.card.generate.run && omnisky.card.generate.active")
        assert field.input_value() == drawn == posted[-1]
        field.press("Escape")
        page.wait_for_function("omnisky.card.generate.status === 'stopped'")


def answering(state: dict[str, Any]) -> Callable[[Any], None]:
    return lambda route: route.fulfill(json=state)


@pytest.mark.browser
def test_a_run_that_is_stopped_before_its_first_preview_leaves_no_empty_frames(seen: Visit) -> None:
    page, strip = seen.page, seen.page.locator(".generate")
    page.goto(seen.address + f"/?o={generating_model.objects()[6].id}")
    page.wait_for_function("window.omnisky?.card.generate.row === 6")
    about = {"kind": "image", "title": "HSC image", "side": 16.1, "shown": [], "measured": {}, "version": 1}
    redshift = {"kind": "scalar", "title": "redshift", "curve": {"low": 0, "high": 1, "density": [0, 1, 0], "posterior": True},
                "version": 1}
    for parts, left in (({}, []), ({"tok_image_hsc": about}, []), ({"tok_image_hsc": about, "tok_z": redshift}, ["scalar"])):
        state = {"run": "6-legacy-0", "status": "running", "fraction": 0.1, "note": "HSC image", "version": 1, "ahead": 0,
                 "parts": parts}
        for asked in ("**/generate/6.json?*", "**/run/6-*.json?*"):
            page.route(asked, answering(state))
        strip.locator(".go").click()
        page.wait_for_function("n => Object.keys(omnisky.card.generate.parts).length === n", arg=len(parts))
        assert strip.locator(".slot").count() == 3, "room for what will come"
        strip.locator(".go").click()
        assert page.evaluate("omnisky.card.generate.status") == "stopped"
        note = strip.locator(".note").inner_text()
        assert ("before anything was drawn" in note and "Generate" in note) if not left else "unfinished" in note
        assert page.evaluate("Object.values(omnisky.card.generate.slots).map(s => s.kind)") == left
        assert strip.locator(".slot").count() == len(left) and strip.locator(".coming, .stamps").count() == 0
        assert strip.locator(".go").inner_text() == "Generate" and strip.locator(".go").is_enabled()
        page.unroute_all()
    page.route("**/generate/6.json?*", lambda route: route.fulfill(status=404, json={"error": "it is gone"}))
    strip.locator(".go").click()
    page.wait_for_function("omnisky.card.generate.status === 'failed'")
    assert strip.locator(".note.bad").inner_text() == "it is gone" and strip.locator(".slot").count() == 0
    page.unroute_all()
    seen.trouble.clear()


@pytest.mark.browser
def test_what_is_generated_is_drawn_though_what_was_measured_cannot_be_read(seen: Visit) -> None:
    page = seen.page
    page.goto(seen.address + f"/?o={generating_model.objects()[4].id}")
    page.wait_for_function("window.omnisky?.card.generate.row === 4")
    page.route("**/spectrum/4/*", lambda route: route.fulfill(status=500, json={"error": "damaged"}))
    page.locator(".generate .go").click()
    page.wait_for_function("omnisky.card.generate.slots.tok_spectrum_desi?.view?.over", timeout=60_000)
    assert page.evaluate("omnisky.card.generate.slots.tok_spectrum_desi.view.over.wave.length") == 7781
    caption = page.locator(".generate .slot.spectrum .key")
    assert "DESI" in caption.inner_text() and "measured" not in caption.inner_text()
    page.unroute_all()
    page.keyboard.press("Escape")
    page.goto(seen.address + f"/?o={generating_model.objects()[5].id}")
    page.wait_for_function("window.omnisky?.card.generate.row === 5")
    page.locator(".generate .go").click()
    page.wait_for_function("omnisky.card.generate.slots.tok_spectrum_desi?.view?.over", timeout=60_000)
    assert "measured" in caption.inner_text()
    page.keyboard.press("Escape")
    seen.trouble.clear()


@pytest.mark.browser
def test_a_view_that_is_gone_stops_its_run(seen: Visit) -> None:
    page, asked = seen.page, []
    page.goto(seen.address + f"/?o={generating_model.objects()[5].id}")
    page.wait_for_function("window.omnisky?.card.generate.row === 5")
    page.locator(".generate .go").click()
    page.wait_for_function("omnisky.card.generate.run")
    with page.expect_request("**/stop/5-*"):
        page.evaluate("omnisky.root.remove()")
    page.on("request", lambda r: asked.append(r.url) if "/run/5-" in r.url else None)
    page.wait_for_timeout(500)
    assert asked == []


@pytest.mark.browser
def test_a_run_goes_on_though_an_answer_is_lost(seen: Visit) -> None:
    page, lost = seen.page, []
    page.goto(seen.address + f"/?o={generating_model.objects()[3].id}")
    page.wait_for_function("window.omnisky?.card.generate.row === 3")
    page.route("**/run/3-*.json?*", lambda route: (lost.append(1), route.abort())[1], times=2)
    page.locator(".generate .go").click()
    page.wait_for_function("(g => g.parts.tok_image_hsc || g.status === 'failed')(omnisky.card.generate)", timeout=60_000)
    assert len(lost) == 2 and page.evaluate("omnisky.card.generate.active")
    page.keyboard.press("Escape")
    page.route("**/run/3-*.json?*", lambda route: route.fulfill(status=404, json={"error": "it was forgotten"}))
    page.locator(".generate .go").click()
    page.wait_for_function("omnisky.card.generate.status === 'failed'")
    assert page.locator(".generate .note.bad").inner_text() == "it was forgotten"
    page.unroute_all()
    seen.trouble.clear()


@pytest.mark.browser
def test_what_cannot_be_generated_is_greyed_with_the_reason(seen: Visit) -> None:
    page = seen.page
    page.goto(seen.address + "/?o=bare")
    page.wait_for_function("window.omnisky?.state.id === 'bare' && omnisky.card.generate.row !== null")
    assert page.locator(".generate .go").is_disabled() and "no image or spectrum" in page.locator(".generate").inner_text()
    page.keyboard.press("Control+Enter")
    assert page.evaluate("omnisky.card.generate.status") == "idle"


@pytest.mark.browser
@pytest.mark.parametrize(("width", "height"), [(1440, 900), (1280, 720)])
def test_the_strip_fits_its_card(seen: Visit, galaxy: SkyObject, width: int, height: int) -> None:
    page = seen.page
    page.set_viewport_size({"width": width, "height": height})
    page.goto(seen.address + f"/?o={galaxy.id}")
    page.wait_for_function("window.omnisky?.card.generate.status === 'done'")
    wide = page.evaluate("[omnisky.card.root, omnisky.card.generate.root].map(e => e.scrollWidth - e.clientWidth)")
    assert max(wide) <= 1
    page.set_viewport_size({"width": 1440, "height": 900})
