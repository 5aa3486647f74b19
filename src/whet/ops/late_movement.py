"""Slices and paddings whose bounds depend on data.

Where a slice begins is read where it is copied; how much is copied is a size that the script reads.
"""

from __future__ import annotations

from whet.index import var
from whet.kernel.expr import Const, Expr, Within, guard, index_of
from whet.kernel.tensor import Definition, Tensor, axes_for
from whet.ops.build import binary, compare, const, select
from whet.ops.late import vector
from whet.ops.late_shapes import elements_of, index_number, known_number, sizes_from, slice_of
from whet.ops.node import Node, known_values, normalise_axis
from whet.ops.operand import operand
from whet.words import counted

LAST = (1 << 63) - 1


def late_slice(node: Node, x: Tensor) -> Tensor:
    """Return a slice whose bounds, axes or steps depend on data.

    Its positions lie inside by their making, so that nothing has to be guarded.
    """
    given = node.optional(4)
    starts, ends = elements_of(node, node.input(1)), elements_of(node, node.input(2))
    unit: list[Expr] = [const(1, "int64")] * len(starts)
    steps = elements_of(node, given) if given is not None else unit
    if not len(starts) == len(ends) == len(steps):
        raise node.error("starts, ends and steps do not go together")
    axes, (starts, ends, steps) = _by_axis(node, x.rank, [(starts, 0), (ends, LAST), (steps, 1)])
    parts = [
        slice_of(start, end, step, x.shape[k])
        for start, end, step, k in zip(starts, ends, steps, axes, strict=True)
    ]
    counts = sizes_from(node, "counts", [count for _, count in parts])
    origin = (node.name,), (node.op,)
    firsts = vector(f"{node.name}.firsts", [first for first, _ in parts], *origin)
    strides = vector(f"{node.name}.steps", steps, *origin)
    shape = list(x.shape)
    for k, count in zip(axes, counts, strict=True):
        shape[k] = count
    points = axes_for(tuple(shape))
    index = [var(a) for a in points]
    for j, k in enumerate(axes):
        step = known_number(steps[j])
        stride = step if step is not None else index_of(strides.at(j), None, None)
        index[k] = index_of(firsts.at(j), 0, x.shape[k]) + index[k] * stride
    return node.define(tuple(shape), x.dtype, Definition(points, x.at(*index)))


def late_pad(node: Node, x: Tensor) -> Tensor:
    """Pad with a constant, by amounts that are read where the result is made; some may be < 0."""
    pads = elements_of(node, node.input(1))
    half = len(pads) // 2
    axes, (lows, highs) = _by_axis(node, x.rank, [(pads[:half], 0), (pads[half:], 0)])
    sums = [
        binary("add", binary("add", low, high), index_number(x.shape[k]))
        for low, high, k in zip(lows, highs, axes, strict=True)
    ]
    sizes = sizes_from(node, "shape", sums)
    before = vector(f"{node.name}.lows", lows, (node.name,), (node.op,))
    shape = list(x.shape)
    for k, size in zip(axes, sizes, strict=True):
        shape[k] = size
    points = axes_for(tuple(shape))
    index = [var(a) for a in points]
    for j, k in enumerate(axes):
        index[k] = index[k] - index_of(before.at(j), None, None)
    conditions = tuple(Within(index[k], x.shape[k]) for k in axes)
    value = node.optional(2)
    fill = const(0, x.dtype) if value is None else operand(value, ())
    body = guard(conditions, x.at(*index), fill)
    return node.define(tuple(shape), x.dtype, Definition(points, body))


def _by_axis(
    node: Node, rank: int, columns: list[tuple[list[Expr], int]]
) -> tuple[list[int], list[list[Expr]]]:
    """Return dimensions and, for each, its values; all dimensions if input 3 depends on data.

    Args:
        node: the node; its input 3 names the dimensions that values are for.
        rank: how many dimensions there are.
        columns: values in the order of input 3, and what stands where no value is given.
    """
    given = node.optional(3)
    count = len(columns[0][0])
    known = None if given is None else known_values(given)
    if given is None or known is not None:
        named = range(count) if known is None else [p.constant or 0 for p in known]
        axes = [normalise_axis(node, a, rank) for a in named]
        if any(len(values) != len(axes) for values, _ in columns):
            raise node.error(f"values for {counted(len(axes), 'dimension')} are not as many")
        return axes, [values for values, _ in columns]
    places = [
        select(compare("lt", a, 0), binary("add", a, rank), a) for a in elements_of(node, given)
    ]
    if any(len(values) != len(places) for values, _ in columns):
        raise node.error(f"values for {counted(len(places), 'dimension')} are not as many")
    spread: list[list[Expr]] = []
    for values, missing in columns:
        found: list[Expr] = []
        for k in range(rank):
            value: Expr = Const(missing, "int64")
            for place, named_value in zip(places, values, strict=True):
                value = select(compare("eq", place, k), named_value, value)
            found.append(value)
        spread.append(found)
    return list(range(rank)), spread
