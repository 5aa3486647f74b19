"""Constants that a sum takes one after another: one constant, and the same integers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.kernel.expr import Call, Read, walk
from whet.kernel.spec import Contraction
from whet.tests.kernel_runner import kernels_of

LARGE = 2**31 - 1


def model_of(
    nodes: list[onnx.NodeProto], constants: dict[str, np.ndarray], shape: tuple[int, ...]
) -> onnx.ModelProto:
    """Return a model of bytes ``x`` whose results are 32-bit integers."""
    outputs = [name for node in nodes for name in node.output if name.startswith("y")]
    graph = helper.make_graph(
        nodes,
        "terms",
        [helper.make_tensor_value_info("x", TensorProto.UINT8, shape)],
        [helper.make_tensor_value_info(name, TensorProto.INT32, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def terms_of(model: onnx.ModelProto) -> int:
    """Return how many constants the only product adds to its sums."""
    calls, _ = kernels_of(model)
    (kernel,) = [c.kernel for c in calls if isinstance(c.kernel, Contraction)]
    (store,) = kernel.stores
    signs = [e for e in walk(store.value) if isinstance(e, Call) and e.op in ("add", "sub")]
    return sum(isinstance(e.args[1], Read) for e in signs)


@pytest.mark.parametrize("columns", [1, 7, 33])
def test_zero_point_bias_and_more_become_one_constant(columns: int) -> None:
    rng = np.random.default_rng(columns)
    x = rng.integers(0, 256, (5, 12), np.uint8)
    w = rng.integers(-128, 128, (12, columns), np.int8)
    bias, less = rng.integers(-LARGE, LARGE, (2, columns)).astype(np.int32)
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w", "zero"], ["sum"]),
        helper.make_node("Add", ["sum", "bias"], ["more"]),
        helper.make_node("Sub", ["more", "less"], ["y"]),
    ]
    constants = {"w": w, "zero": np.uint8(77), "bias": bias, "less": less}
    model = model_of(nodes, {k: np.asarray(v) for k, v in constants.items()}, x.shape)
    total = (x.astype(np.int64) - 77) @ w.astype(np.int64) + bias - less.astype(np.int64)
    assert np.array_equal(whet.compile(model)({"x": x})["y"], total.astype(np.int32))
    if columns > 1:
        assert terms_of(model) == 1


def test_a_convolution_takes_one_constant_a_channel() -> None:
    rng = np.random.default_rng(3)
    x, w = rng.integers(0, 256, (1, 6, 5, 4), np.uint8), rng.integers(-9, 9, (10, 6, 1, 1), np.int8)
    bias = rng.integers(-1000, 1000, (1, 10, 1, 1)).astype(np.int32)
    nodes = [
        helper.make_node("ConvInteger", ["x", "w", "zero"], ["sum"]),
        helper.make_node("Add", ["sum", "bias"], ["y"]),
    ]
    model = model_of(nodes, {"w": w, "zero": np.asarray(np.uint8(9)), "bias": bias}, x.shape)
    total = np.einsum("ncij,mc->nmij", x.astype(np.int64) - 9, w[:, :, 0, 0].astype(np.int64))
    assert np.array_equal(whet.compile(model)({"x": x})["y"], (total + bias).astype(np.int32))
    assert terms_of(model) == 1


def test_a_constant_that_another_node_reads_stays() -> None:
    rng = np.random.default_rng(4)
    x, w = rng.integers(0, 256, (3, 8), np.uint8), rng.integers(-9, 9, (8, 6), np.int8)
    bias, less = rng.integers(-99, 99, (2, 6)).astype(np.int32)
    nodes = [
        helper.make_node("MatMulInteger", ["x", "w"], ["sum"]),
        helper.make_node("Add", ["sum", "bias"], ["more"]),
        helper.make_node("Sub", ["more", "less"], ["y"]),
        helper.make_node("ReduceSum", ["sum"], ["all"], keepdims=0),
        helper.make_node("Add", ["all", "bias"], ["y_other"]),
    ]
    model = model_of(nodes, {"w": w, "bias": bias, "less": less}, x.shape)
    total = x.astype(np.int64) @ w.astype(np.int64)
    found = whet.compile(model)({"x": x})
    assert np.array_equal(found["y"], (total + bias - less).astype(np.int32))
    assert np.array_equal(found["y_other"], (total.sum() + bias).astype(np.int32))
