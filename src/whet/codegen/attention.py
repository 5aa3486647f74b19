"""Attention: keys packed once a chunk, scores and softmax in scratch, values streamed.

The softmax needs each score twice and the row's sum once, so a tile of rows keeps its scores in
scratch (rows x keys floats, a few tens of kilobytes), never in the arena.
"""

from __future__ import annotations

from dataclasses import dataclass

from whet.codegen.builder import F32, Builder, Module, Value, const, i64, vector
from whet.codegen.evaluate import Point
from whet.codegen.frame import Frame
from whet.codegen.kernel_function import (
    Function,
    accesses_of,
    bind_flat,
    frame_of,
    lane_mask,
    open_function,
)
from whet.codegen.nest import horizontal
from whet.codegen.operations import apply
from whet.codegen.register_tile import Operands, register_tile
from whet.codegen.transpose import transpose
from whet.index import Axis, Poly, ceil_div, product
from whet.kernel.spec import ACCUMULATOR, Attention
from whet.target import Target


def attention_chunks(kernel: Attention, lanes: int) -> Poly:
    """Return the number of chunks of an attention."""
    tiles = ceil_div(kernel.row.extent, kernel.rows)
    return product(a.extent for a in kernel.outer) * ceil_div(tiles, kernel.tiles)


def attention_scratch(kernel: Attention, lanes: int) -> int:
    """Return the bytes of scratch that one thread needs: packed keys and a tile of scores."""
    return 4 * _padded_keys(kernel, lanes) * (_static(kernel.depth) + kernel.rows)


def _static(axis: Axis) -> int:
    extent = axis.extent.constant
    assert extent is not None, f"{axis.name} is static in attention"
    return extent


