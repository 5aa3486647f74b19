"""Bytes looked up in a table of 256, which is four registers.

``vpermi2b`` (AVX512-VBMI) looks every byte of a register up in two others by its lower seven bits;
the highest one picks from two such results.
"""

from __future__ import annotations

from whet.codegen.writing.builder import Builder, Value, const, lanes, vector
from whet.dtypes import BYTES
from whet.kernel.expr import Expr, Read, byte_of

REGISTER = 64


def byte_looked_up(read: Read) -> Expr | None:
    """Return the byte that a byte is looked up by, if that is how a table is read."""
    return byte_of(read.address) if read.dtype in BYTES else None


def looked_up(b: Builder, table: Value, places: Value) -> Value:
    """Return the bytes of a table at places, which are bytes."""
    count, type_ = lanes(places.type), vector("i8", REGISTER)
    if count < REGISTER:
        places = b.shuffle(places, [k % count for k in range(REGISTER)])
    quarters = [b.load(type_, b.gep(table, "i8", k * REGISTER), 1) for k in range(4)]
    low, high = (
        b.call("llvm.x86.avx512.vpermi2var.qi.512", type_, quarters[k], places, quarters[k + 1])
        for k in (0, 2)
    )
    found = b.select(b.icmp("slt", places, const(type_, 0)), high, low)
    return found if count == REGISTER else b.shuffle(found, list(range(count)))
