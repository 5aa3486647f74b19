"""How GPTQ, AWQ and compressed-tensors lay out a layer's integers, scales and zeros.

Sources: the packing of AutoGPTQ, of AutoAWQ (``gemm``) and of the library compressed-tensors. Every
reader takes the tensors of one layer by the last part of their names, and checks their shapes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from whet.errors import ModelError
from whet.llm.architecture import Array
from whet.llm.checkpoints.integer_weights import IntegerMatrix, unpacked
from whet.llm.checkpoints.safetensors_reader import Stored

WORD = 32
AWQ_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)
"""Which nibble of a word holds each of its eight columns."""

_NOTHING = np.array(0, np.int16)


@dataclass(frozen=True, slots=True)
class Layer:
    """The tensors of one layer, for errors with its name and file."""

    name: str
    where: str
    tensors: Mapping[str, Stored]

    def get(self, part: str) -> Stored:
        """Return a tensor.

        Raises:
            ModelError: it is missing.
        """
        if part not in self.tensors:
            raise self.error(f"has no {part}")
        return self.tensors[part]

    def check(self, part: str, *shapes: tuple[int, ...]) -> Stored:
        """Return a tensor that has one of some shapes.

        Raises:
            ModelError: it is missing or has another shape.
        """
        found = self.get(part)
        if found.shape not in shapes:
            wanted = " or ".join(str(list(s)) for s in shapes)
            raise self.error(f"{part} has shape {list(found.shape)}, not {wanted}")
        return found

    def groups(self, part: str, depth: int, count: int) -> Array | None:
        """Return the group of every place of the depth, if a tensor says it.

        Raises:
            ModelError: it names groups that are not there.
        """
        if part not in self.tensors:
            return None
        found = self.check(part, (depth,)).raw().astype(np.int64)
        if len(found) and not 0 <= found.min() <= found.max() < count:
            raise self.error(f"{part} names group {int(found.max())} of {count}")
        return found

    def error(self, message: str) -> ModelError:
        """Return an error that names the layer."""
        return ModelError(
            f"{self.name!r} {message}", where=self.where, hint="download the checkpoint again"
        )


def gptq_matrix(layer: Layer, bits: int, *, group: int, first: int) -> IntegerMatrix:
    """Return a layer of GPTQ: words along the depth, zeros less ``first``.

    Args:
        layer: with ``qweight`` [depth · bits / 32, columns], ``qzeros``, ``scales`` and ``g_idx``.
        bits: of a code.
        group: places of the depth with one scale; 0 for all.
        first: what is added to the zeros as they are stored, 1 in the first version.
    """
    words = _two(layer, "qweight")
    depth, columns = words.shape[0] * WORD // bits, words.shape[1]
    if "g_idx" in layer.tensors:
        depth = max(*layer.get("g_idx").shape, 1)
        layer.check("qweight", (-(-depth * bits // WORD), columns))
    count = -(-depth // (group or depth))
    scales = layer.check("scales", (count, columns))
    zeros = layer.check("qzeros", (count, -(-columns * bits // WORD)))
    mask = (1 << bits) - 1

    def read_zeros() -> Array:
        found = unpacked(zeros.raw(), bits)[:, :columns].T
        return (found.astype(np.int16) + first) & mask

    return IntegerMatrix(
        shape=(columns, depth),
        span=(0, mask),
        codes=lambda: unpacked(words.raw().T, bits)[:, :depth],
        zeros=read_zeros,
        scales=lambda: scales.raw().T,
        groups=_grouped(layer, "g_idx", (depth, group, count)),
    )


def awq_matrix(layer: Layer, group: int) -> IntegerMatrix:
    """Return a layer of AWQ: eight columns in a word, in an order of their own."""
    words = _two(layer, "qweight")
    depth, columns = words.shape[0], words.shape[1] * 8
    count = -(-depth // (group or depth))
    scales = layer.check("scales", (count, columns))
    zeros = layer.check("qzeros", (count, columns // 8))
    return IntegerMatrix(
        shape=(columns, depth),
        span=(0, 15),
        codes=lambda: _awq_unpacked(words.raw()),
        zeros=lambda: _awq_unpacked(zeros.raw()),
        scales=lambda: scales.raw().T,
        groups=_grouped(layer, "", (depth, group, count)),
    )


def _awq_unpacked(words: Array) -> Array:
    nibbles = unpacked(words, 4).reshape(len(words), -1, 8)
    return nibbles[..., list(AWQ_ORDER)].reshape(len(words), -1).T


def packed_matrix(layer: Layer, bits: int, *, group: int, symmetric: bool) -> IntegerMatrix:
    """Return a layer of compressed-tensors whose signed codes lie in words, less their least.

    Args:
        layer: with ``weight_packed`` [columns, words], ``weight_scale``, ``weight_shape``, and
            perhaps ``weight_zero_point`` and ``weight_g_idx``.
        bits: of a code.
        group: places of the depth with one scale; 0 for all.
        symmetric: whether there are no zeros.
    """
    words = _two(layer, "weight_packed")
    columns, depth = (int(n) for n in layer.check("weight_shape", (2,)).raw())
    if words.shape != (columns, -(-depth * bits // WORD)) or min(columns, depth) < 1:
        raise layer.error(f"weight_packed has shape {list(words.shape)}")
    count, least = -(-depth // (group or depth)), 1 << (bits - 1)
    scales = layer.check("weight_scale", (columns, count), *([(1,)] if count == 1 else []))

    def read_zeros() -> Array:
        packed = layer.check("weight_zero_point", (-(-columns * bits // WORD), count)).raw()
        return unpacked(packed.T, bits)[:, :columns].T

    return IntegerMatrix(
        shape=(columns, depth),
        span=(0, 2 * least - 1),
        codes=lambda: unpacked(words.raw(), bits)[:, :depth],
        zeros=(lambda: np.array(least, np.int16)) if symmetric else read_zeros,
        scales=lambda: np.broadcast_to(scales.raw().reshape(-1, count), (columns, count)),
        groups=_grouped(layer, "weight_g_idx", (depth, group, count)),
    )


def byte_matrix(layer: Layer, bits: int, *, group: int, symmetric: bool) -> IntegerMatrix:
    """Return a layer of compressed-tensors whose ``weight`` is a matrix of signed bytes."""
    codes = _two(layer, "weight")
    columns, depth = codes.shape
    count = -(-depth // (group or depth))
    shapes = [(columns, count), *([(1,), (columns,), ()] if count == 1 else [])]
    scales = layer.check("weight_scale", *shapes)

    def wide(stored: Stored) -> Array:
        return np.broadcast_to(stored.raw().reshape(-1, count), (columns, count))

    def read_zeros() -> Array:
        return wide(layer.check("weight_zero_point", *shapes))

    return IntegerMatrix(
        shape=(columns, depth),
        span=(-(1 << bits - 1), (1 << bits - 1) - 1),
        codes=codes.raw,
        zeros=(lambda: _NOTHING) if symmetric else read_zeros,
        scales=lambda: wide(scales),
        groups=_grouped(layer, "", (depth, group, count)),
    )


def _grouped(layer: Layer, part: str, sizes: tuple[int, int, int]) -> Array:
    depth, group, count = sizes
    found = layer.groups(part, depth, count) if part else None
    return np.arange(depth) // (group or depth) if found is None else found


def _two(layer: Layer, part: str) -> Stored:
    found = layer.get(part)
    if len(found.shape) != 2 or not min(found.shape):
        raise layer.error(f"{part} has shape {list(found.shape)}, needs two dimensions")
    return found
