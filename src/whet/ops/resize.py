"""Resize and Upsample: nearest, linear and cubic, one dimension after the other."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from whet.errors import UnsupportedError
from whet.index import Axis, Poly, as_poly, var
from whet.kernel.expr import Expr, Var, index_of
from whet.kernel.spec import Step
from whet.kernel.tensor import Definition, Steps, Tensor, axes_for
from whet.ops.build import binary, cast, const, select
from whet.ops.late_resize import (
    WIDE,
    Filter,
    LateSide,
    interpolation_tables,
    is_outside,
    late_sides,
    nearest_table,
    real,
)
from whet.ops.movement import replaced
from whet.ops.node import Node, Op, constant, normalise_axis
from whet.ops.operand import attribute_flag, attribute_float, number, numpy_constant
from whet.ops.resize_taps import COORDINATES, ROUNDINGS, Sampling, interpolation, nearest

MAX_UNROLLED_TAPS = 4


class _Side(msgspec.Struct, frozen=True):
    """One resized dimension: its number, its new extent, its scale and the sampled region."""

    position: int
    extent: Poly
    scale: float
    region: tuple[float, float] = (0.0, 1.0)


class _Mode(msgspec.Struct, frozen=True):
    """How values between elements come about."""

    mode: str
    coordinates: str
    rounding: str
    antialias: bool
    inside: bool
    cubic: float
    outside: float


def _mode_of(node: Node, mode: str, coordinates: str, rounding: str) -> _Mode:
    known = coordinates in COORDINATES and rounding in ROUNDINGS
    if mode not in ("nearest", "linear", "cubic") or not known:
        raise UnsupportedError(f"{node.op} with {mode}, {coordinates}, {rounding}", where=node.name)
    return _Mode(
        mode,
        coordinates,
        rounding,
        attribute_flag(node, "antialias"),
        attribute_flag(node, "exclude_outside"),
        attribute_float(node, "cubic_coeff_a", -0.75),
        attribute_float(node, "extrapolation_value", 0.0),
    )


def _resize(node: Node) -> list[Tensor]:
    mode = _mode_of(
        node,
        node.attribute("mode", "nearest"),
        node.attribute("coordinate_transformation_mode", "half_pixel"),
        node.attribute("nearest_mode", "round_prefer_floor"),
    )
    try:
        return [_resized(node, mode, _sides(node))]
    except UnsupportedError:
        if node.late is None:
            raise
        return [_resized(node, mode, late_sides(node))]


def _upsample(node: Node) -> list[Tensor]:
    """Lower the operator that Resize replaced: asymmetric coordinates, rounded down."""
    mode = _mode_of(node, node.attribute("mode", "nearest"), "asymmetric", "floor")
    x, scales = node.input(0), _floats(node, 1)
    if scales is None or len(scales) != x.rank:
        raise node.error("needs one scale per dimension")
    return [_resized(node, mode, _scaled(node, list(range(x.rank)), scales))]


# -- sizes -----------------------------------------------------------------------------------------


def _floats(node: Node, position: int) -> list[float] | None:
    """Return a small input of numbers; ``None`` if it is left out or empty.

    Raises:
        UnsupportedError: it depends on data.
    """
    tensor = node.optional(position)
    if tensor is None or tensor.size == 0:
        return None
    fixed = numpy_constant(tensor)
    if fixed is None:
        raise UnsupportedError(f"{node.op} takes its input {position} from data", where=node.name)
    return [float(v) for v in fixed.reshape(-1)]


def _sides(node: Node) -> list[_Side]:
    x = node.input(0)
    axes = [normalise_axis(node, int(a), x.rank) for a in node.attribute("axes") or range(x.rank)]
    sizes = node.optional(3)
    if sizes is not None and sizes.size != 0:
        found = _sized(node, axes)
    else:
        scales = _floats(node, 2)
        if scales is None or len(scales) != len(axes):
            raise node.error("needs one scale or size per dimension")
        found = _scaled(node, axes, scales)
    if node.attribute("coordinate_transformation_mode") != "tf_crop_and_resize":
        return found
    region = _floats(node, 1) or [0.0] * len(axes) + [1.0] * len(axes)
    half = len(axes)
    return [
        _Side(s.position, s.extent, s.scale, (region[k], region[half + k]))
        for k, s in enumerate(found)
    ]


def _scaled(node: Node, axes: list[int], scales: list[float]) -> list[_Side]:
    shape = node.input(0).shape
    return [_Side(k, _times(node, shape[k], s), s) for k, s in zip(axes, scales, strict=True)]


def _times(node: Node, extent: Poly, scale: float) -> Poly:
    if scale == int(scale):
        return extent * int(scale)
    if extent.constant is not None:
        return as_poly(int(scale * extent.constant))
    if (1 / scale) == int(1 / scale):
        return extent // int(1 / scale)
    raise _runtime(node, extent)


def _runtime(node: Node, extent: Poly) -> UnsupportedError:
    return UnsupportedError(
        f"{node.op} of the run-time dimension {extent} by other than a whole factor",
        where=node.name,
        hint="give static spatial dimensions",
    )


def _sized(node: Node, axes: list[int]) -> list[_Side]:
    shape, sizes = node.input(0).shape, node.extents(3)
    if sizes is None or len(sizes) != len(axes):
        raise node.error("needs one size per dimension")
    pairs = list(zip(axes, sizes, strict=True))
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    if policy == "stretch":
        return [_Side(k, size, _ratio(node, shape[k], size)) for k, size in pairs]
    ratios = [_ratio(node, shape[k], size) for k, size in pairs]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    rounded = ((k, shape[k].constant) for k in axes)
    return [_Side(k, as_poly(int(scale * n + 0.5)), scale) for k, n in rounded if n is not None]


def _ratio(node: Node, before: Poly, after: Poly) -> float:
    if before == after:
        return 1.0
    if before.constant and after.constant is not None:
        return after.constant / before.constant
    quotient, rest = after // before, after % before
    if quotient.constant is None or rest != 0:
        raise _runtime(node, before)
    return float(quotient.constant)


# -- values ----------------------------------------------------------------------------------------


AnySide = _Side | LateSide


def _moves(x: Tensor, side: AnySide) -> bool:
    if isinstance(side, LateSide):
        same = side.extent == x.shape[side.position] and side.scale in (real(1), _itself(side))
        return not same or side.region != (real(0), real(1))
    return side.extent != x.shape[side.position] or side.scale != 1 or side.region != (0.0, 1.0)


def _itself(side: LateSide) -> Expr:
    """Return the scale of a dimension that is resized to its own extent."""
    length = number(side.length, WIDE)
    return binary("div", cast(number(side.length, "int64"), WIDE), length)


def _resized(node: Node, mode: _Mode, sides: Sequence[AnySide]) -> Tensor:
    x = node.input(0)
    moved = [s for s in sides if _moves(x, s)]
    if mode.mode == "nearest":
        return _copied(node, mode, moved)
    result = x
    for count, side in enumerate(moved, start=1):
        last = count == len(moved)
        result = _interpolated(node, mode, (result, side), last=last)
    return result if moved else _copied(node, mode, [])


def _sampling(node: Node, mode: _Mode, x: Tensor, side: _Side) -> Sampling:
    length, count = x.shape[side.position].constant, side.extent.constant
    if length is None or count is None:
        raise _runtime(node, x.shape[side.position])
    return Sampling(length, count, side.scale, mode.coordinates, side.region)


def _copied(node: Node, mode: _Mode, sides: Sequence[AnySide]) -> Tensor:
    """Copy the nearest element along all dimensions at once."""
    x = node.input(0)
    shape = list(x.shape)
    for side in sides:
        shape[side.position] = side.extent
    axes = axes_for(tuple(shape))
    index = [var(a) for a in axes]
    for side in sides:
        index[side.position] = _nearest_index(node, mode, side, axes[side.position])
    body: Expr = x.at(*index)
    for side in sides:
        body = _extrapolated(node, mode, (x, side), axes[side.position], body)
    return node.define(tuple(shape), x.dtype, Definition(axes, body))


def _nearest_index(node: Node, mode: _Mode, side: AnySide, axis: Axis) -> Poly:
    """Return the copied index: a quotient or a multiple where it is one, else from a table."""
    x = node.input(0)
    extent = x.shape[side.position]
    if isinstance(side, LateSide):
        late = nearest_table(node, side, mode.coordinates, mode.rounding)
        return index_of(late.at(var(axis)), 0, extent)
    factor = int(side.scale)
    repeats = factor == side.scale and extent * factor == side.extent
    if extent.constant is None or side.extent.constant is None:
        if repeats and _is_quotient(mode):
            return var(axis) // factor
        raise _runtime(node, extent)
    table = nearest(_sampling(node, mode, x, side), mode.rounding)
    places = np.arange(len(table))
    if repeats and (table == places // factor).all():
        return var(axis) // factor
    step = int(table[1] - table[0]) if len(table) > 1 else 0
    if len(table) and (table == table[0] + places * step).all():
        return var(axis) * step + int(table[0])
    lookup = constant(f"{node.name}.index{side.position}", table)
    return index_of(lookup.at(var(axis)), 0, extent)


def _is_quotient(mode: _Mode) -> bool:
    """Whether every element is repeated, whatever the whole factor f.

    The centre of pixel o lies at (o + 1/2) / f - 1/2, never halfway between two whole numbers, of
    which o // f is the nearest.
    """
    if mode.coordinates == "asymmetric":
        return mode.rounding == "floor"
    return mode.coordinates.endswith("half_pixel") and mode.rounding.startswith("round")


def _extrapolated(
    node: Node, mode: _Mode, source: tuple[Tensor, AnySide], axis: Axis, body: Expr
) -> Expr:
    """Replace what lies outside of the input, where the coordinate mode asks for it."""
    x, side = source
    if mode.coordinates != "tf_crop_and_resize":
        return body
    if isinstance(side, LateSide):
        late = is_outside(side, mode.coordinates, axis)
        return select(late, const(mode.outside, body.dtype), body)
    sampling = _sampling(node, mode, x, side)
    place = sampling.positions()
    outside = (place < 0) | (place > sampling.length - 1)
    if not outside.any():
        return body
    table = constant(f"{node.name}.outside{side.position}", outside)
    return select(table.at(var(axis)), const(mode.outside, body.dtype), body)


def _interpolated(node: Node, mode: _Mode, source: tuple[Tensor, AnySide], *, last: bool) -> Tensor:
    """Interpolate along one dimension, in floats; the last one has the type of the output."""
    x, side = source
    k = side.position
    dtype = "float64" if x.dtype == "float64" else "float32"
    tables = _tables(node, mode, source, dtype)
    axes = axes_for((*x.shape[:k], side.extent, *x.shape[k + 1 :]))
    body, anchor = _weighted(x, tables, (axes, k), dtype)
    body = _extrapolated(node, mode, source, axes[k], body)
    shape = tuple(a.extent for a in axes)
    if not last:
        return node.temporary(f"resize{k}", shape, dtype, Definition(axes, body, anchor))
    goal = node.input(0).dtype
    definition = Definition(axes, cast(body, goal), anchor)
    return node.define(shape, goal, definition)


def _tables(
    node: Node, mode: _Mode, source: tuple[Tensor, AnySide], dtype: str
) -> tuple[Tensor, Tensor]:
    """Return indices and weights of the taps of every output position."""
    x, side = source
    cubic = mode.cubic if mode.mode == "cubic" else None
    if isinstance(side, LateSide):
        how = Filter(mode.coordinates, cubic, mode.antialias, mode.inside)
        return interpolation_tables(node, side, how, dtype)
    sampling = _sampling(node, mode, x, side)
    index, weight = interpolation(sampling, cubic, antialias=mode.antialias, inside=mode.inside)
    return (
        constant(f"{node.name}.taps{side.position}", index.astype(np.int64)),
        constant(f"{node.name}.weights{side.position}", weight.astype(dtype)),
    )


def _weighted(
    x: Tensor, tables: tuple[Tensor, Tensor], where: tuple[tuple[Axis, ...], int], dtype: str
) -> tuple[Expr, Steps | None]:
    """Return the weighted sum of the taps: written out if they are few, else a reduction."""
    (axes, k), (index, weight) = where, tables
    here, extent = var(axes[k]), x.shape[k]

    def term(tap: Poly) -> Expr:
        place = index_of(index.at(here, tap), 0, extent)
        value = cast(x.at(*replaced(axes, k, place)), dtype)
        return binary("mul", value, weight.at(here, tap))

    count = index.shape[1].constant
    if count is None or count > MAX_UNROLLED_TAPS:
        r = Axis("r", index.shape[1])
        return Var("total", dtype), Steps((Step("total", "sum", (r,), term(var(r)), dtype),))
    total = term(as_poly(0))
    for tap in range(1, count):
        total = binary("add", total, term(as_poly(tap)))
    return total, None


OPS: tuple[Op, ...] = (Op("Resize", _resize), Op("Upsample", _upsample))
