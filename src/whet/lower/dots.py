"""Products laid out so that several depth values share a lane: four of 8 bits, two of bfloat16.

The weights become ``[batch..., taps..., depth / size, columns, size]``, zeros behind the last depth
value; the other operand is read as many values at a time where they lie next to each other.
"""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from whet.index import Atom, Axis, IndexLike, as_poly, ceil_div, product, var
from whet.kernel.expr import Const, Expr, Load, Within, guard, walk
from whet.kernel.interpret import evaluate_tensor
from whet.kernel.spec import BYTES_OF_DOT, PAIR, Dot
from whet.kernel.tensor import Definition, Product, Tensor, axes_for
from whet.lower.contractions import ENOUGH_ROWS, operand_of
from whet.lower.fold import reads_constants
from whet.lower.storage import magnitude
from whet.target import Target

BFLOAT16 = "bfloat16"


def dot_size(anchor: Product, target: Target) -> int | None:
    """Return how many depth values should share a lane, ``None`` if one takes it or they do.

    8-bit integers always do. Pairs of bfloat16 do where the processor multiplies them, and the
    layout of weights that only a run knows is worth it.
    """
    kinds = (anchor.a.dtype, anchor.b.dtype)
    if anchor.dot is not None:
        return None
    if kinds == ("uint8", "int8"):
        return BYTES_OF_DOT
    if kinds != (BFLOAT16, BFLOAT16) or not target.bfloat16_dot:
        return None
    known = isinstance(anchor.b, Load) and anchor.b.source.value is not None
    rows = magnitude(product(r.extent for r in anchor.rows if not anchor.b.depends_on(r)))
    return PAIR if known or rows >= ENOUGH_ROWS else None


def whole_depth(depth: Axis, size: int) -> Axis:
    """Return the depth axis, longer by less than ``size`` where only a run knows its extent."""
    extent = depth.extent
    if extent.constant is not None or all(c % size == 0 for _, c in extent.terms):
        return depth
    return Axis(depth.name, ceil_div(extent, size) * size)


def in_dots(owner: Tensor, anchor: Product, size: int) -> tuple[Product, Tensor]:
    """Return a product of which depth values share lanes, and its second operand laid out so."""
    depth = anchor.depth
    outer = Axis(depth.name, ceil_div(depth.extent, size))
    inner = Axis(f"{depth.name}{size}", as_poly(size))
    operand = operand_of(anchor.a)
    assert operand is not None, "the first operand is legal here"
    packed = _packed(owner, anchor, outer, inner)
    batch = tuple(r for r in anchor.rows if anchor.b.depends_on(r))
    places = (*batch, *anchor.taps, outer, anchor.col, inner)
    together: dict[Atom, IndexLike] = {depth: var(outer) * size + var(inner)}
    laid_out = replace(
        anchor,
        a=anchor.a.substitute(together),
        b=packed.at(*(var(a) for a in places)),
        depth=outer,
        dot=Dot(inner, depth.extent, operand.flips),
    )
    return laid_out, packed


def _packed(owner: Tensor, anchor: Product, outer: Axis, inner: Axis) -> Tensor:
    """Return the second operand, laid out; constant if it is."""
    size, dtype = inner.extent.constant or 1, anchor.b.dtype
    batch = tuple(r for r in anchor.rows if anchor.b.depends_on(r))
    plain = _tensor(owner, (*batch, *anchor.taps, anchor.depth, anchor.col), anchor.b)
    assert plain.definition is not None
    if reads_constants(plain.definition):
        value = _in_lanes(evaluate_tensor(plain, {}, {}), size)
        shape = tuple(as_poly(n) for n in value.shape)
        shapes = [e.source.shape for e in walk(anchor.b) if isinstance(e, Load)]
        known = max(shapes, key=lambda s: magnitude(product(s)), default=())
        return Tensor(f"{owner.name}.lanes", shape, dtype, value=value, model_shape=known)
    place = var(outer) * size + var(inner)
    body = guard(
        (Within(place, anchor.depth.extent),),
        anchor.b.substitute({anchor.depth: place}),
        Const(0, dtype),
    )
    return _tensor(owner, (*batch, *anchor.taps, outer, anchor.col, inner), body)


def _tensor(owner: Tensor, axes: tuple[Axis, ...], body: Expr) -> Tensor:
    shape = tuple(a.extent for a in axes)
    fresh = axes_for(shape)
    renamed: dict[Atom, IndexLike] = {a: var(f) for a, f in zip(axes, fresh, strict=True)}
    definition = Definition(fresh, body.substitute(renamed))
    tensor = Tensor(f"{owner.name}.lanes", shape, body.dtype, definition, nodes=owner.nodes[:1])
    tensor.ops, tensor.order = ("Copy",), tuple(range(len(shape)))
    return tensor


def _in_lanes(values: np.ndarray, size: int) -> np.ndarray:
    """Return [..., depth, columns] as [..., depth / size, columns, size], zeros at the end."""
    *batch, depth, columns = values.shape
    groups = -(-depth // size)
    wide = np.zeros((*batch, groups * size, columns), values.dtype)
    wide[..., :depth, :] = values
    return np.ascontiguousarray(np.swapaxes(wide.reshape(*batch, groups, size, columns), -1, -2))
