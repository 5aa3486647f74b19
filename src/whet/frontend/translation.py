"""What the translation of one foreign operator works with: its node, and standard nodes to build.

Element types and shapes are inferred node by node as the graph is walked, so that a translation can
ask for the rank and type of any value in front of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import numpy as np
import onnx
import onnx.shape_inference
import onnx_ir as ir

from whet.errors import ShapeError, UnsupportedError
from whet.graph.edit import Names, constant, constant_tensor, inherit_sources, name_of
from whet.graph.opset import WHET_DOMAIN, canonical_opset

Array = np.ndarray[Any, Any]
Operand = ir.Value | Array | None
Result = ir.Value | Sequence[ir.Value | None]

_KNOWN_BYTES = 4096
"""Constants up to this size may decide shapes."""

_REQUIRED: Any = object()


class Foreign(msgspec.Struct, frozen=True):
    """One operator of another domain.

    Attributes:
        name: its type.
        translate: builds standard nodes and returns one value for each output, ``None`` where it
            has none; outputs left out are refused if something reads them.
        ignored: attributes that change no result, such as hints for speed.
    """

    name: str
    translate: Callable[[Translation], Result]
    ignored: tuple[str, ...] = ()


class Translation:
    """One node that is being replaced by standard nodes.

    Args:
        node: the foreign node.
        names: source of unused names.
    """

    def __init__(self, node: ir.Node, names: Names) -> None:
        self.node = node
        self._names = names
        self._attributes = dict(node.attributes)
        self.made: list[ir.Node] = []

    # -- what the node says ------------------------------------------------------------------

    def input(self, position: int) -> ir.Value:
        """Return a required input.

        Raises:
            UnsupportedError: the node has no such input.
        """
        found = self.optional(position)
        if found is None:
            raise self.refuse(f"input {position} is missing")
        return found

    def optional(self, position: int) -> ir.Value | None:
        """Return an input, or ``None`` if it is left out."""
        inputs = self.node.inputs
        return inputs[position] if position < len(inputs) else None

    def absent(self, **positions: int) -> None:
        """Refuse inputs for which there is no translation, by name and position."""
        for name, position in positions.items():
            if self.optional(position) is not None:
                raise self.refuse(f"input {name} is not supported")

    def wants(self, position: int) -> bool:
        """Tell whether anything reads an output."""
        outputs = self.node.outputs
        if position >= len(outputs):
            return False
        return bool(outputs[position].uses()) or outputs[position].is_graph_output()

    def take(self, name: str, default: Any = _REQUIRED) -> Any:
        """Return an attribute's value, its default if absent; all that is not taken is refused.

        Raises:
            UnsupportedError: it is absent and has no default.
        """
        attribute = self._attributes.pop(name, None)
        if attribute is not None:
            if default is not _REQUIRED and not _fits(attribute.value, default):
                raise self.refuse(f"attribute {name} is a {attribute.type.name}")
            return attribute.value
        if default is _REQUIRED:
            raise self.refuse(f"attribute {name} is missing")
        return default

    def only(self, **attributes: Any) -> None:
        """Refuse attributes that are neither absent nor of the one value that is supported."""
        for name, value in attributes.items():
            found = self.take(name, value)
            if found != value:
                raise self.refuse(f"{name}={found} is not supported")

    def rest(self, *names: str) -> dict[str, Any]:
        """Return those of some attributes that are present, to be passed on as they are."""
        return {n: self._attributes.pop(n).value for n in names if n in self._attributes}

    def finish(self, ignored: Sequence[str]) -> None:
        """Refuse attributes that the translation did not look at."""
        unknown = sorted(set(self._attributes) - set(ignored))
        if unknown:
            raise self.refuse(f"attribute {unknown[0]} is not known")

    def refuse(self, reason: str, hint: str | None = None) -> UnsupportedError:
        """Return an error that names this node."""
        label = f"{self.node.domain or 'ai.onnx'}::{self.node.op_type}"
        return UnsupportedError(
            f"{label}: {reason}", where=f"node {name_of(self.node)!r}", hint=hint
        )

    # -- what is known of values -------------------------------------------------------------

    def rank(self, value: ir.Value) -> int:
        """Return how many dimensions a value has.

        Raises:
            UnsupportedError: that is not known.
        """
        if value.shape is None:
            raise self.refuse(f"the rank of {value.name!r} is unknown", "run shape inference first")
        return len(value.shape)

    def dtype(self, value: ir.Value) -> ir.DataType:
        """Return the element type of a value.

        Raises:
            UnsupportedError: that is not known.
        """
        if value.dtype is None:
            raise self.refuse(f"the type of {value.name!r} is unknown", "run shape inference first")
        return value.dtype

    def dim(self, value: ir.Value, axis: int) -> int | None:
        """Return the length of one dimension if it is a known number."""
        self.rank(value)
        assert value.shape is not None
        length = value.shape[axis]
        return length if isinstance(length, int) else None

    def fixed(self, value: ir.Value, axis: int) -> int:
        """Return the length of one dimension that has to be a known number.

        Raises:
            UnsupportedError: it is not known.
        """
        length = self.dim(value, axis)
        if length is None:
            raise self.refuse(f"dim {axis} of {value.name!r} is not a number")
        return length

    def constant(self, value: ir.Value | None) -> Array:
        """Return the elements of a value that has to be constant.

        Raises:
            UnsupportedError: it is not.
        """
        array = constant(value)
        if array is None:
            raise self.refuse(f"input {value and value.name!r} is not constant")
        return array

    # -- building ----------------------------------------------------------------------------

    def op(self, op_type: str, *inputs: Operand, **attributes: Any) -> ir.Value:
        """Add a standard node with one output; arrays become constants."""
        return self.ops(1, op_type, *inputs, **attributes)[0]

    def ops(
        self, count: int, op_type: str, *inputs: Operand, **attributes: Any
    ) -> tuple[ir.Value, ...]:
        """Add a standard node with several outputs."""
        values = [self._value(x) for x in inputs]
        while values and values[-1] is None:
            values.pop()
        kept = {k: v for k, v in attributes.items() if v is not None}
        return self._insert(op_type, values, kept, count)

    def scalar(self, number: float, like: ir.Value) -> Array:
        """Return a number in the element type of another value."""
        return np.asarray(number, dtype=self.dtype(like).numpy())

    def shape(self, value: ir.Value, start: int = 0, end: int | None = None) -> ir.Value:
        """Return some of the dims of a value, as int64 of rank 1."""
        return self.op("Shape", value, start=start, end=end)

    def length(self, value: ir.Value, axis: int) -> ir.Value:
        """Return one dim of a value, as int64 of rank 1."""
        return self.shape(value, axis, axis + 1)

    def extent(self, value: ir.Value, axis: int) -> ir.Value:
        """Return one dim of a value, as an int64 scalar."""
        return self.op("Squeeze", self.length(value, axis))

    def reshape(self, value: ir.Value, *dims: int) -> ir.Value:
        """Reshape to fixed dims; 0 keeps a dim, -1 is what is left."""
        return self.op("Reshape", value, np.array(dims, np.int64))

    def transpose(self, value: ir.Value, *order: int) -> ir.Value:
        """Reorder the dims of a value."""
        return self.op("Transpose", value, perm=list(order))

    def unsqueeze(self, value: ir.Value, *axes: int) -> ir.Value:
        """Insert dims of 1."""
        return self.op("Unsqueeze", value, np.array(axes, np.int64))

    def slice(
        self, value: ir.Value, axis: int, start: ir.Value | int, end: ir.Value | int
    ) -> ir.Value:
        """Take a part of a value along one axis."""
        bounds = [np.array([b], np.int64) if isinstance(b, int) else b for b in (start, end)]
        return self.op("Slice", value, *bounds, np.array([axis], np.int64))

    def step(
        self, op_type: str, value: ir.Value, dtype: ir.DataType, **attributes: Any
    ) -> ir.Value:
        """Add a step of the script that gives a value of the same shape in another type."""
        return self.of_shape(self.own(op_type, value, dtype=dtype, **attributes), value)

    def own(
        self,
        op_type: str,
        *inputs: Operand,
        dtype: ir.DataType,
        dims: Sequence[int | None] | None = None,
        **attributes: Any,
    ) -> ir.Value:
        """Add a node of Whet's own domain, whose output ``onnx`` cannot infer."""
        base = f"{self.node.name or self.node.outputs[0].name}_{op_type}"
        shape = None if dims is None else ir.Shape(dims)
        result = ir.Value(
            name=self._names.fresh(f"{base}_out"), type=ir.TensorType(dtype), shape=shape
        )
        made = ir.node(
            op_type, [self._value(x) for x in inputs], attributes, domain=WHET_DOMAIN,
            outputs=[result], name=self._names.fresh(base),
        )  # fmt: skip
        self._place(made, known=True)
        return result

    def of_shape(self, value: ir.Value, like: ir.Value) -> ir.Value:
        """Say that a value has another one's shape, for operators without a rule of inference."""
        value.shape = like.shape.copy() if like.shape is not None else None
        return value

    def cast(self, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """Convert to an element type; nothing is added if it is that already."""
        return value if value.dtype == dtype else self.op("Cast", value, to=int(dtype))

    def _value(self, operand: Operand) -> ir.Value | None:
        if operand is None or isinstance(operand, ir.Value):
            return operand
        return self.op("Constant", value=ir.Tensor(np.asarray(operand)))

    def tensor(self, tensor: ir.TensorProtocol) -> ir.Value:
        """Add a constant of a type that NumPy does not know, such as int4."""
        return self.op("Constant", value=tensor)

    def copy(self, node: ir.Node, inputs: Sequence[ir.Value | None]) -> ir.Node:
        """Add a copy of a standard node that reads other values."""
        base = f"{self.node.name or self.node.outputs[0].name}_{node.op_type}"
        values = [ir.Value(name=v.name and self._names.fresh(f"{base}_out")) for v in node.outputs]
        made = ir.Node(
            node.domain,
            node.op_type,
            inputs,
            node.attributes.values(),
            outputs=values,
            name=self._names.fresh(base),
        )
        self._place(made)
        return made

    def _insert(
        self, op_type: str, inputs: list[ir.Value | None], attributes: dict[str, Any], count: int
    ) -> tuple[ir.Value, ...]:
        base = f"{self.node.name or self.node.outputs[0].name}_{op_type}"
        name = self._names.fresh(base)
        suffixes = [""] + [f"_{k}" for k in range(1, count)]
        values = [ir.Value(name=self._names.fresh(f"{base}_out{s}")) for s in suffixes]
        self._place(ir.node(op_type, inputs, attributes, outputs=values, name=name))
        return tuple(values)

    def _place(self, made: ir.Node, *, known: bool = False) -> None:
        graph = self.node.graph
        assert graph is not None
        graph.insert_before(self.node, made)
        inherit_sources(made, [self.node])
        self.made.append(made)
        if not known:
            infer_node(made)


def _fits(value: Any, default: Any) -> bool:
    """Tell whether an attribute is of the kind of its default; any fits ``None``."""
    if default is None or isinstance(value, type(default)):
        return True
    return isinstance(default, (tuple, list)) and isinstance(value, (tuple, list))


def infer_node(node: ir.Node) -> None:
    """Infer types and shapes of one standard node's outputs from those of its inputs.

    Raises:
        ShapeError: the inputs contradict each other.
    """
    if node.op_type == "Constant":
        tensor = constant_tensor(node.outputs[0])
        if tensor is not None:
            node.outputs[0].type = ir.TensorType(tensor.dtype)
            node.outputs[0].shape = ir.Shape(tensor.shape.numpy())
        return
    if any(v is not None and v.dtype is None for v in node.inputs):
        return
    try:
        found = _inferred(node)
    except (onnx.shape_inference.InferenceError, onnx.defs.SchemaError, ValueError) as error:
        text = " ".join(str(error).split())[:300]
        raise ShapeError(f"{node.op_type}: {text}", where=f"node {name_of(node)!r}") from error
    for value in node.outputs:
        proto = found.get(value.name or "")
        if proto is not None:
            value.type = ir.serde.deserialize_type_proto_for_type(proto)
            value.shape = value.shape or ir.serde.deserialize_type_proto_for_shape(proto)


def _inferred(node: ir.Node) -> Mapping[str, onnx.TypeProto]:
    return onnx.shape_inference.infer_node_outputs(
        onnx.defs.get_schema(node.op_type, canonical_opset(), ""),
        _bare_proto(node),
        _input_types(node),
        _small_constants(node),
        opset_imports=[onnx.helper.make_opsetid("", canonical_opset())],
        ir_version=onnx.IR_VERSION,
    )


def _bare_proto(node: ir.Node) -> onnx.NodeProto:
    proto = ir.to_proto(node)
    proto.ClearField("metadata_props")
    return proto


def _input_types(node: ir.Node) -> dict[str, onnx.TypeProto]:
    """Return the types of a node's inputs; an unknown number of sizes of ``Resize`` is its rank.

    ONNX's shape inference takes an unknown number for 0.
    """
    found = {v.name or "": _type_of(v) for v in node.inputs if v is not None}
    data = node.inputs[0] if node.op_type == "Resize" else None
    if data is not None and data.shape is not None:
        count = len(node.attributes.get_ints("axes", data.shape))
        for value in filter(None, node.inputs[2:4]):
            if value.shape is None or not value.shape.is_static():
                shape = found[value.name or ""].tensor_type.shape
                del shape.dim[:]
                shape.dim.add(dim_value=count)
    return found


def _type_of(value: ir.Value) -> onnx.TypeProto:
    proto = ir.serde.serialize_value(value).type
    assert isinstance(proto, onnx.TypeProto)
    return proto


def _small_constants(node: ir.Node) -> dict[str, onnx.TensorProto]:
    found: dict[str, onnx.TensorProto] = {}
    for value in node.inputs:
        tensor = constant_tensor(value)
        if value is not None and tensor is not None and tensor.nbytes <= _KNOWN_BYTES:
            found[value.name or ""] = ir.to_proto(tensor)
    return found
