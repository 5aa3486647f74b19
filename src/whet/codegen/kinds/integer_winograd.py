"""Winograd convolution of 8-bit integers: transform tiles and taps, multiply, transform back.

All stages of a block of tiles and some panels run in one chunk, so that what is transformed stays
in the level-2 cache; the next chunk of a thread finds the tiles there, if it is of the same block.
Taps are transformed in each chunk: as 16-bit integers there are four times as many, and
eight times the bytes, to come from further away.
"""

from __future__ import annotations

from dataclasses import dataclass

from whet.codegen.kinds.integer_winograd_lines import LineProducts
from whet.codegen.kinds.integer_winograd_products import Products
from whet.codegen.kinds.integer_winograd_scratch import IntegerScratch, scratch_of
from whet.codegen.kinds.integer_winograd_taps import Taps
from whet.codegen.kinds.integer_winograd_tiles import Spot, Transforms
from whet.codegen.kinds.kernel_function import Function, accesses_of, frame_of, open_function
from whet.codegen.writing.builder import I64, PTR, Builder, Module, Value, i64
from whet.codegen.writing.dot_product import short_product
from whet.codegen.writing.frame import Frame
from whet.index import Poly
from whet.kernel.integer_filtering import LARGE
from whet.kernel.integer_winograd import IntegerWinograd
from whet.kernel.integer_winograd_schedule import BESIDE_SUMS
from whet.target import Target

PIXELS = (LARGE + 2) ** 2
"""Pixels of the largest tile."""


def integer_winograd_chunks(kernel: IntegerWinograd, lanes: int) -> Poly:
    """Return the number of chunks: images times blocks of tiles times blocks of panels."""
    return kernel.image.extent * (_blocks(kernel) * _parts(kernel, lanes))


def integer_winograd_scratch(kernel: IntegerWinograd, lanes: int) -> int:
    """Return bytes of scratch of one thread."""
    return scratch_of(kernel, lanes).size_bytes


def write_integer_winograd(
    module: Module, name: str, kernel: IntegerWinograd, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a Winograd convolution of integers."""
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    fn.b.byte_tables = target.byte_tables
    fn.b.halves = target.products_per_cycle == 1
    frame = frame_of(fn, kernel.params, accesses_of([kernel.a], kernel.stores))
    scratch = scratch_of(kernel, target.lanes)
    transforms = Transforms(kernel, fn, scratch, fn.b.alloca(f"[{PIXELS} x ptr]"))
    taps, dot = Taps(kernel, fn, scratch, fn.b.alloca(PTR)), short_product(target)
    products = (
        LineProducts(fn, scratch, taps, dot, target.registers - BESIDE_SUMS)
        if kernel.in_registers
        else Products(kernel, fn, scratch, taps, dot)
    )
    writer = _Writer(kernel, fn, scratch, transforms, products)
    transforms.write_outside()
    kept = fn.b.gep(fn.scratch, "i8", scratch.block_start)
    first = fn.b.icmp("eq", fn.again, i64(0))
    fn.b.store(fn.b.select(first, i64(-1), fn.b.load(I64, kept, 8)), kept, 8)
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(frame, chunk, kept)
    fn.b.finish()


def _blocks(kernel: IntegerWinograd) -> int:
    return -(-(kernel.down.count * kernel.across.count) // kernel.tiles)


def _parts(kernel: IntegerWinograd, lanes: int) -> int:
    return -(-scratch_of(kernel, lanes).panels // kernel.tile.panels)


@dataclass(frozen=True, slots=True)
class _Writer:
    kernel: IntegerWinograd
    fn: Function
    scratch: IntegerScratch
    transforms: Transforms
    products: Products | LineProducts

    @property
    def b(self) -> Builder:
        return self.fn.b

    def chunk(self, frame: Frame, chunk: Value, kept: Value) -> None:
        """Write one chunk: a block of tiles of an image and a block of panels.

        Args:
            frame: outside of all loops.
            chunk: its number.
            kept: where the number of the block is kept whose inputs are in scratch.
        """
        b, kernel, lanes = self.b, self.kernel, self.scratch.lanes
        number, part = b.divide(chunk, _parts(kernel, lanes))
        image, block = b.divide(number, _blocks(kernel))
        first = b.mul(block, i64(kernel.tiles))
        total = i64(kernel.down.count * kernel.across.count)
        tiles = first, b.min(b.add(first, i64(kernel.tiles)), total)
        bound = frame.bind(kernel.image, image)
        low = b.mul(part, i64(kernel.tile.panels))
        high = b.min(b.add(low, i64(kernel.tile.panels)), i64(self.scratch.panels))
        with b.when(b.icmp("ne", number, b.load(I64, kept, 8))):
            b.store(number, kept, 8)
            self.products.taps.begin_fetching(b.mul(low, i64(self.scratch.pairs)))
            with b.loop(*tiles, hint="in") as tile:
                self.products.taps.fetch_first()
                self.transforms.inputs(bound, self._spot(tile, first))
        self.products.begin(low)
        with b.loop(low, high, hint="panel") as panel:
            self.products.multiply(panel)
            with b.loop(*tiles, hint="out") as tile:
                self.transforms.outputs(bound, self._spot(tile, first), panel)

    def _spot(self, tile: Value, first: Value) -> Spot:
        row, column = self.b.divide(tile, self.kernel.across.count)
        return Spot(self.b.binary("sub nsw", tile, first), row, column)
