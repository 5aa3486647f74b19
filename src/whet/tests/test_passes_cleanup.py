"""Constant folding, removal of copies and dead code, merging of movements, shape arithmetic."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from whet.graph.edit import ints
from whet.graph.match import Miss
from whet.passes import eliminate_identity as identity
from whet.passes import fold_constants as constants
from whet.passes import merge_reshapes as reshapes
from whet.passes.eliminate_common_subexpressions import eliminate_common_subexpressions
from whet.passes.eliminate_dead_code import eliminate_dead_code
from whet.passes.eliminate_shape_subgraphs import eliminate_shape_subgraphs
from whet.passes.merge_transposes import merge_transposes
from whet.tests.passkit import (
    Array,
    assert_left_alone,
    assert_rewrites,
    build,
    evaluate,
    feeds,
    nodes_text,
    random,
)


def made_by(model: ir.Model, op_type: str) -> ir.Node:
    return next(n for n in model.graph if n.op_type == op_type)


def test_fold_constants_keeps_outputs_as_copies() -> None:
    model = build(
        "g (float[2,3] x, float[3] a) => (float[2,3] y, int64[1] s, float[3] t) "
        "{ b = Add(a, a) c = ReduceSum<keepdims=0>(b) y = Mul(x, c) s = Shape<end=1>(x) "
        "t = Neg(b) }",
        a=np.array([1, 2, 3], np.float32),
    )
    expected = """
        %y: f32[2,3] = Mul(%x, %c_folded)
        %s: i64[1] = Identity(%s_folded)
        %t: f32[3] = Identity(%t_folded)
    """
    assert_rewrites(constants.fold_constants, model, expected, rewrites=4)


def test_fold_constants_does_not_blow_up() -> None:
    model = build(
        "g (float[1] x, int64[2] s) => (float[4096,4096] y) { z = ConstantOfShape(s) "
        "y = Add(x, z) }",
        s=np.array([4096, 4096]),
    )
    assert_left_alone(constants.fold_constants, model)
    found = constants.fold_node(made_by(model, "ConstantOfShape"))
    assert isinstance(found, Miss)
    assert found.why.startswith("folding ConstantOfShape would make 67108864 bytes, more than")


def test_fold_constants_leaves_random_and_quantised() -> None:
    model = build(
        "g (int8[4] q, float s, float[4] x) => (float[4] y, float[4] z) "
        "{ y = RandomUniformLike(x) z = DequantizeLinear(q, s) }",
        q=np.arange(4, dtype=np.int8),
        s=np.array(0.5, np.float32),
        x=random(4),
    )
    assert_left_alone(constants.fold_constants, model)


def test_fold_gather_elements_of_one_row() -> None:
    model = build(
        "g (float[1,8] a, int64[1,3] i, float[1,3] x) => (float[1,3] y) "
        "{ b = GatherElements<axis=1>(a, i) y = Add(x, b) }",
        a=np.arange(8, dtype=np.float32)[None],
        i=np.array([[5, 0, 7]]),
    )
    assert constants.fold_constants(model) == 1
    zero = {"x": np.zeros((1, 3), np.float32)}
    np.testing.assert_array_equal(evaluate(model, zero)[0], [[5, 0, 7]])


@pytest.mark.parametrize(
    ("operation", "constant"),
    [
        ("Identity(x)", None),
        ("Dropout(x)", None),
        ("Concat<axis=0>(x)", None),
        ("Cast<to=1>(x)", None),
        ("Reshape(x, k)", np.array([2, 3])),
        ("Transpose<perm=[0,1]>(x)", None),
        ("Pad(x, k)", np.zeros(4, np.int64)),
        ("Slice(x, k, e)", np.array([0, 0])),
        ("Expand(x, k)", np.array([1, 3])),
        ("Tile(x, k)", np.array([1, 1])),
        ("Clip(x)", None),
        ("Mul(x, k)", np.ones((2, 3), np.float32)),
        ("Mul(k, x)", np.array(1, np.float32)),
        ("Div(x, k)", np.ones(1, np.float32)),
        ("Sub(x, k)", np.zeros(3, np.float32)),
        ("Add(x, k)", np.array(-0.0, np.float32)),
        ("Pow(x, k)", np.array(1, np.float32)),
    ],
)
def test_eliminate_identity(operation: str, constant: Array | None) -> None:
    given = {} if constant is None else {"k": constant}
    model = build(
        f"g (float[2,3] x, float k, int64[2] e) => (float[2,3] y) {{ a = {operation} "
        "y = Relu(a) }",
        e=np.array([2**62, 2**62]),
        **given,
    )
    model.graph.inputs[:] = [model.graph.inputs[0]] if given else model.graph.inputs[:]
    assert_rewrites(identity.eliminate_identity, model, "%y: f32[2,3] = Relu(%x)")


@pytest.mark.parametrize(
    ("operation", "constant", "why"),
    [
        ("Add(x, k)", np.array(0.0, np.float32), "adding +0.0 turns -0.0 into 0.0"),
        ("Mul(x, k)", np.array(2, np.float32), "the constant is not neutral"),
        ("Div(k, x)", np.array(1, np.float32), "no neutral constant"),
        ("Mul(x, k)", np.ones((4, 2, 3), np.float32), "the constant broadcasts the input"),
        ("Transpose(x)", np.array(0), "the axes are reversed"),
        ("Slice(x, k, e, k, s)", np.array([0]), "a step is not 1"),
        ("Cast<to=10>(x)", np.array(0), "the element type changes"),
        ("Pad(x, k)", np.array([0, 0, 1, 0]), "something is padded"),
        ("Relu(x)", np.array(0), "Relu computes something"),
    ],
)
def test_eliminate_identity_misses(operation: str, constant: Array, why: str) -> None:
    model = build(
        f"g (float[2,3] x, float k, int64[1] e, int64[1] s) => (float y) "
        f"{{ a = {operation} b = ReduceSum<keepdims=0>(a) y = CastLike(b, x) }}",
        k=constant,
        e=np.array([2**62]),
        s=np.array([2]),
    )
    assert_left_alone(identity.eliminate_identity, model)
    assert identity.same_as(model.graph[0]) == Miss(why)


def test_identity_between_input_and_output_stays() -> None:
    model = build("g (float[2] x) => (float[2] y) { y = Identity(x) }")
    assert_left_alone(identity.eliminate_identity, model)


def test_identity_in_front_of_an_output_gives_its_name_away() -> None:
    model = build("g (float[2] x) => (float[2] y) { a = Relu(x) y = Identity(a) }")
    assert_rewrites(identity.eliminate_identity, model, "%y: f32[2] = Relu(%x)")


def test_eliminate_dead_code() -> None:
    model = build(
        "g (float[2] x, float[2] w) => (float[2] y) { y = Relu(x) a = Add(x, w) b = Neg(a) }",
        w=random(2),
    )
    assert_rewrites(eliminate_dead_code, model, "%y: f32[2] = Relu(%x)", rewrites=3)
    assert not model.graph.initializers


def test_eliminate_common_subexpressions() -> None:
    model = build(
        "g (float[4] x, float[4] a, float[4] b) => (float[4] y) "
        "{ p = Add(x, a) q = Add(x, b) y = Mul(p, q) }",
        a=random(4),
        b=random(4),
    )
    expected = """
        %p: f32[4] = Add(%x, %a)
        %y: f32[4] = Mul(%p, %p)
    """
    assert_rewrites(eliminate_common_subexpressions, model, expected, rewrites=2)


def test_random_nodes_are_not_common() -> None:
    model = build(
        "g (float[4] x) => (float[4] y) "
        "{ p = RandomNormalLike(x) q = RandomNormalLike(x) y = Mul(p, q) }"
    )
    assert_left_alone(eliminate_common_subexpressions, model)


def test_merge_transposes() -> None:
    model = build(
        "g (float[2,3,4] x) => (float[4,2,3] y, float[2,3,4] z) "
        "{ a = Transpose<perm=[1,0,2]>(x) b = Transpose<perm=[2,1,0]>(a) y = Relu(b) "
        "c = Transpose<perm=[1,0,2]>(a) z = Relu(c) }"
    )
    expected = """
        %a: f32[3,2,4] = Transpose(%x) {perm=[1,0,2]}
        %b: f32[4,2,3] = Transpose(%x) {perm=[2,0,1]}
        %y: f32[4,2,3] = Relu(%b)
        %z: f32[2,3,4] = Relu(%x)
    """
    assert_rewrites(merge_transposes, model, expected, rewrites=2)


def test_merge_transposes_misses_a_reshape_between() -> None:
    model = build(
        "g (float[2,3] x, int64[2] s) => (float[2,3] y) "
        "{ a = Transpose<perm=[1,0]>(x) b = Reshape(a, s) y = Transpose<perm=[1,0]>(b) }",
        s=np.array([3, 2]),
    )
    assert_left_alone(merge_transposes, model)


def test_merge_reshapes() -> None:
    model = build(
        "g (float[N,3,4] x, int64[2] s) => (float[1,M,4] y) "
        "{ a = Reshape(x, s) ax = Constant<value_ints=[0]>() y = Unsqueeze(a, ax) }",
        s=np.array([-1, 4]),
    )
    assert reshapes.merge_reshapes(model) == 1
    assert nodes_text(model).splitlines()[-1].endswith("= Reshape(%x, %Unsqueeze_y_target)")
    inputs = feeds(model)
    assert evaluate(model, inputs)[0].shape == (1, 6, 4)
    assert reshapes.merge_reshapes(model) == 0


def test_merge_reshapes_misses_two_unknown_dims() -> None:
    model = build(
        "g (float[N,M,4] x) => (float[N,1,M,1,4] y) "
        "{ a1 = Constant<value_ints=[1]>() a = Unsqueeze(x, a1) a2 = Constant<value_ints=[3]>() "
        "y = Unsqueeze(a, a2) }"
    )
    assert_left_alone(reshapes.merge_reshapes, model)
    assert reshapes.merged_target(model.graph[-1]) == Miss("2 dims are unknown")


def test_eliminate_shape_subgraphs_keeps_what_is_symbolic() -> None:
    model = build(
        "g (float[N,4,6] x) => (float[N,24] y, float[N,4,2,3] z) "
        "{ s = Shape(x) i = Constant<value_ints=[0]>() n = Gather(s, i) "
        "w = Constant<value_ints=[24]>() t = Concat<axis=0>(n, w) y = Reshape(x, t) "
        "j = Constant<value_int=1>() c = Gather(s, j) cu = Unsqueeze(c, i) "
        "r = Constant<value_ints=[2,3]>() u = Concat<axis=0>(n, cu, r) z = Reshape(x, u) }"
    )
    inputs = feeds(model)
    before = evaluate(model, inputs)
    assert eliminate_shape_subgraphs(model) == 4
    eliminate_dead_code(model)
    assert nodes_text(model).splitlines() == [
        "%y: f32[N,24] = Reshape(%x, %Reshape_y_target)",
        "%z: f32[N,4,2,3] = Reshape(%x, %Reshape_z_target)",
    ]
    assert ints(model.graph.initializers["Reshape_y_target"]) == (0, 24)
    for old, new in zip(before, evaluate(model, inputs), strict=True):
        np.testing.assert_array_equal(old, new)
    assert eliminate_shape_subgraphs(model) == 0


def test_eliminate_shape_subgraphs_misses_two_unknown_dims() -> None:
    model = build(
        "g (float[N,M] x, float[4] k) => (float[M,N] y) "
        "{ s = Shape(x) i = Constant<value_ints=[1,0]>() t = Gather(s, i) y = Reshape(x, t) }"
    )
    assert_left_alone(eliminate_shape_subgraphs, model)
