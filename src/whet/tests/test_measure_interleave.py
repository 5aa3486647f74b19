"""The order, the counts and the states in which runners are called."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from whet.errors import OptionError
from whet.measure.interleave import SETTLE_LIMIT_S, Plan, measure_interleaved, settle
from whet.measure.runner import Inputs, Outputs

FEEDS: list[Inputs] = [{"x": np.full(1, value, np.float32)} for value in (1.0, 2.0)]
BARE = Plan(rounds=6, warm_up=0, lead_in=0, settle=False)


class Recorder:
    """A runner that notes its calls in a shared list."""

    def __init__(self, name: str, calls: list[tuple[str, float]], sleep_s: float = 0.0) -> None:
        self.name = name
        self.calls = calls
        self.sleep_s = sleep_s

    def prepare(self) -> None:
        """Do nothing."""

    def run(self, inputs: Inputs) -> Outputs:
        """Note the call."""
        self.calls.append((self.name, float(inputs["x"][0])))
        time.sleep(self.sleep_s)
        return {}


def test_every_round_calls_every_runner_once_on_one_feed() -> None:
    calls: list[tuple[str, float]] = []
    samples = measure_interleaved([Recorder("a", calls), Recorder("b", calls)], FEEDS, BARE)
    for index in range(BARE.rounds):
        feed = 1.0 + index % 2
        assert sorted(calls[2 * index : 2 * index + 2]) == [("a", feed), ("b", feed)]
    assert {name: len(values) for name, values in samples.seconds.items()} == {"a": 6, "b": 6}


def test_order_within_rounds_varies_and_repeats_with_the_seed() -> None:
    orders = []
    for _ in range(2):
        calls: list[tuple[str, float]] = []
        plan = Plan(rounds=20, warm_up=0, lead_in=0, settle=False, seed=5)
        measure_interleaved([Recorder("a", calls), Recorder("b", calls)], FEEDS, plan)
        orders.append([name for name, _ in calls])
    assert orders[0] == orders[1]
    assert set(orders[0][::2]) == {"a", "b"}


def test_warm_up_and_lead_in_are_not_timed() -> None:
    calls: list[tuple[str, float]] = []
    plan = Plan(rounds=3, warm_up=4, lead_in=2, lead_in_s=0.0, settle=False)
    samples = measure_interleaved([Recorder("a", calls)], FEEDS, plan)
    assert len(calls) == 4 + 3 * (2 + 1)
    assert len(samples.seconds["a"]) == 3


def test_lead_in_lasts_its_time() -> None:
    calls: list[tuple[str, float]] = []
    plan = Plan(rounds=1, warm_up=0, lead_in=1, lead_in_s=0.05, settle=False)
    samples = measure_interleaved([Recorder("a", calls, sleep_s=0.01)], FEEDS, plan)
    assert len(calls) > 2
    assert samples.wall_s >= 0.05


def test_duration_ends_the_rounds_and_progress_is_told() -> None:
    told: list[int] = []
    plan = Plan(rounds=1000, duration_s=0.05, warm_up=0, lead_in=0, settle=False)
    runner = Recorder("a", [], sleep_s=0.02)
    samples = measure_interleaved([runner], FEEDS, plan, lambda _, done, __: told.append(done))
    assert 1 <= len(samples.seconds["a"]) < 10
    assert told == list(range(1, len(samples.seconds["a"]) + 1))


def test_settle_waits_for_spinning_threads() -> None:
    stop = threading.Event()

    def spin() -> None:
        until = time.perf_counter() + 0.05
        while time.perf_counter() < until and not stop.is_set():
            pass

    thread = threading.Thread(target=spin)
    thread.start()
    started = time.perf_counter()
    settle()
    waited = time.perf_counter() - started
    stop.set()
    thread.join()
    assert 0.02 < waited < SETTLE_LIMIT_S + 1.0


@pytest.mark.parametrize(
    ("names", "feeds", "rounds"),
    [([], FEEDS, 1), (["a", "a"], FEEDS, 1), (["a"], [], 1), (["a"], FEEDS, 0)],
)
def test_what_cannot_be_measured_is_refused(
    names: list[str], feeds: list[Inputs], rounds: int
) -> None:
    runners = [Recorder(name, []) for name in names]
    with pytest.raises(OptionError, match="cannot measure"):
        measure_interleaved(runners, feeds, Plan(rounds=rounds))
