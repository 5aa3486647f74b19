"""What earlier results of a kernel decide alone, computed in front of a loop.

LLVM's loop-invariant code motion is not run, as in long straight kernels it would keep more values
than there are registers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from whet.codegen.writing.builder import Value
from whet.codegen.writing.evaluate import Point
from whet.dtypes import DTYPES
from whet.kernel.expr import Call, Const, Expr, Guard, Var, walk


def computed_before(point: Point, roots: Iterable[Expr]) -> dict[Expr, Value]:
    """Write what in some expressions is the same in every turn of a loop, at a point before it.

    Args:
        point: names the results of earlier steps; no lanes.
        roots: expressions of the loop.

    Returns:
        Values by expression, for the points of the loop to begin with.
    """
    for root in roots:
        for call in _settled(root):
            point.scalar(call)
    return point.memo


def _settled(expr: Expr) -> Iterator[Call]:
    """Yield the largest calls of names and numbers; what a guard may leave out stays there.

    Only floats: a division of integers by 0 must not happen where the loop has no turn.
    """
    if isinstance(expr, Guard):
        return
    if isinstance(expr, Call) and _is_settled(expr):
        yield expr
        return
    for child in expr.children():
        yield from _settled(child)


def _is_settled(call: Call) -> bool:
    parts = list(walk(call))
    plain = all(isinstance(e, Call | Const | Var) and DTYPES[e.dtype].is_float for e in parts)
    return plain and any(isinstance(e, Var) for e in parts)
