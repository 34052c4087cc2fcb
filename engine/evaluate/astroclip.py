"""AstroCLIP's table: how well it finds spectra by images and tells redshifts, with plain baselines and the oracle beside it.

Protocol of AstroCLIP (Parker et al. 2024, MNRAS 531, 4990): cosine similarity for search, kNN regression with k = 64 on
standardised vectors, weighted by inverse distance; beside it the k that does best on a fifth of the database. The sky has a
seed of its own: nothing in it was ever trained on.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from engine.evaluate.figures import Figure, figure, r2_figure
from engine.search import NEIGHBOURS, best_k, regress
from engine.steps import Step

if TYPE_CHECKING:
    from engine.checkpoints import Bundle

Array = NDArray[Any]
BIN = (0.1, 0.05)  # half-widths in r magnitude and g - r within which candidates look alike
ALIKE = f"within {BIN[0]} mag in r and {BIN[1]} in g - r"
COMPONENTS = 64  # of the principal components baseline
Encode = Callable[[dict[str, Any]], Array]  # prepared inputs -> what stands for their images, or their spectra, (n, d)


@dataclass(frozen=True)
class TestSky:
    """One simulated sky, test objects first. magnitudes: catalogue g, r, i, z (n, 4), true ones beside; z (n,); galaxy (n,)
    bool; images, spectra: what each row of the table makes of them, (n, d)."""

    test: int
    magnitudes: Array
    true_magnitudes: Array
    z: Array
    galaxy: Array
    images: dict[str, Array]
    spectra: dict[str, Array]


def measure(bundle: Bundle, objects: int, database: int, seed: int) -> Iterator[Step]:
    """The last step's preview is the table: every figure in a nested dictionary, with the sets they were measured on."""
    from engine.models import AstroClip

    untrained = AstroClip(bundle.model.config).eval().requires_grad_(False)
    untrained.init_weights(0)
    image, spectrum = partial(encode_image, bundle.model), partial(encode_spectrum, bundle.model)
    sky = yield from observe(seed, objects, database, bundle.model.config.grid, images={
        "AstroCLIP": image, "AstroCLIP, Legacy only": partial(image, shown=(True, False)),
        "AstroCLIP, HSC only": partial(image, shown=(False, True)),
        "random network": partial(encode_image, untrained), "principal components": pixels_of,
    }, spectra={"AstroCLIP": spectrum, "random network": partial(encode_spectrum, untrained), "principal components": flux_of})
    rows = {name: model_figures(sky, name) for name in sky.images if name != "principal components"}
    rows["principal components"] = component_figures(sky)
    rows["catalogue magnitudes"] = redshift_figures(sky, "image", sky.magnitudes)
    rows["photometric oracle"] = oracle_figures(sky)
    table = {
        "model": bundle.folder.name, "checksum": bundle.checksum, "seed": seed,
        "sets": {"test objects": objects, "database": database, "galaxies tested": int(sky.galaxy[:objects].sum()),
                 "galaxies in database": int(sky.galaxy[objects:].sum())},
        "rows": rows,
    }
    yield Step(1.0, f"{bundle.folder.name} is measured", table)


def observe(seed: int, objects: int, database: int, grid: Any, images: dict[str, Encode],
            spectra: dict[str, Encode]) -> Generator[Step, None, TestSky]:
    """Render the test sky, objects 0 to objects - 1 for testing and the next ones as the database, and encode it batch by
    batch; no pixel stays in memory."""
    import torch

    from engine.simulate import CLASSES, render
    from engine.train.data import prepare

    kept: dict[str, list[Array]] = {}
    for start in range(0, objects + database, 64):
        sky = render(seed, torch.arange(start, min(start + 64, objects + database)))
        prepared = prepare(sky, grid)
        values = {name: sky[name].numpy() for name in sky if name.startswith(("s_flux", "t_flux", "t_z")) or name == "class"}
        values |= {f"image of {name}": encode(prepared) for name, encode in images.items()}
        values |= {f"spectrum of {name}": encode(prepared) for name, encode in spectra.items()}
        for name, value in values.items():
            kept.setdefault(name, []).append(value)
        done = start + len(sky["t_z"])
        yield Step(0.95 * done / (objects + database), f"simulated and encoded {done:,} of {objects + database:,} objects")
    arrays = {name: np.concatenate(values) for name, values in kept.items()}
    fluxes, true = (np.stack([arrays[f"{kind}_flux_{b}"] for b in "griz"], axis=1) for kind in "st")
    galaxy = np.isin(arrays["class"], galaxy_classes(CLASSES)) & np.isfinite(arrays["t_z"])
    return TestSky(objects, magnitude(fluxes), magnitude(true), arrays["t_z"], galaxy,
                   {name: arrays[f"image of {name}"] for name in images},
                   {name: arrays[f"spectrum of {name}"] for name in spectra})


