"""``load_model``: any model source becomes a checked, canonical ``onnx_ir.Model``.

Canonical means: the newest opset, no model-local functions, no ``Constant`` nodes in the main
graph, every node with a unique name, nodes sorted, element types known and shapes inferred.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from whet.errors import ModelError, WhetError
from whet.frontend.check import check_external_data, check_proto
from whet.frontend.expand import expand_operators
from whet.frontend.extent import check_size
from whet.frontend.external import attach_external
from whet.frontend.gradient.expand import expand_gradients
from whet.frontend.inline import inline_functions, shares_opset
from whet.frontend.normalize import (
    lift_constants,
    name_nodes,
    release_initializer_inputs,
    split_wide_nodes,
)
from whet.frontend.operators import check_operators
from whet.frontend.read import Parsed, parse_bytes
from whet.frontend.reading import Reading, Source
from whet.frontend.specialize import bind_shapes
from whet.frontend.split import LARGE_BYTES
from whet.frontend.translate import translate_model
from whet.frontend.typing import check_types
from whet.frontend.upgrade import upgrade_model
from whet.graph.infer import infer_shapes
from whet.graph.verify import find_fault
from whet.limits import Limits
from whet.mapped import MappedFile

_MALFORMED = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What libraries raise on nodes that are not what their operator asks for."""

FILES = "whet.files"
"""Key in the metadata of a model in memory: the files that its weights are read from."""


def load_model(
    source: Source | Reading,
    *,
    shapes: Mapping[str, tuple[int | str, ...]] | None = None,
    base_dir: str | os.PathLike[str] | None = None,
    limits: Limits | None = None,
) -> ir.Model:
    """Load a model and bring it into canonical form; the caller's object is never changed.

    Args:
        source: path of an ONNX file, its bytes, a ``ModelProto`` or an ``onnx_ir.Model``, or the
            ``Reading`` of one.
        shapes: shapes of inputs: an integer fixes a dim, a string names a symbolic dim.
        base_dir: folder of external data; by default the folder of the file. Weights outside
            the model are refused when neither is known.
        limits: how large the model may be.

    Raises:
        ModelError: the model is missing, damaged, hostile or not ONNX.
        ResourceError: a limit is exceeded; the error names it.
        UnsupportedError: the model uses unknown operators; all are listed.
        ShapeError: shapes contradict each other or the model.
    """
    bounds = limits or Limits()
    model = _open(source, base_dir, bounds)
    try:
        check_size(model, bounds)
        _check(model)
        _canonicalise(model, shapes or {})
        check_size(model, bounds)
    except WhetError:
        raise
    except (*_MALFORMED, ir.serde.SerdeError) as error:
        raise _malformed(error, None) from error
    return model


def _check(model: ir.Model) -> None:
    fault = find_fault(model)
    if fault is not None and not _sort(model):
        raise ModelError("the graph has a cycle", where=fault[1], hint="export the model again")
    fault = find_fault(model)
    if fault is not None:
        raise ModelError(fault[0], where=fault[1], hint="export the model again")
    _refuse_repeated_outputs(model)
    check_operators(model)


def _refuse_repeated_outputs(model: ir.Model) -> None:
    names = [value.name for value in model.graph.outputs]
    for name in names:
        if names.count(name) > 1:
            raise ModelError(
                f"two outputs have the name {name!r}",
                where=f"graph {model.graph.name!r}",
                hint="give the second one a name of its own, with an Identity node",
            )


def _canonicalise(model: ir.Model, shapes: Mapping[str, tuple[int | str, ...]]) -> None:
    if shares_opset(model):
        inline_functions(model)
    upgrade_model(model)
    inline_functions(model)
    release_initializer_inputs(model)
    translate_model(model)
    lift_constants(model)
    split_wide_nodes(model)
    name_nodes(model)
    bind_shapes(model, shapes)
    infer_shapes(model)
    if expand_gradients(model):
        lift_constants(model)
        name_nodes(model)
        infer_shapes(model)
    if expand_operators(model):
        inline_functions(model)
        lift_constants(model)
        name_nodes(model)
        infer_shapes(model)
    check_types(model)


