"""Regions of interest of images: RoiAlign and MaxRoiPool."""

from __future__ import annotations

import msgspec
import numpy as np

from whet.errors import UnsupportedError
from whet.index import Axis, Poly, as_poly, var
from whet.kernel.expr import Expr, IndexValue, Var, index_of
from whet.kernel.spec import Step
from whet.kernel.tensor import Definition, Steps, Tensor, axes_for
from whet.ops.build import binary, cast, compare, compute_type, const, select, unary
from whet.ops.node import Node, Op
from whet.ops.operand import attribute_float, number
from whet.ops.sampling import Interpolation, Taps, taps_of

NEAR = 6
"""Samples that one element can take part in: they lie more than 1/2 apart, within 2 elements."""


class _Side(msgspec.Struct, frozen=True):
    """One dimension of all regions, cut into bins.

    Attributes:
        node: the node that is lowered.
        name: part of the names of tensors.
        columns: where a region's first and last coordinate stand.
        bins: number of bins.
        extent: elements of the image.
        dtype: type of the arithmetic.
    """

    node: Node
    name: str
    columns: tuple[int, int]
    bins: int
    extent: Poly
    dtype: str

    @property
    def rois(self) -> Tensor:
        """The regions."""
        return self.node.input(1)

    def ends(self, region: Poly) -> tuple[Expr, Expr]:
        """Return where a region begins and ends, in elements."""
        scale = attribute_float(self.node, "spatial_scale", 1.0)
        first, last = (cast(self.rois.at(region, c), self.dtype) for c in self.columns)
        return binary("mul", first, scale), binary("mul", last, scale)


# -- RoiAlign --------------------------------------------------------------------------------------


class _Aligned(msgspec.Struct, frozen=True):
    """How samples stand in the bins of one dimension."""

    side: _Side
    half: bool
    ratio: int

    def sizes(self, region: Poly) -> tuple[Expr, Expr, Expr]:
        """Return a region's begin, the size of its bins and the samples in each."""
        first, last = self.side.ends(region)
        shift = 0.5 if self.half else 0.0
        start = binary("sub", first, shift)
        size = binary("sub", binary("sub", last, shift), start)
        if not self.half:
            size = binary("max", size, 1.0)
        size = binary("div", size, float(self.side.bins))
        if self.ratio > 0:
            return start, size, const(float(self.ratio), self.side.dtype)
        return start, size, unary("ceil", size)

    def sample(self, region: Poly, place: Expr, number_: Expr) -> Expr:
        """Return where sample ``number_`` of bin ``place`` stands."""
        start, size, count = self.sizes(region)
        inside = binary("div", binary("mul", binary("add", number_, 0.5), size), count)
        return binary("add", binary("add", start, binary("mul", place, size)), inside)

    def seen(self, place: Expr) -> Expr:
        """Whether a sample is not too far outside."""
        below = compare("ge", place, -1.0)
        return binary("and", below, compare("le", place, self._number(self.side.extent)))

    def clamped(self, place: Expr) -> Expr:
        """Return the nearest place between the outermost elements."""
        return binary("max", binary("min", place, self._number(self.side.extent - 1)), 0.0)

    def _number(self, extent: Poly) -> Expr:
        return number(extent, self.side.dtype)

    def taps(self) -> Taps:
        """Return the taps of ``[region, bin, sample]``; those of unseen samples lie outside."""
        side = self.side
        shape = (side.rois.shape[0], as_poly(side.bins), as_poly(self.ratio))
        axes = axes_for(shape)
        r, p, i = map(var, axes)
        place = self.sample(r, IndexValue(p, side.dtype), IndexValue(i, side.dtype))
        body = select(self.seen(place), self.clamped(place), const(-9.0, side.dtype))
        name = f"{side.name}_position"
        position = side.node.temporary(name, shape, side.dtype, Definition(axes, body))
        return taps_of(side.node, side.name, position, "linear", lambda at: at)

    def weights(self) -> Tensor:
        """Return how much each element adds to a bin, ``[region, bin, element]``.

        Only the samples next to an element are visited, however many a bin has.
        """
        side = self.side
        axes = axes_for((side.rois.shape[0], as_poly(side.bins), side.extent))
        r, p, y = map(var, axes)
        near = Axis("near", as_poly(NEAR))
        start, size, count = self.sizes(r)
        here, place = IndexValue(y, side.dtype), IndexValue(p, side.dtype)
        first = binary("add", start, binary("mul", place, size))
        away = binary("sub", binary("sub", here, 1.0), first)
        begin = binary("sub", binary("div", binary("mul", away, count), size), 0.5)
        lowest = binary("max", unary("floor", begin), 0.0)
        number_ = binary("add", lowest, IndexValue(var(near), side.dtype))
        sample = self.sample(r, place, number_)
        distance = unary("abs", binary("sub", self.clamped(sample), here))
        share = binary("max", binary("sub", const(1.0, side.dtype), distance), 0.0)
        exists = binary("and", compare("ge", number_, 0.0), compare("lt", number_, count))
        body = select(binary("and", exists, self.seen(sample)), share, const(0.0, side.dtype))
        step = Step("total", "sum", (near,), body, side.dtype)
        total = Var("total", side.dtype)
        shape = tuple(a.extent for a in axes)
        definition = Definition(axes, total, Steps((step,)))
        return side.node.temporary(f"{side.name}_weights", shape, side.dtype, definition)


