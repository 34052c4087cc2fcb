"""The table of a model of AION-1's kind: redshifts, search, translation, spectra, posteriors, draws, latencies.

The sky has a seed of its own: nothing in it was ever trained on. The first objects are tested; the others have known redshifts,
and what probes and baselines need is fitted on them.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine.evaluate import latency, posterior, redshifts, retrieval, samples, sky, spectra, templates, translation, views
from engine.evaluate.astroclip import ALIKE
from engine.evaluate.figures import Figure
from engine.simulate import GRIDS
from engine.simulate.population import STAR
from engine.steps import Step

if TYPE_CHECKING:
    from engine.checkpoints import Bundle, OmniBundle
    from engine.objects import SkyObject

Array = NDArray[Any]
T = TypeVar("T")
PIXELS = 256  # test objects at most whose pixels are compared
TUNED = 64  # objects of the database that restorations are fitted on
DRAWN = 40  # test objects for each of which several images and spectra are drawn
FEWEST = 8
RIVAL = "AstroCLIP demo, both surveys' images"


@dataclass
class Table:
    """Sections in the order in which they were made. left_out: a sentence for each row that could not be."""

    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def add(self, title: str, rows: dict[str, dict[str, Figure]], *notes: str) -> None:
        if rows:
            self.sections[title] = {"notes": list(notes), "rows": rows}


def measure(bundle: OmniBundle, objects: int, database: int, seed: int) -> Iterator[Step]:
    """The last step's preview is the table: model, checksum, seed, sets, sections -> notes and rows -> figures, left_out."""
    bundle = bundle.aligned(bundle.folder / "align")
    table = Table()
    known, lacking = views.known_views(bundle)
    table.left_out += lacking
    keys = tuple(key for key in (*views.KEYS, *bundle.measured) if key in bundle.codecs)
    observing = sky.observe(bundle, seed, objects, database, tuple(dict.fromkeys(keys)), rival())
    test = yield from scaled(observing, 0.0, 0.3)
    seen = yield from scaled(encoded(bundle, test, known), 0.3, 0.55)
    found = yield from scaled(pixels(bundle, test), 0.55, 0.75)
    yield Step(0.75, "telling redshifts")
    add_redshifts(table, bundle, test, seen, found)
    yield Step(0.82, "searching")
    rows, said = retrieval.rows(bundle, test, seen, {} if test.rival is None else {RIVAL: test.rival})
    table.add("retrieval", rows, f"Which DESI spectrum belongs to an image. Alike: {ALIKE}.")
    table.left_out += said
    add_pixels(table, found)
    if views.REDSHIFT in bundle.codecs and any(view.redshift is not None for view in seen.values()):
        add_posterior(table, bundle, test, seen)
    else:
        table.left_out.append(f"redshift posterior: the model does not predict {views.REDSHIFT}")
    yield from scaled(draws(table, bundle, test), 0.85, 0.96)
    yield Step(0.96, "scoring the tokens that there are")
    add_likelihoods(table, bundle, test)
    some = next(sky.batches(seed, 0, min(objects, 16)))[2]
    table.add("latency on this machine", latency.rows(bundle, test, some), "Medians of three; what else ran counts, too.")
    yield Step(1.0, f"{bundle.folder.name} is measured", {
        "model": bundle.folder.name, "checksum": bundle.checksum, "seed": seed,
        "sets": {"test objects": objects, "database": database, "with compared pixels": found.count},
        "sections": table.sections, "left_out": table.left_out})


def rival() -> Bundle | None:
    """The AstroCLIP that comes with Omnisky, if it does."""
    from engine import checkpoints
    from engine.model_files import ASTROCLIP

    found = checkpoints.load(ASTROCLIP) if (ASTROCLIP / "config.json").is_file() else None
    return found if isinstance(found, checkpoints.Bundle) else None


