"""Shapes that depend on data, computed as small integer tensors whose values become dimensions.

What ONNX writes as 0, -1, negative positions or numbers of axes is resolved here by ordinary
equations, so that native code computes it; what the run then reads are plain sizes.
"""

from __future__ import annotations

from collections.abc import Sequence

from whet.index import ONE, Poly, as_poly, product
from whet.kernel.expr import Const, Expr, IndexValue
from whet.kernel.tensor import Tensor
from whet.ops.build import binary, cast, compare, select
from whet.ops.late import vector
from whet.ops.node import Node
from whet.ops.operand import attribute_flag, number
from whet.ops.shape_values import LIMIT, partly_known

Shape = tuple[Poly, ...]


def index_number(p: Poly) -> Expr:
    """Return an index as an int64 expression."""
    return number(p, "int64")


def elements_of(node: Node, tensor: Tensor) -> list[Expr]:
    """Return the elements of a small integer tensor as int64 expressions.

    Raises:
        UnsupportedError: its size depends on the run.
    """
    if tensor.rank > 1 or tensor.size.constant is None:
        raise node.depends_on_data(tensor.name)
    if tensor.size.constant > LIMIT:
        raise node.error(f"{tensor.name} has {tensor.size} elements, more than any rank")
    known = partly_known(tensor)
    places: list[Shape] = [(as_poly(k),) if tensor.rank else () for k in range(len(known))]
    return [
        index_number(p) if p is not None else cast(tensor.at(*place), "int64")
        for p, place in zip(known, places, strict=True)
    ]


def sizes_from(node: Node, name: str, sizes: Sequence[Expr]) -> Shape:
    """Return expressions as sizes: those that depend on data become dimensions."""
    if not sizes:
        return ()
    return node.sizes_of(vector(f"{node.name}.{name}", sizes, (node.name,), (node.op,)))


def total(values: Sequence[Expr], op: str, start: int) -> Expr:
    """Return values combined from the left."""
    found: Expr = Const(start, "int64")
    for value in values:
        found = binary(op, found, value)
    return found


def larger(a: Expr, b: Expr | int) -> Expr:
    """Return the larger of two numbers."""
    return binary("max", a, b)


# -- Reshape and Expand ----------------------------------------------------------------------------


def reshape_target(node: Node, x: Tensor, target: Tensor) -> Shape:
    """Return the shape that a Reshape asks for: 0 copies a dimension, -1 takes what is left."""
    raw = elements_of(node, target)
    known = partly_known(target)
    copies = not attribute_flag(node, "allowzero")
    asked = []
    for k, size in enumerate(raw):
        own = index_number(x.shape[k]) if k < x.rank else Const(0, "int64")
        asked.append(select(compare("eq", size, 0), own, size) if copies else size)
    given = total([select(compare("eq", s, -1), Const(1, "int64"), s) for s in asked], "mul", 1)
    rest = binary("div", index_number(x.size), larger(given, 1))
    resolved = [select(compare("eq", s, -1), rest, s) for s in asked]
    open_ = [k for k, p in enumerate(known) if p is None or p == -1]
    dims = dict(zip(open_, sizes_from(node, "shape", [resolved[k] for k in open_]), strict=True))
    shape: list[Poly] = []
    for k, p in enumerate(known):
        if p is None or p == -1:
            shape.append(dims[k])
        else:
            shape.append(x.shape[k] if p == 0 and copies and k < x.rank else p)
    node.agree(product(shape), x.size)
    return tuple(shape)


def expand_target(node: Node, x: Tensor, target: Tensor) -> tuple[Shape, Shape]:
    """Return the shape that an Expand asks for, and by what its positions repeat in ``x``."""
    raw = elements_of(node, target)
    rank = max(x.rank, len(raw))
    own = [ONE] * (rank - x.rank) + list(x.shape)
    asked = [Const(1, "int64")] * (rank - len(raw)) + raw
    wide = [
        select(compare("eq", w, 1), index_number(e), w) for w, e in zip(asked, own, strict=True)
    ]
    shape = sizes_from(node, "shape", wide)
    for size, extent in zip(shape, own, strict=True):
        if extent != 1:
            node.agree((size - extent) * (extent - 1), as_poly(0))
    return shape, tuple(own[rank - x.rank :])


# -- axes ------------------------------------------------------------------------------------------


def axis_flags(node: Node, axes: Tensor, rank: int) -> list[Expr]:
    """Return for every dimension whether a tensor of axes names it."""
    named = [
        select(compare("lt", a, 0), binary("add", a, rank), a) for a in elements_of(node, axes)
    ]
    flags: list[Expr] = []
    for k in range(rank):
        here: Expr = Const(False, "bool")
        for axis in named:
            here = binary("or", here, compare("eq", axis, k))
        flags.append(here)
    return flags


