"""Checks on a model as it comes from outside, before anything believes it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import onnx
import onnx_ir as ir
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from whet.errors import ModelError, UnsupportedError
from whet.frontend.extent import check_extent
from whet.graph.opset import canonical_opset
from whet.limits import Limits
from whet.words import counted

OLDEST_OPSET = 1
MAX_ELEMENTS = 1 << 48
"""Shapes with more elements are damage; their bytes would not fit into 64 bits by much."""

_FIELDS = {
    ir.DataType.FLOAT: "float_data",
    ir.DataType.COMPLEX64: "float_data",
    ir.DataType.DOUBLE: "double_data",
    ir.DataType.COMPLEX128: "double_data",
    ir.DataType.INT64: "int64_data",
    ir.DataType.UINT32: "uint64_data",
    ir.DataType.UINT64: "uint64_data",
    ir.DataType.STRING: "string_data",
}
"""Where a constant's entries are if they are not raw bytes; other types are integers."""

_EXPORT_HINT = "export the model again"


def check_proto(
    proto: onnx.ModelProto,
    limits: Limits,
    apart: Mapping[int, int] = MappingProxyType({}),
) -> None:
    """Check versions, domains, functions, names and the size of every constant.

    Args:
        proto: the model.
        limits: how large it may be.
        apart: bytes of data that is kept elsewhere, by position in ``graph.initializer``.

    Raises:
        ModelError: with the first fault found, its place and what to do.
        ResourceError: a limit is exceeded.
    """
    _check_text(proto, "model")
    _check_opsets(proto)
    check_extent(proto, limits)
    for value in proto.graph.input:
        untyped = value.type.HasField("tensor_type") and not value.type.tensor_type.elem_type
        if untyped or value.type.WhichOneof("value") is None:
            raise ModelError("it has no type", where=f"input {value.name!r}", hint=_EXPORT_HINT)
    for graph, place, _ in walk_graphs(proto):
        _check_names(graph, place)
    total = 0
    for position, tensor in enumerate(proto.graph.initializer):
        place = f"initializer {tensor.name!r}"
        total += _check_tensor(tensor, place, apart.get(position), limits)
    for tensor, place in _walk_inner_tensors(proto):
        total += _check_tensor(tensor, place, None, limits)
    what = f"the constants have {total} bytes"
    limits.require("total_bytes", total, what, f"graph {proto.graph.name!r}")


def walk_graphs(proto: onnx.ModelProto) -> Iterator[tuple[onnx.GraphProto, str, int]]:
    """Yield every graph of a model with its place and depth, functions' sub-graphs included."""
    todo = [(proto.graph, f"graph {proto.graph.name!r}", 0)]
    for function in proto.functions:
        for node in function.node:
            todo.extend(_graphs_in(node, 1))
    while todo:
        graph, place, depth = todo.pop()
        yield graph, place, depth
        for node in graph.node:
            todo.extend(_graphs_in(node, depth + 1))


def _graphs_in(node: onnx.NodeProto, depth: int) -> Iterator[tuple[onnx.GraphProto, str, int]]:
    for attribute in node.attribute:
        place = f"node {node.name!r} ({node.op_type}), attribute {attribute.name!r}"
        if attribute.HasField("g"):
            yield attribute.g, place, depth
        for graph in attribute.graphs:
            yield graph, place, depth


def walk_tensors(proto: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, str]]:
    """Yield every constant of a model with its place: initialisers and attributes."""
    for tensor in proto.graph.initializer:
        yield tensor, f"initializer {tensor.name!r}"
    yield from _walk_inner_tensors(proto)


def _walk_inner_tensors(proto: onnx.ModelProto) -> Iterator[tuple[onnx.TensorProto, str]]:
    """Yield every constant but the main graph's initialisers."""
    nodes: list[onnx.NodeProto] = [n for f in proto.functions for n in f.node]
    for graph, _, depth in walk_graphs(proto):
        for tensor in graph.initializer if depth else ():
            yield tensor, f"initializer {tensor.name!r}"
        for sparse in graph.sparse_initializer:
            yield sparse.values, f"initializer {sparse.values.name!r}"
            yield sparse.indices, f"initializer {sparse.values.name!r}"
        nodes.extend(graph.node)
    for node in nodes:
        for attribute in node.attribute:
            place = f"node {node.name!r} ({node.op_type}), attribute {attribute.name!r}"
            if attribute.HasField("t"):
                yield attribute.t, place
            for tensor in attribute.tensors:
                yield tensor, place


