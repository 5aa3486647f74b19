"""Four vectors of 32-bit integers to one vector of bytes that saturate.

x86 narrows two vectors at once in halves and keeps the order within 128 bits: after two such steps
each 128 bits hold four values of each vector, and one permutation of 32-bit lanes puts them in
order. That is one instruction a vector on the port of permutations; narrowing a vector alone takes
two, and two clamps.
"""

from __future__ import annotations

from whet.codegen.writing.builder import Builder, Value, vector
from whet.target import Target

GROUP = 4
"""Vectors of 32-bit integers in a vector of bytes, and lanes of 32 bits in 128 bits."""


def packs_bytes(target: Target) -> bool:
    """Whether a target narrows two vectors at once."""
    return target.triple.startswith("x86_64")


def pack_bytes(b: Builder, target: Target, values: list[Value], dtype: str) -> Value:
    """Return four vectors of 32-bit integers, one behind the other, as ``int8`` or ``uint8``."""
    half = [_narrowed(b, target, "packssdw", values[k], values[k + 1], "i16") for k in (0, 2)]
    name = "packuswb" if dtype == "uint8" else "packsswb"
    mixed = _narrowed(b, target, name, half[0], half[1], "i8")
    lanes = target.lanes
    quads = b.cast("bitcast", mixed, vector("i32", lanes))
    blocks = lanes // GROUP
    order = [block * GROUP + k for k in range(GROUP) for block in range(blocks)]
    return b.cast("bitcast", b.shuffle(quads, order), mixed.type)


def _narrowed(b: Builder, target: Target, name: str, x: Value, y: Value, kind: str) -> Value:
    bits = int(kind[1:])
    type_ = vector(kind, target.vector_bytes * 8 // bits)
    if target.vector_bytes == 64:
        return b.call(f"llvm.x86.avx512.{name}.512", type_, x, y)
    return b.call(f"llvm.x86.avx2.{name}", type_, x, y)
