"""Prefix sums and products."""

from __future__ import annotations

from whet.index import var
from whet.kernel.expr import Var
from whet.kernel.scan import Prefix
from whet.kernel.spec import ACCUMULATOR
from whet.kernel.tensor import Definition, Tensor, axes_for
from whet.ops.build import cast, compute_type
from whet.ops.late_axis import with_late_axis
from whet.ops.node import Lower, Node, Op, normalise_axis
from whet.ops.operand import attribute_flag


def _cumulative(op: str) -> Lower:
    """Combine ``x[r]`` for ``r <= i``, or for ``r >= i`` if it runs backwards."""

    def lower(node: Node) -> list[Tensor]:
        x = node.input(0)
        axis = node.ints(1)
        k = normalise_axis(node, axis[0] if axis else 0, x.rank)
        axes = axes_for(x.shape)
        place = [var(a) for a in axes]
        backwards = attribute_flag(node, "reverse")
        if backwards:
            place[k] = x.shape[k] - 1 - var(axes[k])
        dtype = compute_type(x.dtype)
        term = cast(x.at(*place), dtype)
        anchor = Prefix(axes[k], op, term, dtype, attribute_flag(node, "exclusive"))
        body = cast(Var(ACCUMULATOR, dtype), x.dtype)
        index = tuple(place) if backwards else ()
        return [node.define(x.shape, x.dtype, Definition(axes, body, anchor, index))]

    return lower


OPS: tuple[Op, ...] = (
    Op("CumSum", with_late_axis(_cumulative("sum"))),
    Op("CumProd", with_late_axis(_cumulative("prod"))),
)
