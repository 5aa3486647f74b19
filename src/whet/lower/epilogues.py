"""Pointwise equations that are evaluated on the registers of a product or reduction."""

from __future__ import annotations

from whet.index import ZERO, Atom, IndexLike, as_poly
from whet.kernel.expr import Expr, Load, rewrite_leaves
from whet.kernel.tensor import Definition, Tensor, Whole
from whet.lower.readers import Readers, merge_origins
from whet.lower.storage import row_major
from whet.lower.uses import loads, sources, too_deep
from whet.ops.movement import concat_parts


def absorb_anchor(tensor: Tensor, readers: Readers) -> None:
    """Let a pointwise tensor run in the epilogue of the last product or reduction it reads."""
    definition = tensor.definition
    if definition is None or definition.anchor is not None or definition.index:
        return
    if concat_parts(tensor) is not None:
        return
    for source in reversed(sources(definition)):
        if _may_absorb(source, tensor, readers):
            _absorb(source, tensor)
            return


def _may_absorb(source: Tensor, tensor: Tensor, readers: Readers) -> bool:
    inner, outer = source.definition, tensor.definition
    assert outer is not None
    if inner is None or inner.anchor is None or not readers.single(source):
        return False
    if isinstance(inner.anchor, Whole) or too_deep(inner, outer):
        return False
    if source.size != tensor.size or (tensor.rank == 0 and source.rank > 0):
        return False
    points = _points_of(source, tensor)
    ones: dict[Atom, IndexLike] = {a: 0 for a in inner.axes if a.extent == 1}
    wanted = tuple(p.substitute(ones) for p in inner.position)
    return all(
        tuple(p.substitute(points).substitute(ones) for p in e.index) == wanted
        for e in loads(outer)
        if e.source is source
    )


def _points_of(source: Tensor, tensor: Tensor) -> dict[Atom, IndexLike]:
    """Return the axes of a tensor at each point of its source, elements counted alike in both."""
    inner, outer = source.definition, tensor.definition
    assert inner is not None and outer is not None
    if source.shape == tensor.shape:
        return dict(zip(outer.axes, inner.position, strict=True))
    flat = ZERO
    for index, stride in zip(inner.position, row_major(source.shape), strict=True):
        flat = flat + index * stride
    places = zip(outer.axes, row_major(tensor.shape), strict=True)
    return {a: flat // stride % a.extent for a, stride in places}


def _absorb(source: Tensor, tensor: Tensor) -> None:
    inner, outer = source.definition, tensor.definition
    assert inner is not None and outer is not None
    points = _points_of(source, tensor)
    body = outer.body.substitute(points)

    def rewrite(e: Expr) -> Expr:
        return inner.body if isinstance(e, Load) and e.source is source else e

    index = tuple(as_poly(points[a]) for a in outer.axes)
    result = rewrite_leaves(body, rewrite)
    kept = inner.index if source.shape == tensor.shape else index
    tensor.definition = Definition(inner.axes, result, inner.anchor, kept)
    tensor.order = source.order if source.rank == tensor.rank else ()
    merge_origins(source, tensor)
