"""What the tests of graph passes share: small models from ONNX text, and the four checks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from whet.frontend.load import load_model
from whet.graph.opset import canonical_opset
from whet.graph.text import graph_text

Array = np.ndarray[Any, Any]

RELATIVE_TOLERANCE = 2e-5
"""Of float32 results whose operations were reordered, relative to the largest element."""


def build(text: str, **constants: Array) -> ir.Model:
    """Build a canonical model from the body of an ONNX text.

    Inputs of the text that are named in ``constants`` become initialisers.
    """
    header = f'<ir_version: 10, opset_import: ["": {canonical_opset()}]>'
    model = ir.from_onnx_text(f"{header}\n{text}")
    graph = model.graph
    for value in list(graph.inputs):
        if value.name in constants:
            graph.inputs.remove(value)
            array = constants[value.name]
            value.const_value = ir.Tensor(array, name=value.name)
            value.type = ir.TensorType(value.const_value.dtype)
            value.shape = ir.Shape(array.shape)
            graph.register_initializer(value)
    return load_model(model)


def random(*shape: int, seed: int = 0, low: float = -1.0, high: float = 1.0) -> Array:
    """Return seeded float32 numbers."""
    return np.random.default_rng(seed).uniform(low, high, shape).astype(np.float32)


def feeds(model: ir.Model, seed: int = 1, dim: int = 2) -> dict[str, Array]:
    """Return seeded inputs for a model; symbolic dims become ``dim``."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for value in model.graph.inputs:
        shape = [d if isinstance(d, int) else dim for d in value.shape or ()]
        kind = np.dtype((value.dtype or ir.DataType.FLOAT).numpy())
        numbers = rng.uniform(-2, 2, shape)
        arrays[value.name or ""] = numbers > 0 if kind == np.bool_ else numbers.astype(kind)
    return arrays


def evaluate(model: ir.Model, inputs: dict[str, Array]) -> list[Array]:
    """Run a model in ``onnx.reference``."""
    with np.errstate(all="ignore"):
        return [np.asarray(r) for r in ReferenceEvaluator(ir.to_proto(model)).run(None, inputs)]


def peer(model: ir.Model, inputs: dict[str, Array], opset: int = 22) -> Array:
    """Run a model in ONNX Runtime as one of an older ``opset``, and return its first output."""
    runtime = pytest.importorskip("onnxruntime")
    proto = ir.to_proto(model)
    proto.opset_import[0].version = opset
    return np.asarray(runtime.InferenceSession(proto.SerializeToString()).run(None, inputs)[0])


def nodes_text(model: ir.Model) -> str:
    """Return the lines of the graph text that are nodes."""
    return "\n".join(x.strip() for x in graph_text(model).splitlines() if x.startswith("%"))


def assert_rewrites(
    run: Callable[[ir.Model], int], model: ir.Model, expected: str, rewrites: int = 1
) -> None:
    """Check a pass: exact text, agreement with the reference, interface kept, idempotence."""
    inputs = feeds(model)
    before = evaluate(model, inputs)
    interface = [v.name for v in (*model.graph.inputs, *model.graph.outputs)]
    assert run(model) == rewrites
    lines = "\n".join(line.strip() for line in expected.strip().splitlines())
    assert nodes_text(model) == lines
    assert [v.name for v in (*model.graph.inputs, *model.graph.outputs)] == interface
    for old, new in zip(before, evaluate(model, inputs), strict=True):
        assert old.shape == new.shape
        assert old.dtype == new.dtype
        scale = float(np.abs(old).max(initial=0.0)) if old.dtype.kind == "f" else 1.0
        np.testing.assert_allclose(new, old, rtol=0, atol=RELATIVE_TOLERANCE * scale)
    assert run(model) == 0
    assert nodes_text(model) == lines


def assert_left_alone(run: Callable[[ir.Model], int], model: ir.Model) -> None:
    """Check that a pass changes nothing."""
    before = graph_text(model)
    assert run(model) == 0
    assert graph_text(model) == before
