"""``Gradient`` becomes the graph of the derivative: differentiation in reverse, node by node.

The graph between ``xs``, ``zs`` and ``y`` is repeated with the inputs of the node in their place;
what that repeats in vain, the search for common subexpressions takes away again.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import onnx_ir as ir

from whet.errors import ModelError, UnsupportedError
from whet.frontend.gradient.movement import MOVEMENT
from whet.frontend.gradient.pointwise import POINTWISE
from whet.frontend.gradient.products import PRODUCTS
from whet.frontend.gradient.rule import Back, Rule
from whet.frontend.translation import Translation
from whet.graph.edit import Names
from whet.graph.opset import TRAINING_DOMAIN

GRADIENT = (TRAINING_DOMAIN, "Gradient")
"""Domain and name of the operator."""


def derivative_rules() -> Mapping[str, Rule]:
    """Return the derivatives of standard operators by name."""
    table: dict[str, Rule] = {}
    for family in (POINTWISE, PRODUCTS, MOVEMENT):
        assert not set(family) & set(table), "an operator has two derivatives"
        table.update(family)
    return MappingProxyType(table)


def expand_gradients(model: ir.Model) -> int:
    """Replace every ``Gradient`` by standard nodes, in place, and return how many there were.

    Element types and shapes must be known.

    Raises:
        ModelError: a node names values that its graph does not have.
        UnsupportedError: an operator on the way has no derivative.
    """
    left = [node for node in model.graph.all_nodes() if _is_gradient(node)]
    count = len(left)
    names = Names(model)
    rules = derivative_rules()
    while left:
        ready = [k for k in left if not any(map(_is_gradient, _Path(k).nodes))]
        if not ready:
            raise ModelError("a Gradient is one of itself", where=f"node {left[0].name!r}")
        for node in ready:
            _expand(node, names, rules)
            left.remove(node)
    return count


def _is_gradient(node: ir.Node) -> bool:
    return (node.domain, node.op_type) == GRADIENT


class _Path:
    """What a ``Gradient`` speaks of: the nodes between its independent values and ``y``.

    Attributes:
        xs: the values to differentiate by.
        free: the values of ``xs`` and ``zs``, in the order of the node's inputs.
        y: the value to differentiate.
        nodes: nodes of the graph that ``y`` needs and that need one of ``free``, in order.
    """

    def __init__(self, node: ir.Node) -> None:
        self._node = node
        known = _values(node)
        xs, zs = (self._strings(name) for name in ("xs", "zs"))
        (y,) = self._strings("y")
        missing = [name for name in (*xs, *zs, y) if name not in known]
        if missing or len(node.inputs) != len(xs) + len(zs) or None in node.inputs:
            fault = f"there is no value {missing[0]!r}" if missing else "its inputs are not xs, zs"
            raise ModelError(f"Gradient: {fault}", where=f"node {node.name!r}")
        self.free = [known[name] for name in (*xs, *zs)]
        self.xs = self.free[: len(xs)]
        self.y = known[y]
        self.nodes = self._between()

    def _strings(self, name: str) -> list[str]:
        attribute = self._node.attributes.get(name)
        if attribute is None:
            return []
        return [attribute.value] if isinstance(attribute.value, str) else list(attribute.value)

    def _between(self) -> list[ir.Node]:
        needed, todo = set[ir.Node](), [self.y]
        while todo:
            value = todo.pop()
            producer = value.producer()
            if value not in self.free and producer is not None and producer not in needed:
                needed.add(producer)
                todo += [v for v in producer.inputs if v is not None]
        reached, found = set(self.free), list[ir.Node]()
        graph = self._node.graph
        assert graph is not None
        for node in graph:
            if node in needed and any(v in reached for v in node.inputs):
                found.append(node)
                reached.update(node.outputs)
        return found


def _values(node: ir.Node) -> dict[str, ir.Value]:
    """Return the values of the node's graph by name."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    graph.sort()
    found = {v.name or "": v for v in (*graph.initializers.values(), *graph.inputs)}
    found |= {v.name or "": v for other in graph for v in other.outputs}
    found.pop("", None)
    return found


def _expand(node: ir.Node, names: Names, rules: Mapping[str, Rule]) -> None:
    path = _Path(node)
    t = Translation(node, names)
    standing = dict(zip(path.free, node.inputs, strict=True))
    repeated = [_repeat(t, inner, standing) for inner in path.nodes]
    y = standing.get(path.y, path.y)
    assert y is not None, "inputs are given"
    starts = [v for v in (standing[x] for x in path.xs) if v is not None]
    slopes = {y: t.of_shape(t.op("Expand", t.scalar(1.0, y), t.shape(y)), y)}
    _walk_back(t, repeated, slopes, rules, set(starts))
    _replace(t, [slopes[x] if x in slopes else _zeros(t, x) for x in starts])


def _zeros(t: Translation, like: ir.Value) -> ir.Value:
    return t.of_shape(t.op("Expand", t.scalar(0.0, like), t.shape(like)), like)


def _replace(t: Translation, results: list[ir.Value]) -> None:
    """Put the derivatives in the place of the outputs, under whose names others may know them."""
    node, graph = t.node, t.node.graph
    assert graph is not None
    for output, result in zip(node.outputs, results, strict=False):
        value = t.op("Identity", result)
        name, output.name = output.name, None
        output.replace_all_uses_with(value, replace_graph_outputs=True)
        value.name = name
    graph.remove(node, safe=True)
    graph.sort()


def _repeat(t: Translation, node: ir.Node, standing: dict[ir.Value, ir.Value | None]) -> ir.Node:
    """Add a copy of a node that reads what stands in for its inputs."""
    if any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values()):
        raise UnsupportedError(
            f"Gradient: {node.op_type} has no derivative", where=f"node {t.node.name!r}"
        )
    inputs = [v if v is None else standing.get(v, v) for v in node.inputs]
    made = t.copy(node, inputs)
    pairs = list(zip(node.inputs, inputs, strict=True))
    if all(one is other or _shape(one) == _shape(other) for one, other in pairs):
        for output, found in zip(made.outputs, node.outputs, strict=True):
            t.of_shape(output, found)
    standing.update(zip(node.outputs, made.outputs, strict=True))
    return made


def _shape(value: ir.Value | None) -> list[int | str | None]:
    dims = () if value is None or value.shape is None else value.shape
    return [d if isinstance(d, int) else d.value for d in dims]


def _walk_back(
    t: Translation, nodes: list[ir.Node], slopes: dict[ir.Value, ir.Value],
    rules: Mapping[str, Rule], starts: set[ir.Value],
) -> None:  # fmt: skip
    """Add the derivatives with respect to every value that depends on the starts."""
    varying = set(starts)
    for node in nodes:
        if any(v in varying for v in node.inputs):
            varying.update(v for v in node.outputs if v.dtype and v.dtype.is_floating_point())
    for node in reversed(nodes):
        found = [slopes.get(v) for v in node.outputs]
        wanted = [v is not None and v in varying for v in node.inputs]
        if not any(wanted) or all(s is None for s in found):
            continue
        back = Back(t, node, found)
        rule = rules.get(node.op_type) if not node.domain else None
        if rule is None:
            raise back.refuse("that is known here")
        for value, slope, use in zip(node.inputs, rule(back), wanted, strict=False):
            if value is not None and slope is not None and use:
                before = slopes.get(value)
                total = slope if before is None else t.op("Add", before, slope)
                slopes[value] = t.of_shape(total, value)
