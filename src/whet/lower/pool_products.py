"""A product and the windows that alone read it become one kernel, as a first layer and its pooling.

The image between them, several times as large as what is left of it, stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from whet.dtypes import DTYPES
from whet.index import (
    ZERO,
    Atom,
    Axis,
    IndexLike,
    Opaque,
    Poly,
    at_least,
    bounds,
    less_than,
    product,
    var,
)
from whet.kernel.expr import Guard, Read, Within, walk
from whet.kernel.pooled import Lines, Pooled, choose_bands
from whet.kernel.spec import Contraction, Nest, Param, Store
from whet.lower.joined import joined_roots, numbers_in, renumbered, renumbered_store
from whet.lower.rewrites import Rewrites
from whet.lower.select import KernelCall
from whet.lower.storage import Root, magnitude
from whet.program.records import BufferKind
from whet.target import Target

NAME = "pool_products"


@dataclass(frozen=True, slots=True)
class Pooling:
    """What decides which products are computed band by band.

    Attributes:
        target: processor.
        threads: threads that share out the chunks.
        rewrites: how many products may be.
    """

    target: Target
    threads: int
    rewrites: Rewrites


def pool_products(
    calls: Sequence[KernelCall], outputs: Iterable[Root], pooling: Pooling
) -> list[KernelCall]:
    """Return the kernels of a program with products pooled in bands where that is faster."""
    kept = {id(r) for r in outputs}
    result: list[KernelCall] = []
    for call in calls:
        pair = _pair(result[-1], call) if result else None
        alone = pair is not None and id(pair.root) not in kept and _alone(calls, pair)
        pooled = _pooled(pair, pooling) if pair is not None and alone else None
        if pooled is None or not pooling.rewrites.take(NAME):
            result.append(call)
        else:
            result[-1] = pooled
    return result


@dataclass(frozen=True, slots=True)
class _Pair:
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


def _pair(first: KernelCall, second: KernelCall) -> _Pair | None:
    """Return a product of floats and the plain windows behind it, if that is what they are."""
    own, other = first.kernel, second.kernel
    if not isinstance(own, Contraction) or not isinstance(other, Nest):
        return None
    plain = (own.dot, own.ahead, own.second, own.lines) == (None, None, None, None)
    if not plain or own.spread or len(own.stores) != 1 or not own.outer:
        return None
    if not other.steps or not other.tile or other.block or other.row:
        return None
    return _Pair(first, second, own, other)


def _alone(calls: Sequence[KernelCall], pair: _Pair) -> bool:
    """Whether nobody but the windows reads what the product alone makes."""
    root = pair.root
    users = [c for c in calls if any(r is root for r in c.roots)]
    return root.kind is BufferKind.TEMP and [id(c) for c in users] == [
        id(pair.first),
        id(pair.second),
    ]


def _pooled(pair: _Pair, pooling: Pooling) -> KernelCall | None:
    """Return the kernel of both, ``None`` where its parts are better apart."""
    pair = _with_equal_images(pair)
    lines = _lines_of(pair)
    if lines is None:
        return None
    image_row, row = pair.product.outer[-1], pair.window.axes[-3]
    stride = pair.product.stores[0].address.coefficient(image_row)
    images = magnitude(product(a.extent for a in pair.product.outer[:-1]))
    sizes = (max(images, 1), magnitude(image_row.extent), magnitude(row.extent))
    line_bytes = magnitude(stride) * DTYPES[pair.root.dtype].size
    bands = choose_bands(sizes, line_bytes, lines, pooling.target, pooling.threads)
    return None if bands is None else _call(pair, lines, bands)


def _with_equal_images(pair: _Pair) -> _Pair:
    """Return a pair of which the windows have the product's axes around the image rows."""
    window = pair.window
    images, own = window.axes[:-3], pair.product.outer[:-1]
    if [a.extent for a in images] != [a.extent for a in own]:
        return pair
    axes: dict[Atom, IndexLike] = {a: var(b) for a, b in zip(images, own, strict=True)}
    steps = tuple(replace(s, body=s.body.substitute(axes)) for s in window.steps)
    stores = tuple(
        Store(s.param, s.address.substitute(axes), s.value.substitute(axes)) for s in window.stores
    )
    moved = replace(window, axes=(*own, *window.axes[-3:]), steps=steps, stores=stores)
    return replace(pair, window=moved)


