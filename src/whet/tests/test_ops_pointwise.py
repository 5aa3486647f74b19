"""Element-wise operators against the reference, in types that ONNX's own examples leave out."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from whet.errors import ShapeError, UnsupportedError
from whet.kernel.expr import Call, Load, walk
from whet.ops.node import constant
from whet.tests.ops_harness import (
    compare,
    input_tensors,
    lower_node,
    reference,
    run_node,
    verify,
)

RNG = np.random.default_rng(7)
START = RNG.bit_generator.state
UNARY = [
    "Abs",
    "Neg",
    "Exp",
    "Log",
    "Sqrt",
    "Erf",
    "Floor",
    "Ceil",
    "Round",
    "Sin",
    "Cos",
    "Tan",
    "Asin",
    "Acos",
    "Atan",
    "Sinh",
    "Cosh",
    "Asinh",
    "Acosh",
    "Atanh",
    "Tanh",
    "Sigmoid",
    "Sign",
    "Reciprocal",
    "Relu",
    "LeakyRelu",
    "Elu",
    "Selu",
    "Celu",
    "ThresholdedRelu",
    "HardSigmoid",
    "HardSwish",
    "Mish",
    "Softplus",
    "Softsign",
    "Gelu",
    "Swish",
    "Shrink",
]


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Give every test the same numbers, in whatever order tests run."""
    RNG.bit_generator.state = START


def numbers(*shape: int, dtype: str = "float32", low: float = -3, high: float = 3) -> np.ndarray:
    return RNG.uniform(low, high, shape).astype(dtype)


@pytest.mark.parametrize("op", UNARY)
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_unary(op: str, dtype: str) -> None:
    low, high = (-0.95, 0.95) if op in ("Asin", "Acos", "Atanh") else (0.1, 3)
    low, high = (1.1, 4) if op == "Acosh" else (low, high)
    low = low if op in ("Log", "Sqrt", "Acosh", "Asin", "Acos", "Atanh") else -3
    x = numbers(3, 5, dtype=dtype, low=low, high=high)
    verify(op, x, shapes=(("N", 5),))


@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div", "PRelu"])
def test_binary_broadcasts(op: str) -> None:
    x, y = numbers(2, 3, 4, low=0.5), numbers(3, 1, low=0.5)
    verify(op, x, y, shapes=(("N", 3, "S"), (3, 1)))


@pytest.mark.parametrize("dtype", ["int8", "int32", "int64", "uint8", "uint32"])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Min", "Max"])
def test_integers_wrap(op: str, dtype: str) -> None:
    limits = np.iinfo(dtype)
    x = np.array([limits.min, limits.max, 3, 100], dtype)
    verify(op, x, x[::-1].copy())


