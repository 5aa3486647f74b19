"""Kernels as data: loop nests and contractions over flat parameters.

A specification says everything that code generation needs and nothing of names or ONNX, so equal
specifications share one piece of machine code.
"""

from __future__ import annotations

import msgspec

from whet.index import Axis, Poly
from whet.kernel.blocks import BlockProduct, RowQuantization
from whet.kernel.chain import Chain
from whet.kernel.dequantized import DequantizedProduct
from whet.kernel.expr import Expr, Read, Within
from whet.kernel.filter import Filter
from whet.kernel.integer_attention import IntegerAttention
from whet.kernel.integer_winograd import IntegerWinograd
from whet.kernel.paged import PagedAttention
from whet.kernel.pairs import Pairs
from whet.kernel.pooled import Pooled
from whet.kernel.recurrence import Recurrence
from whet.kernel.scan import Scan
from whet.kernel.scatter import Scatter
from whet.kernel.sort import RadixSort, Sort

ACCUMULATOR = "acc"


class Param(msgspec.Struct, frozen=True):
    """A pointer parameter: its element type and whether the kernel writes it."""

    dtype: str
    written: bool


class Store(msgspec.Struct, frozen=True):
    """Writes ``value`` to an element address of a parameter."""

    param: int
    address: Poly
    value: Expr


class Step(msgspec.Struct, frozen=True):
    """A reduction over ``axes``: ``name = op over axes of body``.

    ``op`` is ``sum``, ``max``, ``min`` or ``prod``. Bodies may use names of earlier steps.
    """

    name: str
    op: str
    axes: tuple[Axis, ...]
    body: Expr
    dtype: str


class Nest(msgspec.Struct, frozen=True):
    """For every point of ``axes``: run the steps, then the stores for every point of ``row``.

    A nest without steps and row is a pointwise map; with steps, a reduction, pooling or depthwise
    convolution; with steps and a row, a normalisation or softmax.

    Attributes:
        params: pointer parameters.
        axes: loops around everything, outermost first.
        steps: reductions, in order.
        row: loops around the stores only.
        stores: what is written.
        vector_rows: whether lanes run along the last axis of the row and of each step (true) or
            along the last of ``axes`` (false).
        grain: points of the outer axes in one chunk.
        block: elements of the vector axis in one chunk, 0 for all; only where lanes run along axes.
        tile: points of the axis next to the lanes that are computed together, sharing what they
            read; 0 where that axis is none of a point's own loops.
        squares: whether it is a copy from a source that is contiguous along the axis next to the
            lanes, so that squares of both are transposed; the grain then counts rows of squares.
        interleaved: whether the few points of the axis next to the lanes lie side by side in the
            result, between those of neighbouring lanes, so that vectors of all are interleaved.
    """

    params: tuple[Param, ...]
    axes: tuple[Axis, ...]
    steps: tuple[Step, ...]
    row: tuple[Axis, ...]
    stores: tuple[Store, ...]
    vector_rows: bool
    grain: int = 1
    block: int = 0
    tile: int = 0
    squares: bool = False
    interleaved: bool = False


class Tile(msgspec.Struct, frozen=True):
    """The schedule of a contraction.

    Attributes:
        rows: rows of the register tile.
        vectors: vectors of columns in the register tile; also the panel width of a packed operand.
        unroll: depth steps unrolled in the innermost loop.
        row_items: register tiles along rows in one chunk.
        panels: column panels in one chunk.
        prefetch: cache lines of the next panel fetched at each unrolled depth step.
        block: depth steps of a block, which all tiles of a chunk do before the next; 0 for all at
            once.
        by_rows: whether chunks of the same rows follow each other, and threads share out rows;
            else chunks of the same columns do.
        near: depth steps that a packed panel is fetched ahead into the first cache; 0 for none.
        pipelined: whether a register tile ends among the products of the next one, so that the
            registers hold two.
    """

    rows: int
    vectors: int
    unroll: int
    row_items: int
    panels: int
    prefetch: int = 0
    block: int = 0
    by_rows: bool = False
    near: int = 0
    pipelined: bool = False


