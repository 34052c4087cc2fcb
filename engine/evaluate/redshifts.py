"""Redshifts and stellar masses: by probes on a model's vectors, by its own redshift token, and by plain baselines.

Shape letters: n objects, m of them asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluate import probes
from engine.evaluate.figures import Figure, bootstrapped, nmad, r2, r2_difference, r2_figure
from engine.evaluate.sky import OmniSky
from engine.evaluate.views import TOGETHER, View
from engine.simulate.sed import LIGHT

Array = NDArray[Any]
Rows = dict[str, dict[str, Figure]]
BRIGHT, NEAR = 20.0, 0.6  # r magnitude and redshift of the main rows
OUTLIER = 0.15
LEAST = 20  # test objects of a row
PROBES: dict[str, Callable[[Array, Array, Array], Array]] = {"kNN": probes.nearest, "ridge": probes.ridge}
OWN = "own redshift token"
CUT = f"{OWN}, told z < {NEAR:g}"
RANGE = f"{OWN}, told the range of those known"
TREES = "baseline: catalogue magnitudes · boosted trees"
ADDED = "catalogue magnitudes + Legacy image · boosted trees, then ridge"
THROUGH = f"{OWN} and catalogue magnitudes · mass-to-light ratio"
IMAGE, PLAIN, BOTH, SPECTRUM = "Legacy image", "magnitudes", "Legacy image + magnitudes", "DESI spectrum"


@dataclass(frozen=True)
class Answers:
    """What every estimator says of the same asked objects. truth (m,); found: "view · estimator" -> (m,), NaN where an object
    does not have the inputs; rows (m,): which objects of the sky."""

    truth: Array
    found: dict[str, Array]
    rows: NDArray[np.int64]

    def both(self, *names: str) -> list[Array]:
        """Truth and these answers, of the objects that all of them answer."""
        there = np.all([np.isfinite(self.found[name]) for name in names], axis=0)
        return [self.truth[there], *(self.found[name][there] for name in names)]


def main_sample(sky: OmniSky) -> NDArray[np.bool_]:
    return sky.galaxy & (sky.magnitudes[:, 1] < BRIGHT) & (sky.z < NEAR)


def redshifts(sky: OmniSky, views: Mapping[str, View], chosen: NDArray[np.bool_], middles: Array | None, near: bool = False
              ) -> Answers:
    """Of the chosen objects, those of the database known. Probes and trees tell ln(1 + z); the model's own token gives the
    mean of its distribution, which has the least squared error; middles: what its bins stand for. near: the chosen are galaxies
    cut at z < NEAR. Probes and trees have learned that, and that no star is among them, from those they were fitted on: rows
    tell the model's token, too, the limit or the range of redshifts there."""
    answers = _probed(sky, views, chosen, np.log1p(sky.z), np.expm1)
    known = sky.z[chosen & ~sky.asked]
    for name, view in views.items():
        if view.redshift is not None and middles is not None:
            said = view.redshift[answers.rows].astype(np.float64)
            kinds = {OWN: said}
            if near:
                kinds[CUT] = said * (middles < NEAR)
            if near and len(known):
                kinds[RANGE] = said * ((middles >= known.min()) & (middles <= known.max()))
            for kind, p in kinds.items():
                possible = view.there[answers.rows] & (p.sum(1) > probes.TINY)
                own = np.where(possible, p @ middles / np.maximum(p.sum(1), probes.TINY), np.nan)
                if np.isfinite(own).sum() >= LEAST:
                    answers.found[f"{name} · {kind}"] = own
    return Answers(sky.z[answers.rows], answers.found, answers.rows)


def masses(sky: OmniSky, views: Mapping[str, View], chosen: NDArray[np.bool_], middles: Array | None) -> Answers:
    """log10 of stellar masses in solar masses, as the catalogue has them, of the chosen objects. Beside the probes:
    catalogue magnitudes at the redshifts that the model's own token holds possible; middles: what its bins stand for."""
    mass = sky.values["s_log_mstar"]
    chosen = chosen & np.isfinite(mass)
    answers = _probed(sky, views, chosen, mass, lambda x: x)
    known = np.flatnonzero(chosen & ~sky.asked)
    for name, view in views.items():
        there = view.there[answers.rows]
        if view.redshift is not None and middles is not None and there.sum() >= LEAST and len(known) >= LEAST:
            asked = answers.rows[there]
            own = answers.found[f"{name} · {THROUGH}"] = np.full(len(there), np.nan)
            own[there] = probes.mass_at_redshift(sky.magnitudes[known], sky.z[known], mass[known], sky.magnitudes[asked],
                                                 view.redshift[asked], middles)
    return answers


