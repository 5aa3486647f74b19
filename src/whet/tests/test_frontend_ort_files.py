"""Files that ONNX Runtime's optimisers wrote are understood, or refused with a reason."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet

FLOAT = TensorProto.FLOAT


def _model(nodes: list[onnx.NodeProto], imports: dict[str, int], **constants: Any) -> bytes:
    x = helper.make_tensor_value_info("x", FLOAT, ["n", 2, "h", "w"])
    y = helper.make_tensor_value_info("y", FLOAT, None)
    stored = [numpy_helper.from_array(np.asarray(a), n) for n, a in constants.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], stored)
    opsets = [helper.make_opsetid(k, v) for k, v in imports.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()


def _gelu(x: np.ndarray) -> np.ndarray:
    return np.array([v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x.ravel()]).reshape(x.shape)


@pytest.mark.parametrize("imports", [{"": 17}, {"": 17, "com.microsoft": 1}])
def test_the_domain_may_be_used_without_an_import(imports: dict[str, int]) -> None:
    nodes = [helper.make_node("Gelu", ["x"], ["y"], domain="com.microsoft")]
    model = whet.compile(_model(nodes, imports), options=whet.Options(threads=1))
    x = np.random.default_rng(0).standard_normal((1, 2, 3, 5), np.float32)
    np.testing.assert_allclose(model.run({"x": x})["y"], _gelu(x), rtol=1e-5, atol=1e-6)


def test_sizes_of_a_resize_behind_a_foreign_operator() -> None:
    """Their number is not known before the operator in front is translated."""
    nodes = [
        helper.make_node("Gelu", ["x"], ["g"], domain="com.microsoft"),
        helper.make_node("Shape", ["g"], ["shape"]),
        helper.make_node("Slice", ["shape", "zero", "two", "zero"], ["outer"]),
        helper.make_node("Concat", ["outer", "goal"], ["sizes"], axis=0),
        helper.make_node("Resize", ["g", "", "", "sizes"], ["y"], mode="nearest",
                         coordinate_transformation_mode="asymmetric", nearest_mode="floor"),
    ]  # fmt: skip
    constants = {"zero": np.array([0]), "two": np.array([2]), "goal": np.array([6, 10])}
    data = _model(nodes, {"": 17, "com.microsoft": 1}, **constants)
    x = np.random.default_rng(1).standard_normal((2, 2, 3, 5), np.float32)
    found = whet.compile(data, options=whet.Options(threads=1)).run({"x": x})["y"]
    expected = _gelu(x).repeat(2, 2).repeat(2, 3)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_layout_for_one_machine_is_refused_with_what_to_do() -> None:
    domain = "com.microsoft.nchwc"
    data = _model([helper.make_node("ReorderInput", ["x"], ["y"], domain=domain)], {domain: 1})
    with pytest.raises(whet.UnsupportedError, match="ORT_ENABLE_EXTENDED"):
        whet.compile(data)
