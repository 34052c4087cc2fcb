"""`make bench-reference` says of every line what it must reach and whether it does; its clock counts nothing twice."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tools.bench import reference, reference_lines, reference_sky
from tools.bench.reference_lines import Line, Product, Program, compared, machine
from tools.bench.reference_sky import Clock

PLAIN: dict[str, Any] = {"fast_bfloat16": False, "amx": False}
WITH_BFLOAT16, WITH_AMX = PLAIN | {"fast_bfloat16": True}, {"fast_bfloat16": True, "amx": True}
TASK = "8 x tok_image -> context"


def line(program: str, seconds: float, task: str = TASK, **more: Any) -> Line:
    return Line(task, program, seconds, 2 * seconds, seconds / 6.0, seconds / 6.0, **more)


def test_targets_depend_on_what_the_processor_has() -> None:
    wanted = [reference.targets(on).get(("tok_image -> context", "bfloat16")) for on in (PLAIN, WITH_BFLOAT16, WITH_AMX)]
    assert wanted == [None, reference.Target(0.33), reference.Target(0.25)]
    assert reference.targets(PLAIN)["tok_image -> context", "float32"].ratio == 0.85


@pytest.mark.parametrize("task", ["8 x tok_image -> context", "8 x tok_image -> tok_z", "2 x tok_spectrum_desi -> tok_image",
                                  "encode 8 images", "decode 8 images", "encode 8 spectra", "decode 16 spectra",
                                  "loading, every page touched", "embed a sky of 256 objects"])
def test_every_task_has_a_target(task: str) -> None:
    assert reference.kind(task) in {task for task, _ in reference.targets(WITH_BFLOAT16)}


def test_lines_stand_beside_the_reference_s() -> None:
    lines = [line("reference", 6.0, gflops=100.0, share=0.5), line("float32", 4.5, gflops=125.0, share=0.625),
             line("bfloat16", 2.4)]
    exact, quick = reference.rows(lines, reference.targets(WITH_BFLOAT16))
    assert (exact.reference_seconds, exact.seconds, exact.ratio, exact.target, exact.reached) == (6.0, 4.5, 0.75, 0.85, True)
    assert (exact.gflops, exact.reference_gflops, exact.reference_share) == (125.0, 100.0, 0.5)
    assert (quick.target, quick.reached) == (0.33, False)
    _, untold = reference.rows(lines, reference.targets(PLAIN))
    assert untold.target is None and untold.reached is None


def test_speed_without_agreement_is_not_enough() -> None:
    def reached(task: str, program: str, **figures: float) -> bool | None:
        lines = [line("reference", 6.0, task), line(program, 1.2, task, figures=figures)]
        return reference.rows(lines, reference.targets(WITH_BFLOAT16))[0].reached

    assert reached("encode 8 images", "fast", **{"equal tokens": 0.95})
    assert not reached("encode 8 images", "fast", **{"equal tokens": 0.9})
    assert not reached("decode 8 images", "fast", **{"off by (sigma)": 0.2})
    assert not reached("loading, every page touched", "float32", **{"peak / weights": 2.0})
    assert not reached("embed a sky of 9 objects", "exact", **{"inside the model": 0.8})


def test_tables_say_what_they_were_made_on(tmp_path: Path) -> None:
    lines = [line("reference", 6.0), replace(line("float32", 5.7), figures={"cosine": 0.987654}, note="of 32 objects")]
    on = machine() | {"repeats": 3, "layers": 2}
    rows = reference.rows(lines, reference.targets(on))
    reference.write(tmp_path, lines, rows, on)
    text = (tmp_path / "reference.md").read_text()
    assert on["processor"] and on["processor"] in text and f"torch {torch.__version__}" in text and "2 layers instead" in text
    row = next(part for part in text.splitlines() if TASK in part)
    assert [cell.strip() for cell in row.strip("|").split("|")] == [
        TASK, "float32", "6.00", "5.70", "0.950", "<= 0.85", "missed", "0.950", "", "", "cosine 0.9877; of 32 objects"]
    stored = json.loads((tmp_path / "reference.json").read_text())
    assert stored["rows"][0]["seconds"] == 5.7 and len(stored["lines"]) == 2 and stored["on"]["threads"] == on["threads"]


class Time:
    """A clock that goes when it is told to, and a little at each look."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        self.now += 1e-6
        return self.now

    process_time = perf_counter


@pytest.fixture
def clock_time(monkeypatch: pytest.MonkeyPatch) -> Time:
    made = Time()
    for module in (reference_lines, reference_sky):
        monkeypatch.setattr(module, "time", made)
    return made


def test_programs_are_compared_with_the_first_and_with_a_product(clock_time: Time) -> None:
    called: list[str] = []

    def program(name: str, seconds: list[float]) -> Program:
        def call() -> None:
            called.append(name)
            clock_time.now += seconds[called.count(name) - 1]
        return Program(call, 3e9, Product(8, 8, 8))

    slow, quick = compared("nap", {"reference": program("reference", [9, 2, 1, 3]), "ours": program("ours", [9, 1, 1, 7])}, 3)
    assert called == ["reference", "ours"] * 4  # a turn to warm up, then three
    assert (slow.ratio, quick.ratio, quick.cpu_ratio) == pytest.approx((1, 0.5, 0.5), rel=1e-3)
    assert (slow.gflops, quick.gflops) == pytest.approx((1.5, 3), rel=1e-3)
    product = 2 * 8**3 / 2e-6 / 1e9  # two looks at the clock
    assert (slow.share, quick.share) == pytest.approx((1.5 / product, 3 / product), rel=1e-2)


class Worker:
    def __init__(self, time: Time) -> None:
        self.time, self.inside, self.go = time, threading.Event(), threading.Event()

    def work(self, seconds: float) -> int:
        self.time.now += seconds
        return 7

    def both(self) -> int:
        self.time.now += 2
        return self.work(3)

    def wait(self) -> None:
        self.inside.set()
        assert self.go.wait(10)


def test_the_clock_counts_calls_within_calls_and_at_once_only_once(clock_time: Time) -> None:
    clock, worker = Clock(), Worker(clock_time)
    watched: dict[str, Any] = {"work": ((Worker, "work"),), "both": ((Worker, "both"), (Worker, "wait"))}
    with clock.watching(watched):
        assert worker.both() == 7
        clock_time.now += 10  # outside
        thread = threading.Thread(target=worker.wait)
        thread.start()
        assert worker.inside.wait(10)
        worker.work(4)  # while the other waits
        worker.go.set()
        thread.join()
        with pytest.raises(TypeError):
            worker.work("x")  # type: ignore[arg-type]
        clock_time.now += 10  # an error ends a call, too
    worker.both()  # watched no more
    assert (clock.inside, clock.spent["both"], clock.spent["work"]) == pytest.approx((9, 9, 7), abs=1e-3)
