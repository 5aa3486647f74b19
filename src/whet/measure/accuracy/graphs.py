"""Models cut out of models: more outputs, given intermediate values, a few nodes alone.

All functions work on the ``ModelProto`` as it was exported, so that every name in a report is one
of the user's file. They return new models and leave their arguments alone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
from google.protobuf.message import DecodeError

from whet.errors import ModelError, UnsupportedError
from whet.frontend.reading import read_file
from whet.program.records import TensorSpec

Array = np.ndarray[Any, Any]
_EXPORT_HINT = "export the model again"


def read_proto(path: Path) -> onnx.ModelProto:
    """Read an ONNX file with its external data.

    Raises:
        ModelError: the file is missing or not an ONNX model.
    """
    read_file(path)  # refuses what is no plain file, such as a device without end
    try:
        model = onnx.load(path, format="protobuf")
    except OSError as error:
        raise ModelError(
            f"cannot read: {error.strerror or error}", where=str(path), hint="check the path"
        ) from error
    except (DecodeError, ValueError, onnx.checker.ValidationError) as error:
        raise ModelError(
            "not an ONNX file", where=str(path), hint="give a file that an exporter to ONNX wrote"
        ) from error
    if not model.graph.output:
        raise ModelError("the file holds no graph", where=str(path), hint=_EXPORT_HINT)
    return model


def constant_names(model: onnx.ModelProto) -> set[str]:
    """Return the names of the main graph's constants."""
    graph = model.graph
    sparse = {t.values.name for t in graph.sparse_initializer}
    return {t.name for t in graph.initializer} | sparse


def input_names(model: onnx.ModelProto) -> list[str]:
    """Return what a caller has to give, in order."""
    constants = constant_names(model)
    return [v.name for v in model.graph.input if v.name not in constants]


def input_specs(
    model: onnx.ModelProto, shapes: Mapping[str, tuple[int | str, ...]] | None = None
) -> tuple[TensorSpec, ...]:
    """Describe what a caller has to give; a dimension without a name is called ``?``.

    Args:
        model: the model.
        shapes: shapes by input name that replace those of the model.

    Raises:
        ModelError: an input has no type that ONNX knows.
        UnsupportedError: an input is no tensor.
    """
    constants, given = constant_names(model), shapes or {}
    return tuple(
        _input_spec(v, given.get(v.name)) for v in model.graph.input if v.name not in constants
    )


def _input_spec(value: onnx.ValueInfoProto, shape: tuple[int | str, ...] | None) -> TensorSpec:
    if not value.type.HasField("tensor_type"):
        kind = str(value.type.WhichOneof("value"))
        raise UnsupportedError(f"an input is a {kind}", where=value.name, hint="give it yourself")
    tensor = value.type.tensor_type
    if tensor.elem_type not in onnx.helper.get_all_tensor_dtypes():
        raise ModelError("it has no type", where=f"input {value.name!r}", hint=_EXPORT_HINT)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)
    dims = tuple(
        d.dim_value if d.HasField("dim_value") else d.dim_param or "?" for d in tensor.shape.dim
    )
    name = "string" if dtype.kind == "O" else dtype.name
    return TensorSpec(value.name, name, dims if shape is None else shape)


def value_names(model: onnx.ModelProto) -> list[str]:
    """Return the names of all values that nodes of the main graph produce, in order."""
    return [name for node in model.graph.node for name in node.output if name]


def producers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    """Return the node that produces each value of the main graph."""
    return {name: node for node in model.graph.node for name in node.output if name}


def node_label(node: onnx.NodeProto) -> str:
    """Return what reports call a node: its name, or its operator and first output."""
    return node.name or f"{node.op_type}:{next(filter(None, node.output), '')}"


def values_read(node: onnx.NodeProto) -> Iterator[str]:
    """Yield the values that a node reads, those that its subgraphs take from outside too."""
    yield from filter(None, node.input)
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            yield from _captured(graph)


def _captured(graph: onnx.GraphProto) -> Iterator[str]:
    own = {v.name for v in graph.input} | {t.name for t in graph.initializer}
    own |= {t.values.name for t in graph.sparse_initializer}
    for node in graph.node:
        yield from (name for name in values_read(node) if name not in own)
        own |= set(node.output)
    yield from (v.name for v in graph.output if v.name not in own)


