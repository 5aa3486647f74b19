"""Products whose result only windows read, such as a first layer and its pooling, as one kernel.

A band of the product's image rows waits in scratch until the windows over it are done, so that an
image several times the size of what is left of it never goes to memory. The channels may be done in
blocks, as where a 1x1 convolution widens an image for a depthwise one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from whet.index import Atom, Axis, IndexLike, Poly
from whet.kernel.expr import Expr, Read, rewrite_leaves

if TYPE_CHECKING:
    from whet.kernel.spec import Contraction, Nest, Param


class Lines(msgspec.Struct, frozen=True):
    """Which image rows a row of windows reads: ``reach`` of them, from ``step * row - before`` on.

    Attributes:
        step: rows from one row of windows to the next.
        before: rows in front of the image that the first row of windows reaches.
        reach: rows under a window.
    """

    step: int
    before: int
    reach: int

    @property
    def shared(self) -> int:
        """Rows that a row of windows has in common with the one before."""
        return self.reach - self.step


class Bands(msgspec.Struct, frozen=True):
    """How the work of a product and its windows is cut.

    Attributes:
        height: rows of windows of a band.
        rows: rows of windows of a chunk.
        channels: channels of a chunk, whole panels of the product or all there are.
    """

    height: int
    rows: int
    channels: int


class Pooled(msgspec.Struct, frozen=True):
    """A product and windows over its image rows. A chunk is some rows of windows, band by band.

    Attributes:
        params: pointer parameters; parts number the product's result on from them, and address it
            as if all of it were in memory.
        dtype: element type of the product's result.
        product: the product; the last of its outer axes is the image row.
        window: a nest over the same outer axes, with the row of windows instead of the image row,
            and its column and channel behind it.
        lines: image rows under a row of windows.
        bands: rows of windows and channels that are done together.
    """

    params: tuple[Param, ...]
    dtype: str
    product: Contraction
    window: Nest
    lines: Lines
    bands: Bands

    @property
    def images(self) -> tuple[Axis, ...]:
        """The axes around the image rows."""
        return self.product.outer[:-1]

    @property
    def line_elements(self) -> int:
        """Elements from one image row to the next."""
        return self._step(self.product.outer[-1])

    @property
    def pixel_elements(self) -> int:
        """Elements from one pixel of an image row to the next."""
        return self._step(self.product.row)

    def _step(self, axis: Axis) -> int:
        (store,) = self.product.stores
        step = store.address.coefficient(axis).constant
        assert step is not None, "image rows and pixels are a known distance apart"
        return step

    @property
    def band_lines(self) -> int:
        """Image rows of a band."""
        return self.lines.step * self.bands.height + self.lines.shared

    @property
    def result_elements(self) -> Poly:
        """Elements of the product's result, as it would be in memory."""
        (store,) = self.product.stores
        axes = (*self.product.outer, self.product.row, self.product.col)
        last: dict[Atom, IndexLike] = {a: a.extent - 1 for a in axes}
        return store.address.substitute(last) + 1


def narrowed(kernel: Pooled) -> Pooled:
    """Return a kernel whose product's result has pixels of a chunk's channels alone.

    Channels are addressed as before, so those behind the first block from further on.
    """
    if kernel.bands.channels == kernel.product.col.extent:
        return kernel
    product, window = kernel.product, kernel.window
    (store,) = product.stores
    at_store = _narrowing(kernel, product.col)
    at_read = _narrowing(kernel, window.axes[-1])
    inner = len(kernel.params)

    def leaf(e: Expr) -> Expr:
        own = isinstance(e, Read) and e.param == inner
        return replace(e, address=at_read(e.address)) if isinstance(e, Read) and own else e

    steps = tuple(replace(s, body=rewrite_leaves(s.body, leaf)) for s in window.steps)
    stores = tuple(replace(s, value=rewrite_leaves(s.value, leaf)) for s in window.stores)
    return replace(
        kernel,
        product=replace(product, stores=(replace(store, address=at_store(store.address)),)),
        window=replace(window, steps=steps, stores=stores),
    )


def _narrowing(kernel: Pooled, channel: Axis) -> Callable[[Poly], Poly]:
    """Return what gives an address in the product's result pixels of a chunk's channels alone."""
    pixel, channels = kernel.pixel_elements, kernel.bands.channels

    def narrow(address: Poly) -> Poly:
        terms = {}
        for atoms, count in address.terms:
            steps, rest = divmod(count, pixel)
            assert atoms == (channel,) or not rest, "images consist of whole pixels"
            terms[atoms] = count if atoms == (channel,) else steps * channels
        return Poly(terms)

    return narrow
