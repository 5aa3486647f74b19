"""From quantised matrices to ONNX: DequantizeLinear with blocks, or MatMulNBits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from whet.graph.edit import Names, add_initializer, make_node, owner, remove_dead, value_like
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
    names = Names(model)
    nodes = all_nodes(model)
    for layer in layers:
        node = nodes[layer.name]
        whole, grid = numbers[layer.name]
        if form == "matmulnbits":
            made = _contrib(names, (node, layer), whole, grid)
            if level:
                made.attributes.add(ir.AttrInt64("accuracy_level", level))
        else:
            _dequantized(names, (node, layer), whole, grid)
    if form == "matmulnbits":
        model.opset_imports[CONTRIB] = 1
        model.graph.opset_imports[CONTRIB] = 1
    remove_dead(model)
    return model


def _dequantized(
    names: Names, what: tuple[ir.Node, Layer], numbers: Array, grid: BlockGrid
) -> None:
    """Put a DequantizeLinear in front of a product; blocks lie along the depth of its matrix."""
    node, layer = what
    graph, weight = owner(node), node.inputs[1]
    assert weight is not None
    kind: Any = ml_dtypes.int4 if grid.bits == 4 else np.int8
    arrays = [numbers.astype(kind), grid.scale]
    if not grid.symmetric:
        arrays.append(grid.zero.astype(kind))
    if layer.axis == 0:
        arrays = [a.T for a in arrays]
    ends = ("q", "scale", "zero")
    inputs = [
        add_initializer(graph, np.ascontiguousarray(a), names.fresh(f"{weight.name}_{end}"))
        for a, end in zip(arrays, ends, strict=False)
    ]
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


def _contrib(names: Names, what: tuple[ir.Node, Layer], numbers: Array, grid: BlockGrid) -> ir.Node:
    """Replace a product by MatMulNBits, which is returned, and the bias of a Gemm by an Add."""
    node, graph = what[0], owner(what[0])
    weight, output = node.inputs[1], node.outputs[0]
    assert weight is not None
    depth, columns = numbers.shape
    name = weight.name or "w"
    inputs: list[ir.Value | None] = [
        node.inputs[0],
        add_initializer(graph, packed(numbers, grid), names.fresh(f"{name}_q")),
        add_initializer(
            graph, np.ascontiguousarray(grid.scale.T).reshape(-1), names.fresh(f"{name}_scale")
        ),
    ]
    if not grid.symmetric:
        zero = np.ascontiguousarray(packed_zeros(grid)).reshape(-1)
        inputs.append(add_initializer(graph, zero, names.fresh(f"{name}_zero")))
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
