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
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString())


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


@pytest.mark.parametrize("ends", [[3, 5], [3, 5, 1, 0]], ids=["lengths", "ends_and_starts"])
def test_a_mask_of_lengths_of_a_batch_that_a_run_knows(ends: list[int]) -> None:
    """As ``EmbedLayerNormalization`` gives to ``Attention`` in fused models."""
    rng = np.random.default_rng(len(ends))
    x = rng.standard_normal((2, 5, 4), np.float32)
    weight = rng.standard_normal((4, 12), np.float32)
    node = helper.make_node("Attention", ["x", "w", "", "m"], ["y"], domain="com.microsoft",
                            num_heads=2)  # fmt: skip
    infos = [
        helper.make_tensor_value_info("x", FLOAT, ["n", "t", 4]),
        helper.make_tensor_value_info("m", TensorProto.INT32, ["k"]),
    ]
    result = helper.make_tensor_value_info("y", FLOAT, None)
    stored = [numpy_helper.from_array(weight, "w")]
    graph = helper.make_graph([node], "g", infos, [result], stored)
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    data = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    compiled = whet.compile(data, options=whet.Options(threads=1))
    found = compiled.run({"x": x, "m": np.array(ends, np.int32)})["y"]
    starts = ends[2:] or [0, 0]
    q, k, v = np.split(x.astype(np.float64) @ weight, 3, axis=-1)
    for row, (start, end) in enumerate(zip(starts, ends, strict=False)):
        for head in (slice(0, 2), slice(2, 4)):
            scores = q[row][:, head] @ k[row][start:end, head].T / math.sqrt(2)
            p = np.exp(scores - scores.max(-1, keepdims=True))
            expected = p / p.sum(-1, keepdims=True) @ v[row][start:end, head]
            np.testing.assert_allclose(found[row][:, head], expected, rtol=2e-4, atol=2e-4)


def test_a_layout_for_one_machine_is_refused_with_what_to_do() -> None:
    domain = "com.microsoft.nchwc"
    data = _model([helper.make_node("ReorderInput", ["x"], ["y"], domain=domain)], {domain: 1})
    with pytest.raises(whet.UnsupportedError, match="ORT_ENABLE_EXTENDED"):
        whet.compile(data)
