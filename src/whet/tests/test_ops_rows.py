"""Reductions, normalisations and pooling against the reference, static and with run-time sizes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from whet.errors import ShapeError
from whet.kernel.expr import Load, walk
from whet.kernel.tensor import Steps
from whet.ops.node import constant
from whet.tests.ops_harness import compare, input_tensors, lower_node, run_node, verify

RNG = np.random.default_rng(13)
START = RNG.bit_generator.state
REDUCTIONS = [
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
]


@pytest.fixture(autouse=True)
def same_numbers() -> None:
    """Give every test the same numbers, in whatever order tests run."""
    RNG.bit_generator.state = START


def numbers(*shape: int, dtype: str = "float32") -> np.ndarray:
    return RNG.uniform(0.5, 2, shape).astype(dtype)


def axes(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


# -- reductions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", REDUCTIONS)
def test_reductions(op: str) -> None:
    x, shapes = numbers(2, 3, 4), (("N", 3, "S"),)
    verify(op, x, axes(1), shapes=shapes)
    verify(op, x, axes(-1, 0), shapes=shapes, keepdims=0)
    verify(op, x, shapes=shapes)
    verify(op, x, axes(), shapes=shapes, noop_with_empty_axes=1)


@pytest.mark.parametrize("op", ["ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceMean"])
def test_reductions_of_integers(op: str) -> None:
    verify(op, RNG.integers(1, 9, (3, 5)).astype(np.int32), axes(1))


def test_half_sums_are_taken_in_single_precision() -> None:
    x = np.full((1, 4096), 0.1, np.float16)
    node = onnx.helper.make_node("ReduceSum", ["x", "a"], ["y"])
    (y,) = run_node(node, {"x": x, "a": axes(1)})
    compare(y, np.full((1, 1), 4096 * np.float64(np.float16(0.1)), np.float16), rtol=1e-3)


def test_reduce_log_sum_exp_does_not_overflow() -> None:
    x = np.array([[1000, 1001], [-np.inf, -np.inf], [-2000, -2000]], np.float32)
    node = onnx.helper.make_node("ReduceLogSumExp", ["x", "a"], ["y"], keepdims=0)
    (y,) = run_node(node, {"x": x, "a": axes(1)})
    compare(y, np.logaddexp(x[:, 0], x[:, 1]))


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("last", [0, 1])
def test_positions_of_extremes(op: str, last: int) -> None:
    x = RNG.integers(0, 3, (3, 7, 2)).astype(np.float32)
    for keepdims in (0, 1):
        options = {"keepdims": keepdims, "select_last_index": last, "axis": 1}
        verify(op, x, shapes=(("N", "S", 2),), **options)


def test_position_of_nan() -> None:
    x = np.array([[1, np.nan, 3, np.nan]], np.float32)
    node = onnx.helper.make_node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)
    (y,) = run_node(node, {"x": x})
    np.testing.assert_array_equal(y, [1])


def test_axis_out_of_range() -> None:
    with pytest.raises(ShapeError, match="out of range"):
        run_node(
            onnx.helper.make_node("ReduceSum", ["x", "a"], ["y"]),
            {"x": numbers(2, 3), "a": axes(2)},
        )


# -- normalisations --------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_softmax(op: str, axis: int) -> None:
    x = RNG.normal(0, 10, (2, 5, 3)).astype(np.float32)
    verify(op, x, shapes=(("N", "S", 3),), axis=axis)


@pytest.mark.parametrize("axis", [-1, 1])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_layer_norm(axis: int, dtype: str) -> None:
    x = RNG.normal(5, 2, (2, 3, 8)).astype(dtype)
    shape = x.shape[axis:]
    scale, bias = RNG.normal(size=(2, *shape)).astype(dtype)
    limits = {"axis": axis, "outputs": 3}
    if dtype == "float32":
        verify("LayerNormalization", x, scale, bias, shapes=(("N", 3, 8),), **limits)
        verify("LayerNormalization", x, scale, axis=axis)
    verify("RMSNormalization", x, scale, axis=axis)
    node = onnx.helper.make_node("LayerNormalization", ["x", "s", "b"], ["y"], axis=axis)
    (y,) = run_node(node, {"x": x, "s": scale, "b": bias})
    along = tuple(range(axis % 3, 3))
    wide = x.astype(np.float64)
    mean, var = wide.mean(along, keepdims=True), wide.var(along, keepdims=True)
    compare(y, ((wide - mean) / np.sqrt(var + 1e-5) * scale + bias).astype(dtype), atol=5e-3)


def test_variance_of_numbers_far_from_zero() -> None:
    x = (1e4 + RNG.normal(size=(2, 64))).astype(np.float32)
    one = np.ones(64, np.float32)
    verify("LayerNormalization", x, one, 0 * one)
    node = onnx.helper.make_node("LayerNormalization", ["x", "s"], ["y"])
    (y,) = run_node(node, {"x": x, "s": one})
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(1, keepdims=True)) / np.sqrt(wide.var(1, keepdims=True) + 1e-5)
    np.testing.assert_allclose(y, expected, atol=2e-3)


def test_norms_of_images() -> None:
    x, shapes = numbers(2, 4, 3, 5), (("N", 4, "H", "W"), (4,), (4,))
    scale, bias = numbers(4), numbers(4)
    verify("InstanceNormalization", x, scale, bias, shapes=shapes, atol=1e-5)
    verify("GroupNormalization", x, scale, bias, shapes=shapes, atol=1e-5, num_groups=2)
    verify("MeanVarianceNormalization", x, shapes=shapes[:1], atol=1e-5)
    verify("LpNormalization", x, shapes=shapes[:1], axis=1, p=1)
    verify("LpNormalization", x, shapes=shapes[:1], axis=-1, p=2)
    square = numbers(4, 4, 3, 5)  # the reference takes the batch size for the channels
    verify("LRN", square, shapes=shapes[:1], size=3, alpha=0.3, beta=0.5, bias=1.5)


def test_batch_norm() -> None:
    x = numbers(2, 4, 3, 5)
    parameters = [numbers(4) for _ in range(4)]
    verify("BatchNormalization", x, *parameters, shapes=(("N", 4, "H", 5),))


def test_batch_norm_of_constants_is_one_multiply_add() -> None:
    names = ["scale", "bias", "mean", "var"]
    node = onnx.helper.make_node("BatchNormalization", ["x", *names], ["y"])
    given = {name: numbers(4) for name in names}
    tensors = input_tensors(node, {"x": numbers(2, 4, 3)})
    (y,) = lower_node(node, tensors | {n: constant(n, a) for n, a in given.items()})
    assert y.definition is not None
    assert sum(isinstance(e, Load) for e in walk(y.definition.body)) == 3


# -- pooling ---------------------------------------------------------------------------------------

POOLS: list[dict[str, Any]] = [
    {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [2, 3], "strides": [1, 2]},
    {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"kernel_shape": [3, 2], "auto_pad": "SAME_LOWER"},
    {"kernel_shape": [2, 2], "dilations": [2, 1], "pads": [0, 1, 1, 0]},
]


@pytest.mark.parametrize("options", POOLS)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "LpPool"])
def test_pools(op: str, options: dict[str, Any]) -> None:
    shapes = (("N", "C", 8, 9),)
    verify(op, numbers(2, 3, 8, 9), shapes=shapes, **options)
    if op == "AveragePool":
        verify(op, numbers(2, 3, 8, 9), shapes=shapes, count_include_pad=1, **options)


@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pools_of_run_time_images(op: str) -> None:
    x, shapes = numbers(2, 3, 8, 9), (("N", 3, "H", "W"),)
    verify(op, x, shapes=shapes, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    verify(op, x, shapes=shapes, kernel_shape=[3, 3], auto_pad="SAME_UPPER")
    verify(op, x, shapes=shapes, kernel_shape=[2, 2], strides=[2, 2])
    if op == "AveragePool":
        options: dict[str, Any] = {"pads": [1, 1, 1, 1], "count_include_pad": 1}
        verify(op, x, shapes=shapes, kernel_shape=[3, 3], **options)


def test_pools_that_stick_out() -> None:
    x = numbers(1, 1, 4, 4)
    verify("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], ceil_mode=1)


def test_pools_of_other_ranks() -> None:
    verify("MaxPool", numbers(2, 3, 7), shapes=(("N", 3, "S"),), kernel_shape=[2], strides=[2])
    verify("AveragePool", numbers(1, 2, 4, 5, 3), kernel_shape=[2, 2, 2], pads=[1] * 6)
    verify("GlobalAveragePool", numbers(2, 3, 4, 5), shapes=(("N", 3, "H", "W"),))
    verify("GlobalMaxPool", numbers(2, 3, 4, 5), shapes=(("N", 3, "H", "W"),))


def test_images_are_stored_channels_last() -> None:
    kinds: list[tuple[str, dict[str, Any]]] = [
        ("MaxPool", {"kernel_shape": [2, 2]}),
        ("GlobalAveragePool", {}),
    ]
    for op, options in kinds:
        node = onnx.helper.make_node(op, ["x"], ["y"], **options)
        (y,) = lower_node(node, input_tensors(node, {"x": numbers(1, 2, 4, 4)}))
        assert y.order == (0, 2, 3, 1)
        assert y.definition is not None
        assert isinstance(y.definition.anchor, Steps)


def test_windows_that_do_not_fit() -> None:
    node = onnx.helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[5, 5])
    with pytest.raises(ShapeError, match="does not fit"):
        run_node(node, {"x": numbers(1, 1, 4, 4)})
