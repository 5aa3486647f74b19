"""What a Winograd convolution of integers keeps in scratch, and where.

Inputs lie as [positions, tiles, channels] of 16 bits, sums as [positions, tiles, panel] of 32,
weights as [positions, pairs of channels, panel, 2] of 16, or columns of taps, of two blocks of
channels, as [2, lines of several taps, pairs, 3, panel, 2]. Behind them are a pixel of what is
outside and the number of the block of tiles that the inputs are of.
Positions that as many tiles have follow each other: where a chunk is a whole image, its smaller
tiles have no products of the last point.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from whet.codegen.writing.builder import Builder, Value, const, i64, vector
from whet.kernel.integer_filtering import KINDS, SHORT, TAPS, WORD, Tiling
from whet.kernel.integer_winograd import IntegerWinograd
from whet.kernel.schedule import LINE_BYTES
from whet.kernel.winograd_filtering import SIDE

STORED = tuple(line for line, factors in enumerate(TAPS) if sum(map(bool, factors)) > 1)
"""Lines whose columns are kept; those of one tap are that tap."""
BLOCK_NUMBER = 8
"""Bytes of a number."""


@dataclass(frozen=True, slots=True)
class Group:
    """Positions that as many tiles have.

    Attributes:
        first: the number of the first of them.
        places: line and column of each in a transformed tile.
        tiles: how many tiles have them.
        across: tiles across the image that have them.
    """

    first: int
    places: list[tuple[int, int]]
    tiles: int
    across: int


@dataclass(frozen=True, slots=True)
class IntegerScratch:
    """The scratch of one thread.

    Attributes:
        kernel: the convolution.
        lanes: 32-bit lanes of a vector.
        groups: all positions, those of most tiles first.
    """

    kernel: IntegerWinograd
    lanes: int
    groups: tuple[Group, ...]

    @property
    def whole(self) -> bool:
        """Whether a chunk has all tiles of an image."""
        return _is_whole(self.kernel)

    @property
    def lines(self) -> list[int]:
        """Lines of a tile that some tiles have."""
        return sorted({u for group in self.groups for u, _ in group.places})

    @property
    def depth(self) -> int:
        """Channels of a transformed tile, in whole vectors."""
        width = 2 * self.lanes
        return -(-self.channels // width) * width

    @property
    def channels(self) -> int:
        """Input channels."""
        extent = self.kernel.depth.extent.constant
        assert extent is not None, "channels are static in Winograd kernels"
        return extent

    @property
    def pairs(self) -> int:
        """Pairs of input channels."""
        return -(-self.channels // 2)

    @property
    def block(self) -> int:
        """Pairs of channels that are multiplied before the next ones."""
        return -(-min(self.kernel.tile.block or self.channels, self.channels) // 2)

    @property
    def panel(self) -> int:
        """Columns of a panel."""
        return self.kernel.tile.vectors * self.lanes

    @property
    def panels(self) -> int:
        """Panels of filters."""
        extent = self.kernel.col.extent.constant
        assert extent is not None, "channels are static in Winograd kernels"
        return -(-extent // self.panel)

    @property
    def input_bytes(self) -> int:
        """Bytes of the channels of a tile at a position."""
        return SHORT * self.depth

    @property
    def sum_bytes(self) -> int:
        """Bytes of the sums of a tile at a position."""
        return WORD * self.panel

    @property
    def weight_apart(self) -> int:
        """Bytes from one position's weights to the next one's."""
        return _apart(2 * SHORT * self.panel * self.block)

    @property
    def column_bytes(self) -> int:
        """Bytes of a column of taps transformed to a line, where weights are made in registers."""
        return 2 * SHORT * self.panel

    @property
    def columns_bytes(self) -> int:
        """Bytes of all columns of a block that are kept."""
        return len(STORED) * SIDE * self.column_bytes * self.block

    def input_start(self, group: Group) -> int:
        """Return where the inputs of a group begin."""
        return sum(_size(g, self.input_bytes) for g in self.groups if g.first < group.first)

    def sum_start(self, group: Group) -> int:
        """Return where the sums of a group begin."""
        before = sum(_size(g, self.sum_bytes) for g in self.groups if g.first < group.first)
        return sum(_size(g, self.input_bytes) for g in self.groups) + before

    @property
    def weight_start(self) -> int:
        """Where the weights begin."""
        last = self.groups[-1]
        return self.sum_start(last) + _size(last, self.sum_bytes)

    @property
    def fill_start(self) -> int:
        """Where the pixel outside the image begins."""
        if self.kernel.in_registers:
            return self.weight_start + 2 * self.columns_bytes
        return self.weight_start + sum(len(g.places) for g in self.groups) * self.weight_apart

    @property
    def block_start(self) -> int:
        """Where the number of the block of tiles is kept whose inputs are there."""
        return self.fill_start + self.depth

    @property
    def size_bytes(self) -> int:
        """Bytes of all of it."""
        return self.block_start + BLOCK_NUMBER

    def clear(self, b: Builder, base: Value) -> None:
        """Set all sums to 0."""
        type_, start = vector("i32", self.lanes), self.sum_start(self.groups[0])
        size = (self.weight_start - start) // WORD
        with b.loop(i64(0), i64(size), self.lanes, hint="clear") as word:
            place = b.gep(b.gep(base, "i8", start), "i32", word)
            b.store(const(type_, 0), place, WORD * self.lanes)

    def slot(self, b: Builder, group: Group, tile: Value, place: tuple[Value, Value]) -> Value:
        """Return which tile of a group one is: number in its block, or line and column."""
        if not self.whole:
            return tile
        return b.add(b.mul(place[0], i64(group.across)), place[1])


def scratch_of(kernel: IntegerWinograd, lanes: int) -> IntegerScratch:
    """Return where a kernel keeps what in scratch."""
    return IntegerScratch(kernel, lanes, tuple(_groups(kernel)))


def _groups(kernel: IntegerWinograd) -> Iterator[Group]:
    whole, down, across = _is_whole(kernel), kernel.down, kernel.across
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for u in range(KINDS):
        for v in range(KINDS):
            counts = _count(down, u, whole=whole), _count(across, v, whole=whole)
            found.setdefault(counts, []).append((u, v))
    first = 0
    for (lines, columns), places in found.items():
        if lines * columns:
            yield Group(first, places, lines * columns if whole else kernel.tiles, columns)
            first += len(places)


def _is_whole(kernel: IntegerWinograd) -> bool:
    return kernel.tiles == kernel.down.count * kernel.across.count


def _count(side: Tiling, kind: int, *, whole: bool) -> int:
    """Return how many tiles along a side have a product of a point."""
    if not whole and side.large:
        return side.count
    return side.count if kind < KINDS - 1 else side.large


def apart_of(group: Group, each: int) -> int:
    """Return bytes from one position of a group to the next, if a tile has so many there."""
    return _apart(group.tiles * each)


def _size(group: Group, each: int) -> int:
    return len(group.places) * apart_of(group, each)


def _apart(size: int) -> int:
    """Return a distance of an odd number of cache lines.

    A transform writes to each position; at a power of two apart they would all fall into one set of
    the cache.
    """
    return (-(-size // LINE_BYTES) | 1) * LINE_BYTES
