"""Generation beside the page: one process with the model for all visitors, runs in order of asking, results kept. No torch.

A run belongs to those who watch it: it ends when the last of them stops it, or has not asked after it for a while.
"""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import IO, Any

from explorer.words import without_places

KEPT_BYTES = 64_000_000  # of runs that have ended
KEPT_RUNS = 200
PATIENCE = 20.0  # seconds after which a visitor who does not ask any more is taken to have left
LONGEST = 20.0  # seconds from one word of the process to the next, once it was told to stop; else it hangs
ACTIVE = ("waiting", "running")
FRAMES = count(1)  # of all runs: another model's picture of the same object never has an address that a browser may know


@dataclass
class Run:
    """One object, source and seed. status: waiting, running, done, stopped or failed; version grows with every frame."""

    key: str
    order: dict[str, Any]
    status: str = "waiting"
    fraction: float = 0.0
    note: str = ""
    version: int = 0
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    watchers: dict[str, float] = field(default_factory=dict)

    def take(self, frame: dict[str, Any], files: dict[str, bytes]) -> None:
        """What came of it since."""
        self.version = next(FRAMES)
        self.fraction, self.note = frame["fraction"], frame["note"]
        self.files |= files
        for target, new in frame["parts"].items():
            self.parts[target] = self.parts.get(target, {}) | new | {"version": self.version}

    @property
    def size(self) -> int:
        return sum(map(len, self.files.values()))


