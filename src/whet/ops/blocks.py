"""Products with weights in blocks of few bits, of the domain ``whet``: ONNX has no such storage.

``QuantizeRows(x [rows, depth])`` gives rows in blocks, int32 [tiles, depth / 32, 12, words], for
``BlockMatMul(rows, weights, ...)``, whose weights are uint8 [columns, bytes], a row of a GGUF file
for each column; it gives float32 [rows, columns], those of all weights one after the other.
``format`` names how the bytes lie; ``QuantizeRows`` needs it too, as sums begin with what the
format subtracts. ``whet.kernel.interpret_blocks`` says in NumPy what they mean.
"""

from __future__ import annotations

from whet.errors import UnsupportedError, nearest
from whet.graph.opset import WHET_DOMAIN
from whet.index import ZERO, Axis, as_poly, ceil_div, var
from whet.kernel.block_formats import FORMATS, GROUP, BlockFormat
from whet.kernel.blocks import ROW_TILE, BlockSum, QuantizedRows, row_words
from whet.kernel.expr import Var
from whet.kernel.spec import ACCUMULATOR
from whet.kernel.tensor import Definition, Tensor, axes_for
from whet.ops.node import Node, Op


def _quantize_rows(node: Node) -> list[Tensor]:
    x, kind = node.input(0), _format(node)
    if x.rank != 2 or x.dtype != "float32":
        raise node.error(f"rows are {x.dtype} of rank {x.rank}, not float32 of rank 2")
    depth = x.shape[1].constant
    if depth is None or not depth or depth % kind.block:
        raise node.error(f"rows of {x.shape[1]} values do not divide into blocks of {kind.block}")
    row, inner = Axis("row", x.shape[0]), Axis("k", x.shape[1])
    tiles = ceil_div(x.shape[0], ROW_TILE)
    shape = (tiles, *map(as_poly, (depth // GROUP, ROW_TILE, row_words(kind.spans))))
    anchor = QuantizedRows(x.at(var(row), var(inner)), row, inner, kind.zero, kind.spans)
    definition = Definition(axes_for(shape), Var(ACCUMULATOR, "int32"), anchor)
    return [node.define(shape, "int32", definition, order=(0, 1, 2, 3))]


def _block_matmul(node: Node) -> list[Tensor]:
    rows, kind = node.input(0), _format(node)
    weights = [node.input(k) for k in range(1, max(len(node.inputs), 2))]
    if any(w.value is None or w.rank != 2 or w.dtype != "uint8" for w in weights):
        raise node.error("weights have to be a constant of bytes, a row for each column")
    source = rows.definition.anchor if rows.definition is not None else None
    if not isinstance(source, QuantizedRows) or not _fits(source, kind):
        raise node.error("the first input has to come from QuantizeRows of a format like its own")
    groups = rows.shape[1].constant
    for own in weights:
        if groups is None or own.shape[1] != kind.row_bytes(groups * GROUP):
            raise node.error(f"{own.shape[1]} bytes are no row of {rows.shape[1]} groups")
    assert groups is not None
    columns = sum((w.shape[0] for w in weights), ZERO)
    row, col = axes_for((source.row.extent, columns))
    places = tuple(w.at(0, 0) for w in weights)
    anchor = BlockSum(rows.at(0, 0, 0, 0), places, row, col, groups * GROUP, kind)
    definition = Definition((row, col), Var(ACCUMULATOR, "float32"), anchor)
    return [node.define((source.row.extent, columns), "float32", definition, order=(0, 1))]


def _fits(rows: QuantizedRows, kind: BlockFormat) -> bool:
    """Whether sums of a format begin with what rows say."""
    return (rows.zero, rows.spans) == (kind.zero, kind.spans)


def _format(node: Node) -> BlockFormat:
    """Return the format that a node names.

    Raises:
        UnsupportedError: it is not known.
    """
    name = str(node.attribute("format", ""))
    if name not in FORMATS:
        raise UnsupportedError(
            f"{node.op} has format {name!r}", where=node.name, hint=nearest(name, FORMATS)
        )
    return FORMATS[name]


OPS: tuple[Op, ...] = (
    Op("QuantizeRows", _quantize_rows, domain=WHET_DOMAIN),
    Op("BlockMatMul", _block_matmul, domain=WHET_DOMAIN),
)
