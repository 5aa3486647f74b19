"""Drawn tokens: those that sorting all of them gives, though few are sorted."""

from __future__ import annotations

import numpy as np
import pytest

from whet.llm.engine.sampling import Sampler, SamplingParams


def drawn(scores: np.ndarray, params: SamplingParams, share: float) -> int:
    """Return the token at a share of the probabilities kept, all tokens in order."""
    scaled = scores.astype(np.float64) / params.temperature
    order = np.argsort(-scaled, kind="stable")[: params.top_k or None]
    weights = np.exp(scaled[order] - scaled[order[0]])
    weights /= weights.sum()
    kept = weights >= params.min_p * weights[0]
    kept &= np.cumsum(weights) - weights < params.top_p
    weights = np.where(kept, weights, 0.0)
    place = int(np.searchsorted(np.cumsum(weights), share * weights.sum(), "right"))
    return int(order[min(place, int(kept.sum()) - 1)])


@pytest.mark.parametrize("size", [1, 2, 50, 3000])
@pytest.mark.parametrize("spread", [0.01, 1.0, 10.0])
def test_draws_are_those_of_a_full_sort(size: int, spread: float) -> None:
    rng = np.random.default_rng([size, int(10 * spread)])
    for seed in range(60):
        scores = (rng.standard_normal(size) * spread).astype(np.float32)
        if seed % 3 == 0:
            scores = np.round(scores)  # many are equal
        if seed % 5 == 0:
            scores[1:][rng.random(size - 1) < 0.5] = -np.inf  # a format forbids them
        params = SamplingParams(
            temperature=float(rng.choice([0.3, 1.0, 2.0])),
            top_k=int(rng.choice([0, 0, 1, 5, 5000])),
            top_p=float(rng.choice([1.0, 0.95, 0.5, 0.01])),
            min_p=float(rng.choice([0.0, 0.0, 0.05, 1.0])),
            seed=seed,
        )
        share = np.random.default_rng([seed, 0]).random()
        assert Sampler(params).choose(scores, [], []).token == drawn(scores, params, share)
