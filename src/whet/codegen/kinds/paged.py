"""Attention over pages: scores of a page in scratch, a running softmax, values streamed.

Rows of a tile go through the pages of their sequence together, some register tiles of them for each
page while it is in the first cache. Maximum, sum and result of each wait in scratch between pages,
as in ``attention.py``; pages need no packing. Nothing that a table or a tile says is believed:
indices are clamped, so that wrong ones give wrong numbers and no crash.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec
from msgspec.structs import replace

from whet.codegen.kinds.attention_keys import static_extent
from whet.codegen.kinds.kernel_function import (
    Function,
    accesses_of,
    frame_of,
    lane_mask,
    open_function,
    strips,
)
from whet.codegen.kinds.paged_tiles import Tile, clamped, integer_at, read_tile
from whet.codegen.kinds.register_tile import Operands, register_tile
from whet.codegen.kinds.row_reduction import horizontal
from whet.codegen.writing.builder import (
    F32,
    I1,
    I32,
    PTR,
    Builder,
    Module,
    Value,
    const,
    i64,
    vector,
)
from whet.codegen.writing.conversions import from_storage, storage_type
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.codegen.writing.operations import apply
from whet.codegen.writing.transpose import interleaved
from whet.dtypes import DTYPES
from whet.index import Poly
from whet.kernel.paged import PAGE, PagedAttention, QueryPart
from whet.kernel.spec import ACCUMULATOR
from whet.target import Target

VECTORS = 2
"""Vectors of a register tile."""

TOGETHER = 4
"""Register tiles of rows that read a page in turn."""

INTERLEAVED = 2
"""Values of a part that are brought into turns in registers."""


def paged_chunks(kernel: PagedAttention, lanes: int) -> Poly:
    """Return the number of chunks."""
    return kernel.pages.tile_count * kernel.pages.heads


def paged_scratch(kernel: PagedAttention, lanes: int) -> int:
    """Return the bytes of scratch that one thread needs."""
    states = TOGETHER * kernel.rows * _state_size(kernel, lanes)
    queries = 0 if kernel.in_place else TOGETHER * kernel.rows * static_extent(kernel.depth)
    return 4 * (kernel.rows * PAGE + states + queries)


def write_paged(
    module: Module, name: str, kernel: PagedAttention, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of an attention over pages."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    roots = [value for part in kernel.queries for value in part.values]
    frame = frame_of(fn, kernel.params, accesses_of(roots, (kernel.store,)))
    states = fn.b.gep(fn.scratch, F32, kernel.rows * PAGE)
    behind = TOGETHER * kernel.rows * _state_size(kernel, target.lanes)
    queries = fn.b.gep(states, F32, behind)
    writer = _Writer(kernel, fn, frame, target.lanes, states, queries)
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(chunk)
    fn.b.finish()


class _Row(msgspec.Struct, frozen=True):
    """One row of a register tile: where it reads and what it sees."""

    frame: Frame
    limit: Value
    low: Value


class _Writer(msgspec.Struct, frozen=True):
    """Writes the function.

    ``states`` is where maximum, sum and result of its rows wait, ``queries`` where what they are
    multiplied by does, if it is computed.
    """

    kernel: PagedAttention
    fn: Function
    frame: Frame
    width: int
    states: Value
    queries: Value

    @property
    def b(self) -> Builder:
        return self.fn.b

    @property
    def type(self) -> str:
        return vector(F32, self.width)

    def chunk(self, number: Value) -> None:
        """Write one tile and one head: its rows, some at a time."""
        b, kernel = self.b, self.kernel
        heads = i64(kernel.pages.heads)
        head = b.binary("urem", number, heads)
        tile = read_tile(self.fn, self.frame, kernel, b.binary("udiv", number, heads), head)
        with b.loop(i64(0), tile.rows, TOGETHER * kernel.rows, hint="rows") as start:
            stop = b.min(b.add(start, i64(TOGETHER * kernel.rows)), tile.rows)
            self._rows(tile, start, stop)

    def _row(self, tile: Tile, number: Value) -> _Row:
        """Bind one row; behind the last one, the last one is computed again."""
        b, kernel = self.b, self.kernel
        last = b.add(tile.rows, i64(-1))
        token, head = b.divide(b.min(number, last), kernel.group)
        frame = self.frame.bind(kernel.token, b.add(tile.first, token))
        frame = frame.bind(kernel.head, b.add(b.mul(tile.head, i64(kernel.group)), head))
        limit = b.add(b.add(tile.position, token), i64(1))
        low = i64(0)
        if kernel.weighing.window:
            low = b.max(b.add(limit, i64(-kernel.weighing.window)), i64(0))
        return _Row(frame, limit, low)

    def _rows(self, tile: Tile, start: Value, stop: Value) -> None:
        """Write the loop over the pages that any of some rows sees."""
        b = self.b
        low, end = self._row(tile, start).low, self._row(tile, b.add(stop, i64(-1))).limit
        self._tiles(tile, start, stop, lambda part, rows: part.begin(rows))
        first = b.binary("udiv", low, i64(PAGE))
        last = b.binary("udiv", b.add(end, i64(PAGE - 1)), i64(PAGE))
        with b.loop(first, last, hint="page") as number:
            pool = self.frame.scalar_index(self.kernel.pages.pool)
            page = clamped(b, integer_at(b, tile.table, number), pool)
            place = b.add(b.mul(page, i64(self.kernel.pages.heads)), tile.head)
            position = b.mul(number, i64(PAGE))
            count = b.min(b.binary("sub nsw", end, position), i64(PAGE))
            self._tiles(
                tile, start, stop, lambda part, rows: part.page(rows, (place, position, count))
            )
        self._tiles(tile, start, stop, lambda part, rows: part.finish(rows))

    def _tiles(
        self, tile: Tile, start: Value, stop: Value, body: Callable[[_Writer, list[_Row]], None]
    ) -> None:
        """Write a loop over register tiles of rows, each with its own place for its states."""
        b, count = self.b, self.kernel.rows
        size, depth = _state_size(self.kernel, self.width), static_extent(self.kernel.depth)
        with b.loop(start, stop, count, hint="tile") as number:
            rows = [self._row(tile, b.add(number, i64(i))) for i in range(count)]
            inside = b.binary("sub nsw", number, start)
            states = b.gep(self.states, F32, b.mul(inside, i64(size)))
            queries = b.gep(self.queries, F32, b.mul(inside, i64(depth)))
            body(replace(self, states=states, queries=queries), rows)

    def page(self, rows: list[_Row], at: tuple[Value, Value, Value]) -> None:
        """Write what a page adds to some rows: its place, first position, and positions seen."""
        place, position, count = at
        self._scores(rows, place, position)
        factors = self._softmax(len(rows), place)
        self._values(len(rows), place, count, factors)

    # -- where things wait ---------------------------------------------------------------------

    def _line(self, row: int) -> Value:
        """Return where the scores of a row lie."""
        return self.b.gep(self.fn.scratch, F32, row * PAGE)

    def _state(self, row: int) -> Value:
        """Return where a row waits: its maximum in every lane, its sum by lanes, its result."""
        return self.b.gep(self.states, F32, row * _state_size(self.kernel, self.width))

    def _sum(self, row: int) -> Value:
        return self.b.gep(self._state(row), F32, self.width)

    def _result(self, row: int) -> Value:
        return self.b.gep(self._state(row), F32, 2 * self.width)

    def _query_line(self, row: int) -> Value:
        """Return where the query of a row lies, if it is computed."""
        return self.b.gep(self.queries, F32, row * static_extent(self.kernel.depth))

    def begin(self, rows: list[_Row]) -> None:
        """Write the states of rows that have seen nothing, and their queries."""
        b = self.b
        for i, row in enumerate(rows if not self.kernel.in_place else ()):
            for part in self.kernel.queries:
                line = b.gep(self._query_line(i), F32, part.first)
                strips(row.frame, part.axis, self.width, partial(self._computed, part, line))
        for i in range(self.kernel.rows):
            b.store(const(self.type, float("-inf")), self._state(i), 4)
            b.store(const(self.type, 0.0), self._sum(i), 4)
            for at in range(0, self.kernel.pages.padded, self.width):
                b.store(const(self.type, 0.0), b.gep(self._result(i), F32, at), 4)

    def _computed(
        self, part: QueryPart, line: Value, frame: Frame, mask: Value | None, vectors: int
    ) -> None:
        """Write a vector of a query to scratch."""
        b, step = self.b, len(part.values)
        point = Point(frame, part.axis, self.width, mask)
        values = [point.value(value) for value in part.values]
        place = b.gep(line, F32, b.mul(frame.env[part.axis], i64(step)))
        if mask is None and step <= INTERLEAVED:
            for at, value in enumerate(interleaved(b, values)):
                b.store(value, b.gep(place, F32, at * self.width), 4)
            return
        for turn, value in enumerate(values):
            offsets = b.iota(self.width, step)
            start = b.gep(place, F32, turn)
            to = b.op(f"getelementptr float, ptr {start.text}, {offsets}", vector(PTR, self.width))
            b.scatter(value, to, mask or const(vector(I1, self.width), 1))

    # -- one page ------------------------------------------------------------------------------

    def _scores(self, rows: list[_Row], place: Value, start: Value) -> None:
        """Multiply queries by the keys of a page, and weigh and mask the products."""
        b, kernel, width = self.b, self.kernel, self.width
        depth = static_extent(kernel.depth)
        base = self._pool(kernel.pages.keys, b.mul(place, i64(depth * PAGE)))

        part = kernel.queries[0]

        def query(i: int, k: Value, u: int) -> Value:
            if not kernel.in_place:
                return b.load(F32, b.gep(b.gep(self._query_line(i), F32, k), F32, u), 4)
            return Point(rows[i].frame.bind(part.axis, k), shift={part.axis: u}).scalar(
                part.values[0]
            )

        for panel in range(0, PAGE, VECTORS * width):

            def keys(j: int, k: Value, u: int, panel: int = panel) -> Value:
                at = b.add(b.mul(k, i64(PAGE)), i64(u * PAGE + panel + j * width))
                return self._floats(kernel.pages.keys, base, at)

            shape = (len(rows), VECTORS)
            sums = register_tile(b, width, shape, depth, Operands(query, keys))
            for i, row in enumerate(rows):
                for j, total in enumerate(sums[i]):
                    at = panel + j * width
                    total = self._scaled(total, 0, place, at)
                    score = self._visible(self._weighed(total), row, b.add(start, i64(at)))
                    b.store(score, b.gep(self._line(i), F32, at), 4)

    def _weighed(self, score: Value) -> Value:
        b, weighing = self.b, self.kernel.weighing
        score = b.binary("fmul", score, const(self.type, weighing.scale))
        if weighing.softcap:
            inner = b.binary("fmul", score, const(self.type, 1.0 / weighing.softcap))
            turned = apply(b, "tanh", [inner], ["float32"], "float32")
            score = b.binary("fmul", turned, const(self.type, weighing.softcap))
        return score

    def _visible(self, score: Value, row: _Row, start: Value) -> Value:
        """Put minus infinity where a row does not see a position."""
        b, width = self.b, self.width
        seen = lane_mask(b, b.binary("sub nsw", row.limit, start), width)
        if self.kernel.weighing.window:
            before = lane_mask(b, b.binary("sub nsw", row.low, start), width)
            late = b.binary("xor", before, const(vector(I1, width), 1))
            seen = b.binary("and", seen, late)
        return b.select(seen, score, const(self.type, float("-inf")))

    def _pool(self, param: int, element: Value) -> Value:
        """Return the place of an element of a pool."""
        kind = storage_type(self.kernel.params[param].dtype)
        return self.b.gep(self.fn.params[param], kind, element)

    def _floats(self, param: int, base: Value, element: Value) -> Value:
        """Load a vector from a pool as floats."""
        b, dtype = self.b, self.kernel.params[param].dtype
        kind = storage_type(dtype)
        loaded = b.load(vector(kind, self.width), b.gep(base, kind, element), DTYPES[dtype].size)
        if dtype == "int8":
            return b.cast("sitofp", b.cast("sext", loaded, vector(I32, self.width)), self.type)
        return from_storage(b, loaded, dtype)

    def _scaled(self, value: Value, which: int, place: Value, at: int) -> Value:
        """Multiply by the scales of positions, if a pool has any: 0 for keys, 1 for values."""
        b, scales = self.b, self.kernel.pages.scales
        if not scales:
            return value
        base = b.gep(self.fn.params[scales[which]], F32, b.mul(place, i64(PAGE)))
        return b.binary("fmul", value, b.load(self.type, b.gep(base, F32, at), 4))

    def _softmax(self, rows: int, page: Value) -> list[Value]:
        """Replace scores by exponentials; return what each row's older result is multiplied by.

        The scales of values are multiplied into the exponentials, not into their sum. Each step is
        written for all rows before the next: their chains of dependent operations overlap.
        """
        b = self.b
        tops = [self._top(i) for i in range(rows)]
        olds = [b.load(self.type, self._state(i), 4) for i in range(rows)]
        bases = [
            self._base(i, top, old) for i, (top, old) in enumerate(zip(tops, olds, strict=True))
        ]
        pairs = zip(olds, bases, strict=True)
        factors = [self._exp(b.binary("fsub", old, base)) for old, base in pairs]
        for i, (base, factor) in enumerate(zip(bases, factors, strict=True)):
            total = self._raise(i, base, page)
            b.store(b.fma(b.load(self.type, self._sum(i), 4), factor, total), self._sum(i), 4)
        return factors

    def _top(self, row: int) -> Value:
        """Return the largest score of a row, in every lane."""
        b = self.b
        top, *others = (
            b.load(self.type, b.gep(self._line(row), F32, at), 4)
            for at in range(0, PAGE, self.width)
        )
        for score in others:
            top = b.select(b.fcmp("ogt", score, top), score, top)
        return b.splat(horizontal(b, "max", top, "float32"), self.width)

    def _base(self, row: int, top: Value, old: Value) -> Value:
        """Keep the maximum of a row so far; return it, or 0 if the row has seen nothing."""
        b = self.b
        new = b.select(b.fcmp("ogt", top, old), top, old)
        b.store(new, self._state(row), 4)
        finite = b.fcmp("ogt", new, const(self.type, float("-inf")))
        return b.select(finite, new, const(self.type, 0.0))

    def _raise(self, row: int, base: Value, page: Value) -> Value:
        """Replace the scores of a row by exponentials; return their sums, lane by lane."""
        b, total = self.b, const(self.type, 0.0)
        for at in range(0, PAGE, self.width):
            place = b.gep(self._line(row), F32, at)
            raised = self._exp(b.binary("fsub", b.load(self.type, place, 4), base))
            b.store(self._scaled(raised, 1, page, at), place, 4)
            total = b.binary("fadd", total, raised)
        return total

    def _exp(self, value: Value) -> Value:
        return apply(self.b, "exp_nonpositive", [value], ["float32"], "float32")

    def _values(self, rows: int, place: Value, count: Value, factors: list[Value]) -> None:
        """Multiply exponentials by the values of a page, and add them to the results."""
        b, width, padded = self.b, self.width, self.kernel.pages.padded
        pool = self.kernel.pages.values
        base = self._pool(pool, b.mul(place, i64(PAGE * padded)))

        def weight(i: int, k: Value, u: int) -> Value:
            return b.load(F32, b.gep(b.gep(self._line(i), F32, k), F32, u), 4)

        for at in range(0, padded, VECTORS * width):
            vectors = min(VECTORS, (padded - at) // width)

            def values(j: int, k: Value, u: int, at: int = at) -> Value:
                element = b.add(b.mul(k, i64(padded)), i64(u * padded + at + j * width))
                return self._floats(pool, base, element)

            sums = register_tile(b, width, (rows, vectors), count, Operands(weight, values))
            for i, line in enumerate(sums):
                for j, value in enumerate(line):
                    target = b.gep(self._result(i), F32, at + j * width)
                    before = b.load(self.type, target, 4)
                    b.store(b.fma(before, factors[i], value), target, 4)

    def finish(self, rows: list[_Row]) -> None:
        """Divide results by their sums and store them."""
        b, kernel, width = self.b, self.kernel, self.width
        columns = static_extent(kernel.col)
        for i, row in enumerate(rows):
            lanes = b.load(self.type, self._sum(i), 4)
            total = b.splat(horizontal(b, "sum", lanes, "float32"), width)
            inverse = b.binary("fdiv", const(self.type, 1.0), total)
            for at in range(0, columns, width):
                value = b.load(self.type, b.gep(self._result(i), F32, at), 4)
                value = b.binary("fmul", value, inverse)
                left = columns - at
                mask = None if left >= width else lane_mask(b, i64(left), width)
                bound = row.frame.bind(kernel.col, i64(at))
                Point(bound, kernel.col, width, mask, names={ACCUMULATOR: value}).store(
                    kernel.store
                )


def _state_size(kernel: PagedAttention, lanes: int) -> int:
    """Return the floats of a row that wait between pages."""
    return kernel.pages.padded + 2 * lanes
