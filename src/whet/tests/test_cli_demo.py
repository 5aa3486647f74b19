"""The demonstration: its network, its judgement, its report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import whet
from whet.cli import demo, demo_network, demo_report, exits
from whet.cli.main import run_command
from whet.tests.documents import conform
from whet.tests.small_models import FakeModel, layer_model


@pytest.fixture(scope="module")
def network() -> onnx.ModelProto:
    """Return the network of the demonstration."""
    return demo_network.build_network(0)


def test_network_is_a_valid_resnet50(network: onnx.ModelProto) -> None:
    onnx.checker.check_model(network)
    kinds = [node.op_type for node in network.graph.node]
    assert kinds.count("Conv") == 53
    assert kinds.count("BatchNormalization") == 53
    assert "ConstantOfShape" not in kinds
    names = [node.name for node in network.graph.node]
    assert len(set(names)) == len(names)
    sizes = [int(np.prod(tensor.dims)) for tensor in network.graph.initializer]
    assert 25_500_000 < sum(sizes) < 25_700_000


def test_network_follows_its_seed(network: onnx.ModelProto) -> None:
    assert demo_network.build_network(0) == network
    assert demo_network.build_network(1) != network


def test_output_depends_on_the_image_and_spreads(network: onnx.ModelProto) -> None:
    first, second = (
        demo._run_reference(network, {demo_network.INPUT: demo_network.random_image(seed)})
        for seed in (1, 2)
    )
    name = demo_network.OUTPUT
    assert first[name].sum() == pytest.approx(1, abs=1e-5)
    assert first[name].max() / np.median(first[name]) > 10
    assert demo.relative_error(first[name], second[name]) > 10 * demo_report.TOLERANCE


def test_relative_error() -> None:
    truth = np.array([0.5, 0.25])
    assert demo.relative_error(truth * 1.5, truth) == 0.5
    assert demo.relative_error(np.ones(3), truth) == np.inf
    assert np.isnan(demo.relative_error(np.array([np.nan, 0.25]), truth))


class _Perfect(FakeModel):
    """A compiled demonstration network that answers as the reference does, or not."""

    def __init__(self, answer: np.ndarray[Any, np.dtype[Any]]) -> None:
        super().__init__()
        self.answer = answer

    def run(self, inputs: Any) -> dict[str, Any]:
        return {demo_network.OUTPUT: self.answer}

    __call__ = run


@pytest.mark.parametrize(("factor", "code"), [(1.0, exits.OK), (1.1, exits.NEGATIVE)])
def test_demo_judges_and_reports(
    factor: float,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    truth = np.random.default_rng(0).dirichlet(np.ones(1000)).astype(np.float32)
    answer = truth * np.float32(factor)
    asked: list[int] = []

    def fake_compile(_: Any, *, options: whet.Options, **__: Any) -> FakeModel:
        asked.append(options.opt_level)
        return _Perfect(answer)

    monkeypatch.setitem(vars(whet), "compile", fake_compile)
    monkeypatch.setitem(vars(whet), "load", lambda *_, **__: _Perfect(answer))
    monkeypatch.setattr(demo, "find_spec", lambda _: None)
    monkeypatch.setattr(demo, "_run_reference", lambda *_: {demo_network.OUTPUT: truth})
    monkeypatch.chdir(tmp_path)
    assert run_command("demo --seconds 0.05 --threads 1 --json".split()) == code
    found = conform(capsys.readouterr().out)
    assert asked == [0, whet.Options().opt_level]
    assert found["judge"] == "onnx.reference"
    assert found["correct"] is (code == exits.OK)
    assert set(found["times"]) == {"unoptimised", "Whet"}
    assert run_command("demo --seconds 0.05 --threads 1".split()) == code
    captured = capsys.readouterr()
    assert "resnet50.whet" in captured.out
    assert "Unoptimised, it takes" in captured.out
    assert "Try next" in captured.out
    assert "[6/6]" in captured.err


def test_the_network_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(demo_network, "build_network", lambda _: layer_model())
    assert run_command("demo --onnx net.onnx --json".split()) == exits.OK
    assert conform(capsys.readouterr().out)["onnx"] == "net.onnx"
    onnx.checker.check_model(onnx.load("net.onnx"))
