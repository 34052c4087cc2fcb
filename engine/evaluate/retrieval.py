"""Search across modalities: which spectrum belongs to an image, by the head of a bundle and by plain maps between vectors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluate.astroclip import TestSky, oracle_figures, search_figures
from engine.evaluate.figures import Figure
from engine.evaluate.sky import OmniSky
from engine.evaluate.views import View

if TYPE_CHECKING:
    from engine.checkpoints import OmniBundle

Array = NDArray[Any]
Rows = dict[str, dict[str, Figure]]
PENALTY = 10.0
IMAGE, SPECTRUM = "Legacy image", "DESI spectrum"


def rows(bundle: OmniBundle, sky: OmniSky, views: Mapping[str, View], others: Mapping[str, tuple[Array, Array]]
         ) -> tuple[Rows, list[str]]:
    """Figures among the test objects, and what is left out and why. others: name -> comparable image and spectrum vectors
    (test, d) of another model."""
    made: Rows = {}
    said: list[str] = []
    like = TestSky(sky.test, sky.magnitudes, sky.true_magnitudes, sky.z, sky.galaxy, {}, {})
    if bundle.alignment is None:
        said.append(f"retrieval by an alignment head: the model has none; run omnisky align SKY --model {bundle.folder}")
    else:
        made["alignment head"] = search_figures(like, aligned(bundle, sky))
    if IMAGE in views and SPECTRUM in views:
        image, spectrum = views[IMAGE], views[SPECTRUM]
        fit = image.there & spectrum.there & ~sky.asked
        made["linear map of pooled vectors"] = search_figures(
            like, mapped(image.balanced, spectrum.balanced, fit)[: sky.test, : sky.test])
    for name, (left, right) in others.items():
        made[name] = search_figures(like, left @ right.T)
    made["baseline: catalogue magnitudes against true ones"] = oracle_figures(like)
    return made, said


def aligned(bundle: OmniBundle, sky: OmniSky) -> Array:
    """(test, test) similarities by the bundle's own head; an object without one of the two is like nothing."""
    vectors = []
    for space in ("image", "spectrum"):
        about = bundle.manifests[space]
        tokens, hidden = ({key: some[key][: sky.test] for key in about["inputs"]["modalities"] if key in some}
                          for some in (sky.tokens, sky.hidden))
        vectors.append(np.nan_to_num(bundle.unit_vectors(about, tokens, hidden, sky.test)))
    return np.asarray(vectors[0] @ vectors[1].T)


def mapped(images: Array, spectra: Array, fit: NDArray[np.bool_]) -> Array:
    """(n, n) similarities after a ridge map from one to the other, both standardised, fitted on some objects."""
    a, b = (((x - x[fit].mean(0)) / (x[fit].std(0) + 1e-9)).astype(np.float64) for x in (images, spectra))
    turn = np.linalg.solve(a[fit].T @ a[fit] + PENALTY * np.eye(a.shape[1]), a[fit].T @ b[fit])
    guess = a @ turn
    norms = [np.linalg.norm(x, axis=1, keepdims=True) + 1e-12 for x in (guess, b)]
    return np.asarray((guess / norms[0]) @ (b / norms[1]).T)
