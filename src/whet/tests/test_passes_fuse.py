"""Fusion of decomposed normalisations and activations, and merging of products."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from whet.graph.match import Miss
from whet.passes import fuse_hardswish as hardswish
from whet.passes import fuse_layernorm as layernorm
from whet.passes import fuse_matmul_add as gemm
from whet.passes import fuse_rmsnorm as rmsnorm
from whet.passes import merge_matmuls as merge
from whet.passes.fuse_gelu import fuse_gelu
from whet.passes.fuse_silu import fuse_silu
from whet.tests.passkit import Array, assert_left_alone, assert_rewrites, build, random


def number(value: float) -> Array:
    return np.array(value, np.float32)


def last(model: ir.Model, op_type: str) -> ir.Node:
    return [n for n in model.graph if n.op_type == op_type][-1]


ROW = {"gamma": random(8, seed=2), "beta": random(8, seed=3), "eps": number(1e-5)}
HEAD = "float[2,8] x, float[8] gamma, float[8] beta, float eps, float two, float one"
CENTRED = "ax = Constant<value_ints=[-1]>() mean = ReduceMean(x, ax) d = Sub(x, mean)"


@pytest.mark.parametrize("square", ["Pow(d, two)", "Mul(d, d)"])
@pytest.mark.parametrize(
    "quotient",
    ["n = Div(d, std)", "r = Reciprocal(std) n = Mul(r, d)", "r = Div(one, std) n = Mul(d, r)"],
)
def test_fuse_layernorm(square: str, quotient: str) -> None:
    model = build(
        f"g ({HEAD}) => (float[2,8] y) {{ {CENTRED} sq = {square} var = ReduceMean(sq, ax) "
        f"ve = Add(var, eps) std = Sqrt(ve) {quotient} s = Mul(gamma, n) y = Add(s, beta) }}",
        two=number(2),
        one=number(1),
        **ROW,
    )
    line = "%y: f32[2,8] = LayerNormalization(%x, %gamma, %beta) {axis=-1, epsilon=1e-05}"
    assert_rewrites(layernorm.fuse_layernorm, model, line)


def test_fuse_layernorm_without_parameters() -> None:
    model = build(
        f"g ({HEAD}) => (float[2,8] y) {{ {CENTRED} sq = Mul(d, d) var = ReduceMean(sq, ax) "
        f"ve = Add(var, eps) std = Sqrt(ve) n = Div(d, std) y = Relu(n) }}",
        two=number(2),
        one=number(1),
        **ROW,
    )
    expected = """
        %n: f32[2,8] = LayerNormalization(%x, %Div_n_ones) {axis=-1, epsilon=1e-05}
        %y: f32[2,8] = Relu(%n)
    """
    assert_rewrites(layernorm.fuse_layernorm, model, expected)


@pytest.mark.parametrize(
    ("axes", "other", "why"),
    [
        ("[0]", "", "ReduceMean_mean reduces axes (0,), need the last one"),
        ("[-1]", "z = Relu(d)", "d is also read by Relu_z"),
    ],
)
def test_fuse_layernorm_misses(axes: str, other: str, why: str) -> None:
    outputs = "float[2,8] y, float[2,8] z" if other else "float[2,8] y"
    centred = CENTRED.replace("[-1]", axes)
    model = build(
        f"g ({HEAD}) => ({outputs}) {{ {centred} {other} sq = Mul(d, d) var = ReduceMean(sq, ax) "
        f"ve = Add(var, eps) std = Sqrt(ve) y = Div(d, std) }}",
        two=number(2),
        one=number(1),
        **ROW,
    )
    assert_left_alone(layernorm.fuse_layernorm, model)
    assert layernorm.fusable(last(model, "Div")) == Miss(why)


@pytest.mark.parametrize(
    "quotient",
    ["n = Div(x, std)", "r = Reciprocal(std) n = Mul(x, r)", "r = Div(one, std) n = Mul(r, x)"],
)
def test_fuse_rmsnorm(quotient: str) -> None:
    model = build(
        f"g ({HEAD}) => (float[2,8] y) {{ ax = Constant<value_ints=[1]>() sq = Pow(x, two) "
        f"var = ReduceMean(sq, ax) ve = Add(var, eps) std = Sqrt(ve) {quotient} "
        f"y = Mul(gamma, n) }}",
        two=number(2),
        one=number(1),
        **ROW,
    )
    line = "%y: f32[2,8] = RMSNormalization(%x, %gamma) {axis=-1, epsilon=1e-05}"
    assert_rewrites(rmsnorm.fuse_rmsnorm, model, line)


def test_fuse_rmsnorm_misses_another_power() -> None:
    model = build(
        f"g ({HEAD}) => (float[2,8] y) {{ ax = Constant<value_ints=[1]>() sq = Pow(x, two) "
        f"var = ReduceMean(sq, ax) ve = Add(var, eps) std = Sqrt(ve) n = Div(x, std) "
        f"y = Mul(gamma, n) }}",
        two=number(4),
        one=number(1),
        **ROW,
    )
    assert_left_alone(rmsnorm.fuse_rmsnorm, model)
    found = rmsnorm.fusable(last(model, "Div"))
    assert isinstance(found, Miss)


GELU = "float[2,8] x, float half, float root, float inv, float one, float two"
GELU_NUMBERS = {
    "half": number(0.5),
    "root": number(2**0.5),
    "inv": number(0.5**0.5),
    "one": number(1),
    "two": number(2),
}


@pytest.mark.parametrize("inside", ["Div(x, root)", "Mul(x, inv)"])
@pytest.mark.parametrize(
    "product",
    [
        "p = Mul(x, a) y = Mul(p, half)",
        "p = Mul(a, half) y = Mul(x, p)",
        "p = Mul(half, x) y = Mul(p, a)",
        "p = Mul(x, a) y = Div(p, two)",
    ],
)
def test_fuse_exact_gelu(inside: str, product: str) -> None:
    model = build(
        f"g ({GELU}) => (float[2,8] y) {{ u = {inside} e = Erf(u) a = Add(e, one) {product} }}",
        **GELU_NUMBERS,
    )
    assert_rewrites(fuse_gelu, model, "%y: f32[2,8] = Gelu(%x)")


@pytest.mark.parametrize(
    "polynomial",
    [
        "x3 = Pow(x, three) k = Mul(c, x3) q = Add(x, k)",
        "xx = Mul(x, x) x3 = Mul(x, xx) k = Mul(x3, c) q = Add(x, k)",
        "xx = Mul(x, x) k = Mul(c, xx) o = Add(one, k) q = Mul(x, o)",
    ],
)
def test_fuse_approximate_gelu(polynomial: str) -> None:
    model = build(
        "g (float[2,8] x, float half, float r, float c, float one, float three) => (float[2,8] y) "
        f"{{ {polynomial} u = Mul(r, q) e = Tanh(u) a = Add(e, one) p = Mul(x, a) "
        "y = Mul(p, half) }",
        half=number(0.5),
        r=number((2 / np.pi) ** 0.5),
        c=number(0.044715),
        one=number(1),
        three=number(3),
    )
    assert_rewrites(fuse_gelu, model, "%y: f32[2,8] = Gelu(%x) {approximate=tanh}")


def test_fuse_gelu_misses_another_divisor() -> None:
    model = build(
        f"g ({GELU}) => (float[2,8] y) {{ u = Div(x, two) e = Erf(u) a = Add(e, one) "
        "p = Mul(x, a) y = Mul(p, half) }",
        **GELU_NUMBERS,
    )
    assert_left_alone(fuse_gelu, model)


def test_fuse_silu() -> None:
    model = build("g (float[8] x) => (float[8] y) { s = Sigmoid(x) y = Mul(s, x) }")
    assert_rewrites(fuse_silu, model, "%y: f32[8] = Swish(%x) {alpha=1}")


def test_fuse_quick_gelu() -> None:
    model = build(
        "g (float[8] x, float a) => (float[8] y) { t = Mul(x, a) s = Sigmoid(t) y = Mul(x, s) }",
        a=number(1.702),
    )
    assert_rewrites(fuse_silu, model, "%y: f32[8] = Swish(%x) {alpha=1.702}")


def test_fuse_silu_misses_another_gate() -> None:
    model = build("g (float[8] x, float[8] z) => (float[8] y) { s = Sigmoid(z) y = Mul(s, x) }")
    assert_left_alone(fuse_silu, model)


HARD = {"three": number(3), "zero": number(0), "six": number(6), "sixth": number(1 / 6)}
HARD_HEAD = "float[8] x, float three, float zero, float six, float sixth"
CLIP = "a = Add(x, three) c = Clip(a, zero, six)"


@pytest.mark.parametrize(
    "product",
    [
        "d = Div(c, six) y = Mul(x, d)",
        "p = Mul(x, c) y = Div(p, six)",
        "p = Mul(c, x) y = Mul(p, sixth)",
    ],
)
def test_fuse_hardswish(product: str) -> None:
    model = build(f"g ({HARD_HEAD}) => (float[8] y) {{ {CLIP} {product} }}", **HARD)
    assert_rewrites(hardswish.fuse_hardswish, model, "%y: f32[8] = HardSwish(%x)")


def test_fuse_hardsigmoid() -> None:
    model = build(f"g ({HARD_HEAD}) => (float[8] y) {{ {CLIP} y = Div(c, six) }}", **HARD)
    line = "%y: f32[8] = HardSigmoid(%x) {alpha=0.166667, beta=0.5}"
    assert_rewrites(hardswish.fuse_hardswish, model, line)


def test_fuse_hardswish_of_hardsigmoid() -> None:
    model = build(
        "g (float[8] x) => (float[8] y) "
        "{ s = HardSigmoid<alpha=0.16666667, beta=0.5>(x) y = Mul(s, x) }"
    )
    assert_rewrites(hardswish.fuse_hardswish, model, "%y: f32[8] = HardSwish(%x)")


def test_fuse_hardswish_misses_the_default_slope() -> None:
    model = build("g (float[8] x) => (float[8] y) { s = HardSigmoid(x) y = Mul(s, x) }")
    assert_left_alone(hardswish.fuse_hardswish, model)
    found = hardswish.gated(last(model, "Mul"))
    assert found == Miss("HardSigmoid has alpha 0.2 and beta 0.5, need 1/6 and 1/2")


def test_merge_matmuls_with_bias() -> None:
    weights = {name: random(8, 4, seed=i) for i, name in enumerate("qkv")}
    biases = {f"b{name}": random(4, seed=i) for i, name in enumerate("qkv")}
    model = build(
        "g (float[1,5,8] x, float[8,4] q, float[8,4] k, float[8,4] v, float[4] bq, float[4] bk, "
        "float[4] bv) => (float[1,5,4] yq, float[1,5,4] yk, float[1,5,4] yv) "
        "{ a = MatMul(x, q) yq = Add(a, bq) b = MatMul(x, k) yk = Add(bk, b) c = MatMul(x, v) "
        "yv = Add(c, bv) }",
        **weights,
        **biases,
    )
    expected = """
        %MatMul_a_wide: f32[1,5,12] = MatMul(%x, %MatMul_a_weights)
        %MatMul_a_biased: f32[1,5,12] = Add(%MatMul_a_wide, %MatMul_a_bias)
        %yq: f32[1,5,4], %yk: f32[1,5,4], %yv: f32[1,5,4] = Split(%MatMul_a_biased, \
%MatMul_a_widths) {axis=-1}
    """
    assert_rewrites(merge.merge_matmuls, model, expected, rewrites=3)


def test_merge_gemms_of_unequal_width() -> None:
    model = build(
        "g (float[5,8] x, float[64,8] a, float[8,96] b) => (float[5,64] y, float[5,96] z) "
        "{ y = Gemm<transB=1>(x, a) z = Gemm(x, b) }",
        a=random(64, 8),
        b=random(8, 96),
    )
    expected = """
        %Gemm_y_wide: f32[5,160] = Gemm(%x, %Gemm_y_weights)
        %y: f32[5,64], %z: f32[5,96] = Split(%Gemm_y_wide, %Gemm_y_widths) {axis=-1}
    """
    assert_rewrites(merge.merge_matmuls, model, expected, rewrites=2)


def test_merge_matmuls_misses_narrow_ones() -> None:
    model = build(
        "g (float[5,8] x, float[8,4] a, float[8,96] b) => (float[5,4] y, float[5,96] z) "
        "{ y = MatMul(x, a) z = MatMul(x, b) }",
        a=random(8, 4),
        b=random(8, 96),
    )
    assert_left_alone(merge.merge_matmuls, model)


def test_merge_matmuls_misses_the_other_side() -> None:
    model = build(
        "g (float[8,8] x, float[8,8] a) => (float[8,8] y, float[8,8] z) "
        "{ y = MatMul(x, a) z = MatMul(a, x) }",
        a=random(8, 8),
    )
    assert_left_alone(merge.merge_matmuls, model)
    found = merge.as_product(last(model, "MatMul"), model.graph.inputs[0])
    assert found == Miss("the input is not the left factor")


def test_fuse_matmul_add() -> None:
    model = build(
        "g (float[5,8] x, float[8,4] w, float[4] b) => (float[5,4] y) "
        "{ a = MatMul(x, w) y = Add(b, a) }",
        w=random(8, 4),
        b=random(4),
    )
    assert_rewrites(gemm.fuse_matmul_add, model, "%y: f32[5,4] = Gemm(%x, %w, %b)")


def test_fuse_matmul_add_misses_rank_3() -> None:
    model = build(
        "g (float[2,5,8] x, float[8,4] w, float[4] b) => (float[2,5,4] y) "
        "{ a = MatMul(x, w) y = Add(a, b) }",
        w=random(8, 4),
        b=random(4),
    )
    assert_left_alone(gemm.fuse_matmul_add, model)
    assert gemm.fusable(last(model, "Add")) == Miss("the factors have ranks 3 and 2, need 2")