def lower_roi_align(node: Node) -> list[Tensor]:
    """Lower ``RoiAlign``: x ``[n, c, h, w]``, regions ``[r, 4]``; source: ONNX RoiAlign."""
    x, rois, batch = node.input(0), node.input(1), node.input(2)
    if x.rank != 4 or rois.rank != 2 or batch.rank != 1:
        raise node.error(f"x {list(x.shape)} and rois {list(rois.shape)} do not fit")
    mode, ratio = node.attribute("mode", "avg"), int(node.attribute("sampling_ratio", 0))
    bins = (int(node.attribute("output_height", 1)), int(node.attribute("output_width", 1)))
    half = node.attribute("coordinate_transformation_mode", "half_pixel") == "half_pixel"
    dtype = compute_type(x.dtype)
    y, z = (
        _Aligned(
            _Side(node, f"side{k}", (1 - k, 3 - k), bins[k], x.shape[2 + k], dtype), half, ratio
        )
        for k in range(2)
    )
    if ratio > 0:
        return [_sampled(node, (y, z), mode)]
    if mode != "avg":
        raise UnsupportedError(
            "RoiAlign of the greatest of an adaptive number of samples",
            where=node.name,
            hint="set sampling_ratio",
        )
    return [_averaged(node, (y, z))]


def _image(node: Node, region: Poly) -> Poly:
    return index_of(cast(node.input(2).at(region), "int64"), 0, node.input(0).shape[0])


def _sampled(node: Node, sides: tuple[_Aligned, _Aligned], mode: str) -> Tensor:
    """Combine a fixed number of samples in every bin."""
    x, rois = node.input(0), node.input(1)
    dtype, ratio = sides[0].side.dtype, sides[0].ratio
    sampled = Interpolation(x, tuple(s.taps() for s in sides), dtype, zeros=True)
    bins = (as_poly(s.side.bins) for s in sides)
    axes = axes_for((rois.shape[0], x.shape[1], *bins))
    r, c, p, q = map(var, axes)
    i, j = Axis("i", as_poly(ratio)), Axis("j", as_poly(ratio))
    points = ((r, p, var(i)), (r, q, var(j)))
    average = mode == "avg"
    value = sampled.combined(_image(node, r), c, points, "add" if average else "max")
    step = Step("total", "sum" if average else "max", (i, j), value, dtype)
    body: Expr = Var("total", dtype)
    if average:
        body = binary("div", body, float(ratio * ratio))
    shape = tuple(a.extent for a in axes)
    return node.define(shape, x.dtype, Definition(axes, cast(body, x.dtype), Steps((step,))))


