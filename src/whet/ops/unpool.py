"""MaxUnpool: every greatest element back at the place where pooling found it."""

from __future__ import annotations

from whet.index import Poly, product, var
from whet.kernel.expr import Expr, IndexValue, index_of
from whet.kernel.scatter import Updates
from whet.kernel.tensor import Definition, Tensor, axes_for
from whet.ops.build import binary, cast, compare, const, select
from whet.ops.node import Node, Op
from whet.ops.operand import number


def lower_max_unpool(node: Node) -> list[Tensor]:
    """Lower ``MaxUnpool``: x and indices ``[n, c, d...]``; source: ONNX MaxUnpool.

    Indices count the elements of the image that the window's form implies, whatever larger shape
    the result is asked to have. One that lies outside changes nothing.
    """
    x, indices = node.input(0), node.input(1)
    rank = x.rank - 2
    kernel = tuple(node.attribute("kernel_shape") or ())
    strides = tuple(node.attribute("strides") or (1,) * rank)
    pads = tuple(node.attribute("pads") or (0,) * (2 * rank))
    if rank < 1 or (len(kernel), len(strides), len(pads)) != (rank, rank, 2 * rank):
        raise node.error(f"kernel_shape, strides and pads do not fit {list(x.shape)}")
    if indices.shape != x.shape:
        raise node.error(f"indices {list(indices.shape)} do not fit {list(x.shape)}")
    image = tuple(
        (e - 1) * strides[k] - (pads[k] + pads[rank + k]) + kernel[k]
        for k, e in enumerate(x.shape[2:])
    )
    implied = (*x.shape[:2], *image)
    shape = node.sizes(2) or implied
    if len(shape) != x.rank:
        raise node.error(f"output_shape {list(shape)} does not fit {list(x.shape)}")
    axes, own = axes_for(shape), axes_for(x.shape, "u")
    here = tuple(map(var, own))
    flat = cast(indices.at(*here), "int64")
    places = tuple(
        IndexValue(index_of(_part(flat, implied, k), None, None), "int64") for k in range(x.rank)
    )
    updates = Updates(own, places, x.at(*here), "")
    return [node.define(shape, x.dtype, Definition(axes, const(0, x.dtype), updates))]


def _part(flat: Expr, shape: tuple[Poly, ...], k: int) -> Expr:
    """Return one index of an element that is counted through the whole of a shape."""
    stride = product(shape[k + 1 :])
    place = flat if stride == 1 else binary("div", flat, number(stride, "int64"))
    if k > 0:
        return binary("mod", place, number(shape[k], "int64"))
    return select(compare("lt", flat, 0), const(-1, "int64"), place)


OPS: tuple[Op, ...] = (Op("MaxUnpool", lower_max_unpool),)