class Panels(msgspec.Struct, frozen=True):
    """How the second operand of a contraction lies in memory.

    Address of lane ``j`` of vector ``v`` in panel ``p`` at reduction position ``k``, in elements:
    ``base + p * panel_stride + k * depth_stride + v * lanes + j``; taps advance by ``tap_strides``.
    With dot products a lane has several elements: ``... + size * (v * lanes + j) + i``.
    """

    param: int
    base: Poly
    panel_stride: Poly
    depth_stride: Poly
    tap_strides: tuple[Poly, ...]
    padded: bool


BYTES_OF_DOT, PAIR = 4, 2
"""Values of 8 and of 16 bits that share a lane of 32 bits."""


class Dot(msgspec.Struct, frozen=True):
    """Depth values that one multiply-add takes in a lane: four of 8 bits, or two of bfloat16.

    Attributes:
        axis: the position among them; depth value ``size * depth + axis``.
        extent: number of depth values; at and behind it ``a`` is not read and counts as 0.
        flips: whether ``a`` is signed and its highest bit is flipped, which makes it unsigned and
            128 more.
    """

    axis: Axis
    extent: Poly
    flips: bool

    @property
    def size(self) -> int:
        """How many depth values a lane takes."""
        size = self.axis.extent.constant
        assert size is not None, "lanes are of known size"
        return size


class Ahead(msgspec.Struct, frozen=True):
    """Weights of the next launch, fetched into the second cache during this one.

    Attributes:
        param: the parameter that points to them.
        bytes: what a thread of the next launch begins with.
        apart: bytes from where one thread begins to where the next does.
        shares: chunks of this launch among which they are dealt out, those of a thread.
        lines: cache lines that are fetched at each unrolled depth step.
    """

    param: int
    bytes: int
    apart: int
    shares: int
    lines: int


class Second(msgspec.Struct, frozen=True):
    """A second broadcast operand, as where two products are added up.

    Attributes:
        start: the depth from which on it is read instead of the first.
        a: the operand; affine in every axis.
    """

    start: int
    a: Read


class Contraction(msgspec.Struct, frozen=True):
    """``acc[outer, row, col] = sum over taps and depth of a * b * gate``, then the stores.

    Convolution, Gemm and matrix products. ``a`` is read one element at a time and broadcast; ``b``
    is read in vectors of columns.

    Attributes:
        params: pointer parameters.
        outer: loops around the tile, such as batch, image row or group.
        row: the axis that register tiles run along.
        col: the axis in lanes.
        taps: reduction loops around the depth, such as kernel rows and columns.
        depth: the innermost reduction.
        a: the broadcast operand; affine in every axis.
        bounds: conditions on ``a``, each affine in one tap; they shorten that tap's loop.
        edges: conditions on ``a`` that differ between rows; rows outside read zeros instead.
        zeros: the parameter that holds those zeros, ``-1`` without edges.
        b: the vector operand.
        stores: epilogue; reads the sum as ``Var("acc")``.
        tile: the schedule.
        dot: which depth values share a lane, if several do. Of 8-bit integers ``a`` is unsigned,
            ``b`` signed, and the sum a 32-bit integer that wraps; of bfloat16 the sum is a float.
        ahead: what is fetched for the next launch; changes no result.
        lines: points of the last outer axis that a register tile takes together, each with all its
            rows; ``None`` for one, or part of its rows.
        second: what is read instead of ``a`` for the later depth values, without bounds and edges.
        spread: where lanes are of groups of channels, how many each group has: lane ``j`` reads
            ``a`` at ``j // spread * spread`` elements more; 0 where all lanes read the same.
        gate: what each depth value is multiplied by, the same for all rows; affine in the depth
            and the outer axes, ``None`` for nothing.
        pairs: what else is read where pairs of products share a multiplication.
    """

    params: tuple[Param, ...]
    outer: tuple[Axis, ...]
    row: Axis
    col: Axis
    taps: tuple[Axis, ...]
    depth: Axis
    a: Read
    bounds: tuple[Within, ...]
    b: Panels
    stores: tuple[Store, ...]
    tile: Tile
    edges: tuple[Within, ...] = ()
    zeros: int = -1
    dot: Dot | None = None
    ahead: Ahead | None = None
    lines: int | None = None
    second: Second | None = None
    spread: int = 0
    gate: Read | None = None
    pairs: Pairs | None = None

    @property
    def sums_integers(self) -> bool:
        """Whether sums are of 8-bit integers, so that their terms may be added in any order."""
        return self.dot is not None and self.dot.size == BYTES_OF_DOT

    @property
    def operands(self) -> list[tuple[Read, int]]:
        """The broadcast operands, and the depth at which each begins."""
        later = [] if self.second is None else [(self.second.a, self.second.start)]
        return [(self.a, 0), *later]

    @property
    def scalars(self) -> list[Read]:
        """All that is read one element at a time: the broadcast operands and the gate."""
        gates = [] if self.gate is None else [self.gate]
        return [*(a for a, _ in self.operands), *gates]


