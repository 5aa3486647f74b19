"""From a float graph and a plan to the same graph with QuantizeLinear and DequantizeLinear.

Layers read dequantised operands, so that any runtime computes the same up to one step, and one
that knows the pattern computes in integers. A value keeps its 8 bits from layer to layer: it is
quantised where it arises, once, for all layers that read it; others read it as it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir

from whet.graph.edit import (
    Names,
    add_initializer,
    constant_array,
    graph_of,
    make_node,
    owner,
    remove_dead,
    value_like,
)
from whet.quantize.config import Choice, QuantizeConfig
from whet.quantize.grid import Grid, dequantize, grid_of_weights, quantize, storage_type
from whet.quantize.layers import Layer, bias_of, given_grid, is_mover, root_of

Array = np.ndarray[Any, Any]

_BIAS_LIMIT = float(2**30)
"""Biases stay below half of int32, so that sums with them do too."""


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """How a graph is quantised.

    Attributes:
        config: types and granularity.
        layers: the layers that can be quantised.
        choices: what becomes of each, by name; 8 bits where nothing is said.
        grids: grids of activations, by the name of the value that others move elements of.
        weights: weights to be rounded instead of those of the model, by layer.
        numbers: weights rounded already, with their grid, by layer.
        biases: biases instead of those of the model, by layer.
    """

    config: QuantizeConfig
    layers: tuple[Layer, ...]
    choices: Mapping[str, Choice]
    grids: Mapping[str, Grid]
    weights: Mapping[str, Array] = field(default_factory=dict)
    numbers: Mapping[str, tuple[Array, Grid]] = field(default_factory=dict)
    biases: Mapping[str, Array] = field(default_factory=dict)

    def active(self) -> dict[str, Layer]:
        """Return the layers that are quantised, by name."""
        return {x.name: x for x in self.layers if self.choices.get(x.name, "int8") != "float"}


def write_plan(base: ir.Model, plan: Plan) -> ir.Model:
    """Return a quantised copy of a graph; the graph is left as it is."""
    model = base.clone()
    writer = _Writer(model, plan)
    for node in list(model.graph.all_nodes()):
        layer = writer.active.get(node.name or "")
        if layer is not None:
            writer.quantize(node, layer)
    remove_dead(model)
    return model


def weight_grid(weights: Array, layer: Layer, plan: Plan) -> Grid:
    """Return the grid of a layer's weights as its choice says."""
    fine = plan.config.per_channel or plan.choices.get(layer.name) == "finer"
    return grid_of_weights(
        weights,
        plan.config.weights,
        axis=layer.axis if fine or layer.op == "Gather" else None,
        symmetric=plan.config.weights_symmetric,
        search=plan.config.weight_search,
    )


