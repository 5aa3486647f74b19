"""What a Winograd convolution keeps in scratch: transformed tiles, products and lines of them."""

from __future__ import annotations

from dataclasses import dataclass

from whet.codegen.writing.builder import F32, Builder, Value, i64
from whet.dtypes import DTYPES
from whet.index import Poly, ceil_div, product
from whet.kernel.schedule import balanced
from whet.kernel.spec import Winograd
from whet.kernel.winograd import FILTERINGS
from whet.kernel.winograd_filtering import Filtering
from whet.target import Target


def filtering_of(kernel: Winograd) -> Filtering:
    """Return how the tiles of a convolution are filtered."""
    return FILTERINGS[kernel.size, kernel.stride]


def static(extent: Poly) -> int:
    """Return an extent of an image or of channels."""
    assert extent.constant is not None, "channels and images are static in Winograd kernels"
    return extent.constant


def grid_of(kernel: Winograd) -> tuple[Poly, Poly]:
    """Return the tiles of an image, down and across."""
    return ceil_div(kernel.rows.extent, kernel.size), ceil_div(kernel.cols.extent, kernel.size)


def tiles_of(kernel: Winograd) -> Poly:
    """Return the tiles of all images."""
    return product((kernel.image.extent, *grid_of(kernel)))


def block_of(kernel: Winograd) -> int:
    """Return the tiles of a block; blocks are of equal size, so that little is done in vain."""
    most, total = kernel.tile.rows * kernel.tile.row_items, tiles_of(kernel).constant
    return most if total is None else -(-total // -(-total // most))


def pixels_come_late(kernel: Winograd, target: Target) -> bool:
    """Tell whether the next tile's pixels are fetched while one is transformed.

    That pays for images that come from the third cache or memory, if the pixels stay in the first
    one until then. A Cascade Lake transforms 256 x 256 x 64 in 1,200 us instead of 1,400 and
    128 x 128 x 128 in 810 instead of 920, but 14 x 14 x 512 in 100 instead of 90.
    """
    pixel = kernel.depth.extent * DTYPES[kernel.a.dtype].size
    image = (pixel * kernel.y.extent * kernel.x.extent).constant
    span = filtering_of(kernel).span
    columns = (pixel * kernel.size * kernel.stride * span).constant
    assert image is not None and columns is not None, "images are static in Winograd kernels"
    return image >= 2 * target.l2_bytes and columns < target.l1_bytes // 2


@dataclass(frozen=True, slots=True)
class Scratch:
    """The scratch of one thread.

    Attributes:
        kernel: the convolution.
        lanes: lanes of a vector.
    """

    kernel: Winograd
    lanes: int

    @property
    def block(self) -> int:
        """Tiles of a block."""
        return block_of(self.kernel)

    @property
    def heights(self) -> list[tuple[int, int]]:
        """The heights of a block's register tiles, and how many there are of each."""
        return balanced(self.block, self.kernel.tile.rows)

    @property
    def positions(self) -> int:
        """Positions of a group of lines."""
        filtering = filtering_of(self.kernel)
        return filtering.together * filtering.span

    @property
    def depth(self) -> int:
        """Channels of a transformed tile, in whole vectors."""
        extent = self.kernel.depth.extent.constant
        assert extent is not None, "channels are static in Winograd kernels"
        return -(-extent // self.lanes) * self.lanes

    @property
    def panel(self) -> int:
        """Columns of a panel."""
        return self.kernel.tile.vectors * self.lanes

    @property
    def columns(self) -> int:
        """Columns of all panels of a chunk."""
        return self.kernel.tile.panels * self.panel

    @property
    def size_bytes(self) -> int:
        """Bytes of all of it."""
        kept = len(filtering_of(self.kernel).kept) * self.kernel.size
        return 4 * (self._before_kept + kept * self._apart(self.columns))

    def input(
        self, b: Builder, base: Value, position: int | Value, at: tuple[Value, Value]
    ) -> Value:
        """Return where a transformed input lies; ``at`` is the tile in its block and the channel.

        They lie as [positions, tiles, channels].
        """
        return self._place(b, base, (position, *at), self.depth)

    def product(
        self, b: Builder, base: Value, position: int | Value, at: tuple[Value, Value]
    ) -> Value:
        """Return where a product lies, behind the inputs, as [positions, tiles, panel]."""
        start = b.gep(base, F32, self.positions * self._apart(self.depth))
        return self._place(b, start, (position, *at), self.panel)

    def kept(self, b: Builder, base: Value, number: int, at: tuple[Value, Value]) -> Value:
        """Return where an element of a kept line lies, behind the products.

        They lie as [elements of all lines, tiles, columns].
        """
        start = b.gep(base, F32, self._before_kept)
        return self._place(b, start, (number, *at), self.columns)

    @property
    def _before_kept(self) -> int:
        return self.positions * (self._apart(self.depth) + self._apart(self.panel))

    def _place(
        self, b: Builder, start: Value, at: tuple[int | Value, Value, Value], width: int
    ) -> Value:
        outer, slot, column = at
        number = i64(outer) if isinstance(outer, int) else outer
        offset = b.add(b.mul(slot, i64(width)), column)
        return b.gep(start, F32, b.add(b.mul(number, i64(self._apart(width))), offset))

    def _apart(self, width: int) -> int:
        """Return the distance of two positions: an odd number of vectors.

        A transform writes one vector to each position; at a power of two apart they would all fall
        into one set of the cache.
        """
        vectors = self.block * width // self.lanes
        return (vectors + 1 - vectors % 2) * self.lanes
