"""Quantisation and its inverse: every type and granularity, against exact NumPy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import whet
from whet.dtypes import DTYPES, numpy_dtype
from whet.tests.test_types_small import CODES, same_bits

Array = np.ndarray[Any, np.dtype[Any]]
INTEGERS = ("int8", "uint8", "int16", "uint16", "int4", "uint4", "int2", "uint2")
SMALL_FLOATS = (
    "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float4_e2m1fn"
)  # fmt: skip
SHAPES = ((5, 7, 3), (1, 17, 1), (0, 7, 3), (4, 0, 2))


def compiled(
    cache: Path, nodes: list[onnx.NodeProto], arrays: dict[str, Array], outputs: str = "y"
) -> Any:
    """Return a node's result; the first dimension is known at run time."""
    x = arrays["x"]
    inputs = []
    for name, array in arrays.items():
        free = x.ndim and array.ndim == x.ndim and array.shape[0] == x.shape[0]
        shape = ["n", *array.shape[1:]] if free else array.shape
        inputs.append(helper.make_tensor_value_info(name, CODES[array.dtype.name], shape))
    infos = [onnx.ValueInfoProto(name=name) for name in outputs]
    model = helper.make_model(helper.make_graph(nodes, "quantised", inputs, infos))
    model = onnx.shape_inference.infer_shapes(model)
    found = whet.compile(model, options=whet.Options(cache_dir=str(cache), threads=1))(arrays)
    return found["y"] if outputs == "y" else found


def spread(parameter: Array, shape: tuple[int, ...], axis: int, block: int) -> Array:
    """Return a scale or zero point for every element."""
    if parameter.ndim == 0:
        return np.broadcast_to(parameter, shape)
    if not block:
        sizes = [1] * len(shape)
        sizes[axis] = -1
        return np.broadcast_to(parameter.reshape(sizes), shape)
    wide = np.repeat(parameter.astype(np.float64), block, axis=axis)
    return np.take(wide, np.arange(shape[axis]), axis=axis)


