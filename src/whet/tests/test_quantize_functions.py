"""Functions between layers that read 8 bits: which ones, and that they are looked up."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

import whet
from whet.kernel.expr import Call, Read, byte_of, walk
from whet.tests.kernel_runner import kernels_of
from whet.tests.quantized_models import function_net

Array = np.ndarray[Any, np.dtype[Any]]
REWRITES = {"tabulate_bytes": None}


def samples(seed: int, n: int = 16) -> Array:
    """Return images."""
    return np.random.default_rng(seed).standard_normal((n, 3, 9, 7)).astype(np.float32)


def quantised(*, functions: bool) -> onnx.ModelProto:
    model = function_net(np.random.default_rng(3))
    return whet.quantize(model, samples(1), config={"functions": functions}).model


def stores(model: onnx.ModelProto) -> list[Any]:
    """Return everything that is done with sums."""
    calls, _ = kernels_of(model, rewrites=REWRITES)
    return [e for c in calls for s in c.kernel.stores for e in walk(s.value)]  # type: ignore[union-attr]


def test_they_are_tables() -> None:
    plain, made = (stores(quantised(functions=on)) for on in (False, True))
    tables = [
        [e for e in found if isinstance(e, Read) and byte_of(e.address)] for found in (plain, made)
    ]
    assert not tables[0]
    assert len({e.param for e in tables[1]}) >= 1
    names = [{e.op for e in found if isinstance(e, Call)} for found in (plain, made)]
    assert "sigmoid" in names[0] or "silu" in names[0]
    assert not names[1] & {"sigmoid", "silu"}


def test_others_stay() -> None:
    """A Relu costs nothing behind a sum, and no layer reads what the last function makes."""
    made = quantised(functions=True)
    produced = {o: n.op_type for n in made.graph.node for o in n.output}
    read = {n.op_type: produced.get(n.input[0]) for n in made.graph.node}
    assert read["HardSwish"] == "DequantizeLinear"
    assert read["Relu"] == "Conv"
    assert read["Tanh"] == "Conv"


def test_results() -> None:
    model, made = function_net(np.random.default_rng(3)), quantised(functions=True)
    x = samples(2)
    expected, found = (whet.compile(m)({"x": x})["y"] for m in (model, made))
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.998
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(made.SerializeToString(), options)
    assert np.abs(session.run(None, {"x": x})[0] - found).max() < 0.05
