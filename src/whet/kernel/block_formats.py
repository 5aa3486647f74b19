"""Weights in blocks of few bits, as GGUF files hold them: what the bytes of a row mean.

A row is cut into groups of 32 values along the depth. A value is ``scale * (code - zero)``, or
``scale * code + minimum``; some formats write scales and minimums themselves in few bits, with one
16-bit factor for 8 groups. Source: the block records of ``ggml-common.h``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

GROUP = 32
"""Values along the depth that share a scale."""

SUPER = 8
"""Groups that share the factor of their scales, where scales have few bits."""


class BlockFormat(msgspec.Struct, frozen=True):
    """How weights lie in blocks.

    Attributes:
        name: what GGUF calls it, or a name of our own.
        group_bytes: bytes of a block in a row of the file.
        block: values of a block.
        bits: bits of a code where kernels read it, 4 or 8.
        zero: what is subtracted from codes; 0 where there are minimums.
        spans: scales in a group.
        minimums: whether groups have minimums.
        nested: whether scales and minimums are small integers times a factor for 8 groups.
        wide: whether scales and minimums are float32, not float16.
    """

    name: str
    group_bytes: int
    block: int
    bits: int
    zero: int
    spans: int = 1
    minimums: bool = False
    nested: bool = False
    wide: bool = False

    @property
    def scale_bytes(self) -> int:
        """Bytes of a scale or minimum where kernels read it."""
        return 1 if self.nested else 4 if self.wide else 2

    def row_bytes(self, depth: int) -> int:
        """Return the bytes of a row."""
        return depth // self.block * self.group_bytes


class Blocks(msgspec.Struct, frozen=True):
    """Weights in blocks, taken apart.

    Attributes:
        codes: unsigned codes [row, group, 32].
        scales: [row, group * spans]; floats, or small integers where they are nested.
        minimums: what is added, of the same kind; ``None`` for nothing.
        factors: float16 factors of nested scales [row, 8 groups].
        minimum_factors: those of nested minimums.
    """

    codes: Array
    scales: Array
    minimums: Array | None = None
    factors: Array | None = None
    minimum_factors: Array | None = None

    def group_scales(self) -> Array:
        """Return the scales in float32 [row, group * spans]."""
        return _widened(self.scales, self.factors)

    def group_minimums(self) -> Array | None:
        """Return the minimums in float32 [row, group]."""
        return None if self.minimums is None else _widened(self.minimums, self.minimum_factors)


def _widened(numbers: Array, factors: Array | None) -> Array:
    wide = numbers.astype(np.float32)
    if factors is None:
        return wide
    count = numbers.shape[1] // factors.shape[1]
    return np.asarray(np.repeat(factors.astype(np.float32), count, axis=1) * wide)


FORMATS: Mapping[str, BlockFormat] = MappingProxyType(
    {
        f.name: f
        for f in (
            BlockFormat("Q8_0", 34, 32, 8, 128),
            BlockFormat("Q4_0", 18, 32, 4, 8),
            BlockFormat("Q4_1", 20, 32, 4, 0, minimums=True),
            BlockFormat("Q5_0", 22, 32, 8, 16),
            BlockFormat("Q5_1", 24, 32, 8, 0, minimums=True),
            BlockFormat("Q4_K", 144, 256, 4, 0, minimums=True, nested=True),
            BlockFormat("Q5_K", 176, 256, 8, 0, minimums=True, nested=True),
            BlockFormat("Q6_K", 210, 256, 8, 32, spans=2, nested=True),
        )
    }
)

"""The formats of GGUF files."""

WIDE_FORMATS: Mapping[str, BlockFormat] = MappingProxyType(
    {
        f.name: f
        for f in (
            BlockFormat("W4_0", 20, 32, 4, 8, wide=True),
            BlockFormat("W4_1", 24, 32, 4, 0, minimums=True, wide=True),
            BlockFormat("W8_0", 36, 32, 8, 128, wide=True),
            BlockFormat("W8_1", 40, 32, 8, 0, minimums=True, wide=True),
        )
    }
)
"""Formats that keep every bit of scales in float32, as MatMulNBits has them."""


def read_blocks(kind: BlockFormat, data: Array) -> Blocks:
    """Take rows of bytes [row, bytes] apart; scales and codes keep every bit that the file has."""
    rows = np.ascontiguousarray(data, np.uint8).reshape(len(data), -1, kind.group_bytes)
    return _wide_blocks(kind, rows) if kind.wide else _READERS[kind.name](rows)


def dequantized(kind: BlockFormat, data: Array) -> Array:
    """Return rows of bytes as float32 [row, depth], as the package ``gguf`` does."""
    blocks = read_blocks(kind, data)
    rows, groups, _ = blocks.codes.shape
    codes = (blocks.codes.astype(np.int16) - kind.zero).astype(np.float32)
    scales = blocks.group_scales().reshape(rows, groups * kind.spans, 1)
    values = codes.reshape(rows, groups * kind.spans, -1) * scales
    values = values.reshape(rows, groups, GROUP)
    minimums = blocks.group_minimums()
    if minimums is not None:
        values = values + minimums[..., None]
    return np.asarray(values.reshape(rows, groups * GROUP))


def written_blocks(kind: BlockFormat, codes: Array, scales: Array, minimums: Array | None) -> Array:
    """Return rows of bytes, as a GGUF file holds them: Q8_0, Q4_0, Q4_1, or a wide format.

    Args:
        kind: the format.
        codes: unsigned codes [row, depth].
        scales: [row, group].
        minimums: [row, group] where the format has them.
    """
    groups = codes.astype(np.uint8).reshape(len(codes), -1, GROUP)
    heads = [scales] if minimums is None else [scales, minimums]
    type_ = np.float32 if kind.wide else np.float16
    parts = [np.ascontiguousarray(h.astype(type_)[..., None]).view(np.uint8) for h in heads]
    if kind.bits == 4:
        parts.append(groups[..., : GROUP // 2] | groups[..., GROUP // 2 :] << np.uint8(4))
    else:
        parts.append(groups ^ np.uint8(kind.zero))
    return np.concatenate(parts, axis=-1).reshape(len(codes), -1)


def _half(part: Array) -> Array:
    """Return pairs of bytes [row, group, 2] as float16 [row, group]."""
    return np.ascontiguousarray(part).view(np.float16)[..., 0]


def _nibbles(part: Array) -> Array:
    """Return 16 bytes as 32 codes: the low halves, then the high ones."""
    return np.concatenate([part & 15, part >> 4], axis=-1)


def _fifth_bits(part: Array) -> Array:
    """Return 4 bytes as 32 bits, where a code's fifth bit stands."""
    bits = np.unpackbits(part, axis=-1, bitorder="little")
    return bits << np.uint8(4)


