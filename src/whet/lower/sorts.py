"""Sorts and filters to kernels: one row a chunk, the result as the memory they work in."""

from __future__ import annotations

from whet.index import Axis, Poly
from whet.kernel.expr import Expr, Read, all_atoms, walk
from whet.kernel.filter import Filter, Kept
from whet.kernel.sort import Sort, Sorted
from whet.kernel.tensor import Definition
from whet.lower.loops import by_stride
from whet.lower.storage import Params, Storage, Storages, address_of, to_reads
from whet.target import Target


def build_sort(
    definition: Definition, storage: Storage, storages: Storages, target: Target, threads: int
) -> tuple[Sort, Params]:
    """Return the kernel that runs a sort in its storage, and its parameters."""
    anchor = definition.anchor
    assert isinstance(anchor, Sorted) and not definition.index
    params = Params()
    output = params.write(storage.root)
    address = address_of(definition.position, storage)
    key = to_reads(anchor.key, storages, params)
    kept = None if anchor.kept is None else to_reads(anchor.kept, storages, params)
    kernel = Sort(
        params.records(),
        _rows(definition, anchor.rank, address),
        anchor.along,
        anchor.depth,
        key,
        kept,
        anchor.rank,
        output,
        address,
        anchor.descending,
        anchor.depth.extent == 1 and _is_contiguous(key, anchor.along),
    )
    return kernel, params


def build_filter(
    definition: Definition, storage: Storage, storages: Storages, target: Target, threads: int
) -> tuple[Filter, Params]:
    """Return the kernel that runs a filter in its storage, and its parameters."""
    anchor = definition.anchor
    assert isinstance(anchor, Kept) and not definition.index
    params = Params()
    output = params.write(storage.root)
    address = address_of(definition.position, storage)

    def reads(expr: Expr | None) -> Expr | None:
        return None if expr is None else to_reads(expr, storages, params)

    keep, clash, limit = (
        to_reads(anchor.keep, storages, params),
        reads(anchor.clash),
        reads(anchor.limit),
    )
    kernel = Filter(
        params.records(),
        _rows(definition, anchor.rank, address),
        anchor.along,
        keep,
        anchor.rank,
        anchor.other,
        clash,
        limit,
        output,
        address,
    )
    return kernel, params


def _rows(definition: Definition, rank: Axis, address: Poly) -> tuple[Axis, ...]:
    return by_stride((a for a in definition.axes if a != rank), address)


def _is_contiguous(expr: Expr, axis: Axis) -> bool:
    """Whether neighbouring elements along an axis lie side by side in memory."""
    reads = [e for e in walk(expr) if isinstance(e, Read) and axis in all_atoms(e.address)]
    return all(r.address.is_affine_in(axis) and r.address.coefficient(axis) == 1 for r in reads)
