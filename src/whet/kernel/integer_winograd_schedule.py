"""Schedules of Winograd convolutions of integers, and whether one is faster than a plain product.

A plain product takes four pairs of bytes in a lane, Winograd's algorithm two of 16 bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product as pairs_of

import msgspec

from whet.kernel.integer_filtering import KINDS, SHORT, WORD, Tiling, tiling_of
from whet.kernel.schedule import (
    LINE_BYTES,
    LOADS_PER_CYCLE,
    MOST_PREFETCHES,
    UNROLL,
    most_rows,
)
from whet.kernel.spec import BYTES_OF_DOT, PAIR, Tile
from whet.kernel.winograd_filtering import TAPS
from whet.target import Target

INPUT_CYCLES = 190
"""Of a tile and a vector of its channels, of 16 bits, on a Zen 4 as those below."""
OUTPUT_CYCLES = 220
"""Of a tile and a vector of its filters, with what is done to the result."""
RESULT_CYCLES = 5
"""Of a vector of results of a plain product."""
TAPS_CYCLES = 75
"""Of a vector of filters and a pair of channels."""
WHOLE = 0.8
"""What transforms take where vectors are not done in halves, by their instructions on Intel's."""
POSITION_CYCLES = 30
"""Of a register tile at a position, beside its products."""
WAITING_CYCLES = 3
"""Of a vector of sums that waits in scratch between blocks of channels."""
SCRATCH_BYTES_PER_CYCLE = 32
"""Other launches have taken the scratch out of the second cache since the last image."""
GAIN = 0.9
"""What it may take of the estimate of a plain product."""
NEAR = 0.65
"""Part of the level-2 cache for the scratch of a chunk."""
COLUMN_OPERATIONS = 42
"""Of a pair of channels whose weights are made in registers, beside its products: taps widened and
added up along columns. Two operations start in a cycle."""
COLUMN_CYCLES = 15
"""Of storing these columns, which is not hidden by products."""
PART_OPERATIONS = 8
"""Of making the weights of some positions of a line."""
REGISTER_BLOCKS = (32, 16, 8, 4)
"""Pairs of channels of a block whose columns, 25 kB at most, stay near."""
FETCHES = 2
"""How often each line of taps is asked for ahead: once left a tenth of the time to waiting."""
BESIDE_SUMS = 8
"""Registers for taps and weights beside the sums of a line, or of some of its positions."""
FEWER_STEPS = 2
"""Steps unrolled where products are added by another instruction: LLVM spills with more."""
MOST_VECTORS = 2
MOST_BLOCKS = 4
"""Blocks of channels that are tried."""
CHUNKS_OF_THREAD = 8
"""Chunks of a launch that are enough for each thread."""
MOST_CUTS = 64
"""Blocks of tiles that are tried."""
MULTIPLIES = ("vnni", "pairs")
"""Targets that multiply 16-bit integers at half the rate of bytes or faster."""


class IntegerConvolution(msgspec.Struct, frozen=True):
    """The size of a 3x3 convolution of bytes: output pixels, input and output channels."""

    images: int
    rows: int
    cols: int
    depth: int
    filters: int


class Plan(msgspec.Struct, frozen=True):
    """How a convolution is done: tiles in a chunk, the schedule, where taps are transformed."""

    tiles: int
    tile: Tile
    in_registers: bool = False


def choose_integer_winograd(work: IntegerConvolution, target: Target, threads: int) -> Plan | None:
    """Return the schedule of the least estimated time, ``None`` if a plain product is faster."""
    estimate = _estimate(work, target, threads)
    plans = integer_plans(work, target, threads)
    if estimate is None or not plans:
        return None
    return plans[0] if estimate.cycles(plans[0]) < GAIN * estimate.direct else None


def integer_plans(work: IntegerConvolution, target: Target, threads: int) -> list[Plan]:
    """Return schedules whose scratch stays near, those of the least estimated time first."""
    estimate = _estimate(work, target, threads)
    if estimate is None:
        return []
    return sorted([*_plans(estimate), *_register_plans(estimate)], key=estimate.cycles)


