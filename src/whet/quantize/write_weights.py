"""From quantised matrices to ONNX: DequantizeLinear with blocks, or MatMulNBits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from whet.graph.edit import (
    Names,
    add_initializer,
    graph_of,
    make_node,
    owner,
    remove_dead,
    value_like,
)
from whet.quantize.blocks import BlockGrid
from whet.quantize.bodies import all_nodes
from whet.quantize.layers import Layer

Array = np.ndarray[Any, Any]
Numbers = Mapping[str, tuple[Array, BlockGrid]]

CONTRIB = "com.microsoft"


def write_weights(
    base: ir.Model, layers: tuple[Layer, ...], numbers: Numbers, form: str, level: int = 0
) -> ir.Model:
    """Return a copy of a graph whose products read quantised matrices.

    Args:
        base: the float graph.
        layers: its products.
        numbers: what their matrices became.
        form: ``dequantize`` or ``matmulnbits``.
        level: the ``accuracy_level`` of MatMulNBits; 0 leaves it out.
    """
    model = base.clone()
    nodes, names = all_nodes(model), Names(model)
    stored = _Stored(names)
    for layer in layers:
        node = nodes[layer.name]
        whole, grid = numbers[layer.name]
        if form == "matmulnbits":
            made = _contrib(stored, (node, layer), whole, grid)
            if level:
                made.attributes.add(ir.AttrInt64("accuracy_level", level))
        else:
            _dequantized(stored, (node, layer), whole, grid)
    if form == "matmulnbits":
        model.opset_imports[CONTRIB] = 1
        model.graph.opset_imports[CONTRIB] = 1
    remove_dead(model)
    return model


class _Stored:
    """Constants of a model; those of one weight that are equal are stored once.

    Args:
        names: unused names.
    """

    def __init__(self, names: Names) -> None:
        self.names = names
        self._known: dict[tuple[ir.Graph, ir.Value], list[tuple[list[Array], list[ir.Value]]]] = {}

    def add(self, graph: ir.Graph, weight: ir.Value, arrays: list[Array]) -> list[ir.Value]:
        """Return numbers, scales and perhaps zero points of a weight as constants of a graph."""
        known = self._known.setdefault((graph, weight), [])
        for old, values in known:
            if all(map(np.array_equal, old, arrays)):
                return values
        ends = ("q", "scale", "zero")
        made = [
            add_initializer(
                graph, np.ascontiguousarray(a), self.names.fresh(f"{weight.name}_{end}")
            )
            for a, end in zip(arrays, ends, strict=False)
        ]
        known.append((arrays, made))
        return made


def _dequantized(
    stored: _Stored, what: tuple[ir.Node, Layer], numbers: Array, grid: BlockGrid
) -> None:
    """Put a DequantizeLinear in front of a product; blocks lie along the depth of its matrix.

    ONNX Runtime looks for the constants in the graph of the product alone.
    """
    node, layer = what
    graph, weight = owner(node), node.inputs[1]
    assert weight is not None
    kind: Any = ml_dtypes.int4 if grid.bits == 4 else np.int8
    arrays = [numbers.astype(kind), grid.scale]
    if not grid.symmetric:
        arrays.append(grid.zero.astype(kind))
    if layer.axis == 0:
        arrays = [a.T for a in arrays]
    inputs, names = stored.add(graph, weight, arrays), stored.names
    output = value_like(weight, names.fresh(f"{weight.name}_dq"))
    made = make_node(
        "DequantizeLinear",
        inputs,
        {"axis": 1 if layer.axis == 0 else 0, "block_size": grid.block},
        outputs=[output],
        name=names.fresh(f"{weight.name}_dequantize"),
    )
    graph.insert_before(node, [made])
    node.replace_input_with(1, output)


def _contrib(
    stored: _Stored, what: tuple[ir.Node, Layer], numbers: Array, grid: BlockGrid
) -> ir.Node:
    """Replace a product by MatMulNBits, which is returned, and the bias of a Gemm by an Add."""
    names, node, graph = stored.names, what[0], owner(what[0])
    weight, output = node.inputs[1], node.outputs[0]
    assert weight is not None
    depth, columns = numbers.shape
    arrays = [packed(numbers, grid), np.ascontiguousarray(grid.scale.T).reshape(-1)]
    if not grid.symmetric:
        arrays.append(np.ascontiguousarray(packed_zeros(grid)).reshape(-1))
    inputs = [node.inputs[0], *stored.add(graph_of(weight), weight, arrays)]
    product = value_like(output, names.fresh(f"{output.name}_product"))
    attributes = {"K": depth, "N": columns, "bits": grid.bits, "block_size": grid.block}
    fresh = [
        make_node("MatMulNBits", inputs, attributes, outputs=[product], name=node.name or "",
                  domain=CONTRIB)
    ]  # fmt: skip
    last = product
    if node.op_type == "Gemm" and len(node.inputs) > 2 and node.inputs[2] is not None:
        last = value_like(output, names.fresh(f"{output.name}_sum"))
        fresh.append(
            make_node("Add", [product, node.inputs[2]], outputs=[last],
                      name=names.fresh(f"{node.name}_bias"))
        )  # fmt: skip
    ir.convenience.replace_nodes_and_values(graph, node, [node], fresh, [output], [last])
    return fresh[0]


def packed(numbers: Array, grid: BlockGrid) -> Array:
    """Return numbers as MatMulNBits stores them: (columns, blocks, bytes), the low half first."""
    depth, columns = numbers.shape
    blocks = len(grid.scale)
    middle = 2 ** (grid.bits - 1)
    moved = np.full((blocks * grid.block, columns), middle, np.uint8)
    moved[:depth] = (numbers + middle).astype(np.uint8)
    by_block = moved.T.reshape(columns, blocks, grid.block)
    if grid.bits == 8:
        return np.ascontiguousarray(by_block)
    return np.ascontiguousarray(by_block[..., ::2] | (by_block[..., 1::2] << 4))


def packed_zeros(grid: BlockGrid) -> Array:
    """Return zero points as MatMulNBits stores them: (columns, bytes)."""
    moved: Array = (grid.zero.T + 2 ** (grid.bits - 1)).astype(np.uint8)
    if grid.bits == 8:
        return moved
    if moved.shape[1] % 2:
        moved = np.pad(moved, ((0, 0), (0, 1)))
    halves: Array = moved[:, ::2] | (moved[:, 1::2] << 4)
    return halves
