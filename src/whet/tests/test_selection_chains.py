"""Random chains of scans, scatters, sorts and filters between other operators, at every level."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import whet
from whet.tests.ops_harness import OPSET
from whet.tests.seeds import seeds_of_models

Array = np.ndarray[Any, np.dtype[Any]]
STEPS = 5
LIMIT = 9.0
"""Values stay small integers, so that every order of additions gives the same sum."""


class Chain:
    """A model that grows by one operator at a time; ``value`` is the last result.

    Args:
        seed: of the random choices.
    """

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shape = tuple(int(n) for n in self.rng.choice((2, 3, 5, 17), 4))
        self.x = self.integers(self.shape)
        self.value = "x"

    def integers(self, shape: tuple[int, ...]) -> Array:
        """Return small integers as floats."""
        return self.rng.integers(-3, 4, shape).astype(np.float32)

    def constant(self, array: Array) -> str:
        """Add a constant."""
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def add(self, op: str, *inputs: str, outputs: int = 1, **attributes: Any) -> list[str]:
        """Add a node; returns the names of its outputs."""
        names = [f"t{len(self.nodes)}.{k}" for k in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names

    def step(self) -> None:
        """Add a random operator, and keep its result small."""
        kinds: list[Callable[[], str]] = [
            self.total, self.first, self.put, self.put_rows, self.turned, self.joined, self.mixed,
        ]  # fmt: skip
        result = kinds[int(self.rng.integers(len(kinds)))]()
        low, high = (self.constant(np.array(v, np.float32)) for v in (-LIMIT, LIMIT))
        (self.value,) = self.add("Clip", result, low, high)

    def axis(self) -> int:
        """Return a random axis."""
        return int(self.rng.integers(4))

    def total(self) -> str:
        """Add a running total."""
        exclusive, reverse = (int(v) for v in self.rng.integers(0, 2, 2))
        axis = self.constant(np.array(self.axis()))
        return self.add("CumSum", self.value, axis, exclusive=exclusive, reverse=reverse)[0]

    def first(self) -> str:
        """Take the largest or smallest, and add their positions to them."""
        axis = self.axis()
        k = int(self.rng.integers(1, self.shape[axis] + 1))
        values, positions = self.add(
            "TopK", self.value, self.constant(np.array([k])), outputs=2, axis=axis,
            largest=int(self.rng.integers(2)),
        )  # fmt: skip
        self.shape = (*self.shape[:axis], k, *self.shape[axis + 1 :])
        (number,) = self.add("Cast", positions, to=onnx.TensorProto.FLOAT)
        return self.add("Add", values, number)[0]

    def put(self) -> str:
        """Put elements of the value itself to other places of it."""
        axis = self.axis()
        rows = tuple(int(self.rng.integers(1, n + 1)) for n in self.shape)
        zeros, ends = (self.constant(np.array(v)) for v in ([0] * 4, rows))
        (part,) = self.add("Slice", self.value, zeros, ends)
        indices = self.constant(self.rng.integers(-self.shape[axis], self.shape[axis], rows))
        reduction = str(self.rng.choice(["none", "add", "max"]))
        return self.add(
            "ScatterElements", self.value, indices, part, axis=axis, reduction=reduction
        )[0]

    def put_rows(self) -> str:
        """Add constant rows at places that repeat."""
        depth = int(self.rng.integers(1, 4))
        parts = [self.rng.integers(-n, n, (6, 1)) for n in self.shape[:depth]]
        indices = self.constant(np.concatenate(parts, axis=1))
        rows = self.constant(self.integers((6, *self.shape[depth:])))
        return self.add("ScatterND", self.value, indices, rows, reduction="add")[0]

    def turned(self) -> str:
        """Swap axes, after some arithmetic."""
        order = [int(k) for k in self.rng.permutation(4)]
        (double,) = self.add("Mul", self.value, self.constant(np.array(2, np.float32)))
        self.shape = tuple(self.shape[k] for k in order)
        return self.add("Transpose", double, perm=order)[0]

    def joined(self) -> str:
        """Put the value and a running total of it side by side."""
        axis = self.axis()
        other = self.total()
        self.shape = (*self.shape[:axis], 2 * self.shape[axis], *self.shape[axis + 1 :])
        return self.add("Concat", self.value, other, axis=axis)[0]

    def mixed(self) -> str:
        """Mix channels, whose result lies channels last in memory."""
        weights = self.constant(self.integers((7, self.shape[1], 1, 1)))
        self.shape = (self.shape[0], 7, *self.shape[2:])
        return self.add("Conv", self.value, weights)[0]

    def model(self) -> onnx.ModelProto:
        """Return the model: the value, what is kept of it, and its different elements."""
        length = self.shape[1] * self.shape[2]
        keep = self.constant(self.rng.random(length) < 0.5)
        (kept,) = self.add("Compress", self.value, keep)
        unique = self.add("Unique", self.value, outputs=4, sorted=int(self.rng.integers(2)))
        (places,) = self.add("NonZero", self.value)
        outputs = [onnx.ValueInfoProto(name=n) for n in (self.value, kept, places, *unique)]
        code = onnx.TensorProto.FLOAT
        inputs = [helper.make_tensor_value_info("x", code, self.x.shape)]
        graph = helper.make_graph(self.nodes, "chain", inputs, outputs, self.constants)
        imports = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)


def unique(x: Array, ordered: bool) -> list[Array]:
    """Return what Unique means; the reference takes the rows of unsorted elements."""
    values, first, back, counts = np.unique(x, True, True, True)
    by = np.arange(len(first)) if ordered else np.argsort(first)
    return [values[by], first[by], np.argsort(by)[back.reshape(-1)], counts[by]]


def meaning(model: onnx.ModelProto, x: Array) -> list[Array]:
    """Return the outputs of a chain; Unique is not left to the reference."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    last = next(n for n in plain.graph.node if n.op_type == "Unique")
    plain.graph.node.remove(last)
    del plain.graph.output[3:]
    outputs: Any = ReferenceEvaluator(plain).run(None, {"x": x})
    found = [np.asarray(a) for a in outputs]
    return found + unique(found[0], bool(last.attribute[0].i))


def check(seed: int, level: int) -> None:
    chain = Chain(seed)
    for _ in range(STEPS):
        chain.step()
    model = chain.model()
    compiled = whet.compile(model, options=whet.Options(opt_level=level, threads=2))
    outputs = compiled({"x": chain.x})
    names = [o.name for o in model.graph.output]
    for name, right in zip(names, meaning(model, chain.x), strict=True):
        np.testing.assert_array_equal(outputs[name], right, err_msg=name)


@pytest.mark.parametrize("level", range(4))
def test_chains(level: int) -> None:
    for seed in seeds_of_models(3):
        check(seed + level, level)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("level", range(4))
def test_many_chains(level: int) -> None:
    for seed in seeds_of_models(100):
        check(seed + level, level)
