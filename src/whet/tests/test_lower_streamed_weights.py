"""Products of few rows read quantised weights as they are: results, sizes, and what stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import whet
from whet.dtypes import DTYPES, numpy_dtype
from whet.tests.test_types_small import CODES

Array = np.ndarray[Any, np.dtype[Any]]


def model_of(rows: int, q: Array, scale: Array, zero: Array | None, block: int) -> onnx.ModelProto:
    """Return ``x [rows, K]`` times weights ``[K, N]`` quantised in blocks along their depth."""
    names = ["q", "s"] + (["z"] if zero is not None else [])
    arrays = [q, scale] + ([zero] if zero is not None else [])
    constants = [numpy_helper.from_array(a, n) for n, a in zip(names, arrays, strict=True)]
    nodes = [
        helper.make_node("DequantizeLinear", names, ["w"], axis=0, block_size=block),
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Relu", ["m"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", CODES["float32"], [rows, q.shape[0]])
    graph = helper.make_graph(nodes, "few", [x], [onnx.ValueInfoProto(name="y")], constants)
    return onnx.shape_inference.infer_shapes(helper.make_model(graph))


@pytest.mark.parametrize("rows", [1, 3, 9])
@pytest.mark.parametrize("dtype", ["int4", "uint4", "int8", "uint8"])
def test_dequantised_in_registers(rows: int, dtype: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(rows)
    depth, cols, block = 96, 192, 32
    low, high = DTYPES[dtype].limits
    kind = numpy_dtype(dtype)
    q = rng.integers(low, high + 1, (depth, cols))
    scale = rng.uniform(0.01, 0.1, (depth // block, cols)).astype(np.float32)
    zero = rng.integers(low, high + 1, scale.shape) if dtype.startswith("u") else None
    given = None if zero is None else zero.astype(kind)
    model = model_of(rows, q.astype(kind), scale, given, block)
    compiled = whet.compile(model, options=whet.Options(cache_dir=str(tmp_path), threads=2))
    x = rng.standard_normal((rows, depth)).astype(np.float32)
    shift = 0 if zero is None else np.repeat(zero, block, axis=0)
    weights = (q - shift) * np.repeat(scale.astype(np.float64), block, axis=0)
    exact = np.maximum(x.astype(np.float64) @ weights, 0)
    bound = 1e-6 * depth * np.abs(x).max() * np.abs(weights).max()
    np.testing.assert_allclose(compiled({"x": x})["y"], exact, rtol=0, atol=bound)
    streamed = compiled.stats.weight_bytes < q.size * 2
    assert streamed == (rows <= 4), "only few rows wait for their weights"


def test_odd_columns_stay_a_product(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    q = rng.integers(-128, 128, (64, 37)).astype(np.int8)
    scale = np.full((2, 37), 0.5, np.float32)
    model = model_of(1, q, scale, None, 32)
    compiled = whet.compile(model, options=whet.Options(cache_dir=str(tmp_path), threads=1))
    assert compiled.stats.weight_bytes >= 4 * q.size
    x = rng.standard_normal((1, 64)).astype(np.float32)
    exact = np.maximum(x.astype(np.float64) @ (q * 0.5), 0)
    np.testing.assert_allclose(compiled({"x": x})["y"], exact, atol=1e-2)
