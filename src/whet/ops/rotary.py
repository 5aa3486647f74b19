"""Rotary position embedding: pairs of elements turned by an angle that grows with the position."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from whet.index import ZERO, Axis, Poly, as_poly, var
from whet.kernel.expr import Expr
from whet.kernel.tensor import Definition, Tensor, axes_for
from whet.ops.attention import Heads, heads_of
from whet.ops.build import binary, cast, compute_type
from whet.ops.gather import positions
from whet.ops.movement import joined
from whet.ops.node import Node, Op
from whet.ops.operand import agree, attribute_flag
from whet.ops.views import reshaped

Angle = Callable[[Tensor, Axis, Axis, Axis], Expr]


def lower_rotary(node: Node) -> list[Tensor]:
    """Lower ``RotaryEmbedding``; source: ONNX RotaryEmbedding 23."""
    x = heads_of(node, 0, "num_heads")
    cos, sin, places = node.input(1), node.input(2), node.optional(3)
    _check_tables(node, x, cos, sin, places)

    def angle(table: Tensor, batch: Axis, position: Axis, pair: Axis) -> Expr:
        if places is None:
            return table.at(_one(table, 0, batch), _one(table, 1, position), var(pair))
        at = (_one(places, 0, batch), _one(places, 1, position))
        return table.at(positions(node, places, table.shape[0], at), var(pair))

    turned = Rotation(
        node=node,
        x=x,
        pairs=_pairs(node, x, cos),
        interleaved=attribute_flag(node, "interleaved"),
    )
    return [turned.result(cos, sin, angle)]


def _check_tables(node: Node, x: Heads, cos: Tensor, sin: Tensor, places: Tensor | None) -> None:
    """Check, now or in a run, that there is an angle for every position of every entry."""
    by_place = cos if places is None else places
    if cos.rank != (3 if places is None else 2) or (places is not None and places.rank != 2):
        raise node.error(f"cannot take angles from {list(cos.shape)}")
    agree(node, sin.shape, cos.shape, "sines for these cosines")
    wide = zip(by_place.shape[:2], (x.x.shape[0], x.length), strict=True)
    full = [(extent, goal) for extent, goal in wide if extent != 1]
    agree(node, tuple(e for e, _ in full), tuple(g for _, g in full), "positions of the angles")


def _one(tensor: Tensor, k: int, axis: Axis) -> Poly:
    return ZERO if tensor.shape[k] == 1 else var(axis)


def _pairs(node: Node, x: Heads, cos: Tensor) -> int:
    size = x.size.constant
    if size is None:
        raise node.error("needs heads of static size")
    width = int(node.attribute("rotary_embedding_dim", 0)) or size
    if width % 2 or width > size or cos.shape[-1] != width // 2:
        raise node.error(f"cannot turn {width} of {size} elements with {list(cos.shape)} angles")
    return width // 2


class Rotation(msgspec.Struct, frozen=True):
    """Turns pairs of elements: ``(c a - s b, s a + c b)``.

    Attributes:
        node: the node that is lowered.
        x: heads of queries or keys.
        pairs: how many pairs of each head are turned; what is behind them stays.
        interleaved: whether a pair stands side by side; else its halves stand ``pairs`` apart.
    """

    node: Node
    x: Heads
    pairs: int
    interleaved: bool

    def result(self, cos: Tensor, sin: Tensor, angle: Angle) -> Tensor:
        """Return the turned heads, laid out as they came.

        Args:
            cos: cosines.
            sin: sines.
            angle: the element of either table at a batch entry, a position and a pair.
        """
        x = self.x.x
        flat = x.rank == 3
        parts = [self._half(cos, sin, angle, imaginary=i) for i in (False, True)]
        if self.interleaved:
            width = as_poly(2 * self.pairs)
            stacked = joined(self.node.step("pairs"), parts, 4)
            turned = reshaped(self.node.step("turned"), stacked, (*stacked.shape[:3], width))
            parts = [turned]
        if self.x.size != 2 * self.pairs:
            parts.append(self._rest())
        whole = joined(self.node if not flat else self.node.step("heads"), parts, 3)
        return reshaped(self.node, whole, x.shape) if flat else whole

    def _shape(self, width: Poly) -> tuple[Poly, ...]:
        x = self.x.x
        if x.rank == 4:
            return (*x.shape[:3], width)
        return (*x.shape[:2], as_poly(self.x.count), width)

    def _element(self, axes: tuple[Axis, ...], element: Poly) -> Expr:
        b, first, second = map(var, axes[:3])
        head, position = (first, second) if self.x.x.rank == 4 else (second, first)
        return self.x.at(b, head, position, element)

    def _half(self, cos: Tensor, sin: Tensor, angle: Angle, *, imaginary: bool) -> Tensor:
        """Return one element of every pair."""
        shape = self._shape(as_poly(self.pairs))
        axes, dtype = axes_for(shape), compute_type(self.x.x.dtype)
        pair = axes[3]
        low, high = var(pair), var(pair) + self.pairs
        if self.interleaved:
            low, high = var(pair) * 2, var(pair) * 2 + 1
        a, b = (cast(self._element(axes, e), dtype) for e in (low, high))
        position = axes[2] if self.x.x.rank == 4 else axes[1]
        c, s = (cast(angle(t, axes[0], position, pair), dtype) for t in (cos, sin))
        if imaginary:
            body = binary("add", binary("mul", s, a), binary("mul", c, b))
        else:
            body = binary("sub", binary("mul", c, a), binary("mul", s, b))
        body = cast(body, self.x.x.dtype)
        if self.interleaved:
            shape, axes = (*shape, as_poly(1)), (*axes, Axis("one", as_poly(1)))
        suffix = "imaginary" if imaginary else "real"
        return self.node.temporary(suffix, shape, body.dtype, Definition(axes, body))

    def _rest(self) -> Tensor:
        shape = self._shape(self.x.size - 2 * self.pairs)
        axes = axes_for(shape)
        body = self._element(axes, var(axes[3]) + 2 * self.pairs)
        return self.node.temporary("rest", shape, body.dtype, Definition(axes, body))


OPS: tuple[Op, ...] = (Op("RotaryEmbedding", lower_rotary),)
