"""Element types of every node against what its operator accepts.

The shape inference of ``onnx`` takes the type of a result from one input and does not look at the
others, so that ``Add(float, int64)`` passes it.
"""

from __future__ import annotations

import onnx.defs
import onnx_ir as ir

from whet.errors import ModelError
from whet.graph.opset import canonical_opset, has_operator


def check_types(model: ir.Model) -> None:
    """Check the inputs and outputs of all standard operators of a canonical model.

    Raises:
        ModelError: a type is not one that the operator takes, or two that must be equal differ.
    """
    for node in model.graph.all_nodes():
        if node.domain == "" and has_operator(node.op_type, canonical_opset()):
            fault = _reference_fault(node) or _type_fault(node)
            if fault is not None:
                raise ModelError(
                    f"{node.op_type} {fault}",
                    where=f"node {node.name!r}",
                    hint="export the model again",
                )


def _reference_fault(node: ir.Node) -> str | None:
    for name, attribute in node.attributes.items():
        if attribute.is_ref():
            return f"takes its attribute {name!r} from a function, and is in none"
    return None


def _type_fault(node: ir.Node) -> str | None:
    schema = onnx.defs.get_schema(node.op_type, canonical_opset(), "")
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    bound: dict[str, str] = {}
    sides = (("input", schema.inputs, node.inputs), ("output", schema.outputs, node.outputs))
    for side, formals, values in sides:
        for position, value in enumerate(values):
            kind = None if value is None else _type_name(value)
            if kind is None or not formals:
                continue
            formal = formals[min(position, len(formals) - 1)]
            accepted = allowed.get(formal.type_str, {formal.type_str})
            if kind not in accepted:
                return f"does not take {kind} as {side} {position}"
            if not formal.is_homogeneous or formal.type_str not in allowed:
                continue
            other = bound.setdefault(formal.type_str, kind)
            if other != kind:
                return f"has {other} and {kind} where it needs equal types"
    return None


def _type_name(value: ir.Value) -> str | None:
    """Return a tensor's type as the operator schemas spell it."""
    if not isinstance(value.type, ir.TensorType):
        return None
    return f"tensor({value.type.dtype.name.lower()})"
