"""The lowest opset in which an optimised graph is valid, so that other runtimes take it."""

from __future__ import annotations

from collections.abc import Mapping

import onnx
import onnx.defs
import onnx_ir as ir

from whet.errors import OptionError, UnsupportedError
from whet.graph.opset import canonical_opset
from whet.words import counted

OLDEST = 21
"""Below, some operators mean something else under the same signature (GroupNormalization)."""


def lower_opset(model: ir.Model, wanted: int | None = None) -> int:
    """Stamp a canonical model with the lowest opset that has all that it uses; return it.

    Versions of an operator from ``OLDEST`` on differ in element types and new attributes alone, so
    that a node which fits the signature of an older one means the same there.

    Args:
        model: a canonical model, changed in place.
        wanted: an opset instead of the lowest.

    Raises:
        OptionError: the wanted opset is out of range.
        UnsupportedError: the wanted opset lacks something; all of it is listed.
    """
    newest = canonical_opset()
    if wanted is not None and not OLDEST <= wanted <= newest:
        raise OptionError(f"opset {wanted} cannot be written", hint=f"give {OLDEST} to {newest}")
    versions = range(OLDEST, newest + 1) if wanted is None else [wanted]
    problems: list[str] = []
    for version in versions:
        problems = misfits(model, version)
        if not problems:
            _stamp(model, version)
            return version
    raise UnsupportedError(
        f"opset {versions[-1]} lacks {', '.join(problems)}",
        hint="leave --opset out to get the lowest one that fits",
    )


def misfits(model: ir.Model, version: int) -> list[str]:
    """Return the nodes that a version of the standard operators does not have, and why."""
    found: dict[str, None] = {}
    for graph in model.graphs():
        for node in graph:
            if node.domain in ("", "ai.onnx"):
                reason = _misfit(node, version)
                if reason:
                    found.setdefault(f"{node.op_type} ({reason})", None)
    return list(found)


def _misfit(node: ir.Node, version: int) -> str:
    try:
        schema = onnx.defs.get_schema(node.op_type, version, "")
    except onnx.defs.SchemaError:
        return "no such operator"
    if schema.deprecated:
        return "deprecated"
    unknown = [name for name in node.attributes if name not in schema.attributes]
    if unknown:
        return f"no attribute {unknown[0]}"
    if not schema.min_input <= len(node.inputs) <= schema.max_input:
        return counted(len(node.inputs), "input")
    if len(node.outputs) > schema.max_output:
        return counted(len(node.outputs), "output")
    return _wrong_type(node, schema)


def _wrong_type(node: ir.Node, schema: onnx.defs.OpSchema) -> str:
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    for formals, values in ((schema.inputs, node.inputs), (schema.outputs, node.outputs)):
        for position, value in enumerate(values):
            if value is None or value.type is None or not formals:
                continue
            formal = formals[min(position, len(formals) - 1)]
            kind = _kind(value.type)
            if kind not in allowed.get(formal.type_str, {kind, formal.type_str}):
                return f"type {kind}"
    return ""


def _kind(type_: ir.TypeProtocol) -> str:
    """Return how ONNX's signatures write a type, such as ``seq(tensor(float))``."""
    if isinstance(type_, ir.SequenceType):
        return f"seq({_kind(type_.elem_type)})"
    if isinstance(type_, ir.OptionalType):
        return f"optional({_kind(type_.elem_type)})"
    return f"tensor({_type_name(type_.dtype)})"


_TYPE_NAMES: Mapping[str, str] = {"FLOAT": "float", "DOUBLE": "double"}


def _type_name(dtype: ir.DataType) -> str:
    return _TYPE_NAMES.get(dtype.name, dtype.name.lower())


def _stamp(model: ir.Model, version: int) -> None:
    model.opset_imports[""] = version
    model.graph.opset_imports[""] = version
    for graph in model.graphs():
        for node in graph:
            if node.domain in ("", "ai.onnx") and node.version is not None:
                node.version = version
