"""Products of 8-bit integers: operands laid out so that four depth values share a lane.

The weights become ``[batch..., taps..., depth / 4, columns, 4]``, zeros behind the last depth
value; the other operand is read four values at a time where they lie next to each other.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from whet.index import Atom, Axis, IndexLike, Poly, as_poly, ceil_div, product, var
from whet.kernel.expr import Const, Expr, Load, Within, guard, walk
from whet.kernel.interpret import evaluate_tensor
from whet.kernel.spec import QUAD, Quad
from whet.kernel.tensor import Definition, Product, Tensor, axes_for
from whet.lower.contractions import operand_of
from whet.lower.fold import reads_constants
from whet.lower.storage import magnitude


def needs_quads(anchor: Product) -> bool:
    """Whether a product is of 8-bit integers that do not lie in quads yet."""
    return anchor.a.dtype == "uint8" and anchor.b.dtype == "int8" and anchor.quad is None


def whole_depth(depth: Axis) -> Axis:
    """Return the depth axis, longer by up to 3 where its extent is known at run time."""
    if _in_fours(depth.extent):
        return depth
    return Axis(depth.name, ceil_div(depth.extent, QUAD) * QUAD)


def _in_fours(extent: Poly) -> bool:
    return extent.constant is not None or all(c % QUAD == 0 for _, c in extent.terms)


def quad_product(owner: Tensor, anchor: Product) -> tuple[Product, Tensor]:
    """Return a product in quads and the tensor that holds its second operand."""
    depth = anchor.depth
    outer = Axis(depth.name, ceil_div(depth.extent, QUAD))
    inner = Axis(f"{depth.name}4", as_poly(QUAD))
    operand = operand_of(anchor.a)
    assert operand is not None, "the first operand is legal here"
    packed = _packed(owner, anchor, outer, inner)
    batch = tuple(r for r in anchor.rows if anchor.b.depends_on(r))
    places = (*batch, *anchor.taps, outer, anchor.col, inner)
    together: dict[Atom, IndexLike] = {depth: var(outer) * QUAD + var(inner)}
    in_fours = replace(
        anchor,
        a=anchor.a.substitute(together),
        b=packed.at(*(var(a) for a in places)),
        depth=outer,
        quad=Quad(inner, depth.extent, operand.flips),
    )
    return in_fours, packed


def _packed(owner: Tensor, anchor: Product, outer: Axis, inner: Axis) -> Tensor:
    """Return the second operand in quads; constant if it is."""
    batch = tuple(r for r in anchor.rows if anchor.b.depends_on(r))
    plain = _tensor(owner, (*batch, *anchor.taps, anchor.depth, anchor.col), anchor.b)
    assert plain.definition is not None
    if reads_constants(plain.definition):
        value = _in_quads(evaluate_tensor(plain, {}, {}))
        shape = tuple(as_poly(n) for n in value.shape)
        shapes = [e.source.shape for e in walk(anchor.b) if isinstance(e, Load)]
        known = max(shapes, key=lambda s: magnitude(product(s)), default=())
        return Tensor(f"{owner.name}.quads", shape, "int8", value=value, model_shape=known)
    place = var(outer) * QUAD + var(inner)
    body = guard(
        (Within(place, anchor.depth.extent),),
        anchor.b.substitute({anchor.depth: place}),
        Const(0, "int8"),
    )
    return _tensor(owner, (*batch, *anchor.taps, outer, anchor.col, inner), body)


def _tensor(owner: Tensor, axes: tuple[Axis, ...], body: Expr) -> Tensor:
    shape = tuple(a.extent for a in axes)
    fresh = axes_for(shape)
    renamed: dict[Atom, IndexLike] = {a: var(f) for a, f in zip(axes, fresh, strict=True)}
    definition = Definition(fresh, body.substitute(renamed))
    tensor = Tensor(f"{owner.name}.quads", shape, "int8", definition, nodes=owner.nodes[:1])
    tensor.ops, tensor.order = ("Copy",), tuple(range(len(shape)))
    return tensor


def _in_quads(values: np.ndarray) -> np.ndarray:
    """Return [..., depth, columns] as [..., depth / 4, columns, 4], zeros at the end."""
    *batch, depth, columns = values.shape
    groups = -(-depth // QUAD)
    wide = np.zeros((*batch, groups * QUAD, columns), values.dtype)
    wide[..., :depth, :] = values
    return np.ascontiguousarray(np.swapaxes(wide.reshape(*batch, groups, QUAD, columns), -1, -2))
