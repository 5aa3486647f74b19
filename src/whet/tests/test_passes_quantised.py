"""Passes on quantised models: text, agreement, idempotence, and near misses with their reasons."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest

from whet.graph.match import Miss
from whet.passes.fold_requantise import fold_requantise, foldable
from whet.passes.move_quantised import movable, move_quantised
from whet.passes.multiply_in_integers import integer_form, multiply_in_integers
from whet.passes.unsign_activations import signed_readers, unsign_activations
from whet.tests.passkit import Array, assert_left_alone, build, evaluate

SX, SW, SY = np.float32(0.02), np.array([0.01, 0.03], np.float32), np.float32(0.11)
ZX, ZY = np.uint8(117), np.uint8(3)
W = np.arange(-9, 9).reshape(2, 1, 3, 3).astype(np.int8)
PARAMETERS = {"sx": SX, "sw": SW, "sy": SY, "zx": ZX, "zy": ZY, "w": W}

CONV = """
quantised (uint8[1, 1, 5, 4] x, float sx, uint8 zx, int8[2, 1, 3, 3] w, float[2] sw, float sb,
           int32[2] b, float sy, uint8 zy) => (uint8[1, 2, 3, 2] y) {
  xf = DequantizeLinear (x, sx, zx)
  wf = DequantizeLinear <axis = 0> (w, sw)
  bf = DequantizeLinear <axis = 0> (b, sb)
  c = Conv (xf, wf, bf)
  r = Relu (c)
  y = QuantizeLinear (r, sy, zy)
}
"""


def arrays(**more: Array | np.generic) -> dict[str, Array]:
    given = {**PARAMETERS, "sb": SX * SW, "b": np.array([-70, 900], np.int32), **more}
    return {name: np.asarray(value) for name, value in given.items()}


def conv_model(**more: Array | np.generic) -> ir.Model:
    constants = arrays(**more)
    text = CONV
    if constants["sb"].ndim:
        text = text.replace("float sb", "float[2] sb")
    return build(text, **constants)


def bytes_for(model: ir.Model, seed: int = 5) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    found = {}
    for value in model.graph.inputs:
        shape = [d if isinstance(d, int) else 3 for d in value.shape or ()]
        kind = np.dtype((value.dtype or ir.DataType.FLOAT).numpy())
        limits = (0, 256) if kind == np.uint8 else (-128, 128)
        numbers = rng.integers(*limits, shape)
        found[value.name or ""] = (
            numbers.astype(kind) if kind.kind in "iu" else (numbers / 40).astype(kind)
        )
    return found


def agree(run: Callable[[ir.Model], int], model: ir.Model, rewrites: int, *, steps: int) -> None:
    """Check results within some steps, and that a second run changes nothing."""
    inputs = bytes_for(model)
    before = evaluate(model, inputs)
    assert run(model) == rewrites
    for old, new in zip(before, evaluate(model, inputs), strict=True):
        assert (old.shape, old.dtype) == (new.shape, new.dtype)
        if old.dtype.kind in "iu":
            assert np.abs(old.astype(int) - new.astype(int)).max() <= steps
        else:
            np.testing.assert_allclose(new, old, rtol=2e-5, atol=2e-5 * np.abs(old).max())
    assert run(model) == 0


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def constant_of(value: ir.Value | None) -> Array:
    assert value is not None and value.const_value is not None
    return np.asarray(value.const_value.numpy())


def node_of(model: ir.Model, op_type: str) -> ir.Node:
    return next(node for node in model.graph if node.op_type == op_type)


# -- products --------------------------------------------------------------------------------------


def test_a_convolution_becomes_one_of_integers() -> None:
    model = conv_model()
    agree(multiply_in_integers, model, 1, steps=0)
    kinds = operators(model)
    assert [k for k in kinds if k != "DequantizeLinear"] == [
        "ConvInteger", "Add", "Relu", "QuantizeLinear"
    ]  # fmt: skip
    assert node_of(model, "Add").outputs[0].dtype == ir.DataType.INT32


def test_a_bias_in_another_scale_is_added_to_floats() -> None:
    model = conv_model(sb=np.float32(0.5))
    agree(multiply_in_integers, model, 1, steps=0)
    assert node_of(model, "Add").outputs[0].dtype == ir.DataType.FLOAT


@pytest.mark.parametrize("trans_a", [0, 1])
@pytest.mark.parametrize("trans_b", [0, 1])
def test_gemm(trans_a: int, trans_b: int) -> None:
    a, b = ("5, 3", "3, 5")[trans_a], ("7, 5", "5, 7")[not trans_b]
    a = "5, 3" if trans_a else "3, 5"
    model = build(
        f"""
        gemm (uint8[{a}] x, float sx, uint8 zx, int8[{b}] w, float[7] sw, int8[7] zw, float[7] c)
          => (float[3, 7] y) {{
          xf = DequantizeLinear (x, sx, zx)
          wf = DequantizeLinear <axis = {0 if trans_b else 1}> (w, sw, zw)
          y = Gemm <transA = {trans_a}, transB = {trans_b}, alpha = 0.5> (xf, wf, c)
        }}""",
        sx=np.asarray(SX),
        zx=np.asarray(ZX),
        w=np.random.default_rng(1).integers(-128, 128, [int(n) for n in b.split(",")]).astype("i1"),
        sw=np.linspace(0.01, 0.2, 7, dtype=np.float32),
        zw=np.arange(7, dtype=np.int8),
        c=np.linspace(-1, 1, 7, dtype=np.float32),
    )
    agree(multiply_in_integers, model, 1, steps=0)
    assert "MatMulInteger" in operators(model)


def matmul(weight: str, scale: str, axis: int, **constants: Array) -> ir.Model:
    given = {"sx": np.asarray(SX), "sw": np.asarray(np.float32(0.1)), **constants}
    return build(
        f"""
        matmul (uint8[2, 4] x, float sx, {weight}[4, 2] w, {scale} sw) => (float[2, 2] y) {{
          xf = DequantizeLinear (x, sx)
          wf = DequantizeLinear <axis = {axis}> (w, sw)
          y = MatMul (xf, wf)
        }}""",
        **given,
    )


def test_products_that_stay_floats_say_why() -> None:
    along_depth = matmul("int8", "float[4]", 0, sw=np.ones(4, np.float32))
    reason = integer_form(node_of(along_depth, "MatMul"))
    assert isinstance(reason, Miss) and "not along its columns" in reason.why
    assert_left_alone(multiply_in_integers, along_depth)
    wide = matmul("int16", "float", 1)
    reason = integer_form(node_of(wide, "MatMul"))
    assert isinstance(reason, Miss) and "INT16" in reason.why
    zero = matmul("int8", "float", 1, sx=np.asarray(np.float32(0)))
    reason = integer_form(node_of(zero, "MatMul"))
    assert isinstance(reason, Miss) and "a scale of" in reason.why
    float_side = build("plain (float[2, 4] x, float[4, 2] w) => (y) { y = MatMul (x, w) }")
    reason = integer_form(node_of(float_side, "MatMul"))
    assert isinstance(reason, Miss) and "is not dequantised" in reason.why


def test_both_operands_may_be_activations() -> None:
    agree(multiply_in_integers, matmul("uint8", "float", 1), 1, steps=0)


DEPTHWISE = """
depthwise (float[1, 3, 7, 6] x, float[3] sx, uint8[3] zx, int8[6, 1, 3, 3] w, float[6] sw,
           int8[6] zw, float[6] b) => (float[1, 6, 5, 4] y) {
  q = QuantizeLinear <axis = 1> (x, sx, zx)
  xf = DequantizeLinear <axis = 1> (q, sx, zx)
  wf = DequantizeLinear <axis = 0> (w, sw, zw)
  y = Conv <group = 3, pads = [1, 1, 1, 1], strides = [1, 1], kernel_shape = [3, 3],
            dilations = [2, 2]> (xf, wf, b)
}
"""


def depthwise(zeros: list[int]) -> ir.Model:
    """Return a depthwise convolution whose input has a scale for each channel."""
    rng = np.random.default_rng(11)
    return build(
        DEPTHWISE,
        sx=np.array([0.01, 0.02, 0.05], np.float32), zx=np.array(zeros, np.uint8),
        w=rng.integers(-128, 128, (6, 1, 3, 3)).astype(np.int8),
        sw=np.linspace(0.01, 0.2, 6, dtype=np.float32), zw=np.zeros(6, np.int8),
        b=np.linspace(-1, 1, 6, dtype=np.float32),
    )  # fmt: skip


@pytest.mark.parametrize("zero", [0, 119])
def test_a_depthwise_convolution_takes_a_scale_for_each_channel(zero: int) -> None:
    model = depthwise([zero] * 3)
    agree(multiply_in_integers, model, 1, steps=0)
    assert "ConvInteger" in operators(model)
    sums = [n for n in model.graph if n.inputs[0] and n.inputs[0].dtype == ir.DataType.INT32]
    assert len(constant_of(sums[-1].inputs[1])) == 6


def test_zero_points_of_channels_may_differ() -> None:
    model = depthwise([0, 3, 0])
    agree(multiply_in_integers, model, 1, steps=0)
    assert "ConvInteger" in operators(model)


# -- movements -------------------------------------------------------------------------------------

MOVED = """
moved (uint8[1, 4, 6, 6] x, uint8[1, 4, 3, 3] z, float s, uint8 p) => (uint8[1, 8, 3, 3] y) {
  xf = DequantizeLinear (x, s, p)
  m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (xf)
  zf = DequantizeLinear (z, s, p)
  c = Concat <axis = 1> (m, zf)
  y = QuantizeLinear (c, s, p)
}
"""


def test_bytes_move_without_floats() -> None:
    model = build(MOVED, s=np.asarray(SX), p=np.asarray(ZX))
    agree(move_quantised, model, 3, steps=0)
    assert [k for k in operators(model) if k not in ("DequantizeLinear",)] == ["MaxPool", "Concat"]


TURNED = """
turned (float[3, 4] x, float sx, uint8 zx, int8[5, 4] w, float[5] sw, int8[5] zw)
  => (float[3, 5] y) {
  q = QuantizeLinear (x, sx, zx)
  xf = DequantizeLinear (q, sx, zx)
  wf = DequantizeLinear <axis = 0> (w, sw, zw)
  wt = Transpose <PERM> (wf)
  y = MatMul (xf, wt)
}
"""


@pytest.mark.parametrize("perm", ["", "perm = [1, 0]"])
def test_turned_weights_keep_their_scales(perm: str) -> None:
    """A Linear as PyTorch exports it."""
    text = TURNED.replace(" <PERM>", f" <{perm}>" if perm else "")
    weight = np.random.default_rng(2).integers(-128, 128, (5, 4)).astype(np.int8)
    model = build(
        text, sx=np.asarray(SX), zx=np.asarray(ZX), w=weight,
        sw=np.linspace(0.01, 0.2, 5, dtype=np.float32), zw=np.zeros(5, np.int8),
    )  # fmt: skip
    agree(move_quantised, model, 1, steps=0)
    agree(multiply_in_integers, model, 1, steps=0)
    assert "MatMulInteger" in operators(model)


POOLED = """
pooled (uint8[1, 3, 4, 4] x, float[3] s, uint8[3] p) => (float[1, 3, 2, 2] y) {
  xf = DequantizeLinear <axis = 1> (x, s, p)
  y = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (xf)
}
"""


def test_channels_are_pooled_as_bytes() -> None:
    given: dict[str, Array] = {
        "s": np.array([0.01, 0.02, 0.05], np.float32), "p": np.array([0, 3, 9], np.uint8)
    }  # fmt: skip
    model = build(POOLED, **given)
    agree(move_quantised, model, 1, steps=0)
    assert node_of(model, "MaxPool").outputs[0].dtype == ir.DataType.UINT8
    rows: dict[str, Array] = {"s": np.full(4, 0.5, np.float32), "p": np.arange(4, dtype=np.uint8)}
    text = POOLED.replace("axis = 1", "axis = 2").replace("[3]", "[4]")
    reason = movable(node_of(build(text, **rows), "MaxPool"))
    assert isinstance(reason, Miss) and "no single scale" in reason.why


def test_parts_of_different_scales_are_requantised_one_by_one() -> None:
    text = MOVED.replace("(z, s, p)", "(z, t, p)").replace("float s", "float s, float t")
    model = build(text, s=np.asarray(SX), t=np.asarray(SY), p=np.asarray(ZX))
    agree(move_quantised, model, 3, steps=0)
    assert node_of(model, "Concat").outputs[0].dtype == ir.DataType.UINT8


def test_different_scales_are_a_reason_to_stay() -> None:
    model = build(
        """
        joined (uint8[2] a, uint8[2] b, float s, float t) => (float[4] y) {
          af = DequantizeLinear (a, s)
          bf = DequantizeLinear (b, t)
          y = Concat <axis = 0> (af, bf)
        }""",
        s=np.asarray(SX),
        t=np.asarray(SY),
    )
    reason = movable(node_of(model, "Concat"))
    assert isinstance(reason, Miss) and "different scales" in reason.why
    assert_left_alone(move_quantised, model)


# -- signs -----------------------------------------------------------------------------------------

SIGNED = """
signed (float[1, 1, 5, 4] x, float sx, int8 zx, int8[2, 1, 3, 3] w, int64[2] shape)
  => (int32[1, 2, 3, 2] y, float[4, 5] f) {
  q = QuantizeLinear (x, sx, zx)
  y = ConvInteger (q, w, zx)
  r = Reshape (q, shape)
  f = DequantizeLinear (r, sx, zx)
}
"""


def test_signed_activations_become_unsigned() -> None:
    given: dict[str, Array] = {"sx": np.asarray(SX), "zx": np.asarray(np.int8(-7)), "w": W}
    model = build(SIGNED, **given, shape=np.array([4, 5]))
    agree(unsign_activations, model, 1, steps=0)
    assert node_of(model, "Reshape").outputs[0].dtype == ir.DataType.UINT8


def test_signs_stay_where_somebody_reads_them() -> None:
    model = build(
        "shown (float[3] x, float s) => (int8[3] y, float[3] f) "
        "{ y = QuantizeLinear <output_dtype = 3> (x, s)\n f = DequantizeLinear (y, s) }",
        s=np.asarray(SX),
    )
    reason = signed_readers(node_of(model, "QuantizeLinear"))
    assert isinstance(reason, Miss) and "a result of the model" in reason.why
    assert_left_alone(unsign_activations, model)


# -- scales ----------------------------------------------------------------------------------------


def test_scales_fold_through_a_residual() -> None:
    model = build(
        """
        residual (uint8[2, 3] a, uint8[2, 3] b, float s, float t, uint8 p, float u)
          => (uint8[2, 3] y) {
          af = DequantizeLinear (a, s, p)
          bf = DequantizeLinear (b, t)
          c = Add (af, bf)
          r = Clip (c, u)
          y = QuantizeLinear (r, t, p)
        }""",
        s=np.asarray(SX), t=np.asarray(SY), p=np.asarray(ZX), u=np.asarray(np.float32(-0.4)),
    )  # fmt: skip
    agree(fold_requantise, model, 1, steps=1)
    assert sorted(operators(model)) == [
        "Add", "Clip", "DequantizeLinear", "DequantizeLinear", "QuantizeLinear"
    ]  # fmt: skip


def test_a_relu_that_clamping_repeats_goes() -> None:
    model = conv_model(zy=np.uint8(0))
    multiply_in_integers(model)
    agree(fold_requantise, model, 1, steps=1)
    assert "Relu" not in operators(model)


def test_what_others_read_is_multiplied() -> None:
    model = build(
        """
        shared (uint8[6] a, float s) => (uint8[6] y, float[6] e) {
          af = DequantizeLinear (a, s)
          e = Sigmoid (af)
          y = QuantizeLinear (e, s)
        }""",
        s=np.asarray(SX),
    )
    agree(fold_requantise, model, 1, steps=1)
    assert "Mul" in operators(model)


def test_inputs_are_divided_as_onnx_says() -> None:
    model = build(
        "given (float[3] x, float s) => (uint8[3] y) { y = QuantizeLinear (x, s) }",
        s=np.asarray(SX),
    )
    reason = foldable(node_of(model, "QuantizeLinear"))
    assert isinstance(reason, Miss) and "given, not computed" in reason.why
    assert_left_alone(fold_requantise, model)
