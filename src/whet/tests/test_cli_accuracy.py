"""The commands about accuracy, on small models and planted faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from whet.cli import exits
from whet.cli.main import run_command
from whet.tests.chain_models import biased_chain, chain, spoil_gemm
from whet.tests.faulty import plant_wrong_operator, plant_wrong_rewrite
from whet.tests.small_models import run_layer, write_layer


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in an empty folder with m.onnx, a layer, and chain.onnx."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHET_JOBS", "1")
    write_layer(tmp_path / "m.onnx")
    onnx.save(chain(["Relu", "Sigmoid", "Tanh"]), tmp_path / "chain.onnx")
    return tmp_path


def run_json(line: str, capsys: pytest.CaptureFixture[str], code: int) -> dict[str, Any]:
    capsys.readouterr()
    assert run_command([*line.split(), "--json"]) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_verify_a_right_model(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = run_json("verify m.onnx --threads 1", capsys, exits.OK)
    assert found["schema"] == "whet.verify.1"
    assert found["passed"] is True
    assert run_command(["compile", "m.onnx", "--threads", "1"]) == exits.OK
    assert run_command("verify m.onnx m.whet --reference onnx".split()) == exits.OK
    assert "onnx.reference" in capsys.readouterr().out
    assert run_command("verify m.onnx m.onnx".split()) == exits.OK


def test_verify_against_a_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.savez(folder / "x.npz", x=x)
    np.save(folder / "right.npy", run_layer(x))
    np.save(folder / "wrong.npy", run_layer(x) * np.float32(1.01))
    line = "verify m.onnx --threads 1 --input x.npz --golden"
    assert run_command([*line.split(), "right.npy"]) == exits.OK
    assert run_command([*line.split(), "wrong.npy"]) == exits.NEGATIVE
    text = capsys.readouterr().out
    assert "relative_euclidean is 0.0099" in text
    assert "the largest error is at" in text
    assert run_command([*line.split(), "wrong.npy", "--threshold", "ascend"]) == exits.OK


def test_verify_says_what_it_matched_by_position(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = np.arange(8, dtype=np.float32).reshape(2, 4)
    np.savez(folder / "x.npz", x=x)
    np.savez(folder / "other.npz", scores=run_layer(x))
    np.savez(folder / "same.npz", y=run_layer(x))
    line = "verify m.onnx --threads 1 --input x.npz --golden"
    (other,) = run_json(f"{line} other.npz", capsys, exits.OK)["outputs"]
    (same,) = run_json(f"{line} same.npz", capsys, exits.OK)["outputs"]
    assert (other["name"], other["found_as"]) == ("scores", "y")
    assert (same["name"], same["found_as"]) == ("y", "")
    assert run_command([*line.split(), "other.npz"]) == exits.OK
    assert "scores: compared with 'y' by position" in capsys.readouterr().out
    assert run_command([*line.split(), "same.npz"]) == exits.OK
    assert "by position" not in capsys.readouterr().out


def test_verify_names_the_wrong_node(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_wrong_operator(monkeypatch, "Sigmoid")
    assert run_command("verify chain.onnx --threads 1 --per-layer".split()) == exits.NEGATIVE
    assert "The first wrong node is act1 (Sigmoid), value a1" in capsys.readouterr().out
    found = run_json("verify chain.onnx --threads 1 --per-layer", capsys, exits.NEGATIVE)
    assert found["first_own"] == "a1"


def test_verify_layers_of_a_compiled_file(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("compile chain.onnx --threads 1 -O1".split()) == exits.OK
    found = run_json("verify chain.onnx chain.whet --per-layer", capsys, exits.OK)
    layers = found["layers"]
    assert isinstance(layers, list)
    assert {layer["place"] for layer in layers} == {"memory"}  # nothing is fused at level 1
    assert run_command("verify m.onnx chain.whet --per-layer".split()) == exits.ARTIFACT
    assert run_command("verify m.onnx m.onnx --per-layer".split()) == exits.USAGE


def test_verify_refuses_what_it_cannot_read(folder: Path) -> None:
    assert run_command("verify missing.onnx".split()) == exits.MODEL
    assert run_command("verify m.onnx --threshold cosin=1".split()) == exits.USAGE
    assert run_command("verify m.onnx --golden missing.npy".split()) == exits.INPUT


@pytest.mark.parametrize("line", ["verify m.onnx", "bisect m.onnx", "reduce m.onnx -o f"])
@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"x": np.ones((2, 4), np.float32), "labels": np.ones(2)}, "unknown input 'labels'"),
        ({}, "it is missing at input 'x'"),
        ({"x": np.ones((2, 5), np.float32)}, "shape is (2, 5), the model takes (2, 4)"),
        ({"x": np.ones((2, 4))}, "dtype is float64, the model takes float32"),
    ],
)
def test_inputs_that_a_model_does_not_take(
    line: str,
    given: dict[str, Any],
    text: str,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """No reference is asked: it would say what it stumbled on."""
    np.savez(folder / "x.npz", **given)
    assert run_command([*line.split(), "--input", "x.npz"]) == exits.INPUT
    assert text in capsys.readouterr().err


def test_outputs_that_are_not_golden(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    np.savez(folder / "right.npz", z=np.ones(2), t=np.ones(2))
    assert run_command("verify m.onnx --golden right.npz".split()) == exits.INPUT
    assert "at right.npz" in capsys.readouterr().err


def _repeat(folder: str, line: object) -> int:
    """Run the line of a report in its folder."""
    assert isinstance(line, str)
    words = line.split()
    assert words[0] == "whet"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        return run_command(words[1:])


def test_bisect_writes_a_reproduction(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(biased_chain(3), "b.onnx")
    plant_wrong_rewrite(monkeypatch, "fold_scale", spoil_gemm, 2)
    found = run_json("bisect b.onnx --threads 1 -o out", capsys, exits.NEGATIVE)
    assert (found["stage"], found["name"], found["rewrite"]) == ("pass", "fold_scale", 2)
    report = json.loads(Path("out/report.json").read_text())
    assert report["schema"] == "whet.bisect.1"
    assert "Gemm" in Path("out/change.diff").read_text()
    assert report["reproduce"] in Path("out/reproduce.sh").read_text()
    assert _repeat("out", found["reproduce"]) == exits.NEGATIVE
    assert run_command("bisect b.onnx --threads 1".split()) == exits.NEGATIVE
    assert "rewrite 2 of the pass fold_scale" in capsys.readouterr().out
    assert run_command("bisect b.onnx --threads 1 -o out".split()) == exits.ARTIFACT
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    assert _repeat("out", found["reproduce"]) == exits.OK  # the fault is mended
    assert run_command("bisect b.onnx --threads 1 -o none".split()) == exits.OK


def test_reduce_writes_a_reproduction(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plant_wrong_operator(monkeypatch, "Sigmoid")
    found = run_json("reduce chain.onnx --threads 1 -o out", capsys, exits.NEGATIVE)
    assert (found["nodes"], found["nodes_before"]) == (["act1"], 6)
    assert len(onnx.load("out/model.onnx").graph.node) == 1
    assert _repeat("out", found["reproduce"]) == exits.NEGATIVE
    assert run_command("reduce m.onnx --threads 1 -o fine".split()) == exits.OK
    assert "nothing to reduce" in capsys.readouterr().out
    assert run_command("reduce m.onnx -o x --golden y.npz".split()) == exits.USAGE
