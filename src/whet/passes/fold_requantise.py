"""The scale of a QuantizeLinear goes into what computes its input.

``quantise(x, s) = quantise(x / s, 1)``, and the division moves through everything with
``f(x / s) = f(x) / s``, additions, Relu, pooling, movements, until it meets a constant or the scale
of a DequantizeLinear: ``round(acc * s_x s_w / s_y) + p`` is what a QLinearConv computes. Where it
meets anything else, it becomes a multiplication. Results move by a rounding of float32 before they
are rounded to integers.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np
import onnx_ir as ir

from whet.graph.edit import Names, constant, owner, replace_nodes, single_user
from whet.graph.match import Miss
from whet.passes.quantised import (
    BYTES,
    Array,
    Linear8,
    Maker,
    as_dequantised,
    as_quantised,
    rewrite_all,
    typed,
)

_SIGNED = 128
_DEPTH = 12
_ALONG = frozenset(
    [
        "Relu",
        "LeakyRelu",
        "PRelu",
        "MaxPool",
        "AveragePool",
        "GlobalAveragePool",
        "GlobalMaxPool",
        "ReduceMean",
        "ReduceSum",
        "ReduceMax",
        "Reshape",
        "Transpose",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Mul",
        "Div",
    ]
)
"""``f(x / s, …) = f(x, …) / s`` in the first input, for positive ``s``."""
_BOTH = frozenset(["Add", "Sub", "Max", "Min", "Clip", "Concat", "Sum"])
"""The same in all inputs together."""


def fold_requantise(model: ir.Model) -> int:
    """Fold the scales of all QuantizeLinear of the main graph; return how many."""
    return rewrite_all(model, foldable, _fold)


def foldable(node: ir.Node) -> Linear8 | Miss:
    """Return a QuantizeLinear whose scale can go into its input, or why it stays."""
    linear = as_quantised(node)
    if isinstance(linear, Miss):
        return linear
    if not linear.whole or not 0 < float(linear.scale) < np.inf or linear.scale == 1:
        return Miss(f"{node.name} has no single scale to fold")
    if "precision" in node.attributes or linear.source.dtype != ir.DataType.FLOAT:
        return Miss(f"{node.name} divides in another precision")
    producer = linear.source.producer()
    if producer is None or producer.graph is not node.graph:
        return Miss(f"{linear.source.name} is given, not computed")
    if constant(linear.source) is not None:
        return Miss(f"{linear.source.name} is constant")
    return linear


def _fold(linear: Linear8, names: Names) -> None:
    node, old = linear.node, linear.node.outputs[0]
    make = Maker(owner(node), names, [])
    division = _Division(make, np.float32(linear.scale), [])
    source = _without_relu(linear, division)
    value = division.of(source, node, 0)
    kind = old.dtype or ir.DataType.UINT8
    one = make.constant(np.ones((), np.float32), f"{node.name}_one")
    zero = make.constant(linear.zero.astype(kind.numpy()), f"{node.name}_zero")
    output = typed(old, names.fresh(f"{old.name}_steps"), kind)
    make.node("QuantizeLinear", [value, one, zero], output)
    replace_nodes([*reversed(division.gone), node], make.nodes, [old], [output])


def _without_relu(linear: Linear8, division: _Division) -> ir.Value:
    """Leave out a Relu whose zero is the least number that the result holds."""
    producer = linear.source.producer()
    assert producer is not None, "what is foldable is computed"
    kind = linear.node.outputs[0].dtype
    least = {ir.DataType.UINT8: 0, ir.DataType.INT8: -_SIGNED}.get(kind or ir.DataType.FLOAT)
    relu = producer.op_type == "Relu" and producer.domain == "" and linear.zero == least
    if not relu or single_user(linear.source) is not linear.node or producer.inputs[0] is None:
        return linear.source
    if producer.inputs[0].producer() is None:
        return linear.source
    division.gone.append(producer)
    return producer.inputs[0]


class _Division(msgspec.Struct, frozen=True):
    """Divides values by a scale where they come about.

    Attributes:
        make: makes the nodes that do so.
        scale: positive.
        gone: nodes that are replaced, readers first.
    """

    make: Maker
    scale: np.float32
    gone: list[ir.Node]

    def of(self, value: ir.Value, reader: ir.Node, depth: int) -> ir.Value:
        """Return a value divided by the scale; ``reader`` reads it now."""
        array = constant(value)
        if array is not None:
            return self.make.constant(self._quotient(array), f"{value.name}_steps")
        # Whoever else reads the node, or the reader twice, still needs the value itself.
        own = single_user(value) in (reader, *self.gone)
        linear = as_dequantised(value)
        if isinstance(linear, Linear8) and linear.node.outputs[0].dtype == ir.DataType.FLOAT:
            cheap = own or linear.source.dtype in BYTES
            return self._dequantised(linear, value, own) if cheap else self._multiplied(value)
        node = value.producer()
        if node is None or not own or depth >= _DEPTH or node.domain != "":
            return self._multiplied(value)
        way = self._way(node)
        return self._multiplied(value) if way is None else way(node, value, depth)

    def _way(self, node: ir.Node) -> Callable[[ir.Node, ir.Value, int], ir.Value] | None:
        if len(node.outputs) != 1:
            return None
        if node.op_type in _BOTH:
            return self._all
        return self._first if node.op_type in _ALONG else None

    def _first(self, node: ir.Node, value: ir.Value, depth: int) -> ir.Value:
        return self._rebuilt(node, value, depth, 1)

    def _all(self, node: ir.Node, value: ir.Value, depth: int) -> ir.Value:
        return self._rebuilt(node, value, depth, len(node.inputs))

    def _rebuilt(self, node: ir.Node, value: ir.Value, depth: int, count: int) -> ir.Value:
        """Make a node again that reads its first ``count`` inputs divided."""
        self.gone.append(node)
        inputs = list(node.inputs)
        for k in range(count):
            given = inputs[k]
            inputs[k] = None if given is None else self.of(given, node, depth + 1)
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        return self.make.node(node.op_type, inputs, self._like(value), **attributes)

    def _dequantised(self, linear: Linear8, value: ir.Value, own: bool) -> ir.Value:
        if own:
            self.gone.append(linear.node)
        scale = self._quotient(linear.scale)
        zero = linear.zero if len(linear.node.inputs) > 2 else None
        return self.make.dequantised(linear.source, scale, self._like(value), zero, linear.axis)

    def _multiplied(self, value: ir.Value) -> ir.Value:
        factor = self.make.constant(np.float32(1) / np.asarray(self.scale), f"{value.name}_factor")
        return self.make.node("Mul", [value, factor], self._like(value))

    def _quotient(self, array: Array) -> Array:
        return (array.astype(np.float32) / self.scale).astype(np.float32)

    def _like(self, value: ir.Value) -> ir.Value:
        return typed(value, self.make.names.fresh(f"{value.name}_steps"), ir.DataType.FLOAT)
