"""Operators that put elements in order."""

from __future__ import annotations

from whet.index import ONE, Axis, Poly, var
from whet.kernel.expr import index_of
from whet.kernel.sort import Sorted
from whet.kernel.tensor import Definition, Tensor, axes_for
from whet.ops.build import const
from whet.ops.node import Node, Op, normalise_axis
from whet.ops.operand import attribute_flag, looked_up


def _top_k(node: Node) -> list[Tensor]:
    """Find the largest or smallest elements: their positions are sorted, their values looked up.

    Of equal elements the first comes first; NaN counts as the largest, as in NumPy.
    """
    x = node.input(0)
    k = normalise_axis(node, int(node.attribute("axis", -1)), x.rank)
    count = (node.sizes(1) or (ONE,))[0]
    length = x.shape[k].constant
    if count.constant is not None and length is not None and not 0 <= count.constant <= length:
        raise node.error(f"k is {count} of {length} elements")
    shape = tuple(count if d == k else e for d, e in enumerate(x.shape))
    positions = _sorted_positions(node, x, k, shape, attribute_flag(node, "largest", 1))
    axes = axes_for(shape)
    here: list[Poly] = [var(a) for a in axes]
    here[k] = index_of(positions.at(*here), 0, x.shape[k])
    return [node.define(shape, x.dtype, Definition(axes, looked_up(x, tuple(here)))), positions]


def _sorted_positions(
    node: Node, x: Tensor, k: int, shape: tuple[Poly, ...], largest: bool
) -> Tensor:
    axes = axes_for(shape)
    along, depth = Axis("r", x.shape[k]), Axis("c", ONE)
    key = x.at(*(var(along if d == k else a) for d, a in enumerate(axes)))
    anchor = Sorted(along, depth, key, axes[k], largest)
    return node.define(shape, "int64", Definition(axes, const(0, "int64"), anchor), output=1)


OPS: tuple[Op, ...] = (Op("TopK", _top_k),)
