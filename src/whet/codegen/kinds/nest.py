"""Loop nests: pointwise maps, reductions, pooling, depthwise convolution, normalisations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from types import MappingProxyType

import msgspec
from msgspec.structs import replace

from whet.codegen.kinds.edges import conditions_of, extremes, is_neutral, moves_one_tap
from whet.codegen.kinds.interleave import InterleaveWriter
from whet.codegen.kinds.kernel_function import (
    Function,
    accesses_of,
    bind_flat,
    frame_of,
    open_function,
    strips,
    tap_range,
)
from whet.codegen.kinds.nest_lanes import nest_lanes
from whet.codegen.kinds.row_reduction import accumulated, reduce_row
from whet.codegen.kinds.squares import SquareWriter, square_rows
from whet.codegen.writing.builder import Builder, Module, Value, const, i64, vector
from whet.codegen.writing.conversions import register_type
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.codegen.writing.invariant import computed_before
from whet.index import Axis, Poly, ceil_div, product
from whet.kernel.expr import Expr, Guard, Var, Within, walk
from whet.kernel.semantics import identity_of
from whet.kernel.spec import Nest, Step
from whet.target import Target

MAX_UNROLLED_TAPS = 32


def nest_chunks(nest: Nest, lanes: int) -> Poly:
    """Return the number of chunks of a nest."""
    if nest.squares:
        return ceil_div(square_rows(nest, lanes), nest.grain)
    outer = _outer(nest)
    points = product(a.extent for a in outer)
    if nest.block:
        return points * ceil_div(nest.axes[-1].extent, nest.block)
    return ceil_div(points, nest.grain)


def _outer(nest: Nest) -> tuple[Axis, ...]:
    if nest.vector_rows:
        return nest.axes
    return nest.axes[:-2] if nest.tile or nest.interleaved else nest.axes[:-1]


def write_nest(
    module: Module, name: str, nest: Nest, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a nest."""
    fn = open_function(module, name, nest.params, dims, exclusive=True)
    fn.b.flushes = target.bfloat16_dot and bool(nest.steps)
    fn.b.byte_tables = target.byte_tables
    frame = frame_of(fn, nest.params, accesses_of([s.body for s in nest.steps], nest.stores))
    writer = NestWriter(nest, fn, nest_lanes(nest, target))
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(frame, chunk)
    fn.b.finish()


NO_RANGES: Mapping[Axis, tuple[Value, Value]] = MappingProxyType({})


class _Mode(msgspec.Struct, frozen=True):
    """How a point is computed.

    Attributes:
        safe: whether every guard holds, so that none is tested.
        pixels: points next to each other that are computed together.
        ranges: first and last position of taps that are cut short at an edge.
    """

    safe: bool = False
    pixels: int = 1
    ranges: Mapping[Axis, tuple[Value, Value]] = msgspec.field(default_factory=lambda: NO_RANGES)


