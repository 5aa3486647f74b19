"""Reductions of a row: lanes along it, several sums at once, combined in one order at the end."""

from __future__ import annotations

from collections.abc import Callable

from whet.codegen.kinds.kernel_function import strips
from whet.codegen.writing.builder import Builder, Value, const, element, lanes, vector
from whet.codegen.writing.conversions import register_type
from whet.codegen.writing.evaluate import Point
from whet.codegen.writing.frame import Frame
from whet.codegen.writing.invariant import computed_before
from whet.codegen.writing.operations import combine
from whet.index import Axis
from whet.kernel.expr import Call
from whet.kernel.semantics import identity_of
from whet.kernel.spec import Step

ROW_UNROLL = 4

Loops = Callable[[Frame, tuple[Axis, ...], Callable[[Frame], None]], None]
"""Writes loops over some axes around a body."""


def reduce_row(outside: Point, step: Step, width: int, loops: Loops) -> Value:
    """Reduce along lanes, with several accumulators, to one scalar.

    Args:
        outside: the row, and the results of earlier steps; no lanes.
        step: the reduction.
        width: number of lanes.
        loops: writes the loops over all axes of the step but the last.
    """
    b, frame = outside.b, outside.frame
    names, safe = outside.names, outside.safe
    if not step.axes:
        alone = const(register_type(step.dtype), identity_of(step.op, step.dtype))
        return accumulated(outside, step, alone)
    known = computed_before(outside, [step.body])
    type_ = vector(register_type(step.dtype), width)
    neutral = const(type_, identity_of(step.op, step.dtype))
    totals = [b.alloca(type_) for _ in range(ROW_UNROLL)]
    for total in totals:
        b.store(neutral, total, 64)

    def strip(inner: Frame, mask: Value | None, vectors: int) -> None:
        for k in range(vectors):
            shift, memo = {step.axes[-1]: k * width}, dict(known)
            here = Point(inner, step.axes[-1], width, mask, shift, names, safe, memo=memo)
            before = b.load(type_, totals[k], 64)
            after = accumulated(here, step, before)
            if mask is not None:
                after = b.select(mask, after, before)
            b.store(after, totals[k], 64)

    last = step.axes[-1]
    loops(frame, step.axes[:-1], lambda f: strips(f, last, width, strip, unroll=ROW_UNROLL))
    values = [b.load(type_, total, 64) for total in totals]
    while len(values) > 1:
        values = [
            combine(b, step.op, x, y, step.dtype)
            for x, y in zip(values[::2], values[1::2], strict=True)
        ]
    return horizontal(b, step.op, values[0], step.dtype)


def accumulated(point: Point, step: Step, total: Value) -> Value:
    """Add one more element; a sum of products is one fused multiply-add."""
    b, body = point.b, step.body
    is_product = isinstance(body, Call) and body.op == "mul" and step.op == "sum"
    if is_product and element(total.type) in ("float", "double"):
        assert isinstance(body, Call)
        return b.fma(point.value(body.args[0]), point.value(body.args[1]), total)
    return combine(b, step.op, total, point.value(body), step.dtype)


def horizontal(b: Builder, op: str, value: Value, dtype: str) -> Value:
    """Combine all lanes by halves; the order is the same for every run."""
    count = lanes(value.type)
    while count > 1:
        half = count // 2
        low = b.shuffle(value, list(range(half)))
        high = b.shuffle(value, list(range(half, count)))
        if half == 1:
            low, high = b.extract(value, 0), b.extract(value, 1)
        value = combine(b, op, low, high, dtype)
        count = half
    return value
