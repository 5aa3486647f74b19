"""Nests whose result has a few values side by side, each from a plane of its own.

So an image with channels first becomes one with channels last. Lanes run along a line of pixels;
the vectors of all channels are interleaved in registers. Storing each where it belongs would
take a store for every element.
"""

from __future__ import annotations

from functools import partial

import msgspec

from whet.codegen.kinds.kernel_function import Function
from whet.codegen.writing.builder import Builder, Value, i64, lanes
from whet.codegen.writing.conversions import storage_type, to_storage
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.index import Axis
from whet.kernel.expr import Guard, Read, Within, walk
from whet.kernel.spec import Nest


def interleave(b: Builder, vectors: list[Value]) -> list[Value]:
    """Return vectors of one type such that element ``k`` of each follow each other."""
    count, width = len(vectors), lanes(vectors[0].type)
    result = []
    for first in range(0, count * width, width):
        places = [divmod(first + k, count) for k in range(width)]
        spread = [b.shuffle(v, [element for element, _ in places]) for v in vectors]
        line = spread[0]
        for number, other in enumerate(spread[1:], 1):
            own = [k + width * (which == number) for k, (_, which) in enumerate(places)]
            line = b.blend(line, other, own)
        result.append(line)
    return result


class InterleaveWriter(msgspec.Struct, frozen=True):
    """Writes lines of interleaved values.

    Attributes:
        nest: its last axes are the values side by side and the lanes.
        fn: the function being written.
        width: lanes of a vector.
    """

    nest: Nest
    fn: Function
    width: int

    @property
    def _axes(self) -> tuple[Axis, Axis]:
        return self.nest.axes[-2], self.nest.axes[-1]

    @property
    def _count(self) -> int:
        count = self._axes[0].extent.constant
        assert count is not None, "the values side by side are few and known"
        return count

    def line(self, frame: Frame) -> None:
        """Write all lanes at one point of the other axes, the last few of them perhaps twice."""
        b, (across, along) = self.fn.b, self._axes
        extent = along.extent.constant
        assert extent is not None and extent >= self.width, "the line is of known length"
        first, whole = frame.bind(across, i64(0)), extent // self.width * self.width
        with b.loop(i64(0), i64(whole), self.width, hint="pixels") as place:
            self._vectors(first.bind(along, place))
        if whole < extent:
            self._vectors(first.bind(along, i64(extent - self.width)))

    def _vectors(self, frame: Frame) -> None:
        """Write a vector of pixels; guards are tested only where one of them may fail."""
        inside = self._inside(frame)
        if inside is None:
            self._store(frame, safe=True)
            return
        self.fn.b.either(
            inside, partial(self._store, frame, safe=True), partial(self._store, frame, safe=False)
        )

    def _inside(self, frame: Frame) -> Value | None:
        """Return whether all guards hold in all of the vectors, ``None`` without guards."""
        across, along = self._axes
        conditions: dict[Within, None] = {}
        for e in walk(self.nest.stores[0].value):
            if isinstance(e, Guard):
                conditions |= dict.fromkeys(e.conditions)
        if not conditions:
            return None
        last = {across: self._count - 1, along: self.width - 1}
        ends = (Point(frame, shift=s).holds(tuple(conditions)) for s in ({}, last))
        return self.fn.b.binary("and", *ends)

    def _store(self, frame: Frame, *, safe: bool) -> None:
        b, (across, along) = self.fn.b, self._axes
        (store,) = self.nest.stores
        dtype = self.nest.params[store.param].dtype
        found = [
            Point(frame, along, self.width, shift={across: k}, safe=safe).value(store.value)
            for k in range(self._count)
        ]
        place = Point(frame).pointer(Read(store.param, store.address, dtype))
        for k, line in enumerate(interleave(b, [to_storage(b, v, dtype) for v in found])):
            b.store(line, b.gep(place, storage_type(dtype), k * self.width))