def galaxy_classes(classes: Any) -> list[int]:
    """Numbers of the classes that are galaxies: all but stars and quasars."""
    return [i for i, name in enumerate(classes) if not any(word in str(name).lower() for word in ("star", "quasar", "qso"))]


def magnitude(flux: Array) -> Array:
    """AB magnitudes of fluxes in nmgy; what is below a hundredth of a nanomaggy counts as that."""
    return 22.5 - 2.5 * np.log10(np.clip(np.nan_to_num(flux, nan=0.01), 0.01, None))


def encode_image(model: Any, prepared: dict[str, Any], shown: tuple[bool, bool] = (True, True)) -> Array:
    """Image vectors (n, dim); shown: whether Legacy and HSC images are."""
    import torch

    from engine.models.inputs import FIELDS
    from engine.models.processor import mixed_precision

    use = torch.tensor([s for f, s in zip(FIELDS, shown, strict=True) for _ in f.bands])
    stamps = {f.survey: prepared[f"stamp_{f.survey}"] * s for f, s in zip(FIELDS, shown, strict=True)}
    present = prepared["present"] & use
    with torch.inference_mode(), mixed_precision("cpu"):
        vectors: Array = model.encode_image(stamps, prepared["photometry"] * present[..., None], present).float().numpy()
    return vectors


def encode_spectrum(model: Any, prepared: dict[str, Any]) -> Array:
    """Vectors (n, dim) of the DESI spectra."""
    import torch

    from engine.models.processor import mixed_precision

    with torch.inference_mode(), mixed_precision("cpu"):
        vectors: Array = model.encode_spectrum(prepared["desi_flux"], prepared["desi_weight"]).float().numpy()
    return vectors


