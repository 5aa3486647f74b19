"""Packing a block of keys and values for attention, and where things lie in its scratch."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from whet.codegen.kinds.kernel_function import Function, bind_flat, lane_mask, strips
from whet.codegen.writing.builder import F32, Builder, Value, i64
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.codegen.writing.transpose import transpose
from whet.dtypes import DTYPES
from whet.index import Axis, Poly, ceil_div, product
from whet.kernel.integer_attention import QUAD_WORDS
from whet.kernel.schedule import LINE_BYTES
from whet.kernel.spec import Attention


def static_extent(axis: Axis) -> int:
    """Return the extent of an axis that is known when compiling."""
    extent = axis.extent.constant
    assert extent is not None, f"{axis.name} is static in attention"
    return extent


class Layout(msgspec.Struct, frozen=True):
    """Where things lie in scratch, counted in words of 32 bits."""

    kernel: Attention
    lanes: int

    @property
    def panel(self) -> int:
        """Keys of a panel."""
        return self.kernel.key_vectors * self.lanes

    @property
    def words(self) -> int:
        """Words of a key: floats, or quads of integers."""
        return -(-static_extent(self.kernel.depth) // self._together)

    @property
    def _together(self) -> int:
        return 1 if self.kernel.integers is None else QUAD_WORDS

    @property
    def line(self) -> int:
        """Scores of a row: a block of keys in whole panels."""
        return -(-self.kernel.keys // self.panel) * self.panel

    @property
    def values(self) -> int:
        """Where packed values begin, behind the packed keys."""
        return self.line * self.words

    @property
    def lines(self) -> int:
        """Where scores begin, behind the packed values."""
        return self.values + self.line * self.cols // self._together

    @property
    def slots(self) -> int:
        """Where what waits between blocks begins, behind the scores."""
        return self.lines + self.line * self.kernel.rows

    @property
    def cols(self) -> int:
        """Columns in whole vectors."""
        return -(-static_extent(self.kernel.col) // self.lanes) * self.lanes

    @property
    def row(self) -> int:
        """What waits for one row: its result, then its maximum and its sum in every lane."""
        return self.cols + 2 * self.lanes

    @property
    def slot(self) -> int:
        """What waits for one tile; nothing if one block holds all keys."""
        return 0 if self.whole else self.kernel.rows * self.row

    @property
    def whole(self) -> bool:
        """Whether one block holds all keys."""
        extent = self.kernel.key.extent.constant
        return extent is not None and extent <= self.kernel.keys

    def column_panels(self, frame: Frame) -> Iterator[tuple[Frame, Value, list[Value | None]]]:
        """Yield the panels of columns: frame, first column, and a mask for each vector."""
        b, kernel, width = frame.b, self.kernel, self.lanes
        cols, panel = static_extent(kernel.col), kernel.col_vectors * width
        whole, left = divmod(cols, panel)
        if whole:
            with b.loop(i64(0), i64(whole * panel), panel, hint="cols") as at:
                yield frame.bind(kernel.col, at), at, [None] * kernel.col_vectors
        if left:
            masks: list[Value | None] = [None] * (left // width)
            if left % width:
                masks.append(lane_mask(b, i64(left % width), width))
            start = i64(whole * panel)
            yield frame.bind(kernel.col, start), start, masks


def attention_chunks(kernel: Attention, lanes: int) -> Poly:
    """Return the number of chunks of an attention."""
    tiles = ceil_div(kernel.row.extent, kernel.rows)
    return product(a.extent for a in kernel.outer) * ceil_div(tiles, kernel.tiles)


def attention_scratch(kernel: Attention, lanes: int) -> int:
    """Return the bytes of scratch that one thread needs: keys, scores, and results that wait."""
    layout = Layout(kernel, lanes)
    return 4 * (layout.slots + kernel.tiles * layout.slot)


class Block(msgspec.Struct, frozen=True):
    """A block of keys: the first one, and how many there are."""

    start: Value
    count: Value


class KeyFetcher(msgspec.Struct, frozen=True):
    """Fetches the keys and values of the block after this one, some with every tile of rows.

    Rows of keys lie a row of all heads apart, often in the cache of another core: no hardware
    fetches them ahead, and packing them took 11 % of an attention (Cascade Lake, 64 columns).

    Attributes:
        kernel: the attention.
        frame: with the outer axes of the block bound.
        start: its first key.
        stop: the number of keys that its outer point has.
    """

    kernel: Attention
    frame: Frame
    start: Value
    stop: Value

    def fetch(self, tile: Value) -> None:
        """Write the fetching of a tile's share, given its number in the chunk."""
        b, kernel = self.frame.b, self.kernel
        share = -(-kernel.keys // kernel.tiles)
        first = b.add(self.start, b.mul(tile, i64(share)))
        last = b.min(b.add(first, i64(share)), self.stop)
        with b.loop(first, last, hint="fetch") as key:
            bound = self.frame.bind(kernel.key, key)
            for read, axis in ((kernel.k, kernel.depth), (kernel.v, kernel.col)):
                if read.address.coefficient(axis) != 1:
                    continue
                row = Point(bound.bind(axis, i64(0))).pointer(read)
                row_bytes = static_extent(axis) * DTYPES[read.dtype].size
                for place in range(0, row_bytes, LINE_BYTES):
                    b.prefetch(b.gep(row, "i8", place))


def key_fetcher(kernel: Attention, frame: Frame, chunk: Value, start: Value) -> KeyFetcher:
    """Return what fetches a block, given its chunk; behind the last chunk, the last point's."""
    b = frame.b
    chunks = ceil_div(ceil_div(kernel.row.extent, kernel.rows), kernel.tiles)
    point = b.binary("udiv", chunk, frame.scalar_index(chunks))
    points = frame.scalar_index(product(a.extent for a in kernel.outer))
    outer = bind_flat(frame, kernel.outer, b.min(point, b.add(points, i64(-1))))
    return KeyFetcher(kernel, outer, start, frame.scalar_index(kernel.key.extent))


class KeyPacker(msgspec.Struct, frozen=True):
    """Copies keys to scratch as [panel, depth, keys of the panel], and values beside them.

    Attributes:
        kernel: the attention.
        fn: the function being written.
        layout: where things lie in scratch.
    """

    kernel: Attention
    fn: Function
    layout: Layout

    @property
    def b(self) -> Builder:
        """Where instructions go."""
        return self.fn.b

    @property
    def width(self) -> int:
        """Lanes of a vector."""
        return self.layout.lanes

    def pack(self, frame: Frame, block: Block) -> None:
        """Copy a block; in the last vector, keys that do not exist repeat the last one."""
        b, kernel, width = self.b, self.kernel, self.width
        contiguous = kernel.k.address.coefficient(kernel.depth) == 1
        write = self._transposed if contiguous else self._columns
        whole, left = b.divide(block.count, width)
        with b.loop(i64(0), whole, hint="keys") as part:
            write(frame, block, part, None)
        if left.known is None:
            with b.when(b.icmp("ne", left, i64(0))):
                write(frame, block, whole, left)
        elif left.known:
            write(frame, block, whole, left)

    def pack_values(self, frame: Frame, block: Block) -> None:
        """Copy a block's values to scratch as [key, columns in whole vectors].

        In the caller's layout a key's values lie a whole row of all heads away from the next one's:
        many pages, few sets of the first cache, and every tile of rows reads them all.
        """
        b, kernel, layout = self.b, self.kernel, self.layout

        def copy(inner: Frame, mask: Value | None, vectors: int) -> None:
            column = inner.env[kernel.col]
            for j in range(vectors):
                shift = {kernel.col: j * self.width}
                value = Point(inner, kernel.col, self.width, mask, shift).value(kernel.v)
                b.store(value, b.gep(b.gep(line, F32, column), F32, j * self.width), 64)

        with b.loop(i64(0), block.count, hint="values") as key:
            line = b.gep(self.fn.scratch, F32, b.mul(key, i64(layout.cols)))
            line = b.gep(line, F32, layout.values)
            bound = frame.bind(kernel.key, b.add(block.start, key))
            strips(bound, kernel.col, self.width, copy, unroll=kernel.col_vectors)

    def _place(self, part: Value, depth: Value) -> Value:
        """Return where the vector of some keys and one depth lies."""
        b, kernel = self.b, self.kernel
        vectors = i64(kernel.key_vectors)
        panel, lane = b.binary("udiv", part, vectors), b.binary("urem", part, vectors)
        row = b.add(b.mul(panel, i64(self.layout.words)), depth)
        offset = b.add(b.mul(row, i64(self.layout.panel)), b.mul(lane, i64(self.width)))
        return b.gep(self.fn.scratch, F32, offset)

    def _columns(self, frame: Frame, block: Block, part: Value, left: Value | None) -> None:
        """Pack keys that lie far apart along the depth."""
        b, kernel = self.b, self.kernel
        key = b.add(block.start, b.mul(part, i64(self.width)))
        bound = frame.bind(kernel.key, key)
        mask = None if left is None else lane_mask(b, left, self.width)
        with b.loop(i64(0), i64(static_extent(kernel.depth)), hint="depth") as d:
            point = Point(bound.bind(kernel.depth, d), kernel.key, self.width, mask)
            b.store(point.value(kernel.k), self._place(part, d), 64)

    def _transposed(self, frame: Frame, block: Block, part: Value, left: Value | None) -> None:
        """Pack keys by transposing squares in registers."""
        b, kernel, width = self.b, self.kernel, self.width
        depth = self.layout.words
        first = b.add(block.start, b.mul(part, i64(width)))
        frames = [frame.bind(kernel.key, first)] * width
        if left is not None:
            last = b.add(first, b.add(left, i64(-1)))
            places = [b.min(b.add(first, i64(k)), last) for k in range(width)]
            frames = [frame.bind(kernel.key, place) for place in places]
        with b.loop(i64(0), i64(depth // width), hint="square") as square:
            self._square(frames, part, b.mul(square, i64(width)), width)
        if depth % width:
            self._square(frames, part, i64(depth // width * width), depth % width)

    def _square(self, frames: list[Frame], part: Value, start: Value, deep: int) -> None:
        b, width = self.b, self.width
        mask = None if deep == width else lane_mask(b, i64(deep), width)
        together = all(f is frames[0] for f in frames)
        lines = [
            self._line(frame, key if together else 0, start, mask)
            for key, frame in enumerate(frames)
        ]
        for d, line in enumerate(transpose(b, lines)[:deep]):
            b.store(line, self._place(part, b.add(start, i64(d))), 64)

    def _line(self, frame: Frame, key: int, start: Value, mask: Value | None) -> Value:
        """Return the words of a key, ``key`` behind the one of the frame, from one of them on."""
        kernel = self.kernel
        bound = frame.bind(kernel.depth, start)
        shift = {kernel.key: key}
        return Point(bound, kernel.depth, self.width, mask, shift).value(kernel.k)