class Runs:
    """The runs of one sky with one model; the process is started by the first of them."""

    def __init__(self, sky: Path, model: Path) -> None:
        self.sky, self.model = sky, model
        self._lock = threading.RLock()
        self._runs: OrderedDict[str, Run] = OrderedDict()  # in order of asking; those that have ended, of looking at them
        self._begun = 0  # numbers the orders: a run may be stopped and begun anew
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping: set[int] = set()  # numbers of the orders that the process was told to stop, and has not ended yet
        self._heard = 0.0  # when it said something, or was told to stop
        self._closed = False
        atexit.register(self.close)

    # -- what visitors ask ---------------------------------------------------------------------------------------

    def start(self, row: int, source: str, seed: int, visitor: str) -> dict[str, Any]:
        """A run's state; one that was stopped or has failed begins anew. What else this visitor waited for is given up.

        Raises LookupError once closed.
        """
        key = f"{row}-{source}-{seed}"
        with self._lock:
            if self._closed:
                raise LookupError("the model was changed just now; generate again")
            run = self._runs.get(key)
            if run is not None and run.status not in ACTIVE:  # one that waits keeps its place
                self._runs.move_to_end(key)
            if run is None or run.status in ("stopped", "failed"):
                self._begun += 1
                run = self._runs[key] = Run(key, {"run": self._begun, "row": row, "source": source, "seed": seed})
            for other in [r for r in self._runs.values() if r is not run and visitor in r.watchers]:
                del other.watchers[visitor]
            return self.state(key, visitor)

    def state(self, key: str, visitor: str) -> dict[str, Any]:
        """How far a run is. Raises LookupError for one that is not known (any more)."""
        with self._lock:
            run = self._run(key)
            if run.status in ACTIVE:
                run.watchers[visitor] = time.monotonic()
            self._next()
            ahead = [r for r in self._runs.values() if r.status in ACTIVE]
            return {"run": key, "status": run.status, "fraction": run.fraction, "note": run.note, "version": run.version,
                    "parts": dict(run.parts), "ahead": ahead.index(run) if run.status == "waiting" else 0}

    def file(self, key: str, name: str) -> bytes:
        """A picture or spectrum of a run. Raises LookupError if there is none."""
        with self._lock:
            run = self._run(key)
            if name not in run.files:
                raise LookupError(f"run {key} has no {name}")
            return run.files[name]

    def stop(self, key: str, visitor: str) -> dict[str, Any]:
        """This visitor wants it no more; it ends if no other does. What came of it so far stays readable."""
        with self._lock:
            run = self._run(key)
            run.watchers.pop(visitor, None)
            self._next()
            return {"run": key, "status": "stopped" if run.status in ACTIVE else run.status}

    def done(self, row: int) -> list[str]:
        """Keys of an object's runs that are done."""
        with self._lock:
            return [key for key, run in self._runs.items() if run.status == "done" and run.order["row"] == row]

    def close(self) -> None:
        """End the process at once, whatever it is at; all runs are forgotten, and none begins any more."""
        with self._lock:
            self._closed = True
            self._runs.clear()  # else what waits would begin when the process has ended
            process, self._process = self._process, None
        if process is not None:
            process.kill()  # it has nothing to bring to an end
            process.wait()

    def _run(self, key: str) -> Run:
        if key not in self._runs:
            raise LookupError("this run is over and was forgotten; generate again")
        run = self._runs[key]
        if run.status not in ACTIVE:  # what is looked at is forgotten last; one that waits keeps its place
            self._runs.move_to_end(key)
        return run

    # -- the process ---------------------------------------------------------------------------------------------

    def _end_alone(self) -> None:
        """End the runs that no one watches any more."""
        now = time.monotonic()
        for run in [r for r in self._runs.values() if r.status in ACTIVE]:
            if not any(now - seen < PATIENCE for seen in run.watchers.values()):
                if run.status == "running":
                    self._tell({"stop": run.order["run"]})
                    self._stopping.add(run.order["run"])
                    self._heard = now
                self._end(run, "stopped")

    def _end(self, run: Run, status: str, note: str = "") -> None:
        """It is over; it counts as looked at just now."""
        run.status, run.note = status, note
        self._runs.move_to_end(run.key)
        self._forget()

    def _end_hung(self) -> None:
        """A process that says nothing though it was told to stop is ended; what waited behind that is for the one after it."""
        if self._process is None or not self._stopping or time.monotonic() - self._heard < LONGEST:
            return
        self._process.kill()
        self._process = None
        self._stopping.clear()
        for run in [r for r in self._runs.values() if r.status == "running"]:
            run.status = "waiting"

    def _next(self) -> None:
        """Give the process work, if it has none that anyone watches and there is some."""
        self._end_alone()
        self._end_hung()
        if any(run.status == "running" for run in self._runs.values()):
            return
        waiting = [run for run in self._runs.values() if run.status == "waiting"]
        if waiting:
            waiting[0].status, waiting[0].note = "running", "starting"
            self._tell(waiting[0].order)

    def _tell(self, order: dict[str, Any]) -> None:
        if self._process is None or self._process.poll() is not None:
            if "stop" in order:
                return
            command = [sys.executable, "-m", "explorer.generator", str(self.sky), str(self.model)]
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            threading.Thread(target=self._follow, args=(self._process,), daemon=True).start()
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(order).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has just ended, and `_follow` says so

    def _follow(self, process: subprocess.Popen[bytes]) -> None:
        """Take in what the process sends, until it ends."""
        assert process.stdout is not None
        for frame, files in received(process.stdout):
            with self._lock:
                self._take(frame, files)
        code = process.wait()
        with self._lock:
            if self._process is process:  # else another is at work already
                self._process = None
                self._stopping.clear()
                for run in [r for r in self._runs.values() if r.status == "running"]:
                    self._end(run, "failed", f"The process that generates ended (exit code {code}); the terminal says why. "
                                             "Generate again.")
            self._next()

    def _take(self, frame: dict[str, Any], files: dict[str, bytes]) -> None:
        self._heard = time.monotonic()
        if "ending" in frame:
            self._stopping.discard(frame["run"])
        run = next((r for r in self._runs.values() if r.order["run"] == frame["run"]), None)
        if run is None or run.status != "running":  # a last word of one that was stopped
            return
        if "ending" not in frame:
            run.take(frame, files)
        else:
            run.version = next(FRAMES)
            if frame["ending"] == "done":
                run.fraction = 1.0
            self._end(run, frame["ending"], without_places(frame.get("error", ""), self.model, self.sky))
        self._next()

    def _forget(self) -> None:
        """The runs looked at longest ago, beyond what is kept."""
        over = [run for run in self._runs.values() if run.status not in ACTIVE]
        size, many = sum(run.size for run in over), len(over)
        for run in over[:-1]:
            if size <= KEPT_BYTES and many <= KEPT_RUNS:
                return
            size, many = size - run.size, many - 1
            del self._runs[run.key]


def received(stream: IO[bytes]) -> Iterator[tuple[dict[str, Any], dict[str, bytes]]]:
    """Frames with their files, as `explorer.generator` sends them, up to one that it could not finish."""
    while (header := stream.readline()).endswith(b"\n"):
        frame = json.loads(header)
        files = {name: stream.read(size) for name, size in frame["sizes"].items()}
        if any(len(files[name]) < size for name, size in frame["sizes"].items()):
            return
        yield frame, files