class _Writer:
    """Edits one copy of a graph."""

    def __init__(self, model: ir.Model, plan: Plan) -> None:
        self.graph = model.graph
        self.active = plan.active()
        self._plan = plan
        self._names = Names(model)
        self._roots = root_names(model)
        self._made: dict[str, ir.Value] = {}
        self._stored: dict[tuple[ir.Graph, str], list[tuple[Array, Grid, ir.Value]]] = {}

    def quantize(self, node: ir.Node, layer: Layer) -> None:
        """Let a node read quantised operands."""
        if layer.op == "Gather":
            self._table(node, layer)
            return
        grid: Grid | None = None
        for position in layer.activations:
            value = node.inputs[position]
            assert value is not None
            grid = self._grid(value)
            node.replace_input_with(position, self._activation(value))
        if layer.weight is None:
            return
        assert grid is not None
        weight = node.inputs[layer.weight]
        bias = None if layer.bias is None else constant_array(node.inputs[layer.bias])
        corrected = self._plan.biases.get(layer.name)
        if bias is not None and corrected is not None:
            bias = corrected
        numbers, steps = self._weights(layer, constant_array(weight), bias, grid)
        assert weight is not None
        stored = self._stored_weight(weight, numbers, steps, node)
        node.replace_input_with(layer.weight, stored)
        if layer.bias is not None and bias is not None and not np.any(steps.zero):
            node.replace_input_with(layer.bias, self._bias(node, bias, grid, steps))
        elif corrected is not None:
            self._float_bias(node, corrected)

    def _weights(
        self, layer: Layer, weight: Array, bias: Array | None, grid: Grid
    ) -> tuple[Array, Grid]:
        if layer.name in self._plan.numbers:
            return self._plan.numbers[layer.name]
        weight = self._plan.weights.get(layer.name, weight)
        steps = weight_grid(weight, layer, self._plan)
        if bias is not None:
            steps = widened(steps, bias, grid)
        return quantize(weight, steps), steps

    def _activation(self, value: ir.Value) -> ir.Value:
        """Return a value rounded to its grid, made once."""
        name = value.name or ""
        if name in self._made:
            return self._made[name]
        node = value.producer()
        if given_grid(value) is not None:  # the model has rounded it already
            return value
        if node is not None and is_mover(node) and self._only_layers(value):
            above = node.inputs[0]
            assert above is not None
            node.replace_input_with(0, self._activation(above))
        made = self._pair(value, self._grid(value), node)
        self._made[name] = made
        return made

    def _grid(self, value: ir.Value) -> Grid:
        """Return the grid of a value, which is that of the value whose elements it has."""
        return self._plan.grids[self._roots[value.name or ""]]

    def _only_layers(self, value: ir.Value) -> bool:
        """Tell whether all that reads a value is quantised."""
        if value.is_graph_output():
            return False
        for use in value.uses():
            layer = self.active.get(use.node.name or "")
            if layer is None or use.idx not in layer.activations:
                return False
        return True

    def _pair(self, value: ir.Value, grid: Grid, node: ir.Node | None) -> ir.Value:
        """Put a QuantizeLinear and a DequantizeLinear behind a value; return what they give."""
        graph = graph_of(value)
        scale, zero = self._parameters(graph, grid, value.name or "x")
        kind = ir.DataType.from_numpy(storage_type(grid.dtype))
        q = value_like(value, self._names.fresh(f"{value.name}_q"))
        q.type = ir.TensorType(kind)
        dq = value_like(value, self._names.fresh(f"{value.name}_dq"))
        first = make_node(
            "QuantizeLinear", [value, scale, zero], outputs=[q],
            name=self._names.fresh(f"{value.name}_quantize"),
        )  # fmt: skip
        second = make_node(
            "DequantizeLinear", [q, scale, zero], outputs=[dq],
            name=self._names.fresh(f"{value.name}_dequantize"),
        )  # fmt: skip
        if node is None:
            graph.insert_before(graph[0], [first, second])
        else:
            graph.insert_after(node, [first, second])
        return dq

    def _parameters(self, graph: ir.Graph, grid: Grid, name: str) -> tuple[ir.Value, ir.Value]:
        scale = add_initializer(graph, grid.scale, self._names.fresh(f"{name}_scale"))
        zero = np.asarray(grid.zero).astype(storage_type(grid.dtype))
        return scale, add_initializer(graph, zero, self._names.fresh(f"{name}_zero"))

    def _stored_weight(
        self, weight: ir.Value, numbers: Array, grid: Grid, node: ir.Node
    ) -> ir.Value:
        """Store a weight as integers and return what it stands for; equal ones are stored once.

        Every body has its own, as ONNX Runtime looks for weights in the graph of the product alone.
        """
        name, graph = weight.name or "w", owner(node)
        for old, steps, value in self._stored.get((graph, name), []):
            if np.array_equal(old, numbers) and np.array_equal(steps.scale, grid.scale):
                return value
        made = self._dequantized(name, numbers, grid, node)
        self._stored.setdefault((graph, name), []).append((numbers, grid, made))
        return made

    def _dequantized(self, name: str, numbers: Array, grid: Grid, node: ir.Node) -> ir.Value:
        graph = owner(node)
        stored = add_initializer(graph, numbers, self._names.fresh(f"{name}_q"))
        inputs = [stored, *self._parameters(graph, grid, name)]
        if not np.any(grid.zero):
            inputs = inputs[:2]
        output = ir.Value(
            name=self._names.fresh(f"{name}_dq"),
            type=ir.TensorType(ir.DataType.FLOAT),
            shape=ir.Shape(numbers.shape),
        )
        made = make_node(
            "DequantizeLinear",
            inputs,
            None if grid.axis is None else {"axis": grid.axis},
            outputs=[output],
            name=self._names.fresh(f"{name}_dequantize"),
        )
        graph.insert_before(node, [made])
        return output

    def _bias(self, node: ir.Node, bias: Array, grid: Grid, steps: Grid) -> ir.Value:
        """Return a bias in steps of the products: ``b = round(b / (s_x s_w)) s_x s_w``."""
        scale = grid.scale * _by_output(steps, bias.size)
        axis = None if steps.axis is None else 0
        numbers = np.rint(bias.astype(np.float64) / scale).astype(np.int32)
        zeros = np.zeros(scale.shape, np.int32)
        product = Grid(np.asarray(scale, np.float32), zeros, "int32", axis)
        return self._dequantized(f"{node.name}_bias", numbers, product, node)

    def _float_bias(self, node: ir.Node, bias: Array) -> None:
        """Give a product, or the sum behind it, another bias."""
        place = bias_of(node)
        assert place is not None
        made = add_initializer(owner(node), bias, self._names.fresh(f"{node.name}_bias"))
        place[0].replace_input_with(place[1], made)

    def _table(self, node: ir.Node, layer: Layer) -> None:
        """Gather rows of 8 bits and their scales, and multiply: ``y = q[i] · s[i]``."""
        table, indices = node.inputs
        assert table is not None
        weight = self._plan.weights.get(layer.name, constant_array(table))
        steps = grid_of_weights(weight, "int8", axis=0, symmetric=True)
        stored = add_initializer(
            self.graph, quantize(weight, steps), self._names.fresh(f"{table.name}_q")
        )
        scales = add_initializer(
            self.graph, steps.scale[:, None], self._names.fresh(f"{table.name}_scale")
        )
        output = node.outputs[0]
        label = output.name or "rows"
        rows = value_like(output, self._names.fresh(f"{label}_q"))
        rows.type = ir.TensorType(ir.DataType.INT8)
        wide = value_like(output, self._names.fresh(f"{label}_wide"))
        factor = ir.Value(
            name=self._names.fresh(f"{label}_scale"), type=ir.TensorType(ir.DataType.FLOAT)
        )
        made = value_like(output, self._names.fresh(f"{label}_rows"))
        names = [self._names.fresh(f"{node.name}_{part}") for part in ("rows", "scales", "cast")]
        fresh = [
            make_node("Gather", [stored, indices], {"axis": 0}, outputs=[rows], name=names[0]),
            make_node("Gather", [scales, indices], {"axis": 0}, outputs=[factor], name=names[1]),
            make_node("Cast", [rows], {"to": ir.DataType.FLOAT}, outputs=[wide], name=names[2]),
            make_node("Mul", [wide, factor], outputs=[made], name=node.name or ""),
        ]
        ir.convenience.replace_nodes_and_values(owner(node), node, [node], fresh, [output], [made])


