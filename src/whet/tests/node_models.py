"""Models of one node, compiled: run between forbidden pages and compared with its equations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

import whet
from whet.dtypes import DTYPES, numpy_dtype
from whet.runtime.model import CompiledModel
from whet.tests.fences import fenced
from whet.tests.ops_harness import OPSET, Shape, run_node

Array = np.ndarray[Any, np.dtype[Any]]
COMPUTED = sorted(n for n, d in DTYPES.items() if d.kind != "e" and not d.is_packed)
"""Types that are computed with."""


@dataclass(frozen=True)
class NodeModel:
    """One node with its inputs.

    Attributes:
        op: operator type.
        arrays: inputs in order; ``None`` where one is left out.
        attributes: attributes of the node.
        constants: positions of inputs that are constants of the model.
        outputs: how many outputs it has.
        symbols: shapes of inputs with names for run-time dimensions, by position.
    """

    op: str
    arrays: Sequence[Array | None]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    constants: frozenset[int] = frozenset()
    outputs: int = 1
    symbols: Mapping[int, Shape] = field(default_factory=dict)

    @property
    def names(self) -> list[str]:
        """Names of the outputs."""
        return [f"y{k}" for k in range(self.outputs)]

    def node(self) -> onnx.NodeProto:
        """Return the node."""
        names = ["" if a is None else f"x{k}" for k, a in enumerate(self.arrays)]
        return helper.make_node(self.op, names, self.names, name="node", **self.attributes)

    def given(self) -> dict[str, Array]:
        """Return the inputs that are no constants."""
        pairs = ((k, a) for k, a in enumerate(self.arrays) if k not in self.constants)
        return {f"x{k}": a for k, a in pairs if a is not None}

    def model(self) -> onnx.ModelProto:
        """Return the node as a model."""
        inputs = [
            helper.make_tensor_value_info(
                name,
                helper.np_dtype_to_tensor_dtype(a.dtype),
                self.symbols.get(int(name[1:]), a.shape),
            )
            for name, a in self.given().items()
        ]
        weights = [
            numpy_helper.from_array(a, f"x{k}")
            for k, a in enumerate(self.arrays)
            if k in self.constants and a is not None
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in self.names]
        graph = helper.make_graph([self.node()], "one", inputs, outputs, weights)
        imports = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    def compiled(self, threads: int = 1) -> CompiledModel:
        """Compile the model."""
        return whet.compile(self.model(), options=whet.Options(threads=threads))

    def equations(self) -> list[Array]:
        """Return what the interpreter makes of the node's equations."""
        arrays = {f"x{k}": a for k, a in enumerate(self.arrays) if a is not None}
        shapes = {f"x{k}": s for k, s in self.symbols.items()}
        return run_node(self.node(), arrays, shapes)

    def run(self, model: CompiledModel, *, at_end: bool = True) -> list[Array]:
        """Run the compiled node with all arrays next to forbidden pages."""
        around = {n: fenced(a, at_end=at_end) for n, a in self.given().items()}
        plain = model(self.given())
        results = {n: fenced(np.zeros_like(a), at_end=at_end) for n, a in plain.items()}
        model.run(around, outputs=results)
        return [results[name] for name in self.names]

    def check(self, expected: Sequence[Array] | None = None, *, threads: int = 1) -> None:
        """Compare the compiled node with its equations, and both with what is expected."""
        model = self.compiled(threads)
        meant = self.equations()
        for at_end in (True, False):
            for found, right in zip(self.run(model, at_end=at_end), meant, strict=True):
                assert_same(found, right)
        for found, right in zip(meant, expected or [], strict=False):
            assert_same(found, np.asarray(right))


def assert_same(found: Array, expected: Array) -> None:
    """Compare types, shapes and elements; sums of floats may differ by rounding."""
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    if found.dtype.kind in "biu":
        np.testing.assert_array_equal(found, expected)
        return
    small = found.dtype.itemsize == 2
    tolerance = 1e-2 if small else 1e-5
    wide = expected.astype(np.float64)
    np.testing.assert_allclose(found.astype(np.float64), wide, rtol=tolerance, atol=tolerance)


def numbers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Array:
    """Return random elements of a type: small integers, or floats with halves and quarters."""
    kind = np.dtype(numpy_dtype(dtype))
    if kind.kind == "b":
        return rng.random(shape) < 0.5
    low = 0 if kind.kind == "u" else -6
    whole = rng.integers(low, 7, shape)
    return (whole if kind.kind in "iu" else whole / 4).astype(kind)
