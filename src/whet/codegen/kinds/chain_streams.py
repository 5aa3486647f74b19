"""What a chain fetches for the next block of rows while it works on this one.

The rows that a block reads and writes come from the third cache or memory, whose latency a core
hides for a dozen lines at a time. A product that widens and adds a residual waits for them; spread
over all depth steps of a chain they cost next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from whet.codegen.writing.frame import Access
from whet.dtypes import DTYPES
from whet.index import Axis, Poly
from whet.kernel.expr import Read, walk
from whet.kernel.schedule import LINE_BYTES
from whet.kernel.spec import Contraction


class Along(msgspec.Struct, frozen=True):
    """Where the elements of a row lie: an axis, from which point on, and how many."""

    axis: Axis
    begin: int
    width: int


class Flow(msgspec.Struct, frozen=True):
    """Rows that lie one behind the other.

    Attributes:
        access: where they lie.
        along: what goes along a row.
        lines: cache lines of a block.
        writes: whether they are written.
    """

    access: Access
    along: Along
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
        for access, along, writes in _accesses(part):
            param, address = access
            if param >= outside or (param in written and not writes):
                continue
            lines = _lines(address, part.row, along, rows * DTYPES[part.params[param].dtype].size)
            if lines:
                found[access] = Flow(access, along, lines, writes)
    return sorted(found.values(), key=lambda f: -f.lines)


def _accesses(part: Contraction) -> Iterator[tuple[Access, Along, bool]]:
    """Yield what a part reads and writes row by row, and whether it writes it."""
    depth, columns = part.depth.extent.constant or 0, part.col.extent.constant or 0
    end = depth
    for a, begin in reversed(part.operands):
        yield (a.param, a.address), Along(part.depth, begin, end - begin), False
        end = begin
    (store,) = part.stores
    column = Along(part.col, 0, columns)
    for e in walk(store.value):
        if isinstance(e, Read):
            yield (e.param, e.address), column, False
    yield (store.param, store.address), column, True


def _lines(address: Poly, row: Axis, along: Along, row_bytes: int) -> int:
    """Return the cache lines of a block, 0 if its rows do not follow each other closely."""
    step, width = address.coefficient(row).constant, along.width
    if step is None or not width or address.coefficient(along.axis) != 1:
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
