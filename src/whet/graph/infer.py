"""Shape and type inference over a whole model, without touching its large weights."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnx.shape_inference
import onnx_ir as ir

from whet.errors import ShapeError
from whet.graph.edit import constant_tensor, name_of
from whet.graph.opset import canonical_opset, has_operator
from whet.words import counted

SMALL_BYTES = 4096
"""Constants up to this size travel into inference, where they may decide shapes."""


_EQUATION = re.compile(r"(?:[A-Za-z ]|\.\.\.|,)*(?:->(?:[A-Za-z ]|\.\.\.)*)?")
_STEPS = 4
_LONGEST_STEP = 1 << 30

LIKE_FIRST = frozenset({"GroupNormalization"})
"""What ``onnx`` infers nothing for: its result has type and shape of the first input."""

_LONG_VECTOR = 1 << 20
"""Vectors that onnx takes for possible shapes cost it about 80 bytes an element."""


def infer_shapes(model: ir.Model) -> int:
    """Infer element types and shapes of all values, in place.

    Known shapes are refined, never forgotten; symbolic dims keep their names.

    Returns:
        How many values became better known.

    Raises:
        ShapeError: shapes or types in the model contradict each other, or ``onnx`` could not stand
            them.
    """
    for node in model.graph.all_nodes():
        _refuse_trap(node)
    proto = light_proto(model)
    _stand_in(proto.graph)
    try:
        inferred = _inferred(proto)
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError) as error:
        raise ShapeError(
            f"shapes or types contradict each other: {_first_line(error)}",
            hint="check the model with onnx.checker, and the shapes given for its inputs",
        ) from error
    return _merge(model.graph, inferred.graph)


def _stand_in(graph: onnx.GraphProto) -> None:
    """Put Identity where ``onnx`` infers nothing, which ends strict inference at the next node."""
    for node in graph.node:
        if node.domain == "" and node.op_type in LIKE_FIRST:
            node.op_type = "Identity"
            del node.input[1:], node.attribute[:]
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _stand_in(attribute.g)


def _inferred(proto: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model with what can be inferred, constants that are shapes included.

    Without those once first, where that may show vectors too long for the rest.
    """
    plain = None
    if not _is_static(proto.graph):
        plain = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    if _has_long_vectors((plain or proto).graph):
        return plain or onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    return onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True)


def infer_leniently(model: ir.Model) -> None:
    """Infer what can be known by now; contradictions are reported by whoever infers all of it."""
    try:
        infer_shapes(model)
    except ShapeError:
        return


def infer_node(node: ir.Node) -> None:
    """Describe the outputs of a node of the canonical opset, where they follow from its inputs.

    Nothing is said about outputs that do not, or that contradict their description.
    """
    given = [v for v in node.inputs if v is not None]
    if any(v.type is None or v.shape is None for v in given) or not has_operator(
        node.op_type, canonical_opset()
    ):
        return
    if node.op_type in LIKE_FIRST:
        _refine(node.outputs[0], _type_proto(given[0]))
        return
    _refuse_trap(node)
    proto = ir.to_proto(node)
    types = {str(v.name): _type_proto(v) for v in given}
    data = {str(v.name): _small_data(v) for v in given}
    schema = onnx.defs.get_schema(node.op_type, canonical_opset(), "")
    imports = [onnx.helper.make_opsetid("", canonical_opset())]
    try:
        found = onnx.shape_inference.infer_node_outputs(
            schema, proto, types, {n: d for n, d in data.items() if d}, opset_imports=imports
        )
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, KeyError):
        return
    for value in node.outputs:
        if value.name in found:
            _refine(value, found[value.name])


def _type_proto(value: ir.Value) -> onnx.TypeProto:
    return ir.serde.serialize_value(value).type


def _small_data(value: ir.Value) -> onnx.TensorProto | None:
    tensor = constant_tensor(value)
    if tensor is None or tensor.nbytes > SMALL_BYTES:
        return None
    return ir.serde.serialize_tensor(tensor)


def _refuse_trap(node: ir.Node) -> None:
    """Refuse what the inference of ``onnx`` does not survive: it reads outside its memory there.

    Raises:
        ShapeError: the node is such a one.
    """
    fault = _TRAPS[node.op_type](node) if node.domain == "" and node.op_type in _TRAPS else None
    if fault is not None:
        text, hint = fault
        raise ShapeError(f"{node.op_type} {text}", where=f"node {name_of(node)!r}", hint=hint)


def _slice_trap(node: ir.Node) -> tuple[str, str] | None:
    """A step whose multiples leave 64 bits, through which inference counts."""
    steps = constant_tensor(node.inputs[_STEPS]) if len(node.inputs) > _STEPS else None
    if steps is None or not steps.dtype.is_integer():
        return None
    if all(abs(int(step)) <= _LONGEST_STEP for step in steps.numpy().reshape(-1)):
        return None
    text = f"takes steps of more than {_LONGEST_STEP}"
    return text, "a slice of one element takes a step of 1"


