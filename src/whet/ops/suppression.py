"""NonMaxSuppression: boxes by falling score, less those that overlap one taken before.

Three kernels for all classes at once: a sort of the scores above the threshold, a filter that
compares each box with those taken, a filter that puts the boxes of all classes together.
"""

from __future__ import annotations

import msgspec

from whet.index import ONE, Axis, Poly, as_poly, product, var
from whet.kernel.expr import Expr, IndexValue, Within, guard, index_of
from whet.kernel.filter import Kept
from whet.kernel.sort import Sorted
from whet.kernel.tensor import Definition, Tensor, axes_for
from whet.ops.build import binary, cast, compare, const
from whet.ops.node import Node, Op, known_values
from whet.ops.operand import agree, number
from whet.ops.selection import kept_positions, unravelled


def _non_max_suppression(node: Node) -> list[Tensor]:
    boxes, scores = node.input(0), node.input(1)
    if boxes.rank != 3 or scores.rank != 3:
        raise node.error(f"boxes {list(boxes.shape)} and scores {list(scores.shape)} do not fit")
    agree(node, boxes.shape, (scores.shape[0], scores.shape[2], as_poly(4)), "boxes")
    order = _by_score(node, scores)
    taken = _taken(node, boxes, order)
    batches, classes, ranks = taken.shape

    def keep(flat: Poly) -> Expr:
        return compare("ge", taken.at(*unravelled(flat, taken.shape)), 0)

    positions = kept_positions(node, keep, product(taken.shape))
    shape = (positions.shape[0], as_poly(3))
    axes = axes_for(shape)
    flat = index_of(positions.at(var(axes[0])), 0, batches * classes * ranks)
    batch, class_, rank = unravelled(flat, taken.shape)
    place = index_of(taken.at(batch, class_, rank), 0, scores.shape[2])
    body: Expr = order.at(batch, class_, place)
    for column, index in ((0, batch), (1, class_)):
        here = (Within(var(axes[1]) - column, ONE),)
        body = guard(here, IndexValue(index, "int64"), body)
    return [node.define(shape, "int64", Definition(axes, body))]


def _by_score(node: Node, scores: Tensor) -> Tensor:
    """Return the boxes of every class above the threshold, the best first."""
    axes = axes_for(scores.shape)
    along, depth = Axis("r", scores.shape[2]), Axis("c", ONE)
    key = scores.at(var(axes[0]), var(axes[1]), var(along))
    threshold = _scalar(node, 4)
    kept = None if threshold is None else compare("gt", key, cast(threshold, scores.dtype))
    anchor = Sorted(along, depth, key, axes[2], descending=True, kept=kept)
    definition = Definition(axes, const(0, "int64"), anchor)
    return node.temporary("order", scores.shape, "int64", definition)


def _taken(node: Node, boxes: Tensor, order: Tensor) -> Tensor:
    """Return the ranks of the boxes of every class that overlap none taken before."""
    axes = axes_for((*order.shape[:2], _capacity(node, order.shape[2])))
    batch, class_ = var(axes[0]), var(axes[1])
    along, other = Axis("r", order.shape[2]), Axis("s", order.shape[2])
    threshold = cast(_scalar(node, 3) or const(0.0, boxes.dtype), boxes.dtype)

    def box(rank: Axis) -> _Box:
        number = index_of(order.at(batch, class_, var(rank)), 0, boxes.shape[1])
        corners = tuple(boxes.at(batch, number, as_poly(k)) for k in range(4))
        return _centred(corners) if node.attribute("center_point_box", 0) else _cornered(corners)

    keep = compare("ge", order.at(batch, class_, var(along)), 0)
    anchor = Kept(along, keep, axes[2], other, _overlap(box(along), box(other), threshold))
    definition = Definition(axes, const(0, "int64"), anchor)
    return node.temporary("taken", tuple(a.extent for a in axes), "int64", definition)


def _scalar(node: Node, position: int) -> Expr | None:
    tensor = node.optional(position)
    if tensor is None:
        return None
    return tensor.at(*([as_poly(0)] * tensor.rank))


def _capacity(node: Node, boxes: Poly) -> Poly:
    """Return how many boxes a class may give, no more than there are."""
    given = _scalar(node, 2)
    if given is None:
        return as_poly(0)
    known = known_values(node.input(2))
    if known is not None and known[0].constant is not None and boxes.constant is not None:
        return as_poly(max(0, min(known[0].constant, boxes.constant)))
    fewer = binary("min", cast(given, "int64"), number(boxes, "int64"))
    limit = Definition((), binary("max", fewer, 0))
    return node.sizes_of(node.temporary("limit", (), "int64", limit))[0]


class _Box(msgspec.Struct, frozen=True):
    """The lower and upper edges of a box, by dimension."""

    low: tuple[Expr, Expr]
    high: tuple[Expr, Expr]

    def area(self) -> Expr:
        """Return the product of both lengths."""
        y, x = (binary("sub", h, b) for b, h in zip(self.low, self.high, strict=True))
        return binary("mul", x, y)


def _cornered(corners: tuple[Expr, ...]) -> _Box:
    """Return a box from ``y1, x1, y2, x2``, in any order of the corners."""
    y1, x1, y2, x2 = corners
    low, high = ((binary(op, y1, y2), binary(op, x1, x2)) for op in ("min", "max"))
    return _Box(low, high)


def _centred(corners: tuple[Expr, ...]) -> _Box:
    """Return a box from ``x, y, width, height``, the first two its centre."""
    x, y, width, height = corners
    pairs = [(centre, binary("div", size, 2.0)) for centre, size in ((y, height), (x, width))]
    low, high = (tuple(binary(op, c, half) for c, half in pairs) for op in ("sub", "add"))
    return _Box((low[0], low[1]), (high[0], high[1]))


def _overlap(a: _Box, b: _Box, threshold: Expr) -> Expr:
    """Return whether intersection over union is above a threshold; empty boxes overlap nothing."""
    low = tuple(binary("max", p, q) for p, q in zip(a.low, b.low, strict=True))
    high = tuple(binary("min", p, q) for p, q in zip(a.high, b.high, strict=True))
    common = _Box((low[0], low[1]), (high[0], high[1]))
    both, first, second = common.area(), a.area(), b.area()
    union = binary("sub", binary("add", first, second), both)
    result = compare("gt", binary("div", both, union), threshold)
    for low_edge, high_edge in zip(common.low, common.high, strict=True):
        result = binary("and", result, compare("gt", high_edge, low_edge))
    for area in (both, first, second, union):
        result = binary("and", result, compare("gt", area, 0.0))
    return result


OPS: tuple[Op, ...] = (Op("NonMaxSuppression", _non_max_suppression),)
