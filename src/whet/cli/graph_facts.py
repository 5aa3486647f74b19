"""What an ONNX file says about itself, before any compilation."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from whet.cli.report import specs_as_json
from whet.errors import ModelError
from whet.program.records import TensorSpec

if TYPE_CHECKING:
    import onnx

Shape = tuple[int | str, ...]
_NO_TYPE = "unknown"
_PRODUCT_VALUES = 3  # two operands and a result
_HINT = "give a file that an exporter to ONNX wrote"


@dataclass(frozen=True, slots=True)
class GraphFacts:
    """An ONNX model in figures.

    Attributes:
        inputs: what the model takes, constants left out.
        outputs: what the model gives.
        opsets: version by operator domain; the standard domain is ``""``.
        nodes: number of nodes, those of subgraphs too.
        ops: number of nodes by operator type, most frequent first.
        parameters: number of elements of all constants.
        weight_bytes: their size.
        flops: floating-point operations of convolutions and matrix products of known shape.
        unknown_flops: how many such nodes have a shape that is not known.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opsets: dict[str, int]
    nodes: int
    ops: dict[str, int]
    parameters: int
    weight_bytes: int
    flops: int
    unknown_flops: int

    def as_json(self) -> dict[str, Any]:
        """Return the figures as a JSON value."""
        specs = {"inputs": specs_as_json(self.inputs), "outputs": specs_as_json(self.outputs)}
        return asdict(self) | specs


def read_graph_facts(path: Path) -> GraphFacts:
    """Read an ONNX file, without the data of external files.

    Raises:
        ModelError: the file is missing or not an ONNX model.
    """
    import onnx
    from google.protobuf.message import DecodeError

    from whet.frontend.reading import read_file

    read_file(path)  # refuses what is no plain file, such as a device without end
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except OSError as error:
        raise ModelError(
            f"cannot read: {error.strerror or error}", where=str(path), hint="check the path"
        ) from error
    except (DecodeError, ValueError) as error:
        raise ModelError("not an ONNX file", where=str(path), hint=_HINT) from error
    if not model.graph.node and not model.graph.output:
        raise ModelError("the file holds no graph", where=str(path), hint=_HINT)
    return _collect(model)


def _collect(model: onnx.ModelProto) -> GraphFacts:
    """Count what a model holds."""
    graph = model.graph
    nodes = list(_all_nodes(graph))
    constants = {t.name: t for t in graph.initializer}
    shapes = _infer_shapes(model)
    flops = [_count_flops(node, shapes) for node in nodes if node.op_type in _FLOPS]
    sizes = {name: math.prod(t.dims) for name, t in constants.items()}
    widths = {name: _bits(t.data_type) for name, t in constants.items()}
    return GraphFacts(
        inputs=tuple(_spec(value) for value in graph.input if value.name not in constants),
        outputs=tuple(_spec(value) for value in graph.output),
        opsets={entry.domain: entry.version for entry in model.opset_import},
        nodes=len(nodes),
        ops=dict(Counter(node.op_type for node in nodes).most_common()),
        parameters=sum(sizes.values()),
        weight_bytes=sum(-(-sizes[name] * widths[name] // 8) for name in sizes),
        flops=sum(count for count in flops if count is not None),
        unknown_flops=flops.count(None),
    )


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes of a graph and of its subgraphs."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)
            for subgraph in attribute.graphs:
                yield from _all_nodes(subgraph)


def _bits(data_type: int) -> int:
    """Return how many bits an element of an ONNX type takes; 0 if there is no such type."""
    from onnx import TensorProto, helper

    if data_type not in helper.get_all_tensor_dtypes():
        return 0
    name = str(TensorProto.DataType.Name(data_type))
    packed = {"INT2": 2, "UINT2": 2, "INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "BOOL": 8}
    return packed.get(name) or 8 * int(helper.tensor_dtype_to_np_dtype(data_type).itemsize)


def _shape(value: onnx.ValueInfoProto) -> Shape:
    """Return the shape of a value; a dimension without a name is ``?``."""
    dims = value.type.tensor_type.shape.dim
    return tuple(
        dim.dim_value if dim.HasField("dim_value") else dim.dim_param or "?" for dim in dims
    )


def _spec(value: onnx.ValueInfoProto) -> TensorSpec:
    """Describe an input or output; files need not say which type an output has."""
    from onnx import helper

    if not value.type.HasField("tensor_type"):
        return TensorSpec(value.name, value.type.WhichOneof("value") or _NO_TYPE, ())
    kind = value.type.tensor_type.elem_type
    if kind not in helper.get_all_tensor_dtypes():
        return TensorSpec(value.name, _NO_TYPE, _shape(value))
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    return TensorSpec(value.name, dtype.name, _shape(value))


def _infer_shapes(model: onnx.ModelProto) -> dict[str, Shape]:
    """Return the shapes of values by name, as far as ONNX can tell."""
    from onnx import shape_inference

    shapes: dict[str, Shape] = {t.name: tuple(t.dims) for t in model.graph.initializer}
    try:
        graph = shape_inference.infer_shapes(model, data_prop=True).graph
    except (shape_inference.InferenceError, RuntimeError, ValueError):
        # over 2 GiB, or a model that contradicts itself or lacks an opset
        graph = model.graph
    for value in (*graph.input, *graph.value_info, *graph.output):
        if value.type.tensor_type.HasField("shape"):
            shapes.setdefault(value.name, _shape(value))
    return shapes


def _count_flops(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int | None:
    """Return two operations a multiply-add of a node; ``None`` where a shape is not known."""
    found = [shapes.get(name) for name in (*node.input[:2], *node.output[:1])]
    known = (s is not None and all(isinstance(dim, int) for dim in s) for s in found)
    if len(found) < _PRODUCT_VALUES or not all(known):
        return None
    first, second, result = ([int(dim) for dim in shape or ()] for shape in found)
    return 2 * _FLOPS[node.op_type](node, first, second, result)


def _conv(_: onnx.NodeProto, __: list[int], weights: list[int], result: list[int]) -> int:
    """Multiply-adds: every output element takes one filter."""
    return math.prod(result) * math.prod(weights[1:])


def _conv_transpose(_: onnx.NodeProto, data: list[int], weights: list[int], __: list[int]) -> int:
    """Multiply-adds: every input element is spread over one filter."""
    return math.prod(data) * math.prod(weights[1:])


def _matmul(_: onnx.NodeProto, first: list[int], __: list[int], result: list[int]) -> int:
    """Multiply-adds: every output element takes one row."""
    return math.prod(result) * (first[-1] if first else 1)


def _gemm(node: onnx.NodeProto, first: list[int], __: list[int], result: list[int]) -> int:
    """Multiply-adds: every output element takes one row, or column where A is transposed."""
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return math.prod(result) * (first[0 if transposed else -1] if first else 1)


_FLOPS = {"Conv": _conv, "ConvTranspose": _conv_transpose, "MatMul": _matmul, "Gemm": _gemm}
