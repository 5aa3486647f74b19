"""Sinusoidal positions where a checkpoint leaves them out, as Marian's do."""

from __future__ import annotations

import numpy as np

from whet.llm.architecture import Array
from whet.llm.checkpoints.checkpoint import Checkpoint
from whet.llm.checkpoints.layered import Layered
from whet.llm.graphs.seq2seq_graph import Seq2SeqShape


class Completed(Layered):
    """A checkpoint with further tensors, all of it in floats."""

    def __init__(self, base: Checkpoint, tensors: dict[str, Array]) -> None:
        super().__init__(base)
        self._tensors = tensors

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return (*self._base.names, *self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return self._tensors[name].shape if name in self._tensors else self._base.shape(name)

    def tensor(self, name: str) -> Array:
        """Return a tensor in float32."""
        return self._tensors[name] if name in self._tensors else self._base.tensor(name)

    def block_format(self, name: str) -> str | None:
        """Return ``None``: an encoder–decoder is computed with in floats."""
        return None


def sinusoids(checkpoint: Checkpoint, shape: Seq2SeqShape) -> Checkpoint:
    """Return the checkpoint with positions: sines in the first half, cosines in the second."""
    found: dict[str, Array] = {}
    for stack, count in ((shape.encoder, shape.source), (shape.decoder, shape.context)):
        part = stack.parts.get("positions")
        if part is not None and part.name not in checkpoint.names:
            angles = np.arange(count)[:, None] / 10000 ** (
                np.arange(0, shape.hidden, 2)[None, :] / shape.hidden
            )
            rows = np.concatenate([np.sin(angles), np.cos(angles)], 1)
            found[part.name] = rows.astype(np.float32)
    flat = shape.parts.get("head.bias")
    if flat is not None and flat.name in checkpoint.names:
        found[flat.name] = checkpoint.tensor(flat.name).reshape(-1)
    return Completed(checkpoint, found)
