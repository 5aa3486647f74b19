"""Operators that keep some elements: how many, only data can tell.

Two kernels each: a sum counts what is kept, which becomes the extent of the result when the model
runs, then a filter writes the positions, and values are looked up there.
"""

from __future__ import annotations

from collections.abc import Callable

from whet.index import Axis, Poly, as_poly, var
from whet.kernel.expr import Expr, IndexValue, Var, Within, guard, index_of
from whet.kernel.filter import Kept
from whet.kernel.spec import Step
from whet.kernel.tensor import Definition, Steps, Tensor, axes_for
from whet.ops.build import cast, compare, const
from whet.ops.node import Node, Op, normalise_axis
from whet.ops.views import strides_of

Condition = Callable[[Poly], Expr]


def count_of(node: Node, suffix: str, keep: Condition, extent: Poly) -> Tensor:
    """Return how many of some elements are kept, as an int64 scalar."""
    along = Axis("r", extent)
    one = cast(keep(var(along)), "int64")
    step = Step("total", "sum", (along,), one, "int64")
    body = Var("total", "int64")
    return node.temporary(suffix, (), "int64", Definition((), body, Steps((step,))))


def positions_of(node: Node, suffix: str, keep: Condition, extent: Poly, count: Poly) -> Tensor:
    """Return the positions of the first ``count`` elements that are kept."""
    (rank,) = axes_for((count,))
    along, other = Axis("r", extent), Axis("s", extent)
    anchor = Kept(along, keep(var(along)), rank, other)
    definition = Definition((rank,), const(0, "int64"), anchor)
    return node.temporary(suffix, (count,), "int64", definition)


def kept_positions(node: Node, keep: Condition, extent: Poly) -> Tensor:
    """Return the positions of all elements that are kept, as many as the data say."""
    (count,) = node.sizes_of(count_of(node, "count", keep, extent))
    return positions_of(node, "positions", keep, extent, count)


def unravelled(flat: Poly, shape: tuple[Poly, ...]) -> tuple[Poly, ...]:
    """Return the index of an element given by its number in row-major order."""
    parts = zip(strides_of(shape), shape, strict=True)
    return tuple(flat // stride % extent for stride, extent in parts)


def _non_zero(node: Node) -> list[Tensor]:
    x = node.input(0)

    def keep(flat: Poly) -> Expr:
        found = x.at(*unravelled(flat, x.shape))
        return found if x.dtype == "bool" else compare("ne", found, 0)

    positions = kept_positions(node, keep, x.size)
    shape = (as_poly(x.rank), positions.shape[0])
    axes = axes_for(shape)
    flat = index_of(positions.at(var(axes[1])), 0, x.size)
    body: Expr = const(0, "int64")
    for k, place in enumerate(unravelled(flat, x.shape)):
        row = Within(var(axes[0]) - k, as_poly(1))
        body = guard((row,), IndexValue(place, "int64"), body)
    return [node.define(shape, "int64", Definition(axes, body))]


def _compress(node: Node) -> list[Tensor]:
    x, condition = node.input(0), node.input(1)
    if condition.rank != 1:
        raise node.error(f"the condition has rank {condition.rank}")
    axis = node.attribute("axis")
    k = None if axis is None else normalise_axis(node, int(axis), x.rank)
    extent = x.size if k is None else x.shape[k]

    def keep(index: Poly) -> Expr:
        return guard((Within(index, extent),), condition.at(index), const(False, "bool"))

    positions = kept_positions(node, keep, condition.shape[0])
    count = positions.shape[0]
    shape = (count,) if k is None else (*x.shape[:k], count, *x.shape[k + 1 :])
    axes = axes_for(shape)
    index = [var(a) for a in axes]
    found = index_of(positions.at(index[k or 0]), 0, extent)
    if k is None:
        index = list(unravelled(found, x.shape))
    else:
        index[k] = found
    return [node.define(shape, x.dtype, Definition(axes, x.at(*index)))]


OPS: tuple[Op, ...] = (Op("NonZero", _non_zero), Op("Compress", _compress))
