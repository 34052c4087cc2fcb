"""Long work on a sky as generators of Steps: close one to stop it, run it again to go on.

Everything is done in batches that are committed one by one, so that a killed run leaves a sky that opens, and the next run
starts where it stopped. A sky that has grown is brought up to date by running the same jobs again.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from engine.embeddings import MANIFEST, Embeddings
from engine.files import NoRoom, only_writer
from engine.model_files import model_of, models_of
from engine.steps import Step
from engine.store import Store
from engine.vectors import add_vectors, from_pixels, from_tokens, manifests_of, open_spaces, patch_keys, with_patches

if TYPE_CHECKING:
    from engine.checkpoints import Bundle, OmniBundle
    from engine.maps import Map

BATCH = 256
FIRST_MAP = 1000  # a demo's map is fitted on these, later objects are placed on it
KINDS = ("umap", "pca")


def ingest(sky: str | Path, paths: Sequence[str | Path], survey: str | None = None, lossless: bool = False) -> Iterator[Step]:
    """Read files into a sky, a batch a commit. The last Step's preview holds "bad": (file, sentence) of what was refused.

    Files whose content is in the sky already are read again only to find what a killed run left out. Raises ValueError if there
    is no file, or another process writes to the sky; NoRoom if the disk is full.
    """
    from engine.io import scan

    bad: list[tuple[Path, str]] = []
    sources = list(scan(list(paths), survey, on_error=lambda path, sentence: bad.append((path, sentence))))
    if not sources and not bad:
        places = ", ".join(f"{path}" for path in paths)
        raise ValueError(f"there is no file of objects in {places}; name files or folders that hold some")
    store = Store.create(sky, lossless)
    new = old = 0
    with store.writing():  # from the first batch to the last, so that a second ingest is told at once
        for done, source in enumerate(sources):
            objects = source.read()
            try:
                while batch := list(islice(objects, BATCH)):
                    appended = store.append(batch, [source.digest] * len(batch))
                    new, old = new + len(appended.rows), old + len(appended.duplicates)
                    yield Step(done / len(sources), f"{source.path.name}: {_objects(new)} new")
            except NoRoom:
                raise
            except (ValueError, OSError) as error:  # not to be read, or not to be stored: the others can still be
                bad.append((source.path, str(error)))
    note = f"{_objects(new)} new, {old} were there already, {len(bad)} files could not be read; {store.path} holds {len(store)}"
    yield Step(1.0, note, {"bad": bad, "new": new, "duplicates": old})


def _objects(count: int) -> str:
    return f"{count} object" if count == 1 else f"{count} objects"


def tokenize(sky: str | Path, model: str | Path, inputs: Sequence[str] | None = None, quick: bool = False, copies: int = 0
             ) -> Iterator[Step]:
    """Tokens of all objects that have none yet, by the codecs of a model of AION-1's kind: see `engine.tokenized`.

    model: its folder, or one that holds codecs alone. copies: of so many turned copies of each object, too (`engine.augment`),
    for training. Raises ValueError if another process embeds the same sky, FileNotFoundError or ValueError for a model that
    cannot be loaded or has no codecs, KeyError for an unknown input.
    """
    from engine import checkpoints, tokenized

    store, folder = Store(sky), Path(model)
    alone = (folder / "codecs").is_dir() and not (folder / "config.json").is_file()
    bundle = checkpoints.CodecBundle.load(folder) if alone else checkpoints.load(folder)
    if isinstance(bundle, checkpoints.Bundle) or not len(bundle.codecs):
        raise ValueError(f"{bundle.folder} has no codecs, so it makes no tokens; give the folder of a model of AION-1's kind")
    with _only_embedder(store):
        yield from tokenized.tokenize(store, bundle, inputs, quick, copies)


def embed(sky: str | Path, model: str | Path | None = None, inputs: Sequence[str] | None = None, space: str = "joint",
          pool: Literal["mean", "balanced"] = "balanced", quick: bool | None = None, parts: bool = False) -> Iterator[Step]:
    """Vectors of all objects that have none yet, in every space of the model; None: in those that are there, each by the model
    that made it, of a sky without vectors by the shipped one.

    Vectors of another model are replaced: a space holds one model's vectors only, as its manifest says. A model of AION-1's
    kind starts from tokens, which are stored (`tokenize`, quick as there); with inputs, its token keys, `space` alone is made
    of them; with parts, patch vectors are stored too (`engine.patches`). Raises ValueError if another process embeds the same
    sky or the model has no choice of inputs, FileNotFoundError or ValueError for a model that cannot be loaded, KeyError for an
    unknown input, NoRoom if the disk has too little room for patches.
    """
    store = Store(sky)
    models = [Path(model) if model is not None else model_of(store.path)]
    if model is None and inputs is None and not parts:
        models = list(models_of(store.path))
    chosen = None if inputs is None else (space, inputs, pool)
    said: list[str] = []
    for i, folder in enumerate(models):
        steps = _embed(store, _loaded(store, folder), chosen, quick, parts, known_only=model is None)
        for step in _scaled(steps, i / len(models), (i + 1) / len(models)):
            said += (step.preview or {}).get("warnings", [])
            yield Step(step.fraction, step.note, {"warnings": said} if step.fraction == 1 else None)


def _embed(store: Store, bundle: Bundle | OmniBundle, chosen: tuple[str, Sequence[str], Literal["mean", "balanced"]] | None,
           quick: bool | None, parts: bool, known_only: bool) -> Iterator[Step]:
    """`embed` by one model. chosen: a space of its own name, inputs and pooling; known_only: no space that is not there yet."""
    from engine import checkpoints

    if isinstance(bundle, checkpoints.OmniBundle):
        inputs = None if chosen is None else chosen[1]
        if chosen is not None and chosen[0] in bundle.spaces:
            raise ValueError(f"{chosen[0]} is what {bundle.folder.name} makes of its own inputs; "
                             "give those of yours another name")
        asked = manifests_of(store, bundle, known_only) if chosen is None else {chosen[0]: bundle.manifest(*chosen)}
        steps = from_tokens(store, bundle, asked, quick, patch_keys(bundle, inputs) if parts else ())
        if not asked:
            raise ValueError(f"{bundle.folder} has no codecs of images or spectra, so it makes no vectors; they lie in its "
                             "folder codecs, and omnisky download fetches them with the model")
        if parts:
            steps = with_patches(store, bundle, steps, patch_keys(bundle, inputs))
    elif chosen is not None or parts:
        raise ValueError(f"{bundle.folder.name} always reads the same and has no parts; "
                         "a choice of inputs, and patches, need a model of AION-1's kind")
    else:
        steps = from_pixels(store, bundle, manifests_of(store, bundle, known_only))
    with _only_embedder(store):
        yield from steps


def _loaded(store: Store, model: str | Path | None) -> Bundle | OmniBundle:
    """The model, by default the one that made the sky's vectors, with the head that was fitted on the sky or came with it."""
    from engine import checkpoints

    bundle = checkpoints.load(model_of(store.path) if model is None else model)
    if isinstance(bundle, checkpoints.OmniBundle):
        return bundle.aligned(store.path / "align", bundle.folder / "align")
    return bundle


