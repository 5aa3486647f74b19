"""Register tiles in a pipeline: each one ends among the products of the next one (decision 36).

A tile that ends on its own leaves the units that multiply idle. Two tiles that are half as large
take turns in the registers instead: while one is summed, the other is scaled, rounded and stored.
"""

from __future__ import annotations

import msgspec

from whet.codegen.kinds.contraction_tile import TileWriter
from whet.codegen.kinds.depth_steps import Cells, Columns
from whet.codegen.kinds.kernel_function import bind_flat
from whet.codegen.writing.builder import Builder, Value, i64
from whet.codegen.writing.frame import Frame
from whet.kernel.schedule import balanced
from whet.kernel.spec import Contraction

Range = tuple[Value, Value]
"""The first of something, and the one behind the last."""


def write_pipelined(
    frame: Frame, kernel: Contraction, tiles: TileWriter, items: Range, panels: Range
) -> None:
    """Write the loops over the register tiles of a chunk: those of one height after the other.

    Args:
        frame: where the chunk is.
        kernel: the contraction; its rows and its depth are known, and all panels are whole.
        tiles: writes the tiles.
        items: the tiles of each panel; where there are outer axes, all those of some of their
            points.
        panels: column panels.
    """
    b, extent = frame.b, kernel.row.extent.constant
    assert extent is not None, "pipelined tiles have known rows"
    heights = balanced(extent, kernel.tile.rows)
    first, last = items
    if kernel.outer:
        each = sum(count for _, count in heights)
        assert kernel.tile.row_items % each == 0, "chunks have whole lines"
        first, last = (b.divide(place, each)[0] for place in items)
    above, row = 0, 0
    for height, count in heights:
        points, places = (first, last), (i64(0), i64(count))
        if not kernel.outer:
            low = b.max(b.add(first, i64(-above)), i64(0))
            points, places = (i64(0), i64(1)), (low, b.min(b.add(last, i64(-above)), i64(count)))
        _Pipeline(kernel, tiles, height, row, points, places, panels).write(frame)
        above, row = above + count, row + count * height


class _Pipeline(msgspec.Struct, frozen=True):
    """Tiles of one height.

    Attributes:
        kernel: the contraction.
        tiles: writes the tiles.
        height: rows of a tile.
        start: the row at which the first one begins.
        points: points of the outer axes, one if there are none.
        places: tiles of each point.
        panels: column panels.
    """

    kernel: Contraction
    tiles: TileWriter
    height: int
    start: int
    points: Range
    places: Range
    panels: Range

    def write(self, frame: Frame) -> None:
        """Write the loop over the tiles, panel by panel."""
        b, tiles = frame.b, self.tiles
        each = b.binary("sub", self.places[1], self.places[0])
        inside = b.mul(each, b.binary("sub", self.points[1], self.points[0]))
        with b.when(b.icmp("sgt", each, i64(0))):
            count = b.mul(inside, b.binary("sub", self.panels[1], self.panels[0]))
            columns = Columns(self.kernel.tile.vectors, (None,) * self.kernel.tile.vectors)
            ready, fresh = (tiles.cells(self.height, columns) for _ in range(2))
            here, panel = self._place(frame, i64(0), each, inside)
            tiles.sum_among(here, panel, ready, [])
            with b.loop(i64(1), count, hint="item") as number:
                before, _ = self._place(frame, b.add(number, i64(-1)), each, inside)
                here, panel = self._place(frame, number, each, inside)
                tiles.sum_among(here, panel, fresh, tiles.epilogue.parts(before, ready))
                _move(b, fresh, ready)
            before, _ = self._place(frame, b.add(count, i64(-1)), each, inside)
            tiles.epilogue.finish(before, ready)

    def _place(
        self, frame: Frame, number: Value, each: Value, inside: Value
    ) -> tuple[Frame, Value]:
        """Return where a tile is, and its panel.

        Args:
            frame: where the chunk is.
            number: the number of the tile in the chunk.
            each: tiles of a point.
            inside: tiles of a panel.
        """
        b, kernel = frame.b, self.kernel
        panel = b.add(self.panels[0], b.binary("udiv", number, inside))
        place = b.binary("urem", number, inside)
        if kernel.outer:
            point = b.add(self.points[0], b.binary("udiv", place, each))
            frame = bind_flat(frame, kernel.outer, point)
            place = b.binary("urem", place, each)
        place = b.add(self.places[0], place)
        row = b.add(b.mul(place, i64(self.height)), i64(self.start))
        col = b.mul(panel, i64(kernel.tile.vectors * self.tiles.width))
        return frame.bind(kernel.row, row).bind(kernel.col, col), panel


def _move(b: Builder, source: Cells, target: Cells) -> None:
    """Write the moves of the sums of one tile to where those of another were."""
    for line, other in zip(source.cells, target.cells, strict=True):
        for cell, place in zip(line, other, strict=True):
            b.store(b.load(source.type, cell, 64), place, 64)
