"""Deformable convolution: every tap of a window reads at an offset that comes from data."""

from __future__ import annotations

import math

from whet.index import Axis, Poly, as_poly, var
from whet.kernel.expr import Expr, IndexValue, Var
from whet.kernel.spec import ACCUMULATOR
from whet.kernel.tensor import Definition, Product, Tensor
from whet.ops.build import binary, cast, compute_type
from whet.ops.node import Node, Op
from whet.ops.operand import agree
from whet.ops.sampling import Interpolation, taps_of
from whet.ops.windows import Window, channels_last, window_of


def lower_deform_conv(node: Node) -> list[Tensor]:
    """Lower ``DeformConv``: x ``[n, c, d...]``, w ``[m, c / group, k...]``.

    The elements under all windows are interpolated first; the rest is a matrix product.
    """
    x, w, bias = node.input(0), node.input(1), node.optional(3)
    if x.rank < 3 or w.rank != x.rank:
        raise node.error(f"needs x and w of one rank, 3 or more; got {x.rank} and {w.rank}")
    group = int(node.attribute("group", 1))
    kernel = tuple(e.constant or 0 for e in w.shape[2:])
    if 0 in kernel or group < 1 or w.shape[0] % group != 0:
        raise node.error(f"group {group} does not fit w {list(w.shape)}")
    agree(node, (x.shape[1],), (w.shape[1] * group,), "channels of x for w")
    if bias is not None:
        agree(node, bias.shape, (w.shape[0],), "a bias for every filter")
    window = window_of(node, kernel, x.shape[2:])
    columns = _columns(node, window, w.shape[1] * group)
    rank, filters = len(kernel), w.shape[0] // group
    n, g, m = Axis("n", x.shape[0]), Axis("g", as_poly(group)), Axis("m", filters)
    taps = tuple(Axis(f"k{k}", as_poly(e)) for k, e in enumerate(kernel))
    places = tuple(Axis(f"o{k}", e) for k, e in enumerate(columns.shape[2 + rank :]))
    c = Axis("c", w.shape[1])
    channel, filter_ = var(g) * c.extent + var(c), var(g) * filters + var(m)
    a = columns.at(var(n), channel, *map(var, taps), *map(var, places))
    b = w.at(filter_, var(c), *map(var, taps))
    body: Expr = Var(ACCUMULATOR, x.dtype)
    if bias is not None:
        body = binary("add", body, bias.at(filter_))
    rows = (n, g, *places)
    index = (var(n), filter_, *map(var, places))
    product = Product(a, b, rows, m, taps, c)
    shape = (x.shape[0], w.shape[0], *(p.extent for p in places))
    definition = Definition((*rows, m), body, product, index)
    return [node.define(shape, x.dtype, definition, order=channels_last(x.rank))]


def _columns(node: Node, window: Window, channels: Poly) -> Tensor:
    """Return the element under every tap of every window, ``[n, c, k..., o...]``."""
    x, offset, mask = node.input(0), node.input(2), node.optional(4)
    kernel, rank = window.kernel, len(window.kernel)
    groups = int(node.attribute("offset_group", 1))
    if offset.rank != x.rank or groups < 1 or channels % groups != 0:
        raise node.error(f"offset {list(offset.shape)} does not fit x {list(x.shape)}")
    per_group = channels // groups
    taps_of_group = as_poly(groups * math.prod(kernel))
    agree(node, offset.shape[:2], (x.shape[0], taps_of_group * rank), "offsets")
    if mask is not None:
        agree(node, mask.shape, (x.shape[0], taps_of_group, *offset.shape[2:]), "mask")
    outer = (x.shape[0], as_poly(groups), *map(as_poly, kernel), *offset.shape[2:])
    dtype = compute_type(x.dtype)
    taps = []
    for k in range(rank):
        axes = tuple(Axis(f"i{j}", e) for j, e in enumerate(outer))
        n, g, *inner = map(var, axes)
        tap, place = inner[:rank], inner[rank:]
        shift = offset.at(n, (_flat(g, tap, kernel)) * rank + k, *place)
        start = IndexValue(window.position(k, place[k], tap[k]), dtype)
        body = binary("add", start, cast(shift, dtype))
        position = node.temporary(f"position{k}", outer, dtype, Definition(axes, body))
        taps.append(taps_of(node, f"side{k}", position, "linear", lambda at: at))
    sampled = Interpolation(x, tuple(taps), dtype, zeros=True)

    shape = (x.shape[0], channels, *outer[2:])
    axes = tuple(Axis(f"i{j}", e) for j, e in enumerate(shape))
    n, c, *inner = map(var, axes)
    g = c // per_group
    value, anchor = sampled.at(n, c, ((n, g, *inner),) * rank)
    if mask is not None:
        weight = mask.at(n, _flat(g, inner[:rank], kernel), *inner[rank:])
        value = binary("mul", value, cast(weight, dtype))
    return node.temporary("columns", shape, x.dtype, Definition(axes, cast(value, x.dtype), anchor))


def _flat(group: Poly, taps: list[Poly], kernel: tuple[int, ...]) -> Poly:
    total = group
    for tap, extent in zip(taps, kernel, strict=True):
        total = total * extent + tap
    return total


OPS: tuple[Op, ...] = (Op("DeformConv", lower_deform_conv),)
