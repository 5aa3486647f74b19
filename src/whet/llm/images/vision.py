"""What a vision tower is to the rest: images in, features as wide as the language model out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from whet.llm.architecture import Architecture, Array
from whet.llm.checkpoints.checkpoint import Checkpoint
from whet.llm.checkpoints.config import Config
from whet.llm.checkpoints.layered import Layered


@dataclass(frozen=True, slots=True)
class Pixels:
    """An image as a vision tower takes it.

    Attributes:
        inputs: arrays by the name of the graph's inputs, without the batch's dimension.
        tokens: features that come of it.
        grid: rows and columns of them.
    """

    inputs: Mapping[str, Array]
    tokens: int
    grid: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Vision:
    """A vision tower with its projector.

    Attributes:
        graph: writes it: inputs of a batch, one output ``features`` [images, tokens, width].
        prepare: makes an image of bytes [height, width, 3] ready.
        token: stands for an image in a prompt.
        turned: whether features have positions by row and column.
    """

    graph: Callable[[], ir.Model]
    prepare: Callable[[Array], Pixels]
    token: int
    turned: bool = False


@dataclass(frozen=True, slots=True)
class Model:
    """A language model, and the vision tower in front of it, if there is one."""

    architecture: Architecture
    checkpoint: Checkpoint
    vision: Vision | None = None


class Renamed(Layered):
    """A checkpoint whose tensors have other names."""

    def __init__(self, base: Checkpoint, rename: Callable[[str], str]) -> None:
        super().__init__(base)
        self._names = {rename(name): name for name in base.names}

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors."""
        return tuple(self._names)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        return self._base.shape(self._stored(name))

    def tensor(self, name: str) -> Array:
        """Return a tensor in float32."""
        return self._base.tensor(self._stored(name))

    def block_format(self, name: str) -> str | None:
        """Return the format of a tensor in blocks."""
        return self._base.block_format(self._stored(name))

    def blocks(self, name: str) -> Array:
        """Return a tensor in blocks."""
        return self._base.blocks(self._stored(name))

    def order(self, name: str) -> Array | None:
        """Return which values of a row follow each other in a tensor in blocks."""
        return self._base.order(self._stored(name))

    def _stored(self, name: str) -> str:
        return self._names.get(name, name)


_RENAMED = (
    ("language_model.lm_head.", "lm_head."),
    ("language_model.model.", "model."),
    ("language_model.", "model."),
    ("vision_tower.vision_model.", "vision."),
    ("vision_tower.", "vision."),
    ("multi_modal_projector.", "projector."),
    ("visual.", "vision."),
)


def plain_name(name: str) -> str:
    """Return a tensor's name as a plain language model has it, or below ``vision`` and so on.

    Checkpoints of different ages put the language model below ``model.language_model``,
    ``language_model.model`` or ``model``.
    """
    inner = name.removeprefix("model.")
    for before, after in _RENAMED:
        if inner.startswith(before):
            return after + inner.removeprefix(before)
    return name


def text_config(config: Config, defaults: Mapping[str, object]) -> Config:
    """Return the configuration of the language model inside one of images and text."""
    inner = {k: v for k, v in config.nested("text_config").values.items() if v is not None}
    tied = inner.get("tie_word_embeddings") or config.values.get("tie_word_embeddings")
    return Config({**defaults, **inner, "tie_word_embeddings": tied}, config.where)
