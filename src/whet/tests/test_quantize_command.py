"""``whet quantize`` as a command: what it reads back, prints and refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from whet.cli import exits
from whet.cli.main import run_command
from whet.tests.quantized_models import norm_net, residual_net


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder with two models and their data."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(1)
    onnx.save(residual_net(np.random.default_rng(0)), "m.onnx")
    onnx.save(norm_net(np.random.default_rng(1)), "n.onnx")
    np.save("x.npy", rng.standard_normal((8, 3, 9, 7)).astype(np.float32))
    np.save("h.npy", rng.standard_normal((8, 4, 16)).astype(np.float32))
    return tmp_path


def quantize(line: str) -> int:
    return run_command(["quantize", *line.split()])


def refusal(line: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run a line that has to fail with one error, and return what it says."""
    capsys.readouterr()
    assert quantize(f"{line} -o o.onnx") in (exits.USAGE, exits.INPUT, exits.ARTIFACT)
    words = capsys.readouterr().err
    assert words.count("error: [E") == 1
    assert not Path("o.onnx").exists()
    return words


def test_a_report_can_be_given_back_as_the_configuration() -> None:
    first = "m.onnx --calibration x.npy --calibrator minmax --skip conv2 --symmetric"
    assert quantize(f"{first} -o a.onnx --report r.json") == exits.OK
    assert quantize("m.onnx --calibration x.npy --config r.json -o b.onnx") == exits.OK
    assert Path("a.onnx").read_bytes() == Path("b.onnx").read_bytes()


def test_names_with_brackets_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    model = onnx.load("n.onnx")
    model.graph.node[1].name, model.graph.node[3].name = "[/bold]", "[red]down"
    onnx.save(model, "b.onnx")
    line = "b.onnx --calibration h.npy --max-drop 0.01% --metric cosine --calibrator minmax"
    assert quantize(f"{line} -o o.onnx") == exits.OK
    printed = capsys.readouterr().out
    assert "[/bold]" in printed
    assert "[red]down" in printed


@pytest.mark.parametrize("place", ["x.npy", "x.npy/state"])
def test_a_state_needs_a_folder(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = refusal(f"m.onnx --calibration x.npy --state {place}", capsys)
    assert "cannot create the folder of the state" in words