def _check_opsets(proto: onnx.ModelProto) -> None:
    versions = {o.domain: o.version for o in proto.opset_import}
    version = versions.get("", versions.get("ai.onnx", canonical_opset()))
    if not versions:
        raise ModelError(
            "the model does not say which opset it uses (or it is truncated)",
            where="opset_import",
            hint=_EXPORT_HINT,
        )
    if version > canonical_opset():
        raise ModelError(
            f"the model uses opset {version}, the installed onnx knows up to {canonical_opset()}",
            where="opset_import",
            hint="upgrade the onnx package, or export with an older opset",
        )
    if version < OLDEST_OPSET:
        raise ModelError(
            f"the model uses opset {version}, the oldest supported is {OLDEST_OPSET}",
            where="opset_import",
            hint="export the model again with a newer opset",
        )


def _check_text(message: Message, place: str) -> None:
    """Refuse text that is not UTF-8, which the parser hands over as bytes."""
    for field, value in message.ListFields():
        single = isinstance(value, str | bytes | Message)
        items: Iterable[Any] = [value] if single else value
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            for item in items:
                _check_text(item, f"{place}.{field.name}")
        elif field.type == FieldDescriptor.TYPE_STRING:
            for item in items:
                if not isinstance(item, str):
                    fault = f"the text {item!r} is not UTF-8"
                    raise ModelError(fault, where=place, hint=_EXPORT_HINT)


def _check_names(graph: onnx.GraphProto, place: str) -> None:
    inputs = [i.name for i in graph.input]
    constants = [t.name for t in graph.initializer]
    constants += [s.values.name for s in graph.sparse_initializer]
    _refuse_repeats("input", inputs, place)
    _refuse_repeats("initializer", constants, place)
    produced = {*inputs, *constants}
    if graph.sparse_initializer:
        raise UnsupportedError(
            f"the initializer {graph.sparse_initializer[0].values.name!r} is sparse",
            where=place,
            hint="store it as a plain tensor",
        )
    for node in graph.node:
        attributes = [a.name for a in node.attribute]
        _refuse_repeats("attribute", attributes, f"node {node.name!r} ({node.op_type})")
        for name in node.output:
            if name in produced:
                raise ModelError(
                    f"the value {name!r} is produced twice",
                    where=f"node {node.name!r} ({node.op_type})",
                    hint=_EXPORT_HINT,
                )
            if name:
                produced.add(name)
    for output in graph.output:
        if output.name not in produced:
            raise ModelError(
                f"nothing produces the output {output.name!r}",
                where=place,
                hint="a graph must produce its outputs itself; insert an Identity node",
            )


def _refuse_repeats(kind: str, names: list[str], place: str) -> None:
    seen: set[str] = set()
    for name in names:
        if not name or name in seen:
            fault = f"two {kind}s have the name {name!r}" if name else f"one {kind} has no name"
            raise ModelError(fault, where=place, hint=_EXPORT_HINT)
        seen.add(name)


def _check_tensor(tensor: onnx.TensorProto, place: str, apart: int | None, limits: Limits) -> int:
    """Check one constant and return its bytes."""
    if tensor.data_type not in {int(t) for t in ir.DataType} or tensor.data_type == 0:
        raise ModelError(
            f"the constant has unknown element type {tensor.data_type}",
            where=place,
            hint="upgrade the onnx package, or export with an older opset",
        )
    limits.require("rank", len(tensor.dims), f"the constant has rank {len(tensor.dims)}", place)
    if any(d < 0 for d in tensor.dims):
        raise ModelError(
            f"the constant has the shape {list(tensor.dims)}",
            where=place,
            hint=_EXPORT_HINT,
        )
    elements = _elements(tensor)
    if elements > MAX_ELEMENTS:
        raise ModelError(
            f"the constant has {elements} elements, more than {MAX_ELEMENTS}",
            where=place,
            hint=_EXPORT_HINT,
        )
    size = expected = constant_bytes(tensor)
    limits.require("tensor_bytes", size, f"the constant has {size} bytes", place)
    if tensor.data_location == onnx.TensorProto.EXTERNAL:
        return size
    if apart is not None:
        found, unit = apart, "bytes"
    elif tensor.HasField("raw_data"):
        found, unit = len(tensor.raw_data), "bytes"
    else:
        found, expected, unit = _typed_count(tensor), _typed_need(tensor), "entries"
    if found != expected:
        raise ModelError(
            f"the constant of shape {list(tensor.dims)} has {found} {unit}, needs {expected}",
            where=place,
            hint="the file is damaged; export the model again",
        )
    return size


