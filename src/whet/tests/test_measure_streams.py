"""Requests at once, warming up, and the options of ``whet bench`` that use them."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from whet.cli import arrays, exits
from whet.cli.main import run_command
from whet.errors import OptionError
from whet.measure.runner import Inputs
from whet.measure.streams import WARM_LIMIT_S, candidates, measure_streams, warm_until_stable
from whet.program.records import TensorSpec
from whet.tests.small_models import write_layer

FEEDS = [{"x": np.full(1, n, np.float32)} for n in range(3)]


def test_requests_run_at_once() -> None:
    together = threading.Barrier(3)

    def run(inputs: object) -> dict[str, np.ndarray]:
        together.wait(timeout=10)
        return {}

    times = measure_streams(run, FEEDS, streams=3, duration_s=0.0)
    assert times.seconds == ()
    assert times.per_second == 0


def test_rate_and_durations_agree() -> None:
    def run(inputs: object) -> dict[str, np.ndarray]:
        time.sleep(0.01)
        return {}

    times = measure_streams(run, FEEDS, streams=2, duration_s=0.2)
    assert times.streams == 2
    assert all(s >= 0.01 for s in times.seconds)
    assert times.per_second == pytest.approx(len(times.seconds) / times.wall_s)
    assert len(times.seconds) >= 4


def test_failures_reach_the_caller() -> None:
    def run(inputs: object) -> dict[str, np.ndarray]:
        raise ZeroDivisionError("planted")

    with pytest.raises(ZeroDivisionError, match="planted"):
        measure_streams(run, FEEDS, streams=2, duration_s=0.1)
    with pytest.raises(OptionError):
        measure_streams(run, FEEDS, streams=0, duration_s=0.1)


def test_warming_ends_when_calls_agree() -> None:
    calls: list[float] = []

    def run(inputs: Inputs) -> dict[str, np.ndarray]:
        calls.append(float(inputs["x"][0]))
        time.sleep(0.02 if len(calls) <= 4 else 0.002)
        return {}

    found = warm_until_stable(run, FEEDS)
    assert found.calls == len(calls) >= 16
    assert calls[:4] == [0, 1, 2, 0]
    assert found.first_s >= 0.02
    assert found.seconds < WARM_LIMIT_S + 1


def test_candidates_fill_no_more_than_all_cpus() -> None:
    assert candidates(1) == ((1, 1),)
    assert set(candidates(2)) == {(1, 1), (1, 2), (2, 1)}
    assert set(candidates(6)) >= {(1, 6), (6, 1), (2, 2), (1, 1)}
    assert all(t * s <= 6 for t, s in candidates(6))


def test_feeds_are_fresh_where_they_are_random() -> None:
    specs = (TensorSpec("a", "float32", (4,)), TensorSpec("b", "int64", ("n",)))
    feeds = arrays.read_feeds(["random"], specs, {"n": 3}, 3)
    assert len(feeds) == 3
    assert not np.array_equal(feeds[0]["a"], feeds[1]["a"])
    assert len(arrays.read_feeds(["random:7"], specs, {"n": 3}, 3)) == 1
    (zero,) = arrays.read_feeds(["zero"], specs, {"n": 3}, 3)
    assert not zero["a"].any()
    assert zero["b"].shape == (3,)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHET_JOBS", "1")
    write_layer(tmp_path / "m.onnx", batch="batch")
    return tmp_path


def bench(line: str, capsys: pytest.CaptureFixture[str]) -> dict[str, object]:
    capsys.readouterr()
    assert run_command([*f"bench {line} --rounds 3 --json -".split()]) == exits.OK
    found: dict[str, object] = json.loads(capsys.readouterr().out)
    return found


def test_bench_with_everything(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("compile m.onnx --threads 1".split()) == exits.OK
    found = bench("m.onnx --threads 1 --batch 5 --against m.whet --advise --memory", capsys)
    assert found["schema"] == "whet.bench.1"
    times = found["times"]
    assert isinstance(times, dict)
    assert set(times) == {"whet", "m.whet"}
    assert times["whet"]["best_ms"] <= times["whet"]["median_ms"] <= times["whet"]["max_ms"]
    memory = found["memory"]
    assert isinstance(memory, dict)
    assert memory["m.whet"]["after_bytes"] > memory["m.whet"]["before_bytes"] > 0
    assert isinstance(found["advice"], list)
    assert run_command("bench m.onnx --threads 1 --batch 2 --rounds 2 --advise".split()) == exits.OK
    assert "first call" in capsys.readouterr().out


def test_bench_reaches_a_goal(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("whet.cli.bench._GOAL_S", 0.02)
    monkeypatch.setattr("whet.cli.bench._STREAM_S", 0.05)
    found = bench("m.onnx --batch 2 --goal throughput --streams 2", capsys)
    goal, streams = found["goal"], found["streams"]
    assert isinstance(goal, dict)
    assert isinstance(streams, dict)
    assert goal["per_second"] == max(row["per_second"] for row in goal["tried"])
    assert streams["streams"] == 2
    latency = bench("m.onnx --batch 2 --goal latency", capsys)["goal"]
    assert isinstance(latency, dict)
    assert {row["streams"] for row in latency["tried"]} == {1}


def test_bench_refuses_a_batch_that_is_fixed(folder: Path) -> None:
    write_layer(folder / "f.onnx", batch=2)
    assert run_command("bench f.onnx --threads 1 --batch 3".split()) == exits.USAGE