def _averaged(node: Node, sides: tuple[_Aligned, _Aligned]) -> Tensor:
    """Average any number of samples: weighted sums over all rows, then over all columns."""
    x, rois = node.input(0), node.input(1)
    dtype = sides[0].side.dtype
    rows, columns = (s.weights() for s in sides)
    bins = [as_poly(s.side.bins) for s in sides]
    axes = axes_for((rois.shape[0], x.shape[1], bins[0], x.shape[3]))
    r, c, p, w = map(var, axes)
    h = Axis("h", x.shape[2])
    element = cast(x.at(_image(node, r), c, var(h), w), dtype)
    step = Step("total", "sum", (h,), binary("mul", rows.at(r, p, var(h)), element), dtype)
    shape = tuple(a.extent for a in axes)
    definition = Definition(axes, Var("total", dtype), Steps((step,)))
    partial = node.temporary("rows", shape, dtype, definition)

    axes = axes_for((rois.shape[0], x.shape[1], *bins))
    r, c, p, q = map(var, axes)
    along = Axis("w", x.shape[3])
    term = binary("mul", columns.at(r, q, var(along)), partial.at(r, c, p, var(along)))
    count = binary("max", binary("mul", sides[0].sizes(r)[2], sides[1].sizes(r)[2]), 1.0)
    body = cast(binary("div", Var("total", dtype), count), x.dtype)
    step = Step("total", "sum", (along,), term, dtype)
    shape = tuple(a.extent for a in axes)
    return node.define(shape, x.dtype, Definition(axes, body, Steps((step,))))


# -- MaxRoiPool ------------------------------------------------------------------------------------


def lower_max_roi_pool(node: Node) -> list[Tensor]:
    """Lower ``MaxRoiPool``: regions ``[r, 5]`` of batch entry and corners; source: ONNX MaxRoiPool.

    The greatest of a bin's rows is found first, then that of its columns; an empty bin gives 0.
    """
    x, rois = node.input(0), node.input(1)
    bins = tuple(int(n) for n in node.attribute("pooled_shape"))
    if x.rank != 4 or rois.rank != 2 or len(bins) != 2:
        raise node.error(f"x {list(x.shape)} and rois {list(rois.shape)} do not fit")
    sides = [
        _Side(node, f"side{k}", (2 - k, 4 - k), bins[k], x.shape[2 + k], compute_type(x.dtype))
        for k in range(2)
    ]
    axes = axes_for((rois.shape[0], x.shape[1], as_poly(bins[0]), x.shape[3]))
    r, c, p, w = map(var, axes)
    h = Axis("h", x.shape[2])
    image = index_of(cast(rois.at(r, 0), "int64"), 0, x.shape[0])
    lowest = const(-np.inf, x.dtype)
    body = select(_in_bin(sides[0], r, p, var(h)), x.at(image, c, var(h), w), lowest)
    step = Step("best", "max", (h,), body, x.dtype)
    shape = tuple(a.extent for a in axes)
    definition = Definition(axes, Var("best", x.dtype), Steps((step,)))
    rows = node.temporary("rows", shape, x.dtype, definition)

    axes = axes_for((rois.shape[0], x.shape[1], *map(as_poly, bins)))
    r, c, p, q = map(var, axes)
    along = Axis("w", x.shape[3])
    body = select(_in_bin(sides[1], r, q, var(along)), rows.at(r, c, p, var(along)), lowest)
    step = Step("best", "max", (along,), body, x.dtype)
    best = Var("best", x.dtype)
    result = select(compare("eq", best, -np.inf), const(0.0, x.dtype), best)
    shape = tuple(a.extent for a in axes)
    return [node.define(shape, x.dtype, Definition(axes, result, Steps((step,))))]


def _in_bin(side: _Side, region: Poly, place: Poly, element: Poly) -> Expr:
    """Whether an element is in a bin, whose edges are rounded outwards."""
    begin, end = (_rounded(e) for e in side.ends(region))
    span = binary("max", binary("add", binary("sub", end, begin), 1.0), 1.0)
    size = binary("div", span, float(side.bins))
    low, high = (
        binary("add", unary(op, binary("mul", IndexValue(p, side.dtype), size)), begin)
        for op, p in (("floor", place), ("ceil", place + 1))
    )
    here = IndexValue(element, side.dtype)
    return binary("and", compare("ge", here, low), compare("lt", here, high))


def _rounded(x: Expr) -> Expr:
    """Round to the nearest, halves away from zero, as C does."""
    away = unary("floor", binary("add", unary("abs", x), 0.5))
    return select(compare("lt", x, 0.0), unary("neg", away), away)


OPS: tuple[Op, ...] = (
    Op("RoiAlign", lower_roi_align),
    Op("MaxRoiPool", lower_max_roi_pool),
)