def constant_bytes(tensor: onnx.TensorProto) -> int:
    """Return how many bytes of raw data the shape and element type of a constant ask for."""
    kind = ir.DataType(tensor.data_type)
    if kind == ir.DataType.STRING:
        return 0
    return (_elements(tensor) * kind.bitwidth + 7) // 8


def _elements(tensor: onnx.TensorProto) -> int:
    return math.prod(int(d) for d in tensor.dims)


def _typed_count(tensor: onnx.TensorProto) -> int:
    """Count the entries of the field that the type belongs in; -1 if another has any."""
    own = _FIELDS.get(ir.DataType(tensor.data_type), "int32_data")
    counts = {name: len(getattr(tensor, name)) for name in {*_FIELDS.values(), "int32_data"}}
    return counts[own] if sum(counts.values()) == counts[own] else -1


def _typed_need(tensor: onnx.TensorProto) -> int:
    elements = _elements(tensor)
    kind = ir.DataType(tensor.data_type)
    if kind in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128):
        return 2 * elements
    if kind != ir.DataType.STRING and kind.bitwidth < 8:
        return constant_bytes(tensor)
    return elements


def check_external_data(proto: onnx.ModelProto, base_dir: Path | None, limits: Limits) -> None:
    """Check that external data lies in plain files below ``base_dir`` and fits the constants.

    Raises:
        ResourceError: the files together are larger than the limits allow.
        ModelError: a path is absolute, leaves the folder, goes through a link, is hard-linked
            elsewhere, or the file is missing or too short.
    """
    sizes: dict[Path, int] = {}
    for tensor, place in walk_tensors(proto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            path, size = _check_external(tensor, place, base_dir)
            sizes[path] = size
    total = sum(sizes.values())
    what = f"the external data has {total} bytes"
    limits.require("file_bytes", total, what, str(base_dir))


def _check_external(
    tensor: onnx.TensorProto, place: str, base_dir: Path | None
) -> tuple[Path, int]:
    """Check where one constant lies; return its file and the size of that."""
    entries = {e.key: e.value for e in tensor.external_data}
    location = entries.get("location", "")
    if base_dir is None:
        raise ModelError(
            f"the weights are outside the model, in {location!r}, and their folder is unknown",
            where=place,
            hint="load the model from its path, or give base_dir",
        )
    path = _safe_path(location, base_dir, place)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", -1))
    except ValueError:
        offset, length = -1, -1
    need = constant_bytes(tensor)
    if offset < 0 or (length != need and "length" in entries):
        raise ModelError(
            f"external data says offset {entries.get('offset', 0)!r} and length "
            f"{entries.get('length')!r}, the shape needs {counted(need, 'byte')}",
            where=place,
            hint="the file is damaged; export the model again",
        )
    size = path.stat().st_size
    if offset + need > size:
        raise ModelError(
            f"external data ends at byte {offset + need}, but {location!r} has "
            f"{counted(size, 'byte')}",
            where=place,
            hint="the data file is truncated or belongs to another model",
        )
    return path, size


def _safe_path(location: str, base_dir: Path, place: str) -> Path:
    parts = Path(location).parts
    if not location or os.path.isabs(location) or ".." in parts or "\0" in location:
        raise ModelError(
            f"external data is at {location!r}, which is not a path inside the model's folder",
            where=place,
            hint="external data must lie beside or below the model file",
        )
    try:
        return _plain_path(location, base_dir, place)
    except OSError as error:
        raise ModelError(
            f"external data at {location!r} cannot be looked at: {error.strerror}",
            where=place,
            hint="external data must lie beside or below the model file",
        ) from error


def _plain_path(location: str, base_dir: Path, place: str) -> Path:
    path = base_dir
    for part in Path(location).parts:
        path = path / part
        if path.is_symlink():
            raise ModelError(
                f"external data {location!r} goes through a symbolic link",
                where=place,
                hint="put a copy of the data file beside the model",
            )
    if not path.is_file():
        raise ModelError(
            f"external data file {location!r} is missing",
            where=place,
            hint=f"put it in {base_dir}",
        )
    if path.stat().st_nlink > 1:
        raise ModelError(
            f"external data file {location!r} is hard-linked elsewhere",
            where=place,
            hint="put a copy of the data file beside the model",
        )
    return path
