"""Reading model files and parsing them, with limits."""

from __future__ import annotations

from pathlib import Path

import onnx
from google.protobuf.message import DecodeError

from whet.errors import ModelError, ResourceError

MAX_PROTO_BYTES = (1 << 31) - 1
"""Protocol buffers cannot be larger; bigger models keep their weights in external data."""

_NOT_ONNX_HINT = "give an ONNX file as written by torch.onnx.export or onnx.save"


def read_file(path: Path) -> bytes:
    """Read a model file.

    Raises:
        ModelError: there is no such file, it is a folder, unreadable or too large.
    """
    try:
        size = path.stat().st_size
        if size > MAX_PROTO_BYTES:
            raise ModelError(
                f"the model file has {size} bytes, more than a protocol buffer can hold",
                where=str(path),
                hint="save it with external data: onnx.save(..., save_as_external_data=True)",
            )
        return path.read_bytes()
    except FileNotFoundError:
        raise ModelError(
            "there is no such model file", where=str(path), hint="check the path"
        ) from None
    except IsADirectoryError:
        raise ModelError(
            "the model path is a folder", where=str(path), hint="give the .onnx file in it"
        ) from None
    except OSError as error:
        raise ModelError(
            f"the model file cannot be read: {error.strerror}",
            where=str(path),
            hint="check its permissions",
        ) from error
    except MemoryError as error:
        raise ResourceError("not enough memory to read the model", where=str(path)) from error


def parse_bytes(data: bytes, *, where: str) -> onnx.ModelProto:
    """Parse the bytes of an ONNX model.

    Raises:
        ModelError: the bytes are empty, truncated or not an ONNX model.
    """
    if not data:
        raise ModelError("the model is empty", where=where, hint=_NOT_ONNX_HINT)
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(data)
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
    return proto
