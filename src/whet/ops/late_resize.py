"""Resizing by sizes or scales that are known only at run time.

Where every output position samples, and with which weights, is a table of constants if sizes are
fixed; here it is computed by equations over the output positions.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction

import msgspec

from whet.errors import UnsupportedError
from whet.index import Axis, Poly, as_poly, var
from whet.kernel.expr import Const, Expr, IndexValue, Var
from whet.kernel.spec import Step
from whet.kernel.tensor import Definition, Steps, Tensor, axes_for
from whet.ops.build import binary, cast, compare, select, unary
from whet.ops.late_shapes import elements_of, sizes_from
from whet.ops.node import Node, normalise_axis
from whet.ops.operand import number, numpy_constant

WIDE = "float64"


class LateSide(msgspec.Struct, frozen=True):
    """One resized dimension, whose numbers are expressions.

    Attributes:
        position: which dimension.
        length: its extent before.
        extent: its extent after.
        scale: ratio of the two, as given.
        region: first and last normalised coordinate that is sampled.
    """

    position: int
    length: Poly
    extent: Poly
    scale: Expr
    region: tuple[Expr, Expr]


def real(value: float) -> Const:
    """Return a number in double precision."""
    return Const(float(value), WIDE)


def late_sides(node: Node) -> list[LateSide]:
    """Return how each dimension is resized.

    Raises:
        UnsupportedError: the node has neither sizes nor scales.
    """
    x = node.input(0)
    axes = [normalise_axis(node, int(a), x.rank) for a in node.attribute("axes") or range(x.rank)]
    sizes, scales = node.optional(3), node.optional(2)
    if sizes is not None and sizes.size != 0:
        pairs = _sized(node, x, axes, sizes)
    elif scales is not None and scales.size != 0:
        pairs = _scaled(node, x, axes, scales)
    else:
        raise UnsupportedError(f"{node.op} without sizes or scales", where=node.name)
    region = _region(node, len(axes))
    return [
        LateSide(k, x.shape[k], extent, scale, (region[j], region[len(axes) + j]))
        for j, (k, (extent, scale)) in enumerate(zip(axes, pairs, strict=True))
    ]


def _region(node: Node, count: int) -> list[Expr]:
    given = node.optional(1)
    cropped = node.attribute("coordinate_transformation_mode") == "tf_crop_and_resize"
    if not cropped or given is None or given.size == 0:
        whole: list[Expr] = [real(0)] * count
        return [*whole, *[real(1)] * count]
    return _reals(node, given, 2 * count)


def _reals(node: Node, tensor: Tensor, count: int) -> list[Expr]:
    """Return the elements of a small tensor as numbers in double precision."""
    if tensor.rank != 1 or tensor.size != count:
        raise node.error(f"{tensor.name} has {tensor.size} elements, not {count}")
    fixed = numpy_constant(tensor)
    return [
        cast(tensor.at(k), WIDE) if fixed is None else real(fixed[k].item()) for k in range(count)
    ]


def _scaled(node: Node, x: Tensor, axes: list[int], scales: Tensor) -> list[tuple[Poly, Expr]]:
    values = _reals(node, scales, len(axes))
    counts: list[Expr] = []
    for k, scale in zip(axes, values, strict=True):
        if isinstance(scale, Const):
            ratio = Fraction(scale.value)
            floor = x.shape[k] * ratio.numerator // ratio.denominator
            counts.append(number(floor, "int64"))
        else:
            product = binary("mul", number(x.shape[k], WIDE), scale)
            counts.append(cast(unary("floor", product), "int64"))
    return list(zip(sizes_from(node, "shape", counts), values, strict=True))


def _sized(node: Node, x: Tensor, axes: list[int], sizes: Tensor) -> list[tuple[Poly, Expr]]:
    wanted = elements_of(node, sizes)
    if len(wanted) != len(axes):
        raise node.error("needs one size per dimension")
    lengths = [number(x.shape[k], WIDE) for k in axes]
    ratios = [
        binary("div", cast(w, WIDE), length) for w, length in zip(wanted, lengths, strict=True)
    ]
    policy = node.attribute("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        scale = ratios[0]
        for ratio in ratios[1:]:
            scale = binary("min" if policy == "not_larger" else "max", scale, ratio)
        ratios = [scale] * len(axes)
        halves = [binary("add", binary("mul", scale, length), 0.5) for length in lengths]
        wanted = [cast(unary("floor", h), "int64") for h in halves]
    return list(zip(sizes_from(node, "shape", wanted), ratios, strict=True))


# -- where positions lie ---------------------------------------------------------------------------


def _half_pixel(s: LateSide, y: Expr) -> Expr:
    return binary("sub", binary("div", binary("add", y, 0.5), s.scale), 0.5)


def _half_pixel_symmetric(s: LateSide, y: Expr) -> Expr:
    length = number(s.length, WIDE)
    adjustment = binary("div", number(s.extent, WIDE), binary("mul", s.scale, length))
    middle = binary("mul", binary("mul", length, 0.5), binary("sub", real(1), adjustment))
    return binary("add", middle, _half_pixel(s, y))


def _width(s: LateSide) -> Expr:
    return binary("mul", s.scale, number(s.length, WIDE))


def _pytorch_half_pixel(s: LateSide, y: Expr) -> Expr:
    return select(compare("ne", _width(s), 1.0), _half_pixel(s, y), real(-0.5))


def _align_corners(s: LateSide, y: Expr) -> Expr:
    width = _width(s)
    last = binary("sub", number(s.length, WIDE), 1.0)
    ratio = binary("div", binary("mul", y, last), binary("sub", width, 1.0))
    return select(compare("ne", width, 1.0), ratio, real(0))


def _asymmetric(s: LateSide, y: Expr) -> Expr:
    return binary("div", y, s.scale)


def _crop_and_resize(s: LateSide, y: Expr) -> Expr:
    start, end = s.region
    width, last = _width(s), binary("sub", number(s.length, WIDE), 1.0)
    span = binary("mul", binary("sub", end, start), last)
    moved = binary("div", binary("mul", y, span), binary("sub", width, 1.0))
    inner = select(compare("ne", width, 1.0), moved, binary("mul", span, 0.5))
    return binary("add", inner, binary("mul", start, last))


COORDINATES: dict[str, Callable[[LateSide, Expr], Expr]] = {
    "half_pixel": _half_pixel,
    "half_pixel_symmetric": _half_pixel_symmetric,
    "pytorch_half_pixel": _pytorch_half_pixel,
    "align_corners": _align_corners,
    "asymmetric": _asymmetric,
    "tf_crop_and_resize": _crop_and_resize,
}

ROUNDINGS: dict[str, Callable[[Expr], Expr]] = {
    "round_prefer_floor": lambda x: unary("ceil", binary("sub", x, 0.5)),
    "round_prefer_ceil": lambda x: unary("floor", binary("add", x, 0.5)),
    "floor": lambda x: unary("floor", x),
    "ceil": lambda x: unary("ceil", x),
}


def position(side: LateSide, coordinates: str, axis: Axis) -> Expr:
    """Return the coordinate in the input of an output position."""
    return COORDINATES[coordinates](side, IndexValue(var(axis), WIDE))


def is_outside(side: LateSide, coordinates: str, axis: Axis) -> Expr:
    """Return whether an output position samples outside of the input."""
    place = position(side, coordinates, axis)
    last = binary("sub", number(side.length, WIDE), 1.0)
    return binary("or", compare("lt", place, 0.0), compare("gt", place, last))


def _clipped(side: LateSide, index: Expr) -> Expr:
    last = binary("sub", number(side.length, WIDE), 1.0)
    return cast(binary("max", binary("min", index, last), 0.0), "int64")


def nearest_table(node: Node, side: LateSide, coordinates: str, rounding: str) -> Tensor:
    """Return the index that every output position copies."""
    (axis,) = axes_for((side.extent,))
    index = ROUNDINGS[rounding](position(side, coordinates, axis))
    definition = Definition((axis,), _clipped(side, index))
    return node.temporary(f"index{side.position}", (side.extent,), "int64", definition)


# -- interpolation ---------------------------------------------------------------------------------


def _linear(distance: Expr) -> Expr:
    return binary("max", binary("sub", real(1), unary("abs", distance)), 0.0)


def _cubic(a: float) -> Callable[[Expr], Expr]:
    """Return Keys' cubic convolution kernel with coefficient ``a``."""

    def horner(d: Expr, *factors: float) -> Expr:
        total: Expr = real(factors[0])
        for factor in factors[1:]:
            total = binary("add", binary("mul", total, d), factor)
        return total

    def weight(distance: Expr) -> Expr:
        d = unary("abs", distance)
        near = horner(d, a + 2, -(a + 3), 0.0, 1.0)
        far = horner(d, a, -5 * a, 8 * a, -4 * a)
        outer = select(compare("lt", d, 2.0), far, real(0))
        return select(compare("le", d, 1.0), near, outer)

    return weight


