"""Operators whose reads depend on data or on positions: Gather and kin, OneHot, Trilu, Range."""

from __future__ import annotations

import math

import numpy as np

from whet.dtypes import DTYPES
from whet.index import ONE, ZERO, Poly, as_poly, at_least, product, var
from whet.kernel.expr import Expr, IndexValue, Within, guard, index_of
from whet.kernel.tensor import Definition, Tensor, axes_for
from whet.ops.build import binary, cast, compare, compute_type, const, select, unary
from whet.ops.late_shapes import elements_of, sizes_from, slice_count
from whet.ops.node import Node, Op, constant, known_values, normalise_axis
from whet.ops.operand import agree, attribute_flag, looked_up, numpy_constant, operand, wrapped
from whet.ops.pointwise import element_type
from whet.ops.shape_values import known_tensor

Shape = tuple[Poly, ...]

MOST_FIXED = 1 << 20
"""Elements of a Range that becomes a constant; a longer one is computed where it is read."""

_ENDLESS = 1 << 48
"""More elements than any memory has bytes for."""


# -- Gather ----------------------------------------------------------------------------------------


def _gather(node: Node) -> list[Tensor]:
    x, indices = node.input(0), node.input(1)
    k = normalise_axis(node, int(node.attribute("axis", 0)), x.rank)
    shape = (*x.shape[:k], *indices.shape, *x.shape[k + 1 :])
    axes = axes_for(shape)
    middle = tuple(var(a) for a in axes[k : k + indices.rank])
    place = positions(node, indices, x.shape[k], middle)
    index = (*map(var, axes[:k]), place, *map(var, axes[k + indices.rank :]))
    return [node.define(shape, x.dtype, Definition(axes, looked_up(x, index)))]


def positions(node: Node, indices: Tensor, extent: Poly, at: Shape) -> Poly:
    """Return the position that an index tensor holds, counted from the front.

    Constant indices that advance evenly become index arithmetic, so that nothing is looked up.
    """
    known = known_values(indices)
    if known is not None and len(known) == 1:
        return _from_front(known[0], extent)
    fixed = numpy_constant(indices)
    length = extent.constant
    if fixed is None or length is None:
        return index_of(wrapped(indices.at(*at), extent), 0, extent)
    front = np.where(fixed < 0, fixed + length, fixed).astype(np.int64)
    if front.size and (front.min() < 0 or front.max() >= length):
        raise node.error(f"an index lies outside of {length}")
    even = _even(front, at)
    if even is not None:
        return even
    return index_of(constant(f"{node.name}.indices", front).at(*at), 0, extent)


def _from_front(index: Poly, extent: Poly) -> Poly:
    return index if at_least(index, 0) else index + extent


def _even(front: np.ndarray, at: Shape) -> Poly | None:
    """Return evenly advancing indices of rank 1 as arithmetic."""
    if front.ndim != 1 or front.size < 2:
        return None
    steps = np.diff(front)
    if (steps != steps[0]).any():
        return None
    return at[0] * int(steps[0]) + int(front[0])


def _gather_elements(node: Node) -> list[Tensor]:
    x, indices = node.input(0), node.input(1)
    if x.rank != indices.rank:
        raise node.error(f"indices have rank {indices.rank}, data {x.rank}")
    k = normalise_axis(node, int(node.attribute("axis", 0)), x.rank)
    axes = axes_for(indices.shape)
    here = tuple(var(a) for a in axes)
    place = positions(node, indices, x.shape[k], here)
    index = (*here[:k], place, *here[k + 1 :])
    return [node.define(indices.shape, x.dtype, Definition(axes, looked_up(x, index)))]


