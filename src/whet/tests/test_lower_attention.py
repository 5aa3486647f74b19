"""Every exporter's spelling of attention becomes one kernel."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet

HEADS, LENGTH, WIDTH = 2, 21, 20


def attention_model(*, mask: bool, nan_test: bool, scaled_operands: bool) -> onnx.ModelProto:
    """Return softmax(q k' s + mask) v with transposed outputs, as exporters write it."""
    shape = [1, HEADS, LENGTH, WIDTH]
    scale = numpy_helper.from_array(np.array(WIDTH**-0.25, np.float32), "scale")
    constants = [scale, numpy_helper.from_array(np.array(WIDTH**-0.5, np.float32), "whole")]
    constants.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))
    keys = helper.make_node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2])
    nodes = [keys]
    if scaled_operands:
        nodes += [helper.make_node("Mul", ["q", "scale"], ["qs"])]
        nodes += [helper.make_node("Mul", ["kt", "scale"], ["ks"])]
        nodes += [helper.make_node("MatMul", ["qs", "ks"], ["s0"])]
    else:
        nodes += [helper.make_node("MatMul", ["q", "kt"], ["raw"])]
        nodes += [helper.make_node("Mul", ["raw", "whole"], ["s0"])]
    if mask:
        nodes.append(helper.make_node("Add", ["s0", "mask"], ["s1"]))
    nodes.append(helper.make_node("Softmax", ["s1" if mask else "s0"], ["p0"], axis=-1))
    if nan_test:
        nodes += [helper.make_node("IsNaN", ["p0"], ["nan"])]
        nodes += [helper.make_node("Where", ["nan", "zero", "p0"], ["p1"])]
    nodes.append(helper.make_node("MatMul", ["p1" if nan_test else "p0", "v"], ["o"]))
    nodes.append(helper.make_node("Transpose", ["o"], ["y"], perm=[0, 2, 1, 3]))
    names = ["q", "k", "v", *(["mask"] if mask else [])]
    inputs = [
        helper.make_tensor_value_info(
            n, TensorProto.FLOAT, [1, 1, LENGTH, LENGTH] if n == "mask" else shape
        )
        for n in names
    ]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, LENGTH, HEADS, WIDTH])
    graph = helper.make_graph(nodes, "attention", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("nan_test", [False, True])
@pytest.mark.parametrize("scaled_operands", [False, True])
def test_attention_is_one_kernel(mask: bool, nan_test: bool, scaled_operands: bool) -> None:
    proto = attention_model(mask=mask, nan_test=nan_test, scaled_operands=scaled_operands)
    model = whet.compile(proto, options=whet.Options(threads=1))
    kinds = [group.kernel.split("_")[0] for group in model.stats.groups]
    assert "attention" in kinds
    assert "contraction" not in kinds
    rng = np.random.default_rng(7)
    q, k, v = (rng.standard_normal((1, HEADS, LENGTH, WIDTH)).astype(np.float32) for _ in range(3))
    inputs = {"q": q, "k": k, "v": v}
    scores = np.einsum("bhqd,bhkd->bhqk", q, k, dtype=np.float64) * WIDTH**-0.5
    if mask:
        blocked = np.where(rng.random((1, 1, LENGTH, LENGTH)) < 0.3, -np.inf, 0).astype(np.float32)
        blocked[..., 5, :] = -np.inf if nan_test else 0
        inputs["mask"] = blocked
        scores = scores + blocked
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = weights / weights.sum(-1, keepdims=True)
    if nan_test:
        weights = np.nan_to_num(weights)
    expected = np.einsum("bhqk,bhkd->bqhd", weights, v)
    np.testing.assert_allclose(model(inputs)["y"], expected, rtol=2e-5, atol=2e-6)
