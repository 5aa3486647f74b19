"""Half precision: sums run in single precision, and results are rounded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import whet
from whet.codegen.kinds.table import kernel_text
from whet.codegen.objects.object_code import assembly_of
from whet.codegen.objects.targets import host_target
from whet.dtypes import numpy_dtype
from whet.tests.kernel_runner import kernels_of
from whet.tests.test_types_small import CODES

Array = np.ndarray[Any, np.dtype[Any]]
LENGTH = 4099
STEP = {"float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Half a unit in the last place, relative."""

SINGLE = 2.0**-24


def model_of(node: onnx.NodeProto, arrays: dict[str, Array], dtype: str) -> onnx.ModelProto:
    inputs = [
        helper.make_tensor_value_info(n, CODES[a.dtype.name], a.shape) for n, a in arrays.items()
    ]
    out = helper.make_tensor_value_info("y", CODES[dtype], None)
    return helper.make_model(helper.make_graph([node], "half", inputs, [out]))


def compute(cache: Path, op: str, arrays: dict[str, Array], dtype: str, **attributes: Any) -> Array:
    node = helper.make_node(op, list(arrays), ["y"], **attributes)
    options = whet.Options(cache_dir=str(cache), threads=1)
    found = whet.compile(model_of(node, arrays, dtype), options=options)(arrays)["y"]
    assert found.dtype == numpy_dtype(dtype)
    return found.astype(np.float64)


def close(found: Array, expected: Array, scale: Array, dtype: str) -> None:
    """Compare with one rounding to half precision and a sum in single precision."""
    bound = STEP[dtype] * np.abs(expected) * 1.01 + 2 * SINGLE * np.sqrt(LENGTH) * scale + 1e-7
    assert (np.abs(found - expected) <= bound).all()


def draw(dtype: str, *shape: int) -> Array:
    values = np.random.default_rng(31).uniform(0.25, 1.0, shape)
    return values.astype(numpy_dtype(dtype))


def wide(x: Array) -> Array:
    return x.astype(np.float64)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_products(dtype: str, tmp_path: Path) -> None:
    a, b = draw(dtype, 3, LENGTH), draw(dtype, LENGTH, 5)
    expected = wide(a) @ wide(b)
    for op in ("MatMul", "Gemm"):
        close(compute(tmp_path, op, {"a": a, "b": b}, dtype), expected, expected, dtype)
    x, w = draw(dtype, 1, 515, 5, 5), draw(dtype, 4, 515, 3, 3)
    windows = np.lib.stride_tricks.sliding_window_view(wide(x), (3, 3), axis=(2, 3))
    expected = np.einsum("nchwij,mcij->nmhw", windows, wide(w))
    close(compute(tmp_path, "Conv", {"x": x, "w": w}, dtype), expected, expected, dtype)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_reductions(dtype: str, tmp_path: Path) -> None:
    x = draw(dtype, 3, LENGTH)
    total = wide(x).sum(axis=1)
    found = compute(tmp_path, "ReduceMean", {"x": x}, dtype)
    close(found.reshape(()), wide(x).mean(), np.ones(()), dtype)
    long = draw(dtype, 1, 2, 61, 67)
    mean = wide(long).mean(axis=(2, 3), keepdims=True)
    close(compute(tmp_path, "GlobalAveragePool", {"x": long}, dtype), mean, mean, dtype)
    centred = wide(x) - wide(x).mean(axis=1, keepdims=True)
    normal = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    ones = np.ones(LENGTH, numpy_dtype(dtype))
    found = compute(tmp_path, "LayerNormalization", {"x": x, "s": ones}, dtype, axis=1)
    close(found, normal, np.abs(normal), dtype)
    raised = np.exp(wide(x))
    share = raised / raised.sum(axis=1, keepdims=True)
    close(compute(tmp_path, "Softmax", {"x": x}, dtype, axis=1), share, share, dtype)
    small = (wide(x) / 64).astype(numpy_dtype(dtype))
    node = {"x": small, "axes": np.array([1], np.int64)}
    expected = wide(small).sum(axis=1)
    assert (expected < total).all()
    fixed = compute_fixed_axes(tmp_path, node, dtype)
    close(fixed, expected, expected, dtype)


