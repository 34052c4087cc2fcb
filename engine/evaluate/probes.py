"""Plain ways to tell a number from vectors: ridge, nearest neighbours, boosted trees, and attention over tokens.

Shape letters: n objects whose value is known, m that are asked for, D dimensions, T tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.search import best_k, regress

Array = NDArray[Any]
COLOURS = 7  # what `colours` gives
TINY = 1e-30
PENALTIES = np.logspace(-2, 6, 17)
QUERIES, STEPS, SIZE, RATE, DECAY = 4, 400, 128, 2e-3, 0.05  # of the attentive probe


def nearest(known: Array, values: Array, asked: Array) -> Array:
    """Values (m,) of vectors (m, D) by nearest neighbours, as many as do best on a fifth of the known."""
    return np.asarray(regress(known, values, asked, best_k(known, values)))


def ridge(known: Array, values: Array, asked: Array) -> Array:
    """Values (m,) by a linear map of standardised vectors; its penalty has the least generalised cross-validation error
    (Golub, Heath & Wahba 1979)."""
    known, asked = np.asarray(known, np.float64), np.asarray(asked, np.float64)
    mean, spread = known.mean(0), known.std(0) + 1e-9
    u, s, vt = np.linalg.svd((known - mean) / spread, full_matrices=False)
    middle = values.mean()
    part = u.T @ (values - middle)
    best, chosen = np.inf, PENALTIES[0]
    for penalty in PENALTIES:
        shrink = s**2 / (s**2 + penalty)
        left = ((values - middle - u @ (shrink * part)) ** 2).mean() / (1 - shrink.sum() / len(values)) ** 2
        if shrink.sum() < 0.9 * len(values) and left < best:
            best, chosen = left, penalty
    return np.asarray((asked - mean) / spread @ (vt.T @ (s / (s**2 + chosen) * part)) + middle)


def boosted(known: Array, values: Array, asked: Array) -> Array:
    """Values (m,) by gradient-boosted trees."""
    return np.asarray(_trees().fit(known, values).predict(asked))


def _trees() -> Any:
    from sklearn.ensemble import HistGradientBoostingRegressor

    return HistGradientBoostingRegressor(learning_rate=0.05, max_iter=400, min_samples_leaf=10, l2_regularization=1.0,
                                         early_stopping=True, validation_fraction=0.15, random_state=0)


def boosted_and_ridge(known: Array, values: Array, asked: Array) -> Array:
    """Values (m,) of rows of magnitudes and colours, `COLOURS` of them, and vectors behind them: `boosted` by the former, and
    what that leaves of objects which the trees had not seen by `ridge` of the latter."""
    from sklearn.model_selection import cross_val_predict

    plain, more = known[:, :COLOURS], known[:, COLOURS:]
    left = values - cross_val_predict(_trees(), plain, values, cv=5)
    return boosted(plain, values, asked[:, :COLOURS]) + ridge(more, left, asked[:, COLOURS:])


def colours(magnitudes: Array) -> Array:
    """(n, 4) magnitudes -> (n, 7) with the colours of neighbouring bands: trees cut one column at a time."""
    return np.concatenate([magnitudes, -np.diff(magnitudes, axis=1)], axis=1)


def mass_at_redshift(known: Array, z: Array, masses: Array, asked: Array, p: Array, middles: Array) -> Array:
    """log10 masses (m,) of magnitudes g, r, i, z (m, 4), averaged over the redshifts that an object may have, p (m, K) at
    middles (K,), within those of the known. Of objects with magnitudes known (n, 4), redshifts z (n,) and masses (n,), `ridge`
    learns how much mass goes with light in r, of second order in the colours and the redshift. Every term is averaged by
    itself: nothing is drawn. NaN where no redshift of those known is possible."""
    from astropy.cosmology import Planck18

    def terms(magnitudes: Array, z: Array, squared: Array) -> Array:
        x = np.concatenate([-np.diff(magnitudes, axis=1), z[:, None]], axis=1)
        i, j = np.triu_indices(x.shape[1])
        second = x[:, i] * x[:, j]
        second[:, -1] = squared
        return np.concatenate([x, second], axis=1)

    def modulus(z: Array) -> Array:
        return np.asarray(Planck18.distmod(z).value)

    within = (middles >= z.min()) & (middles <= z.max())  # near 0, where stars are, a distance can be anything
    p, middles = p[:, within].astype(np.float64), middles[within]
    total = p.sum(1, keepdims=True)
    p = np.where(total > TINY, p / np.maximum(total, TINY), np.nan)
    ratio = masses + 0.4 * (known[:, 1] - modulus(z))
    ratio = ridge(terms(known, z, z**2), ratio, terms(asked, p @ middles, p @ middles**2))
    return np.asarray(ratio - 0.4 * (asked[:, 1] - p @ modulus(middles)))


def attentive(known: Array, values: Array, asked: Array) -> Array:
    """Values (m,) of reduced tokens (m, T, d), int8 steps of an `engine.reduction.Reduction`: a few learned queries look
    at the tokens, and what they see is mapped to the value."""
    import torch
    from torch import nn
    from torch.nn import functional as F

    from engine.checkpoints.align import whitened

    torch.manual_seed(0)
    dim = known.shape[2]
    keys, query, out = nn.Linear(dim, dim), nn.Parameter(torch.randn(QUERIES, dim) * dim**-0.5), nn.Linear(QUERIES * dim, 1)
    middle, spread = float(values.mean()), float(values.std()) + 1e-9
    target = torch.from_numpy(((values - middle) / spread).astype(np.float32))

    def forward(tokens: Array) -> Any:
        x = whitened(torch.from_numpy(tokens))
        look = (keys(x) @ query.T / dim**0.5).softmax(1)  # (n, T, Q)
        return out(F.dropout((look.transpose(1, 2) @ x).flatten(1), 0.1, training=torch.is_grad_enabled()))[:, 0]

    parameters = [*keys.parameters(), query, *out.parameters()]
    optimiser = torch.optim.AdamW(parameters, RATE, weight_decay=DECAY)
    random = np.random.default_rng(0)
    for step in range(STEPS):
        for group in optimiser.param_groups:
            group["lr"] = RATE * (1 - step / STEPS)
        some = random.integers(0, len(known), min(SIZE, len(known)))
        loss = F.mse_loss(forward(known[some]), target[some])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        found = [forward(asked[i : i + SIZE]).numpy() for i in range(0, len(asked), SIZE)]
    return np.asarray(np.concatenate(found) * spread + middle, float)
