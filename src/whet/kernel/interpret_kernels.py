"""A slow interpreter of kernels on NumPy: the definition that code follows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from msgspec.structs import replace

from whet.dtypes import numpy_dtype
from whet.index import Axis, as_poly, product, var
from whet.kernel.chain import Chain
from whet.kernel.expr import Expr, Read, Within
from whet.kernel.grid import Grid, Leaf, scores_of, widened
from whet.kernel.pooled import Pooled
from whet.kernel.semantics import Array, register_dtype
from whet.kernel.spec import ACCUMULATOR, Attention, Contraction, Nest, Store


def run_nest(
    nest: Nest,
    buffers: Sequence[Array],
    dims: Mapping[str, int] | None = None,
    *,
    precise: bool = False,
) -> None:
    """Run a loop nest on flat buffers, one per parameter."""
    axes = (*nest.axes, *nest.row, *(a for s in nest.steps for a in s.axes))
    read = _reader(buffers, [p.dtype for p in nest.params])
    grid = Grid(tuple(dict.fromkeys(axes)), dims or {}, read, precise=precise)
    grid = grid.run_steps(nest.steps)
    outer = tuple(dict.fromkeys((*nest.axes, *nest.row)))
    _run_stores(grid, outer, nest.stores, buffers)


def run_contraction(
    kernel: Contraction,
    buffers: Sequence[Array],
    lanes: int,
    dims: Mapping[str, int] | None = None,
    *,
    precise: bool = False,
) -> None:
    """Run a contraction on flat buffers, one per parameter; ``lanes`` is the vector width."""
    outer_axes = (*kernel.outer, kernel.row, kernel.col)
    dot = kernel.dot
    inner_axes = (*kernel.taps, kernel.depth, *((dot.axis,) if dot is not None else ()))
    read = _reader(buffers, [p.dtype for p in kernel.params])
    grid = Grid((*outer_axes, *inner_axes), dims or {}, read, precise=precise)
    inside = grid.holds((*kernel.bounds, *kernel.edges, *_dot_bounds(kernel)))
    read_a = _broadcast_operand(grid, kernel, inside)
    if dot is not None and dot.flips:
        read_a = (read_a ^ np.int8(-128)).view(np.uint8)
    a = widened(np.where(inside, read_a, np.zeros_like(read_a)))
    b = widened(_panel_values(grid, kernel, buffers, lanes))
    if kernel.gate is not None:
        b = b * grid.value(kernel.gate)
    with np.errstate(all="ignore"):
        terms = (a * b).astype(a.dtype, copy=False)
    total = grid.reduce("sum", inner_axes, terms)
    if kernel.pairs is not None:
        total = total * buffers[kernel.pairs.factors][grid.atom(kernel.col)]
    grid = replace(grid, names={ACCUMULATOR: total})
    _run_stores(grid, outer_axes, kernel.stores, buffers)


def _broadcast_operand(grid: Grid, kernel: Contraction, inside: Array) -> Array:
    """Return what a contraction broadcasts, anything where it is not inside."""
    if kernel.spread:
        group = var(kernel.col) // kernel.spread * kernel.spread
        lanes = replace(kernel.a, address=kernel.a.address + group)
        return replace(grid, mask=inside).value(lanes)
    if kernel.second is None:
        return replace(grid, mask=inside).value(kernel.a)
    first = grid.holds((Within(var(kernel.depth), as_poly(kernel.second.start)),))
    below = replace(grid, mask=inside & first).value(kernel.a)
    behind = replace(grid, mask=inside & ~first).value(kernel.second.a)
    return np.where(first, below, behind)


def run_chain(
    kernel: Chain,
    buffers: Sequence[Array],
    lanes: int,
    dims: Mapping[str, int] | None = None,
    *,
    precise: bool = False,
) -> None:
    """Run a chain on flat buffers, one per parameter: its parts, one after the other."""
    first = kernel.parts[0]
    rows = product(a.extent for a in (*first.outer, first.row)).evaluate(dims or {})
    inner = [
        np.zeros(rows * i.stride, np.float64 if precise else numpy_dtype(i.dtype))
        for i in kernel.inner
    ]
    for part in kernel.parts:
        run_contraction(part, [*buffers, *inner], lanes, dims, precise=precise)


def run_pooled(
    kernel: Pooled,
    buffers: Sequence[Array],
    lanes: int,
    dims: Mapping[str, int] | None = None,
    *,
    precise: bool = False,
) -> None:
    """Run a product and the windows over it on flat buffers, one per parameter."""
    dtype = np.float64 if precise else numpy_dtype(kernel.dtype)
    result = np.zeros(kernel.result_elements.evaluate(dims or {}), dtype)
    run_contraction(kernel.product, [*buffers, result], lanes, dims, precise=precise)
    run_nest(kernel.window, [*buffers, result], dims, precise=precise)


def run_attention(
    kernel: Attention,
    buffers: Sequence[Array],
    dims: Mapping[str, int] | None = None,
    *,
    precise: bool = False,
) -> None:
    """Run attention on flat buffers, one per parameter."""
    outer_axes = (*kernel.outer, kernel.row, kernel.col)
    axes = (*outer_axes, kernel.key, kernel.depth)
    read = _reader(buffers, [p.dtype for p in kernel.params])
    grid = Grid(axes, dims or {}, read, precise=precise)
    scores = scores_of(kernel)
    grid = replace(grid, names=grid.attend(scores, kernel.key, kernel.v))
    _run_stores(grid, outer_axes, kernel.stores, buffers)


def _dot_bounds(kernel: Contraction) -> tuple[Within, ...]:
    """Return the condition under which a depth value of a lane exists."""
    if kernel.dot is None:
        return ()
    place = var(kernel.depth) * kernel.dot.size + var(kernel.dot.axis)
    return (Within(place, kernel.dot.extent),)


def _panel_values(grid: Grid, kernel: Contraction, buffers: Sequence[Array], lanes: int) -> Array:
    panels = kernel.b
    width = kernel.tile.vectors * lanes
    column = grid.atom(kernel.col)
    lane = column % width
    if kernel.dot is not None:
        lane = lane * kernel.dot.size + grid.atom(kernel.dot.axis)
    address = grid.index(panels.base) + lane
    address = address + column // width * grid.index(panels.panel_stride)
    address = address + grid.atom(kernel.depth) * grid.index(panels.depth_stride)
    for tap, stride in zip(kernel.taps, panels.tap_strides, strict=True):
        address = address + grid.atom(tap) * grid.index(stride)
    dtype = kernel.params[panels.param].dtype
    source = buffers[panels.param]
    register = register_dtype(dtype, precise=grid.precise)
    return np.asarray(source[grid.checked(address, source.size)]).astype(register)


def _reader(buffers: Sequence[Array], dtypes: Sequence[str]) -> Leaf:
    def read(grid: Grid, expr: Expr) -> Array:
        assert isinstance(expr, Read) and expr.dtype == dtypes[expr.param]
        source = buffers[expr.param]
        return np.asarray(source[grid.checked(grid.index(expr.address), source.size)])

    return read


def _run_stores(
    grid: Grid, axes: tuple[Axis, ...], stores: Sequence[Store], buffers: Sequence[Array]
) -> None:
    for store in stores:
        outer, values = grid.without(axes, grid.value(store.value))
        target = buffers[store.param]
        address = outer.checked(outer.index(store.address), target.size)
        with np.errstate(all="ignore"):
            wide = np.broadcast_to(values, outer.shape).astype(target.dtype)
        target[np.broadcast_to(address, outer.shape)] = wide