def _gather_nd(node: Node) -> list[Tensor]:
    x, indices = node.input(0), node.input(1)
    batch = int(node.attribute("batch_dims", 0))
    depth = indices.shape[-1].constant
    if depth is None or batch + depth > x.rank:
        raise node.error(f"cannot look up {indices.shape[-1]} of {x.rank} dimensions")
    shape = (*indices.shape[:-1], *x.shape[batch + depth :])
    axes = axes_for(shape)
    outer = tuple(var(a) for a in axes[: indices.rank - 1])
    found = tuple(
        index_of(wrapped(indices.at(*outer, d), x.shape[batch + d]), 0, x.shape[batch + d])
        for d in range(depth)
    )
    index = (*outer[:batch], *found, *map(var, axes[indices.rank - 1 :]))
    return [node.define(shape, x.dtype, Definition(axes, looked_up(x, index)))]


# -- values from positions -------------------------------------------------------------------------


def _one_hot(node: Node) -> list[Tensor]:
    indices, values = node.input(0), node.input(2)
    agree(node, values.shape, (as_poly(2),), "the value where it is cold, and where hot")
    depth = _depth(node)
    k = normalise_axis(node, int(node.attribute("axis", -1)), indices.rank + 1)
    shape = (*indices.shape[:k], depth, *indices.shape[k:])
    axes = axes_for(shape)
    others = tuple(var(a) for position, a in enumerate(axes) if position != k)
    place = wrapped(cast(indices.at(*others), "int64"), depth)
    hot = compare("eq", place, IndexValue(var(axes[k]), "int64"))
    body = select(hot, values.at(1), values.at(0))
    return [node.define(shape, values.dtype, Definition(axes, body))]


def _depth(node: Node) -> Poly:
    """Return the depth of a OneHot, which may be given as a float."""
    given = numpy_constant(node.input(1))
    if given is not None:
        return as_poly(int(given.reshape(-1)[0]))
    depth = node.input(1)
    if known_values(depth) is None and not depth.dtype.startswith(("int", "uint")):
        return sizes_from(node, "depth", elements_of(node, depth))[0]
    return node.sizes_of(depth)[0]


def _eye_like(node: Node) -> list[Tensor]:
    x = node.input(0)
    code = node.attribute("dtype")
    dtype = x.dtype if code is None else element_type(node, code)
    offset = int(node.attribute("k", 0))
    axes = axes_for(x.shape)
    on_diagonal = (Within(var(axes[1]) - var(axes[0]) - offset, ONE),)
    body = guard(on_diagonal, const(1, dtype), const(0, dtype))
    return [node.define(x.shape, dtype, Definition(axes, body))]


def _trilu(node: Node) -> list[Tensor]:
    """Keep what lies on one side of a diagonal: ``column - row >= k`` or ``<= k``."""
    x, upper = node.input(0), attribute_flag(node, "upper", 1)
    diagonal = node.optional(1)
    axes = axes_for(x.shape)
    distance = var(axes[-1]) - var(axes[-2])
    offset = operand(diagonal, ()) if diagonal is not None else const(0, "int64")
    known = None if diagonal is None else known_values(diagonal)
    zero = const(0, x.dtype)
    if diagonal is None or known is not None:
        k = ZERO if known is None else known[0]
        index = distance - k if upper else k - distance
        limit = x.shape[-1] + x.shape[-2] + k * (-1 if upper else 1)
        body: Expr = guard((Within(index, limit),), x.at(*map(var, axes)), zero)
    else:
        away = IndexValue(distance, "int64")
        kept = compare("ge" if upper else "le", away, cast(offset, "int64"))
        body = select(kept, x.at(*map(var, axes)), zero)
    return [node.define(x.shape, x.dtype, Definition(axes, body))]


def _range(node: Node) -> list[Tensor]:
    start, limit, delta = (node.input(k) for k in range(3))
    fixed = [numpy_constant(t) for t in (start, limit, delta)]
    if all(v is not None for v in fixed):
        first, last, by = (np.asarray(v).reshape(-1)[0].item() for v in fixed)
        count = (last - first) / by if by else math.nan
        if not count < _ENDLESS:
            raise node.error(f"the range from {first} to {last} by {by} has no end or is too long")
        if count < MOST_FIXED:
            return [constant(node.outputs[0], np.arange(first, last, by).astype(start.dtype))]
        return [_computed_range(node, as_poly(math.ceil(count)))]
    known = [known_values(t) for t in (start, limit, delta)]
    steps = known[2]
    if any(v is None for v in known) or steps is None or steps[0].constant in (None, 0):
        return [_late_range(node)]
    low, high = ((v or (ZERO,))[0] for v in known[:2])
    step = steps[0].constant or 1
    count = (high - low + (step - 1)) // step if step > 0 else (low - high - step - 1) // -step
    axes = axes_for((count,))
    body = IndexValue(low + var(axes[0]) * step, start.dtype)
    return [node.define((count,), start.dtype, Definition(axes, body))]


