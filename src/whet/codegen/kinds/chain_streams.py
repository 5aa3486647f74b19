"""What a chain fetches for the next block of rows while it works on this one.

The rows that a block reads and writes come from the third cache or memory, whose latency a core
hides for a dozen lines at a time. A product that widens and adds a residual waits for them; spread
over all depth steps of a chain they cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whet.codegen.writing.frame import Access
from whet.dtypes import DTYPES
from whet.index import Axis, Poly
from whet.kernel.expr import Read, walk
from whet.kernel.schedule import LINE_BYTES
from whet.kernel.spec import Contraction


@dataclass(frozen=True, slots=True)
class Flow:
    """Rows that lie one behind the other.

    Attributes:
        access: where they lie.
        along: the axis along a row.
        lines: cache lines of a block.
        writes: whether they are written.
    """

    access: Access
    along: Axis
    lines: int
    writes: bool


def flows_of(parts: Sequence[Contraction], outside: int, rows: int) -> list[Flow]:
    """Return what a block reads and writes in memory, the longest first.

    Args:
        parts: the parts of a chain.
        outside: number of parameters in memory; those behind them are in scratch.
        rows: rows of a block.
    """
    written = {part.stores[0].param for part in parts}
    found: dict[Access, Flow] = {}
    for part in parts:
        (store,) = part.stores
        reads = [(part.a, part.depth)]
        reads += [(e, part.col) for e in walk(store.value) if isinstance(e, Read)]
        places = [(r.param, r.address, axis, False) for r, axis in reads if r.param not in written]
        for param, address, axis, writes in (*places, (store.param, store.address, part.col, True)):
            size = DTYPES[part.params[param].dtype].size
            lines = _lines(address, part.row, axis, rows * size)
            if param < outside and lines:
                found[(param, address)] = Flow((param, address), axis, lines, writes)
    return sorted(found.values(), key=lambda f: -f.lines)


def _lines(address: Poly, row: Axis, along: Axis, row_bytes: int) -> int:
    """Return the cache lines of a block, 0 if its rows do not follow each other closely."""
    step, width = address.coefficient(row).constant, along.extent.constant
    if step is None or width is None or address.coefficient(along) != 1:
        return 0
    return -(-step * row_bytes // LINE_BYTES) if width <= step <= width + width // 4 else 0


def spread(
    flows: Sequence[Flow], parts: Sequence[Contraction], lanes: int
) -> list[list[tuple[Flow, int]]]:
    """Return for each part which flows it fetches, and how many lines at each unrolled step."""
    steps = [_steps(part, lanes) for part in parts]
    plan: list[list[tuple[Flow, int]]] = [[] for _ in parts]
    for flow in flows:
        loads = [
            (sum(n for _, n in own) + flow.lines / s, k)
            for k, (own, s) in enumerate(zip(plan, steps, strict=True))
        ]
        _, chosen = min(loads)
        plan[chosen].append((flow, -(-flow.lines // steps[chosen])))
    return plan


def _steps(part: Contraction, lanes: int) -> int:
    """Return the unrolled depth steps of a block."""
    rows, cols, depth = (a.extent.constant or 1 for a in (part.row, part.col, part.depth))
    tiles = -(-rows // part.tile.rows) * -(-cols // (part.tile.vectors * lanes))
    taps = 1
    for tap in part.taps:
        taps *= tap.extent.constant or 1
    return max(1, tiles * taps * (depth // part.tile.unroll))
