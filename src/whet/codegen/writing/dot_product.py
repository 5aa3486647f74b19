"""Sums of several products in every 32-bit lane.

Four of unsigned and signed 8-bit integers, exactly, or two of 16-bit integers or bfloat16. One
operand is the same values in every lane, the *scalars*, the other has its own in each lane, the
*vectors*; of 8-bit integers either may be the signed one.
"""

from __future__ import annotations

from typing import Protocol

import msgspec

from whet.codegen.writing.builder import Builder, Value, const, lanes, vector
from whet.kernel.spec import PAIR
from whet.target import Target

Factors = tuple[Value, ...]
BYTE = 8
BYTES = 4
HALF = 128
X86_BYTES = 64
"""Vectors of AVX-512, which x86 multiplies pairs of bfloat16 in."""
TOPS = -0x7F7F7F80
"""``0x80808080`` as a signed number: the highest bit of four bytes."""


class DotProduct(Protocol):
    """How a target multiplies: operands are prepared once and used in several products."""

    def scalars(self, b: Builder, value: Value, width: int) -> Factors:
        """Prepare values that fill an ``i32``, for every lane."""

    def vectors(self, b: Builder, value: Value) -> Factors:
        """Prepare the values in each lane."""

    def add(self, b: Builder, total: Value, scalars: Factors, vectors: Factors) -> Value:
        """Return a sum with their products in each lane."""


def dot_product(target: Target, *, signed_scalars: bool = False) -> DotProduct:
    """Return the fastest exact way that a target has.

    Args:
        target: processor.
        signed_scalars: whether scalars are signed and vectors unsigned, instead of the reverse.
    """
    if target.dot == "vnni":
        name = f"llvm.x86.avx512.vpdpbusd.{BYTE * target.vector_bytes}"
        return _OneInstruction(name, signed_scalars)
    if target.dot == "i8mm":
        return _OneInstruction("llvm.aarch64.neon.usdot.v4i32.v16i8", signed_scalars)
    if target.dot == "dotprod":
        return _Signed(signed_scalars)
    if target.dot == "pairs":
        return _Pairs(_pairs_name(target), signed_scalars)
    return _Single(signed_scalars)


def bfloat16_product(target: Target) -> DotProduct:
    """Return how a target that has an instruction for it multiplies pairs of bfloat16.

    Sums are float32, rounded after each product on x86; numbers below 2**-126 count as 0.
    """
    if target.vector_bytes == X86_BYTES:
        return _Bfloat16("llvm.x86.avx512bf16.dpbf16ps.512")
    return _Bfloat16("llvm.aarch64.neon.bfdot.v4f32.v8bf16")


def short_product(target: Target) -> DotProduct:
    """Return how a target multiplies pairs of signed 16-bit integers, modulo 2**32."""
    bits = BYTE * target.vector_bytes
    if target.dot == "vnni":
        return _Shorts(f"llvm.x86.avx512.vpdpwssd.{bits}")
    assert target.dot == "pairs", "others multiply bytes four at a time at the same rate"
    return _AddedShorts(_pairs_name(target))


def _pairs_name(target: Target) -> str:
    wide = target.vector_bytes == X86_BYTES
    return "llvm.x86.avx512.pmaddw.d.512" if wide else "llvm.x86.avx2.pmadd.wd"


class _Shorts(msgspec.Struct, frozen=True):
    """``vpdpwssd``."""

    name: str

    def scalars(self, b: Builder, value: Value, width: int) -> Factors:
        return self.vectors(b, b.splat(value, width))

    def vectors(self, b: Builder, value: Value) -> Factors:
        return (_halves(b, value),)

    def add(self, b: Builder, total: Value, scalars: Factors, vectors: Factors) -> Value:
        return b.call(self.name, total.type, total, *scalars, *vectors)


class _AddedShorts(_Shorts, frozen=True):
    """``vpmaddwd`` and an addition."""

    def add(self, b: Builder, total: Value, scalars: Factors, vectors: Factors) -> Value:
        return b.binary("add", total, b.call(self.name, total.type, *scalars, *vectors))


class _Bfloat16(msgspec.Struct, frozen=True):
    """``vdpbf16ps`` or ``bfdot``."""

    name: str

    def scalars(self, b: Builder, value: Value, width: int) -> Factors:
        return self.vectors(b, b.splat(value, width))

    def vectors(self, b: Builder, value: Value) -> Factors:
        return (b.cast("bitcast", value, vector("bfloat", PAIR * lanes(value.type))),)

    def add(self, b: Builder, total: Value, scalars: Factors, vectors: Factors) -> Value:
        return b.call(self.name, total.type, total, *scalars, *vectors)


