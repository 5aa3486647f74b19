"""Matrix products: MatMul and Gemm."""

from __future__ import annotations

import msgspec

from whet.index import Axis, Poly, as_poly, var
from whet.kernel.expr import Expr, Var
from whet.kernel.spec import ACCUMULATOR
from whet.kernel.tensor import Definition, Product, Tensor, axes_for
from whet.ops.build import binary
from whet.ops.node import Node, Op, broadcast_shapes


def matrix_product(
    shape: tuple[Poly, ...], depth: Poly, a: Expr, b: Expr, body: Expr | None = None
) -> Definition:
    """Return the definition of a product whose last axis is the column axis.

    Args:
        shape: shape of the result; at least two dimensions.
        depth: extent of the reduction axis, called ``k``.
        a: left operand over all axes but the last, and ``k``.
        b: right operand over all axes but the last row axis, and ``k``.
        body: epilogue; the sum itself by default.
    """
    axes = axes_for(shape)
    k = Axis("k", depth)
    result = body or Var(ACCUMULATOR, a.dtype)
    return Definition(axes, result, Product(a, b, axes[:-1], axes[-1], (), k))


class MatrixProduct(msgspec.Struct, frozen=True):
    """A product with NumPy's broadcasting, of matrices or vectors.

    Attributes:
        shape: shape of the product of matrices; vectors count as matrices of one row or column.
        definition: its equation.
        drop_row: whether the left operand is a vector.
        drop_col: whether the right operand is a vector.
    """

    shape: tuple[Poly, ...]
    definition: Definition
    drop_row: bool
    drop_col: bool

    def outputs(self, node: Node, definition: Definition, dtype: str) -> list[Tensor]:
        """Return the node's output under a definition, perhaps with another epilogue."""
        if not self.drop_row and not self.drop_col:
            return [node.define(self.shape, dtype, definition)]
        product = node.temporary("matrix", self.shape, dtype, definition)
        return [_without_ones(node, product, drop_row=self.drop_row, drop_col=self.drop_col)]


def matrices(node: Node, a: Tensor, b: Tensor) -> MatrixProduct:
    """Return the product of two operands with NumPy's broadcasting, 1-D operands included."""
    if a.rank == 0 or b.rank == 0:
        raise node.error("operands must not be scalars")
    a_shape = (as_poly(1), *a.shape) if a.rank == 1 else a.shape
    b_shape = (*b.shape, as_poly(1)) if b.rank == 1 else b.shape
    depth = _inner(node, a_shape[-1], b_shape[-2])
    batch = (
        broadcast_shapes(node, [a_shape[:-2], b_shape[:-2]])
        if len(a_shape) + len(b_shape) > 4
        else ()
    )
    full = (*batch, a_shape[-2], b_shape[-1])
    axes, k = axes_for(full), Axis("k", depth)
    left = (*_aligned(a_shape[:-2], axes[:-2]), var(axes[-2]), var(k))
    right = (*_aligned(b_shape[:-2], axes[:-2]), var(k), var(axes[-1]))
    a_load = a.at(var(k)) if a.rank == 1 else a.at(*left)
    b_load = b.at(var(k)) if b.rank == 1 else b.at(*right)
    definition = matrix_product(full, depth, a_load, b_load)
    return MatrixProduct(full, definition, a.rank == 1, b.rank == 1)


def lower_matmul(node: Node) -> list[Tensor]:
    """Lower ``MatMul``; source: ONNX MatMul."""
    a = node.input(0)
    product = matrices(node, a, node.input(1))
    return product.outputs(node, product.definition, a.dtype)


def _inner(node: Node, left: Poly, right: Poly) -> Poly:
    """Return the extent that is summed along; where it depends on the run, the run checks it."""
    if left == right:
        return left
    if node.late is None or (left - right).constant is not None:
        raise node.error(f"inner extents differ: {left} and {right}")
    node.agree(left, right)
    return right if right.constant is not None else left


def _aligned(shape: tuple[Poly, ...], axes: tuple[Axis, ...]) -> tuple[Poly, ...]:
    """Return batch indices of an operand, 0 where it is repeated."""
    used = axes[len(axes) - len(shape) :]
    return tuple(as_poly(0) if e == 1 else var(x) for e, x in zip(shape, used, strict=True))


def _without_ones(node: Node, product: Tensor, *, drop_row: bool, drop_col: bool) -> Tensor:
    keep = [True] * (product.rank - 2) + [not drop_row, not drop_col]
    shape = tuple(e for e, k in zip(product.shape, keep, strict=True) if k)

    def body(*axes: Axis) -> Expr:
        left = iter(axes)
        return product.at(*(var(next(left)) if k else as_poly(0) for k in keep))

    return node.pointwise(shape, product.dtype, body)


def lower_gemm(node: Node) -> list[Tensor]:
    """Lower ``Gemm``: ``alpha * A' B' + beta * C``; source: ONNX Gemm."""
    a, b, c = node.input(0), node.input(1), node.optional(2)
    if a.rank != 2 or b.rank != 2:
        raise node.error(f"operands must have rank 2, got {a.rank} and {b.rank}")
    flip_a, flip_b = node.attribute("transA", 0), node.attribute("transB", 0)
    rows, depth = (a.shape[1], a.shape[0]) if flip_a else a.shape
    inner, cols = (b.shape[1], b.shape[0]) if flip_b else b.shape
    depth = _inner(node, depth, inner)
    shape = (rows, cols)
    i, j = axes_for(shape)
    k = Axis("k", depth)
    a_load = a.at(var(k), var(i)) if flip_a else a.at(var(i), var(k))
    b_load = b.at(var(j), var(k)) if flip_b else b.at(var(k), var(j))
    body: Expr = Var(ACCUMULATOR, a.dtype)
    alpha, beta = node.attribute("alpha", 1.0), node.attribute("beta", 1.0)
    if alpha != 1.0:
        body = binary("mul", body, alpha)
    if c is not None and beta != 0.0:
        if broadcast_shapes(node, [shape, c.shape]) != shape:
            raise node.error(f"C of shape {list(c.shape)} does not broadcast to {list(shape)}")
        addend: Expr = c.broadcast((i, j))
        body = binary("add", body, addend if beta == 1.0 else binary("mul", addend, beta))
    return [node.define(shape, a.dtype, matrix_product(shape, depth, a_load, b_load, body))]


OPS: tuple[Op, ...] = (Op("MatMul", lower_matmul), Op("Gemm", lower_gemm))
