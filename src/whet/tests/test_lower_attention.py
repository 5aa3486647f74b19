"""Every exporter's spelling of attention becomes one kernel."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.dtypes import numpy_dtype
from whet.tests.test_types_small import CODES

HEADS, LENGTH, WIDTH = 2, 21, 20
BOUNDS = {
    "float32": (2e-5, 2e-6),
    "float16": (2.0**-8, 2.0**-8),
    "bfloat16": (2.0**-5, 2.0**-5),
}
"""What may differ, relative and absolute: four roundings of 16-bit floats."""


def attention_model(
    dtype: str, *, mask: bool, nan_test: bool, scaled_operands: bool, wide: bool = False
) -> onnx.ModelProto:
    """Return softmax(q k' s + mask) v with transposed outputs, as exporters write it.

    Args:
        dtype: type of all tensors.
        mask: whether something is added to the scores.
        nan_test: whether what is no number becomes 0.
        scaled_operands: whether queries and keys are scaled rather than their products.
        wide: whether the softmax is float32 between casts.
    """
    shape = [1, HEADS, LENGTH, WIDTH]
    numbers = {"scale": WIDTH**-0.25, "whole": WIDTH**-0.5, "zero": 0}
    constants = [
        numpy_helper.from_array(np.array(value, numpy_dtype(dtype)), name)
        for name, value in numbers.items()
    ]
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
    scores = "s1" if mask else "s0"
    if wide:
        nodes += [helper.make_node("Cast", [scores], ["long"], to=TensorProto.FLOAT)]
        nodes += [helper.make_node("Softmax", ["long"], ["soft"], axis=-1)]
        nodes += [helper.make_node("Cast", ["soft"], ["p0"], to=CODES[dtype])]
    else:
        nodes += [helper.make_node("Softmax", [scores], ["p0"], axis=-1)]
    if nan_test:
        nodes += [helper.make_node("IsNaN", ["p0"], ["nan"])]
        nodes += [helper.make_node("Where", ["nan", "zero", "p0"], ["p1"])]
    nodes.append(helper.make_node("MatMul", ["p1" if nan_test else "p0", "v"], ["o"]))
    nodes.append(helper.make_node("Transpose", ["o"], ["y"], perm=[0, 2, 1, 3]))
    names = ["q", "k", "v", *(["mask"] if mask else [])]
    inputs = [
        helper.make_tensor_value_info(
            n, CODES[dtype], [1, 1, LENGTH, LENGTH] if n == "mask" else shape
        )
        for n in names
    ]
    output = helper.make_tensor_value_info("y", CODES[dtype], [1, LENGTH, HEADS, WIDTH])
    graph = helper.make_graph(nodes, "attention", inputs, [output], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("nan_test", [False, True])
@pytest.mark.parametrize("scaled_operands", [False, True])
def test_attention_is_one_kernel(
    dtype: str, mask: bool, nan_test: bool, scaled_operands: bool
) -> None:
    model = attention_model(dtype, mask=mask, nan_test=nan_test, scaled_operands=scaled_operands)
    check(model, dtype, mask=mask, nan_test=nan_test)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("nan_test", [False, True])
def test_a_softmax_between_casts_is_part_of_it(dtype: str, nan_test: bool) -> None:
    model = attention_model(dtype, mask=True, nan_test=nan_test, scaled_operands=True, wide=True)
    check(model, dtype, mask=True, nan_test=nan_test)


def check(proto: onnx.ModelProto, dtype: str, *, mask: bool, nan_test: bool) -> None:
    """Compile an attention, and compare it with one in float64."""
    model = whet.compile(proto, options=whet.Options(threads=1))
    kinds = [group.kernel.split("_")[0] for group in model.stats.groups]
    assert "attention" in kinds
    assert "contraction" not in kinds
    rng = np.random.default_rng(7)
    shape, kind = (1, HEADS, LENGTH, WIDTH), numpy_dtype(dtype)
    inputs = {name: rng.standard_normal(shape).astype(kind) for name in "qkv"}
    q, k, v = (inputs[name].astype(np.float64) for name in "qkv")
    scores = np.einsum("bhqd,bhkd->bhqk", q, k) * WIDTH**-0.5
    if mask:
        blocked = np.where(rng.random((1, 1, LENGTH, LENGTH)) < 0.3, -np.inf, 0)
        blocked[..., 5, :] = -np.inf if nan_test else 0
        inputs["mask"] = blocked.astype(kind)
        scores = scores + blocked
    with np.errstate(invalid="ignore"):
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = weights / weights.sum(-1, keepdims=True)
    if nan_test:
        weights = np.nan_to_num(weights)
    expected = np.einsum("bhqk,bhkd->bqhd", weights, v)
    found = model(inputs)["y"]
    assert found.dtype == kind
    relative, absolute = BOUNDS[dtype]
    np.testing.assert_allclose(found.astype(np.float64), expected, rtol=relative, atol=absolute)
