"""Weights of the next product, fetched into the second cache while one computes.

A network reads every weight once. A launch whose sums are short waits for its first weights at the
latency of the shared cache, or of memory: on ResNet-50's widening layers of 14 x 14 pixels two
threads took 125 us, 110 with the weights near. The product in front of it has the ports and the
time to fetch them.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from whet.codegen.kinds.contraction import contraction_chunks, row_items
from whet.index import product
from whet.kernel.schedule import LINE_BYTES
from whet.kernel.spec import Ahead, Contraction, Param
from whet.lower.rewrites import Rewrites
from whet.lower.select import KernelCall
from whet.target import Target

MOST_LINES = 2
"""Lines at each unrolled depth step, of some 50 cycles; more would wait for each other."""

LEAST_BYTES = 32 << 10
"""Weights below this are there before anybody waits for long."""

PART_OF_CACHE = 3
"""Weights of this part of the second cache are fetched; rows and results need the rest."""

NAME = "fetch_ahead"


def fetch_ahead(
    calls: Sequence[KernelCall], target: Target, threads: int, rewrites: Rewrites
) -> list[KernelCall]:
    """Return calls of which products of 8-bit integers fetch the weights of a later product.

    Products that fetch their own panels one ahead wait for little.
    """
    result = list(calls)
    free: int | None = None
    for place, call in enumerate(calls):
        if not isinstance(call.kernel, Contraction):
            continue
        total = _weights(call)
        if free is not None and total is not None and not call.kernel.tile.prefetch:
            fetching = _fetching(result[free], call, total, target, threads)
            if fetching is not None and rewrites.take(NAME):
                result[free] = fetching
            free = None
        if _has_room(call.kernel, target):
            free = place
    return result


def _has_room(kernel: Contraction, target: Target) -> bool:
    """Whether registers are left when a product of integers has its sums: LLVM spills else."""
    sums = kernel.tile.rows * kernel.tile.vectors
    operands = kernel.tile.vectors + 1
    return kernel.dot is not None and sums + operands < target.registers - 1


def _fetching(
    call: KernelCall, later: KernelCall, total: int, target: Target, threads: int
) -> KernelCall | None:
    """Return a call that fetches the weights of a later one, ``None`` if it has no time for it."""
    kernel, other = call.kernel, later.kernel
    assert isinstance(kernel, Contraction) and isinstance(other, Contraction)
    chunks = contraction_chunks(kernel, target.lanes).constant
    if chunks is None or chunks < threads or total < LEAST_BYTES:
        return None
    apart = 0 if other.tile.by_rows else total // threads // LINE_BYTES * LINE_BYTES
    wanted = min(total if other.tile.by_rows else apart, target.l2_bytes // PART_OF_CACHE)
    steps = _steps(kernel, target) // threads
    lines = -(-wanted // (LINE_BYTES * max(steps, 1)))
    if lines > MOST_LINES:
        return None
    root = later.roots[other.b.param]
    ahead = Ahead(len(kernel.params), wanted, apart, -(-chunks // threads), lines)
    params = (*kernel.params, Param(root.dtype, written=False))
    return replace(
        call, kernel=replace(kernel, params=params, ahead=ahead), roots=(*call.roots, root)
    )


def _weights(call: KernelCall) -> int | None:
    """Return the bytes of a product's constant weights, ``None`` if there are none."""
    kernel = call.kernel
    assert isinstance(kernel, Contraction)
    root = call.roots[kernel.b.param]
    return root.size_bytes.constant if kernel.b.padded and root.make is not None else None


def _steps(kernel: Contraction, target: Target) -> int:
    """Return how often a launch does an unrolled depth step, in all of its register tiles."""
    tile, cols = kernel.tile, kernel.col.extent.constant
    depth = kernel.depth.extent.constant
    count = (row_items(kernel) * product(t.extent for t in kernel.taps)).constant
    if cols is None or depth is None or count is None:
        return 0
    panels = -(-cols // (tile.vectors * target.lanes))
    return count * panels * (depth // tile.unroll)
