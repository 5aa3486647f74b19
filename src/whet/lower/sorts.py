"""Sorts and filters to kernels: one row a chunk, the result as the memory they work in."""

from __future__ import annotations

from whet.dtypes import BITS_PER_BYTE, DTYPES
from whet.index import Axis, Poly, product
from whet.kernel.expr import Expr, Read, all_atoms, walk
from whet.kernel.filter import Filter, Kept
from whet.kernel.sort import RadixSort, Sort, Sorted
from whet.kernel.tensor import Definition
from whet.lower.loops import by_stride
from whet.lower.storage import (
    Params,
    Root,
    Storage,
    Storages,
    address_of,
    magnitude,
    to_reads,
)
from whet.program.records import BufferKind
from whet.target import Target

LONG = 128
"""Rows from which on bytes are counted: 256 counters are cleared and added up for each byte."""

FEW = 16
"""The part of a row that a heap finds in less time than sorting the row takes."""

KEY_BITS = {"float16": 32, "bfloat16": 32}
"""Bits of keys that are compared in a wider type than they are stored in."""


def build_sort(
    definition: Definition, storage: Storage, storages: Storages, target: Target, threads: int
) -> tuple[Sort | RadixSort, Params]:
    """Return the kernel that runs a sort, and its parameters."""
    anchor = definition.anchor
    assert isinstance(anchor, Sorted) and not definition.index
    params = Params()
    output = params.write(storage.root)
    address = address_of(definition.position, storage)
    key = to_reads(anchor.key, storages, params)
    kept = None if anchor.kept is None else to_reads(anchor.kept, storages, params)
    rows = _rows(definition, anchor.rank, address)
    if _takes_most(anchor):
        key = key.substitute({anchor.depth: 0})
        most = 2 * max(threads, 1)
        lines = max(1, min(product(a.extent for a in rows).constant or most, most))
        bits = KEY_BITS.get(key.dtype, DTYPES[key.dtype].size * BITS_PER_BYTE)
        size, name = anchor.along.extent * (2 * lines), storage.root.name
        keys = Root(f"{name}.keys", BufferKind.TEMP, f"uint{bits}", size)
        places = Root(f"{name}.places", BufferKind.TEMP, "int64", size)
        work = params.write(keys), params.write(places)
        parts = (rows, anchor.along, key, kept, anchor.rank, output, address, anchor.descending)
        return RadixSort(params.records(), *parts, *work, lines), params
    kernel = Sort(
        params.records(),
        rows,
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


def _takes_most(anchor: Sorted) -> bool:
    """Whether so many of a long row are wanted that sorting the whole row costs less.

    A million floats: all took 348 ms with a heap, 10,000 took 9 ms.
    """
    wanted, extent = anchor.rank.extent, anchor.along.extent
    if anchor.depth.extent != 1 or magnitude(extent) < (LONG if extent.constant else 0):
        return False
    if wanted == extent:
        return True
    if wanted.constant is None or extent.constant is None:
        return False
    return wanted.constant * FEW >= extent.constant


def build_filter(
    definition: Definition, storage: Storage, storages: Storages, target: Target, threads: int
) -> tuple[Filter, Params]:
    """Return the kernel that runs a filter in its storage, and its parameters."""
    anchor = definition.anchor
    assert isinstance(anchor, Kept) and not definition.index
    params = Params()
    output = params.write(storage.root)
    address = address_of(definition.position, storage)

    keep = to_reads(anchor.keep, storages, params)
    clash = None if anchor.clash is None else to_reads(anchor.clash, storages, params)
    kernel = Filter(
        params.records(),
        _rows(definition, anchor.rank, address),
        anchor.along,
        keep,
        anchor.rank,
        anchor.other,
        clash,
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
