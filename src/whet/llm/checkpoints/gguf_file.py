"""GGUF files: one file with tensors in blocks of few bits, facts about the model, and a tokenizer.

Tensors are dequantised exactly as the package ``gguf`` does. Facts and names become those of
``config.json`` and of safetensors folders, so that the families are the same.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from whet.errors import ModelError, UnsupportedError
from whet.kernel.block_formats import FORMATS
from whet.llm.architecture import Array
from whet.llm.checkpoints.checkpoint import missing
from whet.llm.checkpoints.config import Config
from whet.llm.checkpoints.gguf_names import EXPERT, FAMILIES, GgufFacts, tensor_name
from whet.llm.checkpoints.gguf_tokens import gguf_tokenizer
from whet.llm.checkpoints.tokens import Tokenizer

_HINT = "download the file again"

TYPES = frozenset(
    ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
)


@dataclass(frozen=True, slots=True)
class _Stored:
    """A tensor, or one expert's part of it: how it is stored, its shape, and the file's view."""

    kind: Any
    shape: tuple[int, ...]
    data: Any


def _stored(tensor: Any, family: str, *, mixed: bool) -> dict[str, _Stored]:
    """Return what a tensor of the file holds, by the names of safetensors folders."""
    shape = tuple(int(n) for n in reversed(tensor.shape))
    name = tensor_name(tensor.name, family, mixed=mixed)
    if EXPERT not in name or len(shape) != 3:
        return {name: _Stored(tensor.tensor_type, shape, tensor.data)}
    rows = tensor.data.reshape(shape[0], shape[1], -1)
    return {
        name.replace(EXPERT, str(k)): _Stored(tensor.tensor_type, shape[1:], rows[k])
        for k in range(shape[0])
    }


class GgufFile:
    """A GGUF file as a checkpoint.

    Args:
        path: the file.
        floats: whether tensors in blocks of few bits are only given as floats.

    Raises:
        ModelError: the file is truncated or malformed.
        UnsupportedError: the family or a tensor's type is not known, or ``gguf`` is not installed.
    """

    def __init__(self, path: str | os.PathLike[str], *, floats: bool = False) -> None:
        self.path = Path(path)
        self._floats = floats
        reader = _reader(self.path)
        self._facts = {name: _contents(field) for name, field in reader.fields.items()}
        family = str(self._facts.get("general.architecture", ""))
        if family not in FAMILIES:
            known = ", ".join(sorted(FAMILIES))
            raise UnsupportedError(
                f"the model is of family {family!r}", where=str(path), hint=f"known: {known}"
            )
        mixed = bool(self._facts.get(f"{family}.expert_count"))
        self._tensors: dict[str, _Stored] = {}
        for tensor in reader.tensors:
            if tensor.tensor_type.name not in TYPES:
                raise UnsupportedError(
                    f"tensor {tensor.name!r} has type {tensor.tensor_type.name}", where=str(path)
                )
            self._tensors |= _stored(tensor, family, mixed=mixed)
        facts = GgufFacts(self._facts, family, self)
        self.config = Config(facts.values(), str(path))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return tuple(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape, the outermost dimension first."""
        return self._find(name).shape

    def tensor(self, name: str) -> Array:
        """Return a tensor in float32."""
        from gguf.quants import dequantize

        found = self._find(name)
        flat = dequantize(found.data, found.kind)
        return np.asarray(flat, np.float32).reshape(found.shape)

    def block_format(self, name: str) -> str | None:
        """Return the format that a matrix is stored in, if its blocks are to be kept."""
        found = self._find(name)
        kind = str(found.kind.name)
        return kind if kind in FORMATS and len(found.shape) == 2 and not self._floats else None

    def blocks(self, name: str) -> Array:
        """Return the bytes of a tensor in blocks, row by row; a view of the file."""
        found = self._find(name)
        return np.asarray(found.data).reshape(found.shape[0], -1)

    def order(self, name: str) -> Array | None:
        """Return ``None``: rows lie in blocks as they are."""
        return None

    def tokenizer(self) -> Tokenizer | None:
        """Return the tokenizer that the file holds, ``None`` if it holds none."""
        return gguf_tokenizer(self._facts, str(self.path))

    def _find(self, name: str) -> _Stored:
        found = self._tensors.get(name)
        if found is None:
            raise missing(name, self._tensors, str(self.path))
        return found


def _reader(path: Path) -> Any:
    try:
        from gguf import GGUFReader
    except ImportError as error:
        raise UnsupportedError(
            "the package gguf is not installed", hint="pip install 'whet[llm]'"
        ) from error
    try:
        return GGUFReader(path)
    except FileNotFoundError as error:
        raise ModelError("the file is missing", where=str(path), hint="check the path") from error
    except Exception as error:  # the package raises whatever NumPy and Python do
        raise ModelError(
            f"the file is truncated or malformed: {error}"[:300], where=str(path), hint=_HINT
        ) from error


def _contents(field: Any) -> Any:
    try:
        return field.contents()
    except Exception:  # noqa: BLE001 - a fact that cannot be read is missing where it is needed
        return None
