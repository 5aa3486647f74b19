"""Which contractions are better done as a chain, and how many rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from whet.kernel.schedule import Work, cycles
from whet.target import Target

MOST_BLOCK_BYTES = 160 * 1024
"""What all parts read and write of a block of rows at most, so that it stays near."""
CHUNKS_PER_THREAD = 8
SLACK = 1.005
MOST_EXTRA = 1.03
"""How much more arithmetic blocks may take, as the last one overlaps the one before."""


class Link(msgspec.Struct, frozen=True):
    """The size of a part of a chain.

    Attributes:
        work: its size, for all rows.
        tile: rows and vectors of its register tiles.
    """

    work: Work
    tile: tuple[int, int]


def choose_block(links: Sequence[Link], target: Target, threads: int) -> int | None:
    """Return the rows of a block of a chain, or ``None`` if its parts are better on their own.

    All weights have to stay in the second cache, as every block reads them, and what is handed on
    must be more than it would keep between kernels. There must be blocks enough to share out, and
    they must fit the rows. The smallest of equally fast blocks keeps most in the first cache.
    """
    rows, outer = links[0].work.rows, links[0].work.outer
    weights = sum(4 * link.work.reduction * link.work.cols for link in links)
    row_bytes = sum(4 * (link.work.depth + link.work.cols) for link in links)
    handed_on = min(4 * outer * rows * link.work.cols for link in links[:-1])
    if weights > target.l2_bytes * 5 // 8 or handed_on < target.l2_bytes:
        return None
    apart = sum(cycles(link.work, target, *link.tile) for link in links)
    costs: dict[int, float] = {}
    for block in _candidates(links, rows, row_bytes):
        count = -(-rows // block)
        one = sum(cycles(_of_rows(link.work, block), target, *link.tile) for link in links)
        many = outer * count >= CHUNKS_PER_THREAD * threads
        if many and outer * count * one <= MOST_EXTRA * apart:
            costs[block] = -(-outer * count // threads) * threads * one
    if not costs:
        return None
    least = min(costs.values())
    return min(block for block, cost in costs.items() if cost <= SLACK * least)


def _candidates(links: Sequence[Link], rows: int, row_bytes: int) -> Iterator[int]:
    low = min(rows, max(link.tile[0] for link in links))
    yield from range(low, max(low, min(rows, MOST_BLOCK_BYTES // row_bytes)) + 1)


def _of_rows(work: Work, rows: int) -> Work:
    return Work(1, rows, work.cols, work.reduction, work.depth, work.edges)
