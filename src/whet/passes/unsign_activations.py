"""Signed 8-bit activations become unsigned ones, which is what CPUs multiply without detours.

``q' = q + 128`` with zero point ``p' = p + 128`` stands for the same number: ``(q' - p') s =
(q - p) s``. Everything between a QuantizeLinear and what takes its zero point into account moves
with it.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.graph.edit import Names, begin_rewrite, constant, owner
from whet.graph.match import Miss
from whet.passes.move_quantised import MOVES
from whet.passes.quantised import Maker, as_quantised

_HALF = 128
_ZERO_OF = {"DequantizeLinear": {0: 2}, "ConvInteger": {0: 2}, "MatMulInteger": {0: 2, 1: 3}}
"""For each reader, which input is the zero point of which operand."""


def unsign_activations(model: ir.Model) -> int:
    """Make the int8 results of QuantizeLinear in the main graph uint8; return how many."""
    names = Names(model)
    count = 0
    for node in list(model.graph):
        readers = signed_readers(node)
        if not isinstance(readers, Miss):
            _rewrite(node, readers, names)
            count += 1
    return count


Use = tuple[ir.Node, int]


def signed_readers(node: ir.Node) -> tuple[list[ir.Value], list[Use]] | Miss:
    """Return the values that become unsigned and whose zero points move, or why it cannot be."""
    linear = as_quantised(node)
    if isinstance(linear, Miss):
        return linear
    if node.outputs[0].dtype != ir.DataType.INT8:
        return Miss(f"{node.outputs[0].name} is not signed")
    values, uses = [node.outputs[0]], []
    for value in values:
        if value.is_graph_output():
            return Miss(f"{value.name} is a result of the model")
        for use in value.uses():
            reader, place = use.node, use.idx
            moves = reader.op_type in MOVES or reader.op_type == "Split"
            if moves and place == 0 and reader.graph is node.graph:
                values.extend(reader.outputs)
            elif reader.domain == "" and place in _ZERO_OF.get(reader.op_type, {}):
                if not _has_constant_zero(reader, place):
                    return Miss(f"the zero point of {reader.name} is not constant")
                uses.append((reader, place))
            else:
                return Miss(f"{reader.name} ({reader.op_type}) reads signed numbers")
    return values, uses


def _has_constant_zero(reader: ir.Node, place: int) -> bool:
    at = _ZERO_OF[reader.op_type][place]
    given = reader.inputs[at] if len(reader.inputs) > at else None
    return given is None or constant(given) is not None


def _rewrite(node: ir.Node, readers: tuple[list[ir.Value], list[Use]], names: Names) -> None:
    begin_rewrite(node.graph)
    values, uses = readers
    make = Maker(owner(node), names, [])
    for reader, place in [(node, 0), *uses]:
        at = 2 if reader is node else _ZERO_OF[reader.op_type][place]
        given = constant(reader.inputs[at]) if len(reader.inputs) > at else None
        zero = np.zeros((), np.int16) if given is None else given.astype(np.int16)
        moved = make.constant((zero + _HALF).astype(np.uint8), f"{reader.name}_unsigned")
        if len(reader.inputs) <= at:
            reader.resize_inputs(at + 1)
        reader.replace_input_with(at, moved)
    node.attributes.pop("output_dtype", None)
    for value in values:
        value.type = ir.TensorType(ir.DataType.UINT8)
