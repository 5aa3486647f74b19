"""Safetensors files: mapped, checked against their size, read when asked for.

A file is 8 bytes with the length of a JSON header, the header, which gives type, shape and byte
range of every tensor, and the data.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from whet.errors import ModelError, UnsupportedError
from whet.llm.architecture import Array
from whet.mapped import MappedFile

_DTYPES: Mapping[str, Any] = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "U8": np.uint8,
    "I8": np.int8,
    "I32": np.int32,
    "I64": np.int64,
    "BOOL": np.bool_,
}
_MAX_HEADER = 100 << 20
_HINT = "download the checkpoint again"


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as it is stored: its shape, and what gives its elements, a view of the file."""

    shape: tuple[int, ...]
    raw: Callable[[], Array]

    def read(self) -> Array:
        """Return the elements in float32."""
        return self.raw().astype(np.float32, copy=False)


def read_safetensors(path: Path) -> dict[str, Stored]:
    """Map a file and return its tensors.

    Raises:
        ModelError: the file is truncated or malformed.
        UnsupportedError: a tensor has a type that is not known.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _MAX_HEADER):
            raise _broken("the file is truncated", path)
        text = file.read(length)
        data = MappedFile(file.fileno(), 8 + length, max(size - 8 - length, 1))
    try:
        header = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _broken(f"its header is no JSON: {error}", path) from error
    if not isinstance(header, dict):
        raise _broken("its header is no JSON object", path)
    header.pop("__metadata__", None)
    room = size - 8 - length
    return {name: _stored(name, entry, (data, room), path) for name, entry in header.items()}


def _stored(name: str, entry: Any, place: tuple[MappedFile, int], path: Path) -> Stored:
    try:
        kind, shape = entry["dtype"], tuple(int(n) for n in entry["shape"])
        begin, end = (int(n) for n in entry["data_offsets"])
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(f"the entry of {name!r} is malformed", path) from error
    if kind not in _DTYPES:
        raise UnsupportedError(f"tensor {name!r} has type {kind}", where=str(path))
    dtype = np.dtype(_DTYPES[kind])
    wanted = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or not 0 <= begin <= end or end - begin != wanted:
        raise _broken(f"{name!r} of shape {list(shape)} has {end - begin} bytes", path)
    data, room = place
    if end > room:
        raise _broken(f"the file is truncated: {name!r} ends {end - room} bytes behind it", path)

    def raw() -> Array:
        return np.frombuffer(data.view[begin:end], dtype).reshape(shape)

    return Stored(shape, raw)


def _broken(message: str, path: Path) -> ModelError:
    return ModelError(message, where=str(path), hint=_HINT)
