"""A group of a row in a block: 32 values become 8-bit integers, their scale and their sums."""

from __future__ import annotations

import msgspec

from whet.codegen.writing.builder import F32, I32, Builder, Value, const, i64, lanes, vector
from whet.kernel.block_formats import GROUP
from whet.kernel.blocks import LEVELS, ROW_TILE, SCALE_WORD, START_WORD, row_words

MAGNITUDE = 0x7FFFFFFF
ROUNDING = 12582912.0
"""1.5 * 2^23: a float beside it keeps no fraction, and its low bits are the integer."""

ROUNDING_BITS = 0x4B400000


class RowGroup(msgspec.Struct, frozen=True):
    """Writes groups.

    Attributes:
        b: the function.
        most: lanes of a vector.
        zero: see ``QuantizedRows``.
        spans: see ``QuantizedRows``.
    """

    b: Builder
    most: int
    zero: int
    spans: int

    @property
    def width(self) -> int:
        """Values in each vector of a group."""
        return min(self.most, GROUP // self.spans)

    def place(self, output: Value, row: Value, at: tuple[Value, int]) -> Value:
        """Return where a group of a row lies, given its number and how many a row has."""
        b, (group, groups) = self.b, at
        tile, inside = b.divide(row, ROW_TILE)
        number = b.add(b.mul(b.add(b.mul(tile, i64(groups)), group), i64(ROW_TILE)), inside)
        return b.gep(output, I32, b.mul(number, i64(row_words(self.spans))))

    def write(self, values: list[Value], output: Value) -> None:
        """Write the words of a group, given its values in vectors."""
        b, width = self.b, self.width
        top = self._largest(values)
        scale = b.binary("fdiv", top, const(F32, LEVELS))
        none = b.fcmp("oeq", top, const(F32, 0.0))
        inverse = b.binary("fdiv", const(F32, LEVELS), top)
        inverse = b.splat(b.select(none, const(F32, 0.0), inverse), width)
        codes = [self._code(value, inverse) for value in values]
        for at, code in enumerate(codes):
            small = b.cast("trunc", code, vector("i8", width))
            b.store(small, b.gep(output, "i8", at * width))
        b.store(scale, b.gep(output, F32, SCALE_WORD), 4)
        self._starts(codes, scale, output)

    def _largest(self, values: list[Value]) -> Value:
        """Return the largest magnitude; as integers, what is no number is above all others."""
        b = self.b
        whole = vector(I32, self.width)
        bits = [
            b.binary("and", b.cast("bitcast", v, whole), const(whole, MAGNITUDE)) for v in values
        ]
        top = bits[0]
        for other in bits[1:]:
            top = b.max(top, other)
        return b.cast("bitcast", _reduced(b, "smax", top), F32)

    def _code(self, value: Value, inverse: Value) -> Value:
        """Return values times the inverse scale, rounded to even."""
        b = self.b
        scaled = b.binary("fmul", value, inverse)
        moved = b.binary("fadd", scaled, const(scaled.type, ROUNDING))
        whole = vector(I32, self.width)
        return b.binary("sub", b.cast("bitcast", moved, whole), const(whole, ROUNDING_BITS))

    def _starts(self, codes: list[Value], scale: Value, output: Value) -> None:
        """Write what the sums of each span begin from."""
        b = self.b
        count = len(codes) // self.spans
        for span in range(self.spans):
            total = codes[span * count]
            for other in codes[span * count + 1 : (span + 1) * count]:
                total = b.binary("add", total, other)
            total = _reduced(b, "add", total)
            place = b.gep(output, I32, START_WORD + span)
            if self.zero:
                b.store(b.binary("mul", total, const(I32, -self.zero)), place, 4)
            else:
                b.store(b.binary("fmul", scale, b.cast("sitofp", total, F32)), place, 4)


def _reduced(b: Builder, op: str, value: Value) -> Value:
    """Combine all lanes of 32-bit integers."""
    count = lanes(value.type)
    return b.call(f"llvm.vector.reduce.{op}.v{count}i32", I32, value) if count > 1 else value
