"""Equations that would read outside of a tensor are refused before there is code for them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import whet
from whet.errors import ShapeError
from whet.index import Axis, as_poly, var
from whet.kernel.expr import Const, Expr, Within, guard
from whet.kernel.tensor import Definition, Tensor
from whet.lower.reads import check_reads
from whet.runtime.model import CompiledModel

FLOAT, INT64, UINT8 = TensorProto.FLOAT, TensorProto.INT64, TensorProto.UINT8
Given = tuple[str, int, list[int | str]]


def _model(op: str, inputs: list[Given], result: int, **attributes: Any) -> onnx.ModelProto:
    node = helper.make_node(op, [name for name, _, _ in inputs], ["y"], **attributes)
    infos = [helper.make_tensor_value_info(*given) for given in inputs]
    output = helper.make_tensor_value_info("y", result, None)
    graph = helper.make_graph([node], "g", infos, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10)


def _suppression(threshold: list[int | str]) -> onnx.ModelProto:
    inputs: list[Given] = [
        ("boxes", FLOAT, [1, 6, 4]), ("scores", FLOAT, [1, 1, 6]), ("most", INT64, [1]),
        ("overlap", FLOAT, [1]), ("least", FLOAT, threshold),
    ]  # fmt: skip
    return _model("NonMaxSuppression", inputs, INT64)


def _quantised(points: int) -> onnx.ModelProto:
    inputs: list[Given] = [
        ("a", UINT8, [2, 4]), ("as", FLOAT, [1]), ("az", UINT8, [1]),
        ("b", UINT8, [4, 3]), ("bs", FLOAT, [1]), ("bz", UINT8, [points]),
        ("ys", FLOAT, [1]), ("yz", UINT8, [1]),
    ]  # fmt: skip
    return _model("QLinearMatMul", inputs, UINT8)


def _compile(model: onnx.ModelProto) -> CompiledModel:
    return whet.compile(model.SerializeToString(), options=whet.Options(threads=1))


@pytest.mark.parametrize(
    "model", [_suppression([0]), _quantised(0), _quantised(2)], ids=["threshold", "none", "short"]
)
def test_parameters_with_too_few_elements(model: onnx.ModelProto) -> None:
    with pytest.raises(ShapeError, match="does not have"):
        _compile(model)


def test_a_parameter_that_is_empty_in_a_run() -> None:
    compiled = _compile(_suppression(["n"]))
    rng = np.random.default_rng(3)
    feed = {
        "boxes": rng.random((1, 6, 4), np.float32),
        "scores": rng.random((1, 1, 6), np.float32),
        "most": np.array([3]),
        "overlap": np.array([0.5], np.float32),
        "least": np.array([0.1], np.float32),
    }
    assert compiled.run(feed)["y"].shape[1] == 3
    with pytest.raises(whet.WhetError):
        compiled.run({**feed, "least": np.zeros(0, np.float32)})


def test_positions_of_another_rank() -> None:
    inputs: list[Given] = [
        ("x", FLOAT, [2, 2, 3, 4]), ("cos", FLOAT, [8, 2]), ("sin", FLOAT, [8, 2]),
        ("places", INT64, [2, 3, 1]),
    ]  # fmt: skip
    with pytest.raises(whet.WhetError) as found:
        _compile(_model("RotaryEmbedding", inputs, FLOAT))
    assert found.value.code != "E500"


@pytest.mark.parametrize(
    ("start", "stride", "inside"),
    [(0, 1, True), (0, 2, True), (1, 2, True), (2, 2, False), (-1, 1, False), (9, -2, False)],
)
def test_affine_reads(start: int, stride: int, inside: bool) -> None:
    axis = Axis("i", as_poly(4))
    source = Tensor("x", (as_poly(8),), "float32")
    index = var(axis) * stride + start
    plain = Tensor("y", (as_poly(4),), "float32", Definition((axis,), source.at(index)))
    if inside:
        check_reads([plain])
        return
    with pytest.raises(ShapeError):
        check_reads([plain])
    body: Expr = guard((Within(index, as_poly(8)),), source.at(index), Const(0.0, "float32"))
    check_reads([Tensor("z", (as_poly(4),), "float32", Definition((axis,), body))])
