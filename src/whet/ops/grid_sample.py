"""Grids of positions and what images hold there: AffineGrid and GridSample."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from whet.dtypes import DTYPES
from whet.index import Axis, Poly, as_poly, var
from whet.kernel.expr import Expr, IndexValue
from whet.kernel.tensor import Definition, Tensor, axes_for
from whet.ops.build import binary, cast, compare, compute_type, const, select, unary
from whet.ops.node import Node, Op
from whet.ops.operand import agree, attribute_flag, number
from whet.ops.sampling import Interpolation, taps_of

PADDINGS = ("zeros", "border", "reflection")


def lower_affine_grid(node: Node) -> list[Tensor]:
    """Lower ``AffineGrid``: ``theta [n, r, r + 1]`` applied to the centres of an image's elements.

    Coordinates go from -1 to 1, the last dimension of the image first.
    """
    theta, size = node.input(0), node.sizes(1) or ()
    rank = len(size) - 2
    if theta.rank != 3 or rank < 1:
        raise node.error(f"theta {list(theta.shape)} does not fit size {list(size)}")
    wanted = (size[0], as_poly(rank), as_poly(rank + 1))
    agree(node, theta.shape, wanted, "one affine map for each image")
    corners = attribute_flag(node, "align_corners")
    dtype = compute_type(theta.dtype)
    shape = (theta.shape[0], *size[2:], as_poly(rank))
    axes = axes_for(shape)

    def centre(k: int) -> Expr:
        place, extent = IndexValue(var(axes[1 + k]) * 2, dtype), size[2 + k]
        if corners:
            return binary("sub", binary("div", place, _steps(extent, dtype)), 1.0)
        middle = binary("div", binary("add", place, 1.0), number(extent, dtype))
        return binary("sub", middle, 1.0)

    def entry(column: int) -> Expr:
        return cast(theta.at(var(axes[0]), var(axes[-1]), column), dtype)

    body = entry(rank)
    for column in range(rank):
        body = binary("add", body, binary("mul", entry(column), centre(rank - 1 - column)))
    body = cast(body, theta.dtype)
    return [node.define(shape, theta.dtype, Definition(axes, body))]


def _steps(extent: Poly, dtype: str) -> Expr:
    """Return ``extent - 1``, at least 1: an image of one element has its centre at -1."""
    if extent.constant is not None:
        return number(as_poly(max(extent.constant - 1, 1)), dtype)
    return binary("max", number(extent - 1, dtype), 1.0)


# -- GridSample ------------------------------------------------------------------------------------


def lower_grid_sample(node: Node) -> list[Tensor]:
    """Lower ``GridSample``: x ``[n, c, d...]`` at grid ``[n, o..., r]``."""
    x, grid = node.input(0), node.input(1)
    rank = x.rank - 2
    if rank < 1 or grid.rank != x.rank:
        raise node.error(f"x {list(x.shape)} and grid {list(grid.shape)} do not fit")
    agree(node, (grid.shape[-1],), (as_poly(rank),), "coordinates of the grid")
    mode, padding = node.attribute("mode", "linear"), node.attribute("padding_mode", "zeros")
    mode = {"bilinear": "linear", "bicubic": "cubic"}.get(mode, mode)
    if mode not in ("linear", "nearest", "cubic") or padding not in PADDINGS:
        raise node.error(f"mode {mode!r} with padding_mode {padding!r}")
    dtype = "float64" if "float64" in (x.dtype, grid.dtype) else "float32"
    taps = []
    for k in range(rank):
        side = Side(x.shape[2 + k], attribute_flag(node, "align_corners"), padding, dtype)
        position = _positions(node, grid, k, side, mode)
        taps.append(taps_of(node, f"side{k}", position, mode, side.tap))
    shape = (x.shape[0], x.shape[1], *grid.shape[1:-1])
    axes = axes_for(shape)
    sampled = Interpolation(x, tuple(taps), dtype, zeros=padding == "zeros")
    points = (var(axes[0]), *map(var, axes[2:]))
    body, anchor = sampled.at(var(axes[0]), var(axes[1]), (points,) * rank)
    if not DTYPES[x.dtype].is_float:
        body = unary("trunc", body)
    return [node.define(shape, x.dtype, Definition(axes, cast(body, x.dtype), anchor))]


def _positions(node: Node, grid: Tensor, k: int, side: Side, mode: str) -> Tensor:
    """Return where along dimension ``k`` each point of the grid lies, in elements.

    With cubic interpolation only the taps are moved inside, as PyTorch and ONNX Runtime have it.
    """
    rank = grid.rank - 2

    def body(*axes: Axis) -> Expr:
        place = side.place(cast(grid.at(*map(var, axes), rank - 1 - k), side.dtype))
        if mode == "cubic":
            return place
        return side.position(unary("round", place) if mode == "nearest" else place)

    return _pointwise(node, f"position{k}", grid.shape[:-1], body)


def _pointwise(node: Node, name: str, shape: tuple[Poly, ...], body: Callable[..., Expr]) -> Tensor:
    axes = axes_for(shape)
    value = body(*axes)
    return node.temporary(name, shape, value.dtype, Definition(axes, value))


class Side(msgspec.Struct, frozen=True):
    """One dimension of an image that is sampled.

    Attributes:
        extent: number of elements.
        corners: whether -1 and 1 are the centres of the outermost elements, not their edges.
        padding: what is read outside.
        dtype: type of the arithmetic.
    """

    extent: Poly
    corners: bool
    padding: str
    dtype: str

    @property
    def last(self) -> Expr:
        """The last element."""
        return number(self.extent - 1, self.dtype)

    @property
    def edges(self) -> tuple[Expr, Expr]:
        """Where the image begins and ends."""
        if self.corners:
            return const(0.0, self.dtype), self.last
        return const(-0.5, self.dtype), binary("sub", number(self.extent, self.dtype), 0.5)

    def place(self, x: Expr) -> Expr:
        """Return a coordinate between -1 and 1 in elements."""
        moved = binary("add", x, 1.0)
        if self.corners:
            return binary("mul", binary("mul", moved, 0.5), self.last)
        scaled = binary("mul", moved, number(self.extent, self.dtype))
        return binary("mul", binary("sub", scaled, 1.0), 0.5)

    def position(self, place: Expr) -> Expr:
        """Return where to sample; outside of the image the padding says where."""
        if self.padding == "zeros":
            return place
        low, high = self.edges
        outside = binary("or", compare("lt", place, low), compare("gt", place, high))
        inner = self.clamped(place) if self.padding == "border" else self.reflected(place)
        return select(outside, inner, place)

    def tap(self, place: Expr) -> Expr:
        """Return the element that a tap reads."""
        if self.padding == "zeros":
            return place
        return self.clamped(place if self.padding == "border" else self.reflected(place))

    def clamped(self, place: Expr) -> Expr:
        """Return the nearest place between the outermost elements."""
        return binary("max", binary("min", place, self.last), 0.0)

    def reflected(self, place: Expr) -> Expr:
        """Return a place mirrored at both edges until it is inside."""
        low, high = self.edges
        span = binary("sub", high, low)
        away = unary("abs", binary("sub", place, low))
        turns = unary("floor", binary("div", away, span))
        rest = binary("sub", away, binary("mul", turns, span))
        half = binary("mul", turns, 0.5)
        is_even = compare("eq", unary("floor", half), half)
        mirrored = binary("add", select(is_even, rest, binary("sub", span, rest)), low)
        return select(compare("eq", span, 0.0), low, mirrored)


OPS: tuple[Op, ...] = (
    Op("AffineGrid", lower_affine_grid),
    Op("GridSample", lower_grid_sample),
)
