"""Register tiles of products, and where they take a whole line of an image or several of them."""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from whet.index import Axis, product
from whet.kernel.schedule import LINE_BYTES, OPEN_ROWS, UNROLL, Work
from whet.kernel.schedules import Chooser
from whet.kernel.spec import BYTES_OF_DOT, PAIR, Dot, Tile
from whet.kernel.tensor import Product
from whet.lower.storage import magnitude
from whet.target import Target

WHOLE_LINE = 14
"""Rows that are summed at once where they divide the lines of an image, one more than usual.

In two halves of 7 they take every weight from the second cache twice. With ``vpdpbusd``,
ResNet-50's layers of 3x3 on 14 x 14 pixels took 230 us so and 211 with 14 x 2 sums; in float32 its
1x1 of stride 2 there 1224 and 1127, on 28 pixels 1206 and 1176 (two threads of a Cascade Lake).
Elsewhere 13 rows are as fast, and LLVM spills none of their sums.
"""
MOST_LINE = 56
"""The longest line that floats are cut into so many rows; 13 rows fit longer ones as well."""

LEAST_DEPTH = 16
"""The shortest depth for which floats are cut so: patches of 3 channels took 171 us for 151."""

SPARE_REGISTERS = {"vnni": 0, "i8mm": 0, "dotprod": 4, "pairs": 5, "": 12}
"""Registers of operands of 8-bit integers taken apart, beyond those of a plain product.

Where there are any, LLVM spills sums of products as soon as two depth steps stand together.
"""


class Rows(msgspec.Struct, frozen=True):
    """The rows of a product.

    Attributes:
        outer: axes around the tiled one.
        row: the axis that register tiles run along.
        edges: whether rows may lie outside the operand.
        whole: whether a register tile may take several points of the last outer axis.
        plain: whether they are rows of one operand, all of them inside, and share no elements.
    """

    outer: tuple[Axis, ...]
    row: Axis
    edges: bool
    whole: bool
    plain: bool = False

    @property
    def lines(self) -> int | None:
        """How many lines of an image fill a register tile, ``None`` if that is no more than one."""
        length = self.row.extent.constant
        total = self.outer[-1].extent.constant if self.outer else None
        if not self.whole or not length or total is None or WHOLE_LINE // length < 2:
            return None
        return min(WHOLE_LINE // length, total) if total > 1 else None


def choose_rows(
    anchor: Product, rows: Rows, target: Target, choose: Chooser
) -> tuple[Tile, int | None]:
    """Return the schedule of a product, and how many lines its register tiles take, if several."""
    lines = rows.lines if _may_be_tall(anchor, target) else None
    work = _work(anchor, rows, lines)
    if anchor.dot is not None:
        work, reduced = _of_dots(anchor.dot, work, target, tall=_may_be_tall(anchor, target))
        tile = choose.tile(work, reduced)
    else:
        tile = _tile_of_floats(work, target, choose, tall=_may_be_tall(anchor, target))
    if lines is None or tile.rows == work.rows:
        return tile, lines
    return choose_rows(anchor, replace(rows, whole=False), target, choose)


def _may_be_tall(anchor: Product, target: Target) -> bool:
    """Whether a register tile may have a row more than usual."""
    if target.vector_bytes != LINE_BYTES or target.lane_fma:
        return False
    if anchor.dot is None:
        return anchor.a.dtype == "float32"
    return anchor.dot.size == PAIR or target.dot == "vnni"


def _of_dots(dot: Dot, work: Work, target: Target, *, tall: bool) -> tuple[Work, Target]:
    """Return a product of several values a lane, and the processor with the registers left."""
    spare = SPARE_REGISTERS[target.dot] if dot.size == BYTES_OF_DOT else 0
    room = target.registers - spare
    if tall and work.rows == WHOLE_LINE:
        room += 1
    if spare:
        work = replace(work, unroll=1)
    return work, replace(target, registers=room, lane_fma=False)


def _tile_of_floats(work: Work, target: Target, choose: Chooser, *, tall: bool) -> Tile:
    """Return the schedule of a product of floats, in whole lines where they fit.

    More than four depth steps together are too many for these: LLVM spills some of their sums.
    """
    fits = work.rows % WHOLE_LINE == 0 and work.rows <= MOST_LINE and not work.edges
    if tall and fits and work.depth >= LEAST_DEPTH:
        short, more = replace(work, unroll=UNROLL), replace(target, registers=target.registers + 1)
        tile = choose.tile(short, more)
        if (tile.rows, tile.vectors) == (WHOLE_LINE, 2):
            return tile
    return choose.tile(work, target)


def _work(anchor: Product, rows: Rows, lines: int | None) -> Work:
    """Return the size of a product of which a register tile takes so many lines."""
    depth, together = magnitude(anchor.depth.extent), lines or 1
    unknown = any(x.extent.constant is None for x in (*rows.outer, rows.row))
    count = max(magnitude(rows.row.extent), 1)
    if rows.row.extent.constant is None:
        count = max(count, OPEN_ROWS)
    return Work(
        outer=-(-max(magnitude(product(x.extent for x in rows.outer)), 1) // together),
        rows=count * together,
        cols=max(magnitude(anchor.col.extent), 1),
        reduction=max(depth * magnitude(product(t.extent for t in anchor.taps)), 1),
        depth=max(depth, 1),
        edges=rows.edges,
        open=unknown,
        blocks=anchor.dot is None and anchor.depth.extent.constant is not None,
        pipelines=lines is None and _pipelines(anchor, rows),
    )


def _pipelines(anchor: Product, rows: Rows) -> bool:
    """Whether register tiles may be pipelined: all extents are known, and there are no taps."""
    axes = (*rows.outer, rows.row, anchor.depth, anchor.col)
    known = all(x.extent.constant is not None for x in axes)
    integers = anchor.dot is not None and anchor.dot.size == BYTES_OF_DOT
    return integers and known and rows.plain and all(t.extent == 1 for t in anchor.taps)