def _open(
    source: Source | Reading, base_dir: str | os.PathLike[str] | None, limits: Limits
) -> ir.Model:
    given = source if isinstance(source, Reading) else Reading(source)
    source = given.source
    if isinstance(source, ir.Model):
        return _clone(source)
    where: str | None = None
    files: list[MappedFile] = []
    if isinstance(source, onnx.ModelProto):
        parsed = Parsed(source)
    elif isinstance(source, bytes):
        parsed = parse_bytes(memoryview(source), limits, where="the given bytes")
    elif isinstance(source, (str, os.PathLike)):
        where = os.fspath(source)
        file = given.file
        files = [] if file is None else [file]
        parsed = parse_bytes(file.view if file else memoryview(b""), limits, where=where)
        base_dir = base_dir if base_dir is not None else Path(source).resolve().parent
    else:
        raise ModelError(
            f"cannot load a model from {type(source).__name__}",
            hint="give a path, bytes, onnx.ModelProto or onnx_ir.Model",
        )
    check_proto(parsed.proto, limits, {k: len(data) for k, data in parsed.weights.items()})
    check_external_data(parsed.proto, None if base_dir is None else Path(base_dir), limits)
    model = _deserialize(parsed, where)
    if base_dir is not None:
        files += attach_external(model, Path(base_dir))
    model.meta[FILES] = tuple(files)
    return model


def check_files(model: ir.Model) -> None:
    """Check that the files which a model was loaded from are as they were.

    Raises:
        ModelError: one was cut or changed; what was read from it may be wrong.
    """
    if any(file.changed() for file in model.meta.get(FILES, ())):
        raise ModelError(
            "the model's files were changed while they were read",
            where=f"graph {model.graph.name!r}",
            hint="compile again when nothing writes to them",
        )


def _clone(model: ir.Model) -> ir.Model:
    try:
        return model.clone()
    except (*_MALFORMED, ir.serde.SerdeError) as error:
        raise ModelError(
            "the graph is not sorted, or uses values that nothing produces",
            where=f"graph {model.graph.name!r}",
            hint="call model.graph.sort() first",
        ) from error


def _deserialize(parsed: Parsed, where: str | None) -> ir.Model:
    try:
        model = ir.from_proto(parsed.proto)
        _attach_weights(model, parsed)
    except Exception as error:  # any failure here means a malformed model
        raise _malformed(error, where) from error
    return model


def _attach_weights(model: ir.Model, parsed: Parsed) -> None:
    """Give large initialisers their data: arrays over the bytes of the file, not copies."""
    tensors = parsed.proto.graph.initializer
    weights = parsed.weights or {
        k: memoryview(t.raw_data) for k, t in enumerate(tensors) if t.ByteSize() >= LARGE_BYTES
    }
    for position, data in weights.items():
        tensor = tensors[position]
        kind = ir.DataType(tensor.data_type)
        if tensor.data_location == onnx.TensorProto.EXTERNAL or not len(data):
            continue
        packed = kind.bitwidth % 8 != 0
        array = np.frombuffer(data, np.uint8 if packed else kind.numpy())
        shape = ir.Shape(tensor.dims)
        value = model.graph.initializers[tensor.name]
        value.const_value = (
            ir.PackedTensor(array, kind, shape=shape, name=tensor.name)
            if packed
            else ir.Tensor(array.reshape(tuple(tensor.dims)), kind, shape=shape, name=tensor.name)
        )


def _malformed(error: Exception, where: str | None) -> ModelError:
    root: BaseException = error
    while root.__cause__ is not None:
        root = root.__cause__
    text = " ".join(f"{type(root).__name__}: {root}".split())[:300]
    return ModelError(f"the model is malformed: {text}", where=where, hint="use onnx.checker on it")


def _sort(model: ir.Model) -> bool:
    try:
        model.graph.sort()
        for function in model.functions.values():
            function.sort()
    except ValueError:
        return False
    return True
