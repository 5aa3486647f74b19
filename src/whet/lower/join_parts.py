"""Parts of one tensor that are computed from the same elements become one kernel.

A rotation writes the two halves of each head, both from all elements of the head. One kernel with
two stores reads every element, and every angle, once.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from whet.index import Atom, IndexLike, var
from whet.kernel.expr import Expr, Read, rewrite_leaves
from whet.kernel.spec import Nest, Param, Store
from whet.lower.joined import joined_roots, numbers_in, renumbered_store
from whet.lower.rewrites import Rewrites
from whet.lower.select import KernelCall

NAME = "join_parts"


def join_parts(calls: Sequence[KernelCall], rewrites: Rewrites) -> list[KernelCall]:
    """Return calls of which maps that follow each other and write parts of a tensor are one."""
    result: list[KernelCall] = []
    for call in calls:
        joined = _joined(result[-1], call) if result else None
        if joined is None or not rewrites.take(NAME):
            result.append(call)
        else:
            result[-1] = joined
    return result


def _joined(first: KernelCall, second: KernelCall) -> KernelCall | None:
    """Return one call in the place of two, ``None`` if they are no parts read from the same."""
    own, other = first.kernel, second.kernel
    if not isinstance(own, Nest) or not isinstance(other, Nest) or not _alike(own, other):
        return None
    roots = joined_roots([first, second])
    store = own.stores[0]
    more = _moved(other, own, numbers_in(roots, second))
    reads = _reads(store.value)
    if more.param != store.param or reads != _reads(more.value):
        return None
    if any(read.param == store.param for read in reads):
        return None
    params = tuple(Param(r.dtype, k == store.param) for k, r in enumerate(roots))
    return KernelCall(
        replace(own, params=params, stores=(store, more)),
        tuple(roots),
        tuple(dict.fromkeys((*first.nodes, *second.nodes))),
        first.ops,
        first.flops + second.flops,
    )


def _alike(own: Nest, other: Nest) -> bool:
    """Whether two maps go through the same points in the same way."""
    extents = [[a.extent for a in nest.axes] for nest in (own, other)]
    if extents[0] != extents[1] or own.steps or own.row or own.squares or own.interleaved:
        return False
    if len(own.stores) != 1 or len(other.stores) != 1:
        return False
    return replace(own, params=(), axes=(), stores=()) == replace(
        other, params=(), axes=(), stores=()
    )


def _moved(other: Nest, own: Nest, numbers: Sequence[int]) -> Store:
    """Return the store of one map with the axes of another, and parameters numbered anew."""
    axes: dict[Atom, IndexLike] = {
        a: var(b) for a, b in zip(other.axes, own.axes, strict=True) if a != b
    }
    store = other.stores[0]
    here = Store(store.param, store.address.substitute(axes), store.value.substitute(axes))
    return renumbered_store(here, numbers)


def _reads(value: Expr) -> set[Read]:
    """Return everything that a value reads, for its indices too."""
    found: set[Read] = set()

    def note(e: Expr) -> Expr:
        if isinstance(e, Read):
            found.add(e)
        return e

    rewrite_leaves(value, note)
    return found
