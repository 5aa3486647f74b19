"""Measured quantisation, with a clock that is told what things take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from whet.cli import exits, quantize_timer
from whet.cli.main import run_command
from whet.errors import UnsupportedError
from whet.quantize.measured import Measurement, Timing, chosen_point
from whet.quantize.scores import Score
from whet.tests.quantized_models import residual_net

LAYERS = {"a": "Conv", "b": "Conv", "c": "Gemm", "d": "Add"}
FLOAT_MS = {"a": 4.0, "b": 3.0, "c": 2.0, "d": 1.0}
INT8_MS = {"a": 1.0, "b": 2.0, "c": 2.0, "d": 3.0}
ERRORS = {"a": 0.01, "b": 0.08, "c": 0.001, "d": 0.001}


class Table:
    """Judges variants, which are their choices, by a table."""

    def write(self, choices: Any) -> Any:
        """Return what stands for a variant."""
        return dict(choices)

    def judge(self, choices: Any) -> Score:
        """Return the sum of the errors."""
        error = sum(ERRORS[n] for n, c in choices.items() if c != "float")
        return Score(1 - error, error)


def _total(variant: Any) -> float:
    return sum((FLOAT_MS if variant[n] == "float" else INT8_MS)[n] for n in LAYERS)


def clock(first: Any, second: Any) -> Timing:
    a, b = (_total(variant) for variant in (first, second))
    return Timing(a / 1e3, b / 1e3, b / a, abs(a - b) > 0.01)


def measure(**more: Any) -> Any:
    judge: Any = Table()
    base: Any = dict.fromkeys(LAYERS, "float")
    found = Measurement(judge, base, Score(1.0, 0.0), clock, **more)
    return found.run(dict.fromkeys(LAYERS, "int8"), LAYERS)


def test_a_layer_stays_only_where_it_is_faster() -> None:
    found = measure()
    assert {g.name: g.kept for g in found.gains} == {"a": True, "b": True, "c": False, "d": False}
    gains = {g.name: g.gain_ms for g in found.gains}
    assert gains["a"] == pytest.approx(3)
    assert gains["d"] == pytest.approx(-2)
    assert chosen_point(found) == {"a": "int8", "b": "int8", "c": "float", "d": "float"}


def test_the_goal_picks_from_the_front() -> None:
    points = measure().points
    assert [(p.layers, p.on_front) for p in points] == [(1, True), (2, True), (4, False)]
    assert points[0].time_ratio == pytest.approx(0.7)
    assert points[0].choices["a"] == "int8"  # it gains more for less
    assert chosen_point(measure(goal="accuracy")) == points[0].choices
    assert chosen_point(measure(goal="balance")) == points[0].choices
    assert chosen_point(measure(limit=0.05)) == points[0].choices
    with pytest.raises(UnsupportedError, match="no mixture of precisions holds"):
        measure(limit=0.001)


def test_small_gains_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAYERS:
        monkeypatch.setitem(INT8_MS, name, FLOAT_MS[name] - 0.009)

    def coarse(first: Any, second: Any) -> Timing:
        a, b = (_total(variant) for variant in (first, second))
        return Timing(a / 1e3, b / 1e3, b / a, abs(a - b) > 0.02)

    judge: Any = Table()
    base: Any = dict.fromkeys(LAYERS, "float")
    choices = {**dict.fromkeys(LAYERS, "int8"), "c": "finer"}
    found = Measurement(judge, base, Score(1.0, 0.0), coarse).run(choices, LAYERS)
    assert not any(gain.kept for gain in found.gains)
    assert [p.layers for p in found.points] == [4]
    assert chosen_point(found) == choices


def test_nothing_is_faster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INT8_MS, "a", 9.0)
    monkeypatch.setitem(INT8_MS, "b", 9.0)
    with pytest.raises(UnsupportedError, match="no layer is faster"):
        measure()


def test_the_command_tells_gains_and_mixtures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(residual_net(np.random.default_rng(0)), "m.onnx")
    np.save("x.npy", np.random.default_rng(1).standard_normal((4, 3, 9, 7)).astype(np.float32))

    def integers(model: Any) -> int:
        return sum(node.op_type == "QuantizeLinear" for node in model.graph)

    def by_size(self: Any, first: Any, second: Any) -> Timing:
        a, b = (20 - integers(model) for model in (first, second))
        return Timing(a / 1e3, b / 1e3, b / a, a != b)

    monkeypatch.setattr(quantize_timer.GraphTimer, "__call__", by_size)
    line = "quantize m.onnx --calibration x.npy --measured --goal speed --metric cosine"
    assert run_command(line.split()) == exits.OK
    text = capsys.readouterr().out
    assert "what 8 bits gain here" in text
    assert "mixtures of precisions" in text
    assert onnx.load("m.int8.onnx").graph.node