def align(sky: str | Path, model: str | Path, pairs: int = 4000, seed: int = 0) -> Iterator[Step]:
    """A head that makes image and spectrum vectors of a model comparable, from the sky's pairs: see `engine.align`.

    Raises ValueError for too few pairs or another kind of model, or if another process embeds the same sky.
    """
    from engine import align, checkpoints

    store, bundle = Store(sky), checkpoints.load(model)
    if not isinstance(bundle, checkpoints.OmniBundle):
        raise ValueError(f"{bundle.folder.name} needs no alignment: its vectors can be compared as they are")
    with _only_embedder(store):
        yield from align.align(store, bundle, pairs, seed)


def _only_embedder(store: Store) -> AbstractContextManager[None]:
    return only_writer(store.path / "embeddings.lock", f"the embeddings of {store.path}")


def generate(sky: str | Path, targets: Sequence[str], out: str | Path, object: str | None = None,
             model: str | Path | None = None, **options: Any) -> Iterator[Step]:
    """What a model makes of an object, or of all of them, as FITS: see `engine.generation.exports`.

    model: as in `embed`; ValueError for one that generates nothing. options: as `engine.generation.asked` takes them. Raises
    what it raises, and KeyError if there is no such object.
    """
    from engine import checkpoints, generation
    from engine.generation import exports
    from engine.sky import Sky

    opened = Sky(sky)
    found = None if object is None else opened.find(object)
    if object is not None and (found is None or found.id is None):
        raise KeyError(f"no object is called {object!r} in {opened.path}" + (f" ({found.reading})" if found else ""))
    folder = model_of(opened.path) if model is None else Path(model)
    bundle = checkpoints.load(folder)
    if not isinstance(bundle, checkpoints.OmniBundle):
        raise ValueError(f"{folder} generates nothing; give the folder of a model of AION-1's kind with --model")
    request = generation.asked(bundle, targets, **options)
    if found is not None and found.id is not None:
        yield from exports.export(request, opened[found.id], Path(out))
    else:
        yield from exports.export_all(request, opened.store, Path(out))


