"""The few edits that passes make to a graph, on top of what ``onnx_ir`` offers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import Any, Self

import numpy as np
import onnx_ir as ir

SOURCES_KEY = "whet.sources"
"""Metadata key of a node: the names of the source nodes it stands for, one a line."""

_BUDGET_KEY = "whet.rewrites"


class _BudgetSpent(Exception):
    """Ends a pass in front of the first rewrite that its budget does not allow."""


class RewriteBudget:
    """Limits how many rewrites passes may make in a model, inside a ``with`` block.

    Every edit of a pass asks for its permission with ``begin_rewrite``, in front of the first
    change, so that a pass that is cut short leaves a sound graph.

    Args:
        model: the model; the budget holds for its main graph and all bodies in it together.
        limit: rewrites allowed.

    Attributes:
        spent: rewrites made.
    """

    def __init__(self, model: ir.Model, limit: int) -> None:
        self.spent = 0
        self._limit = limit
        self._graphs = list(model.graphs())

    def __enter__(self) -> Self:
        for graph in self._graphs:
            graph.meta[_BUDGET_KEY] = self
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        for graph in self._graphs:
            del graph.meta[_BUDGET_KEY]
        return isinstance(error, _BudgetSpent)

    def spend(self) -> None:
        """Count one rewrite, or end the pass."""
        if self.spent >= self._limit:
            raise _BudgetSpent
        self.spent += 1


def name_of(node: ir.Node) -> str:
    """Return a node's name, or one from its operator and first output if it has none."""
    return node.name or f"{node.op_type}_{node.outputs[0].name if node.outputs else ''}"


def begin_rewrite(graph: ir.Graph | None) -> None:
    """Announce a rewrite of a graph; it is counted where a ``RewriteBudget`` limits them.

    ``replace_nodes`` and ``bypass`` do so themselves; a pass that edits by other means calls this
    in front of its first change.
    """
    budget = None if graph is None else graph.meta.get(_BUDGET_KEY)
    if isinstance(budget, RewriteBudget):
        budget.spend()


class Names:
    """Hands out value and node names that are unused in one model.

    The model is looked through when the first name is asked for: most passes find nothing to do.
    """

    def __init__(self, model: ir.Model) -> None:
        self._model = model
        self._counts: dict[str, int] = {}

    @cached_property
    def _taken(self) -> set[str]:
        taken: set[str] = set()
        for graph in self._model.graphs():
            taken.update(v.name for v in graph.inputs if v.name)
            taken.update(graph.initializers)
            for node in graph:
                taken.add(node.name or "")
                taken.update(v.name for v in node.outputs if v.name)
        return taken

    def fresh(self, base: str) -> str:
        """Return ``base``, or ``base_2``, ``base_3``… if it is taken, and reserve it."""
        name, count = base, self._counts.get(base, 1)
        while name in self._taken:
            count += 1
            name = f"{base}_{count}"
        self._counts[base] = count
        self._taken.add(name)
        return name


def constant(value: ir.Value | None) -> np.ndarray[Any, Any] | None:
    """Return the array behind an initialiser or a ``Constant`` node, or ``None``."""
    tensor = constant_tensor(value)
    return None if tensor is None else tensor.numpy()


def constant_tensor(value: ir.Value | None) -> ir.TensorProtocol | None:
    """Return the tensor behind an initialiser or a ``Constant`` node, without reading its data."""
    if value is None:
        return None
    if value.const_value is not None:
        return value.const_value
    node = value.producer()
    if node is None or (node.op_type == "Constant" and "sparse_value" in node.attributes):
        return None
    return ir.convenience.get_const_tensor(value)


def constant_array(value: ir.Value | None) -> np.ndarray[Any, Any]:
    """Return the array behind a value that is known to be constant.

    Raises:
        ValueError: it is not constant after all.
    """
    array = constant(value)
    if array is None:
        raise ValueError(f"{value and value.name} is not constant")
    return array


def owner(node: ir.Node) -> ir.Graph:
    """Return the graph that ``node`` is in.

    Raises:
        ValueError: the node was removed.
    """
    if node.graph is None:
        raise ValueError(f"{node.name} is in no graph")
    return node.graph


def graph_of(value: ir.Value) -> ir.Graph:
    """Return the graph that makes a value, is given it or holds it as a constant.

    Raises:
        ValueError: it is in no graph.
    """
    graph = value.graph
    if graph is None:
        raise ValueError(f"{value.name} is in no graph")
    assert isinstance(graph, ir.Graph), "functions are inlined"
    return graph


def scalar(value: ir.Value | None) -> float | int | bool | None:
    """Return the number behind a constant of exactly one element, or ``None``."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.size != 1 or tensor.dtype == ir.DataType.STRING:
        return None
    number = tensor.numpy().reshape(()).item()
    return number if isinstance(number, (int, float, bool)) else float(number)


def ints(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the integers of a constant of rank 0 or 1, or ``None``."""
    tensor = constant_tensor(value)
    if tensor is None or not tensor.dtype.is_integer() or len(tensor.shape) > 1:
        return None
    return tuple(int(i) for i in tensor.numpy().reshape(-1))


