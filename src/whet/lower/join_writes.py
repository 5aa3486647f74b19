"""Writes into caches become one kernel: keys, values and their scales of one step's tokens.

Each of them finds the places of the same tokens, and no two change the same elements.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from whet.kernel.expr import Within
from whet.kernel.scatter import Scatter, Update
from whet.kernel.spec import Param
from whet.lower.inlined_parts import WRITES
from whet.lower.joined import joined_roots, numbers_in, renumbered_index, renumbered_store
from whet.lower.rewrites import Rewrites
from whet.lower.select import KernelCall

REACH = 4
"""Launches that an earlier write may be moved behind."""


def join_writes(calls: Sequence[KernelCall], rewrites: Rewrites) -> list[KernelCall]:
    """Return calls of which writes in place at the same positions are one."""
    result: list[KernelCall] = []
    for call in calls:
        place = _partner(result, call)
        joined = None if place is None else _joined(result[place], call)
        if place is None or joined is None or not rewrites.take(WRITES):
            result.append(call)
            continue
        del result[place]
        result.append(joined)
    return result


def _partner(before: Sequence[KernelCall], call: KernelCall) -> int | None:
    """Return where the nearest write in place stands that may as well happen now."""
    if not _is_write(call):
        return None
    for back in range(1, min(REACH, len(before)) + 1):
        earlier = before[-back]
        if _is_write(earlier):
            between = before[len(before) - back + 1 :]
            return len(before) - back if not any(_meet(earlier, c) for c in between) else None
    return None


def _is_write(call: KernelCall) -> bool:
    return isinstance(call.kernel, Scatter) and call.kernel.in_place


def _meet(one: KernelCall, other: KernelCall) -> bool:
    """Whether one of two calls writes what the other one touches."""
    return any(
        a is b and (p.written or q.written)
        for a, p in zip(one.roots, one.kernel.params, strict=True)
        for b, q in zip(other.roots, other.kernel.params, strict=True)
    )


def _joined(first: KernelCall, second: KernelCall) -> KernelCall | None:
    """Return one call in the place of two, ``None`` if they go through other points."""
    own, other = first.kernel, second.kernel
    assert isinstance(own, Scatter) and isinstance(other, Scatter), "writes are scatters"
    if _meet(first, second):
        return None
    roots = joined_roots([first, second])
    more = _numbered(other, numbers_in(roots, second))
    if (own.shared, own.axes, own.inside) != (more.shared, more.axes, more.inside):
        return None
    written = {s.param for u in (*own.updates, *more.updates) for s in u.stores}
    params = tuple(Param(r.dtype, k in written) for k, r in enumerate(roots))
    return KernelCall(
        replace(own, params=params, updates=(*own.updates, *more.updates)),
        tuple(roots),
        tuple(dict.fromkeys((*first.nodes, *second.nodes))),
        tuple(dict.fromkeys((*first.ops, *second.ops))),
        first.flops + second.flops,
    )


def _numbered(kernel: Scatter, numbers: Sequence[int]) -> Scatter:
    """Return a kernel whose parameters have other numbers."""

    def update(u: Update) -> Update:
        return replace(u, stores=tuple(renumbered_store(s, numbers) for s in u.stores))

    def condition(c: Within) -> Within:
        return Within(renumbered_index(c.index, numbers), c.extent)

    return replace(
        kernel,
        updates=tuple(update(u) for u in kernel.updates),
        inside=tuple(condition(c) for c in kernel.inside),
    )
