"""Products with weights of few bits, as MatMulNBits holds them.

By default the weights are dequantised and rows stay floats. ``accuracy_level`` 4 says that rows may
become 8-bit integers, with a scale for each 32 values of a row and scales of weights in float16.
Both are products of ``whet::BlockMatMul``, which keeps the weights in few bits. What its formats
cannot hold becomes DequantizeLinear and MatMul.
"""

from __future__ import annotations

import msgspec
import numpy as np
import onnx_ir as ir

from whet.frontend.contrib.packed import numbers_of, quantised_tensor
from whet.frontend.translation import Array, Foreign, Translation
from whet.graph.edit import constant, rank
from whet.kernel.block_formats import (
    FORMATS,
    GROUP,
    WIDE_FORMATS,
    BlockFormat,
    written_blocks,
)
from whet.kernel.blocks import ROW_TILE, row_words

INTEGER_ROWS = 4
"""The ``accuracy_level`` at which rows may be 8-bit integers."""

BYTE_BITS = 8

_SIGNED = (("Q4_0", 4), ("Q8_0", 8))
"""Formats without minimums, and the bits of ``code - zero`` with its sign."""

_MIDDLE = 8
"""The zero point of 4 bits that costs nothing."""

_HALF_STEP = 2.0**-11
"""Largest relative error of a float16 that is not denormal."""


