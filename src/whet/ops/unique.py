"""Unique: sort, find where a new value begins, count what comes between.

The sort keeps equal elements in order, so that a group's first element is its first occurrence.
"""

from __future__ import annotations

import msgspec

from whet.index import Axis, Poly, product, var
from whet.kernel.expr import Expr, IndexValue, Var, Within, guard, index_of
from whet.kernel.scan import Prefix
from whet.kernel.scatter import Updates
from whet.kernel.sort import Sorted
from whet.kernel.spec import ACCUMULATOR, Step
from whet.kernel.tensor import Definition, Steps, Tensor, axes_for
from whet.ops.build import binary, cast, compare, const
from whet.ops.node import Node, Op, normalise_axis
from whet.ops.operand import attribute_flag, number
from whet.ops.selection import count_of, positions_of, unravelled


class _Items(msgspec.Struct, frozen=True):
    """What is compared: the elements of a tensor, or its slices along an axis.

    Attributes:
        x: the tensor.
        axis: along which slices are taken; ``None`` for elements.
    """

    x: Tensor
    axis: int | None

    @property
    def count(self) -> Poly:
        """How many there are."""
        return self.x.size if self.axis is None else self.x.shape[self.axis]

    @property
    def rest(self) -> tuple[Poly, ...]:
        """The shape of a slice."""
        if self.axis is None:
            return ()
        return (*self.x.shape[: self.axis], *self.x.shape[self.axis + 1 :])

    def part(self, item: Poly, inner: tuple[Poly, ...]) -> Expr:
        """Return an element of an item."""
        if self.axis is None:
            return self.x.at(*unravelled(item, self.x.shape))
        return self.x.at(*inner[: self.axis], item, *inner[self.axis :])

    def flat_part(self, item: Poly, number: Poly) -> Expr:
        """Return an element of an item by its number in row-major order."""
        return self.part(item, unravelled(number, self.rest))


def _unique(node: Node) -> list[Tensor]:
    x, axis = node.input(0), node.attribute("axis")
    items = _Items(x, None if axis is None else normalise_axis(node, int(axis), x.rank))
    order = _sorted(node, "order", items)
    fresh = _fresh(node, items, order)

    def begins(rank: Poly) -> Expr:
        return compare("ne", fresh.at(rank), 0)

    (count,) = node.sizes_of(count_of(node, "count", begins, items.count))
    heads = positions_of(node, "heads", begins, items.count, count)
    firsts = _looked_up(node, "firsts", order, heads)
    if attribute_flag(node, "sorted", 1):
        return [
            _values(node, items, firsts),
            _output(node, 1, firsts, None),
            _inverse(node, items, order, fresh, None),
            _counts(node, items, heads, None),
        ]
    by = _sorted(node, "by", _Items(firsts, None))
    return [
        _values(node, items, _looked_up(node, "occurrences", firsts, by)),
        _output(node, 1, firsts, by),
        _inverse(node, items, order, fresh, _permuted_back(node, by)),
        _counts(node, items, heads, by),
    ]


def _sorted(node: Node, suffix: str, items: _Items) -> Tensor:
    (rank,) = axes_for((items.count,))
    along, depth = Axis("r", items.count), Axis("c", product(items.rest))
    key = items.flat_part(var(along), var(depth))
    anchor = Sorted(along, depth, key, rank, descending=False)
    definition = Definition((rank,), const(0, "int64"), anchor)
    return node.temporary(suffix, (items.count,), "int64", definition)


def _at(positions: Tensor, place: Poly, extent: Poly) -> Poly:
    """Return a position as an index."""
    return index_of(positions.at(place), 0, extent)


def _looked_up(node: Node, suffix: str, x: Tensor, positions: Tensor) -> Tensor:
    (axis,) = axes_for(positions.shape)
    body = x.at(_at(positions, var(axis), x.shape[0]))
    return node.temporary(suffix, positions.shape, x.dtype, Definition((axis,), body))


