"""Heights of register tiles for a row count that only a run knows."""

from __future__ import annotations

from whet.codegen.writing.builder import Builder, Value, i64

PIECE_COST = 2
"""What a register tile costs beside its rows, in rows."""


EIGHTHS = (2, 4, 5, 6, 7, 8)
"""Heights of register tiles for a run-time row count, as parts of the largest.

Rows are dealt out evenly, so that tiles are at least half full as soon as there are two.
"""


def piece_heights(rows: int) -> list[int]:
    """Return the heights of register tiles for a run-time row count, the largest first."""
    return sorted({1, *((rows * part + 4) // 8 for part in EIGHTHS)} - {0}, reverse=True)


def cheapest_height(b: Builder, tallest: int, size: Value, rows: Value) -> Value:
    """Return the height of pieces that cut a tile at the least cost, at most all rows.

    Args:
        b: where to write.
        tallest: rows of the largest piece.
        size: rows of the tile.
        rows: all rows.
    """
    chosen, least = i64(1), b.mul(size, i64(1 + PIECE_COST))
    for height in sorted(piece_heights(tallest))[1:]:
        count = b.binary("udiv", b.add(size, i64(height - 1)), i64(height))
        cost = b.mul(count, i64(height + PIECE_COST))
        better = b.binary("and", b.icmp("sle", cost, least), b.icmp("sle", i64(height), rows))
        chosen, least = b.select(better, i64(height), chosen), b.select(better, cost, least)
    return chosen
