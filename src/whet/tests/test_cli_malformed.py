"""Models that an ONNX parser takes and nothing can run: commands say what is wrong with them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx.parser
import pytest

from whet.cli import exits
from whet.cli.main import run_command

_TEXT = """
<ir_version: 8, opset_import: ["": 17]>
g (float[2, 4] x) => (float[2, 3] y) <float[4, 3] w = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}> {
    y = Gemm(x, w)
}
"""
NO_TYPE = -128


def _untype_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = 0


def _mistype_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = NO_TYPE


def _untype_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.Clear()


def _mistype_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = NO_TYPE


def _mistype_weights(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].data_type = NO_TYPE


def _forget_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].domain = "elsewhere"


def _take_operand(model: onnx.ModelProto) -> None:
    del model.graph.node[0].input[1]


def _flatten_input(model: onnx.ModelProto) -> None:
    del model.graph.input[0].type.tensor_type.shape.dim[:]


FAULTS = (
    _untype_input, _mistype_input, _untype_output, _mistype_output, _mistype_weights,
    _forget_opset, _take_operand, _flatten_input,
)  # fmt: skip


@pytest.mark.parametrize("damage", FAULTS)
@pytest.mark.parametrize("command", ["inspect", "verify", "bisect", "report"])
def test_malformed_models_are_no_internal_errors(
    command: str,
    damage: Callable[[onnx.ModelProto], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = onnx.parser.parse_model(_TEXT)
    damage(model)
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(model.SerializeToString())
    code = run_command([command, "m.onnx"])
    shown = capsys.readouterr().err
    assert code in (exits.OK, exits.NEGATIVE, exits.MODEL), shown
    assert code != exits.MODEL or "hint:" in shown


def test_nobody_else_speaks_of_a_faulty_model(tmp_path: Path) -> None:
    """In a process of its own: pytest takes what libraries log."""
    model = onnx.parser.parse_model(_TEXT)
    model.graph.node[0].input[0] = "nothing"
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    code = "from whet.cli.entry import main; main()"
    line = [sys.executable, "-c", code, "compile", str(path)]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (exits.MODEL, "")
    assert done.stderr.startswith("error: [E100]"), done.stderr
