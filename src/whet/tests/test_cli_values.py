"""Models of texts and of sequences, through every command that runs or measures a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

from whet.cli import exits
from whet.cli.main import run_command

_HEAD = '<ir_version: 8, opset_import: ["": 20]>\n'
TEXTS = _HEAD + "g (string[2] x, string[2] z) => (string[2] y) { y = StringConcat(x, z) }"
SEQUENCE = (
    _HEAD
    + """
g (float[2] x, float[3] z) => (seq(float[N]) y, float[2] w) {
    y = SequenceConstruct(x, z)
    w = Relu(x)
}
"""
)
LINES = (
    "run", "run --output y.npz", "bench --rounds 2", "profile --runs 2", "inspect",
    "inspect --view --no-browser", "verify --reference onnx",
    "verify --reference onnx --per-layer", "bisect --reference onnx", "report --rounds 2",
)  # fmt: skip


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(onnx.parser.parse_model(TEXTS), "texts.onnx")
    onnx.save(onnx.parser.parse_model(SEQUENCE), "sequence.onnx")
    np.savez("texts.npz", x=np.array(["a", "b"]), z=np.array(["ü", "c"]))
    np.savez("sequence.npz", x=np.array([1, -2], "f4"), z=np.array([3, 4, 5], "f4"))
    return tmp_path


@pytest.mark.parametrize("kind", ["texts", "sequence"])
@pytest.mark.parametrize("line", LINES)
def test_commands_take_values_of_every_kind(
    line: str, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command, *options = line.split()
    given = [] if line == "inspect" else ["--input", f"{kind}.npz"]
    code = run_command([command, f"{kind}.onnx", *given, *options])
    assert code == exits.OK, capsys.readouterr().err


def test_texts_and_sequences_are_written() -> None:
    for kind in ("texts", "sequence"):
        line = ["run", f"{kind}.onnx", "--input", f"{kind}.npz", "--output", f"{kind}.out.npz"]
        assert run_command(line) == exits.OK
    assert np.load("texts.out.npz")["y"].tolist() == ["aü", "bc"]
    written = np.load("sequence.out.npz")
    assert {name: written[name].tolist() for name in written.files} == {
        "y[0]": [1, -2],
        "y[1]": [3, 4, 5],
        "w": [1, 0],
    }


def test_what_run_says_of_them(capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for kind in ("texts", "sequence"):
        assert run_command(["run", f"{kind}.onnx", "--input", f"{kind}.npz", "--json"]) == exits.OK
        first = json.loads(capsys.readouterr().out)["outputs"][0]
        found[kind] = (first["dtype"], first["shape"])
    assert found == {"texts": ("string", [2]), "sequence": ("sequence", [2])}


@pytest.mark.parametrize("kind", ["texts", "sequence"])
def test_the_graph_passes_write_them(kind: str) -> None:
    assert run_command(["optimize", f"{kind}.onnx", "-o", "o.onnx"]) == exits.OK
    onnx.checker.check_model("o.onnx", full_check=True)
