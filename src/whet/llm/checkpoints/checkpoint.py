"""Checkpoints: what they offer, and those that are folders of safetensors."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from whet.errors import ModelError, nearest
from whet.llm.architecture import Array
from whet.llm.checkpoints.config import Config
from whet.llm.checkpoints.quantized_folder import PARTS, check_method, quantized_matrices
from whet.llm.checkpoints.safetensors_reader import Stored, read_safetensors

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

    def order(self, name: str) -> Array | None:
        """Return which values of a row follow each other in such a tensor; ``None`` for all."""


def wrong_shape(
    checkpoint: Checkpoint, name: str, shape: tuple[int, ...], wanted: tuple[int, ...]
) -> ModelError:
    """Return the error that a tensor has another shape than the configuration says."""
    return ModelError(
        f"{name!r} has shape {list(shape)}, the configuration needs {list(wanted)}",
        where=checkpoint.config.where,
        hint="config.json and weights belong to different models",
    )


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
        check_method(self.config)
        self._tensors: dict[str, Stored] = {}
        for file in _shards(self.folder):
            self._tensors.update(read_safetensors(file))
        for name, shard in _index(self.folder).items():
            if name not in self._tensors:
                raise ModelError(
                    f"tensor {name!r} is missing", where=str(self.folder / shard), hint=_HINT
                )
        self._matrices = quantized_matrices(self.config, self._tensors)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all tensors, of quantised matrices those that they have in floats."""
        plain = [name for name in self._tensors if not self._is_part(name)]
        return tuple(dict.fromkeys([*plain, *self._matrices]))

    def _is_part(self, name: str) -> bool:
        layer, _, part = name.rpartition(".")
        return part in PARTS and f"{layer}.weight" in self._matrices

    def shape(self, name: str) -> tuple[int, ...]:
        """Return a tensor's shape."""
        found = self._matrices.get(name)
        return self._find(name).shape if found is None else found.shape

    def tensor(self, name: str) -> Array:
        """Return a tensor in float32."""
        found = self._matrices.get(name)
        if found is not None:
            return found.floats()
        return self._find(name).raw().astype(np.float32, copy=False)

    def block_format(self, name: str) -> str | None:
        """Return the format that holds a matrix, if its blocks are to be kept."""
        found = self._matrices.get(name)
        return None if found is None or self._floats else found.format()

    def blocks(self, name: str) -> Array:
        """Return the bytes of a matrix in blocks, row by row."""
        return self._matrices[name].blocks()

    def order(self, name: str) -> Array | None:
        """Return which values of a row follow each other in a matrix in blocks."""
        return self._matrices[name].order()

    def _find(self, name: str) -> Stored:
        found = self._tensors.get(name)
        if found is None:
            raise missing(name, self._tensors, str(self.folder))
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
