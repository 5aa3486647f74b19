"""Broadcasting, also where only a run knows that an extent is 1 (decision 21)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from whet.index import ONE, ZERO, Axis, Dim, Poly, as_poly, var
from whet.kernel.expr import Const, Expr
from whet.kernel.tensor import Tensor
from whet.ops.node import Node, wide_extent
from whet.ops.operand import scalar_constant

Shape = tuple[Poly, ...]


class Broadcast(msgspec.Struct, frozen=True):
    """How tensors go together.

    Attributes:
        shape: of the result.
        steps: for each tensor and each of its dimensions, what a step along the result moves in
            it: 0 where it is repeated, 1 where it is not.
    """

    shape: Shape
    steps: tuple[Shape, ...]

    def operand(self, tensor: Tensor, number: int, axes: tuple[Axis, ...]) -> Expr:
        """Return the element of tensor ``number`` at a point; a constant scalar is a number."""
        fixed = scalar_constant(tensor)
        if fixed is not None:
            return Const(fixed, tensor.dtype)
        aligned = axes[len(axes) - tensor.rank :]
        return tensor.at(*(var(a) * s for a, s in zip(aligned, self.steps[number], strict=True)))


def broadcast(node: Node, tensors: Sequence[Tensor]) -> Broadcast:
    """Return how tensors broadcast.

    A tensor that is made to be repeated, as it is of lower rank or 1 along another dimension, may
    also have 1 where a run-time dimension of an input stands, but for its last dimension.

    Raises:
        ShapeError: two extents differ and neither is 1. Where that depends on the run, the run
            checks it.
    """
    shapes = [t.shape for t in tensors]
    columns = _columns(shapes)
    return _fit(node, shapes, [_is_made_to_repeat(n, columns) for n in range(len(shapes))])


def expansion(node: Node, tensor: Tensor, wanted: Shape) -> Broadcast:
    """Return how a tensor is repeated to fill a shape, where both may have 1; see ``broadcast``."""
    return _fit(node, [tensor.shape, wanted], [True, False])


def _fit(node: Node, shapes: Sequence[Shape], repeated: Sequence[bool]) -> Broadcast:
    columns = _columns(shapes)
    rank = len(columns)
    goals, steps = [], [[ZERO] * len(s) for s in shapes]
    for k, column in enumerate(columns):
        whole = [e for e, small in zip(column, repeated, strict=True) if not small]
        goal = wide_extent([*whole, *column])
        goals.append(goal)
        for n, extent in enumerate(column):
            if len(shapes[n]) < rank - k:
                continue
            late = repeated[n] and k < rank - 1
            steps[n][k - rank] = _step(node, extent, goal, shapes, late=late)
    return Broadcast(tuple(goals), tuple(map(tuple, steps)))


def _columns(shapes: Sequence[Shape]) -> list[list[Poly]]:
    """Return the extents of all shapes along each dimension of the result, 1 where one has none."""
    rank = max(map(len, shapes))
    return [[_extent(s, k - rank) for s in shapes] for k in range(rank)]


def _extent(shape: Shape, place: int) -> Poly:
    return shape[place] if -place <= len(shape) else ONE


def _is_made_to_repeat(number: int, columns: Sequence[Sequence[Poly]]) -> bool:
    return any(c[number] == 1 and any(e != 1 for e in c) for c in columns)


def _step(node: Node, extent: Poly, goal: Poly, shapes: Sequence[Shape], *, late: bool) -> Poly:
    """Return what a step moves along an extent: 0, 1, or what only a run knows to be either."""
    if extent == 1:
        return ZERO
    if extent == goal:
        return ONE
    if node.late is None or (extent - goal).constant is not None:
        text = " and ".join(str(list(s)) for s in shapes)
        raise node.error(f"cannot broadcast {text}")
    if not (late and _is_open(extent)):
        node.agree(extent, goal)
        return ONE
    alone = as_poly(2) // (extent + 1)  # 1 for an extent of 1, 0 for more, and no division by 0
    node.agree(extent + (goal - extent) * alone, goal)
    return ONE - alone


def _is_open(extent: Poly) -> bool:
    """Whether an extent is a run-time dimension of an input."""
    return any(isinstance(a, Dim) and a.least and extent == var(a) for a in extent.atoms)
