"""The process that generates, so that the page never waits for a model: orders come as JSON lines, frames go back.

An order is {"run", "row", "source", "seed"} or {"stop": run}. A frame is a line of JSON with "run" and the sizes of its files,
and then the files' bytes; the last one of a run says how it ended. When the orders cease, so does the process.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from explorer import generated, pictures
from explorer.sources import Source, sources_of
from explorer.words import chi_line, plain, target_title

if TYPE_CHECKING:
    from engine.checkpoints import OmniBundle
    from engine.generation import Part, Reobserved
    from engine.objects import SkyObject

NICE = 5  # the page comes first
SAMPLES = {"scalar": 1, "image": 4, "spectrum": 8}


@dataclass(frozen=True)
class Frame:
    """How far a run is, in words and as a share; parts: target -> what is new of it; files: name -> bytes that it speaks of."""

    fraction: float
    note: str
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)


# -------------------------------------------------------------------------------------------------------- one run


def frames(bundle: OmniBundle, thing: SkyObject, source: Source, seed: int) -> Iterator[Frame]:
    """All that a source has to tell of an object, target by target, with all previews that there are. Closing stops.

    Raises what `engine.generation.generate` raises.
    """
    from engine import generation

    weight = {key: bundle.model.outputs[key].tokens * SAMPLES[bundle.model.outputs[key].kind] for key in source.targets}
    done, total = 0, sum(weight.values())
    for target in source.targets:
        shows = Shows(bundle, thing, source, target)
        title = target_title(target)
        yield Frame(done / total, title, *shows.beginning())
        steps = generation.generate(bundle, thing, target, inputs=source.inputs, seed=seed, samples=shows.samples)
        with closing(steps):  # type: ignore[type-var]
            for step in steps:
                share = (done + step.fraction * weight[target]) / total
                if isinstance(step.preview, list):  # the last one
                    yield Frame(share, title, *shows.end(step.preview[0][target]))
                elif step.preview is not None:
                    yield Frame(share, title, *shows.preview(step.preview))
                else:
                    yield Frame(share, title)
        done += weight[target]


class Shows:
    """One target of one object, as the page gets it: (parts, files) at the beginning, for every preview, and at the end."""

    def __init__(self, bundle: OmniBundle, thing: SkyObject, source: Source, target: str) -> None:
        self.bundle, self.thing, self.source, self.target = bundle, thing, source, target
        self.modality = bundle.model.outputs[target]
        self.samples = SAMPLES[self.modality.kind]
        self.truth = thing.image(self.modality.survey) if self.modality.kind == "image" else None

    def beginning(self) -> tuple[dict[str, Any], dict[str, bytes]]:
        """What was measured, in the frame of what will be generated."""
        about: dict[str, Any] = {"kind": self.modality.kind, "title": target_title(self.target), "done": False, "shown": []}
        if self.modality.kind != "image":
            return {self.target: about}, {}
        about |= {"side": self.side, "measured": {}}
        files = {}
        given = self.thing.image(self.source.key)
        for name, image in (("input", given), ("true", self.truth)):
            if image is not None:
                files[self.file(name)] = generated.measured(image, self.side)
                about["measured"][name] = {"file": self.file(name), "north": pictures.compass_angle(image)}
        return {self.target: about}, files

    @property
    def side(self) -> float:
        """Of an image that is generated, in arcsec."""
        from engine.codecs.stamps import FIELDS

        field = FIELDS[self.modality.survey]
        return field.size * field.scale

    def file(self, name: str, kind: str = "png") -> str:
        return f"{self.target}.{name}.{kind}"

    def preview(self, unfinished: Any) -> tuple[dict[str, Any], dict[str, bytes]]:
        if self.modality.kind == "image":
            name = self.file("preview")
            return {self.target: {"shown": [self.about("unfinished", name, unfinished)]}}, {name: self.stamp(unfinished)}
        if self.modality.kind == "spectrum":
            name = self.file("band", "bin")
            return {self.target: {"file": name, "done": False}}, {name: generated.band([unfinished])}
        return {self.target: {"curve": generated.curve(unfinished, self.redshift)}}, {}

    def about(self, title: str, file: str, image: Any) -> dict[str, Any]:
        """What the page needs to show a generated picture."""
        return {"title": title, "file": file, "north": pictures.compass_angle(image)}

    def stamp(self, image: Any) -> bytes:
        return generated.stamp(image, generated.look_for(self.modality.survey, self.truth))

    @property
    def redshift(self) -> float | None:
        return plain(self.thing.scalars.get("z"))

    def end(self, part: Part) -> tuple[dict[str, Any], dict[str, bytes]]:
        settings = part.origin.partition("scheme ")[2].rpartition(", seed")[0]
        about: dict[str, Any] = {"done": True, "origin": part.origin, "settings": settings, "samples": self.samples}
        files: dict[str, bytes] = {}
        if self.modality.kind == "image":
            named = [*((f"sample {i + 1}", one) for i, one in enumerate(part.samples)), ("typical", part.typical)]
            about["shown"] = [self.about(title, self.file(title.replace(" ", "-")), image) for title, image in named]
            files = {one["file"]: self.stamp(image) for one, (_, image) in zip(about["shown"], named, strict=True)}
            for one, (_, image) in zip(about["shown"], named, strict=True):
                files |= self.judge_image(one, image)
        elif self.modality.kind == "spectrum":
            about["file"] = self.file("band", "bin")
            files = {about["file"]: generated.band(part.samples)}  # type: ignore[arg-type]
            about |= self.judge_spectra(part.samples)
        elif part.distribution is not None:
            about["curve"] = generated.curve(part.distribution, self.redshift)
        return {self.target: about}, files

    # -- does it agree with what it was made from?

    def judge_image(self, one: dict[str, Any], image: Any) -> dict[str, bytes]:
        """Adds the verdict to what is shown, if there is one; returns the picture of chi."""
        from engine.generation import unusual

        given = self.thing.image(self.source.key)
        found = None if given is None else reobserved(image, given)
        if found is None or given is None:
            return {}
        chi = one["file"].replace(".png", "-chi.png")
        odd = "" if found.consistent else " ".join(f"{note[0].upper()}{note[1:]}." for note in unusual.notes(given))
        one["check"] = {"consistent": found.consistent, "number": f"{chi_line(found)} {odd}".rstrip(), "why": str(found),
                        "file": chi, "north": pictures.compass_angle(given)}
        return {chi: generated.residual(found.chi, given, self.side, image.history)}

    def judge_spectra(self, samples: Any) -> dict[str, Any]:
        """Most of the samples' verdict, by the input's spectrum, or by its fluxes; empty if there is none."""
        like = next((s for s in self.thing.spectra if s.survey == self.source.key and s.calibrated), self.thing)
        found = [one for one in (reobserved(sample, like) for sample in samples) if one is not None]
        if not found:
            return {}
        well = sum(one.consistent for one in found)
        typical = sorted(found, key=lambda one: one.p_value)[len(found) // 2]
        return {"check": {"consistent": 2 * well >= len(found), "why": str(typical),
                          "number": f"{chi_line(typical)} {well} of {len(found)} samples agree."}}


def reobserved(thing: Any, like: Any) -> Reobserved | None:
    """As the input's instrument would see it; None where the two cannot be compared, such as for an unknown PSF."""
    from engine.generation import reobserve

    try:
        return reobserve(thing, like)
    except ValueError:
        return None


