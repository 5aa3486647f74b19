"""A graph under construction whose every value is known, so that only nodes that work are kept."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from whet.dtypes import numpy_dtype
from whet.graph.opset import canonical_opset

Array = np.ndarray[Any, np.dtype[Any]]
EXTENTS = (1, 2, 3, 4, 5, 7, 8, 16, 17)
MOST_ELEMENTS = 4096
LARGEST = 1e4
"""Values beyond this are turned away: their errors drown those of everything else."""

_TRIES = 3


@dataclass(frozen=True)
class Proposal:
    """A node that a generator proposes: operator, inputs by name, attributes."""

    op: str
    inputs: Sequence[str]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    outputs: int = 1


Generator = Callable[["Draft"], Proposal]
"""Proposes a random node of one operator; it may turn out not to work."""


class Draft:
    """A graph under construction.

    Args:
        seed: what all choices come from.
        dtype: the type that most floats have.
    """

    def __init__(self, seed: int, dtype: str = "float32") -> None:
        self.rng = np.random.default_rng(seed)
        self.dtype = dtype
        self.values: dict[str, Array] = {}
        self.inputs: list[str] = []
        self.constants: list[str] = []
        self.nodes: list[onnx.NodeProto] = []

    # -- choosing ----------------------------------------------------------------------------

    def choice(self, items: Sequence[Any]) -> Any:
        """Return one of some items."""
        return items[int(self.rng.integers(len(items)))]

    def integer(self, low: int, high: int) -> int:
        """Return an integer from ``low`` to ``high``, both included."""
        return int(self.rng.integers(low, high + 1))

    def likely(self, chance: float) -> bool:
        """Return ``True`` with a probability."""
        return bool(self.rng.random() < chance)

    def shape(self, rank: int | None = None) -> tuple[int, ...]:
        """Return a random shape of few elements."""
        found = tuple(
            self.choice(EXTENTS) for _ in range(self.integer(0, 4) if rank is None else rank)
        )
        while math.prod(found) > MOST_ELEMENTS:
            found = tuple(max(e // 2, 1) for e in found)
        return found

    # -- values ------------------------------------------------------------------------------

    def numbers(self, shape: Sequence[int], dtype: str) -> Array:
        """Return numbers that every type holds exactly: multiples of 1/8 near 0, small integers."""
        kind = numpy_dtype(dtype)
        if kind.kind == "b":
            return self.rng.integers(0, 2, shape).astype(bool)
        if kind.kind in "iu":
            return self.rng.integers(0 if kind.kind == "u" else -5, 6, shape).astype(kind)
        return (self.rng.integers(-16, 17, shape) / 8).astype(kind)

    def fresh(self, array: Array, *, constant: bool | None = None) -> str:
        """Add an input or a constant with a value and return its name."""
        fixed = self.likely(0.5) if constant is None else constant
        names = self.constants if fixed else self.inputs
        name = f"{'c' if fixed else 'x'}{len(names)}"
        names.append(name)
        self.values[name] = np.asarray(array)
        return name

    def parameter(self, values: Any, dtype: str = "int64") -> str:
        """Add a constant that says how a node works, such as axes."""
        return self.fresh(np.array(values, numpy_dtype(dtype)), constant=True)

    def some(self, dtype: str | None = None, rank: int | Sequence[int] | None = None) -> str:
        """Return a value of a type and rank: one that is there, or a new one."""
        wanted = dtype or self.dtype
        ranks = (rank,) if isinstance(rank, int) else rank
        known = [
            name
            for name, array in self.values.items()
            if array.dtype.name == wanted
            and (ranks is None or array.ndim in ranks)
            and name not in self.constants
        ]
        if known and self.likely(0.8):
            return str(self.choice(known[-4:]))
        extent = None if ranks is None else self.choice(tuple(ranks))
        return self.fresh(self.numbers(self.shape(extent), wanted), constant=False)

    def like(self, name: str, *, broadcast: bool = True) -> str:
        """Return a value whose shape broadcasts to that of another, of its type."""
        shape, dtype = self.values[name].shape, self.values[name].dtype
        same = [n for n, a in self.values.items() if a.dtype == dtype and a.shape == shape]
        if self.likely(0.4):
            return str(self.choice(same))
        if broadcast and self.likely(0.5):
            shape = tuple(e if self.likely(0.6) else 1 for e in shape)[
                self.integer(0, len(shape)) :
            ]
        return self.fresh(self.numbers(shape, dtype.name))

    def of(self, name: str) -> Array:
        """Return a value."""
        return self.values[name]

    # -- nodes -------------------------------------------------------------------------------

    def append(self, proposal: Proposal) -> bool:
        """Append a node if the reference computes it and all results are ordinary numbers.

        Inputs that nothing else reads are drawn anew a few times where results are not.
        """
        outputs = [f"v{len(self.nodes)}_{k}" for k in range(proposal.outputs)]
        name = f"{proposal.op}_{len(self.nodes)}"
        attributes = dict(proposal.attributes)
        node = helper.make_node(proposal.op, proposal.inputs, outputs, name=name, **attributes)
        read = {n for other in self.nodes for n in other.input}
        for _ in range(_TRIES):
            results = evaluate(node, {n: self.values[n] for n in proposal.inputs if n})
            if results is None:
                return False
            if all(map(_ordinary, results)):
                self.nodes.append(node)
                self.values.update(zip(outputs, results, strict=True))
                return True
            for fed in set(proposal.inputs) & set(self.inputs) - read:
                array = self.values[fed]
                self.values[fed] = np.asarray(self.numbers(array.shape, array.dtype.name))
        return False

    def model(self, *, symbolic: bool = False) -> onnx.ModelProto:
        """Return the graph; its outputs are all values that nothing reads, and some others.

        In symbolic form every extent above 1 of an input is a dimension named after its size.
        """
        read = {n for node in self.nodes for n in node.input}
        made = [n for node in self.nodes for n in node.output]
        ends = [n for n in made if n not in read or self.likely(0.1)]
        graph = helper.make_graph(
            self.nodes,
            "fuzz",
            [_info(n, self.values[n], symbolic=symbolic) for n in self.inputs if n in read],
            [helper.make_tensor_value_info(n, _kind(self.values[n]), None) for n in ends],
            [numpy_helper.from_array(self.values[n], n) for n in self.constants if n in read],
        )
        imports = [helper.make_opsetid("", canonical_opset())]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    def feeds(self, model: onnx.ModelProto) -> dict[str, Array]:
        """Return the inputs of the model."""
        return {value.name: self.values[value.name] for value in model.graph.input}


def evaluate(node: onnx.NodeProto, feeds: Mapping[str, Array]) -> list[Array] | None:
    """Return what the reference computes for one node; ``None`` if it does not."""
    opsets = [helper.make_opsetid("", canonical_opset())]
    function = helper.make_function("f", "f", list(feeds), list(node.output), [node], opsets)
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            found = ReferenceEvaluator(function).run(list(node.output), dict(feeds), {})
        except Exception:  # noqa: BLE001 - it raises whatever NumPy raises
            return None
    arrays = [np.asarray(a) for a in found]
    return arrays if all(a.dtype != object for a in arrays) else None


def _ordinary(array: Array) -> bool:
    if not 0 < array.size <= MOST_ELEMENTS:
        return False
    wide = array.astype(np.float64)
    return bool(np.isfinite(wide).all() and np.abs(wide).max() <= LARGEST)


def _kind(array: Array) -> int:
    return int(helper.np_dtype_to_tensor_dtype(array.dtype))


def _info(name: str, array: Array, *, symbolic: bool) -> onnx.ValueInfoProto:
    shape = [f"s{e}" if symbolic and e > 1 else e for e in array.shape]
    return helper.make_tensor_value_info(name, _kind(array), shape)
