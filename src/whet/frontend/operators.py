"""Refusal of operators that do not exist, all at once."""

from __future__ import annotations

import functools
from collections.abc import Container, Iterable

import onnx.defs
import onnx_ir as ir

from whet.errors import ModelError, Problem, UnsupportedError, nearest
from whet.frontend.expand import EXPANDED
from whet.frontend.gradient.expand import GRADIENT
from whet.frontend.translate import foreign_operators
from whet.frontend.upgrade import adapters
from whet.graph.edit import name_of
from whet.graph.opset import (
    ONNX_DOMAINS,
    PREVIEW_DOMAIN,
    TRAINING_DOMAIN,
    WHET_DOMAIN,
    has_operator,
)
from whet.words import counted

_DEPRECATED_BUT_KNOWN = frozenset({"GroupNormalization", "Scatter", "Upsample"})


RUNTIME_DOMAIN = "com.microsoft"
"""ONNX Runtime's domain, of version 1 where a model does not say; its own optimiser does not."""
LAYOUT_DOMAIN = "com.microsoft.nchwc"
"""Operators of a blocked layout, which ONNX Runtime chooses where it runs."""

_LEAST = {("GatherND", "batch_dims"): 0}
"""Attributes below which ONNX's shape inference reads outside its memory."""


def check_operators(model: ir.Model) -> None:
    """Check that every node is standard, has a translation, or is a function of the model.

    Raises:
        ModelError: a node is of a domain that the model does not import, unless it is that of
            ONNX Runtime, which has one version.
        UnsupportedError: with all unknown operators and where they stand.
    """
    unknown: dict[str, list[str]] = {}
    problems: list[Problem] = []
    foreign = foreign_operators()
    bodies: list[tuple[ir.Graph | ir.Function, dict[str, int]]] = [
        (model.graph, model.opset_imports)
    ]
    bodies += [(f, f.opset_imports) for f in model.functions.values()]
    for body, imports in bodies:
        for node in body.all_nodes():
            if node.op_identifier() in model.functions:
                continue
            if not _is_known(node, imports, foreign):
                name = f"{node.domain}::{node.op_type}" if node.domain else node.op_type
                unknown.setdefault(name, []).append(name_of(node))
                problems.append(Problem(name_of(node), name, "the operator is not known"))
    if unknown:
        listed = "; ".join(
            f"{op} ({len(nodes)}×, first at {nodes[0]!r})" for op, nodes in sorted(unknown.items())
        )
        raise UnsupportedError(
            f"the model uses operators that are not known: {listed}",
            hint=_remedy(unknown),
            problems=problems,
        )


def _remedy(unknown: Iterable[str]) -> str:
    if all(name.startswith(LAYOUT_DOMAIN) for name in unknown):
        return "ONNX Runtime laid this model out for one machine: save it with ORT_ENABLE_EXTENDED"
    return "export with standard ONNX operators, or define them as functions of the model"


def is_known_name(domain: str, op_type: str) -> bool:
    """Tell whether loading turns an operator into others: a translation or an old form."""
    old = domain == "" and (op_type in adapters() or op_type in _DEPRECATED_BUT_KNOWN)
    if old or op_type == "Constant" or (domain, op_type) == GRADIENT:
        return True
    return (domain, op_type) in foreign_operators()


def _is_known(node: ir.Node, imports: dict[str, int], foreign: Container[tuple[str, str]]) -> bool:
    if node.domain == WHET_DOMAIN:
        return True
    if node.domain == TRAINING_DOMAIN and TRAINING_DOMAIN in imports:
        return has_operator(node.op_type, imports[TRAINING_DOMAIN], TRAINING_DOMAIN)
    if node.domain == PREVIEW_DOMAIN and (node.domain, node.op_type) in EXPANDED:
        return True
    if node.domain not in ONNX_DOMAINS:
        if node.domain not in imports and node.domain != RUNTIME_DOMAIN:
            raise ModelError(
                f"the model does not import the domain {node.domain!r}",
                where=f"node {name_of(node)!r} ({node.op_type})",
                hint="export the model again",
            )
        return (node.domain, node.op_type) in foreign
    return ("", node.op_type) in foreign or _has_form(node, imports)


def _has_form(node: ir.Node, imports: dict[str, int]) -> bool:
    """Tell whether a node's operator is in the opset of its model, and check its form."""
    version = imports.get("", imports.get("ai.onnx", 0))
    schema = _schema(node.op_type, version)
    if schema is None:
        return False
    _check_form(node, schema, version)
    return True


@functools.cache
def _schema(op_type: str, version: int) -> onnx.defs.OpSchema | None:
    """Return the definition of a standard operator, ``None`` if there is none in that opset."""
    try:
        schema = onnx.defs.get_schema(op_type, version, "")
    except onnx.defs.SchemaError:
        return None
    return None if schema.deprecated and op_type not in _DEPRECATED_BUT_KNOWN else schema


def _check_form(node: ir.Node, schema: onnx.defs.OpSchema, version: int) -> None:
    """Refuse a node whose inputs, outputs or attributes its operator does not have."""
    fault = None
    if not schema.min_input <= len(node.inputs) <= schema.max_input:
        fault = (
            f"has {counted(len(node.inputs), 'input')}, "
            f"not {schema.min_input} to {schema.max_input}"
        )
    if not schema.min_output <= len(node.outputs) <= schema.max_output:
        fault = (
            f"has {counted(len(node.outputs), 'output')}, "
            f"not {schema.min_output} to {schema.max_output}"
        )
    for position, formal in enumerate(schema.inputs[: len(node.inputs)]):
        required = formal.option == onnx.defs.OpSchema.FormalParameterOption.Single
        if required and node.inputs[position] is None:
            fault = f"leaves out its input {position}, {formal.name!r}"
    fault = fault or _attribute_fault(node, schema)
    if fault is not None:
        raise ModelError(
            f"{node.op_type} of opset {version} {fault}",
            where=f"node {name_of(node)!r}",
            hint="export the model again",
        )


def _attribute_fault(node: ir.Node, schema: onnx.defs.OpSchema) -> str | None:
    fault = None
    for name, attribute in node.attributes.items():
        if name not in schema.attributes:
            fault = f"has no attribute {name!r}; {nearest(name, schema.attributes)}"
        elif _type_name(schema.attributes[name]) != attribute.type.name:
            fault = f"has the attribute {name!r} of type {attribute.type.name}"
        elif attribute.type.name == "STRING" and not isinstance(attribute.value, str):
            fault = f"has the attribute {name!r}, which is not UTF-8"
        elif (
            attribute.type.name == "INT"
            and not attribute.is_ref()
            and attribute.value < _LEAST.get((node.op_type, name), attribute.value)
        ):
            fault = f"has the attribute {name!r} of {attribute.value}"
    for name, formal in schema.attributes.items():
        if formal.required and name not in node.attributes:
            fault = f"lacks the attribute {name!r}"
    return fault


def _type_name(formal: onnx.defs.OpSchema.Attribute) -> str:
    """Return the name that ONNX gives the type of an attribute, such as ``INTS``."""
    return str(formal.type).rsplit(".", 1)[-1]
