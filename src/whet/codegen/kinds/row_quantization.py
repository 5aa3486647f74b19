"""Rows in blocks: 32 values at a time become 8-bit integers, their scale and their sums."""

from __future__ import annotations

import msgspec

from whet.codegen.kinds.kernel_function import Function, accesses_of, frame_of, open_function
from whet.codegen.kinds.row_group import RowGroup
from whet.codegen.kinds.row_reduction import reduce_row
from whet.codegen.writing.builder import Builder, Module, Value, i64
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.codegen.writing.invariant import computed_before
from whet.index import Poly
from whet.kernel.block_formats import GROUP
from whet.kernel.blocks import RowQuantization
from whet.target import Target


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
    roots = [kernel.x, *(step.body for step in kernel.steps)]
    frame = frame_of(fn, kernel.params, accesses_of(roots, ()))
    group = RowGroup(fn.b, target.lanes, kernel.zero, kernel.spans)
    writer = _Writer(kernel, fn, group, target.lanes)
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(frame, chunk)
    fn.b.finish()


class _Writer(msgspec.Struct, frozen=True):
    """Writes the function; ``lanes`` reduce rows before their groups become codes."""

    kernel: RowQuantization
    fn: Function
    group: RowGroup
    lanes: int

    @property
    def b(self) -> Builder:
        return self.fn.b

    def chunk(self, frame: Frame, number: Value) -> None:
        """Write the loop over some groups of a row."""
        b, kernel = self.b, self.kernel
        row, part = b.divide(number, _parts(kernel))
        first = b.mul(part, i64(kernel.groups))
        last = b.min(b.add(first, i64(kernel.groups)), i64(_groups(kernel)))
        frame = frame.bind(kernel.row, row)
        before = self._reduced_row(frame)
        with b.loop(first, last, hint="group") as group:
            whole = self.fn.params[kernel.output]
            output = self.group.place(whole, row, (group, _groups(kernel)))
            self._group(frame.bind(kernel.depth, b.mul(group, i64(GROUP))), before, output)

    def _reduced_row(self, frame: Frame) -> Point:
        """Write the reductions of a row; return what the values of its groups may use."""
        names: dict[str, Value] = {}
        for step in self.kernel.steps:
            assert len(step.axes) == 1, "a row is reduced along itself"
            outside = Point(frame, names=dict(names))
            names[step.name] = reduce_row(outside, step, self.lanes, lambda f, _, body: body(f))
        before = Point(frame, names=names)
        computed_before(before, [self.kernel.x])
        return before

    def _group(self, frame: Frame, before: Point, output: Value) -> None:
        width = self.group.width
        values = []
        for at in range(0, GROUP, width):
            point = Point(
                frame,
                self.kernel.depth,
                width,
                shift={self.kernel.depth: at},
                names=before.names,
                memo=dict(before.memo),
            )
            values.append(point.value(self.kernel.x))
        self.group.write(values, output)
