"""Results that take the place of an operand which nobody reads any more.

A residual network adds to what it has: the sum takes the memory of its operand, element by element.
On ResNet-50 of 8 bits a thread's half of a tensor of 56 x 56 x 256 takes 400 kB of a second cache
of 1 MB, where a result beside it pushes out what is still to be read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from whet.kernel.expr import Read, walk
from whet.kernel.spec import Contraction, Store
from whet.lower.joined import renumbered
from whet.lower.rewrites import Rewrites
from whet.lower.select import KernelCall
from whet.lower.storage import Root
from whet.program.records import BufferKind

NAME = "update_in_place"


def update_in_place(
    calls: Sequence[KernelCall], kept: Iterable[Root], rewrites: Rewrites
) -> list[KernelCall]:
    """Return calls of which products write their results over an operand of their epilogue.

    Args:
        calls: kernels in order.
        kept: memory that is read after all of them.
        rewrites: how many products may do so.
    """
    first: dict[int, int] = {}
    last: dict[int, int] = {}
    for place, call in enumerate(calls):
        for root in call.roots:
            first.setdefault(id(root), place)
            last[id(root)] = place
    last |= {id(root): len(calls) for root in kept}
    moved: dict[int, Root] = {}
    result = []
    for place, call in enumerate(calls):
        for written, read in _candidates(call):
            output, operand = call.roots[written], call.roots[read]
            begins, ends = first[id(output)] == place, last[id(operand)] == place
            if not begins or not ends or last[id(output)] == len(calls):
                continue
            if rewrites.take(NAME):
                moved[id(output)] = moved.get(id(operand), operand)
                call = _redirected(call, written, read)
                break
        result.append(replace(call, roots=tuple(moved.get(id(r), r) for r in call.roots)))
    return result


def _candidates(call: KernelCall) -> list[tuple[int, int]]:
    """Return the written parameter of a product with each that is read where it is written.

    Where only a run knows how many rows there are, some of them are computed twice.
    """
    kernel = call.kernel
    if not isinstance(kernel, Contraction) or len(kernel.stores) != 1:
        return []
    if kernel.row.extent.constant is None:
        return []
    (store,) = kernel.stores
    return [(store.param, k) for k in range(len(call.roots)) if _replaces(call, kernel, store, k)]


def _replaces(call: KernelCall, kernel: Contraction, store: Store, read: int) -> bool:
    """Whether each element of a parameter is read just before that of the result is written."""
    output, operand = call.roots[store.param], call.roots[read]
    if output is operand or {output.kind, operand.kind} != {BufferKind.TEMP}:
        return False
    if output.dtype != operand.dtype or output.size != operand.size:
        return False
    multiplied = {kernel.b.param, *(a.param for a, _ in kernel.operands)}
    if read in multiplied or call.roots.count(operand) > 1:
        return False
    reads = [e for e in walk(store.value) if isinstance(e, Read) and e.param == read]
    return bool(reads) and all(e.address == store.address for e in reads)


def _redirected(call: KernelCall, written: int, read: int) -> KernelCall:
    """Return a call that reads an operand where it writes; the parameter it had is not used."""
    kernel = call.kernel
    assert isinstance(kernel, Contraction), "only products are candidates"
    numbers = [written if k == read else k for k in range(len(call.roots))]
    (store,) = kernel.stores
    changed = replace(store, value=renumbered(store.value, numbers))
    return replace(call, kernel=replace(kernel, stores=(changed,)))
