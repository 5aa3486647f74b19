"""Reductions over axes: sums, norms, extremes, positions of extremes, global pooling."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from whet.dtypes import DTYPES
from whet.index import ONE, ZERO, Axis, Poly, product, var
from whet.kernel.expr import Const, Expr, IndexValue, Var
from whet.kernel.spec import Step
from whet.kernel.tensor import Definition, Steps, Tensor, axes_for
from whet.ops.build import binary, cast, compare, compute_type, const, select, unary
from whet.ops.late_axis import axes_from_data
from whet.ops.late_shapes import kept_and_reduced, squeezed
from whet.ops.node import Lower, Node, Op, normalise_axis
from whet.ops.operand import attribute_flag, number
from whet.ops.views import reshaped
from whet.ops.windows import channels_last

LAST = int(np.iinfo(np.int64).max)


class Reduced(msgspec.Struct, frozen=True):
    """The iteration space of a reduction.

    Attributes:
        shape: shape of the result.
        axes: axes of the result.
        along: axes that are reduced.
        at: the reduced tensor's index at a point of both.
    """

    shape: tuple[Poly, ...]
    axes: tuple[Axis, ...]
    along: tuple[Axis, ...]
    at: tuple[Poly, ...]

    @property
    def count(self) -> Poly:
        """Number of elements reduced into one."""
        return product(a.extent for a in self.along)


def reduction(x: Tensor, positions: set[int], *, keepdims: bool) -> Reduced:
    """Return the iteration space of reducing some dimensions of a tensor."""
    kept = [k for k in range(x.rank) if keepdims or k not in positions]
    shape = tuple(ONE if k in positions else x.shape[k] for k in kept)
    axes = axes_for(shape)
    along = tuple(Axis(f"r{k}", x.shape[k]) for k in sorted(positions))
    at = [ZERO] * x.rank
    for k, axis in zip(kept, axes, strict=True):
        at[k] = var(axis)
    for axis in along:
        at[int(axis.name[1:])] = var(axis)
    return Reduced(shape, axes, along, tuple(at))


def late_reduction(node: Node, x: Tensor) -> Reduced:
    """Return the iteration space of a reduction whose axes depend on data, dimensions kept.

    Every dimension is split into what is kept and what is reduced. One of the two is 1, so that
    the position along the dimension is the sum of both.
    """
    kept, gone = kept_and_reduced(node, x, node.input(1))
    axes = axes_for(kept)
    along = axes_for(gone, "r")
    return Reduced(
        kept, axes, along, tuple(var(a) + var(r) for a, r in zip(axes, along, strict=True))
    )


def _late_result(node: Node, x: Tensor, found: Tensor) -> Tensor:
    if attribute_flag(node, "keepdims", 1):
        return found
    shape = squeezed(node, x.shape, node.input(1))
    node.agree(product(shape), found.size)
    return reshaped(node, found, shape)


def reduced_axes(node: Node, rank: int) -> set[int]:
    """Return the dimensions that a node reduces; all of them if it does not say."""
    given = node.optional(1)
    axes = node.ints(1) if given is not None and given.size != 0 else None
    if axes is None:
        axes = tuple(node.attribute("axes") or ())
    if axes:
        return {normalise_axis(node, a, rank) for a in axes}
    return set() if attribute_flag(node, "noop_with_empty_axes") else set(range(rank))


class _Kind(msgspec.Struct, frozen=True):
    """A reduction: what is combined, how, and what becomes of the result."""

    op: str
    before: Callable[[Expr], Expr] = lambda x: x
    after: Callable[[Expr, Poly], Expr] = lambda total, _: total


def _square(x: Expr) -> Expr:
    return binary("mul", x, x)


def _mean(total: Expr, count: Poly) -> Expr:
    return binary("div", total, number(count, total.dtype))


def _log(total: Expr, _: Poly) -> Expr:
    return unary("log", total)


def _square_root(total: Expr, _: Poly) -> Expr:
    if DTYPES[total.dtype].is_float:
        return unary("sqrt", total)
    return cast(unary("sqrt", cast(total, "float64")), total.dtype)


_KINDS = {
    "ReduceSum": _Kind("sum"),
    "ReduceMean": _Kind("sum", after=_mean),
    "ReduceMax": _Kind("max"),
    "ReduceMin": _Kind("min"),
    "ReduceProd": _Kind("prod"),
    "ReduceL1": _Kind("sum", lambda x: unary("abs", x)),
    "ReduceL2": _Kind("sum", _square, _square_root),
    "ReduceLogSum": _Kind("sum", after=_log),
    "ReduceSumSquare": _Kind("sum", _square),
}
_GLOBAL = {
    "GlobalAveragePool": _Kind("sum", after=_mean),
    "GlobalMaxPool": _Kind("max"),
}


def _reduce(kind: _Kind) -> Lower:
    def lower(node: Node) -> list[Tensor]:
        x = node.input(0)
        if axes_from_data(node):
            return [_late_result(node, x, reduce_tensor(node, x, late_reduction(node, x), kind))]
        positions = reduced_axes(node, x.rank)
        space = reduction(x, positions, keepdims=attribute_flag(node, "keepdims", 1))
        return [reduce_tensor(node, x, space, kind)]

    return lower


def reduce_tensor(
    node: Node, x: Tensor, space: Reduced, kind: _Kind, order: tuple[int, ...] = ()
) -> Tensor:
    """Return one reduction of a tensor."""
    dtype = x.dtype if kind.op in ("max", "min") else compute_type(x.dtype)
    value = kind.before(cast(x.at(*space.at), dtype))
    if not space.along:
        body = cast(kind.after(value, ONE), x.dtype)
        return node.define(space.shape, x.dtype, Definition(space.axes, body), order=order)
    step = Step("total", kind.op, space.along, value, dtype)
    body = cast(kind.after(Var("total", dtype), space.count), x.dtype)
    definition = Definition(space.axes, body, Steps((step,)))
    return node.define(space.shape, x.dtype, definition, order=order)


def _reduce_log_sum_exp(node: Node) -> list[Tensor]:
    """Return ``m + log(sum(exp(x - m)))`` with ``m`` the greatest element, 0 if infinite."""
    x = node.input(0)
    if axes_from_data(node):
        return [_late_result(node, x, _log_sum_exp(node, x, late_reduction(node, x)))]
    positions = reduced_axes(node, x.rank)
    space = reduction(x, positions, keepdims=attribute_flag(node, "keepdims", 1))
    return [_log_sum_exp(node, x, space)]


def _log_sum_exp(node: Node, x: Tensor, space: Reduced) -> Tensor:
    dtype = compute_type(x.dtype)
    value = cast(x.at(*space.at), dtype)
    top = Var("top", dtype)
    finite = compare("lt", unary("abs", top), np.inf)
    pivot = select(finite, top, const(0, dtype))
    steps = (
        Step("top", "max", space.along, value, dtype),
        Step(
            "total",
            "sum",
            space.along,
            unary("exp", binary("sub", value, pivot)),
            dtype,
        ),
    )
    body = cast(binary("add", unary("log", Var("total", dtype)), pivot), x.dtype)
    if not space.along:
        return node.define(space.shape, x.dtype, Definition(space.axes, cast(value, x.dtype)))
    return node.define(space.shape, x.dtype, Definition(space.axes, body, Steps(steps)))


def _arg(op: str) -> Lower:
    """Find the extreme, then the first (or last) position where it stands."""

    def lower(node: Node) -> list[Tensor]:
        x = node.input(0)
        k = normalise_axis(node, int(node.attribute("axis", 0)), x.rank)
        space = reduction(x, {k}, keepdims=attribute_flag(node, "keepdims", 1))
        last = attribute_flag(node, "select_last_index")
        value = x.at(*space.at)
        found = compare("eq", value, Var("best", x.dtype))
        if DTYPES[x.dtype].is_float:
            found = binary("or", found, compare("ne", value, value))
        position = IndexValue(var(space.along[0]), "int64")
        place = select(found, position, Const(-1 if last else LAST, "int64"))
        steps = (
            Step("best", op, space.along, value, x.dtype),
            Step("place", "max" if last else "min", space.along, place, "int64"),
        )
        definition = Definition(space.axes, Var("place", "int64"), Steps(steps))
        return [node.define(space.shape, "int64", definition)]

    return lower


def _global_pool(kind: _Kind) -> Lower:
    def lower(node: Node) -> list[Tensor]:
        x = node.input(0)
        if x.rank < 3:
            raise node.error(f"needs rank 3 or more, not {x.rank}")
        space = reduction(x, set(range(2, x.rank)), keepdims=True)
        return [reduce_tensor(node, x, space, kind, order=channels_last(x.rank))]

    return lower


OPS: tuple[Op, ...] = (
    *(Op(name, _reduce(kind)) for name, kind in _KINDS.items()),
    *(Op(name, _global_pool(kind)) for name, kind in _GLOBAL.items()),
    Op("ReduceLogSumExp", _reduce_log_sum_exp),
    Op("ArgMax", _arg("max")),
    Op("ArgMin", _arg("min")),
)
