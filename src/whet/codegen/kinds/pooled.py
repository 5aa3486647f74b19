"""Products and the windows over them: a band of image rows in scratch, then the windows over it.

Rows that the next band needs as well are moved to its beginning. Within scratch, rows are addressed
as they would be in memory, from a pointer that lies as far in front of it as the band in the image.
"""

from __future__ import annotations

import msgspec
from msgspec.structs import replace

from whet.codegen.kinds.contraction import ContractionWriter, contraction_writer
from whet.codegen.kinds.kernel_function import Function, accesses_of, bind_flat, open_function
from whet.codegen.kinds.nest import NestWriter
from whet.codegen.kinds.tile_epilogue import product_accesses
from whet.codegen.writing.builder import Builder, Module, Value, i64, vector
from whet.codegen.writing.conversions import storage_type
from whet.codegen.writing.frame import Access, Frame, root_frame
from whet.dtypes import DTYPES
from whet.index import Poly, ceil_div, product
from whet.kernel.pooled import Pooled, narrowed
from whet.kernel.schedule import LINE_BYTES
from whet.target import Target

Span = tuple[Value, Value]

MOVED_VECTORS = 4
"""Vectors that are moved together to the beginning of the next band."""


def pooled_chunks(kernel: Pooled, lanes: int) -> Poly:
    """Return the number of chunks: blocks of rows of windows and channels of all images."""
    bands = kernel.bands
    rows = ceil_div(kernel.window.axes[-3].extent, bands.rows)
    blocks = ceil_div(kernel.product.col.extent, bands.channels)
    return product(a.extent for a in kernel.images) * rows * blocks


def pooled_scratch(kernel: Pooled, lanes: int) -> int:
    """Return the bytes of scratch that one thread needs: the image rows of a band."""
    line = narrowed(kernel).line_elements
    elements = kernel.band_lines * line + MOVED_VECTORS * lanes
    size = elements * DTYPES[kernel.dtype].size
    return -(-size // LINE_BYTES) * LINE_BYTES


def write_pooled(
    module: Module, name: str, kernel: Pooled, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a product and the windows over it."""
    kernel = narrowed(kernel)
    fn = open_function(module, name, kernel.params, dims, exclusive=True)
    fn.b.byte_tables = target.byte_tables
    product_writer = contraction_writer(replace(kernel.product, outer=()), fn, target)
    window_writer = NestWriter(kernel.window, fn, target.lanes)
    writer = _Writer(kernel, fn, target.lanes, product_writer, window_writer)
    with fn.b.loop(fn.begin, fn.end, hint="chunk") as chunk:
        writer.chunk(chunk)
    fn.b.finish()


class _Writer(msgspec.Struct, frozen=True):
    kernel: Pooled
    fn: Function
    width: int
    product: ContractionWriter
    window: NestWriter

    @property
    def b(self) -> Builder:
        """Where instructions go."""
        return self.fn.b

    def chunk(self, chunk: Value) -> None:
        """Write the loop over the bands of a chunk."""
        b, kernel, bands = self.b, self.kernel, self.kernel.bands
        windows = kernel.window.axes[-3].extent.constant
        channels = kernel.product.col.extent.constant
        assert windows is not None and channels is not None, "rows and channels are known"
        rest, column = b.divide(chunk, -(-channels // bands.channels))
        point, block = b.divide(rest, -(-windows // bands.rows))
        images = bind_flat(Frame(b, self.fn.dims, ()), kernel.images, point)
        span = self._channels(column, channels)
        first = b.mul(block, i64(bands.rows))
        last = b.min(b.add(first, i64(bands.rows)), i64(windows))
        with b.loop(first, last, bands.height, hint="band") as row:
            following = b.min(b.add(row, i64(bands.height)), last)
            self._band(images, span, (row, following), b.icmp("ne", row, first))

    def _channels(self, column: Value, extent: int) -> Span:
        """Return the first channel of a block of them, and the one behind its last."""
        b, together = self.b, self.kernel.bands.channels
        if together >= extent:
            return i64(0), i64(extent)
        start = b.mul(column, i64(together))
        return start, b.min(b.add(start, i64(together)), i64(extent))

    def _band(self, images: Frame, channels: Span, rows: Span, again: Value) -> None:
        """Write the image rows that the windows of some rows read, then these windows."""
        b, lines, image_row = self.b, self.kernel.lines, self.kernel.product.outer[-1]
        top = b.add(b.mul(rows[0], i64(lines.step)), i64(-lines.before))
        low = top
        if lines.shared:
            with b.when(again):
                self._move_shared()
            low = b.select(again, b.add(top, i64(lines.shared)), top)
        end = b.add(b.mul(rows[1], i64(lines.step)), i64(lines.shared - lines.before))
        frame = self._at_band(images.bind(image_row, top), images, channels[0])
        low, high = b.max(low, i64(0)), b.min(end, images.scalar_index(image_row.extent))
        with b.loop(low, high, hint="line") as line:
            self.product.all_rows(frame.bind(image_row, line), self._panels(channels))
        with b.loop(*rows, hint="windows") as row:
            self.window.pixels(frame.bind(self.kernel.window.axes[-3], row), *channels)

    def _panels(self, channels: Span) -> Span:
        """Return the panels of the product that make some channels."""
        b, width = self.b, self.product.panel_columns
        end = b.add(channels[1], i64(width - 1))
        return b.divide(channels[0], width)[0], b.divide(end, width)[0]

    def _at_band(self, top: Frame, images: Frame, channel: Value) -> Frame:
        """Return the frame in which a channel of the band's top row is the first in scratch."""
        b, kernel = self.b, self.kernel
        (store,) = kernel.product.stores
        at = top.bind(kernel.product.row, i64(0)).bind(kernel.product.col, channel)
        address = at.scalar_index(store.address)
        kind = storage_type(kernel.dtype)
        band = b.gep(self.fn.scratch, kind, b.binary("sub nsw", i64(0), address))
        dtypes = (*(p.dtype for p in kernel.params), kernel.dtype)
        frame = root_frame(b, [*self.fn.params, band], dtypes, self._accesses(), self.fn.dims)
        for axis in kernel.images:
            frame = frame.bind(axis, images.env[axis])
        return frame

    def _accesses(self) -> list[Access]:
        kernel = self.kernel
        bodies = [step.body for step in kernel.window.steps]
        found = product_accesses(kernel.product)
        return list(dict.fromkeys([*found, *accesses_of(bodies, kernel.window.stores)]))

    def _move_shared(self) -> None:
        """Move the last rows of a band, which the next one reads too, to its beginning."""
        b, kernel = self.b, self.kernel
        kind = storage_type(kernel.dtype)
        line, lines = kernel.line_elements, kernel.lines
        source = b.gep(self.fn.scratch, kind, lines.step * kernel.bands.height * line)
        together = MOVED_VECTORS * self.width
        with b.loop(i64(0), i64(lines.shared * line), together, hint="moved") as at:
            for k in range(MOVED_VECTORS):
                place = b.add(at, i64(k * self.width))
                value = b.load(vector(kind, self.width), b.gep(source, kind, place))
                b.store(value, b.gep(self.fn.scratch, kind, place))
