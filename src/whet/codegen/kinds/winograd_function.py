"""The function of a Winograd convolution, of tiles or of whole images."""

from __future__ import annotations

from whet.codegen.kinds.winograd import tiled_chunks, tiled_scratch, write_tiled
from whet.codegen.kinds.winograd_images import whole_chunks
from whet.codegen.kinds.winograd_scratch import filtering_of
from whet.codegen.kinds.winograd_whole import whole_scratch, write_whole
from whet.codegen.kinds.winograd_wide import wide_scratch, write_wide
from whet.codegen.writing.builder import Module
from whet.index import Poly
from whet.kernel.spec import Winograd
from whet.target import Target


def winograd_chunks(kernel: Winograd, lanes: int) -> Poly:
    """Return the number of chunks of a Winograd convolution."""
    chunks = whole_chunks if filtering_of(kernel).whole else tiled_chunks
    return chunks(kernel, lanes)


def winograd_scratch(kernel: Winograd, lanes: int) -> int:
    """Return bytes of scratch of one thread."""
    filtering = filtering_of(kernel)
    if filtering.wide:
        return wide_scratch(kernel, lanes)
    return whole_scratch(kernel, lanes) if filtering.whole else tiled_scratch(kernel, lanes)


def write_winograd(
    module: Module, name: str, kernel: Winograd, dims: tuple[str, ...], target: Target
) -> None:
    """Write the function of a Winograd convolution."""
    filtering = filtering_of(kernel)
    small = write_whole if filtering.whole else write_tiled
    write = write_wide if filtering.wide else small
    write(module, name, kernel, dims, target)
