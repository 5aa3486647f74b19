"""Col2Im: the sum of overlapping blocks, each at its place in an image."""

from __future__ import annotations

from whet.index import ONE, Axis, Poly, as_poly, product, var
from whet.kernel.expr import Var, Within, guard
from whet.kernel.spec import Step
from whet.kernel.tensor import Definition, Steps, Tensor, axes_for
from whet.ops.build import cast, compute_type, const
from whet.ops.node import Node, Op


def lower_col2im(node: Node) -> list[Tensor]:
    """Lower ``Col2Im``: ``[n, c * block, blocks]`` to ``[n, c, image...]``; source: ONNX Col2Im.

    Every element sums what the blocks over it hold there, one tap of the block after another.
    """
    x, image, block = node.input(0), node.sizes(1) or (), node.sizes(2) or ()
    if x.rank != 3 or not image or len(image) != len(block):
        raise node.error(f"blocks {list(block)} do not fit an image {list(image)}")
    size = product(block)
    if size.constant == 0 or (x.shape[1] % size).constant not in (None, 0):
        raise node.error(f"{x.shape[1]} rows are not blocks of {size}")
    axes, taps = axes_for((x.shape[0], x.shape[1] // size, *image)), axes_for(block, "k")
    row, column, bounds, blocks = _place(node, axes, taps)
    for needed, given in ((axes[1].extent * size, x.shape[1]), (blocks, x.shape[2])):
        if (needed - given).constant not in (None, 0):
            raise node.error(f"{given} rows or blocks where {needed} are needed")
        node.agree(needed, given)
    dtype = compute_type(x.dtype)
    value = guard(bounds, cast(x.at(var(axes[0]), row, column), dtype), const(0, dtype))
    step = Step("total", "sum", taps, value, dtype)
    body = cast(Var("total", dtype), x.dtype)
    shape = tuple(a.extent for a in axes)
    return [node.define(shape, x.dtype, Definition(axes, body, Steps((step,))))]


def _place(
    node: Node, axes: tuple[Axis, ...], taps: tuple[Axis, ...]
) -> tuple[Poly, Poly, tuple[Within, ...], Poly]:
    """Return row and block that a tap reads for an element, if there is one, and all blocks."""
    rank = len(taps)
    strides = node.attribute("strides") or (1,) * rank
    dilations = node.attribute("dilations") or (1,) * rank
    pads = node.attribute("pads") or (0,) * (2 * rank)
    if (len(strides), len(dilations), len(pads)) != (rank, rank, 2 * rank) or 0 in strides:
        raise node.error(f"strides, dilations and pads do not fit {rank} dimensions")
    row, column, blocks = var(axes[1]), as_poly(0), ONE
    bounds: list[Within] = []
    for k, tap in enumerate(taps):
        image = axes[2 + k].extent
        room = image + (pads[k] + pads[rank + k]) - (tap.extent - 1) * dilations[k] - 1
        count = room // strides[k] + 1
        start = var(axes[2 + k]) + pads[k] - var(tap) * dilations[k]
        number = start // strides[k]
        bounds.append(Within(start % strides[k], ONE))
        bounds.append(Within(number, count))
        row, column = row * tap.extent + var(tap), column * count + number
        blocks = blocks * count
    return row, column, tuple(bounds), blocks


OPS: tuple[Op, ...] = (Op("Col2Im", lower_col2im),)
