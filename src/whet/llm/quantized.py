"""A checkpoint whose matrices are brought into blocks of few bits when they are read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from whet.errors import UnsupportedError
from whet.kernel.block_formats import FORMATS
from whet.llm.architecture import Array
from whet.llm.checkpoint import Checkpoint
from whet.llm.config import Config


class InBlocks:
    """A checkpoint in blocks; what is no matrix, or too narrow for blocks, stays as it is.

    Args:
        base: the checkpoint, in floats.
        kind: ``Q8_0`` or ``Q4_0``: 8.5 or 4.5 bits a weight.

    Raises:
        UnsupportedError: the package ``gguf`` is missing.
    """

    def __init__(self, base: Checkpoint, kind: str) -> None:
        try:
            from gguf import GGMLQuantizationType, quants
        except ImportError as error:
            raise UnsupportedError(
                "the package gguf is not installed", hint="pip install 'whet[llm]'"
            ) from error
        self._base = base
        self._kind = kind
        quantize: Callable[..., Array] = quants.quantize
        self._quantize = partial(quantize, qtype=GGMLQuantizationType[kind])

    @property
    def config(self) -> Config:
        """The model's configuration."""
        return self._base.config

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return self._base.names

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return self._base.shape(name)

    def tensor(self, name: str) -> Array:
        """Return a tensor in float32, as the base has it."""
        return self._base.tensor(name)

    def block_format(self, name: str) -> str | None:
        """Return the format of a matrix; what the base has in blocks stays in those."""
        own, shape = self._base.block_format(name), self.shape(name)
        if own is not None:
            return own
        fits = len(shape) == 2 and shape[1] % FORMATS[self._kind].block == 0
        return self._kind if fits else None

    def blocks(self, name: str) -> Array:
        """Return a matrix in blocks, row by row."""
        if self._base.block_format(name) is not None:
            return self._base.blocks(name)
        found: Array = self._quantize(self._base.tensor(name))
        return found.reshape(self.shape(name)[0], -1)
