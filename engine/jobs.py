"""Long work on a sky as generators of Steps: close one to stop it, run it again to go on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from engine.steps import Step
from engine.store import Store

BATCH = 256


def ingest(sky: str | Path, paths: Sequence[str | Path], survey: str | None = None, lossless: bool = False) -> Iterator[Step]:
    """Read files into a sky, a batch a commit. The last Step's preview holds "bad": (file, sentence) of what was refused.

    Files whose content is in the sky already are read again only to find what a killed run left out.
    """
    from engine.io import ReadError, scan

    bad: list[tuple[Path, str]] = []
    store = Store.create(sky, lossless)
    sources = list(scan(list(paths), survey, on_error=lambda path, sentence: bad.append((path, sentence))))
    new = old = 0
    for done, source in enumerate(sources):
        objects = source.read()
        try:
            while batch := list(islice(objects, BATCH)):
                appended = store.append(batch, [source.digest] * len(batch))
                new, old = new + len(appended.rows), old + len(appended.duplicates)
                yield Step(done / len(sources), f"{source.path.name}: {new} objects new")
        except (ReadError, OSError) as error:
            bad.append((source.path, str(error)))
    note = f"{new} objects new, {old} were there already, {len(bad)} files could not be read; {store.path} holds {len(store)}"
    yield Step(1.0, note, {"bad": bad, "new": new, "duplicates": old})