def index(sky: str | Path) -> Iterator[Step]:
    """The search index of every space, and the order of the objects on the sky."""
    from engine import search

    store = Store(sky)
    spaces = _spaces(store)
    store.save_healpix_index()
    for i, (space, embeddings) in enumerate(spaces.items()):
        for step in search.build_and_save(store.path, space, embeddings):
            yield Step((i + step.fraction) / len(spaces), step.note)


def map(sky: str | Path, space: str | None = None, kind: str | None = None) -> Iterator[Step]:
    """Maps "umap-image", "pca-image" ... of the sky's spaces; newcomers are placed on the maps that are there.

    space, kind: one of them only. Without either, also "sky", by position, and, if some objects are on none of these,
    "arrival". Raises ValueError for one that is unknown, or if there are no vectors to make it of.
    """
    store = Store(sky)
    spaces = _spaces(store)
    if space is not None and space not in spaces:
        raise ValueError(f"{store.path} has no space {space!r}; choose one of {', '.join(spaces)}")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"there is no map of kind {kind!r}; choose {' or '.join(KINDS)}")
    todo = [(k, s) for s in spaces if space in (None, s) and spaces[s].known() for k in KINDS if kind in (None, k)]
    if not todo and (space or kind):
        raise ValueError(f"{store.path} has no vectors for a map: its objects lack what the model reads")
    for i, (k, s) in enumerate(todo):
        yield Step(i / len(todo), f"{k}-{s}: placing {len(spaces[s]):,} objects")
        place(store.path, k, s, spaces[s])
    made = [f"{k}-{s}" for k, s in todo]
    if space is None and kind is None:
        yield Step(0.95, f"placing {len(store):,} objects by their positions")
        made += place_without_vectors(store, made)
    reach = min(len(s) for s in spaces.values())
    missing = f"; {len(store) - reach:,} have no vectors yet: omnisky embed {store.path}" if reach < len(store) else ""
    yield Step(1.0, f"maps {', '.join(made)} hold {reach:,} objects{missing}")


def place_without_vectors(store: Store, others: list[str]) -> list[str]:
    """Bring "sky" up to date, and "arrival" if objects are neither there nor on the `others`; returns what there is now."""
    from engine import skymap

    before = {name: _opened(store.path / "maps" / name) for name in ("sky", "arrival", *others)}
    table = store.table(["ra", "dec"])
    chart = skymap.sky_map(table.column("ra").to_numpy(), table.column("dec").to_numpy(), before["sky"])
    placed: NDArray[np.bool_] = np.asarray(np.isfinite(chart.xy).all(axis=1))
    charts = [chart] if placed.any() else []
    for other in filter(None, (before[name] for name in others)):
        placed[: len(other.xy)] |= np.isfinite(other.xy).all(axis=1)
    if not placed.all():
        charts.append(skymap.arrival_map(len(store)))
    for made in charts:
        there = before[made.name]
        if there is None or len(there.xy) != len(store):
            made.save(store.path / "maps" / made.name)
    names = [made.name for made in charts]
    if "arrival" not in names:
        shutil.rmtree(store.path / "maps" / "arrival", ignore_errors=True)
    return names


def _opened(folder: Path) -> Map | None:
    """A map, or None if there is no whole one."""
    from engine import maps

    try:
        return maps.Map.open(folder)
    except (FileNotFoundError, ValueError):
        return None


def place(sky: Path, kind: str, space: str, embeddings: Embeddings) -> None:
    """Bring one map up to date: fit it if there is no whole one of this model's vectors, else place the newcomers."""
    from engine import maps

    name, vectors = f"{kind}-{space}", embeddings.vectors
    folder, checksum = sky / "maps" / name, embeddings.manifest["checksum"]
    known = _opened(folder)
    if known is not None and known.manifest.get("checksum") == checksum and len(known.xy) <= len(vectors):
        if len(known.xy) < len(vectors):
            known.grow(vectors[len(known.xy):]).save(folder)
        return
    maps.fit(vectors, kind, name=name, about={"space": space, "checksum": checksum}).save(folder)


