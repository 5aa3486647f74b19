"""Functions of the model: nested, with attributes, overloads, names that meet, and recursion."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import whet
from whet.errors import ModelError
from whet.tests.contrib_harness import Array, by_whet, normal

OPSETS = [
    helper.make_opsetid("", 21),
    helper.make_opsetid("own", 1),
    helper.make_opsetid("com.microsoft", 1),
]
X = normal(3, 4)


def node(op: str, inputs: list[str], outputs: list[str], **more: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs, outputs, **more)


def referring(op: str, inputs: list[str], outputs: list[str], **names: str) -> onnx.NodeProto:
    """Return a node whose float attributes are those of the function that it is in."""
    made = helper.make_node(op, inputs, outputs)
    for own, outer in names.items():
        kind = onnx.AttributeProto.FLOAT
        made.attribute.append(onnx.AttributeProto(name=own, ref_attr_name=outer, type=kind))
    return made


def function(
    name: str, nodes: list[onnx.NodeProto], inputs: list[str], outputs: list[str], **more: Any
) -> onnx.FunctionProto:
    return helper.make_function("own", name, inputs, outputs, nodes, OPSETS, **more)


def model(nodes: list[onnx.NodeProto], functions: list[onnx.FunctionProto]) -> onnx.ModelProto:
    info = helper.make_tensor_value_info
    x, y = info("x", TensorProto.FLOAT, [3, 4]), info("y", TensorProto.FLOAT, [3, 4])
    graph = helper.make_graph(nodes, "main", [x], [y])
    return helper.make_model(graph, opset_imports=OPSETS, functions=functions, ir_version=10)


def run(nodes: list[onnx.NodeProto], functions: list[onnx.FunctionProto]) -> Array:
    (found,) = by_whet(model(nodes, functions), {"x": X})
    return found


DOUBLE = function("Double", [node("Add", ["a", "a"], ["b"])], ["a"], ["b"])


def test_functions_call_functions() -> None:
    inner = [node("Double", ["a"], ["t"], domain="own"), node("Double", ["t"], ["b"], domain="own")]
    quadruple = function("Quadruple", inner, ["a"], ["b"])
    calls = [
        node("Quadruple", ["x"], ["t"], domain="own"),
        node("Double", ["t"], ["y"], domain="own"),
    ]
    np.testing.assert_array_equal(run(calls, [quadruple, DOUBLE]), 8 * X)


def test_attributes_are_handed_down() -> None:
    leaky = function(
        "Leaky", [referring("LeakyRelu", ["a"], ["b"], alpha="slope")], ["a"], ["b"],
        attributes=["slope"],
    )  # fmt: skip
    call = referring("Leaky", ["a"], ["b"], slope="outer")
    call.domain = "own"
    outer = function("Outer", [call], ["a"], ["b"], attributes=["outer"])
    found = run([node("Outer", ["x"], ["y"], domain="own", outer=0.25)], [outer, leaky])
    np.testing.assert_allclose(found, np.where(X > 0, X, 0.25 * X), rtol=1e-6)


def test_attributes_have_defaults() -> None:
    leaky = function(
        "Leaky",
        [referring("LeakyRelu", ["a"], ["b"], alpha="slope")],
        ["a"],
        ["b"],
        attribute_protos=[helper.make_attribute("slope", 0.5)],
    )
    usual = run([node("Leaky", ["x"], ["y"], domain="own")], [leaky])
    np.testing.assert_allclose(usual, np.where(X > 0, X, 0.5 * X), rtol=1e-6)
    given = run([node("Leaky", ["x"], ["y"], domain="own", slope=0.125)], [leaky])
    np.testing.assert_allclose(given, np.where(X > 0, X, 0.125 * X), rtol=1e-6)


def test_overloads_are_told_apart() -> None:
    negate = function("Change", [node("Neg", ["a"], ["b"])], ["a"], ["b"])
    double = function("Change", [node("Add", ["a", "a"], ["b"])], ["a"], ["b"])
    negate.overload, double.overload = "negate", "double"
    first = node("Change", ["x"], ["t"], domain="own", overload="double")
    second = node("Change", ["t"], ["y"], domain="own", overload="negate")
    np.testing.assert_array_equal(run([first, second], [negate, double]), -2 * X)


def test_names_inside_do_not_meet_those_outside() -> None:
    body = [node("Neg", ["y"], ["x"]), node("Add", ["x", "x"], ["t"])]
    same = function("Same", body, ["y"], ["t"])
    calls = [
        node("Relu", ["x"], ["t"]),
        node("Same", ["t"], ["t2"], domain="own"),
        node("Same", ["x"], ["u"], domain="own"),
        node("Add", ["t2", "u"], ["y"]),
    ]
    np.testing.assert_allclose(run(calls, [same]), -2 * np.maximum(X, 0) - 2 * X, rtol=1e-6)


def test_a_function_may_have_the_name_of_a_standard_operator() -> None:
    relu = function("Relu", [node("Neg", ["a"], ["b"])], ["a"], ["b"])
    calls = [node("Relu", ["x"], ["t"], domain="own"), node("Relu", ["t"], ["y"])]
    np.testing.assert_array_equal(run(calls, [relu]), np.maximum(-X, 0))


def test_inputs_and_outputs_may_be_left_out() -> None:
    body = [node("Clip", ["a", "low", "high"], ["b"]), node("Neg", ["a"], ["c"])]
    clip = function("Limit", body, ["a", "low", "high"], ["b", "c"])
    high = helper.make_node("Constant", [], ["h"], value_float=0.5)
    call = node("Limit", ["x", "", "h"], ["y"], domain="own")
    np.testing.assert_array_equal(run([high, call], [clip]), np.minimum(X, np.float32(0.5)))


def test_functions_of_another_opset_are_brought_up() -> None:
    old = helper.make_function(
        "own", "Top", ["a"], ["b"], [node("ReduceMax", ["a"], ["b"], axes=[1])],
        [helper.make_opsetid("", 13)],
    )  # fmt: skip
    calls = [node("Top", ["x"], ["t"], domain="own"), node("Add", ["x", "t"], ["y"])]
    np.testing.assert_array_equal(run(calls, [old]), X + X.max(1, keepdims=True))


def test_functions_may_hold_operators_that_are_translated() -> None:
    body = [node("QuickGelu", ["a"], ["b"], domain="com.microsoft", alpha=1.0)]
    silu = function("Silu", body, ["a"], ["b"])
    found = run([node("Silu", ["x"], ["y"], domain="own")], [silu])
    np.testing.assert_allclose(found, X / (1 + np.exp(-X)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("length", [1, 3])
def test_recursion_is_refused(length: int) -> None:
    functions = [
        function(f"F{k}", [node(f"F{(k + 1) % length}", ["a"], ["b"], domain="own")], ["a"], ["b"])
        for k in range(length)
    ]
    with pytest.raises(ModelError, match="calls itself"):
        whet.compile(model([node("F0", ["x"], ["y"], domain="own")], functions))


def test_two_functions_of_one_name_are_refused() -> None:
    with pytest.raises(ModelError, match="defined twice"):
        whet.compile(model([node("Double", ["x"], ["y"], domain="own")], [DOUBLE, DOUBLE]))