def pixels_of(prepared: dict[str, Any]) -> Array:
    """Both surveys' pixels of the middle, averaged over 2 x 2: what principal components are made of."""
    from torch.nn.functional import avg_pool2d

    from engine.models.inputs import FIELDS, crop

    stamps = [prepared[f"stamp_{f.survey}"] for f in FIELDS]
    return np.concatenate([avg_pool2d(crop(s, s.shape[-1] // 2), 2).flatten(1).numpy() for s in stamps], axis=1)


def flux_of(prepared: dict[str, Any]) -> Array:
    """The same of spectra: asinh fluxes."""
    return np.arcsinh(prepared["desi_flux"].numpy())


def model_figures(sky: TestSky, name: str) -> dict[str, Figure]:
    """All figures of a row whose image and spectrum vectors can be compared; one without spectra searches AstroCLIP's."""
    images, spectra = sky.images[name], sky.spectra.get(name)
    similarity = images[: sky.test] @ (sky.spectra["AstroCLIP"] if spectra is None else spectra)[: sky.test].T
    out = search_figures(sky, similarity) | redshift_figures(sky, "image", images)
    return out if spectra is None else out | redshift_figures(sky, "spectrum", spectra)


def search_figures(sky: TestSky, similarity: Array) -> dict[str, Figure]:
    """Figures of a (test, test) similarity of images (rows) and spectra (columns)."""
    n = sky.test
    forward, backward = ranks(similarity), ranks(similarity.T)
    out = {f"{name} top-{k}": figure(r < k, k / n) for k in (1, 10)
           for name, r in (("image to spectrum", forward), ("spectrum to image", backward))}
    hits, chances = alike_hits(similarity, sky.magnitudes[:n])
    if len(hits):
        out["top-1 among alike"] = figure(hits, float(chances.mean()))
    galaxies = np.flatnonzero(sky.galaxy[:n])
    if len(galaxies) > 10:
        z = sky.z[galaxies]
        first = np.argsort(-similarity[np.ix_(galaxies, galaxies)], axis=1)[:, :10]
        out["median |dz| of top ten"] = figure(np.median(np.abs(z[first] - z[:, None]), axis=1), statistic=np.median)
    return out


def ranks(similarity: Array) -> Array:
    """(n,): how many columns are more similar to row i than column i, the right one, is. Ties count half."""
    own = np.diagonal(similarity)[:, None]
    return (similarity > own).sum(1) + 0.5 * ((similarity == own).sum(1) - 1)


def alike_hits(similarity: Array, magnitudes: Array) -> tuple[Array, Array]:
    """Search among candidates of the query's r magnitude and g - r colour only (see `BIN`).

    Returns, for each query with two candidates or more, whether the right one comes first, and the chance of that.
    """
    r, colour = magnitudes[:, 1], magnitudes[:, 0] - magnitudes[:, 1]
    near = (np.abs(r[:, None] - r) <= BIN[0]) & (np.abs(colour[:, None] - colour) <= BIN[1])
    count = near.sum(1)
    best = np.where(near, similarity, -np.inf).max(1) == np.diagonal(similarity)
    return best[count >= 2], 1.0 / count[count >= 2]


def redshift_figures(sky: TestSky, what: str, features: Array) -> dict[str, Figure]:
    """R2 of kNN redshifts of the test galaxies from the database's galaxies, with AstroCLIP's k and with the best."""
    known = np.flatnonzero(sky.galaxy[sky.test :]) + sky.test
    asked = np.flatnonzero(sky.galaxy[: sky.test])
    out = {}
    for name, k in ((f"z from {what}", NEIGHBOURS), (f"z from {what}, best k", best_k(features[known], sky.z[known]))):
        out[name] = r2_figure(sky.z[asked], regress(features[known], sky.z[known], features[asked], k), k)
    return out


def component_figures(sky: TestSky) -> dict[str, Figure]:
    """Principal components of pixels and of spectra, fitted on the database; search through a ridge map between them."""
    n = sky.test
    images, spectra = (components(x["principal components"], n) for x in (sky.images, sky.spectra))
    ridge = np.linalg.solve(images[n:].T @ images[n:] + 10.0 * np.eye(images.shape[1]), images[n:].T @ spectra[n:])
    mapped = images[:n] @ ridge
    similarity = -((mapped[:, None] - spectra[:n]) ** 2).sum(-1)
    return search_figures(sky, similarity) | redshift_figures(sky, "image", images) | redshift_figures(sky, "spectrum", spectra)


def components(values: Array, test: int) -> Array:
    """(n, 64) scores, scaled to unit variance, on the principal components of the database rows (test and later)."""
    centred = values - values[test:].mean(0)
    fit = centred[test:].astype(np.float64)
    if fit.shape[1] > len(fit):
        left = np.linalg.eigh(fit @ fit.T)
        axes = (fit.T @ left.eigenvectors[:, -COMPONENTS:]) / np.sqrt(np.clip(left.eigenvalues[-COMPONENTS:], 1e-12, None))
    else:
        axes = np.linalg.eigh(fit.T @ fit).eigenvectors[:, -COMPONENTS:]
    scores = centred @ axes
    return scores / np.clip(scores[test:].std(0), 1e-12, None)


def oracle_figures(sky: TestSky) -> dict[str, Figure]:
    """Search by the image's catalogue magnitudes among the spectra's true total ones: all that photometry can do."""
    n = sky.test
    difference = sky.magnitudes[:n, None] - sky.true_magnitudes[None, :n]
    return search_figures(sky, -(difference**2).sum(-1))