def _q8_0(rows: Array) -> Blocks:
    return Blocks(rows[..., 2:] ^ np.uint8(128), _half(rows[..., :2]))


def _q4_0(rows: Array) -> Blocks:
    return Blocks(_nibbles(rows[..., 2:]), _half(rows[..., :2]))


def _q4_1(rows: Array) -> Blocks:
    return Blocks(_nibbles(rows[..., 4:]), _half(rows[..., :2]), _half(rows[..., 2:4]))


def _q5_0(rows: Array) -> Blocks:
    return Blocks(_nibbles(rows[..., 6:]) | _fifth_bits(rows[..., 2:6]), _half(rows[..., :2]))


def _q5_1(rows: Array) -> Blocks:
    codes = _nibbles(rows[..., 8:]) | _fifth_bits(rows[..., 4:8])
    return Blocks(codes, _half(rows[..., :2]), _half(rows[..., 2:4]))


def _wide_blocks(kind: BlockFormat, rows: Array) -> Blocks:
    head = kind.scale_bytes * (1 + kind.minimums)
    heads = np.ascontiguousarray(rows[..., :head]).view(np.float32)
    codes = _nibbles(rows[..., head:]) if kind.bits == 4 else rows[..., head:] ^ np.uint8(kind.zero)
    return Blocks(codes, heads[..., 0], heads[..., 1] if kind.minimums else None)


def _nested(rows: Array, codes: Array) -> Blocks:
    """Return blocks whose 8 scales and minimums of 6 bits lie in 12 bytes behind two factors."""
    packed = rows[..., 4:16]
    low, high, mixed = packed[..., :4], packed[..., 4:8], packed[..., 8:]
    scales = np.concatenate([low & 63, (mixed & 15) | (low >> 6 << 4)], axis=-1)
    minimums = np.concatenate([high & 63, (mixed >> 4) | (high >> 6 << 4)], axis=-1)
    count = len(rows)
    return Blocks(
        codes.reshape(count, -1, GROUP),
        scales.reshape(count, -1),
        minimums.reshape(count, -1),
        _half(rows[..., :2]),
        -_half(rows[..., 2:4]),
    )


def _pairs_of_groups(part: Array) -> Array:
    """Return 128 bytes as 8 groups: low and high halves of every 32 bytes."""
    quarters = part.reshape(*part.shape[:-1], 4, 1, GROUP)
    return np.concatenate([quarters & 15, quarters >> 4], axis=-2).reshape(*part.shape[:-1], 8, 32)


def _q4_k(rows: Array) -> Blocks:
    return _nested(rows, _pairs_of_groups(rows[..., 16:]))


def _q5_k(rows: Array) -> Blocks:
    shifts = np.arange(SUPER, dtype=np.uint8)[:, None]
    fifth = (rows[..., None, 16:48] >> shifts & 1) << np.uint8(4)
    return _nested(rows, _pairs_of_groups(rows[..., 48:]) | fifth)


def _q6_k(rows: Array) -> Blocks:
    low = rows[..., :128].reshape(*rows.shape[:-1], 2, 2, GROUP)
    low = np.concatenate([low & 15, low >> 4], axis=-2)
    shifts = np.arange(0, 8, 2, dtype=np.uint8)[:, None]
    high = rows[..., 128:192].reshape(*rows.shape[:-1], 2, 1, GROUP) >> shifts & 3
    count = len(rows)
    return Blocks(
        (low | high << np.uint8(4)).reshape(count, -1, GROUP),
        np.ascontiguousarray(rows[..., 192:208]).view(np.int8).reshape(count, -1),
        factors=_half(rows[..., 208:]),
    )


_READERS: Mapping[str, Callable[[Array], Blocks]] = MappingProxyType(
    {
        "Q8_0": _q8_0,
        "Q4_0": _q4_0,
        "Q4_1": _q4_1,
        "Q5_0": _q5_0,
        "Q5_1": _q5_1,
        "Q4_K": _q4_k,
        "Q5_K": _q5_k,
        "Q6_K": _q6_k,
    }
)
