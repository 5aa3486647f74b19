"""Where a language model comes from, and in which numbers its weights and its cache are kept."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal, get_args

from whet.errors import InputError, ModelError, nearest
from whet.llm.checkpoints.checkpoint import Checkpoint, TensorFolder
from whet.llm.checkpoints.gguf_file import GgufFile
from whet.llm.checkpoints.lora import Adapted
from whet.llm.checkpoints.quantized import InBlocks
from whet.llm.checkpoints.tokens import Tokenizer, open_tokenizer
from whet.llm.model_cache import ModelCache, model_cache
from whet.options import Options

Weights = Literal["stored", "float32", "int8", "int4"]
Cache = Literal["float32", "float16", "bfloat16", "int8"]


_KINDS = {"int8": "Q8_0", "int4": "Q4_0"}

KEEP_FROM = 64 << 20
"""Smaller checkpoints are compiled as fast as they are read."""


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint, and how it is kept in memory.

    Attributes:
        path: a folder with ``config.json`` and ``*.safetensors``, or a GGUF file.
        weights: ``stored`` multiplies weights in blocks of few bits as they are, by rows of 8-bit
            integers; ``float32`` dequantises them first; ``int8`` and ``int4`` bring all into
            blocks of 32 with a 16-bit scale, as Q8_0 and Q4_0 of GGUF.
        cache: type of keys and values; those of 8 bits have a scale for every token and head.
        adapter: a folder with a LoRA adapter as ``peft`` saves it, ``None`` for none.
        adapters: folders with such adapters by name, of which each request may choose one; they
            stay beside the weights.
        keep_from: checkpoints of so many bytes and more are kept compiled in the cache folder, and
            mapped from there the next time; ``None`` keeps none.

    Raises:
        InputError: a value is not known.
    """

    path: str | os.PathLike[str]
    weights: Weights = "stored"
    cache: Cache = "float32"
    adapter: str | os.PathLike[str] | None = None
    adapters: Mapping[str, str | os.PathLike[str]] = field(
        default_factory=lambda: MappingProxyType({})
    )
    keep_from: int | None = KEEP_FROM

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
        checkpoint, tokenizer = self._opened(Path(self.path))
        if self.adapter is not None:
            checkpoint = Adapted(checkpoint, self.adapter)
        if self.weights in _KINDS:
            checkpoint = InBlocks(checkpoint, _KINDS[self.weights])
        return checkpoint, tokenizer

    def kept(self, options: Options | None) -> ModelCache:
        """Return where compiled forms of the checkpoint are kept; it has to be one."""
        path, files = Path(self.path), []
        one = [] if self.adapter is None else [self.adapter]
        for folder in [path, *map(Path, one), *map(Path, self.adapters.values())]:
            names = ("*.json", "*.safetensors")
            found = (
                [f for name in names for f in folder.glob(name)] if folder.is_dir() else [folder]
            )
            files += [f for f in found if f.is_file()]
        facts = {"weights": self.weights, "cache": self.cache, "adapters": [*self.adapters]}
        return model_cache(files, facts, options, self.keep_from)

    def _opened(self, path: Path) -> tuple[Checkpoint, Tokenizer | None]:
        floats = self.weights != "stored"
        if path.is_dir():
            return TensorFolder(path, floats=floats), open_tokenizer(path)
        if path.suffix == ".gguf" and path.exists():
            file = GgufFile(path, floats=floats)
            return file, file.tokenizer()
        hint = "give a folder with config.json, or a file that ends in .gguf"
        raise ModelError("there is no checkpoint", where=str(path), hint=hint)
