"""Default schedules of attention: register tiles, row tiles of a chunk, keys of a block."""

from __future__ import annotations

from itertools import product as pairs

import msgspec

from whet.kernel.schedule import MAX_VECTORS, Work, cycles, even, most_rows
from whet.target import Target

MOST_KEYS = 512
"""Keys that are done in one block if their number is known."""
MOST_INTEGER_KEYS = 1 << 14
"""The same for products of 8-bit integers, whose packed keys and values take a quarter.

Of 513 to 16,384 keys (64 deep, two threads of Cascade Lake) one block is 1.43 to 1.55 times as fast
as two products with the softmax between them.
"""
KEY_BLOCK = 384


class Heads(msgspec.Struct, frozen=True):
    """The size of an attention.

    Attributes:
        points: batch times heads.
        rows: queries.
        keys: keys.
        depth: what queries and keys are multiplied along.
        cols: columns of the values.
        fixed: whether the number of keys is known before the run.
        most: keys that are done in one block if their number is known.
    """

    points: int
    rows: int
    keys: int
    depth: int
    cols: int
    fixed: bool
    most: int = MOST_KEYS


def choose_attention(work: Heads, target: Target, threads: int) -> tuple[int, int, int, int, int]:
    """Return rows, key vectors and column vectors of the tiles, row tiles and keys of a block."""
    limit = target.registers - 1
    best: tuple[float, int, int, int] | None = None
    for height in range(1, min(work.rows, limit - 1) + 1):
        most = max((limit - height) // height, 0) if height > 1 else MAX_VECTORS
        for wide, across in pairs(range(1, min(most, MAX_VECTORS) + 1), repeat=2):
            if height > most_rows(target, max(wide, across)):
                continue
            scores = Work(1, work.rows, work.keys, work.depth, work.depth, False)
            values = Work(1, work.rows, work.cols, work.keys, work.keys, False)
            cost = cycles(scores, target, height, wide) + cycles(values, target, height, across)
            if best is None or cost < best[0] * 0.999:
                best = cost, height, wide, across
    assert best is not None
    _, rows, wide, across = best
    tiles = -(-work.rows // rows)
    chunks = min(tiles, max(1, -(-4 * threads // work.points))) if threads > 1 else 1
    together = even(tiles, -(-tiles // chunks))
    if work.fixed and work.keys <= work.most:
        return rows, wide, across, together, work.keys
    panel = wide * target.lanes
    keys = even(work.keys, KEY_BLOCK) if work.fixed else KEY_BLOCK
    block = -(-keys // panel) * panel
    waiting = 4 * rows * (work.cols + 2 * target.lanes)
    room = max(1, target.l2_bytes // waiting)
    return rows, wide, across, min(together, room), block
