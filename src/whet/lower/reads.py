"""Reads outside of a tensor, found before there is code for them.

Lowerings ask that extents fit where they know what has to; what one forgets of a damaged model,
such as a zero point without elements, would read the memory of others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from whet.errors import ShapeError
from whet.index import Axis, Opaque, Poly, at_least, bounds
from whet.kernel.expr import Expr, Guard, Load
from whet.kernel.tensor import Tensor


def check_reads(tensors: Iterable[Tensor]) -> None:
    """Refuse equations that certainly read outside of a tensor.

    Raises:
        ShapeError: an index that is affine in axes leaves a known extent.
    """
    for tensor in tensors:
        definition = tensor.definition
        if definition is None or any(e == 0 for e in tensor.shape):
            continue
        for root in definition.expressions():
            for load in _certain_loads(root):
                if not all(map(_may_lie_inside, load.index, load.source.shape)):
                    raise ShapeError(
                        f"{'/'.join(tensor.ops)} takes elements that {load.source.name} of shape "
                        f"{[str(e) for e in load.source.shape]} does not have",
                        where=", ".join(tensor.nodes) or tensor.name,
                        hint="give this input the shape that the operator asks for",
                    )


def _certain_loads(expr: Expr) -> Iterator[Load]:
    """Yield the loads that no guard keeps from being read, those in indices included."""
    if isinstance(expr, Load):
        yield expr
    for p in expr.indices():
        for atom in p.atoms:
            if isinstance(atom, Opaque):
                yield from _certain_loads(atom.expr)
    for child in (expr.otherwise,) if isinstance(expr, Guard) else expr.children():
        yield from _certain_loads(child)


def _may_lie_inside(index: Poly, extent: Poly) -> bool:
    """Whether an index lies inside, or this cannot be told from the ranges of its axes."""
    size, atoms, fixed = extent.constant, index.atoms, index.constant
    if size is None and fixed is not None:
        at_least(extent, fixed + 1)  # so that a run refuses 0 where this counts on more
    axes = [a for a in atoms if isinstance(a, Axis)]
    if size is None or len(axes) < len(atoms) or any(a.extent == 0 for a in axes):
        return True
    if not all(index.is_affine_in(a) and len(m) < 2 for a in axes for m, _ in index.terms):
        return True
    low, high = bounds(index)
    return low is None or high is None or (low >= 0 and high < size)
