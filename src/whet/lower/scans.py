"""Prefix sums to kernels: neighbouring rows in lanes, steps in order."""

from __future__ import annotations

from whet.index import Axis, product
from whet.kernel.scan import Prefix, Scan
from whet.kernel.spec import Store
from whet.kernel.tensor import Definition
from whet.lower.loops import by_stride, indices_of, merge_axes
from whet.lower.storage import Params, Storage, Storages, address_of, magnitude, to_reads
from whet.target import Target

CHUNK_ELEMENTS = 8192
MIN_BLOCK = 256
"""Lanes of a chunk: a few pages' worth of cache lines at every step, so that prefetching works."""


def build_scan(
    definition: Definition, storage: Storage, storages: Storages, target: Target, threads: int
) -> tuple[Scan, Params]:
    """Return the kernel that runs a scan into storage, and its parameters."""
    anchor = definition.anchor
    assert isinstance(anchor, Prefix)
    params = Params()
    output = params.write(storage.root)
    term = to_reads(anchor.term, storages, params)
    address = address_of(definition.position, storage)
    store = Store(output, address, to_reads(definition.body, storages, params))
    rows = by_stride((a for a in definition.axes if a != anchor.step), address)
    axes, moved = merge_axes(rows, indices_of([term], [store]))
    store = Store(output, address.substitute(moved), store.value.substitute(moved))
    lane = axes[-1] if axes and store.address.coefficient(axes[-1]) == 1 else None
    outer = axes if lane is None else axes[:-1]
    grain, block = _chunking(outer, lane, anchor.step)
    kernel = Scan(
        params.records(),
        outer,
        lane,
        anchor.step,
        anchor.op,
        term.substitute(moved),
        anchor.dtype,
        anchor.exclusive,
        (store,),
        grain,
        block,
    )
    return kernel, params


def _chunking(outer: tuple[Axis, ...], lane: Axis | None, step: Axis) -> tuple[int, int]:
    """Return grain and block so that a chunk is worth a few microseconds."""
    steps = max(magnitude(step.extent), 1)
    width = 1 if lane is None else max(magnitude(lane.extent), 1)
    if steps * width <= CHUNK_ELEMENTS or width <= MIN_BLOCK:
        points = max(magnitude(product(a.extent for a in outer)), 1)
        return max(1, min(points, CHUNK_ELEMENTS // (steps * width))), 0
    return 1, max(MIN_BLOCK, CHUNK_ELEMENTS // steps // MIN_BLOCK * MIN_BLOCK)