@pytest.mark.parametrize("op", ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
def test_comparisons_with_nan(op: str) -> None:
    x = np.array([1, 2, np.nan, 4], np.float32)
    verify(op, x, np.array([1, 3, np.nan, 0], np.float32))


def test_extremes_keep_nan() -> None:
    x, y = np.array([np.nan, 1, 2], np.float32), np.array([1, np.nan, 1], np.float32)
    verify("Max", x, y)
    verify("Min", x, y)
    verify("Max", x)


def test_integer_division_truncates() -> None:
    x, y = np.array([7, -7, 7, -7], np.int32), np.array([2, 2, -2, -2], np.int32)
    node = onnx.helper.make_node("Div", ["x", "y"], ["z"])
    (found,) = run_node(node, {"x": x, "y": y})
    np.testing.assert_array_equal(found, [3, -3, -3, 3])


@pytest.mark.parametrize("fmod", [0, 1])
@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_modulo_of_integers(fmod: int, dtype: str) -> None:
    x, y = np.array([7, -7, 7, -7], dtype), np.array([3, 3, -3, -3], dtype)
    verify("Mod", x, y, fmod=fmod)


def test_modulo_of_floats() -> None:
    x, y = numbers(20), numbers(20, low=0.3)
    verify("Mod", x, y, fmod=1)


@pytest.mark.parametrize("exponent", [-1.0, 0.5, 1.0, 2.0, 3.0, 4.0, 2.5, 0.0])
def test_power_by_constant(exponent: float) -> None:
    x = numbers(4, 3, low=0.1)
    y = np.array(exponent, np.float32)
    node = onnx.helper.make_node("Pow", ["x", "y"], ["z"])
    tensors = input_tensors(node, {"x": x})
    (found,) = lower_node(node, {**tensors, "y": constant("y", y)})
    definition = found.definition
    assert definition is not None
    is_special = exponent in (-1.0, 0.5, 1.0, 2.0, 3.0, 4.0)
    calls = [e.op for e in walk(definition.body) if isinstance(e, Call)]
    assert ("pow" not in calls) == is_special
    verify("Pow", x, y)


@pytest.mark.parametrize(
    ("base", "exponent"),
    [("float32", "int64"), ("float32", "float64"), ("int32", "int32"), ("int64", "float32")],
)
def test_power_of_mixed_types(base: str, exponent: str) -> None:
    x = np.array([1, 2, 3, 5, 0], base)
    verify("Pow", x, np.array([3, 5, 0, 4, 2], exponent))


def test_integer_power_is_exact() -> None:
    x = np.array([3, -3, 7, 1, -1, 0], np.int64)
    y = np.array([39, 39, 22, 60, 63, 5], np.int64)
    node = onnx.helper.make_node("Pow", ["x", "y"], ["z"])
    (found,) = run_node(node, {"x": x, "y": y})
    np.testing.assert_array_equal(
        found, [a**b for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    )


@pytest.mark.parametrize("target", ["INT32", "INT8", "UINT8", "BOOL", "FLOAT16", "DOUBLE"])
def test_casts(target: str) -> None:
    x = np.array([0.0, 1.7, 0.3, 100.6], np.float32)
    verify("Cast", x, to=getattr(onnx.TensorProto, target))


def test_cast_from_bool_and_between_integers() -> None:
    verify("Cast", np.array([True, False]), to=onnx.TensorProto.FLOAT)
    verify("Cast", np.array([-1, 300], np.int32), to=onnx.TensorProto.INT64)
    verify("CastLike", np.array([-1, 300], np.int32), np.zeros(1, np.float32))


def test_cast_saturates() -> None:
    x = np.array([1e10, -1e10, np.nan, np.inf], np.float32)
    node = onnx.helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.INT32)
    (found,) = run_node(node, {"x": x})
    limits = np.iinfo(np.int32)
    np.testing.assert_array_equal(found, [limits.max, limits.min, 0, limits.max])


def test_cast_to_unknown_type() -> None:
    node = onnx.helper.make_node("Cast", ["x"], ["y"], to=onnx.TensorProto.STRING)
    with pytest.raises(UnsupportedError, match="ONNX type 8"):
        run_node(node, {"x": np.zeros(2, np.float32)})


def test_clip() -> None:
    x = numbers(4, 5)
    low, high = np.array(-1, np.float32), np.array(1.5, np.float32)
    verify("Clip", x, low, high, shapes=(("N", 5),))
    verify("Clip", x, None, high)
    verify("Clip", x, low)
    verify("Clip", x)


def test_where_mixes_shapes() -> None:
    condition = RNG.random((2, 1, 4)) > 0.5
    verify("Where", condition, numbers(3, 1), numbers(1), shapes=(("N", 1, 4),))


def test_variadic() -> None:
    arrays = numbers(2, 3), numbers(3), numbers(2, 1)
    for op in ("Sum", "Mean", "Max", "Min"):
        verify(op, *arrays)


def test_softplus_of_large_numbers() -> None:
    x = np.array([-90, -30, -1e-4, 0, 1e-4, 30, 90], np.float64)
    node = onnx.helper.make_node("Softplus", ["x"], ["y"])
    (found,) = run_node(node, {"x": x})
    compare(found, np.logaddexp(x, 0), atol=0.0)


def test_gelu_forms() -> None:
    for form in ("none", "tanh"):
        verify("Gelu", numbers(30), approximate=form)


def test_constant_scalars_become_numbers() -> None:
    node = onnx.helper.make_node("Mul", ["x", "y"], ["z"])
    tensors = input_tensors(node, {"x": numbers(3)})
    (found,) = lower_node(node, {**tensors, "y": constant("y", np.float32(2).reshape(1))})
    assert found.definition is not None
    assert sum(isinstance(e, Load) for e in walk(found.definition.body)) == 1


def test_shapes_that_do_not_broadcast() -> None:
    node = onnx.helper.make_node("Add", ["x", "y"], ["z"], name="sum_1")
    with pytest.raises(ShapeError, match="cannot broadcast") as error:
        run_node(node, {"x": numbers(2), "y": numbers(3)})
    assert error.value.where == "sum_1"


def test_bfloat16() -> None:
    import ml_dtypes

    x = numbers(8).astype(ml_dtypes.bfloat16)
    node = onnx.helper.make_node("Add", ["x", "x"], ["y"])
    compare(run_node(node, {"x": x})[0], reference(node, {"x": x})[0])