def kept_and_reduced(node: Node, x: Tensor, axes: Tensor) -> tuple[Shape, Shape]:
    """Return for every dimension what is left of it and what is reduced; one of them is 1."""
    flags = axis_flags(node, axes, x.rank)
    one = Const(1, "int64")
    extents = [index_number(e) for e in x.shape]
    kept = [select(f, one, e) for f, e in zip(flags, extents, strict=True)]
    gone = [select(f, e, one) for f, e in zip(flags, extents, strict=True)]
    return sizes_from(node, "kept", kept), sizes_from(node, "reduced", gone)


def squeezed(node: Node, shape: Shape, axes: Tensor) -> Shape:
    """Return a shape without the dimensions that a tensor of axes names."""
    flags = axis_flags(node, axes, len(shape))
    rank = len(shape) - (axes.size.constant or 0)
    found: list[Expr] = []
    before: Expr = Const(0, "int64")
    places: list[Expr] = []
    for flag in flags:
        places.append(select(flag, Const(-1, "int64"), before))
        before = binary("add", before, cast(compare("eq", cast(flag, "int64"), 0), "int64"))
    for j in range(max(rank, 0)):
        chosen = [
            select(compare("eq", place, j), index_number(e), Const(0, "int64"))
            for place, e in zip(places, shape, strict=True)
        ]
        found.append(total(chosen, "add", 0))
    return sizes_from(node, "shape", found)


def unsqueezed(node: Node, shape: Shape, axes: Tensor) -> Shape:
    """Return a shape with dimensions of 1 where a tensor of axes says."""
    rank = len(shape) + (axes.size.constant or 0)
    flags = axis_flags(node, axes, rank)
    found: list[Expr] = []
    place: Expr = Const(0, "int64")
    for flag in flags:
        chosen = [
            select(compare("eq", place, k), index_number(e), Const(0, "int64"))
            for k, e in enumerate(shape)
        ]
        found.append(select(flag, Const(1, "int64"), total(chosen, "add", 0)))
        place = binary("add", place, cast(compare("eq", cast(flag, "int64"), 0), "int64"))
    return sizes_from(node, "shape", found)


def around_axis(node: Node, x: Tensor, axis: Tensor) -> Shape:
    """Return sizes before, along and after an axis whose number depends on data."""
    three = sizes_around(axis_flags(node, axis, x.rank), x.shape)
    shape = sizes_from(node, "around", three)
    node.agree(product(shape), x.size)
    return shape


def sizes_around(flags: Sequence[Expr], shape: Shape) -> list[Expr]:
    """Return the number of elements before, along and after the dimension whose flag is set."""
    one = Const(1, "int64")
    before, along, after = [], [], []
    passed: Expr = Const(False, "bool")
    for flag, extent in zip(flags, shape, strict=True):
        size = index_number(extent)
        along.append(select(flag, size, one))
        after.append(select(passed, size, one))
        passed = binary("or", passed, flag)
        before.append(select(passed, one, size))
    return [total(values, "mul", 1) for values in (before, along, after)]


# -- Slice, Pad, Range -----------------------------------------------------------------------------


def slice_of(start: Expr, end: Expr, step: Expr, extent: Poly) -> tuple[Expr, Expr]:
    """Return the first position and the number of positions of a slice of one dimension."""
    n = index_number(extent)
    forward = compare("gt", step, 0)
    zero, one = Const(0, "int64"), Const(1, "int64")
    low = select(forward, zero, Const(-1, "int64"))
    high = select(forward, n, binary("sub", n, one))

    def limited(position: Expr) -> Expr:
        front = select(compare("lt", position, 0), binary("add", position, n), position)
        return binary("min", larger(front, low), high)

    first, last = limited(start), limited(end)
    return first, slice_count(binary("sub", last, first), step)


def slice_count(distance: Expr, step: Expr) -> Expr:
    """Return how many steps start before a distance is covered; none if it lies behind."""
    forward = compare("gt", step, 0)
    stride = binary("max", select(forward, step, unary_minus(step)), 1)
    ahead = larger(select(forward, distance, unary_minus(distance)), 0)
    return binary("div", binary("add", ahead, binary("sub", stride, 1)), stride)


def unary_minus(x: Expr) -> Expr:
    """Return a negated int64."""
    return binary("sub", Const(0, "int64"), x)


def known_number(expr: Expr) -> Poly | None:
    """Return an int64 expression as an index, if it is one."""
    if isinstance(expr, IndexValue):
        return expr.index
    return as_poly(int(expr.value)) if isinstance(expr, Const) else None
