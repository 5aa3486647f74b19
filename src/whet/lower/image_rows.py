"""A product and the windows that read its result, looked at image row by image row.

A 1x1 convolution runs along all pixels of an image as if they were one row, and windows may have
their rows in bands and their channels in blocks. Here both get image rows, as they must for one to
follow the other.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from msgspec.structs import replace

from whet.index import (
    ZERO,
    Atom,
    Axis,
    IndexLike,
    Opaque,
    Poly,
    as_poly,
    at_least,
    bounds,
    less_than,
    product,
    var,
)
from whet.kernel.expr import Expr, Guard, Read, Within, walk
from whet.kernel.pooled import Lines
from whet.kernel.spec import Contraction, Nest, Store
from whet.lower.loops import indices_of
from whet.lower.select import KernelCall
from whet.lower.storage import Root


class Pair(msgspec.Struct, frozen=True):
    """A product and a reduction behind it that reads its result.

    Attributes:
        first: the call of the product.
        second: the call of the reduction.
        product: the product.
        window: the reduction.
    """

    first: KernelCall
    second: KernelCall
    product: Contraction
    window: Nest

    @property
    def root(self) -> Root:
        """Where the product's result would go."""
        return self.first.roots[self.product.stores[0].param]

    @property
    def image_row(self) -> Axis:
        """The image rows of the product."""
        return self.product.outer[-1]

    def guards(self) -> set[Within]:
        """Return under which conditions windows read."""
        roots = _roots(self.window)
        return {
            c for root in roots for e in walk(root) if isinstance(e, Guard) for c in e.conditions
        }


def pair_of(first: KernelCall, second: KernelCall) -> Pair | None:
    """Return a product and the plain windows behind it, if that is what they are."""
    own, other = first.kernel, second.kernel
    if not isinstance(own, Contraction) or not isinstance(other, Nest):
        return None
    if own.second is not None or own.lines is not None or own.spread or len(own.stores) != 1:
        return None
    if own.gate is not None or own.pairs is not None:
        return None
    if not other.steps or not other.tile or other.block or other.row or len(other.axes) < 3:
        return None
    return Pair(first, second, own, other)


def by_image_rows(pair: Pair) -> Pair | None:
    """Return a pair whose parts have image rows, pixels and channels inside of the same axes."""
    window = _with_whole_axes(pair.window)
    split = _with_image_rows(replace(pair, window=window))
    return None if split is None else _with_equal_images(split)


# -- image rows ------------------------------------------------------------------------------------


def _roots(window: Nest) -> list[Expr]:
    return [*(s.body for s in window.steps), *(s.value for s in window.stores)]


def _moved(window: Nest, axes: tuple[Axis, ...], change: dict[Atom, IndexLike]) -> Nest:
    """Return windows over other axes."""
    steps = tuple(replace(s, body=s.body.substitute(change)) for s in window.steps)
    stores = tuple(
        Store(s.param, s.address.substitute(change), s.value.substitute(change))
        for s in window.stores
    )
    return replace(window, axes=axes, steps=steps, stores=stores)


def _with_whole_axes(window: Nest) -> Nest:
    """Return windows whose rows are not in bands and whose channels are not in blocks."""
    for place in (-1, -3):
        for outer in window.axes[:-3]:
            window = _joined(window, outer, window.axes[place])
    return window


def _joined(window: Nest, outer: Axis, inner: Axis) -> Nest:
    """Return windows with one axis for two, where all they do depends on both as if on one."""
    whole = Axis(inner.name, outer.extent * inner.extent)
    forth: dict[Atom, IndexLike] = {outer: 0, inner: var(whole)}
    back: dict[Atom, IndexLike] = {whole: var(outer) * inner.extent + var(inner)}
    found = indices_of([s.body for s in window.steps], window.stores)
    indices = (*found.addresses, *found.others)
    if any(p.substitute(forth).substitute(back) != p for p in indices):
        return window
    axes = tuple(whole if a == inner else a for a in window.axes if a != outer)
    return _moved(window, axes, forth)


