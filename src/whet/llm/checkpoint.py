"""Checkpoints as folders of safetensors: mapped, checked against their size, read when asked for.

A safetensors file is 8 bytes with the length of a JSON header, the header, which gives type, shape
and byte range of every tensor, and the data.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import ml_dtypes
import numpy as np

from whet.errors import ModelError, UnsupportedError, nearest
from whet.kernel.block_formats import FORMATS, BlockFormat, dequantized
from whet.llm.architecture import Array
from whet.llm.config import Config
from whet.mapped import MappedFile

_DTYPES: Mapping[str, Any] = {
    "F32": np.float32,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "U8": np.uint8,
}
_MAX_HEADER = 100 << 20
_HINT = "download the checkpoint again"


class Checkpoint(Protocol):
    """A source of tensors and of the facts about the model."""

    @property
    def config(self) -> Config:
        """The model's configuration, with the keys of ``config.json``."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape without reading it."""

    def tensor(self, name: str) -> Array:
        """Return a tensor in float32; a view of the file if it is stored so."""

    def block_format(self, name: str) -> str | None:
        """Return the format of ``whet.kernel.block_formats`` that a tensor is stored in, if any."""

    def blocks(self, name: str) -> Array:
        """Return such a tensor as it is stored: bytes, a row of them for each row."""


@dataclass(frozen=True, slots=True)
class Stored:
    """A tensor as it is stored: its elements, and how they become float32."""

    shape: tuple[int, ...]
    read: Callable[[], Array]


class TensorFolder:
    """A checkpoint folder: ``config.json`` and ``*.safetensors``, sharded or not.

    Args:
        folder: the folder.
        floats: whether matrices in blocks of few bits are only given as floats.

    Raises:
        ModelError: a file is missing, truncated or malformed; the error names it.
    """

    def __init__(self, folder: str | os.PathLike[str], *, floats: bool = False) -> None:
        self.folder = Path(folder)
        self._floats = floats
        path = self.folder / "config.json"
        self.config = Config(read_json(path), str(path))
        self._tensors: dict[str, Stored] = {}
        for file in _shards(self.folder):
            self._tensors.update(read_safetensors(file))
        for name, shard in _index(self.folder).items():
            if name not in self._tensors:
                raise ModelError(
                    f"tensor {name!r} is missing", where=str(self.folder / shard), hint=_HINT
                )
        self._blocks = quantized_tensors(self.config, self._tensors)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        found = self._find(name)
        kind = self._blocks.get(name)
        if kind is None:
            return found.shape
        return found.shape[0], found.shape[1] // kind.group_bytes * kind.block

    def tensor(self, name: str) -> Array:
        """Return a tensor in float32."""
        kind = self._blocks.get(name)
        found = self._find(name).read()
        return found.astype(np.float32, copy=False) if kind is None else dequantized(kind, found)

    def block_format(self, name: str) -> str | None:
        """Return the format that a matrix is stored in, if its blocks are to be kept."""
        kind = self._blocks.get(name)
        return None if kind is None or self._floats else kind.name

    def blocks(self, name: str) -> Array:
        """Return the bytes of a matrix in blocks, row by row; a view of the file."""
        return self._find(name).read()

    def _find(self, name: str) -> Stored:
        found = self._tensors.get(name)
        if found is None:
            raise missing(name, self._tensors, str(self.folder))
        return found


def quantized_tensors(config: Config, tensors: Mapping[str, Stored]) -> Mapping[str, BlockFormat]:
    """Return the formats of the tensors that a folder of ``whet llm quantize`` holds in blocks.

    Raises:
        UnsupportedError: the weights are quantised in another way.
        ModelError: a tensor does not hold what the configuration says.
    """
    given = config.nested("quantization_config")
    if not given.values:
        return {}
    if given.text("quant_method", "") != "whet":
        raise UnsupportedError(
            f"weights quantised by {given.text('quant_method', 'an unknown method')!r}",
            where=config.where,
            hint="give the checkpoint in floats, or a GGUF file",
        )
    found: dict[str, BlockFormat] = {}
    for name, kind in given.nested("tensors").values.items():
        stored = tensors.get(name)
        if kind not in FORMATS or stored is None or len(stored.shape) != 2:
            raise given.error(f"{name!r} is no matrix in blocks {kind!r}")
        if stored.shape[1] % FORMATS[kind].group_bytes:
            raise given.error(f"rows of {name!r} are no blocks of {kind}")
        found[name] = FORMATS[kind]
    return found


def missing(name: str, names: Mapping[str, object], where: str) -> ModelError:
    """Return the error that a tensor is not there."""
    hint = nearest(name, names) if len(names) < 10_000 else _HINT
    return ModelError(f"the checkpoint has no tensor {name!r}", where=where, hint=hint[:300])


def read_json(path: Path) -> dict[str, Any]:
    """Return what a JSON file holds.

    Raises:
        ModelError: it is missing or holds no object.
    """
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError("the file is missing", where=str(path), hint=_HINT) from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"it cannot be read: {error}", where=str(path), hint=_HINT) from error
    if not isinstance(values, dict):
        raise ModelError("it holds no JSON object", where=str(path), hint=_HINT)
    return values


def _index(folder: Path) -> dict[str, str]:
    path = folder / "model.safetensors.index.json"
    if not path.exists():
        return {}
    found = read_json(path).get("weight_map")
    if not isinstance(found, dict):
        raise ModelError("weight_map is missing", where=str(path), hint=_HINT)
    return {str(name): str(shard) for name, shard in found.items()}


def _shards(folder: Path) -> list[Path]:
    """Return the files that hold tensors; only those inside the folder."""
    listed = sorted({Path(shard).name for shard in _index(folder).values()})
    files = [folder / name for name in listed] or sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelError(
            "the folder holds no .safetensors file",
            where=str(folder),
            hint="convert the checkpoint",
        )
    for file in files:
        if not file.is_file():
            raise ModelError("the shard is missing", where=str(file), hint=_HINT)
    return files


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

    def read() -> Array:
        array = np.frombuffer(data.view[begin:end], dtype).reshape(shape)
        return array if kind == "U8" else array.astype(np.float32, copy=False)

    return Stored(shape, read)


def _broken(message: str, path: Path) -> ModelError:
    return ModelError(message, where=str(path), hint=_HINT)