def _einsum_trap(node: ir.Node) -> tuple[str, str] | None:
    """Other characters than letters."""
    equation = node.attributes["equation"].as_string() if "equation" in node.attributes else ""
    if _EQUATION.fullmatch(equation):
        return None
    text = f"has the equation {equation[:100]!r}"
    return text, "give letters, commas, an ellipsis and an arrow, such as bij,bjk->bik"


def _split_trap(node: ir.Node) -> tuple[str, str] | None:
    """Another number of parts than there are outputs."""
    given = node.attributes.get("num_outputs")
    if given is None or given.is_ref() or given.as_int() == len(node.outputs):
        return None
    text = f"makes {counted(given.as_int(), 'part')} for {counted(len(node.outputs), 'output')}"
    return text, "num_outputs is the number of outputs"


_TRAPS = {"Slice": _slice_trap, "Einsum": _einsum_trap, "Split": _split_trap}


def _is_static(graph: onnx.GraphProto) -> bool:
    """Whether the size of every value of a graph itself is known."""
    infos = {info.name: info.type.tensor_type for info in (*graph.value_info, *graph.output)}
    names = (name for node in graph.node for name in node.output if name)
    kinds = [infos.get(name) for name in names]
    return all(
        kind is not None
        and kind.HasField("shape")
        and all(dim.HasField("dim_value") for dim in kind.shape.dim)
        for kind in kinds
    )


def _has_long_vectors(graph: onnx.GraphProto) -> bool:
    """Whether data propagation would take memory and time for every element of a long vector."""
    infos = (*graph.input, *graph.value_info, *graph.output)
    shapes = (info.type.tensor_type.shape.dim for info in infos)
    return any(len(dims) == 1 and dims[0].dim_value > _LONG_VECTOR for dims in shapes)


def light_proto(model: ir.Model, small_bytes: int = SMALL_BYTES) -> onnx.ModelProto:
    """Return the model as a proto whose weights above a size are plain inputs without data."""
    with _hidden_weights(model.graph, small_bytes):
        return ir.to_proto(model)


@contextmanager
def _hidden_weights(graph: ir.Graph, small_bytes: int) -> Iterator[None]:
    """Turn larger weights into plain inputs for a while; a clone would take longer."""
    kept = dict(graph.initializers)
    large = [v for v in kept.values() if _bytes(v) > small_bytes]
    known = [(value, value.type, value.shape) for value in large]
    added = [value for value in large if not value.is_graph_input()]
    inputs = len(graph.inputs)
    try:
        for value in large:
            tensor = value.const_value
            assert tensor is not None, "large weights have data"
            value.type = ir.TensorType(tensor.dtype)
            value.shape = ir.Shape(tensor.shape.numpy())
            del graph.initializers[value.name or ""]
        graph.inputs.extend(added)
        yield
    finally:
        while len(graph.inputs) > inputs:
            graph.inputs.pop()
        graph.initializers.clear()
        graph.initializers.update(kept)
        for value, kind, shape in known:
            value.type, value.shape = kind, shape


def _bytes(value: ir.Value) -> int:
    return 0 if value.const_value is None else value.const_value.nbytes


def _first_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text[:1000]


def _merge(graph: ir.Graph, proto: onnx.GraphProto) -> int:
    known = {info.name: info.type for info in (*proto.value_info, *proto.output)}
    changed = 0
    for node, node_proto in zip(graph, proto.node, strict=True):
        for value in node.outputs:
            if value.name in known:
                changed += _refine(value, known[value.name])
        subgraphs = {a.name: a for a in node_proto.attribute if a.HasField("g")}
        for name, attr in node.attributes.items():
            if attr.type == ir.AttributeType.GRAPH and name in subgraphs:
                changed += _merge(attr.as_graph(), subgraphs[name].g)
    return changed


def _refine(value: ir.Value, proto: onnx.TypeProto) -> int:
    if _is_known(value, proto):
        return 0
    kind = ir.serde.deserialize_type_proto_for_type(proto)
    shape = ir.serde.deserialize_type_proto_for_shape(proto)
    changed = 0
    if value.type is None and kind is not None:
        value.type = kind
        changed = 1
    if shape is None:
        return changed
    if value.shape is None or len(value.shape) != len(shape):
        value.shape = shape
        return 1
    dims = [_better(old, new) for old, new in zip(value.shape, shape, strict=True)]
    if ir.Shape(dims) == value.shape:
        return changed
    value.shape = ir.Shape(dims)
    return 1


def _is_known(value: ir.Value, proto: onnx.TypeProto) -> bool:
    """Whether a value has a type and just these sizes already: most have, after the first time."""
    if value.type is None or value.shape is None or not proto.tensor_type.HasField("shape"):
        return False
    found = [dim.dim_value for dim in proto.tensor_type.shape.dim]
    return 0 not in found and list(value.shape) == found


def _better(old: int | ir.SymbolicDim, new: int | ir.SymbolicDim) -> int | ir.SymbolicDim:
    if isinstance(old, int) or (old.value is not None and not isinstance(new, int)):
        return old
    return new
