"""A checkpoint over another one, which answers what the upper one does not."""

from __future__ import annotations

from whet.llm.architecture import Array
from whet.llm.checkpoints.checkpoint import Checkpoint
from whet.llm.checkpoints.config import Config


class Layered:
    """Passes every question on to the checkpoint below; subclasses answer some themselves."""

    def __init__(self, base: Checkpoint) -> None:
        self._base = base

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
        """Return a tensor in float32."""
        return self._base.tensor(name)

    def block_format(self, name: str) -> str | None:
        """Return the format of a tensor in blocks."""
        return self._base.block_format(name)

    def blocks(self, name: str) -> Array:
        """Return a tensor in blocks."""
        return self._base.blocks(name)

    def order(self, name: str) -> Array | None:
        """Return which values of a row follow each other in a tensor in blocks."""
        return self._base.order(name)
