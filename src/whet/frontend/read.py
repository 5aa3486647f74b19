"""Parsing model files, with limits."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import onnx
from google.protobuf.message import DecodeError

from whet.errors import ModelError
from whet.frontend.reading import read_file
from whet.frontend.split import split_weights
from whet.limits import Limits
from whet.program.container import MAGIC

_NOT_ONNX_HINT = "give an ONNX file as written by torch.onnx.export or onnx.save"


class Parsed(msgspec.Struct, frozen=True):
    """A parsed model.

    Attributes:
        proto: the model; of the initialisers in ``weights`` it lacks the data.
        weights: data of large initialisers by position in ``proto.graph.initializer``.
    """

    proto: onnx.ModelProto
    weights: dict[int, memoryview] = msgspec.field(default_factory=dict)


def read_proto(source: str | os.PathLike[str] | bytes | onnx.ModelProto) -> onnx.ModelProto:
    """Return a model as it was written, without the data of its large initialisers.

    Raises:
        ModelError: it cannot be read.
    """
    if isinstance(source, onnx.ModelProto):
        return source
    if isinstance(source, bytes):
        return parse_bytes(memoryview(source), Limits(), where="the given bytes").proto
    file = read_file(Path(source))
    view = memoryview(b"") if file is None else file.view
    return parse_bytes(view, Limits(), where=os.fspath(source)).proto


def parse_bytes(data: memoryview, limits: Limits, *, where: str) -> Parsed:
    """Parse the bytes of an ONNX model; they must not change while the model is in use.

    Raises:
        ModelError: the bytes are empty, truncated or not an ONNX model.
        ResourceError: there are more than the limits allow.
    """
    limits.require("file_bytes", data.nbytes, f"the model has {data.nbytes} bytes", where)
    if not data:
        raise ModelError("the model is empty", where=where, hint=_NOT_ONNX_HINT)
    if data[: len(MAGIC)] == MAGIC:
        raise ModelError(
            "this is a compiled file", where=where, hint="name the ONNX file it was made from"
        )
    split = split_weights(data)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(split.rest)
    except DecodeError as error:
        raise ModelError(
            "this is not an ONNX model, or it is truncated", where=where, hint=_NOT_ONNX_HINT
        ) from error
    if not proto.HasField("graph") or proto.ir_version == 0:
        raise ModelError(
            "this is not an ONNX model, or it is truncated: it has no graph or no IR version",
            where=where,
            hint=_NOT_ONNX_HINT,
        )
    return Parsed(proto, split.weights)
