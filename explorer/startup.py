"""Work beside the page: a child process makes or completes the sky, and the desk says how far it is."""

from __future__ import annotations

import atexit
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from engine.jobs import KINDS
from engine.model_files import SHIPPED
from engine.search import saved_rows
from engine.sky import Sky
from explorer.desk import Desk
from explorer.words import without_places

PATIENCE = 5.0  # seconds a stopped worker has to finish its batch


class Work:
    """A running worker. Its Steps go to `desk.progress`; `stop` ends it, and so does the end of this process."""

    def __init__(self, desk: Desk, job: str, **arguments: Any) -> None:
        self.desk = desk
        self.places = [desk.path, Path(arguments.get("model") or SHIPPED)]
        desk.progress = {"running": True, "fraction": 0.0, "note": "starting"}
        request = json.dumps({"job": job, "sky": str(desk.path), **arguments})
        self.process = subprocess.Popen([sys.executable, "-m", "explorer.worker", request], stdout=subprocess.PIPE,
                                        stdin=subprocess.DEVNULL, text=True)
        atexit.register(self.stop)
        assert self.process.stdout is not None
        threading.Thread(target=self._follow, args=(self.process.stdout,), daemon=True).start()

    def _follow(self, lines: IO[str]) -> None:
        error = None
        for line in lines:
            try:
                step = json.loads(line)
            except json.JSONDecodeError:
                continue  # a library's own chatter
            error = step.get("error")
            if error is not None:
                step["error"] = self._told(error)
            self.desk.progress = {"running": error is None, **step}
        code = self.process.wait()
        if code and error is None:
            self.desk.progress = {"running": False, "error": f"The worker stopped (exit code {code}); the terminal says why. "
                                                             "Start again to go on where it stopped."}
        elif not code:
            self.desk.progress = {"running": False, "fraction": 1.0, "note": self.desk.progress.get("note", "")}

    def _told(self, error: str) -> str:
        """For visitors, who need not know where sky and model lie; the terminal has the whole."""
        print(error, file=sys.stderr)
        return without_places(error, *self.places)

    def stop(self) -> None:
        """End the worker; what it committed stays."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.process.kill()


def needs_work(desk: Desk) -> bool:
    """Whether a sky lacks something that `engine.jobs.prepare` makes: vectors, indexes, maps, an object's place on them."""
    sky = desk.sky
    if not len(sky):
        return False
    spaces = {space: sky.embeddings(space) for space in sky.spaces}
    if not spaces or any(saved_rows(sky.path, space, vectors) < len(sky) for space, vectors in spaces.items()):
        return True  # vectors that are missing are missing in the index, too
    maps = [f"{kind}-{space}" for space, vectors in spaces.items() if vectors.known() for kind in KINDS]
    maps += ["sky"] if np.isfinite(sky.column("ra")).any() else []
    places = [_places(sky, name) for name in maps]
    if any(len(xy) < len(sky) for xy in places):
        return True
    nowhere = ~np.any([np.isfinite(xy[: len(sky), 0]) for xy in places], axis=0)
    return bool(nowhere.any()) and len(_places(sky, "arrival")) < len(sky)


def _places(sky: Sky, name: str) -> NDArray[np.float32]:
    """Of the rows of a map; none if it is not there, or damaged: then it is made again."""
    try:
        return sky.map(name).xy
    except (KeyError, ValueError):
        return np.empty((0, 2), np.float32)
