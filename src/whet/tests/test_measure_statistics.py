"""The statistics of a measurement, on samples whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from whet.measure.interleave import Samples
from whet.measure.statistics import bootstrap_median, compare, noise_of, summarise

ROUNDS = 40


def samples_of(foreign_cpu: float | None = 0.0, **seconds: np.ndarray) -> Samples:
    by_name = {name: tuple(values.tolist()) for name, values in seconds.items()}
    return Samples(seconds=by_name, wall_s=1.0, foreign_cpu=foreign_cpu)


def steady(base: float, *, seed: int = 0, noise: float = 0.01) -> np.ndarray:
    return base * (1.0 + noise * np.random.default_rng(seed).random(ROUNDS))


def test_summary_of_a_known_series() -> None:
    summary = summarise(tuple(n / 1e3 for n in range(1, 102)))
    assert summary.calls == 101
    assert summary.best_ms == pytest.approx(1.0)
    assert summary.median_ms == pytest.approx(51.0)
    assert summary.mean_ms == pytest.approx(51.0)
    assert (summary.p90_ms, summary.p95_ms, summary.p99_ms) == pytest.approx((91.0, 96.0, 100.0))
    assert summary.spread == pytest.approx(50.0 / 51.0)


def test_ratio_is_that_of_pairs_when_both_slow_down_together() -> None:
    speed = np.random.default_rng(3).uniform(1.0, 3.0, ROUNDS)
    found = compare(samples_of(ours=speed * 1e-3, peer=speed * 1.5e-3), "ours", "peer")
    assert found.ratio == pytest.approx(1.5)
    assert found.quartiles == pytest.approx((1.5, 1.5))
    assert found.verdict == "faster"


def test_a_slower_runner_is_called_slower() -> None:
    found = compare(samples_of(ours=steady(2e-3), peer=steady(1e-3, seed=1)), "ours", "peer")
    assert found.verdict == "slower"
    assert found.interval[0] <= found.ratio <= found.interval[1] < 1.0


def test_equal_runners_are_not_told_apart() -> None:
    ours, peer = steady(1e-3, noise=0.5), steady(1e-3, seed=1, noise=0.5)
    found = compare(samples_of(ours=ours, peer=peer), "ours", "peer")
    assert found.verdict == "no significant difference"


def test_bootstrap_repeats_itself() -> None:
    values = np.random.default_rng(0).normal(1.0, 0.1, ROUNDS)
    assert bootstrap_median(values) == bootstrap_median(values)


@pytest.mark.parametrize(
    ("noise", "foreign", "expected"),
    [
        (0.01, 0.0, "quiet"),
        (0.01, None, "quiet"),
        (0.2, 0.0, "some noise"),
        (2.0, 0.0, "noisy"),
        (0.01, 1.0, "noisy"),
    ],
)
def test_noise_comes_from_spread_and_from_other_processes(
    noise: float, foreign: float | None, expected: str
) -> None:
    assert noise_of(samples_of(foreign, a=steady(1e-3, noise=noise))) == expected


def test_one_steady_runner_shows_that_the_machine_was_quiet() -> None:
    found = samples_of(a=steady(1e-3), b=steady(1e-3, noise=3.0))
    assert noise_of(found) == "quiet"
