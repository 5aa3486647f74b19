"""Attention whose two products are of 8-bit integers: keys and values in quads, codes of shares.

All keys are one block, so that a row's sum is known when its probabilities become codes: these
take the place of the exponentials, whose first quarter they fill.
"""

from __future__ import annotations

from collections.abc import Callable

from whet.codegen.kinds.attention import AttentionWriter
from whet.codegen.kinds.attention_keys import Block, KeyPacker, static_extent
from whet.codegen.kinds.depth_steps import SIGN_BITS
from whet.codegen.kinds.kernel_function import lane_mask, strips
from whet.codegen.kinds.register_tile import unrolled
from whet.codegen.writing.builder import F32, I32, Builder, Value, const, i64, vector
from whet.codegen.writing.dot_product import DotProduct
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.kernel.integer_attention import MASS, QUAD_WORDS, SHARE, IntegerAttention
from whet.kernel.spec import ACCUMULATOR

Word = Callable[[int, Value, int], Value]
"""``word(i, k, u)``: four values of row or vector ``i`` at the quad ``k + u``."""


def _integers(writer: KeyPacker | AttentionWriter) -> IntegerAttention:
    found = writer.kernel.integers
    assert found is not None, "this attention is of integers"
    return found


class BytePacker(KeyPacker, frozen=True):
    """Copies keys to scratch as [panel, depth / 4, keys of the panel, 4], values in quads."""

    def _line(self, frame: Frame, key: int, start: Value, mask: Value | None) -> Value:
        """Return the words of a key from a quad of the depth on."""
        b, kernel, type_ = self.b, self.kernel, vector(I32, self.width)
        bound = frame.bind(kernel.depth, b.mul(start, i64(QUAD_WORDS)))
        place = Point(bound, shift={kernel.key: key}).pointer(kernel.k)
        if mask is None:
            words = b.load(type_, place)
        else:
            words = b.masked_load(type_, place, mask, const(type_, 0))
        flips = _integers(self).flips[1]
        return b.binary("xor", words, const(type_, SIGN_BITS)) if flips else words

    def pack_values(self, frame: Frame, block: Block) -> None:
        """Copy values to scratch as [quad of keys, columns in whole vectors, 4], zeros behind."""
        keys = static_extent(self.kernel.key)
        whole, left = divmod(keys, QUAD_WORDS)
        with self.b.loop(i64(0), i64(whole), hint="values") as quad:
            self._quad(frame, quad, QUAD_WORDS)
        if left:
            self._quad(frame, i64(whole), left)

    def _quad(self, frame: Frame, quad: Value, count: int) -> None:
        """Bring the values of up to four keys together, column by column."""
        b, kernel, layout = self.b, self.kernel, self.layout
        line = b.gep(self.fn.scratch, F32, b.mul(quad, i64(layout.cols)))
        line = b.gep(line, F32, layout.values)
        bound = frame.bind(kernel.key, b.mul(quad, i64(QUAD_WORDS)))

        def copy(inner: Frame, mask: Value | None, vectors: int) -> None:
            word = const(vector(I32, self.width), 0)
            for k in range(count):
                point = Point(inner, kernel.col, self.width, mask, {kernel.key: k})
                wide = b.cast("zext", self._signed(point.value(kernel.v)), word.type)
                word = b.binary("or", word, b.binary("shl", wide, const(word.type, 8 * k)))
            b.store(word, b.gep(line, F32, inner.env[kernel.col]), 64)

        strips(bound, kernel.col, self.width, copy)

    def _signed(self, values: Value) -> Value:
        flips = _integers(self).flips[2]
        return self.b.binary("xor", values, const(values.type, -128)) if flips else values


