"""Chunks of Winograd convolutions whose tiles are whole images: an image and some panels."""

from __future__ import annotations

from whet.codegen.kinds.winograd_scratch import static
from whet.codegen.writing.builder import Builder, Value, i64
from whet.index import Poly, ceil_div
from whet.kernel.spec import Winograd


def whole_chunks(kernel: Winograd, lanes: int) -> Poly:
    """Return the number of chunks: images times blocks of panels."""
    return kernel.image.extent * _blocks(kernel, lanes)


def image_and_panels(
    b: Builder, kernel: Winograd, lanes: int, chunk: Value
) -> tuple[Value, tuple[Value, Value]]:
    """Return the image of a chunk, its first panel and the one behind its last."""
    image, block = b.divide(chunk, static(_blocks(kernel, lanes)))
    panels = static(ceil_div(kernel.col.extent, lanes))
    first = b.mul(block, i64(kernel.tile.panels))
    return image, (first, b.min(b.add(first, i64(kernel.tile.panels)), i64(panels)))


def _blocks(kernel: Winograd, lanes: int) -> Poly:
    return ceil_div(ceil_div(kernel.col.extent, lanes), kernel.tile.panels)