def parameter_shape(shape: tuple[int, ...], axis: int, block: int | None) -> tuple[int, ...]:
    if block is None:
        return ()
    if block == 0:
        return (shape[axis],)
    return tuple(-(-n // block) if k == axis else n for k, n in enumerate(shape))


def quantise(x: Array, scale: Array, zero: Array, dtype: str) -> Array:
    with np.errstate(all="ignore"):
        ratio = (x.astype(np.float32) / scale.astype(np.float32)).astype(np.float32)
        low, high = DTYPES[dtype].limits
        whole: Array = np.clip(np.rint(ratio.astype(np.float64)) + zero, low, high)
        return whole.astype(np.int64)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("block", [None, 0, 2, 3])
def test_integers(dtype: str, block: int | None, tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    low, high = DTYPES[dtype].limits
    for shape in SHAPES:
        axis = 1
        size = parameter_shape(shape, axis, block)
        x = (rng.standard_normal(shape) * 0.7 * (high - low)).astype(np.float32)
        x.reshape(-1)[: x.size // 7] = np.inf
        x.reshape(-1)[-(x.size // 7) :] *= 1000
        scale = rng.uniform(0.25, 2.0, size).astype(np.float32)
        zero = rng.integers(low, high + 1, size)
        arrays = {"x": x, "s": scale, "z": zero.astype(numpy_dtype(dtype))}
        attributes: dict[str, Any] = {"axis": axis, "block_size": block or 0}
        wide_scale = spread(scale, shape, axis, block or 0)
        wide_zero = spread(zero, shape, axis, block or 0)
        node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"], **attributes)
        found = compiled(tmp_path, [node], arrays)
        assert found.dtype == numpy_dtype(dtype)
        expected = quantise(x, wide_scale, wide_zero, dtype)
        np.testing.assert_array_equal(found.astype(np.int64), expected)
        back = helper.make_node("DequantizeLinear", ["x", "s", "z"], ["y"], **attributes)
        values = compiled(tmp_path, [back], {**arrays, "x": found})
        exact = (expected - wide_zero).astype(np.float32) * wide_scale.astype(np.float32)
        np.testing.assert_array_equal(values, exact.astype(np.float32))


@pytest.mark.parametrize("dtype", SMALL_FLOATS)
def test_small_floats(dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(12)
    x = (rng.standard_normal((37, 5)) * np.exp2(rng.integers(-9, 18, (37, 5)))).astype(np.float32)
    scale = rng.uniform(0.25, 2.0, 5).astype(np.float32)
    form = DTYPES[dtype].small
    assert form is not None
    with np.errstate(all="ignore"):
        expected = np.clip(x / scale, -form.maximum, form.maximum).astype(numpy_dtype(dtype))
    node = helper.make_node("QuantizeLinear", ["x", "s"], ["y"], axis=1, output_dtype=CODES[dtype])
    found = compiled(tmp_path, [node], {"x": x, "s": scale})
    same_bits(found, expected)
    back = helper.make_node("DequantizeLinear", ["x", "s"], ["y"], axis=1)
    values = compiled(tmp_path, [back], {"x": found, "s": scale})
    np.testing.assert_array_equal(values, expected.astype(np.float32) * scale)


@pytest.mark.parametrize("kind", ["float16", "bfloat16"])
def test_half_precision_divides_in_its_own_type(kind: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(13)
    x = (rng.standard_normal(999) * 60).astype(numpy_dtype(kind))
    scale = np.array(0.3, numpy_dtype(kind))
    node = helper.make_node("QuantizeLinear", ["x", "s"], ["y"], output_dtype=CODES["int8"])
    found = compiled(tmp_path, [node], {"x": x, "s": scale})
    ratio = (x.astype(np.float32) / np.float32(scale)).astype(numpy_dtype(kind))
    np.testing.assert_array_equal(found, np.clip(np.rint(ratio.astype(np.float64)), -128, 127))


def test_ties_go_to_even_before_the_zero_point(tmp_path: Path) -> None:
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, np.nan], np.float32)
    arrays: dict[str, Array] = {"x": x, "s": np.array(1.0, np.float32), "z": np.array(1, np.uint8)}
    node = helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])
    np.testing.assert_array_equal(compiled(tmp_path, [node], arrays), [1, 3, 3, 1, 0, 0])


@pytest.mark.parametrize(
    "x", [[1.0, -2.5, 3.25], [0.0, 0.0], [5.0, 7.0, 6.0], [-3.0, -1.0], [1e30, -1e30]]
)
def test_dynamic_range_holds_zero(x: list[float], tmp_path: Path) -> None:
    values = np.array(x, np.float32)
    node = helper.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])
    found = compiled(tmp_path, [node], {"x": values}, "ysz")
    low, high = min(0, values.min()), max(0, values.max())
    span = np.float32(high - low) if high > low else np.float32(1)
    scale = span / np.float32(255)
    zero = np.rint(np.clip(-np.float32(low) / scale, 0, 255))
    assert found["s"] == scale and found["z"] == zero
    expected = np.clip(np.rint(values / scale) + zero, 0, 255)
    np.testing.assert_array_equal(found["y"], expected.astype(np.uint8))


@pytest.mark.parametrize(
    ("size", "attributes"),
    [((4,), {"axis": 1}), ((5, 3), {"axis": 0, "block_size": 2}), ((2, 2), {"axis": 0})],
)
def test_parameters_that_do_not_fit_are_refused(
    size: tuple[int, ...], attributes: dict[str, Any], tmp_path: Path
) -> None:
    arrays = {"x": np.ones((4, 3), np.float32), "s": np.ones(size, np.float32)}
    node = helper.make_node("QuantizeLinear", ["x", "s"], ["y"], **attributes)
    with pytest.raises(whet.WhetError, match=r"do(es)? not fit|is not|scale"):
        compiled(tmp_path, [node], arrays)
