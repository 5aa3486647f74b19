"""QDQ models from end to end: few kernels, and ONNX Runtime's results within one step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import whet
from whet.tests.test_types_small import CODES

Array = np.ndarray[Any, np.dtype[Any]]


def residual_model(kind: str, channels: int, filters: int, *, seed: int) -> onnx.ModelProto:
    """Return input, convolution, Relu, convolution, addition of the first, output, all in QDQ."""
    rng = np.random.default_rng(seed)
    constants: dict[str, Array] = {}
    nodes: list[onnx.NodeProto] = []

    def pair(name: str, source: str, scale: float, zero: int) -> str:
        constants[f"{name}_s"] = np.asarray(scale, np.float32)
        constants[f"{name}_z"] = np.asarray(zero, kind)
        parameters = [f"{name}_s", f"{name}_z"]
        nodes.append(helper.make_node("QuantizeLinear", [source, *parameters], [f"{name}_q"]))
        nodes.append(helper.make_node("DequantizeLinear", [f"{name}_q", *parameters], [name]))
        return name

    def conv(name: str, source: str, scale: float, inner: int) -> str:
        scales = rng.uniform(0.002, 0.02, filters).astype(np.float32)
        constants[f"{name}_w"] = rng.integers(-128, 128, (filters, inner, 3, 3)).astype(np.int8)
        constants[f"{name}_ws"] = scales
        constants[f"{name}_b"] = rng.integers(-9000, 9000, filters).astype(np.int32)
        constants[f"{name}_bs"] = (np.float32(scale) * scales).astype(np.float32)
        for part, end in (("w", "ws"), ("b", "bs")):
            given = [f"{name}_{part}", f"{name}_{end}"]
            nodes.append(helper.make_node("DequantizeLinear", given, [f"{name}_{part}f"], axis=0))
        given = [source, f"{name}_wf", f"{name}_bf"]
        nodes.append(helper.make_node("Conv", given, [name], pads=[1, 1, 1, 1]))
        return name

    signed = kind == "int8"
    first = pair("x1", "x", 0.03, -7 if signed else 121)
    nodes.append(helper.make_node("Relu", [conv("c1", first, 0.03, channels)], ["r1"]))
    second = pair("x2", "r1", 0.11, -128 if signed else 0)
    third = pair("x3", conv("c2", second, 0.11, filters), 0.4, 3 if signed else 131)
    nodes.append(helper.make_node("Add", [third, second], ["a"]))
    pair("y", "a", 0.37, -5 if signed else 123)
    initializers = [numpy_helper.from_array(v, n) for n, v in constants.items()]
    x = helper.make_tensor_value_info("x", CODES["float32"], [1, channels, 9, 11])
    y = helper.make_tensor_value_info("y", CODES["float32"], [1, filters, 9, 11])
    graph = helper.make_graph(nodes, "residual", [x], [y], initializers)
    opsets = [helper.make_opsetid("", 21)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize(
    ("kind", "channels", "filters"), [("uint8", 3, 17), ("int8", 5, 33), ("uint8", 16, 64)]
)
def test_residual_block(kind: str, channels: int, filters: int, tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime")
    model = residual_model(kind, channels, filters, seed=channels)
    compiled = whet.compile(model, options=whet.Options(cache_dir=str(tmp_path), threads=2))
    products = [g for g in compiled.stats.groups if g.kernel.startswith("contraction")]
    assert [any("Integer" in op for op in g.ops) for g in products] == [True, True]
    assert "QuantizeLinear" in products[-1].ops and "Add" in products[-1].ops
    rng = np.random.default_rng(4)
    x = (rng.standard_normal((1, channels, 9, 11)) * 3).astype(np.float32)
    session = runtime.InferenceSession(model.SerializeToString())
    expected = session.run(None, {"x": x})[0]
    found = compiled({"x": x})["y"]
    steps = np.abs(np.rint(found / 0.37) - np.rint(expected / 0.37))
    assert steps.max() <= 1
    assert (steps > 0).mean() < 0.02
    assert len(np.unique(expected)) > 100, "the values saturate at both ends and fill the range"
