"""Attention: keys and values packed block by block, scores and softmax in scratch.

The softmax needs each score twice and the row's sum once, so a tile of rows keeps the scores of a
block of keys in scratch (a few tens of kilobytes), never in the arena. With more than one block,
the maximum, the sum and the result of every row wait in scratch between blocks and are rescaled
when a block has a larger maximum: Milakov and Gimelshein, "Online normalizer calculation for
softmax", 2018.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from whet.codegen.kinds.attention_keys import (
    Block,
    KeyFetcher,
    KeyPacker,
    Layout,
    key_fetcher,
    static_extent,
)
from whet.codegen.kinds.kernel_function import (
    Function,
    bind_flat,
    lane_mask,
)
from whet.codegen.kinds.register_tile import Operands, register_tile
from whet.codegen.kinds.row_reduction import horizontal
from whet.codegen.writing.builder import F32, Builder, Value, const, i64, vector
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.codegen.writing.in_turn import apply_in_turn, turns
from whet.codegen.writing.operations import apply
from whet.index import ceil_div
from whet.kernel.spec import ACCUMULATOR, Attention

Body = Callable[[Frame, int, Value], None]
"""``body(frame, rows, slot)``: some rows, the first one bound, and where their results wait."""


class AttentionWriter(msgspec.Struct, frozen=True):
    """Writes attention on floats.

    Attributes:
        kernel: the attention.
        fn: the function being written.
        layout: where things lie in scratch.
        lane_fma: whether a multiply-add takes a lane.
        together: vectors whose exponentials take turns.
    """

    kernel: Attention
    fn: Function
    layout: Layout
    lane_fma: bool
    together: int

    @property
    def b(self) -> Builder:
        """Where instructions go."""
        return self.fn.b

    @property
    def width(self) -> int:
        """Lanes of a vector."""
        return self.layout.lanes

    @property
    def type(self) -> str:
        """A vector of floats."""
        return vector(F32, self.width)

    # -- loops over blocks of keys and tiles of rows -------------------------------------------

    def chunk(self, frame: Frame, number: Value) -> None:
        """Write one chunk: for every block of keys, pack it and run the row tiles over it."""
        b, kernel = self.b, self.kernel
        tiles = ceil_div(kernel.row.extent, kernel.rows)
        chunks = frame.scalar_index(ceil_div(tiles, kernel.tiles))
        outer = bind_flat(frame, kernel.outer, b.binary("udiv", number, chunks))
        first = b.mul(b.binary("urem", number, chunks), i64(kernel.tiles))
        last = b.min(b.add(first, i64(kernel.tiles)), frame.scalar_index(tiles))
        keys = frame.scalar_index(kernel.key.extent)
        packer = self._packer()

        def run(block: Block, following: KeyFetcher) -> None:
            packer.pack(outer, block)
            packer.pack_values(outer, block)
            tile = partial(self._tile, block=block)
            self._tiles(outer, (first, last), tile, before=following.fetch)

        after = b.add(number, i64(1))
        if self.layout.whole:
            run(Block(i64(0), keys), key_fetcher(kernel, frame, after, i64(0)))
            return
        self._tiles(outer, (first, last), lambda f, n, slot: self._reset(n, slot))
        with b.loop(i64(0), keys, kernel.keys, hint="block") as start:
            left = b.binary("sub", keys, start)
            ends = b.icmp("sle", left, i64(kernel.keys))
            chunk = b.select(ends, after, number)
            following = b.select(ends, i64(0), b.add(start, i64(kernel.keys)))
            block = Block(start, b.min(i64(kernel.keys), left))
            run(block, key_fetcher(kernel, frame, chunk, following))
        self._tiles(outer, (first, last), self._finish)

    def _packer(self) -> KeyPacker:
        return KeyPacker(self.kernel, self.fn, self.layout)

    def _tiles(
        self,
        frame: Frame,
        span: tuple[Value, Value],
        body: Body,
        *,
        before: Callable[[Value], None] | None = None,
    ) -> None:
        """Write the loop over row tiles; ``before`` gets the number of each in the chunk."""
        b, kernel = self.b, self.kernel
        with b.loop(*span, hint="tile") as tile:
            number = b.binary("sub", tile, span[0])
            if before is not None:
                before(number)
            offset = b.add(i64(self.layout.slots), b.mul(number, i64(self.layout.slot)))
            slot = b.gep(self.fn.scratch, F32, offset)
            if kernel.row.extent.constant is None:
                self._symbolic_rows(frame, tile, slot, body)
            else:
                self._static_rows(frame, tile, slot, body)

    def _static_rows(self, frame: Frame, tile: Value, slot: Value, body: Body) -> None:
        """Write a row tile; the first ``larger`` tiles have one row more."""
        b, kernel = self.b, self.kernel
        rows = static_extent(kernel.row)
        size, larger = divmod(rows, -(-rows // kernel.rows))
        start = b.add(b.mul(tile, i64(size)), b.min(tile, i64(larger)))
        bound = frame.bind(kernel.row, start)
        if not larger:
            body(bound, size, slot)
            return
        b.either(
            b.icmp("slt", tile, i64(larger)),
            lambda: body(bound, size + 1, slot),
            lambda: body(bound, size, slot),
        )

    def _symbolic_rows(self, frame: Frame, tile: Value, slot: Value, body: Body) -> None:
        """Write a tile of a run-time row count: all its rows at once, or one by one."""
        b, kernel = self.b, self.kernel
        start = b.mul(tile, i64(kernel.rows))
        end = b.add(start, i64(kernel.rows))
        rows = frame.scalar_index(kernel.row.extent)

        def singly() -> None:
            with b.loop(start, rows, hint="row") as row:
                below = b.mul(b.binary("sub", row, start), i64(self.layout.row))
                body(frame.bind(kernel.row, row), 1, b.gep(slot, F32, below))

        if kernel.rows == 1:
            singly()
            return
        b.either(
            b.icmp("sle", end, rows),
            lambda: body(frame.bind(kernel.row, start), kernel.rows, slot),
            singly,
        )

    # -- one tile of rows and one block of keys ------------------------------------------------

    def _tile(self, frame: Frame, rows: int, slot: Value, block: Block) -> None:
        b = self.b
        tops = [b.alloca(self.type) for _ in range(rows)]
        for i, top in enumerate(tops):
            lowest = const(self.type, float("-inf"))
            before = lowest if self.layout.whole else b.load(self.type, self._top(slot, i), 64)
            b.store(before, top, 64)
        self._scores(frame, tops, block)
        if self.layout.whole:
            factors = [self._inverse(total, block) for total in self._softmax(tops, block)[0]]
        else:
            totals, raised_tops = self._softmax(tops, block)
            factors = self._rescale(slot, totals, raised_tops)
        self._values(frame, rows, slot, (factors, block))

    def _line(self, row: int) -> Value:
        """Return where the scores of a row of the tile lie."""
        return self.b.gep(self.fn.scratch, F32, self.layout.lines + self.layout.line * row)

    def _scores(self, frame: Frame, tops: list[Value], block: Block) -> None:
        b = self.b
        whole, left = b.divide(block.count, self.layout.panel)
        with b.loop(i64(0), whole, hint="panel") as at:
            self._score_panel(frame, (block, at), tops, None)
        if left.known is None:
            with b.when(b.icmp("ne", left, i64(0))):
                self._score_panel(frame, (block, whole), tops, left)
        elif left.known:
            self._score_panel(frame, (block, whole), tops, left)

    def _score_panel(
        self, frame: Frame, place: tuple[Block, Value], tops: list[Value], left: Value | None
    ) -> None:
        """Write the scores of one panel; of the last one only ``left`` keys exist."""
        b, kernel, width = self.b, self.kernel, self.width
        block, panel = place
        known = self.layout.panel if left is None else left.known
        vectors = kernel.key_vectors if known is None else -(-known // width)
        sums = self._products(frame, panel, len(tops), vectors)
        start = b.mul(panel, i64(self.layout.panel))
        bound = frame.bind(kernel.key, b.add(block.start, start))
        for j in range(vectors):
            mask = None
            if left is not None and (known is None or known < (j + 1) * width):
                mask = lane_mask(b, b.add(left, i64(-j * width)), width)
            for i, top in enumerate(tops):
                shift = {kernel.row: i, kernel.key: j * width}
                point = Point(bound, kernel.key, width, mask, shift, {ACCUMULATOR: sums[i][j]})
                score = point.value(kernel.score)
                if mask is not None:
                    score = b.select(mask, score, const(score.type, float("-inf")))
                b.store(score, b.gep(b.gep(self._line(i), F32, start), F32, j * width), 64)
                before = b.load(score.type, top, 64)
                b.store(b.select(b.fcmp("ogt", score, before), score, before), top, 64)

    def _products(self, frame: Frame, panel: Value, rows: int, vectors: int) -> list[list[Value]]:
        """Multiply queries by one panel of packed keys."""
        b, kernel, width = self.b, self.kernel, self.width
        depth, panel_keys = static_extent(kernel.depth), self.layout.panel
        packed = b.gep(self.fn.scratch, F32, b.mul(panel, i64(depth * panel_keys)))

        def a(i: int, k: Value, u: int) -> Value:
            point = Point(frame.bind(kernel.depth, k), shift={kernel.row: i, kernel.depth: u})
            return point.scalar(kernel.q)

        def operand(j: int, k: Value, u: int) -> Value:
            line = b.gep(packed, F32, b.mul(k, i64(self.layout.panel)))
            return b.load(
                vector(F32, width), b.gep(line, F32, u * self.layout.panel + j * width), 64
            )

        def along(i: int, k: Value, u: int) -> Value:
            shift = {kernel.row: i, kernel.depth: u}
            bound = frame.bind(kernel.depth, k)
            return Point(bound, kernel.depth, width, shift=shift).value(kernel.q)

        contiguous = kernel.q.address.coefficient(kernel.depth) == 1
        lines = along if self.lane_fma and contiguous else None
        return register_tile(b, width, (rows, vectors), depth, Operands(a, operand, lines))

    def _softmax(self, tops: list[Value], block: Block) -> tuple[list[Value], list[Value]]:
        """Replace scores by exponentials; return each row's sum and the maximum under it."""
        b, width = self.b, self.width
        vectors, _ = b.divide(b.add(block.count, i64(width - 1)), width)
        end = b.mul(vectors, i64(width))
        highest = [horizontal(b, "max", b.load(self.type, cell, 64), "float32") for cell in tops]
        bases = [self._base(top) for top in highest]
        totals = [b.alloca(self.type) for _ in tops]
        for total in totals:
            b.store(const(self.type, 0.0), total, 64)
        for rows in turns(len(tops), self.together):
            with b.loop(i64(0), end, width, hint="exp") as at:
                places = [b.gep(self._line(i), F32, at) for i in rows]
                loaded = [b.load(self.type, place, 64) for place in places]
                lowered = [b.binary("fsub", x, bases[i]) for i, x in zip(rows, loaded, strict=True)]
                raised = apply_in_turn(b, "exp_nonpositive", lowered)
                for i, place, value in zip(rows, places, raised, strict=True):
                    b.store(value, place, 64)
                    total = b.load(self.type, totals[i], 64)
                    b.store(b.binary("fadd", total, value), totals[i], 64)
        sums = [horizontal(b, "sum", b.load(self.type, c, 64), "float32") for c in totals]
        return sums, highest

    def _base(self, top: Value) -> Value:
        """Return what is taken off a row's scores: its maximum, 0 where all are minus infinity."""
        b = self.b
        finite = b.fcmp("ogt", top, const(F32, float("-inf")))
        return b.splat(b.select(finite, top, const(F32, 0.0)), self.width)

    def _inverse(self, total: Value, block: Block) -> Value:
        """Return 1 / a row's sum, in lanes.

        Where all scores were minus infinity that is NaN, or 1 if such rows are to give 0; without
        keys there is nothing to add.
        """
        b = self.b
        empty = const(F32, 1.0 if self.kernel.zero_empty else float("nan"))
        if block.count.known is None:
            none = b.icmp("eq", block.count, i64(0))
            empty = b.select(none, const(F32, 1.0), empty)
        some = b.select(b.fcmp("oeq", total, const(F32, 0.0)), empty, total)
        return b.splat(b.binary("fdiv", const(F32, 1.0), some), self.width)

    def _values(
        self, frame: Frame, rows: int, slot: Value, scale: tuple[list[Value], Block]
    ) -> None:
        """Multiply exponentials by values; the result goes to the epilogue or waits."""
        for bound, at, masks in self.layout.column_panels(frame):
            sums = self._weighted(at, rows, len(masks), scale[1])
            for i, line in enumerate(sums):
                factor = scale[0][i]
                for j, value in enumerate(line):
                    if self.layout.whole:
                        self._store(bound, (i, j), masks[j], (value, factor))
                        continue
                    place = self._result(slot, i, at, j)
                    before = self.b.load(self.type, place, 64)
                    self.b.store(self.b.fma(before, factor, value), place, 64)

    def _weighted(self, column: Value, rows: int, vectors: int, block: Block) -> list[list[Value]]:
        """Multiply a tile's exponentials by the packed values of one panel of columns."""
        b, width, cols = self.b, self.width, self.layout.cols
        panel = b.gep(b.gep(self.fn.scratch, F32, self.layout.values), F32, column)

        def a(i: int, k: Value, u: int) -> Value:
            return b.load(F32, b.gep(b.gep(self._line(i), F32, k), F32, u))

        def operand(j: int, k: Value, u: int) -> Value:
            line = b.gep(panel, F32, b.mul(k, i64(cols)))
            return b.load(vector(F32, width), b.gep(line, F32, u * cols + j * width), 64)

        def along(i: int, k: Value, u: int) -> Value:
            return b.load(vector(F32, width), b.gep(b.gep(self._line(i), F32, k), F32, u))

        operands = Operands(a, operand, along if self.lane_fma else None)
        return register_tile(b, width, (rows, vectors), block.count, operands)

    def _store(
        self, frame: Frame, at: tuple[int, int], mask: Value | None, parts: tuple[Value, Value]
    ) -> None:
        """Write the epilogue of one vector: a weighted sum and 1 / the sum of its weights."""
        b, kernel = self.b, self.kernel
        total, inverse = parts
        scaled = b.binary("fmul", total, inverse)
        if kernel.zero_nan:
            number = b.fcmp("ord", inverse, inverse)
            scaled = b.select(number, scaled, const(scaled.type, 0.0))
        self._write_stores(frame, at, mask, {ACCUMULATOR: scaled})

    def _write_stores(
        self, frame: Frame, at: tuple[int, int], mask: Value | None, names: dict[str, Value]
    ) -> None:
        """Write the stores of one vector of a row."""
        kernel, width = self.kernel, self.width
        shift = {kernel.row: at[0], kernel.col: at[1] * width}
        point = Point(frame, kernel.col, width, mask, shift, names)
        for store in kernel.stores:
            point.store(store)

    # -- what waits between blocks -------------------------------------------------------------

    def _result(self, slot: Value, row: int, column: Value, vectors: int) -> Value:
        """Return where a vector of a row's result waits."""
        at = self.b.gep(slot, F32, row * self.layout.row + vectors * self.width)
        return self.b.gep(at, F32, column)

    def _top(self, slot: Value, row: int) -> Value:
        return self.b.gep(slot, F32, row * self.layout.row + self.layout.cols)

    def _sum(self, slot: Value, row: int) -> Value:
        return self.b.gep(self._top(slot, row), F32, self.width)

    def _reset(self, rows: int, slot: Value) -> None:
        """Begin with no keys: results and sums of 0, maxima of minus infinity."""
        b = self.b
        for i in range(rows):
            for j in range(self.layout.cols // self.width):
                b.store(const(self.type, 0.0), self._result(slot, i, i64(0), j), 64)
            b.store(const(self.type, float("-inf")), self._top(slot, i), 64)
            b.store(const(self.type, 0.0), self._sum(slot, i), 64)

    def _rescale(self, slot: Value, totals: list[Value], tops: list[Value]) -> list[Value]:
        """Bring sums to the new maxima; return what older results are to be multiplied by."""
        b = self.b
        factors = []
        for i, (total, top) in enumerate(zip(totals, tops, strict=True)):
            older = b.load(self.type, self._top(slot, i), 64)
            lowered = b.binary("fsub", older, self._base(top))
            factor = apply(b, "exp_nonpositive", [lowered], ["float32"], "float32")
            before = b.load(self.type, self._sum(slot, i), 64)
            b.store(b.fma(before, factor, b.splat(total, self.width)), self._sum(slot, i), 64)
            b.store(b.splat(top, self.width), self._top(slot, i), 64)
            factors.append(factor)
        return factors

    def _finish(self, frame: Frame, rows: int, slot: Value) -> None:
        """Divide results by their sums and write the epilogue."""
        b = self.b
        keys = Block(i64(0), frame.scalar_index(self.kernel.key.extent))
        sums = [b.extract(b.load(self.type, self._sum(slot, i), 64), 0) for i in range(rows)]
        inverse = [self._inverse(total, keys) for total in sums]
        for bound, at, masks in self.layout.column_panels(frame):
            for i in range(rows):
                for j, mask in enumerate(masks):
                    value = b.load(self.type, self._result(slot, i, at, j), 64)
                    self._store(bound, (i, j), mask, (value, inverse[i]))