def compute_fixed_axes(cache: Path, arrays: dict[str, Array], dtype: str) -> Array:
    """Return a sum along axes that are a constant."""
    node = helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=0)
    model = model_of(node, {"x": arrays["x"]}, dtype)
    model.graph.initializer.append(onnx.numpy_helper.from_array(arrays["axes"], "axes"))
    options = whet.Options(cache_dir=str(cache), threads=1)
    return whet.compile(model, options=options)({"x": arrays["x"]})["y"].astype(np.float64)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("rows", "share"), [(1, 1.0), (64, 2.0)])
def test_large_weights_of_few_rows_stay_half(
    dtype: str, rows: int, share: float, tmp_path: Path
) -> None:
    a, b = draw(dtype, rows, 1031), draw(dtype, 1031, 1023)
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    model = model_of(node, {"a": a}, dtype)
    model.graph.initializer.append(onnx.numpy_helper.from_array(b, "b"))
    calls, target = kernels_of(model)
    (root,) = [r for c in calls for r in c.roots if r.make is not None]
    if dtype == "bfloat16" and target.bfloat16_dot:
        share = 1.0
    assert root.size_bytes.constant == pytest.approx(share * b.nbytes, rel=0.1)
    options = whet.Options(cache_dir=str(tmp_path), threads=2)
    found = whet.compile(model, options=options)({"a": a})["y"].astype(np.float64)
    expected = wide(a) @ wide(b)
    close(found, expected, expected, dtype)


def test_float16_is_converted_by_instructions() -> None:
    host = host_target()
    if not host.triple.startswith("x86_64"):
        pytest.skip("looks for instructions of x86-64")
    arrays = {"a": draw("float16", 7, 33), "b": draw("float16", 33, 40)}
    node = helper.make_node("MatMul", ["a", "b"], ["y"])
    calls, target = kernels_of(model_of(node, arrays, "float16"))
    text = "".join(assembly_of(kernel_text("k", c.kernel, (), target), target) for c in calls)
    assert "vcvtph2ps" in text and "vcvtps2ph" in text
    assert "__truncsfhf2" not in text and "__extendhfsf2" not in text


def test_bfloat16_is_rounded_once() -> None:
    """A value that was rounded to bfloat16 is stored as it is."""
    arrays = {"x": draw("bfloat16", 5, 64), "s": draw("bfloat16", 64), "b": draw("bfloat16", 64)}
    node = helper.make_node("LayerNormalization", list(arrays), ["y"])
    calls, target = kernels_of(model_of(node, arrays, "bfloat16"))
    text = "".join(kernel_text("k", c.kernel, (), target) for c in calls)
    roundings = text.count("fcmp uno") + text.count(f"to <{target.lanes} x bfloat>")
    assert 0 < roundings <= text.count(f"store <{target.lanes} x i16>")


@pytest.mark.parametrize("op", ["Transpose", "Relu", "Neg", "Abs"])
def test_bfloat16_of_any_bits(op: str, tmp_path: Path) -> None:
    """All 65,536 patterns, NaN and subnormal numbers among them, once through a kernel."""
    x = np.arange(1 << 16, dtype=np.uint16).view(numpy_dtype("bfloat16")).reshape(256, 256)
    node = helper.make_node(op, ["x"], ["y"])
    options = whet.Options(cache_dir=str(tmp_path), threads=1)
    found = whet.compile(model_of(node, {"x": x}, "bfloat16"), options=options)({"x": x})["y"]
    single = x.astype(np.float32)
    with np.errstate(invalid="ignore"):
        expected = {
            "Transpose": single.T,
            "Relu": np.where(single < 0, np.float32(0), single),
            "Neg": -single,
            "Abs": np.abs(single),
        }[op]
    assert np.array_equal(found.astype(np.float32), expected, equal_nan=True)