class Attention(msgspec.Struct, frozen=True):
    """Softmax of a product of queries and keys, times values, without the scores in memory.

    A chunk packs a block of the keys of one outer point, then for every tile of rows computes
    scores into scratch, takes their softmax there and multiplies by the values.

    Attributes:
        params: pointer parameters.
        outer: batch and heads.
        row: queries.
        key: keys and values.
        depth: what queries and keys are multiplied along.
        col: columns of the values, in lanes.
        q: queries, affine in outer, row and depth.
        k: keys, affine in outer, key and depth.
        v: values, affine in outer, key and col, contiguous in col.
        score: expression of ``Var("acc")`` at (outer, row, key).
        stores: epilogue; reads the result as ``Var("acc")``.
        rows: rows of a register tile.
        key_vectors: vectors of keys in a register tile of scores.
        col_vectors: vectors of columns in a register tile of the result.
        tiles: row tiles in one chunk.
        keys: keys of a block.
        zero_nan: whether rows whose softmax is not a number give 0.
        zero_empty: whether rows whose scores are all minus infinity give 0.
        integers: if both products are of 8-bit integers, what else that takes; all keys are then
            one block, and stores may also read ``Var("mass")``.
    """

    params: tuple[Param, ...]
    outer: tuple[Axis, ...]
    row: Axis
    key: Axis
    depth: Axis
    col: Axis
    q: Read
    k: Read
    v: Read
    score: Expr
    stores: tuple[Store, ...]
    rows: int
    key_vectors: int
    col_vectors: int
    tiles: int
    keys: int
    zero_nan: bool = False
    zero_empty: bool = False
    integers: IntegerAttention | None = None


class Winograd(msgspec.Struct, frozen=True):
    """A 3x3 convolution by Winograd's minimal filtering, ``Y = A' [(G g G') * (B' d B)] A``.

    Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", 2015. A chunk transforms a
    block of image tiles into scratch, multiplies them by the transformed weights, one product per
    position in the tile, and transforms back.

    Attributes:
        params: pointer parameters.
        image: batch axis.
        y: input row; tiles start at row ``stride * size * tile - pads[0]``.
        x: input column; tiles start at column ``stride * size * tile - pads[1]``.
        depth: input channels, in lanes while tiles are transformed.
        rows: output row.
        cols: output column.
        col: output channels, in lanes.
        a: input, affine in image, y, x and depth, contiguous in depth.
        weights: parameter of the packed weights, [panels, positions, depth, panel], or of the taps,
            [panels, depth, 9, lanes], where a tile is a whole image.
        stores: epilogue; reads the result as ``Var("acc")``.
        pads: zeros above and to the left.
        size: output pixels of a tile along one side.
        tile: the schedule; ``row_items`` register tiles of image tiles in one chunk.
        stride: input pixels from one output pixel to the next.
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
    weights: int
    stores: tuple[Store, ...]
    pads: tuple[int, int]
    size: int
    tile: Tile
    stride: int = 1


Kernel = (
    Nest
    | Contraction
    | Chain
    | Pooled
    | Attention
    | Winograd
    | IntegerWinograd
    | Recurrence
    | Scan
    | Scatter
    | Sort
    | RadixSort
    | Filter
    | PagedAttention
    | RowQuantization
    | BlockProduct
    | DequantizedProduct
)
