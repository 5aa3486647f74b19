"""Text, diff, matching, editing, evaluation and structure checks of graphs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from whet.graph.edit import Names, bypass, constant, ints, scalar, static_shape
from whet.graph.evaluate import evaluate_node
from whet.graph.infer import LIKE_FIRST, infer_shapes
from whet.graph.match import Any, Const, Match, Miss, Number, OneOf, Op, match
from whet.graph.text import graph_text
from whet.graph.verify import find_fault
from whet.tests.passkit import build

ADDED = "g (float[N,2] x, float two) => (float[N,2] y) { a = Relu(x) y = Mul(a, two) }"


def added() -> ir.Model:
    return build(ADDED, two=np.array(2, np.float32))


def test_graph_text() -> None:
    model = build(
        "g (float[N,2] x, float[2] k, float[9] big) => (float[N,2] y) "
        "{ a = Add(x, k) b = LeakyRelu<alpha=0.25>(a) n = Constant<value_ints=[2]>() "
        "y, i = TopK<axis=1>(b, n) z = Neg(big) }",
        k=np.array([1, 0.5], np.float32),
        big=np.zeros(9, np.float32),
    )
    assert graph_text(model).splitlines() == [
        "input  %x: f32[N,2]",
        "const  %big: f32[9]",
        "const  %k: f32[2] = {1, 0.5}",
        "const  %n_const: i64[1] = {2}",
        "%a: f32[N,2] = Add(%x, %k)",
        "%b: f32[N,2] = LeakyRelu(%a) {alpha=0.25}",
        "%y: f32[N,2], %i: i64[N,2] = TopK(%b, %n_const) {axis=1}",
        "%z: f32[9] = Neg(%big)",
        "output %y: f32[N,2]",
    ]


def test_graph_text_of_subgraphs() -> None:
    model = build(
        "g (bool c, float[2] x) => (float[2] y) { y = If(c) < "
        "then_branch = t () => (float[2] u) { u = Neg(x) }, "
        "else_branch = e () => (float[2] v) { v = Relu(x) }> }"
    )
    assert "  then_branch:\n    %u: f32[2] = Neg(%x)\n" in graph_text(model)


def test_match_binds_names_in_any_order() -> None:
    model = added()
    pattern = Op("Mul", (Number(2.0), Op("Relu", (Any("x"),), "inner")), commutative=True)
    found = match(pattern, model.graph.outputs[0])
    assert isinstance(found, Match)
    assert found["x"] is model.graph.inputs[0]
    assert [n.op_type for n in found.nodes] == ["Relu", "Mul"]
    assert found.named["inner"].op_type == "Relu"


@pytest.mark.parametrize(
    ("pattern", "why"),
    [
        (Op("Add", (Any("a"), Any("b"))), "y comes from Mul, need Add"),
        (Op("Mul", (Any("a"), Number(3.0))), "two is 2, need 3"),
        (Op("Mul", (Const("a"), Any("b"))), "a is not a constant"),
        (Op("Mul", (Any("a"), Any("a"))), "a is both a and two"),
        (Op("Mul", (Op("Neg|Abs", (Any("a"),)), Any("b"))), "a comes from Relu, need Neg or Abs"),
        (Op("Mul", (Any("a"), Any("b"), Any("c"))), "Mul_y has 2 inputs, need 3"),
        (OneOf((Number(1.0), Number(2.0))), "y is not a constant number"),
    ],
)
def test_a_miss_says_why(pattern: Op | OneOf, why: str) -> None:
    found = match(pattern, added().graph.outputs[0])
    assert found == Miss(why)
    assert not found


def test_a_match_needs_its_inner_values_for_itself() -> None:
    model = build(
        "g (float[2] x) => (float[2] y, float[2] z) { a = Relu(x) y = Neg(a) z = Abs(a) }"
    )
    found = match(Op("Neg", (Op("Relu", (Any("x"),)),)), model.graph.outputs[0])
    assert found == Miss("a is also read by Abs_z")


def test_reading_constants() -> None:
    model = build(
        "g (int64[2] x, int64[2] k, float f) => (int64[2] y) { y = Add(x, k) z = Neg(f) }",
        k=np.array([3, 4]),
        f=np.array(1.5, np.float32),
    )
    k, f = model.graph.initializers["k"], model.graph.initializers["f"]
    assert ints(k) == (3, 4)
    assert scalar(k) is None
    assert scalar(f) == 1.5
    assert ints(f) is None
    assert constant(model.graph.inputs[0]) is None
    assert static_shape(model.graph.inputs[0]) == (2,)


def test_names() -> None:
    names = Names(added())
    assert names.fresh("a") == "a_2"
    assert names.fresh("a") == "a_3"
    assert names.fresh("new") == "new"


def test_bypass_keeps_the_names_of_outputs() -> None:
    model = build("g (float[2] x) => (float[2] y, float[2] z) { y = Relu(x) z = Identity(y) }")
    node = model.graph[1]
    assert not bypass(node, node.outputs[0], model.graph[0].outputs[0])
    assert [v.name for v in model.graph.outputs] == ["y", "z"]


def test_evaluate_node() -> None:
    model = build("g (float[2] x) => (float[3] y) { y = Concat<axis=0>(x, x) }".replace("3", "4"))
    result = evaluate_node(model.graph[0], [np.ones(2, np.float32)] * 2)
    assert isinstance(result, list)
    np.testing.assert_array_equal(result[0], np.ones(4, np.float32))


def test_evaluate_node_with_an_optional_input() -> None:
    model = build(
        "g (float[4] x, float h) => (float[4] y) { y = Clip(x, , h) }",
    )
    arrays = [np.arange(4, dtype=np.float32), None, np.array(1.5, np.float32)]
    result = evaluate_node(model.graph[0], arrays)
    assert isinstance(result, list)
    np.testing.assert_array_equal(result[0], [0, 1, 1.5, 1.5])


def test_evaluate_node_refuses_impossible_inputs() -> None:
    model = build("g (float[2,3] x, int64[1] s) => (float[6] y) { y = Reshape(x, s) }")
    result = evaluate_node(model.graph[0], [np.ones((2, 3), np.float32), np.array([5])])
    assert isinstance(result, Miss)


def test_find_fault() -> None:
    model = added()
    assert find_fault(model, typed=True) is None
    model.graph[1].outputs[0].name = "a"
    assert find_fault(model) == ("the name 'a' is given to two values", "node 'Mul_y' (Mul)")


def test_infer_shapes_keeps_symbols_and_counts() -> None:
    model = added()
    model.graph[0].outputs[0].shape = None
    assert infer_shapes(model) == 1
    assert infer_shapes(model) == 0
    assert str(model.graph[0].outputs[0].shape) == "[N,2]"


def test_infer_shapes_goes_on_behind_what_onnx_does_not_infer() -> None:
    model = build(
        "g (float[N,4,H,W] x, float[4] s, bool c) => (float[N,4,H,W] y) { "
        "a = GroupNormalization<num_groups=2>(x, s, s) b = Relu(a) "
        "y = If(c) <then_branch = t () => (float[N,4,H,W] p) "
        "{ q = GroupNormalization<num_groups=4>(b, s, s) p = Neg(q) }, "
        "else_branch = e () => (float[N,4,H,W] r) { r = Identity(b) }> }"
    )
    infer_shapes(model)
    assert str(model.graph[1].outputs[0].shape) == "[N,4,H,W]"
    (inner, _) = model.graph[2].attributes["then_branch"].as_graph()
    assert str(inner.outputs[0].shape) == "[N,4,H,W]"


def test_every_operator_is_inferred() -> None:
    unknown = {
        schema.name
        for schema in onnx.defs.get_all_schemas()
        if not (schema.domain or schema.deprecated)
        and not (schema.has_type_and_shape_inference_function or schema.has_function)  # type: ignore[attr-defined]
    }
    assert unknown == LIKE_FIRST
