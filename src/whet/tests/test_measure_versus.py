"""Comparison of two programs: intervals with known answers, and verdicts under simulated noise."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from whet.cli import exits
from whet.cli.main import run_command
from whet.measure.interleave import Samples
from whet.measure.profile.differences import compare_launches
from whet.measure.ranks import MOST_VALUES, paired_estimate, separate_estimate
from whet.measure.versus import (
    RENEWED,
    ROUNDS,
    Ends,
    Rounds,
    Sampler,
    Versus,
    block_estimate,
    compare_runners,
    compare_samples,
    compare_until_precise,
    shortest_of_blocks,
)
from whet.tests.small_models import write_layer
from whet.tests.test_measure_profile import stamped

TRIALS = 100
NOISES = ("quiet", "steps", "spikes", "crowded", "busy")
MOST = 1600


def machine(kind: str, slowdown: float, seed: int) -> Sampler:
    """Return a machine of some kind of noise on which B takes ``1 + slowdown`` times as long.

    ``steps`` changes its speed by up to 2 within a run, ``spikes`` gives every twelfth call a delay
    of up to 5 times its time, ``crowded`` lets other processes take half of some calls' time, and
    all calls of a round are slow together for a part of each kind. ``busy`` interrupts two calls
    of three, longer ones more often, for about the time that a call takes.
    """
    rng = np.random.default_rng(seed)
    state = {"drift": 0.0, "speed": 1.0}

    def call(base: float) -> float:
        seconds = base * math.exp(state["drift"]) * state["speed"] * math.exp(rng.normal(0, 0.01))
        if kind == "spikes" and rng.random() < 1 / 12:
            seconds *= 1 + rng.exponential(1.0)
        if kind == "crowded":
            seconds *= 1 + (rng.random() < 0.3) * rng.uniform(0.0, 0.5)
        if kind == "busy":
            seconds += (rng.random() < 1 - math.exp(-base / 0.9e-3)) * rng.uniform(0.0, 2e-3)
        return seconds

    def sample(count: int) -> Rounds:
        first, second = [], []
        for _ in range(count):
            state["drift"] = 0.9 * state["drift"] + rng.normal(0, 0.02)
            if kind == "steps" and rng.random() < 0.05:
                state["speed"] = rng.uniform(1.0, 2.0)
            first.append(call(1e-3))
            second.append(call(1e-3 * (1 + slowdown)))
        return Rounds(first, second)

    return sample


def verdicts(kind: str, slowdown: float) -> list[str]:
    ends = Ends(rounds=MOST)
    found = [compare_until_precise(machine(kind, slowdown, seed), ends) for seed in range(TRIALS)]
    assert np.median([one.ratio for one in found]) == pytest.approx(1 + slowdown, abs=0.005)
    return [one.verdict for one in found]


@pytest.mark.parametrize("kind", NOISES)
def test_a_program_does_not_differ_from_itself(kind: str) -> None:
    assert verdicts(kind, 0.0).count("no significant difference") >= 95


@pytest.mark.parametrize("kind", NOISES)
def test_a_slowdown_of_five_percent_is_found(kind: str) -> None:
    assert verdicts(kind, 0.05).count("slower") >= 90
    assert verdicts(kind, -0.05).count("faster") >= 90


def test_pairs_agree_with_the_exact_test() -> None:
    """The interval is that of the signed-rank test: all sign patterns of ten differences."""
    values = np.arange(1.0, 11.0)
    sums = [sum(v for v, s in zip(values, signs, strict=True) if s)
            for signs in itertools.product((0, 1), repeat=10)]  # fmt: skip
    estimate = paired_estimate(values, 0.95)
    walsh = np.sort([(a + b) / 2 for i, a in enumerate(values) for b in values[i:]])
    cut = int(np.searchsorted(walsh, estimate.low))
    tail = np.mean(np.asarray(sums) <= cut)
    assert tail <= 0.03
    assert estimate.middle == 5.5
    assert estimate.low < 5.5 < estimate.high


def test_estimates_of_constant_values() -> None:
    estimate = paired_estimate(np.full(7, 0.25), 0.99)
    assert (estimate.low, estimate.middle, estimate.high) == (0.25, 0.25, 0.25)
    apart = separate_estimate(np.full(5, 3.0), np.full(9, 1.0), 0.99)
    assert (apart.low, apart.middle, apart.high) == (2.0, 2.0, 2.0)
    assert paired_estimate(np.array([0.5]), 0.99).middle == 0.5


def test_many_values_are_thinned() -> None:
    values = np.random.default_rng(0).normal(1.0, 0.1, 5 * MOST_VALUES)
    assert paired_estimate(values, 0.99).middle == pytest.approx(1.0, abs=0.02)


def test_measuring_stops_when_precise_or_at_the_limit() -> None:
    quiet = compare_until_precise(machine("quiet", 0.0, 1))
    assert quiet.precise
    assert quiet.rounds < 100
    noisy = compare_until_precise(machine("crowded", 0.0, 1), Ends(precision=1e-4, rounds=MOST))
    assert not noisy.precise
    assert noisy.rounds == MOST
    late = compare_until_precise(machine("crowded", 0.0, 1), Ends(precision=1e-4, seconds=0.0))
    assert late.rounds == ROUNDS


def apart(ratio: float, *, peer: bool, seed: int = 0) -> tuple[Samples, Samples]:
    """Return two measurements; between them the machine became 1.5 times slower."""
    made = []
    for number, speed in enumerate((1.0, 1.5)):
        rng = np.random.default_rng(seed + number)
        drift = speed * np.exp(rng.normal(0, 0.1, 80))
        own = drift * 1e-3 * (ratio if number else 1.0) * np.exp(rng.normal(0, 0.01, 80))
        seconds = {"whet": tuple(own.tolist())}
        if peer:
            seconds["ort"] = tuple((drift * 2e-3).tolist())
        made.append(Samples(seconds=seconds, wall_s=1.0, foreign_cpu=None))
    return made[0], made[1]


def test_a_peer_in_both_measurements_is_the_yardstick() -> None:
    names = ("whet", "whet")
    same = compare_samples(*apart(1.0, peer=True), names)
    assert same.verdict == "no significant difference"
    assert not same.paired
    slower = compare_samples(*apart(1.05, peer=True), names)
    assert slower.verdict == "slower"
    assert slower.ratio == pytest.approx(1.05, abs=0.01)


def test_drift_within_the_measurements_widens_the_interval() -> None:
    rng = np.random.default_rng(0)
    ramp = np.linspace(0, 0.2, 80)
    a, b = (
        Samples(
            seconds={"whet": tuple(np.exp(ramp + shift + rng.normal(0, 0.01, 80)).tolist())},
            wall_s=1.0,
            foreign_cpu=None,
        )
        for shift in (0.0, 0.1)
    )
    found = compare_samples(a, b, ("whet", "whet"))
    assert found.verdict == "no significant difference"
    assert "drift" in found.note


def test_blocks_are_compared_by_their_shortest_calls() -> None:
    """Interruptions hit the longer call more often, and take long: kept, they would exaggerate."""
    times = [3.0, 1.0, 2.0, 5.0, 4.0, 6.0, 0.5]
    assert shortest_of_blocks(times, 3).tolist() == [1.0, 4.0]
    assert shortest_of_blocks(times, 1).tolist() == times
    rng = np.random.default_rng(1)
    quiet = 1e-3 * np.exp(rng.normal(0, 0.002, 640))
    hit = quiet + (rng.random(640) < 0.5) * rng.exponential(2e-3, 640)
    estimate, size = block_estimate(Rounds(quiet.tolist(), (1.05 * hit).tolist()), 0.015)
    assert size == 16, "half of the calls of one side were interrupted"
    assert estimate.middle == pytest.approx(math.log(1.05), abs=0.003)
    few = quiet[:9].tolist()
    assert block_estimate(Rounds(few, few), 0.015)[1] == 1


def test_regression_needs_doubtlessness_and_size() -> None:
    found = compare_until_precise(machine("quiet", 0.05, 0))
    assert found.regresses(0.02)
    assert not found.regresses(0.10)
    unsure = Versus(
        ratio=1.3, low=0.9, high=1.6, confidence=0.99, verdict="no significant difference",
        rounds=10, paired=True, precise=False,
    )  # fmt: skip
    assert not unsure.regresses(0.02)


class Sleeper:
    """A runner whose calls take no time worth measuring, but in a known order."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls = 0
        self.renewed = 0

    def prepare(self) -> None:
        """Do nothing."""

    def run(self, inputs: object) -> dict[str, np.ndarray]:
        """Count a call."""
        self.calls += 1
        return {}

    def renew(self) -> None:
        """Count new memory."""
        self.renewed += 1


