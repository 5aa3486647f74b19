"""Products with weights in blocks: from their equations to their kernels, and weights in panels.

A panel holds 32 columns in the order in which a kernel reads them: for every group of the depth
its scales and minimums, then codes of four depth values of all columns, and so on. Codes of 4 bits
share bytes: depth values ``k`` and ``k + 16`` of a group. Nested scales keep their few bits, with
their 16-bit factors in front of every 8 groups.
"""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from whet.index import as_poly
from whet.kernel.block_formats import GROUP, BlockFormat, Blocks, read_blocks
from whet.kernel.blocks import (
    PANEL,
    ROW_TILE,
    BlockProduct,
    BlockSum,
    QuantizedRows,
    RowQuantization,
    RowsOut,
    panel_bytes,
    period,
    row_words,
)
from whet.kernel.dequantized import DequantizedProduct, DequantizedSum
from whet.kernel.expr import Expr, Load, Read
from whet.kernel.schedule import most_rows
from whet.kernel.spec import Store
from whet.kernel.tensor import Definition, Tensor
from whet.lower.storage import (
    Params,
    Root,
    Storage,
    Storages,
    address_of,
    magnitude,
    to_reads,
)
from whet.program.records import BufferKind, Content
from whet.target import Target

CHUNK_GROUPS = 32
"""Groups that one chunk brings into blocks."""

WIDE_REGISTERS = 32
HEIGHTS = (ROW_TILE, 8, 4, 2, 1)
LOW_HEIGHTS = (4, 2, 1)
VECTORS = 2

FLOAT_HEIGHTS = (6, 4, 2, 1)
DIVISORS = (1, 2, 3, 4, 6, ROW_TILE)
"""Heights of register tiles that divide a tile of rows."""

FLOAT_ROWS = 12 * ROW_TILE
MOST_PANELS = 16
"""Rows and panels of a chunk of float rows: 380 KiB in the second cache.

Many rows come from afar once for all panels of a chunk.
"""

SHARES = 4
"""Chunks of columns that a thread has, if there are enough."""

STRETCH = 16
"""Groups of a stretch: 18 KiB unpacked, which leaves room in the first cache for rows and sums."""


def build_row_quantization(
    definition: Definition, storage: Storage, storages: Storages, target: Target, threads: int
) -> tuple[RowQuantization | BlockProduct, Params]:
    """Return the kernel that brings rows into blocks, and its parameters.

    Rows that a product makes are brought into blocks by that product.
    """
    anchor = definition.anchor
    assert isinstance(anchor, QuantizedRows) and not definition.index
    if anchor.product is not None:
        return _build_rows_out(anchor, anchor.product, storage, storages, target)
    params = Params()
    output = params.write(storage.root)
    x = to_reads(anchor.x, storages, params)
    steps = tuple(replace(s, body=to_reads(s.body, storages, params)) for s in anchor.steps)
    kernel = RowQuantization(
        params.records(),
        anchor.row,
        anchor.depth,
        x,
        output,
        anchor.zero,
        anchor.spans,
        _groups(anchor) if steps else CHUNK_GROUPS,
        steps,
    )
    return kernel, params


def _groups(anchor: QuantizedRows) -> int:
    """Return the groups of a row; one that is reduced first is a chunk's."""
    depth = anchor.depth.extent.constant
    assert depth is not None, "rows in blocks have a known length"
    return depth // GROUP


def build_block_product(
    definition: Definition, storage: Storage, storages: Storages, target: Target, threads: int
) -> tuple[BlockProduct, Params]:
    """Return the kernel of a product with weights in blocks, and its parameters."""
    anchor = definition.anchor
    assert isinstance(anchor, BlockSum)
    params = Params()
    store = _store_of(definition, storage, storages, params)
    return _block_product(anchor, (store,), params, storages, target), params


def _store_of(
    definition: Definition, storage: Storage, storages: Storages, params: Params
) -> Store:
    """Return where a product's sums go, and as what; its memory is the first parameter."""
    output = params.write(storage.root)
    value = to_reads(definition.body, storages, params)
    return Store(output, address_of(definition.position, storage), value)


def _build_rows_out(
    anchor: QuantizedRows,
    product: BlockSum,
    storage: Storage,
    storages: Storages,
    target: Target,
) -> tuple[BlockProduct, Params]:
    """Return the kernel of a product that brings its results into blocks, and its parameters."""
    params = Params()
    output = params.write(storage.root)
    end = RowsOut(to_reads(anchor.x, storages, params), output, anchor.zero, anchor.spans)
    kernel = _block_product(product, (), params, storages, target)
    return replace(kernel, rows_out=end), params


