"""Products with few depth values, such as the first layer of a network on images.

The innermost tap and the depth lie behind each other in memory once the operand is copied with
channels last: they become one depth, so that lanes of several values are hardly ever filled
up with zeros, and the innermost loop is long enough to be one. It is a whole number of lanes: the
weights behind its end are zeros, and the copy is that much wider, so that the last lane is loaded
like the others.
"""

from __future__ import annotations

from msgspec.structs import replace

from whet.index import Atom, Axis, IndexLike, ceil_div, var
from whet.kernel.expr import Const, Load, Within, guard
from whet.kernel.tensor import Definition, Product, Tensor, axes_for

NARROW = 16
"""From so many depth values on, the loops around them cost little."""


def is_narrow(anchor: Product) -> bool:
    """Whether a product has taps and few depth values."""
    depth = anchor.depth.extent.constant
    return depth is not None and depth < NARROW and bool(anchor.taps)


def joined_depth(
    anchor: Product, load: Load, copy: Tensor, size: int
) -> tuple[Product, Tensor] | None:
    """Return a product whose last tap is part of its depth, and the copy that it reads.

    Args:
        anchor: the product.
        load: how it reads the copy.
        copy: the whole operand, padded.
        size: depth values that share a lane.

    Returns:
        ``None`` where tap and depth are not each read along one dimension in steps of 1.
    """
    tap, depth = anchor.taps[-1], anchor.depth
    dims = [_only_dimension(load, axis) for axis in (tap, depth)]
    if None in dims or dims[0] == dims[1]:
        return None
    across, deep = dims[0] or 0, dims[1] or 0
    definition = copy.definition
    assert definition is not None, "a copy is computed"
    width = depth.extent.constant
    if width is None:
        return None
    length = tap.extent * width
    whole = ceil_div(length, size) * size
    spare = whole - length
    kept = [d for d in range(copy.rank) if d not in (across, deep)]
    line = copy.shape[across] * copy.shape[deep]
    shape = (*(copy.shape[d] for d in kept), ceil_div(line + spare, width) * width)
    axes = axes_for(shape)
    if copy.shape[deep] != width:
        return None
    places: dict[Atom, IndexLike] = {
        definition.axes[d]: var(a) for d, a in zip(kept, axes[:-1], strict=True)
    }
    last = var(axes[-1])
    places |= {definition.axes[across]: last // width, definition.axes[deep]: last % width}
    body = definition.body.substitute(places)
    body = guard((Within(last, line),), body, Const(0, copy.dtype))
    flat = Tensor(copy.name, shape, copy.dtype, Definition(axes, body), nodes=copy.nodes)
    flat.ops, flat.order = copy.ops, tuple(range(len(shape)))
    joined = Axis(depth.name, whole)
    inner = load.index[across].substitute({tap: 0}) * width + var(joined)
    inner = inner + (load.index[deep].substitute({depth: 0}))
    together: dict[Atom, IndexLike] = {tap: var(joined) // width, depth: var(joined) % width}
    weights = anchor.b.substitute(together)
    product = replace(
        anchor,
        a=flat.at(*(load.index[d] for d in kept), inner),
        b=guard((Within(var(joined), length),), weights, Const(0, anchor.b.dtype)),
        taps=anchor.taps[:-1],
        depth=joined,
    )
    return product, flat


def _only_dimension(load: Load, axis: Axis) -> int | None:
    """Return the dimension that alone is read along an axis, in steps of 1."""
    found = [d for d, p in enumerate(load.index) if axis in p.atoms]
    if len(found) != 1 or not load.index[found[0]].is_affine_in(axis):
        return None
    return found[0] if load.index[found[0]].coefficient(axis) == 1 else None