def test_runners_are_called_in_turn() -> None:
    a, b = Sleeper("A"), Sleeper("B")
    found = compare_runners(a, b, [{}], Ends(precision=10.0))
    assert found.rounds == ROUNDS
    assert a.renewed == b.renewed == ROUNDS // RENEWED
    assert a.calls == b.calls == 2 * ROUNDS + a.renewed, "timed, led in, and in new memory"


def test_launches_are_matched_by_their_nodes() -> None:
    _, times = stamped()
    same = compare_launches(times, times)
    assert {d.difference_us for d in same} == {0.0}
    assert {d.nodes for d in same} == {("node0",), ("node1",), ("node2",)}


def test_launches_that_were_fused_are_compared_with_their_parts() -> None:
    _, times = stamped()
    first, second, third = times.launches
    fused = msgspec.structs.replace(first, nodes=("node0", "node1"), span_us=4.0)
    found = compare_launches(times, msgspec.structs.replace(times, launches=(fused, third)))
    assert [d.nodes for d in found] == [("node0", "node1"), ("node2",)]
    assert (found[0].first_us, found[0].second_us) == (first.span_us + second.span_us, 4.0)
    assert found[1].difference_us == 0.0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_layer(tmp_path / "m.onnx")
    return tmp_path


def test_command_on_models(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = "compare m.onnx m.onnx --threads 1 --rounds 10 --threshold 10"
    assert run_command([*line.split(), "--json"]) == exits.OK
    facts = json.loads(capsys.readouterr().out)
    assert facts["schema"] == "whet.compare.1"
    assert facts["rounds"] == 10
    assert facts["regression"] is False
    assert facts["launches"]
    assert run_command(line.split()) == exits.OK
    assert "times as long as A" in capsys.readouterr().out


def test_command_on_files(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, ratio in (("a", 1.0), ("b", 1.2)):
        samples = apart(ratio, peer=True)[1 if ratio > 1 else 0]
        Path(f"{name}.json").write_text(json.dumps({"seconds": samples.seconds}))
    assert run_command("compare a.json b.json".split()) == exits.NEGATIVE
    assert "slower" in capsys.readouterr().out
    assert run_command("compare a.json b.json --threshold 0.5".split()) == exits.OK
    assert run_command("compare a.json m.onnx".split()) == exits.INPUT
    Path("bad.json").write_text("{}")
    assert run_command("compare a.json bad.json".split()) == exits.INPUT
    assert run_command("compare a.json missing.json".split()) == exits.INPUT


def test_models_that_files_name_run_only_if_measured_here(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file from a stranger may name any program: it is run only when that is asked for."""
    monkeypatch.setenv("WHET_CACHE_DIR", str(folder / "mine"))
    line = "bench m.onnx --threads 1 --rounds 20 --feeds 1 --json a.json"
    assert run_command(line.split()) == exits.OK
    own, stranger = "compare a.json a.json --rounds 10 --threshold 9 --json", Path("b.json")

    def ask(line: str) -> dict[str, object]:
        capsys.readouterr()
        assert run_command(line.split()) == exits.OK
        found: dict[str, object] = json.loads(capsys.readouterr().out)
        return found

    assert ask(own)["paired"] is True
    assert ask(f"{own} --no-again")["paired"] is False
    facts = json.loads(Path("a.json").read_text())
    facts["subject"]["options"]["cache_dir"] = str(folder / "theirs")
    stranger.write_text(json.dumps(facts))
    found = ask(own.replace("a.json", "b.json"))
    assert found["paired"] is False
    assert "--again runs their code" in str(found["note"])
    assert not (folder / "theirs").exists()
    assert ask(f"{own} --again".replace("a.json", "b.json"))["paired"] is True
    monkeypatch.setenv("WHET_CACHE_DIR", str(folder / "other"))
    assert ask(own)["paired"] is False
