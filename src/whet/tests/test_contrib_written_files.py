"""Files that ONNX Runtime's optimiser and quantiser write give what ONNX Runtime gives on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper

import whet
from whet.tests.contrib_harness import Array, normal

pytestmark = [pytest.mark.slow, pytest.mark.peer]

STEPS = 2
"""By how many quantisation steps an output may differ, where roundings of two inputs differ."""

BLOCK = """<ir_version: 8, opset_import: ["": 17]>
block (float[batch,4,16] x) => (float[batch,4,16] y) {
  half = Constant<value = float {0.5}>() one = Constant<value = float {1.0}>()
  root = Constant<value = float {1.4142135}>()
  p = MatMul(x, w1) q = Add(p, b1)
  d = Div(q, root) e = Erf(d) f = Add(e, one) g = Mul(q, f) h = Mul(g, half)
  r = MatMul(h, w2) s = Add(r, b2) t = Add(s, x)
  y = LayerNormalization<axis = -1, epsilon = 0.00001>(t, gain, bias)
}"""
CONVOLUTIONS = """<ir_version: 8, opset_import: ["": 17]>
convolutions (float[batch,4,8,8] x) => (float[batch,8] y) {
  a = Conv<kernel_shape = [3,3], pads = [1,1,1,1]>(x, k1, c1) b = Relu(a)
  c = Conv<kernel_shape = [3,3], pads = [1,1,1,1]>(b, k2, c2) d = Add(c, b) e = Relu(d)
  f = GlobalAveragePool(e) g = Flatten(f)
  y = Gemm<transB = 1>(g, w3, c3)
}"""
WEIGHTS = {
    "block": {
        "w1": (16, 32), "b1": (32,), "w2": (32, 16), "b2": (16,), "gain": (16,), "bias": (16,),
    },
    "convolutions": {
        "k1": (8, 4, 3, 3), "c1": (8,), "k2": (8, 8, 3, 3), "c2": (8,), "w3": (8, 8), "c3": (8,),
    },
}  # fmt: skip
INPUTS = {"block": (4, 16), "convolutions": (4, 8, 8)}


def write(name: str, path: Path) -> Path:
    """Write a small model with random weights."""
    model = onnx.parser.parse_model(BLOCK if name == "block" else CONVOLUTIONS)
    for seed, (weight, shape) in enumerate(WEIGHTS[name].items()):
        array = normal(*shape, seed=seed) / np.float32(np.sqrt(np.prod(shape[1:])))
        model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), weight))
    onnx.save(model, path)
    return path


def optimised(source: Path, target: Path) -> None:
    import onnxruntime as runtime

    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(target)
    runtime.InferenceSession(str(source), options)


def quantised(source: Path, target: Path, form: str) -> None:
    quantization = pytest.importorskip("onnxruntime.quantization")
    if form == "dynamic":
        quantization.quantize_dynamic(source, target)
        return
    shape = INPUTS[source.stem]

    class Samples(quantization.CalibrationDataReader):  # type: ignore[misc, name-defined]
        """Yields a few random batches."""

        def __init__(self) -> None:
            self.left: Iterator[dict[str, Array]] = iter(
                [{"x": normal(3, *shape, seed=k)} for k in range(3)]
            )

        def get_next(self) -> dict[str, Array] | None:
            """Return the next batch, or ``None`` after the last one."""
            return next(self.left, None)

    kind = quantization.QuantFormat.QDQ if form == "qdq" else quantization.QuantFormat.QOperator
    quantization.quantize_static(source, target, Samples(), quant_format=kind)


def agree(path: Path, name: str, quantum: float) -> set[str]:
    """Compare on three batch sizes; return the domains that the file uses."""
    runtime = pytest.importorskip("onnxruntime")
    settings: Any = runtime.SessionOptions()
    settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(str(path), settings)
    compiled = whet.compile(path, options=whet.Options(threads=1))
    for batch in (1, 2, 5):
        x = normal(batch, *INPUTS[name], seed=batch)
        (expected,) = session.run(None, {"x": x})
        (found,) = compiled.run({"x": x}).values()
        reach = float(np.abs(expected).max())
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=max(1e-5, quantum) * reach)
    return {node.domain for node in onnx.load(path).graph.node}


@pytest.mark.parametrize("name", ["block", "convolutions"])
def test_optimised_files(name: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    source, target = write(name, tmp_path / f"{name}.onnx"), tmp_path / "optimised.onnx"
    optimised(source, target)
    assert "com.microsoft" in agree(target, name, 0.0)


@pytest.mark.parametrize("form", ["dynamic", "qdq", "operators"])
@pytest.mark.parametrize("name", ["block", "convolutions"])
@pytest.mark.filterwarnings("ignore")
def test_quantised_files(name: str, form: str, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    source, target = write(name, tmp_path / f"{name}.onnx"), tmp_path / "quantised.onnx"
    quantised(source, target, form)
    domains = agree(target, name, STEPS / 127)
    assert form != "operators" or "com.microsoft" in domains
