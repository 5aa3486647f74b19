"""Shape arithmetic of dynamic models stays known while compiling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx

from whet.index import Dim, Poly, as_poly, var
from whet.kernel.interpret import evaluate_tensor
from whet.kernel.tensor import Tensor
from whet.ops.node import constant
from whet.tests.ops_harness import lower_node

N, S = var(Dim("N")), var(Dim("S"))


class Chain:
    """Lowers nodes one after the other."""

    def __init__(self, **shapes: Sequence[Poly | int]) -> None:
        self.tensors = {
            name: Tensor(name, tuple(as_poly(e) for e in shape), "float32")
            for name, shape in shapes.items()
        }

    def const(self, name: str, value: Any, dtype: str = "int64") -> None:
        """Add a constant."""
        self.tensors[name] = constant(name, np.array(value, dtype))

    def add(self, op: str, inputs: str, output: str, **attributes: Any) -> Tensor:
        """Lower a node whose inputs are named, and return its output."""
        node = onnx.helper.make_node(op, inputs.split(), [output], **attributes)
        (self.tensors[output],) = lower_node(node, self.tensors)
        return self.tensors[output]


def test_reshape_by_computed_shape() -> None:
    chain = Chain(x=(N, S, 8))
    shape = chain.add("Shape", "x", "shape")
    assert shape.known == (N, S, as_poly(8))
    chain.const("zero", 0)
    chain.const("front", [0])
    chain.add("Gather", "shape zero", "batch")
    chain.add("Unsqueeze", "batch front", "batch1")
    chain.const("tail", [-1, 2, 4])
    assert chain.add("Concat", "batch1 tail", "target", axis=0).known == (
        N,
        *map(as_poly, (-1, 2, 4)),
    )
    y = chain.add("Reshape", "x target", "y")
    assert y.shape == (N, S, as_poly(2), as_poly(4))
    x = np.arange(2 * 3 * 8, dtype=np.float32).reshape(2, 3, 8)
    np.testing.assert_array_equal(evaluate_tensor(y, {"x": x}), x.reshape(2, 3, 2, 4))


def test_known_values_are_data_too() -> None:
    chain = Chain(x=(N, S, 8))
    chain.add("Shape", "x", "shape")
    chain.const("two", [2, 1, 1])
    doubled = chain.add("Mul", "shape two", "doubled")
    assert doubled.known == (2 * N, S, as_poly(8))
    dims = {"N": 3, "S": 5}
    np.testing.assert_array_equal(evaluate_tensor(doubled, {}, dims), [6, 5, 8])


def test_expand_by_where_and_equal() -> None:
    chain = Chain(x=(1, 4), like=(N, 4))
    chain.add("Shape", "like", "wanted")
    chain.const("minus", [-1])
    chain.add("Equal", "wanted minus", "free")
    chain.const("ones", [1, 1])
    chain.add("Where", "free ones wanted", "target")
    assert chain.tensors["target"].known == (N, as_poly(4))
    assert chain.add("Expand", "x target", "y").shape == (N, as_poly(4))


def test_constant_parts_become_constants() -> None:
    chain = Chain(x=(N, 3, 14, 10))
    chain.add("Shape", "x", "shape")
    for name, value in (("two", [2]), ("four", [4]), ("zero", [0])):
        chain.const(name, value)
    space = chain.add("Slice", "shape two four", "space")
    assert space.value is not None
    chain.add("Cast", "space", "floats", to=onnx.TensorProto.FLOAT)
    chain.const("half", [0.5, 2.0], "float32")
    chain.add("Mul", "floats half", "scaled")
    chain.add("Floor", "scaled", "floored")
    sizes = chain.add("Cast", "floored", "sizes", to=onnx.TensorProto.INT64)
    assert sizes.value is not None
    np.testing.assert_array_equal(sizes.value, [7, 20])
    chain.add("Slice", "shape zero two", "front")
    chain.add("Concat", "front sizes", "all", axis=0)
    node = onnx.helper.make_node("Resize", ["x", "", "", "all"], ["y"], mode="nearest")
    (y,) = lower_node(node, chain.tensors)
    assert y.shape == (N, *map(as_poly, (3, 7, 20)))


def test_arithmetic() -> None:
    chain = Chain(x=(N, S))
    chain.add("Shape", "x", "shape")
    chain.add("ReduceProd", "shape", "total", keepdims=0)
    chain.const("two", 2)
    assert chain.add("Div", "total two", "half").known == ((N * S) // 2,)
    assert chain.add("Size", "x", "size").known == (N * S,)
    chain.const("one", 1)
    chain.add("Sub", "size one", "less")
    assert chain.add("Max", "less one", "unsure").known is None
    assert chain.add("Max", "size one", "sure").known == (N * S,)
    assert chain.add("Cast", "size", "real", to=onnx.TensorProto.FLOAT).known == (N * S,)


def test_range_over_a_dimension() -> None:
    chain = Chain(x=(N, S))
    chain.add("Shape", "x", "length", start=1)
    chain.const("axes", [0])
    chain.add("Squeeze", "length axes", "limit")
    chain.const("zero", 0)
    chain.const("two", 2)
    places = chain.add("Range", "zero limit two", "places")
    assert places.shape == ((S + 1) // 2,)
    found = evaluate_tensor(places, {}, {"S": 7})
    np.testing.assert_array_equal(found, [0, 2, 4, 6])


def test_data_is_not_known() -> None:
    chain = Chain(x=(2,))
    assert chain.add("Add", "x x", "y").known is None


def test_constant_of_shape() -> None:
    chain = Chain(x=(N, 3))
    chain.add("Shape", "x", "shape")
    filled = chain.add("ConstantOfShape", "shape", "filled")
    assert filled.shape == (N, as_poly(3))
    chain.const("three", [3])
    assert chain.add("ConstantOfShape", "three", "small").value is not None