def static_shape(value: ir.Value | None) -> tuple[int, ...] | None:
    """Return the shape if every dim is a known integer, or ``None``."""
    if value is None or value.shape is None:
        return None
    dims = value.shape.dims
    return tuple(d for d in dims if isinstance(d, int)) if value.shape.is_static() else None


def rank(value: ir.Value | None) -> int | None:
    """Return the rank if it is known, or ``None``."""
    return None if value is None or value.shape is None else len(value.shape)


def add_initializer(
    graph: ir.Graph, array: np.ndarray[Any, Any], name: str, dtype: ir.DataType | None = None
) -> ir.Value:
    """Add a constant to the graph under an unused ``name`` and return its value."""
    tensor = ir.Tensor(np.ascontiguousarray(array).reshape(array.shape), dtype=dtype, name=name)
    return add_tensor(graph, tensor, name)


def add_tensor(graph: ir.Graph, tensor: ir.TensorProtocol, name: str) -> ir.Value:
    """Add a tensor to the graph under an unused ``name`` and return its value."""
    shape = ir.Shape(tensor.shape.numpy())
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=shape, const_value=tensor)
    graph.register_initializer(value)
    return value


def make_node(
    op_type: str,
    inputs: Sequence[ir.Value | None],
    attributes: Mapping[str, Any] | None = None,
    *,
    outputs: Sequence[ir.Value],
    name: str,
    domain: str = "",
) -> ir.Node:
    """Build a node of the canonical opset whose output values are already described."""
    return ir.node(
        op_type, inputs, attributes=attributes, domain=domain, outputs=list(outputs), name=name
    )


def value_like(value: ir.Value, name: str, shape: ir.Shape | None = None) -> ir.Value:
    """Return a new value with the type of ``value`` and, unless given, a copy of its shape."""
    if shape is None and value.shape is not None:
        shape = value.shape.copy()
    return ir.Value(name=name, type=value.type, shape=shape)


def sources(node: ir.Node) -> tuple[str, ...]:
    """Return the names of the source nodes that ``node`` stands for."""
    recorded = node.metadata_props.get(SOURCES_KEY)
    return tuple(recorded.split("\n")) if recorded else (node.name or "",)


def inherit_sources(new: ir.Node, old: Sequence[ir.Node]) -> None:
    """Record that ``new`` stands for the source nodes of all of ``old``."""
    names = dict.fromkeys(name for node in old for name in sources(node))
    new.metadata_props[SOURCES_KEY] = "\n".join(names)


def replace_nodes(
    old: Sequence[ir.Node],
    new: Sequence[ir.Node],
    old_values: Sequence[ir.Value],
    new_values: Sequence[ir.Value],
) -> None:
    """Put ``new`` in the place of ``old``, whose last node produces the last of ``old_values``.

    Uses and graph outputs move from ``old_values`` to ``new_values``, which take over the names.
    Nodes of ``old`` must have no other uses.
    """
    graph = owner(old[-1])
    begin_rewrite(graph)
    for node in new:
        inherit_sources(node, old)
    ir.convenience.replace_nodes_and_values(graph, old[-1], old, new, old_values, new_values)


def bypass(node: ir.Node, output: ir.Value, source: ir.Value) -> bool:
    """Let all readers of ``output`` read ``source``, and remove ``node`` if it is then unused.

    Returns:
        False, with nothing changed, if ``output`` is a graph output whose name ``source``
        cannot take because it is itself an input, a constant, an output or of another graph.
    """
    if output.is_graph_output() and not _can_rename(output, source):
        return False
    begin_rewrite(node.graph)
    if output.is_graph_output():
        name = output.name
        output.replace_all_uses_with(source, replace_graph_outputs=True)
        output.name = None
        source.name = name
    else:
        output.replace_all_uses_with(source)
    if source.shape is None and output.shape is not None:
        source.shape = output.shape.copy()
    if node.graph is not None and not any(v.uses() or v.is_graph_output() for v in node.outputs):
        node.graph.remove(node, safe=True)
    return True


def _can_rename(output: ir.Value, source: ir.Value) -> bool:
    producer = source.producer()
    if producer is None or source.is_graph_output():
        return False
    return producer.graph is output.graph


def remove_dead(model: ir.Model) -> int:
    """Remove nodes and constants that nothing reads; return how many."""
    count = 0
    for graph in model.graphs():
        for node in reversed(graph):
            if not any(v.uses() or v.is_graph_output() for v in node.outputs):
                begin_rewrite(model.graph)
                graph.remove(node, safe=True)
                count += 1
    for graph in model.graphs():
        for value in list(graph.initializers.values()):
            if not (value.uses() or value.is_graph_output() or value.is_graph_input()):
                begin_rewrite(model.graph)
                del graph.initializers[value.name or ""]
                count += 1
    return count


def single_user(value: ir.Value) -> ir.Node | None:
    """Return the only node that reads ``value`` (once), or ``None``."""
    uses = value.uses()
    if len(uses) != 1 or value.is_graph_output():
        return None
    return next(iter(uses)).node
