"""Products with weights in blocks of few bits, of the domain ``whet``: ONNX has no such storage.

``QuantizeRows(x [rows, depth])`` gives rows in blocks, int32 [tiles, depth / 32, 12, words], for
``BlockMatMul(rows, weights, ...)``, whose weights are uint8 [columns, bytes], a row of a GGUF file
for each column; it gives float32 [rows, columns], those of all weights one after the other. Rows
that are float32 [rows, depth] stay floats, and the weights are dequantised.
``format`` names how the bytes lie; ``QuantizeRows`` needs it too, as sums begin with what the
format subtracts. ``whet.kernel.interpret_blocks`` says in NumPy what they mean.
"""

from __future__ import annotations

from whet.errors import UnsupportedError, nearest
from whet.graph.opset import WHET_DOMAIN
from whet.index import ZERO, Axis, Poly, as_poly, ceil_div, var
from whet.kernel.block_formats import FORMATS, GROUP, WIDE_FORMATS, BlockFormat
from whet.kernel.blocks import ROW_TILE, BlockSum, QuantizedRows, row_words
from whet.kernel.dequantized import DequantizedSum
from whet.kernel.expr import Expr, Var
from whet.kernel.spec import ACCUMULATOR
from whet.kernel.tensor import Definition, Tensor, axes_for
from whet.ops.node import Node, Op


def _quantize_rows(node: Node) -> list[Tensor]:
    x, kind = node.input(0), _format(node)
    if x.rank != 2 or x.dtype != "float32":
        raise node.error(f"rows are {x.dtype} of rank {x.rank}, not float32 of rank 2")
    depth = _depth_of(node, x, kind)
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
    columns = sum((w.shape[0] for w in weights), ZERO)
    places = tuple(w.at(0, 0) for w in weights)
    product = _dequantized if rows.dtype == "float32" else _in_integers
    anchor = product(node, rows, places, columns)
    for own in weights:
        if own.shape[1] != kind.row_bytes(anchor.depth):
            raise node.error(f"{own.shape[1]} bytes are no row of {anchor.depth} values")
    axes = (anchor.row, anchor.col)
    definition = Definition(axes, Var(ACCUMULATOR, "float32"), anchor)
    shape = (anchor.row.extent, columns)
    return [node.define(shape, "float32", definition, order=(0, 1))]


def _dequantized(
    node: Node, rows: Tensor, weights: tuple[Expr, ...], columns: Poly
) -> DequantizedSum:
    kind = _format(node)
    inner = Axis("k", as_poly(_depth_of(node, rows, kind)))
    row, col = axes_for((rows.shape[0], columns))
    return DequantizedSum(rows.at(var(row), var(inner)), weights, row, col, inner, kind)


def _in_integers(node: Node, rows: Tensor, weights: tuple[Expr, ...], columns: Poly) -> BlockSum:
    kind = _format(node)
    source = rows.definition.anchor if rows.definition is not None else None
    if not isinstance(source, QuantizedRows) or not _fits(source, kind):
        raise node.error("the first input has to come from QuantizeRows of a format like its own")
    row, col = axes_for((source.row.extent, columns))
    depth = source.depth.extent.constant
    assert depth is not None, "rows in blocks have a known length"
    return BlockSum(rows.at(0, 0, 0, 0), weights, row, col, depth, kind)


def _depth_of(node: Node, rows: Tensor, kind: BlockFormat) -> int:
    """Return the values of a row, which blocks divide.

    Raises:
        ShapeError: they do not, or rows are no matrix.
    """
    depth = rows.shape[1].constant if rows.rank == 2 else None
    if not depth or depth % kind.block:
        raise node.error(f"rows {list(rows.shape)} do not divide into blocks of {kind.block}")
    return depth


def _fits(rows: QuantizedRows, kind: BlockFormat) -> bool:
    """Whether sums of a format begin with what rows say."""
    return (rows.zero, rows.spans) == (kind.zero, kind.spans)


def _format(node: Node) -> BlockFormat:
    """Return the format that a node names.

    Raises:
        UnsupportedError: it is not known.
    """
    name = str(node.attribute("format", ""))
    known = {**FORMATS, **WIDE_FORMATS}
    if name not in known:
        raise UnsupportedError(
            f"{node.op} has format {name!r}", where=node.name, hint=nearest(name, known)
        )
    return known[name]


OPS: tuple[Op, ...] = (
    Op("QuantizeRows", _quantize_rows, domain=WHET_DOMAIN),
    Op("BlockMatMul", _block_matmul, domain=WHET_DOMAIN),
)
