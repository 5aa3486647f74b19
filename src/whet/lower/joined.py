"""What kernels that become one have in common: one list of memory, parameters numbered anew."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from whet.index import Poly
from whet.kernel.expr import Expr, IndexValue, Read, rewrite_leaves
from whet.kernel.spec import Store
from whet.lower.select import KernelCall
from whet.lower.storage import Root


def joined_roots(calls: Iterable[KernelCall], without: Sequence[Root] = ()) -> list[Root]:
    """Return the memory that calls touch, each piece once, but for some of it."""
    left = {id(r) for r in without}
    return list({id(r): r for call in calls for r in call.roots if id(r) not in left}.values())


def numbers_in(roots: Sequence[Root], call: KernelCall) -> list[int]:
    """Return the place of each parameter's memory in a list."""
    places = {id(root): k for k, root in enumerate(roots)}
    return [places[id(root)] for root in call.roots]


def renumbered(expr: Expr, numbers: Sequence[int]) -> Expr:
    """Return an expression whose reads, those of its indices too, have other parameters."""
    return rewrite_leaves(
        expr, lambda e: replace(e, param=numbers[e.param]) if isinstance(e, Read) else e
    )


def renumbered_index(index: Poly, numbers: Sequence[int]) -> Poly:
    """Return an index whose reads have other parameters."""
    found = renumbered(IndexValue(index, "int64"), numbers)
    assert isinstance(found, IndexValue), "an index stays one"
    return found.index


def renumbered_store(store: Store, numbers: Sequence[int]) -> Store:
    """Return a store with other parameters."""
    value, address = renumbered(store.value, numbers), renumbered_index(store.address, numbers)
    return Store(numbers[store.param], address, value)
