"""What is in the bodies of If, Loop and Scan stays in float, and is listed with the reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import whet
from whet.cli import exits
from whet.cli.main import run_command
from whet.errors import UnsupportedError

NODE, INFO = helper.make_node, helper.make_tensor_value_info
FLOAT, INT64, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL
X = np.random.default_rng(1).standard_normal((16, 8)).astype(np.float32)


def looped(*, outside: bool) -> onnx.ModelProto:
    """Return a loop of a product, in a branch of which the other one has a product too."""
    body = helper.make_graph(
        [NODE("MatMul", ["xi", "v"], ["xo"], name="step"), NODE("Identity", ["c"], ["co"])],
        "body",
        [INFO("i", INT64, []), INFO("c", BOOL, []), INFO("xi", FLOAT, ["n", 8])],
        [INFO("co", BOOL, []), INFO("xo", FLOAT, ["n", 8])],
    )
    loop = NODE("Loop", ["k", "", "a"], ["l"], body=body, name="loop")
    then = helper.make_graph([loop], "then", [], [INFO("l", FLOAT, ["n", 8])])
    product = NODE("MatMul", ["a", "v"], ["m"], name="other")
    other = helper.make_graph([product], "else", [], [INFO("m", FLOAT, ["n", 8])])
    nodes = [
        NODE("MatMul", ["x", "w"], ["a"], name="first") if outside else NODE("Abs", ["x"], ["a"]),
        NODE("ReduceSum", ["a"], ["s"], keepdims=0),
        NODE("Greater", ["s", "zero"], ["condition"]),
        NODE("If", ["condition"], ["y"], then_branch=then, else_branch=other, name="branch"),
    ]
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((8, 8)).astype(np.float32), "k": np.array(3),
                 "v": rng.standard_normal((8, 8)).astype(np.float32),
                 "zero": np.array(0, np.float32)}  # fmt: skip
    graph = helper.make_graph(
        nodes, "g", [INFO("x", FLOAT, ["n", 8])], [INFO("y", FLOAT, ["n", 8])],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


WHY = "it is in a body of the If branch"


def test_products_in_bodies_are_listed() -> None:
    model = looped(outside=True)
    made = whet.quantize(model, X)
    assert made.report.quantized == {"first": "MatMul"}
    found = {(s.name, s.op, s.why) for s in made.report.skipped}
    assert found == {("step", "MatMul", WHY), ("other", "MatMul", WHY)}
    before, after = (whet.compile(m)({"x": X})["y"] for m in (model, made.model))
    assert np.linalg.norm(after - before) < 0.05 * np.linalg.norm(before)


def test_nothing_outside_of_bodies_is_an_error_that_says_why() -> None:
    with pytest.raises(UnsupportedError, match=f"nothing in the model can be .*: {WHY}"):
        whet.quantize(looped(outside=False), X)


@pytest.mark.parametrize("mode", ["static", "weights", "float16"])
def test_every_mode_lists_them(
    mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(looped(outside=True), "m.onnx")
    np.save("x.npy", X)
    data = "" if mode == "weights" else "--calibration x.npy"
    line = f"quantize m.onnx --mode {mode} {data} -o o.onnx"
    assert run_command(line.split()) == exits.OK
    words = capsys.readouterr().out
    assert all(f"{name}" in words and WHY in words for name in ("step", "other"))
    assert run_command(f"{line} --json".split()) == exits.OK
    facts: Any = json.loads(capsys.readouterr().out)
    listed = {s["name"] for s in facts["skipped"]} if mode == "static" else set(facts["floats"])
    assert {"step", "other"} <= listed