# -- what windows read -----------------------------------------------------------------------------


def _lines_of(pair: _Pair) -> Lines | None:
    """Return the image rows under each row of windows, ``None`` if they read it in another way."""
    images, window = pair.product.outer[:-1], pair.window
    if len(window.axes) < 3 or window.axes[:-3] != images or not _is_plain(pair):
        return None
    roots = [*(s.body for s in window.steps), *(s.value for s in window.stores)]
    number = next(k for k, r in enumerate(pair.second.roots) if r is pair.root)
    reads = {e for root in roots for e in walk(root) if isinstance(e, Read) and e.param == number}
    within = {c for root in roots for e in walk(root) if isinstance(e, Guard) for c in e.conditions}
    if len(reads) != 1:
        return None
    (read,) = reads
    row, _, channel = window.axes[-3:]
    index = _index(read.address, row, pair.product.outer[-1], pair, within)
    if index is None or channel.extent != pair.product.col.extent:
        return None
    return _lines(index, row) if _stays_in_line(read, index, pair, within) else None


def _is_plain(pair: _Pair) -> bool:
    """Whether all of the product's addresses are affine, its channels side by side, rows known."""
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
    )


def _index(
    address: Poly, moving: Axis, axis: Axis, pair: _Pair, within: Iterable[Within]
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


def _stays_in_line(read: Read, index: Poly, pair: _Pair, within: Iterable[Within]) -> bool:
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


# -- the kernel ------------------------------------------------------------------------------------


def _call(pair: _Pair, lines: Lines, bands: tuple[int, int]) -> KernelCall:
    """Return the kernel of a product and its windows."""
    first, second = pair.first, pair.second
    roots = joined_roots([first, second], without=[pair.root])
    everything = [*roots, pair.root]
    written = {id(second.roots[s.param]) for s in pair.window.stores}
    params = tuple(Param(r.dtype, id(r) in written) for r in roots)
    inner = (*params, Param(pair.root.dtype, written=True))
    kernel = Pooled(
        params,
        pair.root.dtype,
        replace(_product(pair, numbers_in(everything, first)), params=inner),
        replace(_window(pair, numbers_in(everything, second)), params=inner),
        lines,
        *bands,
    )
    return KernelCall(
        kernel,
        tuple(roots),
        tuple(dict.fromkeys((*first.nodes, *second.nodes))),
        (*first.ops, *second.ops),
        first.flops + second.flops,
    )


def _product(pair: _Pair, numbers: Sequence[int]) -> Contraction:
    """Return the product with other parameters, whole in depth; a panel does an image row."""
    kernel = pair.product
    tiles = -(-magnitude(kernel.row.extent) // kernel.tile.rows)
    return replace(
        kernel,
        a=replace(kernel.a, param=numbers[kernel.a.param]),
        b=replace(kernel.b, param=numbers[kernel.b.param]),
        zeros=numbers[kernel.zeros] if kernel.zeros >= 0 else -1,
        stores=tuple(renumbered_store(s, numbers) for s in kernel.stores),
        tile=replace(kernel.tile, block=0, row_items=tiles),
    )


def _window(pair: _Pair, numbers: Sequence[int]) -> Nest:
    """Return the windows with other parameters."""
    steps = tuple(replace(s, body=renumbered(s.body, numbers)) for s in pair.window.steps)
    stores = tuple(renumbered_store(s, numbers) for s in pair.window.stores)
    return replace(pair.window, steps=steps, stores=stores)