def _with_image_rows(pair: Pair) -> Pair | None:
    """Return a pair of which the product has the image rows that windows say there are."""
    product_, images = pair.product, pair.window.axes[:-3]
    if len(product_.outer) == len(images) + 1:
        return pair
    columns = {c.extent for c in pair.guards() if pair.window.axes[-2] in c.index.atoms}
    inside = images[len(product_.outer) :]
    if len(columns) != 1 or product_.bounds or product_.edges or len(product_.outer) > len(images):
        return None
    width, pixels = columns.pop().constant, product_.row.extent.constant
    several = product(a.extent for a in inside).constant
    if not width or not pixels or not several or pixels % (width * several):
        return None
    line, column = Axis("line", as_poly(pixels // width // several)), Axis("pixel", as_poly(width))
    axes = (*(Axis(a.name, a.extent) for a in inside), line, column)
    flat = ZERO
    for axis in axes:
        flat = flat * axis.extent + var(axis)
    change: dict[Atom, IndexLike] = {product_.row: flat}
    (store,) = product_.stores
    split = replace(
        product_,
        outer=(*product_.outer, *axes[:-1]),
        row=column,
        a=replace(product_.a, address=product_.a.address.substitute(change)),
        stores=(
            Store(store.param, store.address.substitute(change), store.value.substitute(change)),
        ),
    )
    return replace(pair, product=split)


def _with_equal_images(pair: Pair) -> Pair:
    """Return a pair of which the windows have the product's axes around the image rows."""
    window = pair.window
    images, own = window.axes[:-3], pair.product.outer[:-1]
    if [a.extent for a in images] != [a.extent for a in own]:
        return pair
    axes: dict[Atom, IndexLike] = {a: var(b) for a, b in zip(images, own, strict=True)}
    return replace(pair, window=_moved(window, (*own, *window.axes[-3:]), axes))


# -- what windows read -----------------------------------------------------------------------------


def lines_of(pair: Pair) -> Lines | None:
    """Return the image rows under each row of windows, ``None`` if they read it in another way."""
    images, window = pair.product.outer[:-1], pair.window
    if window.axes[:-3] != images or not _is_plain(pair):
        return None
    roots = _roots(window)
    number = next(k for k, r in enumerate(pair.second.roots) if r is pair.root)
    reads = {e for root in roots for e in walk(root) if isinstance(e, Read) and e.param == number}
    within = pair.guards()
    if len(reads) != 1:
        return None
    (read,) = reads
    row, _, channel = window.axes[-3:]
    index = _index(read.address, row, pair.product.outer[-1], pair, within)
    if index is None or channel.extent != pair.product.col.extent:
        return None
    return _lines(index, row) if _stays_in_line(read, index, pair, within) else None


def _is_plain(pair: Pair) -> bool:
    """Whether the product's addresses are affine, channels side by side in pixels, rows known."""
    (store,) = pair.product.stores
    address, axes = store.address, (*pair.product.outer, pair.product.row, pair.product.col)
    if any(isinstance(a, Opaque) for a in address.atoms):
        return False
    steps = [address.coefficient(a).constant for a in axes]
    known = (pair.product.outer[-1], pair.product.row, pair.product.col, pair.window.axes[-3])
    return (
        all(address.is_affine_in(a) for a in axes)
        and all(step is not None and step > 0 for step in steps)
        and steps[-1] == 1
        and all(a.extent.constant is not None for a in known)
        and _has_whole_pixels(address, pair.product)
    )


def _has_whole_pixels(address: Poly, product_: Contraction) -> bool:
    """Whether an address moves by pixels, but for their channels."""
    pixel = address.coefficient(product_.row).constant or 1
    moves = (count for atoms, count in address.terms if atoms != (product_.col,))
    return all(count % pixel == 0 for count in moves)


def _index(
    address: Poly, moving: Axis, axis: Axis, pair: Pair, within: Iterable[Within]
) -> Poly | None:
    """Return the position along an axis of the product at which windows read, always inside.

    It is what a guard says, or what of the address moves in whole steps of that axis.
    """
    stride = pair.product.stores[0].address.coefficient(axis).constant
    assert stride is not None, "the product is plain"
    guarded = [c for c in within if moving in c.index.atoms]
    if guarded:
        (condition, *others) = guarded
        return None if others or condition.extent != axis.extent else condition.index
    index = ZERO
    for atom in (moving, *dict.fromkeys(a for step in pair.window.steps for a in step.axes)):
        steps, rest = divmod(_step(address, atom), stride)
        index = index if rest else index + var(atom) * steps
    inside = at_least(index, 0) and less_than(index, axis.extent)
    return index if inside else None


def _step(address: Poly, atom: Atom) -> int:
    return address.coefficient(atom).constant or 0


def _stays_in_line(read: Read, index: Poly, pair: Pair, within: Iterable[Within]) -> bool:
    """Whether windows read the image rows at an index, and of these columns that they have."""
    product_, (_, column, channel) = pair.product, pair.window.axes[-3:]
    store = product_.stores[0].address
    image_row, row, col = product_.outer[-1], product_.row, product_.col
    start: dict[Atom, IndexLike] = {image_row: 0, row: 0, col: var(channel)}
    across = read.address - index * store.coefficient(image_row) - store.substitute(start)
    position = _index(across, column, row, pair, within)
    return position is not None and across == position * store.coefficient(row)


def _lines(index: Poly, row: Axis) -> Lines | None:
    """Return the image rows that an index takes, if they move evenly with the row of windows."""
    step = index.coefficient(row).constant if index.is_affine_in(row) else None
    low, high = bounds(index.substitute({row: 0}))
    if step is None or step <= 0 or low is None or high is None:
        return None
    return Lines(step, -low, high - low + 1) if high - low + 1 >= step else None
