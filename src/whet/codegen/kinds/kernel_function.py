"""What every kernel function shares: signature, dimensions, chunk loops, vector strips."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from whet.codegen.writing.builder import I1, I64, PTR, Builder, Module, Value, const, i64, vector
from whet.codegen.writing.frame import Access, Frame, root_frame
from whet.index import Axis, Opaque
from whet.kernel.expr import Expr, Read, Within, all_atoms, walk
from whet.kernel.spec import Param, Store


class Function(msgspec.Struct, frozen=True):
    """A kernel function being written.

    Attributes:
        b: where instructions go.
        params: pointer parameters.
        dims: the program's run-time dimensions.
        scratch: memory of the thread.
        begin: the first chunk.
        end: the one behind the last.
        again: not 0 if the thread did other chunks of this launch just before: its scratch memory
            holds what they left.
    """

    b: Builder
    params: list[Value]
    dims: dict[str, Value]
    scratch: Value
    begin: Value
    end: Value
    again: Value


def open_function(
    module: Module, name: str, params: tuple[Param, ...], dims: tuple[str, ...], *, exclusive: bool
) -> Function:
    """Start a kernel function with the signature that launches use.

    Args:
        module: receives the function.
        name: symbol.
        params: pointer parameters.
        dims: names of the program's run-time dimensions in table order.
        exclusive: whether no two parameters overlap in memory.
    """
    alias = "ptr noalias" if exclusive else "ptr"
    names = [(alias, f"p{k}") for k in range(len(params))]
    tail = [(PTR, "dims"), ("ptr noalias", "scratch")]
    chunks = [(I64, n) for n in ("begin", "end", "again")]
    b = Builder(module, name, [*names, *tail, *chunks])
    count = len(params)
    table = b.param(count)
    values = {d: b.load(I64, b.gep(table, I64, k), 8) for k, d in enumerate(dims)}
    return Function(
        b,
        [b.param(k) for k in range(count)],
        values,
        b.param(count + 1),
        b.param(count + 2),
        b.param(count + 3),
        b.param(count + 4),
    )


def accesses_of(exprs: Iterable[Expr], stores: Iterable[Store]) -> list[Access]:
    """List every distinct memory access, in order of appearance."""
    found: dict[Access, None] = {}
    for store in stores:
        found[(store.param, store.address)] = None
        for atom in all_atoms(store.address):
            if isinstance(atom, Opaque):
                _collect(atom.expr, found)
        _collect(store.value, found)
    for expr in exprs:
        _collect(expr, found)
    return list(found)


def _collect(expr: Expr, found: dict[Access, None]) -> None:
    for e in walk(expr):
        if isinstance(e, Read):
            found[(e.param, e.address)] = None


def frame_of(fn: Function, params: tuple[Param, ...], accesses: list[Access]) -> Frame:
    """Return the frame outside all loops."""
    dtypes = tuple(p.dtype for p in params)
    return root_frame(fn.b, fn.params, dtypes, accesses, fn.dims)


def bind_flat(frame: Frame, axes: tuple[Axis, ...], position: Value) -> Frame:
    """Bind several axes from one flat position, the last axis running fastest."""
    for axis in reversed(axes[1:]):
        extent = frame.scalar_index(axis.extent)
        frame_value = frame.b.binary("urem", position, extent)
        position = frame.b.binary("udiv", position, extent)
        frame = frame.bind(axis, frame_value)
    return frame.bind(axes[0], position) if axes else frame


Body = Callable[[Frame, Value | None, int], None]
Span = tuple[Value | None, Value | None]


def strips(
    frame: Frame,
    axis: Axis,
    width: int,
    body: Body,
    *,
    span: Span = (None, None),
    unroll: int = 1,
) -> None:
    """Run ``body(frame, mask, vectors)`` over an axis in vectors; the last may be masked.

    ``vectors`` full vectors start at the bound position (``unroll`` or one); with a mask it is one
    vector of which only some lanes exist. ``span`` is the first position and the one behind the
    last, ``None`` for the ends of the axis.
    """
    b = frame.b
    start = span[0] or i64(0)
    stop = span[1] or frame.scalar_index(axis.extent)
    if start.known is not None and stop.known is not None:
        _static_strips(frame, axis, width, body, (start.known, stop.known), unroll)
        return
    length = b.binary("sub nsw", stop, start)
    full = b.add(start, b.binary("and", length, i64(-width)))
    with b.loop(start, full, width) as v:
        body(frame.bind(axis, v), None, 1)
    if width > 1:
        with b.when(b.icmp("slt", full, stop)):
            remaining = b.binary("sub nsw", stop, full)
            body(frame.bind(axis, full), lane_mask(b, remaining, width), 1)


def _static_strips(
    frame: Frame,
    axis: Axis,
    width: int,
    body: Body,
    span: tuple[int, int],
    unroll: int,
) -> None:
    b = frame.b
    start, stop = span
    for count in (unroll, 1) if unroll > 1 else (1,):
        step = width * count
        end = start + (stop - start) // step * step
        if end - start == step:
            body(frame.bind(axis, i64(start)), None, count)
        elif end > start:
            with b.loop(i64(start), i64(end), step) as v:
                body(frame.bind(axis, v), None, count)
        start = end
    if start < stop:
        body(frame.bind(axis, i64(start)), lane_mask(b, i64(stop - start), width), 1)


def lane_mask(b: Builder, count: Value, width: int) -> Value:
    """Return a mask whose first ``count`` lanes are set."""
    if count.known is not None:
        bits = ", ".join(f"i1 {'true' if k < count.known else 'false'}" for k in range(width))
        return Value(f"<{bits}>", vector(I1, width)) if width > 1 else const(I1, count.known > 0)
    narrow = b.op(f"trunc {count} to i32", "i32")
    items = ", ".join(f"i32 {k}" for k in range(width))
    iota = Value(f"<{items}>", vector("i32", width))
    return b.icmp("slt", iota, b.splat(narrow, width))


def tap_range(frame: Frame, tap: Axis, conditions: Iterable[Within]) -> tuple[Value, Value]:
    """Return a tap's first position and the one after its last at which all conditions hold.

    Conditions on other taps are passed over; the tap moves forwards in those on it.
    """
    b = frame.b
    low, high = i64(0), frame.scalar_index(tap.extent)
    for condition in conditions:
        if tap not in condition.index.atoms:
            continue
        slope = condition.index.coefficient(tap).constant
        assert slope is not None and slope > 0, "taps advance forwards"
        start = frame.scalar_index(condition.index.substitute({tap: 0}))
        before = b.binary("sub nsw", i64(slope - 1), start)
        low = b.max(low, b.binary("sdiv", b.max(before, i64(0)), i64(slope)))
        extent = frame.scalar_index(condition.extent)
        room = b.add(b.binary("sub nsw", extent, start), i64(slope - 1))
        high = b.min(high, b.binary("sdiv", b.max(room, i64(0)), i64(slope)))
    return low, high
