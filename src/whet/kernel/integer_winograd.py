"""The kernel of a 3x3 convolution of 8-bit integers by Winograd's minimal filtering."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from whet.index import Axis
from whet.kernel.expr import Read
from whet.kernel.integer_filtering import Tiling, tiling_of

if TYPE_CHECKING:
    from whet.kernel.spec import Param, Store, Tile


class IntegerWinograd(msgspec.Struct, frozen=True):
    """A 3x3 convolution of bytes and 8-bit weights, in 16- and 32-bit integers.

    A chunk is a block of tiles of an image, and some panels of filters. It transforms the tiles
    into scratch, then for each panel its taps, multiplies them position by position, and transforms
    back.

    Attributes:
        params: pointer parameters.
        image: batch axis.
        y: input row; the first tile starts at ``-pads[0]``.
        x: input column; the first tile starts at ``-pads[1]``.
        depth: input channels, in lanes while tiles are transformed.
        rows: output row.
        cols: output column.
        col: output channels, in lanes.
        a: input bytes, affine in image, y, x and depth, contiguous in depth.
        flips: whether they are signed; they count as 128 more then.
        fill: what counts outside the image, 0 to 255.
        weights: parameter of the taps, [panels, depth / 2, 9, panel, 2].
        stores: epilogue; reads the result, a 32-bit integer, as ``Var("acc")``.
        pads: pixels outside, above and to the left.
        tiles: tiles in one chunk.
        tile: the schedule; ``rows`` tiles are multiplied by ``vectors`` of filters at a time, for
            ``block`` channels before the next.
        in_registers: whether weights are made of transformed columns where they are multiplied
            instead of in scratch; a chunk then has a whole image, and a panel is one vector.
    """

    params: tuple[Param, ...]
    image: Axis
    y: Axis
    x: Axis
    depth: Axis
    rows: Axis
    cols: Axis
    col: Axis
    a: Read
    flips: bool
    fill: int
    weights: int
    stores: tuple[Store, ...]
    pads: tuple[int, int]
    tiles: int
    tile: Tile
    in_registers: bool = False

    @property
    def down(self) -> Tiling:
        """Tiles down the image."""
        return _known_tiling(self.rows)

    @property
    def across(self) -> Tiling:
        """Tiles across the image."""
        return _known_tiling(self.cols)


def _known_tiling(axis: Axis) -> Tiling:
    extent = axis.extent.constant
    assert extent is not None, "images are static in Winograd kernels"
    tiling = tiling_of(extent)
    assert tiling is not None, "the size was looked at"
    return tiling