def _block_product(
    anchor: BlockSum, stores: tuple[Store, ...], params: Params, storages: Storages, target: Target
) -> BlockProduct:
    rows = params.number(storages[id(_source(anchor.rows))].root)
    panels = params.number(_packed([_source(w) for w in anchor.weights], anchor))
    wide = target.registers >= WIDE_REGISTERS and target.lanes * VECTORS >= PANEL
    return BlockProduct(
        params=params.records(),
        row=anchor.row,
        col=anchor.col,
        rows=rows,
        panels=panels,
        depth=anchor.depth,
        kind=anchor.kind,
        stores=stores,
        heights=HEIGHTS if wide else LOW_HEIGHTS,
        block=_rows_of_chunk(anchor, target),
        vectors=min(VECTORS, PANEL // target.lanes),
        stretch=STRETCH if wide and target.dot == "vnni" else 0,
    )


def build_dequantized_product(
    definition: Definition, storage: Storage, storages: Storages, target: Target, threads: int
) -> tuple[DequantizedProduct, Params]:
    """Return the kernel of float rows times weights in blocks, and its parameters."""
    anchor = definition.anchor
    assert isinstance(anchor, DequantizedSum)
    params = Params()
    store = _store_of(definition, storage, storages, params)
    x = to_reads(anchor.x, storages, params)
    assert isinstance(x, Read), "rows are legal here"
    panels = params.number(_packed([_source(w) for w in anchor.weights], anchor))
    vectors = min(VECTORS, PANEL // target.lanes)
    wide = target.registers >= WIDE_REGISTERS
    kernel = DequantizedProduct(
        params=params.records(),
        row=anchor.row,
        col=anchor.col,
        depth=anchor.inner,
        x=x,
        panels=panels,
        kind=anchor.kind,
        stores=(store,),
        heights=FLOAT_HEIGHTS if wide else LOW_HEIGHTS,
        tile=max(n for n in DIVISORS if n <= most_rows(target, vectors)),
        vectors=vectors,
        block=FLOAT_ROWS,
        together=_panels_of_chunk(anchor, threads),
    )
    return kernel, params


def _panels_of_chunk(anchor: DequantizedSum, threads: int) -> int:
    """Return how many panels of columns go together, such that threads have even shares."""
    panels = -(-magnitude(anchor.col.extent) // PANEL)
    return min(max(panels // (SHARES * threads), 1), MOST_PANELS)


def _rows_of_chunk(anchor: BlockSum, target: Target) -> int:
    """Return how many rows, in whole tiles, leave half of the level-2 cache for a panel.

    Beside a row's codes lie the float sums of its columns in the panel.
    """
    row = 4 * row_words(anchor.kind.spans) * (anchor.depth // GROUP) + 4 * PANEL
    return max(target.l2_bytes // 2 // row // ROW_TILE, 1) * ROW_TILE


def _source(load: Expr) -> Tensor:
    assert isinstance(load, Load), "rows and weights are read in place"
    source: Tensor = load.source
    return source


def _packed(weights: list[Tensor], anchor: BlockSum | DequantizedSum) -> Root:
    """Return the panels of all columns; weights are put together when they are packed."""
    values = [w.value for w in weights if w.value is not None]
    assert len(values) == len(weights), "weights in blocks are constant"
    columns = sum(len(v) for v in values)
    return Root(
        f"{weights[0].name}.panels",
        BufferKind.CONSTANT,
        "uint8",
        as_poly(-(-columns // PANEL) * panel_bytes(anchor.kind, anchor.depth)),
        lambda: pack_panels(anchor.kind, values[0] if len(values) == 1 else np.concatenate(values)),
        Content("uint8", (as_poly(columns), *weights[0].shape[1:]), "PACKED"),
    )


def pack_panels(kind: BlockFormat, weights: np.ndarray) -> np.ndarray:
    """Return rows of bytes as panels [panel, bytes]; behind the last column stand zeros."""
    columns = len(weights)
    panels = -(-columns // PANEL)
    depth = weights.shape[1] // kind.group_bytes * kind.block
    result = np.zeros((panels, panel_bytes(kind, depth)), np.uint8)
    step = max(1, (1 << 22) // (depth * PANEL))
    for first in range(0, panels, step):
        part = weights[first * PANEL : (first + step) * PANEL]
        short = -len(part) % PANEL
        if short:
            part = np.concatenate([part, np.zeros((short, part.shape[1]), np.uint8)])
        result[first : first + step] = _packed_part(kind, read_blocks(kind, part))
    return result


def _packed_part(kind: BlockFormat, blocks: Blocks) -> np.ndarray:
    rows, groups, _ = blocks.codes.shape
    panels = rows // PANEL
    heads = [_by_group(blocks.scales, panels, groups)]
    if blocks.minimums is not None:
        heads.append(_by_group(blocks.minimums, panels, groups))
    codes = blocks.codes
    if kind.bits == 4:
        codes = codes[..., : GROUP // 2] | codes[..., GROUP // 2 :] << np.uint8(4)
    quads = codes.reshape(panels, PANEL, groups, -1, 4).transpose(0, 2, 3, 1, 4)
    records = np.concatenate([*heads, quads.reshape(panels, groups, -1)], axis=-1)
    if blocks.factors is None:
        return records.reshape(panels, -1)
    count = groups // period(kind)
    factors = [_by_group(blocks.factors, panels, count)]
    if blocks.minimum_factors is not None:
        factors.append(_by_group(blocks.minimum_factors, panels, count))
    inner = records.reshape(panels, count, -1)
    return np.concatenate([*factors, inner], axis=-1).reshape(panels, -1)


def _by_group(numbers: np.ndarray, panels: int, groups: int) -> np.ndarray:
    """Return numbers [column, group * spans] as bytes [panel, group, span, column]."""
    split = numbers.reshape(panels, PANEL, groups, -1).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(split).view(np.uint8).reshape(panels, groups, -1)