def _fresh(node: Node, items: _Items, order: Tensor) -> Tensor:
    """Return 1 where an item in order differs from the one before, else 0; NaN equals itself."""
    (rank,) = axes_for(order.shape)
    along = Axis("c", product(items.rest))
    here, before = (_at(order, var(rank) - k, items.count) for k in (0, 1))
    x, y = items.flat_part(here, var(along)), items.flat_part(before, var(along))
    changed = compare("ne", x, y)
    if items.x.dtype.startswith(("float", "bfloat")):
        numbers = binary("or", compare("eq", x, x), compare("eq", y, y))
        changed = binary("and", changed, numbers)
    inside = (Within(var(rank) - 1, items.count),)
    one = const(1, "int64")
    step = Step("changed", "max", (along,), guard(inside, cast(changed, "int64"), one), "int64")
    total = guard(inside, cast(compare("gt", Var("changed", "int64"), 0), "int64"), one)
    definition = Definition((rank,), total, Steps((step,)))
    return node.temporary("fresh", order.shape, "int64", definition)


def _permuted_back(node: Node, by: Tensor) -> Tensor:
    """Return where each position went: ``result[by[t]] = t``."""
    (axis,) = axes_for(by.shape)
    (own,) = axes_for(by.shape, "u")
    place = IndexValue(_at(by, var(own), by.shape[0]), "int64")
    anchor = Updates((own,), (place,), IndexValue(var(own), "int64"), "")
    definition = Definition((axis,), const(0, "int64"), anchor)
    return node.temporary("back", by.shape, "int64", definition)


def _output(node: Node, output: int, x: Tensor, by: Tensor | None) -> Tensor:
    def body(t: Axis) -> Expr:
        return x.at(var(t) if by is None else _at(by, var(t), x.shape[0]))

    return node.pointwise(x.shape, "int64", body, output=output)


def _values(node: Node, items: _Items, firsts: Tensor) -> Tensor:
    k = 0 if items.axis is None else items.axis
    shape = (*items.rest[:k], firsts.shape[0], *items.rest[k:])

    def body(*axes: Axis) -> Expr:
        inner = tuple(var(a) for d, a in enumerate(axes) if d != k)
        return items.part(_at(firsts, var(axes[k]), items.count), inner)

    return node.pointwise(shape, items.x.dtype, body)


def _inverse(
    node: Node, items: _Items, order: Tensor, fresh: Tensor, back: Tensor | None
) -> Tensor:
    """Return the group of every item: how many began up to it, put to where the item was."""
    (rank,) = axes_for(order.shape)
    anchor = Prefix(rank, "sum", fresh.at(var(rank)), "int64", exclusive=False)
    body = binary("sub", Var(ACCUMULATOR, "int64"), 1)
    group = node.temporary("group", order.shape, "int64", Definition((rank,), body, anchor))
    (own,) = axes_for(order.shape, "u")
    value: Expr = group.at(var(own))
    if back is not None:
        value = back.at(index_of(value, 0, back.shape[0]))
    place = IndexValue(_at(order, var(own), items.count), "int64")
    updates = Updates((own,), (place,), value, "")
    definition = Definition((rank,), const(0, "int64"), updates)
    return node.define(order.shape, "int64", definition, output=2)


def _counts(node: Node, items: _Items, heads: Tensor, by: Tensor | None) -> Tensor:
    """Return the length of every group: up to the next head, or to the end."""

    def body(t: Axis) -> Expr:
        group = var(t) if by is None else _at(by, var(t), heads.shape[0])
        after = guard(
            (Within(group + 1, heads.shape[0]),),
            heads.at(group + 1),
            number(items.count, "int64"),
        )
        return binary("sub", after, heads.at(group))

    return node.pointwise(heads.shape, "int64", body, output=3)


OPS: tuple[Op, ...] = (Op("Unique", _unique),)
