"""Folding of batch normalisation and per-channel arithmetic into linear operators, and of Pad."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from whet.graph.match import Miss
from whet.passes import fold_batchnorm as bn
from whet.passes import fold_pad as pad
from whet.passes import fold_scale as scale
from whet.tests.passkit import (
    RELATIVE_TOLERANCE,
    Array,
    assert_left_alone,
    assert_rewrites,
    build,
    feeds,
    nodes_text,
    peer,
    random,
)

STATISTICS = {
    "gamma": random(4, seed=2),
    "beta": random(4, seed=3),
    "mean": random(4, seed=4),
    "var": random(4, seed=5, low=0.1),
}
NORM = "float[4] gamma, float[4] beta, float[4] mean, float[4] var"
APPLY = "BatchNormalization(c, gamma, beta, mean, var)"


def node_of(model: ir.Model, op_type: str) -> ir.Node:
    return next(n for n in model.graph if n.op_type == op_type)


def test_fold_batchnorm_into_conv() -> None:
    model = build(
        f"g (float[1,3,6,6] x, float[4,3,3,3] w, float[4] b, {NORM}) => (float[1,4,4,4] y) "
        f"{{ c = Conv(x, w, b) y = {APPLY} }}",
        w=random(4, 3, 3, 3),
        b=random(4, seed=1),
        **STATISTICS,
    )
    assert_rewrites(
        bn.fold_batchnorm, model, "%y: f32[1,4,4,4] = Conv(%x, %w_scaled, %Conv_c_bias)"
    )


@pytest.mark.peer
def test_fold_batchnorm_into_grouped_transposed_conv() -> None:
    model = build(
        f"g (float[1,4,6,6] x, float[4,2,3,3] w, {NORM}) => (float[1,4,8,8] y) "
        f"{{ c = ConvTranspose<group=2>(x, w) y = {APPLY} }}",
        w=random(4, 2, 3, 3),
        **STATISTICS,
    )
    inputs = feeds(model)
    before = peer(model, inputs)  # the reference of onnx 1.23 cannot do groups here
    assert bn.fold_batchnorm(model) == 1
    line = "%y: f32[1,4,8,8] = ConvTranspose(%x, %w_scaled, %ConvTranspose_c_bias) {group=2}"
    assert nodes_text(model) == line
    np.testing.assert_allclose(peer(model, inputs), before, rtol=0, atol=RELATIVE_TOLERANCE)


def test_fold_batchnorm_into_transposed_conv() -> None:
    model = build(
        f"g (float[1,3,6,6] x, float[3,4,3,3] w, {NORM}) => (float[1,4,8,8] y) "
        f"{{ c = ConvTranspose(x, w) y = {APPLY} }}",
        w=random(3, 4, 3, 3),
        **STATISTICS,
    )
    line = "%y: f32[1,4,8,8] = ConvTranspose(%x, %w_scaled, %ConvTranspose_c_bias)"
    assert_rewrites(bn.fold_batchnorm, model, line)


def test_fold_batchnorm_into_gemm_takes_beta_in() -> None:
    model = build(
        f"g (float[5,3] x, float[4,3] w, float[4] b, {NORM}) => (float[5,4] y) "
        f"{{ c = Gemm<transB=1, beta=0.5>(x, w, b) y = {APPLY} }}",
        w=random(4, 3),
        b=random(4),
        **STATISTICS,
    )
    line = "%y: f32[5,4] = Gemm(%x, %w_scaled, %Gemm_c_bias) {transB=1}"
    assert_rewrites(bn.fold_batchnorm, model, line)


def test_fold_batchnorm_turns_matmul_into_gemm() -> None:
    model = build(
        f"g (float[5,3] x, float[3,4] w, {NORM}) => (float[5,4] y) "
        f"{{ c = MatMul(x, w) y = {APPLY} }}",
        w=random(3, 4),
        **STATISTICS,
    )
    assert_rewrites(bn.fold_batchnorm, model, "%y: f32[5,4] = Gemm(%x, %w_scaled, %MatMul_c_bias)")


def test_fold_batchnorm_keeps_the_sources() -> None:
    model = build(
        f"g (float[1,3,6,6] x, float[4,3,3,3] w, {NORM}) => (float[1,4,4,4] y) "
        f"{{ c = Conv(x, w) y = {APPLY} }}",
        w=random(4, 3, 3, 3),
        **STATISTICS,
    )
    bn.fold_batchnorm(model)
    sources = node_of(model, "Conv").metadata_props["whet.sources"]
    assert sources.split("\n") == ["Conv_c", "BatchNormalization_y"]


def test_fold_batchnorm_misses_a_shared_convolution() -> None:
    model = build(
        f"g (float[1,3,6,6] x, float[4,3,3,3] w, {NORM}) => (float[1,4,4,4] y, float[1,4,4,4] z) "
        f"{{ c = Conv(x, w) y = {APPLY} z = Relu(c) }}",
        w=random(4, 3, 3, 3),
        **STATISTICS,
    )
    assert_left_alone(bn.fold_batchnorm, model)
    found = bn.foldable(node_of(model, "BatchNormalization"))
    assert found == Miss("c is read more than once or a graph output")


def test_fold_batchnorm_misses_other_channels() -> None:
    model = build(
        f"g (float[5,4,3] x, float[3,7] w, {NORM}) => (float[5,4,7] y) "
        f"{{ c = MatMul(x, w) y = {APPLY} }}",
        w=random(3, 7),
        **STATISTICS,
    )
    assert_left_alone(bn.fold_batchnorm, model)
    found = bn.foldable(node_of(model, "BatchNormalization"))
    assert found == Miss("channels are not the last axis of rank 3")


@pytest.mark.parametrize(
    ("operation", "constant", "expected"),
    [
        ("Mul(c, s)", random(4, 1, 1, low=0.5), "Conv(%x, %w_scaled)"),
        ("Mul(s, c)", random(1, 4, 1, 1, low=0.5), "Conv(%x, %w_scaled)"),
        ("Add(s, c)", random(1, 4, 1, 1), "Conv(%x, %w, %Conv_c_bias)"),
        ("Sub(c, s)", np.array(0.25, np.float32), "Conv(%x, %w, %Conv_c_bias)"),
        ("Div(c, s)", random(4, 1, 1, low=0.5), "Conv(%x, %w_scaled)"),
    ],
)
def test_fold_scale_into_conv(operation: str, constant: Array, expected: str) -> None:
    model = build(
        f"g (float[1,3,6,6] x, float[4,3,3,3] w, float s) => (float[1,4,4,4] y) "
        f"{{ c = Conv(x, w) y = {operation} }}",
        w=random(4, 3, 3, 3),
        s=constant,
    )
    assert_rewrites(scale.fold_scale, model, f"%y: f32[1,4,4,4] = {expected}")


def test_fold_scale_into_matmul_of_rank_3() -> None:
    model = build(
        "g (float[2,5,3] x, float[3,4] w, float[4] s) => (float[2,5,4] y) "
        "{ c = MatMul(x, w) y = Mul(c, s) }",
        w=random(3, 4),
        s=random(4, low=0.5),
    )
    assert_rewrites(scale.fold_scale, model, "%y: f32[2,5,4] = MatMul(%x, %w_scaled)")


@pytest.mark.parametrize(
    ("operation", "constant", "why"),
    [
        ("Sub(s, c)", random(4, 1, 1), "the input does not come from"),
        ("Mul(c, s)", random(4, 4), "the constant has shape [4, 4], not one number per channel"),
        ("Div(c, s)", np.zeros((4, 1, 1), np.float32), "the divisor is 0 somewhere"),
        ("Mul(c, s)", random(2, 4, 1, 1), "the constant has shape [2, 4, 1, 1]"),
    ],
)
def test_fold_scale_misses(operation: str, constant: Array, why: str) -> None:
    batch = 2 if constant.shape[0] == 2 else 1
    model = build(
        f"g (float[1,3,6,6] x, float[4,3,3,3] w, float s) => (float[{batch},4,4,4] y) "
        f"{{ c = Conv(x, w) y = {operation} }}",
        w=random(4, 3, 3, 3),
        s=constant,
    )
    assert_left_alone(scale.fold_scale, model)
    found = scale.foldable(node_of(model, operation[:3]))
    assert isinstance(found, Miss)
    assert why in found.why


PADS = np.array([0, 0, 1, 0, 0, 0, 2, 0])


def test_fold_pad_into_conv() -> None:
    model = build(
        "g (float[1,3,6,6] x, int64[8] p, float[4,3,3,3] w) => (float[1,4,7,6] y) "
        "{ c = Pad(x, p) y = Conv<pads=[0,1,0,1]>(c, w) }",
        w=random(4, 3, 3, 3),
        p=PADS,
    )
    assert_rewrites(pad.fold_pad, model, "%y: f32[1,4,7,6] = Conv(%x, %w) {pads=[1,1,2,1]}")


def test_fold_pad_into_a_conv_that_says_it_has_none() -> None:
    """``auto_pad`` VALID makes pads count for nothing, its own and those that were folded in."""
    model = build(
        "g (float[1,3,6,6] x, int64[8] p, float[4,3,3,3] w) => (float[1,4,5,6] y) "
        '{ c = Pad(x, p) y = Conv<auto_pad="VALID", kernel_shape=[3,3]>(c, w) }',
        w=random(4, 3, 3, 3),
        p=np.array([0, 0, 1, 0, 0, 0, 0, 2]),
    )
    text = "%y: f32[1,4,5,6] = Conv(%x, %w) {kernel_shape=[3,3], pads=[1,0,0,2]}"
    assert_rewrites(pad.fold_pad, model, text)


@pytest.mark.parametrize(
    ("padding", "reader", "why"),
    [
        ('Pad<mode="reflect">(x, p)', "Conv(c, w)", "the mode is reflect"),
        ("Pad(x, p, one)", "Conv(c, w)", "Conv pads with 0, not 1.0"),
        ("Pad(x, p)", "MaxPool<kernel_shape=[3,3]>(c)", "MaxPool pads with -inf, not 0.0"),
        (
            "Pad(x, p, low)",
            "MaxPool<kernel_shape=[3,3], ceil_mode=1>(c)",
            "MaxPool rounds up",
        ),
        (
            "Pad(x, p)",
            "AveragePool<kernel_shape=[3,3]>(c)",
            "AveragePool does not count padded zeros",
        ),
        ("Pad(x, p)", "Relu(c)", "Relu has no padding"),
    ],
)
def test_fold_pad_misses(padding: str, reader: str, why: str) -> None:
    model = build(
        "g (float[1,3,6,6] x, int64[8] p, float[4,3,3,3] w, float one, float low) "
        "=> (float[N,C,H,W] y) "
        f"{{ c = {padding} y = {reader} }}",
        w=random(4, 3, 3, 3),
        p=PADS,
        one=np.array(1, np.float32),
        low=np.array(-np.inf, np.float32),
    )
    assert_left_alone(pad.fold_pad, model)
    assert pad.foldable(node_of(model, "Pad")) == Miss(why)