class NestWriter(msgspec.Struct, frozen=True):
    """Writes the loops of a nest.

    Attributes:
        nest: the nest.
        fn: the function being written.
        width: lanes of a vector.
    """

    nest: Nest
    fn: Function
    width: int

    @property
    def b(self) -> Builder:
        """Where instructions go."""
        return self.fn.b

    def chunk(self, frame: Frame, chunk: Value) -> None:
        """Write the loops over one chunk's points."""
        b, nest = self.b, self.nest
        outer = _outer(nest)
        if nest.squares:
            plain = partial(self.lanes, mode=_Mode())
            SquareWriter(nest, self.fn, self.width, plain).chunk(frame, chunk)
            return
        if nest.block:
            axis = nest.axes[-1]
            extent = frame.scalar_index(axis.extent)
            blocks = frame.scalar_index(ceil_div(axis.extent, nest.block))
            low = b.mul(b.binary("urem", chunk, blocks), i64(nest.block))
            high = b.min(b.add(low, i64(nest.block)), extent)
            self.pixels(bind_flat(frame, outer, b.binary("udiv", chunk, blocks)), low, high)
            return
        points = frame.scalar_index(product(a.extent for a in outer))
        first = b.mul(chunk, i64(nest.grain))
        last = b.min(b.add(first, i64(nest.grain)), points)
        with b.loop(first, last, hint="point") as position:
            self.pixels(bind_flat(frame, outer, position), None, None)

    def pixels(self, frame: Frame, low: Value | None, high: Value | None) -> None:
        """Write the loop over the axis next to the lanes, several of its points together."""
        tile = self.nest.tile
        if self.nest.interleaved:
            InterleaveWriter(self.nest, self.fn, self.width).line(frame)
            return
        if not tile:
            self.point(frame, low, high)
            return
        b, axis = self.b, self.nest.axes[-2]
        extent = frame.scalar_index(axis.extent)
        start = i64(0)
        if tile > 1:
            stop = b.mul(b.binary("udiv", extent, i64(tile)), i64(tile))
            with b.loop(start, stop, tile, hint="tile") as first:
                self._tile(frame, first, low, high)
            start = stop
        with b.loop(start, extent, hint="pixel") as position:
            self.point(frame.bind(axis, position), low, high)

    def _tile(self, frame: Frame, first: Value, low: Value | None, high: Value | None) -> None:
        """Write one tile of points: together inside, one by one near the edge."""
        b, axis, tile = self.b, self.nest.axes[-2], self.nest.tile
        bound = frame.bind(axis, first)
        conditions = self._hoistable()
        if conditions is None:
            self.lanes(bound, low, high, _Mode(pixels=tile))
            return
        last = Point(bound, shift={axis: tile - 1}).holds(conditions)
        inside = b.binary("and", Point(bound).holds(conditions), last)
        yes, no, done = b.label("together"), b.label("alone"), b.label("after")
        b.branch(inside, yes, no)
        b.start(yes)
        self.lanes(bound, low, high, _Mode(safe=True, pixels=tile))
        b.jump(done)
        b.start(no)
        with b.loop(first, b.add(first, i64(tile)), hint="pixel") as position:
            self.point(frame.bind(axis, position), low, high)
        b.jump(done)
        b.start(done)

    def point(self, frame: Frame, low: Value | None, high: Value | None) -> None:
        """Write one point of the outer axes, twice if its guards can be hoisted."""
        conditions = self._hoistable()
        if conditions is None:
            self.lanes(frame, low, high, _Mode())
            return
        b = self.b
        inside = Point(frame).holds(conditions)
        yes, no, done = b.label("in"), b.label("edge"), b.label("after")
        b.branch(inside, yes, no)
        b.start(yes)
        self.lanes(frame, low, high, _Mode(safe=True))
        b.jump(done)
        b.start(no)
        self.lanes(frame, low, high, self._edge_mode(frame))
        b.jump(done)
        b.start(done)

    def _edge_mode(self, frame: Frame) -> _Mode:
        """Return how a point near the edge is computed: with shorter taps if that is the same."""
        nest = self.nest
        taps = dict.fromkeys(a for step in nest.steps for a in step.axes)
        conditions = {c for e in self._expressions() for c in e.conditions}
        if nest.vector_rows or not all(is_neutral(step) for step in nest.steps):
            return _Mode()
        if any(conditions_of(s.body) != conditions for s in nest.steps):
            return _Mode()
        if any(isinstance(e, Guard) for s in nest.stores for e in walk(s.value)):
            return _Mode()
        if not all(moves_one_tap(c, set(taps), set(frame.env)) for c in conditions):
            return _Mode()
        ranges = {tap: tap_range(frame, tap, sorted(conditions, key=repr)) for tap in taps}
        return _Mode(safe=True, ranges=ranges)

    def _hoistable(self) -> tuple[Within, ...] | None:
        """Return conditions on the outer axes under which every guard of the nest holds."""
        guards = [c for e in self._expressions() for c in e.conditions]
        if not guards:
            return None
        outer = set(self.nest.axes if self.nest.vector_rows else self.nest.axes[:-1])
        found: dict[Within, None] = {}
        for condition in guards:
            reached = extremes(condition, outer)
            if reached is None:
                return None
            found |= dict.fromkeys(reached)
        return tuple(found)

    def _expressions(self) -> list[Guard]:
        roots = [*(s.body for s in self.nest.steps), *(s.value for s in self.nest.stores)]
        return [e for root in roots for e in walk(root) if isinstance(e, Guard)]

    def lanes(self, frame: Frame, low: Value | None, high: Value | None, mode: _Mode) -> None:
        """Write steps and stores for one point, lanes along rows or along the last axis."""
        nest = self.nest
        if nest.vector_rows or not nest.axes:
            self._rows(frame, mode.safe)
            return

        def strip(inner: Frame, mask: Value | None, vectors: int) -> None:
            points = [
                Point(inner, nest.axes[-1], self.width, mask, self._shift(k), {}, mode.safe)
                for k in range(mode.pixels)
            ]
            for step in nest.steps:
                totals = self._lane_step(points, step, mode)
                for k, total in enumerate(totals):
                    points[k] = replace(points[k], names={**points[k].names, step.name: total})
            for point in points:
                self._loops(inner, nest.row, partial(self._stores, point))

        strips(frame, nest.axes[-1], self.width, strip, span=(low, high))

    def _shift(self, pixel: int) -> dict[Axis, int]:
        return {self.nest.axes[-2]: pixel} if pixel else {}

    def _stores(self, like: Point, frame: Frame) -> None:
        point = replace(like, frame=frame, memo={})
        for store in self.nest.stores:
            point.store(store)

    def _lane_step(self, points: list[Point], step: Step, mode: _Mode) -> list[Value]:
        """Reduce with one result per lane, for points that lie side by side."""
        b = self.b
        type_ = vector(register_type(step.dtype), self.width)
        totals = [b.alloca(type_) for _ in points]
        for total in totals:
            b.store(const(type_, identity_of(step.op, step.dtype)), total, 64)

        def accumulate(frame: Frame) -> None:
            shared: dict[Expr, Value] = {}
            for point, total in zip(points, totals, strict=True):
                here = replace(point, frame=frame, memo=dict(shared))
                b.store(accumulated(here, step, b.load(type_, total, 64)), total, 64)
                if len(points) > 1 and not shared:
                    shared = _shared(here.memo, self.nest.axes[-2], step)

        self._loops(points[0].frame, step.axes, accumulate, mode.ranges)
        return [b.load(type_, total, 64) for total in totals]

    def _loops(
        self,
        frame: Frame,
        axes: tuple[Axis, ...],
        body: Callable[[Frame], None],
        ranges: Mapping[Axis, tuple[Value, Value]] = NO_RANGES,
    ) -> None:
        """Loop over axes, unrolled if there are few points, over part of them if given ranges."""
        if not axes:
            body(frame)
            return
        axis, rest = axes[0], axes[1:]
        if axis in ranges:
            low, high = ranges[axis]
        else:
            low, high = i64(0), frame.scalar_index(axis.extent)
            count = product(a.extent for a in axes).constant
            if count is not None and count <= MAX_UNROLLED_TAPS and not ranges:
                for k in range(axis.extent.constant or 0):
                    self._loops(frame.bind(axis, i64(k)), rest, body)
                return
        with self.b.loop(low, high) as value:
            self._loops(frame.bind(axis, value), rest, body, ranges)

    # -- lanes along rows --------------------------------------------------------------------

    def _rows(self, frame: Frame, safe: bool) -> None:
        names: dict[str, Value] = {}
        for step in self.nest.steps:
            outside = Point(frame, names=names, safe=safe)
            names[step.name] = reduce_row(outside, step, self.width, self._loops)
        row, alone = self.nest.row, Point(frame, names=names, safe=safe)
        if not row:
            self._stores(alone, frame)
            return
        known = computed_before(alone, [store.value for store in self.nest.stores])

        def strip(inner: Frame, mask: Value | None, vectors: int) -> None:
            for k in range(vectors):
                shift, memo = {row[-1]: k * self.width}, dict(known)
                point = Point(inner, row[-1], self.width, mask, shift, names, safe, memo=memo)
                for store in self.nest.stores:
                    point.store(store)

        self._loops(frame, row[:-1], lambda f: strips(f, row[-1], self.width, strip, unroll=2))


def _shared(memo: dict[Expr, Value], axis: Axis, step: Step) -> dict[Expr, Value]:
    """Return the values that are the same all along an axis."""
    names = any(isinstance(e, Var) for e in walk(step.body))
    return {} if names else {e: v for e, v in memo.items() if not e.depends_on(axis)}
