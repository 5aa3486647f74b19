"""Evaluation of single nodes on constants, through ``onnx.reference``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
import onnx.shape_inference
import onnx_ir as ir

from whet.graph.match import Miss
from whet.graph.opset import canonical_opset

MAX_FOLDED_BYTES = 1 << 30
"""No folded constant is larger than this, whatever the model says."""

_FREE_GROWTH_BYTES = 1 << 20
_SMALL_INPUT_BYTES = 1 << 16

_NOT_CONSTANT = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"}
    | {"RandomUniformLike", "ImageDecoder", "SequenceConstruct", "SplitToSequence", "Optional"}
)

_VECTORISED = frozenset({
    "Abs", "Acos", "Acosh", "Add", "And", "ArgMax", "ArgMin", "Asin", "Asinh", "Atan", "Atanh",
    "BitwiseAnd", "BitwiseNot", "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Clip",
    "Concat", "ConstantOfShape", "Cos", "Cosh", "CumSum", "DequantizeLinear", "Div", "Equal",
    "Exp", "Expand", "EyeLike", "Flatten", "Floor", "Gather", "GatherElements", "Gemm", "Greater",
    "GreaterOrEqual", "Identity", "IsInf", "IsNaN", "Less", "LessOrEqual", "Log", "MatMul", "Max",
    "Mean", "Min", "Mod", "Mul", "Neg", "Not", "OneHot", "Or", "Pad", "Pow", "QuantizeLinear",
    "Range", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Relu", "Reshape",
    "Round", "Shape", "Sigmoid", "Sign", "Sin", "Sinh", "Size", "Slice", "Softmax", "Split",
    "Sqrt", "Squeeze", "Sub", "Sum", "Tan", "Tanh", "Tile", "Transpose", "Trilu", "Unsqueeze",
    "Where", "Xor",
})  # fmt: skip
"""What the reference computes with whole arrays; of all else it loops over elements in Python."""

_LOOPED_BYTES = 1 << 18
"""Inputs and outputs of what it loops over: a second of compilation, at worst some."""

_MOST_PRODUCTS = 1 << 36
"""Multiplications of one matrix product: seconds."""

Array = np.ndarray[Any, Any]


def evaluate_node(node: ir.Node, constants: Sequence[Array | None]) -> list[Array] | Miss:
    """Compute the outputs of a node of the canonical opset from constant inputs.

    Args:
        node: a node of the standard domain, without sub-graphs.
        constants: one array per input; ``None`` where an optional input is absent.

    Returns:
        One array per output, or why the node cannot or should not be evaluated: its result is
        random, has no known size, or is much larger than its inputs.
    """
    if node.domain != "" or node.op_type in _NOT_CONSTANT:
        return Miss(f"{node.op_type} is not a constant function")
    if any(
        a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS, ir.AttributeType.TYPE_PROTO)
        or a.is_ref()
        for a in node.attributes.values()
    ):
        return Miss(f"{node.op_type} has a sub-graph or an unbound attribute")
    proto = ir.to_proto(node)
    proto.ClearField("metadata_props")
    for i in range(len(proto.input)):
        proto.input[i] = f"i{i}" if constants[i] is not None else ""
    outputs = [f"o{i}" if v.name else "" for i, v in enumerate(node.outputs)]
    del proto.output[:]
    proto.output.extend(outputs)
    feeds = {f"i{i}": c for i, c in enumerate(constants) if c is not None}
    too_big = _size_fault(proto, feeds)
    return too_big if too_big is not None else _run(proto, feeds, outputs)


def _gather_elements(proto: onnx.NodeProto, data: Array, indices: Array) -> Array:
    axis = next((a.i for a in proto.attribute if a.name == "axis"), 0) % data.ndim
    reach = [slice(None) if d == axis else slice(n) for d, n in enumerate(indices.shape)]
    return np.take_along_axis(data[tuple(reach)], indices, axis)


_OWN: dict[str, Callable[..., Array]] = {"GatherElements": _gather_elements}
"""Operators that the reference of onnx 1.23 gets wrong: it cannot gather 128 of 1×512 elements."""


def _run(proto: onnx.NodeProto, feeds: dict[str, Array], outputs: list[str]) -> list[Array] | Miss:
    if proto.op_type in _OWN:
        return [_OWN[proto.op_type](proto, *feeds.values())]
    from onnx.reference import ReferenceEvaluator  # 250 modules that many models do without

    wanted = [name for name in outputs if name]
    opsets = [onnx.helper.make_opsetid("", canonical_opset())]
    function = onnx.helper.make_function("whet", "fold", list(feeds), wanted, [proto], opsets)
    try:
        with np.errstate(all="ignore"):
            results = ReferenceEvaluator(function).run(wanted, feeds, {})
    except Exception as error:  # noqa: BLE001 - the oracle raises whatever NumPy raises
        return Miss(f"the reference cannot evaluate {proto.op_type}: {error}")
    arrays = [np.asarray(r) for r in results]
    if len(arrays) != len(outputs):
        return Miss(f"{proto.op_type} has skipped outputs")
    return arrays


def _size_fault(proto: onnx.NodeProto, feeds: dict[str, Array]) -> Miss | None:
    limit = min(MAX_FOLDED_BYTES, 2 * sum(a.nbytes for a in feeds.values()) + _FREE_GROWTH_BYTES)
    types = {name: _type_proto(array) for name, array in feeds.items()}
    data = {
        name: onnx.numpy_helper.from_array(array)
        for name, array in feeds.items()
        if array.nbytes <= _SMALL_INPUT_BYTES and array.dtype != object
    }
    schema = onnx.defs.get_schema(proto.op_type, canonical_opset(), "")
    opsets = [onnx.helper.make_opsetid("", canonical_opset())]
    try:
        inferred = onnx.shape_inference.infer_node_outputs(
            schema, proto, types, data, opset_imports=opsets
        )
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError, KeyError) as error:
        return Miss(f"shapes of {proto.op_type} cannot be inferred: {error}")
    sizes = [_bytes_of(kind) for kind in inferred.values()]
    if max(sizes, default=0) > limit:
        return Miss(f"folding {proto.op_type} would make {max(sizes)} bytes, more than {limit}")
    return _work_fault(proto, feeds, sum(sizes))


def _work_fault(proto: onnx.NodeProto, feeds: dict[str, Array], made: int) -> Miss | None:
    """Return why a node of acceptable size would still take too long."""
    given = [a.nbytes for a in feeds.values()]
    if proto.op_type not in _VECTORISED:
        # Windows and sums of products: each output element may read the whole of an input.
        if sum(given) + made > _LOOPED_BYTES:
            return Miss(f"evaluating {proto.op_type} would loop over {sum(given) + made} bytes")
        return None
    if proto.op_type in ("MatMul", "Gemm"):
        depth = max((a.shape[-1] for a in feeds.values() if a.ndim), default=1)
        if made * depth > _MOST_PRODUCTS:
            return Miss(f"{proto.op_type} would take {made * depth} multiplications")
    return None


def _type_proto(array: Array) -> onnx.TypeProto:
    elem = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_type_proto(elem, array.shape)


def _bytes_of(kind: onnx.TypeProto) -> int:
    """Return the size of a tensor; dims that depend on data are no larger than the inputs."""
    tensor = kind.tensor_type
    dims = [d.dim_value if d.HasField("dim_value") else 1 for d in tensor.shape.dim]
    width = ir.DataType(tensor.elem_type).bitwidth if tensor.elem_type not in (0, 8) else 64
    return math.prod(dims) * width // 8
