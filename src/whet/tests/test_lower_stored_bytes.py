"""Dequantised values lie in memory as bytes, with the results of floats."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import whet
from whet.kernel.expr import Call, Const, Var
from whet.lower.dequantised import dequantised
from whet.program.records import BufferKind

Array = np.ndarray[Any, np.dtype[Any]]
PLAIN = whet.Options(passes={"store_bytes": False})


def quantised_model(body: list[onnx.NodeProto], shape: list[int], result: str) -> onnx.ModelProto:
    """Return a convolution [4, 3, 1, 1] whose result ``q`` is rounded to bytes, ``d`` as floats."""
    rng = np.random.default_rng(0)
    constants: dict[str, Array] = {
        "s": np.asarray(0.04, np.float32), "z": np.asarray(117, np.uint8),
        "w": rng.integers(-128, 128, (4, 3, 1, 1)).astype(np.int8),
        "sw": np.asarray(0.01, np.float32), "g": np.ones(shape[-1], np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xf"]),
        helper.make_node("DequantizeLinear", ["w", "sw"], ["wf"]),
        helper.make_node("Conv", ["xf", "wf"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
        *body,
    ]
    graph = helper.make_graph(
        nodes, "bytes", [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(result, onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return onnx.shape_inference.infer_shapes(model)


BODIES = {
    "pool": [helper.make_node("GlobalAveragePool", ["d"], ["y"])],
    "norm": [
        helper.make_node("LayerNormalization", ["d", "g"], ["n"]),
        helper.make_node("Add", ["n", "d"], ["y"]),
    ],
    "window": [
        helper.make_node("AveragePool", ["d"], ["p"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("QuantizeLinear", ["p", "s", "z"], ["pq"]),
        helper.make_node("DequantizeLinear", ["pq", "s", "z"], ["pd"]),
        helper.make_node("ReduceMax", ["pd"], ["y"], keepdims=0),
    ],
}
"""What reads the floats: the end of a ResNet, a norm with a residual, pools in a row."""


def floats_between(compiled: Any) -> list[str]:
    kinds = [b for b in compiled.program.buffers if b.kind == BufferKind.TEMP]
    return [b.name for b in kinds if b.content is not None and b.content.dtype == "float32"]


@pytest.mark.parametrize("name", BODIES)
def test_no_floats_lie_in_between(name: str) -> None:
    model = quantised_model(BODIES[name], [1, 3, 6, 8], "y")
    compiled, plain = whet.compile(model), whet.compile(model, options=PLAIN)
    x = np.random.default_rng(1).standard_normal((1, 3, 6, 8)).astype(np.float32)
    right = plain({"x": x})["y"]
    np.testing.assert_allclose(compiled({"x": x})["y"], right, rtol=1e-5, atol=1e-5)
    assert floats_between(compiled) == []
    assert compiled.stats.arena_bytes < plain.stats.arena_bytes or name == "pool"


def test_roundings_in_a_row_are_one_expression() -> None:
    """SiLU of a sigmoid that is rounded too, as ONNX Runtime's quantiser writes it."""
    body = [
        helper.make_node("Sigmoid", ["d"], ["e"]),
        helper.make_node("QuantizeLinear", ["e", "sw"], ["eq"]),
        helper.make_node("DequantizeLinear", ["eq", "sw"], ["ed"]),
        helper.make_node("Mul", ["d", "ed"], ["m"]),
        helper.make_node("QuantizeLinear", ["m", "s", "z"], ["mq"]),
        helper.make_node("DequantizeLinear", ["mq", "s", "z"], ["md"]),
        helper.make_node("GlobalMaxPool", ["md"], ["y"]),
    ]
    model = quantised_model(body, [1, 3, 6, 8], "y")
    compiled = whet.compile(model)
    assert floats_between(compiled) == []
    assert len(compiled.stats.groups) <= 3
    x = np.random.default_rng(1).standard_normal((1, 3, 6, 8)).astype(np.float32)
    right = whet.compile(model, options=whet.Options(opt_level=0))({"x": x})["y"]
    assert np.abs(compiled({"x": x})["y"] - right).max() <= 0.0401  # a step


def test_what_a_product_reads_stays_floats() -> None:
    body = [helper.make_node("MatMul", ["d", "m"], ["y"])]
    model = quantised_model(body, [1, 3, 6, 8], "y")
    weight = np.random.default_rng(2).standard_normal((8, 5)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weight, "m"))
    assert floats_between(whet.compile(model))


def test_taking_floats_apart() -> None:
    byte = Call("cast", (Var("acc", "int32"),), "uint8")
    wide = Call("cast", (byte,), "float32")
    value = Call("mul", (wide, Const(0.5, "float32")), "float32")
    found = dequantised(value)
    assert found is not None and found.byte == byte and found.of(byte) == value
    assert dequantised(Call("add", (wide, wide), "float32")) is None
    assert dequantised(Var("acc", "float32")) is None
