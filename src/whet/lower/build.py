"""From graph to equations: every node becomes tensors, or something between native code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx_ir as ir

from whet.dtypes import DTYPES
from whet.errors import CompileError, Problem, ResourceError, UnsupportedError, WhetError
from whet.graph.edit import sources
from whet.graph.opset import WHET_DOMAIN
from whet.index import Dim, as_poly, var
from whet.kernel.tensor import Tensor
from whet.lower.control import CONTROLS
from whet.lower.equations import Equations, collect_tensors
from whet.lower.images import IMAGES
from whet.lower.outline import Form, Held, Item, Outline
from whet.lower.scope import OpTable, Scope, Site, UnloweredError
from whet.lower.sequences import SEQUENCES, held_form, shape_of
from whet.lower.texts import TEXT_FORMS, TEXTS, gives_texts, is_text, text_constant
from whet.ops.late import DimNames, Late
from whet.ops.node import Node, constant

STEPS = MappingProxyType({**CONTROLS, **SEQUENCES, **TEXTS, **IMAGES})
"""Operators that are steps of the script, by name."""

STEP_DOMAINS = ("", WHET_DOMAIN)
"""Domains of such operators."""


def build_equations(model: ir.Model, table: OpTable) -> Equations:
    """Lower every node of a model that is one stretch of native code.

    Raises:
        UnsupportedError: operators or types without a lowering, all of them listed, or the model
            has control flow or sizes that depend on data.
    """
    outline = build_outline(model, table)
    equations = plain_equations(outline)
    if equations is None:
        where = next(e.where for e in outline.events)
        raise UnsupportedError("the model is more than equations", where=where)
    return equations


def plain_equations(outline: Outline) -> Equations | None:
    """Return an outline as equations, if nothing happens between them."""
    if outline.events:
        return None
    inputs = [item for item in outline.inputs if isinstance(item, Tensor)]
    outputs = [(name, item) for name, item in outline.outputs if isinstance(item, Tensor)]
    if len(inputs) + len(outputs) != len(outline.inputs) + len(outline.outputs):
        return None
    return Equations(collect_tensors([t for _, t in outputs], known=()), inputs, outputs)


def build_outline(model: ir.Model, table: OpTable) -> Outline:
    """Lower every node of a model.

    Raises:
        UnsupportedError: operators or types without a lowering; all of them are listed.
    """
    check_supported(model, table)
    names = DimNames(
        {str(d.value) for v in model.graph.inputs for d in v.shape or () if not isinstance(d, int)}
    )
    scope = Scope(table, names, None, Late(names))
    inputs: list[Item] = []
    held = _initializers(model.graph, scope)
    counted_on: set[str] = set()
    for value in model.graph.inputs:
        if value not in held:
            scope.items[value] = item = _input(value, counted_on)
            inputs.append(item)
    lower_nodes(model.graph, scope)
    outputs = [(str(value.name), scope.item(value)) for value in model.graph.outputs]
    return Outline(inputs, outputs, scope.late.events)


def _initializers(graph: ir.Graph, scope: Scope) -> set[ir.Value]:
    found: set[ir.Value] = set()
    for name, value in graph.initializers.items():
        if value.const_value is not None:
            array = _array(value.const_value)
            texts = value.const_value.dtype == ir.DataType.STRING
            scope.items[value] = (
                text_constant(scope, name, array) if texts else constant(name, array)
            )
            found.add(value)
    return found


def lower_body(graph: ir.Graph, scope: Scope, inputs: Sequence[Item]) -> list[tuple[str, Item]]:
    """Lower the nodes of a branch or a loop's body into a scope; return its outputs.

    Args:
        graph: the sub-graph.
        scope: a scope inside that of the node.
        inputs: what the sub-graph's inputs stand for.
    """
    _initializers(graph, scope)
    scope.items.update(zip(graph.inputs, inputs, strict=False))
    lower_nodes(graph, scope)
    return [(str(value.name), scope.item(value)) for value in graph.outputs]


def lower_nodes(graph: ir.Graph, scope: Scope) -> None:
    """Lower every node; nodes behind one that cannot be lowered are left out of the report.

    Raises:
        UnsupportedError: what could not be lowered, all of it.
    """
    problems: list[UnsupportedError] = []
    for node in graph:
        missing = [v for v in _read(node, graph) if not scope.knows(v)]
        if missing:
            problems.extend(_absent(v) for v in missing if v.producer() is None)
            continue
        try:
            made = _lower(node, scope)
        except UnloweredError:
            continue
        except UnsupportedError as error:
            problems.append(error)
            continue
        scope.items.update(zip(node.outputs, made, strict=False))
        wanted = [v for v in node.outputs[len(made) :] if v.uses() or v.is_graph_output()]
        problems.extend(_absent(v) for v in wanted)
    if len(problems) == 1:
        raise problems[0]
    if problems:
        listed = ", ".join(f"{p.message} at {p.where}" for p in problems)
        raise UnsupportedError(
            f"the model uses what Whet cannot compile yet: {listed}",
            where=graph.name,
            hint=problems[0].hint,
            problems=[inner for p in problems for inner in p.problems],
        )


def _read(node: ir.Node, graph: ir.Graph) -> list[ir.Value]:
    """Return what a node reads: its inputs, and what its sub-graphs read of the graph around."""
    found = [v for v in node.inputs if v is not None]
    for attribute in node.attributes.values():
        if attribute.type != ir.AttributeType.GRAPH:
            continue
        body = attribute.as_graph()
        inner = [v for n in body.all_nodes() for v in n.inputs if v is not None]
        for value in (*inner, *body.outputs):
            producer = value.producer()
            if producer is not None and producer.graph is graph:
                found.append(value)
    return found


def _absent(value: ir.Value) -> UnsupportedError:
    node = value.producer()
    if node is None:
        return UnsupportedError("an input has no value", where=str(value.name))
    return UnsupportedError(f"output {value.index()} of {node.op_type}", where=node.name)


def _lower(node: ir.Node, scope: Scope) -> Sequence[Item]:
    control = STEPS.get(node.op_type) if _domain(node) in STEP_DOMAINS else None
    items = tuple(None if v is None else scope.item(v) for v in node.inputs)
    name = node.name or f"{node.op_type}:{node.outputs[0].name}"
    if _domain(node) == "" and isinstance(items[0] if items else None, Held):
        if node.op_type == "Identity":
            return [scope.item(v) for v in node.inputs if v is not None]
        if is_text(items[0]):
            control = TEXT_FORMS.get(node.op_type, control)
    if gives_texts(node):
        control = TEXT_FORMS["Cast"]
    if control is not None:
        return control(Site(node, name, items, scope, lower_body))
    view = Node(
        name=name,
        op=node.op_type,
        inputs=tuple(_tensor(item, node, name) for item in items),
        attributes={key: _attribute(a) for key, a in node.attributes.items()},
        outputs=tuple(v.name or "" for v in node.outputs),
        late=scope.late,
        origins=tuple(filter(None, sources(node))),
    )
    try:
        made = scope.table[(_domain(node), node.op_type)].lower(view)
    except WhetError:
        raise
    except MemoryError as error:
        raise ResourceError(f"not enough memory for {node.op_type}: {error}", where=name) from error
    except Exception as error:
        raise CompileError(
            f"{node.op_type} cannot be lowered: {type(error).__name__}: {error}",
            where=view.name,
            hint="check the node with onnx.checker; if it is valid, report this",
        ) from error
    for tensor in made:
        _check_extents(view, tensor)
    return made


def _check_extents(node: Node, tensor: Tensor) -> None:
    """Refuse extents that are negative: memory would be laid out by them."""
    for extent in tensor.shape:
        if extent.constant is not None and extent.constant < 0:
            raise node.error(f"the result has the shape {[str(e) for e in tensor.shape]}")


def _tensor(item: Item | None, node: ir.Node, name: str) -> Tensor | None:
    if isinstance(item, Held):
        raise UnsupportedError(f"{node.op_type} of a {item.kind}", where=name)
    return item


def _domain(node: ir.Node) -> str:
    return "" if node.domain == "ai.onnx" else node.domain


def _attribute(attribute: Any) -> Any:
    if attribute.type == ir.AttributeType.TENSOR:
        return _array(attribute.value)
    return attribute.value


def _array(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.numpy())


def _input(value: ir.Value, counted_on: set[str]) -> Item:
    if isinstance(value.type, ir.SequenceType | ir.OptionalType):
        held = held_form(value.type, value.shape)
        assert isinstance(held, Held), "a sequence or an optional is held"
        return Held(str(value.name), held.kind, held.element)
    if value.dtype == ir.DataType.STRING:
        return Held(str(value.name), "text", Form("string", shape_of(value.shape)))
    assert value.dtype is not None and value.shape is not None, "inputs are typed by the frontend"
    shape = tuple(
        as_poly(d) if isinstance(d, int) else var(Dim(str(d.value), 1, counted_on))
        for d in value.shape
    )
    return Tensor(str(value.name), shape, _dtype_name(value.dtype))


def _dtype_name(dtype: ir.DataType) -> str:
    return str(np.dtype(dtype.numpy()).name) if dtype != ir.DataType.STRING else "string"


def check_supported(model: ir.Model, table: OpTable) -> None:
    """Check that every operator and type has a lowering.

    Raises:
        UnsupportedError: some have none; all are listed.
    """
    found = [f for node in model.graph.all_nodes() for f in _node_problems(node, table)]
    problems = Counter(label for label, _ in found)
    problems.update(label for value in model.graph.inputs for label in _input_problems(value))
    if problems:
        labels = ", ".join(f"{label} ({count}x)" for label, count in sorted(problems.items()))
        raise UnsupportedError(
            f"the model uses what Whet cannot compile yet: {labels}",
            where=model.graph.name,
            hint="export the model without these parts, and compute them before or after it",
            problems=[problem for _, problem in found],
        )


def _node_problems(node: ir.Node, table: OpTable) -> Iterator[tuple[str, Problem]]:
    """Yield what is not supported of a node: a label that others share, and the node itself."""
    own, name = _domain(node) == "", node.name or ""
    if _domain(node) in STEP_DOMAINS and node.op_type in STEPS:
        return
    if (_domain(node), node.op_type) not in table:
        label = f"operator {node.op_type}" + (f" of {node.domain}" if node.domain else "")
        yield label, Problem(name, node.op_type, "the operator has no lowering")
    texts = own and (node.op_type in TEXT_FORMS or node.op_type == "Identity")
    for value in node.outputs:
        kind = value.dtype if isinstance(value.type, ir.TensorType) else None
        if kind is None or (texts and kind == ir.DataType.STRING):
            continue
        if _dtype_name(kind) not in DTYPES:
            text = f"type {kind.name.lower()}"
            yield f"{text} of {node.op_type}", Problem(name, node.op_type, f"results of {text}")


def _input_problems(value: ir.Value) -> Iterator[str]:
    if isinstance(value.type, ir.SequenceType | ir.OptionalType):
        return
    if value.dtype is None or value.shape is None:
        yield f"input {value.name} of unknown type"
    elif value.dtype != ir.DataType.STRING and _dtype_name(value.dtype) not in DTYPES:
        yield f"type {value.dtype.name.lower()} of input {value.name}"
