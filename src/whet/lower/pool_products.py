"""A product and the windows that alone read it become one kernel, as a first layer and its pooling.

The image between them, several times as large as what is left of it, stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from msgspec.structs import replace

from whet.dtypes import DTYPES
from whet.index import (
    product,
)
from whet.kernel.pooled import Bands, Lines, Pooled
from whet.kernel.pooled_schedule import Image, choose_bands
from whet.kernel.spec import Contraction, Nest, Param
from whet.lower.image_rows import Pair, by_image_rows, lines_of, pair_of
from whet.lower.joined import joined_roots, numbers_in, renumbered, renumbered_store
from whet.lower.rewrites import Rewrites
from whet.lower.select import KernelCall
from whet.lower.storage import Root, magnitude
from whet.program.records import BufferKind
from whet.target import Target

NAME = "pool_products"


class Pooling(msgspec.Struct, frozen=True):
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
        pair = pair_of(result[-1], call) if result else None
        alone = pair is not None and id(pair.root) not in kept and _alone(calls, pair)
        pooled = _pooled(pair, pooling) if pair is not None and alone else None
        if pooled is None or not pooling.rewrites.take(NAME):
            result.append(call)
        else:
            result[-1] = pooled
    return result


def _alone(calls: Sequence[KernelCall], pair: Pair) -> bool:
    """Whether nobody but the windows reads what the product alone makes."""
    root = pair.root
    users = [c for c in calls if any(r is root for r in c.roots)]
    return root.kind is BufferKind.TEMP and [id(c) for c in users] == [
        id(pair.first),
        id(pair.second),
    ]


def _pooled(pair: Pair, pooling: Pooling) -> KernelCall | None:
    """Return the kernel of both, ``None`` where its parts are better apart."""
    rows = by_image_rows(pair)
    lines = None if rows is None else lines_of(rows)
    if rows is None or lines is None:
        return None
    image = _image(rows, pooling.target)
    bands = choose_bands(image, lines, pooling.target, pooling.threads)
    return None if bands is None else _call(rows, lines, bands)


def _image(pair: Pair, target: Target) -> Image:
    """Return what the product makes."""
    own = pair.product
    images = magnitude(product(a.extent for a in own.outer[:-1]))
    return Image(
        count=max(images, 1),
        rows=magnitude(pair.image_row.extent),
        windows=magnitude(pair.window.axes[-3].extent),
        columns=magnitude(own.row.extent),
        channels=magnitude(own.col.extent),
        panel=own.tile.vectors * target.lanes,
        depth=magnitude(product(a.extent for a in (*own.taps, own.depth))),
        element=DTYPES[pair.root.dtype].size,
    )


# -- the kernel ------------------------------------------------------------------------------------


def _call(pair: Pair, lines: Lines, bands: Bands) -> KernelCall:
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
        bands,
    )
    return KernelCall(
        kernel,
        tuple(roots),
        tuple(dict.fromkeys((*first.nodes, *second.nodes))),
        (*first.ops, *second.ops),
        first.flops + second.flops,
    )


def _product(pair: Pair, numbers: Sequence[int]) -> Contraction:
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
        ahead=None,
    )


def _window(pair: Pair, numbers: Sequence[int]) -> Nest:
    """Return the windows with other parameters."""
    steps = tuple(replace(s, body=renumbered(s.body, numbers)) for s in pair.window.steps)
    stores = tuple(renumbered_store(s, numbers) for s in pair.window.stores)
    return replace(pair.window, steps=steps, stores=stores)