def _spaces(store: Store) -> dict[str, Embeddings]:
    """The spaces of a sky. Raises ValueError if it has none, or none that reaches all objects."""
    folders = sorted(path.parent for path in store.path.glob(f"embeddings/*/{MANIFEST}"))
    spaces = {folder.name: Embeddings.open(folder) for folder in folders}
    if not spaces or not any(len(s) for s in spaces.values()):
        raise ValueError(f"{store.path} has no vectors yet; run: omnisky embed {store.path}")
    return spaces


def prepare(sky: str | Path, model: str | Path | None = None) -> Iterator[Step]:
    """All that a sky needs to be explored: vectors, maps, indexes; what is there already is left alone."""
    yield from _scaled(embed(sky, model), 0.0, 0.7)
    yield from _scaled(map(sky), 0.7, 0.95)
    yield from _scaled(index(sky), 0.95, 1.0)


def demo(sky: str | Path, objects: int = 3000, seed: int | None = None, model: str | Path | None = None) -> Iterator[Step]:
    """A simulated survey from nothing to an indexed map; the maps appear after the first `FIRST_MAP` objects.

    model: as in `embed`. Raises ValueError if the sky is there but holds something else than this simulation, or what another
    version of the simulator made.
    """
    from engine import demo_sky

    seed = demo_sky.SEED if seed is None else seed
    store = Store.create(sky)
    origin = f"simulated-{seed}"
    if store.origins - {origin}:
        raise ValueError(f"{store.path} holds other objects than the simulated sky with seed {seed}; choose another folder")
    if len(store) and demo_sky.made(seed, 0) not in (said := store.read(0).history):
        raise ValueError(f"{store.path} begins with: {', '.join(said)}; this is version {demo_sky.VERSION}; "
                         "choose another folder")
    if len(store) < objects or not (store.path / "maps").is_dir():
        threading.Thread(target=_warm_up, daemon=True).start()
    bundle = _loaded(store, model)
    from engine.codecs.border import unsaid  # with torch, which wrong arguments need not wait for

    there = 0.9 * min(len(store) / objects, 1.0)
    with _only_embedder(store), ThreadPoolExecutor(1) as beside:
        stored = from_pixels(store, bundle, bundle.manifests)  # what a stopped run stored and did not embed
        yield from _scaled(stored, 0.0, 0.8 * there)
        if len(store) >= min(objects, FIRST_MAP):
            yield from _scaled(map(store.path), 0.8 * there, there)
        spaces = open_spaces(store.path, bundle.manifests)
        for batch in demo_sky.batches(seed, len(store), objects):
            first = len(store)
            written = beside.submit(store.append, batch, [origin] * len(batch))
            with _half_the_cores(), unsaid():
                vectors = bundle.vectors(batch)
            written.result()  # rows first: a vector without its row would be taken for the next object's
            add_vectors(spaces, vectors, first)
            done = 0.9 * len(store) / objects
            yield Step(done, f"simulated and embedded {len(store):,} of {objects:,} objects")
            if first < FIRST_MAP <= len(store) or (len(store) > FIRST_MAP and len(store) // 500 > first // 500):
                yield from _place_all(store, spaces, done)
    yield from _scaled(map(store.path), 0.9, 0.97)
    yield from _scaled(index(store.path), 0.97, 1.0)
    yield Step(1.0, f"{len(store):,} objects are ready", {"objects": len(store)})


def _place_all(store: Store, spaces: dict[str, Embeddings], done: float) -> Iterator[Step]:
    """Bring every map up to date, the quick ones first."""
    for kind in KINDS[::-1]:
        for space, vectors in spaces.items():
            place(store.path, kind, space, vectors)
            yield Step(done, f"map {kind}-{space}: {len(store):,} objects placed", {"map": f"{kind}-{space}"})


def _warm_up() -> None:
    from engine import maps

    with suppress(RuntimeError):  # this process may end before it is done
        maps.warm_up()


@contextmanager
def _half_the_cores() -> Iterator[None]:
    """Torch works on half of the cores while another process is as busy: threads that wait for a core hold up all others."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(max(1, before // 2))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _scaled(steps: Iterator[Step], low: float, high: float) -> Iterator[Step]:
    """The steps as a part of something longer."""
    return (Step(low + (high - low) * step.fraction, step.note, step.preview) for step in steps)
