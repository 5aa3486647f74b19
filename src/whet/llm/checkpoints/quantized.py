"""A checkpoint whose matrices are brought into blocks of few bits when they are read."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from whet.errors import UnsupportedError
from whet.kernel.block_formats import FORMATS
from whet.llm.architecture import Array
from whet.llm.checkpoints.checkpoint import Checkpoint
from whet.llm.checkpoints.layered import Layered


class InBlocks(Layered):
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
        super().__init__(base)
        self._kind = kind
        quantize: Callable[..., Array] = quants.quantize
        self._quantize = partial(quantize, qtype=GGMLQuantizationType[kind])

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

    def order(self, name: str) -> Array | None:
        """Return the base's order where the blocks are the base's."""
        return self._base.order(name) if self._base.block_format(name) is not None else None
