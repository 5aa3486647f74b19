"""One function of several vectors, whose instructions take turns.

A function such as exp is one long chain of dependent instructions. Written one after the other, the
chains of a few vectors fill the window in which a processor looks for work before its units are
busy: exp took 10.7 cycles a vector on Cascade Lake, of four vectors in turn 8.5, and gelu 17.7
and 14.0. LLVM splits operations on vectors wider than a register into such turns.
"""

from __future__ import annotations

from collections.abc import Iterator

from whet.codegen.writing.builder import Builder, Value, lanes
from whet.codegen.writing.operations import apply
from whet.target import Target

REGISTERS_A_CHAIN = 8
"""Registers that a chain takes with its constants; more chains would spill."""


def chains_together(target: Target) -> int:
    """Return how many vectors take turns."""
    return max(1, target.registers // REGISTERS_A_CHAIN)


def turns(count: int, together: int) -> Iterator[range]:
    """Cut ``count`` vectors into groups of ``together``, the rest into smaller powers of two."""
    start = 0
    while start < count:
        while together > count - start:
            together //= 2
        yield range(start, start + together)
        start += together


def apply_in_turn(b: Builder, op: str, values: list[Value]) -> list[Value]:
    """Return a function of float32 vectors of one type, whose number is a power of two."""
    joined = list(values)
    while len(joined) > 1:
        pairs = zip(joined[::2], joined[1::2], strict=True)
        joined = [b.blend(x, y, list(range(2 * lanes(x.type)))) for x, y in pairs]
    result = apply(b, op, joined, ["float32"], "float32")
    if len(values) == 1:
        return [result]
    width = lanes(values[0].type)
    starts = range(0, lanes(result.type), width)
    return [b.shuffle(result, list(range(start, start + width))) for start in starts]
