"""Col2Im: the sum of overlapping blocks, each at its place in an image."""

from __future__ import annotations

from whet.index import ONE, Axis, Poly, as_poly, var
from whet.kernel.expr import Var, Within, guard
from whet.kernel.spec import Step
from whet.kernel.tensor import Definition, Steps, Tensor, axes_for
from whet.ops.build import cast, compute_type, const
from whet.ops.node import Node, Op
from whet.ops.windows import Window, window_of


def lower_col2im(node: Node) -> list[Tensor]:
    """Lower ``Col2Im``: ``[n, c * block, blocks]`` to ``[n, c, image...]``; source: ONNX Col2Im.

    Every element sums what the blocks over it hold there, one tap of the block after another.
    """
    x, image, block = node.input(0), node.extents(1) or (), node.ints(2) or ()
    if x.rank != 3 or len(image) != len(block) or min(block, default=0) < 1:
        raise node.error(f"blocks {list(block)} do not fit an image {list(image)}")
    window = window_of(node, block, image)
    counts = tuple(window.outputs(k, e) for k, e in enumerate(image))
    size = 1
    for extent in block:
        size *= extent
    if x.shape[1] % size != 0:
        raise node.error(f"{x.shape[1]} rows are not blocks of {size}")
    axes = axes_for((x.shape[0], x.shape[1] // size, *image))
    taps = axes_for(tuple(map(as_poly, block)), "k")
    row, column, bounds = _place(window, counts, axes, taps)
    dtype = compute_type(x.dtype)
    value = guard(bounds, cast(x.at(var(axes[0]), row, column), dtype), const(0, dtype))
    step = Step("total", "sum", taps, value, dtype)
    body = cast(Var("total", dtype), x.dtype)
    shape = tuple(a.extent for a in axes)
    return [node.define(shape, x.dtype, Definition(axes, body, Steps((step,))))]


def _place(
    window: Window, counts: tuple[Poly, ...], axes: tuple[Axis, ...], taps: tuple[Axis, ...]
) -> tuple[Poly, Poly, tuple[Within, ...]]:
    """Return the row and the block that a tap reads for an element, and whether there is one."""
    row, column = var(axes[1]), as_poly(0)
    bounds: list[Within] = []
    for k, (count, tap) in enumerate(zip(counts, taps, strict=True)):
        start = var(axes[2 + k]) + window.before[k] - var(tap) * window.dilations[k]
        number = start // window.strides[k]
        bounds.append(Within(start % window.strides[k], ONE))
        bounds.append(Within(number, count))
        row, column = row * tap.extent + var(tap), column * count + number
    return row, column, tuple(bounds)


OPS: tuple[Op, ...] = (Op("Col2Im", lower_col2im),)