def declare(name: str, array: Array, *, shaped: bool = True) -> onnx.ValueInfoProto:
    """Describe a value by an array that it held; by its rank alone unless ``shaped``."""
    kind = onnx.TensorProto.STRING
    if array.dtype.kind not in "OSUT":
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    shape = array.shape if shaped else [None] * array.ndim
    return onnx.helper.make_tensor_value_info(name, kind, shape)


def with_outputs(
    model: onnx.ModelProto, names: Collection[str], values: Mapping[str, Array] | None = None
) -> onnx.ModelProto:
    """Return a model that gives more values of its main graph.

    Args:
        model: the model.
        names: the values; those that are outputs already are left as they are.
        values: an array for each, from which the type is taken; types stay open without.
    """
    made = onnx.ModelProto()
    made.CopyFrom(model)
    known = {v.name for v in made.graph.output}
    for name in dict.fromkeys(names):
        if name in known:
            continue
        info = onnx.ValueInfoProto(name=name)
        if values is not None:
            info = declare(name, values[name], shaped=False)
        made.graph.output.append(info)
    return made


def given_name(name: str) -> str:
    """Return the name of the input that stands for a cut value."""
    return f"{name}.given"


def cut_at(
    model: onnx.ModelProto, names: Collection[str], values: Mapping[str, Array]
) -> onnx.ModelProto:
    """Return a model in which all readers of some values read new inputs instead.

    What computes a cut value still does, and the value is an output: so each stretch between cuts
    can be fed with golden values and judged on its own.

    Args:
        model: the model.
        names: values to cut at.
        values: an array for each, which declares the new input.
    """
    made = with_outputs(model, names, values)
    fresh = {name: given_name(name) for name in names}
    for node in made.graph.node:
        _rename_reads(node, fresh)
    made.graph.input.extend(declare(given_name(name), values[name]) for name in names)
    return made


def _rename_reads(node: onnx.NodeProto, fresh: Mapping[str, str]) -> None:
    for position, name in enumerate(node.input):
        if name in fresh:
            node.input[position] = fresh[name]
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            shadowed = {v.name for v in graph.input} | {t.name for t in graph.initializer}
            shadowed |= {name for inner in graph.node for name in inner.output}
            visible = {old: new for old, new in fresh.items() if old not in shadowed}
            for inner in graph.node:
                _rename_reads(inner, visible)


def slice_nodes(
    model: onnx.ModelProto,
    keep: Sequence[int],
    values: Mapping[str, Array],
    frozen: Collection[str] = (),
) -> onnx.ModelProto:
    """Return a model of some nodes alone.

    What they read and none of them produces becomes an input, unless it is a constant; what they
    produce and none of them reads, and what was an output before, becomes an output.

    Args:
        model: the model.
        keep: positions of nodes in the main graph, ascending.
        values: arrays of the values of the model, which declare the new inputs and outputs.
        frozen: values that become constants where they would become inputs.

    Raises:
        KeyError: a value that would become an input has no array.
    """
    graph = model.graph
    nodes = [graph.node[position] for position in keep]
    made = {name for node in nodes for name in node.output if name}
    reads = list(dict.fromkeys(name for node in nodes for name in values_read(node)))
    constants = constant_names(model)
    inner = set(reads)
    before = {v.name for v in graph.output}
    inputs = {v.name: v for v in graph.input}
    fed = [name for name in reads if name not in made and name not in constants]
    wanted = [
        name
        for node in nodes
        for name in node.output
        if name in made and name in values and (name not in inner or name in before)
    ]
    result = onnx.ModelProto()
    for field in ("ir_version", "producer_name"):
        setattr(result, field, getattr(model, field))
    result.opset_import.extend(model.opset_import)
    result.functions.extend(model.functions)
    result.graph.name = graph.name or "slice"
    result.graph.node.extend(nodes)
    result.graph.initializer.extend(t for t in graph.initializer if t.name in inner)
    result.graph.sparse_initializer.extend(
        t for t in graph.sparse_initializer if t.values.name in inner
    )
    stored = [name for name in fed if name in frozen and name not in inputs]
    result.graph.initializer.extend(onnx.numpy_helper.from_array(values[n], n) for n in stored)
    fed = [name for name in fed if name not in stored]
    result.graph.input.extend(inputs.get(name) or declare(name, values[name]) for name in fed)
    result.graph.output.extend(declare(name, values[name], shaped=False) for name in wanted)
    return result
