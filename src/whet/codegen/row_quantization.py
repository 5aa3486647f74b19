"""Rows in blocks: 32 values at a time become 8-bit integers, their scale and their sums."""

from __future__ import annotations

from dataclasses import dataclass

from whet.codegen.builder import F32, I32, Builder, Module, Value, const, i64, lanes, vector
from whet.codegen.evaluate import Point
from whet.codegen.frame import Frame
from whet.codegen.kernel_function import Function, accesses_of, frame_of, open_function
from whet.index import Poly
from whet.kernel.block_formats import GROUP
from whet.kernel.blocks import LEVELS, ROW_TILE, SCALE_WORD, START_WORD, RowQuantization, row_words
from whet.target import Target

MAGNITUDE = 0x7FFFFFFF
ROUNDING = 12582912.0
"""1.5 * 2^23: a float beside it keeps no fraction, and its low bits are the integer."""

ROUNDING_BITS = 0x4B400000


def row_quantization_chunks(kernel: RowQuantization, lanes: int) -> Poly:
    """Return the number of chunks."""
    return kernel.row.extent * _parts(kernel)


def _groups(kernel: RowQuantization) -> int:
    depth = kernel.depth.extent.constant
    assert depth is not None, "rows in blocks have a known length"
    return depth // GROUP


def _parts(kernel: RowQuantization) -> int:
    return -(-_groups(kernel) // kernel.groups)


def write_row_quantization(
    module: Module, name: str, kernel: RowQuantization, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function that brings rows into blocks."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    frame = frame_of(fn, kernel.params, accesses_of([kernel.x], ()))
    writer = _Writer(kernel, fn, min(target.lanes, GROUP // kernel.spans))
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(frame, chunk)
    fn.b.finish()


@dataclass(frozen=True, slots=True)
class _Writer:
    kernel: RowQuantization
    fn: Function
    width: int

    @property
    def b(self) -> Builder:
        return self.fn.b

    def chunk(self, frame: Frame, number: Value) -> None:
        """Write the loop over some groups of a row."""
        b, kernel = self.b, self.kernel
        row, part = b.divide(number, _parts(kernel))
        first = b.mul(part, i64(kernel.groups))
        last = b.min(b.add(first, i64(kernel.groups)), i64(_groups(kernel)))
        tile, inside = b.divide(row, ROW_TILE)
        frame = frame.bind(kernel.row, row)
        base = b.mul(tile, i64(_groups(kernel)))
        with b.loop(first, last, hint="group") as group:
            number = b.add(b.mul(b.add(base, group), i64(ROW_TILE)), inside)
            place = b.mul(number, i64(row_words(kernel.spans)))
            output = b.gep(self.fn.params[kernel.output], I32, place)
            self._group(frame.bind(kernel.depth, b.mul(group, i64(GROUP))), output)

    def _group(self, frame: Frame, output: Value) -> None:
        b, width = self.b, self.width
        values = []
        for at in range(0, GROUP, width):
            point = Point(frame, self.kernel.depth, width, shift={self.kernel.depth: at})
            values.append(point.value(self.kernel.x))
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
        b, kernel = self.b, self.kernel
        count = len(codes) // kernel.spans
        for span in range(kernel.spans):
            total = codes[span * count]
            for other in codes[span * count + 1 : (span + 1) * count]:
                total = b.binary("add", total, other)
            total = _reduced(b, "add", total)
            place = b.gep(output, I32, START_WORD + span)
            if kernel.zero:
                b.store(b.binary("mul", total, const(I32, -kernel.zero)), place, 4)
            else:
                b.store(b.binary("fmul", scale, b.cast("sitofp", total, F32)), place, 4)


def _reduced(b: Builder, op: str, value: Value) -> Value:
    """Combine all lanes of 32-bit integers."""
    count = lanes(value.type)
    return b.call(f"llvm.vector.reduce.{op}.v{count}i32", I32, value) if count > 1 else value
