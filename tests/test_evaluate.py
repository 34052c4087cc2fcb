"""The figures on cases with known answers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from engine import evaluate
from engine.evaluate import TestSky as Sky
from engine.evaluate import alike_hits, components, figure, galaxy_classes, magnitude, r2_figure, ranks
from engine.search import regress

N = 200


def sky(galaxies: bool = True) -> Sky:
    random = np.random.default_rng(0)
    magnitudes = np.cumsum(random.uniform(0.0, 1.0, (2 * N, 4)), axis=1) + 17
    return Sky(N, magnitudes, magnitudes.copy(), random.uniform(0, 1, 2 * N), np.full(2 * N, galaxies), {}, {})


def test_perfect_reversed_and_tied_ranks() -> None:
    similarity = np.eye(5)
    assert ranks(similarity).tolist() == [0] * 5
    assert ranks(-similarity).tolist() == [4] * 5
    assert ranks(np.zeros((5, 5))).tolist() == [2] * 5  # all alike is the middle, not the first


def test_chance_is_chance() -> None:
    figures = evaluate.search_figures(sky(), np.random.default_rng(1).normal(size=(N, N)))
    top = figures["image to spectrum top-10"]
    assert top.low <= top.chance * 1.1 and top.high >= top.chance * 0.9 and top.chance == 10 / N
    alike = figures["top-1 among alike"]
    assert alike.value / alike.chance == pytest.approx(1.0, abs=0.5)


def test_the_oracle_with_true_magnitudes_is_perfect() -> None:
    figures = evaluate.oracle_figures(sky())
    assert figures["image to spectrum top-1"].value == figures["spectrum to image top-1"].value == 1.0
    assert figures["top-1 among alike"].value == 1.0


def test_brightness_alone_is_chance_among_alike() -> None:
    """Candidates of the same r and g - r: matching only these two finds the right one no more often than by luck."""
    random = np.random.default_rng(2)
    colour = random.integers(0, 5, 400)
    magnitudes = np.stack([18 + colour * 0.3, np.full(400, 17.0), np.full(400, 16.0), np.full(400, 15.0)], axis=1)
    similarity = -np.abs(colour[:, None] - colour) + 1e-6 * random.normal(size=(400, 400))
    hits, chance = alike_hits(similarity, magnitudes)
    assert len(hits) == 400 and hits.mean() == pytest.approx(chance.mean(), abs=0.02)


def test_a_row_without_spectra_of_its_own_searches_the_model_s() -> None:
    made = sky()
    vectors = np.random.default_rng(7).normal(size=(2 * N, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    made.images.update({"AstroCLIP": -vectors, "one survey": vectors})
    made.spectra["AstroCLIP"] = vectors
    figures = evaluate.model_figures(made, "one survey")
    assert figures["image to spectrum top-1"].value == 1.0 and "z from image, best k" in figures
    assert "z from spectrum" not in figures and "z from spectrum" in evaluate.model_figures(made, "AstroCLIP")


def test_the_best_k_is_said_and_no_worse_than_far_too_many() -> None:
    random = np.random.default_rng(8)
    features = random.uniform(size=(2 * N, 1))
    made = Sky(N, features, features, np.sin(20 * features[:, 0]), np.full(2 * N, True), {}, {})
    figures = evaluate.redshift_figures(made, "image", features)
    assert figures["z from image"].k == 64 and figures["z from image, best k"].k < 16
    assert figures["z from image, best k"].value > figures["z from image"].value + 0.1


def test_lonely_queries_are_not_counted() -> None:
    magnitudes = np.array([[18.0, 17, 16, 15], [18.0, 17, 16, 15], [25.0, 21, 20, 19]])
    hits, chance = alike_hits(np.eye(3), magnitudes)
    assert hits.tolist() == [True, True] and chance.tolist() == [0.5, 0.5]


def test_knn_of_a_plane() -> None:
    random = np.random.default_rng(3)
    x = random.normal(size=(3000, 2)) * [1.0, 1000.0]
    truth = x[:, 0] + x[:, 1] / 1000
    predicted = regress(x[:2000], truth[:2000], x[2000:], k=8)
    assert r2_figure(truth[2000:], predicted).value > 0.98
    assert regress(x[:5], np.ones(5), x[:3]) == pytest.approx([1, 1, 1])  # fewer known than k


def test_r2_of_the_mean_is_zero() -> None:
    truth = np.random.default_rng(4).normal(size=500)
    found = r2_figure(truth, np.full(500, truth.mean()))
    assert found.value == pytest.approx(0.0) and -0.05 < found.low <= found.high <= 0.0
    assert r2_figure(truth, truth).value == 1.0


def test_intervals_cover() -> None:
    random = np.random.default_rng(5)
    inside = [f.low <= 0.3 <= f.high for f in (figure(random.random(300) < 0.3) for _ in range(100))]
    assert 85 <= sum(inside) <= 100


@pytest.mark.parametrize("width", [40, 400])
def test_components_of_the_database_have_unit_variance(width: int) -> None:
    values = np.random.default_rng(6).normal(size=(300, width)) * np.linspace(1, 5, width)
    scores = components(values, 100)
    assert scores.shape == (300, min(width, evaluate.COMPONENTS))
    np.testing.assert_allclose(scores[100:].std(0), 1.0, rtol=1e-6)


def test_magnitudes_and_classes() -> None:
    np.testing.assert_allclose(magnitude(np.array([1.0, 100.0, -3.0, np.nan])), [22.5, 17.5, 27.5, 27.5])
    assert galaxy_classes(("spiral", "star", "elliptical", "quasar")) == [0, 2]


@pytest.mark.slow
def test_the_table_of_the_shipped_model() -> None:
    torch.set_num_threads(2)
    *_, last = evaluate.run(database=16000)
    table = json.loads(evaluate.as_json(last.preview))["rows"]
    ours = table["AstroCLIP"]
    assert ours["image to spectrum top-10"]["value"] >= 20 * ours["image to spectrum top-10"]["chance"]
    assert ours["top-1 among alike"]["value"] >= 3 * ours["top-1 among alike"]["chance"]
    assert min(ours[name]["value"] for name in ("z from spectrum", "z from spectrum, best k")) >= 0.9
    for name in ("z from image", "z from image, best k"):
        assert ours[name]["value"] >= table["catalogue magnitudes"][name]["value"]