def _padded_keys(kernel: Attention, lanes: int) -> int:
    panel = kernel.key_vectors * lanes
    return -(-_static(kernel.key) // panel) * panel


def write_attention(
    module: Module, name: str, kernel: Attention, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of an attention."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    accesses = accesses_of([kernel.q, kernel.k, kernel.v, kernel.score], kernel.stores)
    frame = frame_of(fn, kernel.params, accesses)
    writer = _Writer(kernel, fn, target.lanes, target.lane_fma)
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(frame, chunk)
    fn.b.finish()


@dataclass(frozen=True, slots=True)
class _Writer:
    kernel: Attention
    fn: Function
    width: int
    lane_fma: bool

    @property
    def b(self) -> Builder:
        return self.fn.b

    @property
    def panel(self) -> int:
        return self.kernel.key_vectors * self.width

    @property
    def padded(self) -> int:
        return _padded_keys(self.kernel, self.width)

    def chunk(self, frame: Frame, chunk: Value) -> None:
        """Write one chunk: pack the keys of an outer point, then its row tiles."""
        b, kernel = self.b, self.kernel
        rows = _static(kernel.row)
        tiles = -(-rows // kernel.rows)
        blocks = -(-tiles // kernel.tiles)
        outer = bind_flat(frame, kernel.outer, b.binary("udiv", chunk, i64(blocks)))
        first = b.mul(b.binary("urem", chunk, i64(blocks)), i64(kernel.tiles))
        last = b.min(b.add(first, i64(kernel.tiles)), i64(tiles))
        self._pack(outer)
        size, larger = divmod(rows, tiles)
        with b.loop(first, last, hint="tile") as tile:
            start = b.add(b.mul(tile, i64(size)), b.min(tile, i64(larger)))
            self._sized_tile(outer.bind(kernel.row, start), tile, size, larger)

    def _sized_tile(self, frame: Frame, tile: Value, size: int, larger: int) -> None:
        """Write a row tile; the first ``larger`` tiles have one row more."""
        b = self.b
        if not larger:
            self._tile(frame, size)
            return
        yes, no, done = b.label("large"), b.label("small"), b.label("tiled")
        b.branch(b.icmp("slt", tile, i64(larger)), yes, no)
        for label, height in ((yes, size + 1), (no, size)):
            b.start(label)
            self._tile(frame, height)
            b.jump(done)
        b.start(done)

    # -- packing keys ------------------------------------------------------------------------

    def _pack(self, frame: Frame) -> None:
        """Copy keys to scratch as [panel, depth, keys of the panel]."""
        b, kernel, width = self.b, self.kernel, self.width
        keys = _static(kernel.key)
        contiguous = kernel.k.address.coefficient(kernel.depth) == 1
        write = self._pack_transposed if contiguous else self._pack_columns
        whole = keys // width
        with b.loop(i64(0), i64(whole), hint="keys") as block:
            write(frame, block, width)
        if keys % width:
            write(frame, i64(whole), keys % width)

    def _place(self, block: Value, depth: Value) -> Value:
        """Return where the vector of one key block and depth lies."""
        b, kernel = self.b, self.kernel
        vectors = i64(kernel.key_vectors)
        panel, lane = b.binary("udiv", block, vectors), b.binary("urem", block, vectors)
        row = b.add(b.mul(panel, i64(_static(kernel.depth))), depth)
        offset = b.add(b.mul(row, i64(self.panel)), b.mul(lane, i64(self.width)))
        return b.gep(self.fn.scratch, F32, offset)

    def _pack_columns(self, frame: Frame, block: Value, count: int) -> None:
        """Pack one block of keys that lie far apart along the depth."""
        b, kernel = self.b, self.kernel
        bound = frame.bind(kernel.key, b.mul(block, i64(self.width)))
        mask = None if count == self.width else lane_mask(b, i64(count), self.width)
        with b.loop(i64(0), i64(_static(kernel.depth)), hint="depth") as d:
            point = Point(bound.bind(kernel.depth, d), kernel.key, self.width, mask)
            b.store(point.value(kernel.k), self._place(block, d), 64)

    def _pack_transposed(self, frame: Frame, block: Value, count: int) -> None:
        """Pack one block of keys by transposing squares in registers."""
        b, kernel, width = self.b, self.kernel, self.width
        depth = _static(kernel.depth)
        bound = frame.bind(kernel.key, b.mul(block, i64(width)))
        with b.loop(i64(0), i64(depth // width), hint="square") as square:
            self._square(bound, block, b.mul(square, i64(width)), count, width)
        if depth % width:
            self._square(bound, block, i64(depth // width * width), count, depth % width)

    def _square(self, frame: Frame, block: Value, start: Value, count: int, deep: int) -> None:
        b, kernel, width = self.b, self.kernel, self.width
        bound = frame.bind(kernel.depth, start)
        mask = None if deep == width else lane_mask(b, i64(deep), width)
        lines = []
        for key in range(width):
            point = Point(bound, kernel.depth, width, mask, {kernel.key: key})
            inside = key < count
            lines.append(point.value(kernel.k) if inside else const(vector(F32, width), 0.0))
        for d, line in enumerate(transpose(b, lines)[:deep]):
            b.store(line, self._place(block, b.add(start, i64(d))), 64)

    # -- one tile of rows --------------------------------------------------------------------

    def _tile(self, frame: Frame, rows: int) -> None:
        b, width = self.b, self.width
        type_ = vector(F32, width)
        tops = [b.alloca(type_) for _ in range(rows)]
        for top in tops:
            b.store(const(type_, float("-inf")), top, 64)
        self._scores(frame, rows, tops)
        inverse = self._softmax(rows, tops)
        self._values(frame, rows, inverse)

    def _line(self, row: int) -> Value:
        """Return where the scores of a row of the tile lie."""
        offset = self.padded * (_static(self.kernel.depth) + row)
        return self.b.gep(self.fn.scratch, F32, offset)

    def _scores(self, frame: Frame, rows: int, tops: list[Value]) -> None:
        b, kernel = self.b, self.kernel
        keys = _static(kernel.key)
        whole = keys // self.panel
        with b.loop(i64(0), i64(whole), hint="panel") as panel:
            self._score_panel(frame, panel, rows, tops, self.panel)
        if keys % self.panel:
            self._score_panel(frame, i64(whole), rows, tops, keys % self.panel)

    def _score_panel(
        self, frame: Frame, panel: Value, rows: int, tops: list[Value], count: int
    ) -> None:
        b, kernel, width = self.b, self.kernel, self.width
        depth = _static(kernel.depth)
        packed = b.gep(self.fn.scratch, F32, b.mul(panel, i64(depth * self.panel)))
        vectors = -(-count // width)

        def a(i: int, k: Value, u: int) -> Value:
            point = Point(frame.bind(kernel.depth, k), shift={kernel.row: i, kernel.depth: u})
            return point.scalar(kernel.q)

        def operand(j: int, k: Value, u: int) -> Value:
            line = b.gep(packed, F32, b.mul(k, i64(self.panel)))
            place = b.gep(line, F32, u * self.panel + j * width)
            return b.load(vector(F32, width), place, 64)

        def along(i: int, k: Value, u: int) -> Value:
            shift = {kernel.row: i, kernel.depth: u}
            return Point(frame.bind(kernel.depth, k), kernel.depth, width, shift=shift).value(
                kernel.q
            )

        contiguous = kernel.q.address.coefficient(kernel.depth) == 1
        lines = along if self.lane_fma and contiguous else None
        operands = Operands(a, operand, lines)
        sums = register_tile(b, width, (rows, vectors), depth, operands)
        start = b.mul(panel, i64(self.panel))
        bound = frame.bind(kernel.key, start)
        for i in range(rows):
            for j in range(vectors):
                left = count - j * width
                mask = lane_mask(b, i64(left), width) if left < width else None
                shift = {kernel.row: i, kernel.key: j * width}
                point = Point(bound, kernel.key, width, mask, shift, {ACCUMULATOR: sums[i][j]})
                score = point.value(kernel.score)
                if mask is not None:
                    score = b.select(mask, score, const(score.type, float("-inf")))
                b.store(score, b.gep(b.gep(self._line(i), F32, start), F32, j * width), 64)
                top = b.load(score.type, tops[i], 64)
                b.store(b.select(b.fcmp("ogt", score, top), score, top), tops[i], 64)

    def _softmax(self, rows: int, tops: list[Value]) -> list[Value]:
        """Replace scores by exponentials; return 1 / each row's sum.

        Where all scores were minus infinity that is NaN, or 1 if such rows are to give 0.
        """
        b, width = self.b, self.width
        type_ = vector(F32, width)
        end = -(-_static(self.kernel.key) // width) * width
        inverse = []
        for i in range(rows):
            top = horizontal(b, "max", b.load(type_, tops[i], 64), "float32")
            finite = b.fcmp("ogt", top, const(F32, float("-inf")))
            top = b.splat(b.select(finite, top, const(F32, 0.0)), width)
            total = b.alloca(type_)
            b.store(const(type_, 0.0), total, 64)
            line = self._line(i)
            with b.loop(i64(0), i64(end), width, hint="exp") as at:
                place = b.gep(line, F32, at)
                lowered = b.binary("fsub", b.load(type_, place, 64), top)
                raised = apply(b, "exp_nonpositive", [lowered], ["float32"], "float32")
                b.store(raised, place, 64)
                b.store(b.binary("fadd", b.load(type_, total, 64), raised), total, 64)
            whole = horizontal(b, "sum", b.load(type_, total, 64), "float32")
            empty = const(F32, 1.0 if self.kernel.zero_empty else float("nan"))
            some = b.select(b.fcmp("oeq", whole, const(F32, 0.0)), empty, whole)
            inverse.append(b.splat(b.binary("fdiv", const(F32, 1.0), some), width))
        return inverse

    def _values(self, frame: Frame, rows: int, inverse: list[Value]) -> None:
        """Multiply exponentials by values and write the epilogue."""
        b, kernel, width = self.b, self.kernel, self.width
        cols = _static(kernel.col)
        panel = kernel.col_vectors * width
        whole = cols // panel
        with b.loop(i64(0), i64(whole), hint="cols") as at:
            self._value_panel(frame.bind(kernel.col, b.mul(at, i64(panel))), rows, inverse, panel)
        if cols % panel:
            bound = frame.bind(kernel.col, i64(whole * panel))
            self._value_panel(bound, rows, inverse, cols % panel)

    def _value_panel(self, frame: Frame, rows: int, inverse: list[Value], count: int) -> None:
        b, kernel, width = self.b, self.kernel, self.width
        vectors = -(-count // width)
        masks = [
            lane_mask(b, i64(count - j * width), width) if count - j * width < width else None
            for j in range(vectors)
        ]

        def a(i: int, k: Value, u: int) -> Value:
            return b.load(F32, b.gep(b.gep(self._line(i), F32, k), F32, u))

        def operand(j: int, k: Value, u: int) -> Value:
            shift = {kernel.key: u, kernel.col: j * width}
            point = Point(frame.bind(kernel.key, k), kernel.col, width, masks[j], shift)
            return point.value(kernel.v)

        def along(i: int, k: Value, u: int) -> Value:
            return b.load(vector(F32, width), b.gep(b.gep(self._line(i), F32, k), F32, u))

        operands = Operands(a, operand, along if self.lane_fma else None)
        sums = register_tile(b, width, (rows, vectors), _static(kernel.key), operands)
        for i in range(rows):
            for j in range(vectors):
                shift = {kernel.row: i, kernel.col: j * width}
                scaled = b.binary("fmul", sums[i][j], inverse[i])
                if kernel.zero_nan:
                    number = b.fcmp("ord", inverse[i], inverse[i])
                    scaled = b.select(number, scaled, const(scaled.type, 0.0))
                point = Point(frame, kernel.col, width, masks[j], shift, {ACCUMULATOR: scaled})
                for store in kernel.stores:
                    point.store(store)