class _Bits(msgspec.Struct, frozen=True):
    """What a node says of its weights.

    Attributes:
        bits: of a weight.
        block: weights along the depth that share a scale.
        columns: of the result.
        depth: values that are multiplied.
    """

    bits: int
    block: int
    columns: int
    depth: int

    @property
    def blocks(self) -> int:
        return -(-self.depth // self.block)


def matmul_n_bits(t: Translation) -> ir.Value:
    """MatMulNBits: ``A W' + bias`` with the rows of W quantised in blocks.

    ``B`` holds ``(N, blocks, bytes)`` with the lowest bits first; zero points are packed alike, a
    byte for each, or of the type of the scales.
    """
    bits = _Bits(t.take("bits", 4), t.take("block_size"), t.take("N"), t.take("K"))
    level = t.take("accuracy_level", 0)
    t.only(weight_prepacked=0)
    if t.optional(4) is not None and t.constant(t.input(4)).size:
        raise t.refuse("input g_idx is not supported")
    if bits.bits not in (2, 4, 8):
        raise t.refuse(f"bits={bits.bits} is not supported")
    weights = _taken_apart(t, bits)
    integers = _half_blocks(bits, weights) if level == INTEGER_ROWS and weights else None
    if integers is not None:
        product = _block_product(t, bits, *integers, quantised=True)
    elif weights is not None:
        product = _block_product(t, bits, *_wide_blocks(bits, weights), quantised=False)
    else:
        product = _in_floats(t, bits)
    bias = t.optional(5)
    return product if bias is None else t.op("Add", product, bias)


def _in_floats(t: Translation, w: _Bits) -> ir.Value:
    packed = t.constant(t.input(1)).reshape(w.columns, -1)
    weight = t.tensor(quantised_tensor(numbers_of(packed, w.bits), w.bits))
    scales = t.op("Reshape", t.input(2), np.array([w.columns, w.blocks], np.int64))
    zero = _zero_points(t, w)
    if isinstance(zero, ir.Value):
        quantised = t.cast(weight, t.dtype(scales))
        spread = [t.op("Reshape", _each(t, x, w), t.shape(quantised)) for x in (zero, scales)]
        whole = t.op("Mul", t.op("Sub", quantised, spread[0]), spread[1])
    else:
        stored = t.tensor(quantised_tensor(zero, w.bits))
        whole = t.op("DequantizeLinear", weight, scales, stored, axis=1, block_size=w.block)
    if w.blocks * w.block != w.depth:
        whole = t.slice(whole, 1, 0, w.depth)
    return t.op("MatMul", t.input(0), t.transpose(t.cast(whole, t.dtype(t.input(0))), 1, 0))


def _each(t: Translation, x: ir.Value, w: _Bits) -> ir.Value:
    """Repeat every element of a matrix along a new last dim."""
    return t.op("Tile", t.unsqueeze(x, 2), np.array([1, 1, w.block], np.int64))


def _zero_points(t: Translation, w: _Bits) -> ir.Value | Array:
    """Return the zero point of each block: as uint8, or as numbers of the scales' type."""
    given = t.optional(3)
    if given is None:
        return np.full((w.columns, w.blocks), 1 << (w.bits - 1), np.uint8)
    if t.dtype(given).is_floating_point():
        return t.op("Reshape", given, np.array([w.columns, w.blocks], np.int64))
    array = t.constant(given)
    if array.size == w.columns * -(-w.blocks * w.bits // BYTE_BITS):
        return numbers_of(array.reshape(w.columns, -1), w.bits)[:, : w.blocks]
    if array.size == w.columns * w.blocks and np.all(array < 1 << w.bits):
        return array.reshape(w.columns, w.blocks)  # NNCF writes a byte for each
    raise t.refuse(f"zero points {list(array.shape)} do not fit {w.columns} x {w.blocks} blocks")


class _Weights(msgspec.Struct, frozen=True):
    """Weights in groups of 32: ``(code - zero) * scale``.

    Attributes:
        codes: [column, depth], uint8.
        scales: [column, group], float32.
        zeros: [column, group], float32.
    """

    codes: Array
    scales: Array
    zeros: Array


def _taken_apart(t: Translation, w: _Bits) -> _Weights | None:
    """Return weights that formats in blocks can hold, or ``None``."""
    if w.block % GROUP or w.depth % GROUP or t.dtype(t.input(0)) != ir.DataType.FLOAT:
        return None
    scales, given = constant(t.input(2)), t.optional(3)
    floats = given is not None and t.dtype(given).is_floating_point()
    zeros = constant(given) if floats else _zero_points(t, w)
    if scales is None or zeros is None or isinstance(zeros, ir.Value):
        return None
    packed = t.constant(t.input(1)).reshape(w.columns, -1)
    codes = numbers_of(packed, w.bits)[:, : w.depth]
    each = np.repeat(np.arange(w.blocks), w.block // GROUP)[: w.depth // GROUP]
    wide = (a.astype(np.float32).reshape(w.columns, w.blocks)[:, each] for a in (scales, zeros))
    return _Weights(codes, *wide)


def _half_blocks(w: _Bits, weights: _Weights) -> tuple[BlockFormat, Array] | None:
    """Return a format with scales in float16, and its bytes; ``None`` if none is good enough."""
    codes, scales, zeros = weights.codes, weights.scales, weights.zeros
    if not _is_half(scales):
        return None
    if np.any(zeros != np.rint(zeros)) or (w.bits == 4 and np.any(zeros != _MIDDLE)):
        lows = -scales * zeros
        if w.bits > 4 or not _is_half(lows):
            return None
        return FORMATS["Q4_1"], written_blocks(FORMATS["Q4_1"], codes, scales, lows)
    signed = codes.astype(np.int16) - np.repeat(zeros.astype(np.int16), GROUP, axis=1)
    for name, bits in _SIGNED:
        if -(1 << bits - 1) <= signed.min() and signed.max() < 1 << bits - 1:
            kind = FORMATS[name]
            return kind, written_blocks(kind, signed + kind.zero, scales, None)
    return None


def _wide_blocks(w: _Bits, weights: _Weights) -> tuple[BlockFormat, Array]:
    """Return a format that keeps scales in float32, and its bytes."""
    bits = "8" if w.bits > 4 else "4"
    plain = WIDE_FORMATS[f"W{bits}_0"]
    if np.all(weights.zeros == plain.zero):
        return plain, written_blocks(plain, weights.codes, weights.scales, None)
    kind = WIDE_FORMATS[f"W{bits}_1"]
    lows = -weights.scales * weights.zeros
    return kind, written_blocks(kind, weights.codes, weights.scales, lows)


def _is_half(numbers: Array) -> bool:
    """Tell whether float16 holds numbers as well as it can: none is too large or too small."""
    with np.errstate(over="ignore"):
        halves = numbers.astype(np.float16).astype(np.float32)
    return bool((np.abs(halves - numbers) <= _HALF_STEP * np.abs(numbers)).all())


def _block_product(
    t: Translation, w: _Bits, kind: BlockFormat, data: Array, *, quantised: bool
) -> ir.Value:
    """Return the product with weights in blocks, of rows as they are or as integers."""
    x, name = t.input(0), kind.name
    flat = rank(x) == 2  # of what is in a body it may be unknown
    rows = x if flat else t.reshape(x, -1, w.depth)
    if quantised:
        words = [None, w.depth // GROUP, ROW_TILE, row_words(kind.spans)]
        rows = t.own("QuantizeRows", rows, dims=words, dtype=ir.DataType.INT32, format=name)
    product = t.own(
        "BlockMatMul", rows, data, dims=[None, w.columns], dtype=ir.DataType.FLOAT, format=name
    )
    if flat:
        return product
    whole = t.op("Concat", t.shape(x, 0, -1), np.array([w.columns], np.int64), axis=0)
    return t.op("Reshape", product, whole)


OPS = (Foreign("MatMulNBits", matmul_n_bits),)