def root_names(model: ir.Model) -> dict[str, str]:
    """Return the name that the grid of each value of a graph has."""
    values = [v for graph in model.graphs() for v in graph.inputs]
    values += [v for node in model.graph.all_nodes() for v in node.outputs]
    return {value.name or "": root_of(value).name or "" for value in values}


def widened(steps: Grid, bias: Array, grid: Grid) -> Grid:
    """Return a grid of weights coarse enough for the bias to fit in int32 steps of the product."""
    large = np.abs(bias.astype(np.float64)) / (float(grid.scale) * _BIAS_LIMIT)
    count = steps.scale.size
    if steps.axis is None:
        least = large.max(initial=0.0)
    elif bias.size <= count:
        least = large
    else:  # as in _by_output
        least = large.reshape((-1, count) if steps.axis else (count, -1)).max(axis=1 - steps.axis)
    scale = np.maximum(steps.scale, least.astype(np.float32))
    return Grid(np.asarray(scale, np.float32), steps.zero, steps.dtype, steps.axis)


def _by_output(steps: Grid, channels: int) -> Array:
    """Return the scale of each output channel; of grouped transposed convolutions some share it."""
    if steps.axis is None or channels <= steps.scale.size:
        return steps.scale
    times = channels // steps.scale.size
    return np.tile(steps.scale, times) if steps.axis else np.repeat(steps.scale, times)


def effective_weight(weights: Array, layer: Layer, plan: Plan) -> Array:
    """Return a layer's weights as they are after quantisation, float32."""
    if layer.name in plan.numbers:
        return dequantize(*plan.numbers[layer.name])
    weights = plan.weights.get(layer.name, weights)
    steps = weight_grid(weights, layer, plan)
    return dequantize(quantize(weights, steps), steps)
