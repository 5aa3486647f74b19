"""Values of images between their elements: linear, cubic and nearest interpolation.

Positions come from data. For every dimension they become a tensor of indices and one of weights,
shared by all channels, and a value is the weighted sum over the taps of all dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product as combinations

import msgspec

from whet.index import Axis, Poly, as_poly, var
from whet.kernel.expr import Expr, IndexValue, Var, Within, guard, index_of
from whet.kernel.spec import Step
from whet.kernel.tensor import Definition, Steps, Tensor
from whet.ops.build import binary, cast, const, unary
from whet.ops.node import Node

Index = tuple[Poly, ...]
CUBIC = -0.75
"""Coefficient of the cubic kernel, as ONNX and PyTorch have it."""
MAX_UNROLLED_TAPS = 8


class Taps(msgspec.Struct, frozen=True):
    """What an interpolation reads along one dimension.

    Attributes:
        index: the element that a tap reads, at a position's point and the tap; may lie outside.
        weight: its weight; ``None`` if there is one tap of weight 1.
        count: number of taps.
    """

    index: Tensor
    weight: Tensor | None
    count: int


def cubic_weight(distance: Expr, tap: int) -> Expr:
    """Return the weight of one of four taps; ``distance`` is that from the second one.

    Keys, "Cubic convolution interpolation for digital image processing", 1981.
    """

    def polynomial(x: Expr, *factors: float) -> Expr:
        total: Expr = const(factors[0], x.dtype)
        for factor in factors[1:]:
            total = binary("add", binary("mul", total, x), factor)
        return total

    near = (CUBIC + 2, -(CUBIC + 3), 0.0, 1.0)
    far = (CUBIC, -5 * CUBIC, 8 * CUBIC, -4 * CUBIC)
    away = binary("sub", const(1.0, distance.dtype), distance)
    forms = {
        0: (binary("add", distance, 1.0), far),
        1: (distance, near),
        2: (away, near),
        3: (binary("add", away, 1.0), far),
    }
    x, factors = forms[tap]
    return polynomial(x, *factors)


def linear_weight(distance: Expr, tap: int) -> Expr:
    """Return the weight of one of two taps; ``distance`` is that from the first one."""
    return distance if tap else binary("sub", const(1.0, distance.dtype), distance)


MODES: dict[str, tuple[int, Callable[[Expr, int], Expr]]] = {
    "linear": (2, linear_weight),
    "cubic": (4, cubic_weight),
}


def taps_of(
    node: Node, name: str, position: Tensor, mode: str, moved: Callable[[Expr], Expr]
) -> Taps:
    """Return the taps of positions along one dimension.

    Args:
        node: the node that is lowered.
        name: part of the names of the tensors.
        position: where to interpolate, in elements.
        mode: ``linear``, ``cubic`` or ``nearest``; positions are whole numbers then.
        moved: where a tap reads, given where it stands.
    """
    points = tuple(Axis(f"p{k}", e) for k, e in enumerate(position.shape))
    place = position.at(*map(var, points))
    if mode == "nearest":
        body = cast(moved(place), "int32")
        return Taps(_temporary(node, f"{name}_index", points, body), None, 1)
    count, weight = MODES[mode]
    tap = Axis("tap", as_poly(count))
    first = unary("floor", place)
    step = binary("sub", IndexValue(var(tap), place.dtype), count // 2 - 1)
    index = cast(moved(binary("add", first, step)), "int32")
    distance = binary("sub", place, first)
    body = weight(distance, count - 1)
    for k in reversed(range(count - 1)):
        body = guard((Within(var(tap) - k, as_poly(1)),), weight(distance, k), body)
    return Taps(
        _temporary(node, f"{name}_index", (*points, tap), index),
        _temporary(node, f"{name}_weight", (*points, tap), body),
        count,
    )


def _temporary(node: Node, name: str, axes: tuple[Axis, ...], body: Expr) -> Tensor:
    shape = tuple(a.extent for a in axes)
    return node.temporary(name, shape, body.dtype, Definition(axes, body))


class Interpolation(msgspec.Struct, frozen=True):
    """Interpolation in some of a tensor's dimensions.

    Attributes:
        x: the tensor; its first dimensions are batch and channels.
        taps: one for each dimension after those.
        dtype: type of the arithmetic.
        zeros: whether taps outside read 0; else they are known to be inside.
    """

    x: Tensor
    taps: tuple[Taps, ...]
    dtype: str
    zeros: bool

    def at(
        self, batch: Poly, channel: Poly, points: tuple[Index, ...]
    ) -> tuple[Expr, Steps | None]:
        """Return the value at a point of each dimension's positions, and a reduction if needed."""
        if math.prod(t.count for t in self.taps) > MAX_UNROLLED_TAPS:
            axes = tuple(Axis(f"t{k}", as_poly(t.count)) for k, t in enumerate(self.taps))
            body = self._term((batch, channel), points, tuple(map(var, axes)))
            step = Step("total", "sum", axes, body, self.dtype)
            return Var("total", self.dtype), Steps((step,))
        return self.combined(batch, channel, points, "add"), None

    def combined(self, batch: Poly, channel: Poly, points: tuple[Index, ...], op: str) -> Expr:
        """Return the weighted elements under all taps, combined by an operation."""
        total: Expr | None = None
        for choice in combinations(*(range(t.count) for t in self.taps)):
            term = self._term((batch, channel), points, tuple(map(as_poly, choice)))
            total = term if total is None else binary(op, total, term)
        assert total is not None
        return total

    def _term(self, first: Index, points: tuple[Index, ...], choice: Index) -> Expr:
        value, weight = self._element(first, points, choice), None
        for taps, at, tap in zip(self.taps, points, choice, strict=True):
            if taps.weight is not None:
                factor = cast(taps.weight.at(*at, tap), self.dtype)
                weight = factor if weight is None else binary("mul", weight, factor)
        return value if weight is None else binary("mul", weight, value)

    def _element(self, first: Index, points: tuple[Index, ...], choice: Index) -> Expr:
        places: list[Poly] = []
        conditions: list[Within] = []
        extents = self.x.shape[2:]
        for taps, at, tap, extent in zip(self.taps, points, choice, extents, strict=True):
            index = taps.index.at(*(at if taps.weight is None else (*at, tap)))
            places.append(index_of(index, 0, extent))
            conditions.append(Within(index_of(index, None, None), extent))
        value = cast(self.x.at(*first, *places), self.dtype)
        return guard(tuple(conditions), value, const(0, self.dtype)) if self.zeros else value
