"""Sums of four products of unsigned and signed 8-bit integers in every 32-bit lane, exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from whet.codegen.builder import Builder, Value, const, lanes, vector
from whet.target import Target

Factors = tuple[Value, ...]
LOW_BYTES = 0x00FF00FF
BYTE = 8
BYTES = 4


class DotProduct(Protocol):
    """How a target multiplies: operands are prepared once and used in several products."""

    def scalars(self, b: Builder, value: Value, width: int) -> Factors:
        """Prepare four unsigned values, an ``i32``, for every lane."""

    def vectors(self, b: Builder, value: Value) -> Factors:
        """Prepare four signed values in each lane."""

    def add(self, b: Builder, total: Value, scalars: Factors, vectors: Factors) -> Value:
        """Return a sum with four more products in each lane."""


def dot_product(target: Target) -> DotProduct:
    """Return the fastest exact way that a target has."""
    if target.dot == "vnni":
        return _OneInstruction(f"llvm.x86.avx512.vpdpbusd.{BYTE * target.vector_bytes}")
    if target.dot == "i8mm":
        return _OneInstruction("llvm.aarch64.neon.usdot.v4i32.v16i8")
    if target.dot == "pairs":
        wide = target.vector_bytes == 64
        return _Pairs("llvm.x86.avx512.pmaddw.d.512" if wide else "llvm.x86.avx2.pmadd.wd")
    return _Single()


@dataclass(frozen=True, slots=True)
class _OneInstruction:
    """``vpdpbusd`` or ``usdot``."""

    name: str

    def scalars(self, b: Builder, value: Value, width: int) -> Factors:
        return (_bytes(b, b.splat(value, width)),)

    def vectors(self, b: Builder, value: Value) -> Factors:
        return (_bytes(b, value),)

    def add(self, b: Builder, total: Value, scalars: Factors, vectors: Factors) -> Value:
        return b.call(self.name, total.type, total, scalars[0], vectors[0])


@dataclass(frozen=True, slots=True)
class _Pairs:
    """Products of 16-bit integers added in pairs: even and odd bytes apart, nothing saturates."""

    name: str

    def scalars(self, b: Builder, value: Value, width: int) -> Factors:
        mask = const("i32", LOW_BYTES)
        odd = b.binary("and", b.binary("lshr", value, const("i32", BYTE)), mask)
        parts = (b.binary("and", value, mask), odd)
        return tuple(_halves(b, b.splat(p, width)) for p in parts)

    def vectors(self, b: Builder, value: Value) -> Factors:
        halves = _halves(b, value)
        byte = const(halves.type, BYTE)
        even = b.binary("ashr", b.binary("shl", halves, byte), byte)
        return even, b.binary("ashr", halves, byte)

    def add(self, b: Builder, total: Value, scalars: Factors, vectors: Factors) -> Value:
        for a, c in zip(scalars, vectors, strict=True):
            total = b.binary("add", total, b.call(self.name, total.type, a, c))
        return total


@dataclass(frozen=True, slots=True)
class _Single:
    """Four products of 32-bit integers, for any target."""

    def scalars(self, b: Builder, value: Value, width: int) -> Factors:
        mask = const("i32", (1 << BYTE) - 1)
        shifted = [b.binary("lshr", value, const("i32", BYTE * k)) for k in range(BYTES)]
        return tuple(b.splat(b.binary("and", s, mask), width) for s in shifted)

    def vectors(self, b: Builder, value: Value) -> Factors:
        top = const(value.type, BYTE * (BYTES - 1))
        moved = (
            b.binary("shl", value, const(value.type, BYTE * (BYTES - 1 - k))) for k in range(BYTES)
        )
        return tuple(b.binary("ashr", m, top) for m in moved)

    def add(self, b: Builder, total: Value, scalars: Factors, vectors: Factors) -> Value:
        for a, c in zip(scalars, vectors, strict=True):
            total = b.binary("add", total, b.binary("mul", a, c))
        return total


def _bytes(b: Builder, value: Value) -> Value:
    return b.cast("bitcast", value, vector("i8", BYTES * lanes(value.type)))


def _halves(b: Builder, value: Value) -> Value:
    return b.cast("bitcast", value, vector("i16", BYTES // 2 * lanes(value.type)))