def _first_element(x: Tensor) -> Expr:
    return x.at(*(ZERO,) * x.rank) if x.rank else operand(x, ())


def _late_range(node: Node) -> Tensor:
    """Return a range of as many elements as fit before a limit that only a run knows."""
    start, limit, delta = (_first_element(node.input(k)) for k in range(3))
    if DTYPES[start.dtype].is_float:
        wide = [cast(e, "float64") for e in (start, limit, delta)]
        steps = binary("div", binary("sub", wide[1], wide[0]), wide[2])
        count = cast(binary("max", unary("ceil", steps), 0.0), "int64")
    else:
        wide = [cast(e, "int64") for e in (start, limit, delta)]
        count = slice_count(binary("sub", wide[1], wide[0]), wide[2])
    (size,) = sizes_from(node, "count", [count])
    return _computed_range(node, size)


def _computed_range(node: Node, size: Poly) -> Tensor:
    """Return ``start + i * delta`` for so many ``i``."""
    start, delta = (_first_element(node.input(k)) for k in (0, 2))
    dtype = start.dtype
    axes = axes_for((size,))
    compute = compute_type(dtype)
    position = cast(IndexValue(var(axes[0]), "int64"), compute)
    moved = binary("mul", position, cast(delta, compute))
    body = cast(binary("add", cast(start, compute), moved), dtype)
    return node.define((size,), dtype, Definition(axes, body))


# -- shapes ----------------------------------------------------------------------------------------


def _shape(node: Node) -> list[Tensor]:
    x = node.input(0)
    start, end = int(node.attribute("start", 0)), node.attribute("end")
    extents = x.shape[start : None if end is None else int(end)]
    return [known_tensor(node.outputs[0], extents, (as_poly(len(extents)),), "int64", node)]


def _size(node: Node) -> list[Tensor]:
    total = product(node.input(0).shape)
    return [known_tensor(node.outputs[0], (total,), (), "int64", node)]


def _reverse_sequence(node: Node) -> list[Tensor]:
    """Reverse the first ``lengths[b]`` elements of every batch entry."""
    x, lengths = node.input(0), node.input(1)
    time, batch = int(node.attribute("time_axis", 0)), int(node.attribute("batch_axis", 1))
    if x.rank < 2 or {time, batch} != {0, 1}:
        raise node.error(f"axes {time} and {batch} of x {list(x.shape)} are not the first two")
    agree(node, lengths.shape, (x.shape[batch],), "a length for every sequence")
    axes = axes_for(x.shape)
    here = IndexValue(var(axes[time]), "int64")
    length = cast(lengths.at(var(axes[batch])), "int64")
    mirrored = binary("sub", binary("sub", length, 1), here)
    place = select(compare("lt", here, length), mirrored, here)
    source = index_of(place, 0, x.shape[time])
    index = tuple(source if k == time else var(a) for k, a in enumerate(axes))
    return [node.define(x.shape, x.dtype, Definition(axes, x.at(*index)))]


OPS: tuple[Op, ...] = (
    Op("Gather", _gather),
    Op("GatherElements", _gather_elements),
    Op("GatherND", _gather_nd),
    Op("OneHot", _one_hot),
    Op("EyeLike", _eye_like),
    Op("Trilu", _trilu),
    Op("Range", _range),
    Op("Shape", _shape),
    Op("Size", _size),
    Op("ReverseSequence", _reverse_sequence),
)