# ------------------------------------------------------------------------------------------------------- the process


class Orders:
    """What is asked of this process, read by a thread beside the work; when there is no one left to ask, all ends."""

    def __init__(self, lines: IO[str]) -> None:
        self._wanted: queue.Queue[dict[str, Any]] = queue.Queue()
        self._stopped: set[int] = set()
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            order = json.loads(line)
            if "stop" in order:
                self._stopped.add(order["stop"])
            else:
                self._wanted.put(order)
        os._exit(0)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        while True:
            yield self._wanted.get()

    def stopped(self, run: int) -> bool:
        return run in self._stopped


def send(out: IO[bytes], files: dict[str, bytes], **header: Any) -> None:
    header["sizes"] = {name: len(content) for name, content in files.items()}
    out.write(json.dumps(header).encode() + b"\n" + b"".join(files.values()))
    out.flush()


def work(orders: Orders, out: IO[bytes], sky: str, model: str) -> None:
    """Run after run. The model is loaded when the first is asked for, and kept."""
    import engine
    from engine import checkpoints

    opened = engine.open(sky)
    bundle: OmniBundle | None = None
    for order in orders:
        run, ending = order["run"], "done"
        try:
            if bundle is None:
                send(out, {}, run=run, fraction=0.0, note="loading the model", parts={})
                loaded = checkpoints.load(model)
                assert isinstance(loaded, checkpoints.OmniBundle)
                bundle = loaded
            opened.refresh()
            steps = frames(bundle, opened[int(order["row"])], sources_of(bundle.folder)[order["source"]], int(order["seed"]))
            with closing(steps):  # type: ignore[type-var]
                for frame in steps:
                    if orders.stopped(run):
                        ending = "stopped"
                        break
                    send(out, frame.files, run=run, fraction=frame.fraction, note=frame.note, parts=frame.parts)
            send(out, {}, run=run, ending=ending)
        except (KeyError, ValueError, OSError, MemoryError, RuntimeError) as error:
            text = error.args[0] if isinstance(error, KeyError) and error.args else error
            send(out, {}, run=run, ending="failed", error=str(text) or type(error).__name__)


def main(sky: str, model: str) -> None:
    """Until the orders cease. Whatever libraries print goes to the terminal."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches us, too, but it is the server that ends us
    os.nice(NICE)
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    orders = Orders(sys.stdin)
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() - 1))  # a core is left to the page
    work(orders, out, sky, model)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