class Filter(msgspec.Struct, frozen=True):
    """What a late interpolation is made of.

    Attributes:
        coordinates: ONNX's coordinate transformation mode.
        cubic: coefficient of cubic interpolation, or ``None`` for linear.
        antialias: whether the filter is stretched by the inverse of the scale.
        inside: whether taps outside weigh nothing.
    """

    coordinates: str
    cubic: float | None
    antialias: bool
    inside: bool


def interpolation_tables(
    node: Node, side: LateSide, how: Filter, dtype: str
) -> tuple[Tensor, Tensor]:
    """Return indices and weights, ``[extent, taps]``; see ``resize_taps.interpolation``."""
    reach = 1 if how.cubic is None else 2
    weigh = _linear if how.cubic is None else _cubic(how.cubic)
    shrink = binary("min", side.scale, 1.0) if how.antialias else real(1)
    first: Expr = real(1 - reach)
    taps: Poly = as_poly(2 * reach)
    if how.antialias:
        first = binary("add", unary("floor", binary("div", real(-reach), shrink)), 1.0)
        count = binary("sub", real(2), binary("mul", first, 2.0))
        (taps,) = sizes_from(node, f"taps{side.position}", [cast(count, "int64")])
    axes = axes_for((side.extent, taps))
    x = position(side, how.coordinates, axes[0])
    offset = binary("add", IndexValue(var(axes[1]), WIDE), first)
    index = binary("add", binary("sub", unary("ceil", x), 1.0), offset)
    weight = weigh(binary("mul", binary("sub", index, x), shrink))
    if how.inside:
        last = binary("sub", number(side.length, WIDE), 1.0)
        outside = binary("or", compare("lt", index, 0.0), compare("gt", index, last))
        weight = select(outside, real(0), weight)
    shape, k = (side.extent, taps), side.position
    places = Definition(axes, _clipped(side, index))
    indices = node.temporary(f"taps{k}", shape, "int64", places)
    if not (how.inside or how.antialias):
        definition = Definition(axes, cast(weight, dtype))
        return indices, node.temporary(f"weights{k}", shape, dtype, definition)
    raw = node.temporary(f"raw{k}", shape, WIDE, Definition(axes, weight))
    return indices, _normalised(node, raw, k, dtype)


def _normalised(node: Node, raw: Tensor, k: int, dtype: str) -> Tensor:
    """Return weights divided by the sum of each row, unless that is 0."""
    (row,) = axes_for(raw.shape[:1])
    tap = Axis("t", raw.shape[1])
    step = Step("total", "sum", (tap,), raw.at(var(row), var(tap)), WIDE)
    definition = Definition((row,), Var("total", WIDE), Steps((step,)))
    sums = node.temporary(f"sums{k}", raw.shape[:1], WIDE, definition)
    axes = axes_for(raw.shape)
    total = sums.at(var(axes[0]))
    divisor = select(compare("eq", total, 0.0), real(1), total)
    body = cast(binary("div", raw.at(var(axes[0]), var(axes[1])), divisor), dtype)
    return node.temporary(f"weights{k}", raw.shape, dtype, Definition(axes, body))