class _OneInstruction(msgspec.Struct, frozen=True):
    """``vpdpbusd`` or ``usdot``, which take the unsigned operand first."""

    name: str
    signed_scalars: bool

    def scalars(self, b: Builder, value: Value, width: int) -> Factors:
        return (_bytes(b, b.splat(value, width)),)

    def vectors(self, b: Builder, value: Value) -> Factors:
        return (_bytes(b, value),)

    def add(self, b: Builder, total: Value, scalars: Factors, vectors: Factors) -> Value:
        pair = (*scalars, *vectors)
        first, second = pair[::-1] if self.signed_scalars else pair
        return b.call(self.name, total.type, total, first, second)


class _Signed(msgspec.Struct, frozen=True):
    """``sdot``, which multiplies signed integers: ``u s = (u - 128) s + 128 s``.

    The second term is prepared with the signed operand, as ``127 s + s``.
    """

    signed_scalars: bool

    def scalars(self, b: Builder, value: Value, width: int) -> Factors:
        return self._prepared(b, b.splat(value, width), signed=self.signed_scalars)

    def vectors(self, b: Builder, value: Value) -> Factors:
        return self._prepared(b, value, signed=not self.signed_scalars)

    def _prepared(self, b: Builder, value: Value, *, signed: bool) -> Factors:
        if not signed:
            return (_bytes(b, b.binary("xor", value, const(value.type, TOPS))),)
        part, total = _bytes(b, value), const(value.type, 0)
        for factor in (HALF - 1, 1):
            total = _sdot(b, total, part, const(part.type, factor))
        return part, total

    def add(self, b: Builder, total: Value, scalars: Factors, vectors: Factors) -> Value:
        pair = scalars if self.signed_scalars else vectors
        moved = b.binary("add", total, pair[1])
        return _sdot(b, moved, scalars[0], vectors[0])


def _sdot(b: Builder, total: Value, first: Value, second: Value) -> Value:
    return b.call("llvm.aarch64.neon.sdot.v4i32.v16i8", total.type, total, first, second)


class _Pairs(msgspec.Struct, frozen=True):
    """Products of 16-bit integers added in pairs: even and odd bytes apart, nothing saturates."""

    name: str
    signed_scalars: bool

    def scalars(self, b: Builder, value: Value, width: int) -> Factors:
        halves = _halves(b, b.splat(value, width))
        return _split(b, halves, signed=self.signed_scalars)

    def vectors(self, b: Builder, value: Value) -> Factors:
        return _split(b, _halves(b, value), signed=not self.signed_scalars)

    def add(self, b: Builder, total: Value, scalars: Factors, vectors: Factors) -> Value:
        for a, c in zip(scalars, vectors, strict=True):
            total = b.binary("add", total, b.call(self.name, total.type, a, c))
        return total


def _split(b: Builder, halves: Value, *, signed: bool) -> Factors:
    """Return the even and the odd bytes of 16-bit lanes, widened."""
    byte = const(halves.type, BYTE)
    if signed:
        even = b.binary("ashr", b.binary("shl", halves, byte), byte)
        return even, b.binary("ashr", halves, byte)
    even = b.binary("and", halves, const(halves.type, (1 << BYTE) - 1))
    return even, b.binary("lshr", halves, byte)


class _Single(msgspec.Struct, frozen=True):
    """Four products of 32-bit integers, for any target."""

    signed_scalars: bool

    def scalars(self, b: Builder, value: Value, width: int) -> Factors:
        parts = _quarters(b, value, signed=self.signed_scalars)
        return tuple(b.splat(part, width) for part in parts)

    def vectors(self, b: Builder, value: Value) -> Factors:
        return _quarters(b, value, signed=not self.signed_scalars)

    def add(self, b: Builder, total: Value, scalars: Factors, vectors: Factors) -> Value:
        for a, c in zip(scalars, vectors, strict=True):
            total = b.binary("add", total, b.binary("mul", a, c))
        return total


def _quarters(b: Builder, value: Value, *, signed: bool) -> Factors:
    """Return the four bytes of 32-bit lanes, widened."""
    if not signed:
        mask = const(value.type, (1 << BYTE) - 1)
        shifted = [b.binary("lshr", value, const(value.type, BYTE * k)) for k in range(BYTES)]
        return tuple(b.binary("and", s, mask) for s in shifted)
    top = const(value.type, BYTE * (BYTES - 1))
    moved = (
        b.binary("shl", value, const(value.type, BYTE * (BYTES - 1 - k))) for k in range(BYTES)
    )
    return tuple(b.binary("ashr", m, top) for m in moved)


def _bytes(b: Builder, value: Value) -> Value:
    return b.cast("bitcast", value, vector("i8", BYTES * lanes(value.type)))


def _halves(b: Builder, value: Value) -> Value:
    return b.cast("bitcast", value, vector("i16", BYTES // 2 * lanes(value.type)))
