"""Products whose result only windows read, such as a first layer and its pooling, as one kernel.

A band of the product's image rows waits in scratch until the windows over it are done, so that an
image several times the size of what is left of it never goes to memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from whet.index import Atom, Axis, IndexLike, Poly
from whet.target import Target

if TYPE_CHECKING:
    from whet.kernel.spec import Contraction, Nest, Param

CHUNKS_PER_THREAD = 2
"""Chunks begin with rows that the one before made too, so that few are better."""
MOST_EXTRA = 1.05
"""How much more arithmetic that may take."""
PART_OF_CACHE = 4
"""A band takes this part of the second cache; weights and what the product reads need the rest."""


@dataclass(frozen=True, slots=True)
class Lines:
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


@dataclass(frozen=True, slots=True)
class Pooled:
    """A product and windows over its image rows. A chunk is some rows of windows, band by band.

    Attributes:
        params: pointer parameters; parts number the product's result on from them, and address it
            as if all of it were in memory.
        dtype: element type of the product's result.
        product: the product; the last of its outer axes is the image row.
        window: a nest over the same outer axes, with the row of windows instead of the image row,
            and its column and channel behind it.
        lines: image rows under a row of windows.
        height: rows of windows of a band.
        rows: rows of windows of a chunk.
    """

    params: tuple[Param, ...]
    dtype: str
    product: Contraction
    window: Nest
    lines: Lines
    height: int
    rows: int

    @property
    def images(self) -> tuple[Axis, ...]:
        """The axes around the image rows."""
        return self.product.outer[:-1]

    @property
    def line_elements(self) -> int:
        """Elements from one image row to the next."""
        (store,) = self.product.stores
        stride = store.address.coefficient(self.product.outer[-1]).constant
        assert stride is not None, "image rows are a known distance apart"
        return stride

    @property
    def band_lines(self) -> int:
        """Image rows of a band."""
        return self.lines.step * self.height + self.lines.shared

    @property
    def result_elements(self) -> Poly:
        """Elements of the product's result, as it would be in memory."""
        (store,) = self.product.stores
        axes = (*self.product.outer, self.product.row, self.product.col)
        last: dict[Atom, IndexLike] = {a: a.extent - 1 for a in axes}
        return store.address.substitute(last) + 1


def choose_bands(
    image: Sequence[int], line_bytes: int, lines: Lines, target: Target, threads: int
) -> tuple[int, int] | None:
    """Return rows of windows of a band and of a chunk, ``None`` where all is better in memory.

    Args:
        image: number of images, of their rows, and of rows of windows.
        line_bytes: bytes of an image row.
        lines: image rows under a row of windows.
        target: processor.
        threads: threads that share out the chunks.
    """
    count, rows, windows = image
    if count * rows * line_bytes <= target.l2_bytes:
        return None
    chunks = CHUNKS_PER_THREAD * threads if threads > 1 else 1
    share = -(-windows // -(-chunks // count))
    room = target.l2_bytes // PART_OF_CACHE // line_bytes - lines.shared
    height = min(share, room // lines.step)
    extra = 1 + lines.shared / (lines.step * share)
    fits = height >= 1 and lines.shared <= lines.step * height
    return (height, share) if fits and extra <= MOST_EXTRA else None