def _probed(sky: OmniSky, views: Mapping[str, View], chosen: NDArray[np.bool_], values: Array, back: Callable[[Array], Array]
            ) -> Answers:
    asked, known = np.flatnonzero(chosen & sky.asked), np.flatnonzero(chosen & ~sky.asked)
    found: dict[str, Array] = {}
    if len(asked) < LEAST or len(known) < LEAST:
        return Answers(values[asked], found, asked)

    def answer(name: str, there: NDArray[np.bool_], vectors: Array, probe: Callable[[Array, Array, Array], Array]) -> None:
        fit, new = known[there[known]], there[asked]
        if len(fit) >= LEAST and new.sum() >= LEAST:
            found[name] = np.full(len(asked), np.nan)
            found[name][new] = back(probe(vectors[fit], values[fit], vectors[asked[new]]))

    for name, view in views.items():
        for kind, probe in PROBES.items():
            answer(f"{name} · {kind}", view.there, view.balanced, probe)
        if name == TOGETHER:
            answer(f"{name}, mean pooling · ridge", view.there, view.mean, probes.ridge)
            if view.reduced is not None:
                answer(f"{name}, attentive · probe", view.there, view.reduced, probes.attentive)
    everyone = np.ones(len(sky), bool)
    for kind, probe in (("kNN", probes.nearest), ("boosted trees", probes.boosted)):
        answer(f"baseline: catalogue magnitudes · {kind}", everyone, probes.colours(sky.magnitudes), probe)
    if IMAGE in views:
        view = views[IMAGE]
        answer(ADDED, view.there, np.concatenate([probes.colours(sky.magnitudes), view.balanced], 1), probes.boosted_and_ridge)
    return Answers(back(values[asked]), found, asked)


def photometric(truth: Array, found: Array) -> dict[str, Figure]:
    """R2; the median, scatter and outliers of (z - truth) / (1 + truth)."""
    off = (found - truth) / (1 + truth)
    return {"R2": bootstrapped(len(off), lambda rows: r2(truth[rows], found[rows]), n=len(off)),
            "bias": bootstrapped(len(off), lambda rows: np.median(off[rows], axis=-1)),
            "sigma_NMAD": bootstrapped(len(off), lambda rows: nmad(off[rows])),
            f"outliers > {OUTLIER}": bootstrapped(len(off), lambda rows: (np.abs(off[rows]) > OUTLIER).mean(-1))}


def photometric_rows(answers: Answers) -> Rows:
    return {name: photometric(*answers.both(name)) for name in answers.found}


def mass_rows(answers: Answers) -> Rows:
    rows: Rows = {}
    for name in answers.found:
        truth, found = answers.both(name)
        rows[name] = {"R2": r2_figure(truth, found), "scatter (dex)": bootstrapped(
            len(truth), lambda some, off=found - truth: nmad(off[some]))}  # type: ignore[misc]
    return rows


def velocity(truth: Array, found: Array) -> dict[str, Figure]:
    """Errors of redshifts in km/s."""
    off = LIGHT * (found - truth) / (1 + truth)
    return {"median |dv| (km/s)": bootstrapped(len(off), lambda rows: np.median(np.abs(off[rows]), axis=-1), n=len(off)),
            "beyond 1000 km/s": bootstrapped(len(off), lambda rows: (np.abs(off[rows]) > 1000).mean(-1)),
            "R2": r2_figure(truth, found)}


def velocity_rows(answers: Answers, fitted: Mapping[str, Array]) -> Rows:
    """Of what spectra tell. fitted: spectrum -> redshifts (n,) of a template fit, NaN where there is none."""
    rows = {name: velocity(*answers.both(name)) for name in answers.found if "spectrum ·" in name and "image" not in name}
    for name, z in fitted.items():
        own = z[answers.rows]
        there = np.isfinite(own)
        if there.sum() >= LEAST:
            rows[f"baseline: {name} · template fit"] = velocity(answers.truth[there], own[there])
    return rows


def gains(answers: Answers) -> Rows:
    """Differences of R2, both on the same objects in every draw: what an image adds to magnitudes, and how an image alone
    does beside boosted trees."""
    pairs = [(ADDED, TREES)]
    for kind in (*PROBES, OWN, CUT, RANGE):
        both, image = f"{BOTH} · {kind}", f"{IMAGE} · {kind}"
        pairs += [(both, f"{PLAIN} · {kind}"), (both, TREES), (image, TREES)]
    pairs += [(f"{BOTH} · {THROUGH}", other) for other in (f"{PLAIN} · {THROUGH}", TREES)]
    return {f"{more} less {less}": {"difference of R2": r2_difference(*answers.both(more, less))}
            for more, less in pairs if more in answers.found and less in answers.found}


def together(answers: Answers) -> Rows:
    """An image and a spectrum read at once: R2 by each pooling, and less that of the better of the two alone."""
    names = {f"{TOGETHER}, mean pooling · ridge": "mean pooling (the known failure)", f"{TOGETHER} · ridge": "balanced pooling",
             f"{TOGETHER}, attentive · probe": "attentive probe", f"{TOGETHER} · {OWN}": OWN}
    rows: Rows = {}
    for name, said in names.items():
        kind = OWN if name.endswith(OWN) else "ridge"
        alone = [f"{view} · {kind}" for view in (IMAGE, SPECTRUM)]
        if not {name, *alone} <= set(answers.found):
            continue
        truth, both, *each = answers.both(name, *alone)
        better = max(each, key=lambda found: float(r2(truth, found)))
        rows[said] = {"R2": r2_figure(truth, both), "less the better of the two": r2_difference(truth, both, better)}
    return rows