class IntegerWriter(AttentionWriter, frozen=True):
    """Writes attention on integers.

    Attributes:
        dot: how the target multiplies.
    """

    dot: DotProduct

    def _packer(self) -> KeyPacker:
        return BytePacker(self.kernel, self.fn, self.layout)

    def _products(self, frame: Frame, panel: Value, rows: int, vectors: int) -> list[list[Value]]:
        b, kernel, keys = self.b, self.kernel, self.layout.panel
        packed = b.gep(self.fn.scratch, F32, b.mul(panel, i64(self.layout.words * keys)))
        flips = _integers(self).flips[0]

        def query(i: int, k: Value, u: int) -> Value:
            bound = frame.bind(kernel.depth, b.mul(k, i64(QUAD_WORDS)))
            shift = {kernel.row: i, kernel.depth: QUAD_WORDS * u}
            word = b.load(I32, Point(bound, shift=shift).pointer(kernel.q))
            return b.binary("xor", word, const(I32, SIGN_BITS)) if flips else word

        def key(j: int, k: Value, u: int) -> Value:
            line = b.gep(packed, F32, b.mul(k, i64(keys)))
            return b.load(vector(I32, self.width), b.gep(line, F32, u * keys + j * self.width), 64)

        return self._tile_of_words((rows, vectors), self.layout.words, query, key)

    def _values(
        self, frame: Frame, rows: int, slot: Value, scale: tuple[list[Value], Block]
    ) -> None:
        """Round probabilities to codes, multiply them by values and write the epilogue."""
        b, cols = self.b, self.layout.cols
        masses = self._codes(frame, scale[0])
        quads = -(-static_extent(self.kernel.key) // QUAD_WORDS)
        for bound, at, masks in self.layout.column_panels(frame):
            panel = b.gep(b.gep(self.fn.scratch, F32, self.layout.values), F32, at)

            def code(i: int, k: Value, u: int) -> Value:
                return b.load(I32, b.gep(b.gep(self._line(i), I32, k), I32, u), 4)

            def value(j: int, k: Value, u: int, panel: Value = panel) -> Value:
                line = b.gep(panel, F32, b.mul(k, i64(cols)))
                place = b.gep(line, F32, u * cols + j * self.width)
                return b.load(vector(I32, self.width), place, 64)

            sums = self._tile_of_words((rows, len(masks)), quads, code, value)
            for i, line in enumerate(sums):
                for j, total in enumerate(line):
                    names = {ACCUMULATOR: total, MASS: masses[i]}
                    self._write_stores(bound, (i, j), masks[j], names)

    def _codes(self, frame: Frame, factors: list[Value]) -> list[Value]:
        """Replace a tile's exponentials by the codes of their shares; return each row's sum."""
        b, width = self.b, self.width
        keys = static_extent(self.kernel.key)
        totals = [b.alloca(vector(I32, width)) for _ in factors]
        for total in totals:
            b.store(const(vector(I32, width), 0), total, 64)
        whole = keys // width * width
        with b.loop(i64(0), i64(whole), width, hint="codes") as at:
            self._code_vector(frame, factors, at, None, totals)
        if keys % width:
            mask = lane_mask(b, i64(keys % width), width)
            self._code_vector(frame, factors, i64(whole), mask, totals)
        name = f"llvm.vector.reduce.add.v{width}i32"
        sums = [b.load(vector(I32, width), total, 64) for total in totals]
        return [b.splat(b.call(name, I32, total), width) for total in sums]

    def _code_vector(
        self,
        frame: Frame,
        factors: list[Value],
        at: Value,
        mask: Value | None,
        totals: list[Value],
    ) -> None:
        b, width = self.b, self.width
        for i, (factor, total) in enumerate(zip(factors, totals, strict=True)):
            line = self._line(i)
            raised = b.load(self.type, b.gep(line, F32, at), 64)
            names = {SHARE: b.binary("fmul", raised, factor)}
            code = Point(frame, self.kernel.key, width, names=names).value(_integers(self).share)
            if mask is not None:
                code = b.select(mask, code, const(code.type, 0))
            b.store(code, b.gep(line, "i8", at))
            wide = b.cast("zext", code, vector(I32, width))
            b.store(b.binary("add", b.load(wide.type, total, 64), wide), total, 64)

    def _tile_of_words(
        self, shape: tuple[int, int], quads: int, scalars: Word, vectors: Word
    ) -> list[list[Value]]:
        """Return sums over quads of four products in each lane, for each row and vector."""
        b, dot, type_ = self.b, self.dot, vector(I32, self.width)
        cells = [[_zero(b, type_) for _ in range(shape[1])] for _ in range(shape[0])]

        def steps(k: Value, count: int) -> None:
            sums = [[b.load(type_, cell, 64) for cell in line] for line in cells]
            for u in range(count):
                loaded = [dot.vectors(b, vectors(j, k, u)) for j in range(shape[1])]
                for i, line in enumerate(sums):
                    word = dot.scalars(b, scalars(i, k, u), self.width)
                    for j, before in enumerate(line):
                        line[j] = dot.add(b, before, word, loaded[j])
            for line, targets in zip(sums, cells, strict=True):
                for value, cell in zip(line, targets, strict=True):
                    b.store(value, cell, 64)

        unrolled(b, quads, steps)
        return [[b.load(type_, cell, 64) for cell in line] for line in cells]


def _zero(b: Builder, type_: str) -> Value:
    cell = b.alloca(type_)
    b.store(const(type_, 0), cell, 64)
    return cell