def scaled(steps: Generator[Step, None, T], start: float, stop: float) -> Generator[Step, None, T]:
    """The same steps as a part of the whole."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]
        yield Step(start + (stop - start) * step.fraction, step.note)


def encoded(bundle: OmniBundle, test: sky.OmniSky, known: dict[str, tuple[str, ...]]
            ) -> Generator[Step, None, dict[str, views.View]]:
    out = {}
    for i, (name, keys) in enumerate(known.items()):
        part = views.read(bundle, test, keys, reduced=name == views.TOGETHER)
        out[name] = yield from scaled(part, i / len(known), (i + 1) / len(known))
    return out


# ------------------------------------------------------------------------------------------------------------- pixels


@dataclass
class Found:
    """What needed pixels, of the first `count` test objects. images, spectra, pairs: row -> name -> (count or fewer, ...);
    fitted: spectrum -> redshift by templates, (n,) with NaN."""

    count: int
    images: translation.Measured = field(default_factory=dict)
    spectra: translation.Measured = field(default_factory=dict)
    pairs: translation.Measured = field(default_factory=dict)
    fitted: dict[str, Array] = field(default_factory=dict)


def pixels(bundle: OmniBundle, test: sky.OmniSky) -> Generator[Step, None, Found]:
    """Batch by batch; restorations are fitted on the first objects of the database."""
    count = min(test.test, PIXELS)
    out = Found(count, fitted={f"{name.upper()} spectrum": np.full(len(test), np.nan) for name in GRIDS})
    _, tuning, _ = next(sky.batches(test.seed, test.test, len(test), min(TUNED, len(test) - test.test)))
    restored = translation.baselines(tuning) if translation.able(bundle) else {}
    interpolated = spectra.fitted(tuning)
    parts: dict[str, list[Any]] = {"images": [], "spectra": [], "pairs": []}
    for start, rendered, some in sky.batches(test.seed, 0, count, 32):
        if translation.able(bundle):
            parts["images"].append(translation.compared(bundle, rendered, some, restored))
        if spectra.able(bundle):
            parts["spectra"].append(spectra.compared(bundle, rendered, some, interpolated))
        parts["pairs"].append(spectra.from_images(bundle, rendered, some))
        for name, z in out.fitted.items():
            add_fitted(z[start : start + len(some)], rendered, name.split()[0].lower())
        yield Step((start + len(some)) / count, f"compared the pixels of {start + len(some):,} of {count:,} objects")
    out.images, out.spectra, out.pairs = (merged(parts[name]) for name in ("images", "spectra", "pairs"))
    return out


def add_fitted(z: Array, rendered: dict[str, Tensor], name: str) -> None:
    """Template redshifts of the galaxies that have such a spectrum, in place."""
    rows = torch.nonzero(rendered[f"has_{name}"] & (rendered["class"] < STAR))[:, 0]
    ivar = torch.where(rendered[f"{name}_mask"], 0.0, rendered[f"{name}_ivar"])[rows]
    if len(rows):
        z[rows.numpy()] = templates.redshifts(GRIDS[name]().numpy(), rendered[name][rows].double().numpy(),
                                              ivar.double().numpy())


def merged(parts: list[dict[str, dict[str, Array]]]) -> dict[str, dict[str, Array]]:
    """Batches of row -> name -> values, one after the other."""
    full = [part for part in parts if part]
    return {row: {name: np.concatenate([part[row][name] for part in full]) for name in of}
            for row, of in (full[0].items() if full else ())}


def draws(table: Table, bundle: OmniBundle, test: sky.OmniSky) -> Generator[Step, None, None]:
    """Several draws of an image or a spectrum for some test objects: coverage, and whether they agree with their input."""
    count = int(np.clip(test.test // 25, FEWEST, DRAWN))
    cover: dict[str, dict[str, Figure]] = {}
    agree: dict[str, dict[str, Figure]] = {}
    jobs: list[tuple[str, bool, Any, str]] = [
        ("HSC image from a Legacy image", translation.able(bundle), samples.image_draws, "has_legacy"),
        ("DESI spectrum from an SDSS one", spectra.able(bundle), samples.spectrum_draws, "has_sdss")]
    for i, (name, able, draw, has) in enumerate(jobs):
        rendered, some = chosen(test, count, has)
        if not able or not some:
            table.left_out.append(f"draws of a {name}: the model has no such codecs or the sky no such objects")
            continue
        held, consistent = yield from scaled(draw(bundle, rendered, some, test.seed), i / 2, (i + 1) / 2)
        cover[name] = samples.coverage(held)
        agree[name] = samples.agreement(consistent)
    table.add(f"coverage of {samples.SAMPLES} draws", cover, "Share of truths between the least and the largest draw; draws "
              f"that are as the truth would hold {samples.NOMINAL:.2f}. Draws of many tokens are plausible, not calibrated.")
    table.add("observed again", agree, "Share of first draws that agree with the measurement they were made from.")


def add_likelihoods(table: Table, bundle: OmniBundle, test: sky.OmniSky) -> None:
    """What drawing in rounds gains, and what reading every token once costs."""
    rows = {}
    for name, target, keys in (("HSC image from a Legacy image", views.HSC, translation.inputs(bundle)),
                               ("DESI spectrum from an SDSS one", views.DESI, [views.SDSS]),
                               ("DESI spectrum from a Legacy image", views.DESI, translation.inputs(bundle))):
        there = [key for key in keys if key in test.tokens]
        some = np.nonzero(test.has((target, keys[0])) & test.asked)[0]
        if len(some) and target in bundle.model.outputs and target in bundle.model.inputs:
            tokens, hidden = ({key: value[some] for key, value in of.items()} for of in (test.tokens, test.hidden))
            rows[name] = samples.likelihoods(bundle, tokens, hidden, there, target, test.seed)
    table.add("log-likelihood of the tokens that there are", rows, "Nats a token, by the chain rule in a random order; more is "
              "better.")


def chosen(test: sky.OmniSky, count: int, has: str) -> tuple[dict[str, Tensor], list[SkyObject]]:
    """The first test objects that a survey has looked at."""
    parts: list[dict[str, Tensor]] = []
    some: list[SkyObject] = []
    for _, rendered, objects in sky.batches(test.seed, 0, test.test, 32):
        rows = torch.nonzero(rendered[has])[: count - len(some), 0]
        parts.append({name: value[rows] for name, value in rendered.items()})
        some += [objects[row] for row in rows.tolist()]
        if len(some) >= count:
            break
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}, some


# ------------------------------------------------------------------------------------------------------------- sections


def add_redshifts(table: Table, bundle: OmniBundle, test: sky.OmniSky, seen: dict[str, views.View], found: Found) -> None:
    middles = views.middles(bundle) if views.REDSHIFT in bundle.codecs else None
    main = f"galaxies r < {redshifts.BRIGHT:g}, z < {redshifts.NEAR:g}"
    groups = {main: redshifts.main_sample(test), "all galaxies": test.galaxy, "quasars": test.quasar}
    answers = {name: redshifts.redshifts(test, seen, rows, middles, near=name == main) for name, rows in groups.items()}
    for name, of in answers.items():
        table.add(f"redshift, {name}", redshifts.photometric_rows(of), "bias and scatter: median and 1.48 median distances of "
                  "(z - truth) / (1 + truth); own redshift token: the mean of what the model says; told a limit or a range: "
                  "of what lies within, as does all that probes and trees were fitted on.")
        missing = [view for view in seen if not any(found.startswith(f"{view} ·") for found in of.found)]
        if missing:
            few = f"fewer than {redshifts.LEAST} such test objects"
            table.left_out.append(f"redshift of {name} from {', '.join(missing)}: {few}")
    table.add(f"redshift from spectra in km/s, {main}", redshifts.velocity_rows(answers[main], found.fitted))
    table.add(f"image and spectrum together, {main}", redshifts.together(answers[main]))
    table.add(f"what the image adds to the redshift, {main}", redshifts.gains(answers[main]), "Both on the same objects.")
    masses = redshifts.masses(test, seen, groups[main], middles)
    table.add(f"stellar mass, {main}", redshifts.mass_rows(masses), "mass-to-light ratio: by colours and "
              "redshift, fitted where that is known, averaged over the redshifts that the model holds possible.")
    table.add(f"what the image adds to stellar mass, {main}", redshifts.gains(masses), "Both on the same objects.")


def add_pixels(table: Table, found: Found) -> None:
    if found.images:
        table.add("Legacy image to HSC image", translation.rows(found.images), "Against the truth without noise, g, r, i, z; "
                  "observed pixels only; magnitudes within 2\"; |off|: 1.48 times the median.")
        rows, notes = translation.power_rows(found.images)
        table.add("Legacy image to HSC image, by scale", rows, "r band: power over the truth's, and coherence with it.", *notes)
    else:
        table.left_out.append("Legacy image to HSC image: the model does not read the one or predict the other")
    if found.spectra:
        table.add("SDSS spectrum to DESI spectrum", spectra.rows(found.spectra),
                  "Against the truth without noise, where both look.")
        table.add("lines of galaxies in it", spectra.line_rows(found.spectra), "completeness: of true lines at 5 sigma those "
                  "predicted above 3; false: of lines predicted at 5 sigma those below 2.")
        table.add("mean(truth - prediction) of lines in it", spectra.bin_rows(found.spectra), "True S/N of at least 5; 1e-17 "
                  "erg/s/cm2.")
    else:
        table.left_out.append("SDSS spectrum to DESI spectrum: the model does not read the one or predict the other")
    table.add("image to DESI spectrum", spectra.rows(found.pairs),
              "Typical spectra against the truth without noise, where SDSS would look, too.")


def add_posterior(table: Table, bundle: OmniBundle, test: sky.OmniSky, seen: dict[str, views.View]) -> None:
    table.add("redshift posterior, every object", posterior.rows(test, seen, views.edges(bundle)),
              "At temperature 1, nothing cut off. KS: of the randomised PIT, 95 % of right ones are below 1.36 / sqrt(n); off: "
              "coverage less its share, in standard deviations of a binomial; log score: nats, more is better.")