def fits_integers(plan: Plan, work: IntegerConvolution, target: Target) -> bool:
    """Tell whether a convolution can be done with a schedule."""
    estimate = _estimate(work, target, 1)
    if estimate is None:
        return False
    block, rest = divmod(plan.tile.block, PAIR)
    whole = block >= 1 and not rest and estimate.pairs % block == 0
    if plan.in_registers:
        alone = plan.tiles == estimate.tiles and plan.tile.vectors == 1
        return whole and alone and block % plan.tile.unroll == 0 and estimate.sums_stay
    return whole and 1 <= plan.tiles <= estimate.tiles


def _estimate(work: IntegerConvolution, target: Target, threads: int) -> _Estimate | None:
    down, across = tiling_of(work.rows), tiling_of(work.cols)
    if down is None or across is None or target.dot not in MULTIPLIES:
        return None
    return _Estimate(work, down, across, target, threads)


def _plans(estimate: _Estimate) -> Iterator[Plan]:
    """Yield schedules whose scratch stays near, with taps transformed into it."""
    target = estimate.target
    room, unroll = NEAR * target.l2_bytes, _unroll(target)
    for vectors in range(1, MOST_VECTORS + 1):
        panels = -(-estimate.work.filters // (vectors * target.lanes))
        for block, blocks in pairs_of(_blocks(estimate.pairs), _cuts(estimate)):
            tiles = -(-estimate.tiles // blocks)
            if estimate.scratch(tiles, vectors, block) > room:
                continue
            rows = min(most_rows(target, vectors), tiles)
            lines = _lines(estimate, vectors, tiles, rows)
            each = _panels_together(estimate, -(-estimate.tiles // tiles), panels)
            yield Plan(tiles, Tile(rows, vectors, unroll, 1, each, lines, PAIR * block))


def _unroll(target: Target) -> int:
    """Return the steps of a round of the innermost loop."""
    return UNROLL if target.dot == "vnni" else FEWER_STEPS


def _register_plans(estimate: _Estimate) -> Iterator[Plan]:
    """Yield the schedule with weights made in registers, if sums of a position stay there."""
    target, pairs = estimate.target, estimate.pairs
    block = next((n for n in REGISTER_BLOCKS if pairs % n == 0), None)
    if block is None or not estimate.sums_stay:
        return
    panels = -(-estimate.work.filters // target.lanes)
    unroll = FEWER_STEPS
    lines = -(-FETCHES * TAPS * PAIR * target.lanes * unroll // (LINE_BYTES * estimate.parts))
    each = _panels_together(estimate, 1, panels)
    tile = Tile(1, 1, unroll, 1, each, lines, PAIR * block)
    yield Plan(estimate.tiles, tile, in_registers=True)


def _panels_together(estimate: _Estimate, blocks: int, panels: int) -> int:
    """Return panels of a chunk: so many that threads have enough chunks to end together."""
    if estimate.threads == 1:
        return panels
    wanted = CHUNKS_OF_THREAD * estimate.threads
    parts = min(-(-wanted // (blocks * estimate.work.images)), panels)
    return -(-panels // parts)


def _cuts(estimate: _Estimate) -> list[int]:
    """Return into how many blocks the tiles of an image may be cut."""
    count = estimate.tiles
    sizes = {-(-count // blocks) for blocks in range(1, min(count, MOST_CUTS) + 1)}
    return [-(-count // size) for size in sorted(sizes)]


def _lines(estimate: _Estimate, vectors: int, tiles: int, rows: int) -> int:
    """Return the lines of the next panel's taps that are fetched at an unrolled step."""
    work, target = estimate.work, estimate.target
    if TAPS * work.depth * work.filters < target.l2_bytes // 16:
        return 0
    taps = TAPS * PAIR * estimate.pairs * vectors * target.lanes
    steps = KINDS**2 * -(-tiles // rows) * (estimate.pairs // _unroll(target))
    return min(-(-taps // (LINE_BYTES * max(steps, 1))), MOST_PREFETCHES)


def _blocks(pairs: int) -> Iterator[int]:
    """Yield into how many pairs of channels the depth may be cut."""
    for count in range(1, MOST_BLOCKS + 1):
        if pairs % count == 0:
            yield pairs // count


class _Estimate(msgspec.Struct, frozen=True):
    """Estimates the cycles of schedules of a convolution."""

    work: IntegerConvolution
    down: Tiling
    across: Tiling
    target: Target
    threads: int

    @property
    def tiles(self) -> int:
        """Tiles of an image."""
        return self.down.count * self.across.count

    @property
    def sums_stay(self) -> bool:
        """Whether the sums of a position of all tiles stay in registers."""
        return self.tiles <= self.target.registers - BESIDE_SUMS

    @property
    def parts(self) -> int:
        """Parts into which the positions are cut, so that the sums of one stay in registers."""
        room, found = self.target.registers - BESIDE_SUMS, 0
        for lines in self._tiles_of_kinds(self.down):
            left = 0
            for columns in self._tiles_of_kinds(self.across):
                if lines * columns > left:
                    found, left = found + 1, room
                left -= lines * columns
        return found

    @property
    def pairs(self) -> int:
        """Pairs of channels."""
        return -(-self.work.depth // PAIR)

    @property
    def direct(self) -> float:
        """Cycles of a plain product."""
        work, target = self.work, self.target
        panels = -(-work.filters // target.lanes)
        each = -(-work.depth // BYTES_OF_DOT) * TAPS * panels
        instructions = 1 if target.dot == "vnni" else 2 * PAIR
        pixels = work.images * work.rows * work.cols
        products = each * instructions / target.products_per_cycle
        return pixels * (products + panels * RESULT_CYCLES) / self.threads

    def _step(self, tile: Tile) -> float:
        """Return the cycles of a pair of channels in a register tile."""
        products = tile.rows * tile.vectors * self._instructions / self.target.products_per_cycle
        return max(products, (tile.rows + tile.vectors) / LOADS_PER_CYCLE)

    def _pair_cycles(self, positions: int) -> float:
        """Return the cycles of a pair of channels whose weights are made in registers."""
        products = positions * self._instructions
        others = COLUMN_OPERATIONS + PART_OPERATIONS * self.parts
        beside = max(products / self.target.products_per_cycle, (products + others) / 2)
        return beside + COLUMN_CYCLES

    @property
    def _pace(self) -> float:
        """What transforms take of their cycles."""
        return 1 if self.target.products_per_cycle == 1 else WHOLE

    @property
    def _instructions(self) -> int:
        """Instructions of a multiplication and an addition."""
        return 1 if self.target.dot == "vnni" else 2

    def scratch(self, tiles: int, vectors: int, block: int) -> int:
        """Return the bytes of a chunk's inputs, sums and weights."""
        panel = vectors * self.target.lanes
        each = SHORT * self.work.depth + WORD * panel
        return KINDS**2 * (tiles * each + WORD * panel * block)

    def cycles(self, plan: Plan) -> float:
        """Return the cycles of the thread that takes longest."""
        work, lanes, tile = self.work, self.target.lanes, plan.tile
        chunks = -(-self.tiles // plan.tiles)
        positions = plan.tiles * KINDS**2
        if chunks == 1:
            positions = self._products(self.down) * self._products(self.across)
        panels = -(-work.filters // (tile.vectors * lanes))
        parts = -(-panels // tile.panels)
        blocks = -(-PAIR * self.pairs // tile.block)
        items = KINDS**2 * -(-plan.tiles // tile.rows) * blocks
        panel = (
            positions / tile.rows * self.pairs * self._step(tile)
            + items * POSITION_CYCLES
            + (blocks > 1) * blocks * positions * tile.vectors * WAITING_CYCLES
            + self._pace * self.pairs * tile.vectors * TAPS_CYCLES
            + self._pace * plan.tiles * tile.vectors * OUTPUT_CYCLES
        )
        inputs = self._pace * plan.tiles * -(-work.depth // (PAIR * lanes)) * INPUT_CYCLES
        blocks_each = -(-work.images * chunks // self.threads)
        chunks_each = -(-work.images * chunks * parts // self.threads)
        scratch = self.scratch(plan.tiles, tile.vectors, tile.block // PAIR)
        if plan.in_registers:
            results = self._pace * plan.tiles * OUTPUT_CYCLES
            panel = self.pairs * self._pair_cycles(positions) + results
        whole = blocks_each * inputs + chunks_each * tile.panels * panel
        return whole + scratch / SCRATCH_BYTES_PER_CYCLE

    def _tiles_of_kinds(self, side: Tiling) -> list[int]:
        """Return how many tiles along a side have each of its products, if any has."""
        return [n for n in (*[side.count] * (KINDS - 1), side.large) if n]

    def _products(self, side: Tiling) -> int:
        """Return the products along a side of an image."""
        return KINDS * side.large + (KINDS - 1) * side.small
