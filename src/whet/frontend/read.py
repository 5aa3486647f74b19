"""Reading model files and parsing them, with limits."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from whet.errors import ModelError, ResourceError
from whet.frontend.split import split_weights
from whet.limits import Limits
from whet.mapped import MappedFile
from whet.program.container import MAGIC

MAX_PROTO_BYTES = (1 << 31) - 1
"""Protocol buffers cannot be larger; bigger models keep their weights in external data."""

_NOT_ONNX_HINT = "give an ONNX file as written by torch.onnx.export or onnx.save"


@dataclass(frozen=True, slots=True)
class Parsed:
    """A parsed model.

    Attributes:
        proto: the model; of the initialisers in ``weights`` it lacks the data.
        weights: data of large initialisers by position in ``proto.graph.initializer``.
    """

    proto: onnx.ModelProto
    weights: dict[int, memoryview] = field(default_factory=dict)


def read_file(path: Path) -> MappedFile | None:
    """Map a model file into memory; ``None`` if it is empty.

    Raises:
        ModelError: there is no such file, it is a folder, unreadable or too large.
    """
    try:
        # Opening a pipe would wait for its writer.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            return _map(handle, path)
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise ModelError(
            "there is no such model file", where=str(path), hint="check the path"
        ) from None
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the model file cannot be read: {getattr(error, 'strerror', None) or error}",
            where=str(path),
            hint="check the path and its permissions",
        ) from error
    except MemoryError as error:
        raise ResourceError("not enough memory to read the model", where=str(path)) from error


def _map(handle: int, path: Path) -> MappedFile | None:
    state = os.fstat(handle)
    if stat.S_ISDIR(state.st_mode):
        raise ModelError(
            "the model path is a folder", where=str(path), hint="give the .onnx file in it"
        )
    if not stat.S_ISREG(state.st_mode):
        raise ModelError(
            "the model path is not a plain file", where=str(path), hint="save the model to a file"
        )
    if state.st_size > MAX_PROTO_BYTES:
        raise ModelError(
            f"the model file has {state.st_size} bytes, more than a protocol buffer can hold",
            where=str(path),
            hint="save it with external data: onnx.save(..., save_as_external_data=True)",
        )
    if state.st_size == 0:
        return None
    return MappedFile(handle, 0, state.st_size)


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
