"""What the tables of attention over pages say: tiles of tokens, and the pages of a sequence.

Nothing of it is believed: indices are clamped, so that wrong ones give wrong numbers and no crash.
"""

from __future__ import annotations

import msgspec

from whet.codegen.kinds.kernel_function import Function
from whet.codegen.writing.builder import I32, I64, Builder, Value, i64
from whet.codegen.writing.frame import Frame
from whet.kernel.paged import PAGE, PagedAttention


class Tile(msgspec.Struct, frozen=True):
    """A tile as the kernel trusts it."""

    table: Value
    first: Value
    rows: Value
    position: Value
    head: Value


def read_tile(
    fn: Function, frame: Frame, kernel: PagedAttention, number: Value, head: Value
) -> Tile:
    """Read the tile of a number for a head of keys."""
    b, pages = fn.b, kernel.pages
    line = b.gep(fn.params[pages.tiles], I32, b.mul(number, i64(4)))
    sequence, first, count, position = (integer_at(b, line, i64(k)) for k in range(4))
    width = frame.scalar_index(pages.width)
    tokens = frame.scalar_index(kernel.token.extent)
    sequence = clamped(b, sequence, frame.scalar_index(pages.sequences))
    first = clamped(b, first, b.add(tokens, i64(1)))
    room = b.binary("sub nsw", tokens, first)
    held = b.mul(width, i64(PAGE))
    count = b.max(b.min(b.min(count, room), held), i64(0))
    position = clamped(b, position, b.add(b.binary("sub nsw", held, count), i64(1)))
    table = b.gep(fn.params[pages.tables], I32, b.mul(sequence, width))
    return Tile(table, first, b.mul(count, i64(kernel.group)), position, head)


def integer_at(b: Builder, base: Value, index: Value) -> Value:
    """Load a 32-bit integer of a table."""
    return b.cast("sext", b.load(I32, b.gep(base, I32, index), 4), I64)


def clamped(b: Builder, value: Value, extent: Value) -> Value:
    """Return the nearest index below an extent."""
    return b.max(b.min(value, b.add(extent, i64(-1))), i64(0))
