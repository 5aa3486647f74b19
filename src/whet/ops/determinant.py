"""Determinants by elimination with partial pivoting, one column after another."""

from __future__ import annotations

from whet.errors import UnsupportedError
from whet.index import Axis, as_poly, var
from whet.kernel.expr import Expr, IndexValue, Var, index_of
from whet.kernel.spec import Step
from whet.kernel.tensor import Definition, Steps, Tensor, axes_for
from whet.ops.build import binary, cast, compare, compute_type, const, select, unary
from whet.ops.node import Node, Op

LARGEST = 64
"""Larger matrices would become more kernels than is sensible."""


def lower_det(node: Node) -> list[Tensor]:
    """Lower ``Det``: square matrices ``[..., m, m]``.

    The determinant is the product of the pivots, negated for every exchange of rows.
    """
    x = node.input(0)
    if x.rank < 2 or x.shape[-1] != x.shape[-2]:
        raise node.error(f"{list(x.shape)} are not square matrices")
    size = x.shape[-1].constant
    if size is None or size > LARGEST:
        raise UnsupportedError(
            f"Det of matrices of {x.shape[-1]} rows",
            where=node.name,
            hint=f"only static sizes up to {LARGEST} are compiled",
        )
    if size == 0:
        return [node.pointwise(x.shape[:-2], x.dtype, lambda *_: const(1.0, x.dtype))]
    return [_determinant(node, x, size)]


def _determinant(node: Node, x: Tensor, size: int) -> Tensor:
    dtype, batch = compute_type(x.dtype), x.shape[:-2]
    axes = axes_for(batch)
    here = tuple(map(var, axes))
    matrix = _widened(node, x, dtype)
    total: Expr = const(1.0, dtype)
    for left in range(size, 0, -1):
        row = _pivot_row(node, matrix, left)
        pivot = matrix.at(*here, index_of(row.at(*here), 0, as_poly(left)), 0)
        exchanged = compare("ne", row.at(*here), 0)
        total = binary("mul", total, select(exchanged, unary("neg", pivot), pivot))
        if left > 1:
            so_far = node.temporary(f"product{left}", batch, dtype, Definition(axes, total))
            total = so_far.at(*here)
            matrix = _eliminated(node, matrix, row, left)
    return node.define(batch, x.dtype, Definition(axes, cast(total, x.dtype)))


def _widened(node: Node, x: Tensor, dtype: str) -> Tensor:
    axes = axes_for(x.shape)
    body = cast(x.at(*map(var, axes)), dtype)
    return node.temporary("matrix", x.shape, dtype, Definition(axes, body))


def _pivot_row(node: Node, matrix: Tensor, left: int) -> Tensor:
    """Return the row of the first column's greatest element."""
    axes, i = axes_for(matrix.shape[:-2]), Axis("i", as_poly(left))
    size = unary("abs", matrix.at(*map(var, axes), var(i), 0))
    best = Step("best", "max", (i,), size, size.dtype)
    found = compare("eq", size, Var("best", size.dtype))
    place = select(found, IndexValue(var(i), "int64"), const(left, "int64"))
    first = Step("place", "min", (i,), place, "int64")
    shape = matrix.shape[:-2]
    definition = Definition(axes, Var("place", "int64"), Steps((best, first)))
    return node.temporary(f"pivot{left}", shape, "int64", definition)


def _eliminated(node: Node, matrix: Tensor, row: Tensor, left: int) -> Tensor:
    """Return the matrix without the pivot's row and column.

    ``A'[i, j] = A[s, j + 1] - A[s, 0] / pivot * A[row, j + 1]`` with ``s = i + 1``, or 0 where the
    first row has changed places with the pivot's.
    """
    shape = (*matrix.shape[:-2], as_poly(left - 1), as_poly(left - 1))
    axes = axes_for(shape)
    *batch, i, j = map(var, axes)
    place = row.at(*batch)
    next_ = IndexValue(i + 1, "int64")
    moved = select(compare("eq", next_, place), const(0, "int64"), next_)
    source, top = (index_of(e, 0, as_poly(left)) for e in (moved, place))
    pivot = matrix.at(*batch, top, 0)
    ratio = binary("div", matrix.at(*batch, source, 0), pivot)
    factor = select(compare("eq", pivot, 0.0), const(0.0, matrix.dtype), ratio)
    removed = binary("mul", factor, matrix.at(*batch, top, j + 1))
    body = binary("sub", matrix.at(*batch, source, j + 1), removed)
    return node.temporary(f"matrix{left - 1}", shape, matrix.dtype, Definition(axes, body))


OPS: tuple[Op, ...] = (Op("Det", lower_det),)
