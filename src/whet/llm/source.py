"""Where a language model comes from, and in which numbers its weights and its cache are kept."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from whet.errors import InputError, ModelError, nearest
from whet.llm.checkpoint import Checkpoint, TensorFolder
from whet.llm.gguf_file import GgufFile
from whet.llm.tokens import Tokenizer, open_tokenizer

Weights = Literal["stored", "float32"]
Cache = Literal["float32", "float16", "bfloat16", "int8"]


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint, and how it is kept in memory.

    Attributes:
        path: a folder with ``config.json`` and ``*.safetensors``, or a GGUF file.
        weights: ``stored`` multiplies weights in blocks of few bits as they are, by rows of 8-bit
            integers; ``float32`` dequantises them first.
        cache: type of keys and values; those of 8 bits have a scale for every token and head.

    Raises:
        InputError: a value is not known.
    """

    path: str | os.PathLike[str]
    weights: Weights = "stored"
    cache: Cache = "float32"

    def __post_init__(self) -> None:
        for name, kind in (("weights", Weights), ("cache", Cache)):
            value, known = getattr(self, name), get_args(kind)
            if value not in known:
                raise InputError(f"{name} is {value!r}", hint=nearest(str(value), known))

    def open(self) -> tuple[Checkpoint, Tokenizer | None]:
        """Open the checkpoint and its tokenizer, if it has one.

        Raises:
            ModelError: it is missing, incomplete or damaged.
        """
        path = Path(self.path)
        if path.is_dir():
            floats = self.weights == "float32"
            return TensorFolder(path, floats=floats), open_tokenizer(path)
        if path.suffix == ".gguf" and path.exists():
            file = GgufFile(path, floats=self.weights == "float32")
            return file, file.tokenizer()
        hint = "give a folder with config.json, or a file that ends in .gguf"
        raise ModelError("there is no checkpoint", where=str(path), hint=hint)
