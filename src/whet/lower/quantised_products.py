"""Rows that a product makes and another one reads as 8-bit integers: one kernel less between them.

A panel of columns is a group of the rows in blocks, so that the end of a product has a whole group
of each of its rows in registers. Floats are written and read nowhere.
"""

from __future__ import annotations

from msgspec.structs import replace

from whet.index import Atom, IndexLike, var
from whet.kernel.block_formats import GROUP
from whet.kernel.blocks import PANEL, BlockSum, QuantizedRows
from whet.kernel.expr import Expr, Load, rewrite_leaves
from whet.kernel.tensor import Definition, Tensor
from whet.lower.equations import Equations
from whet.lower.readers import Readers, count_readers, merge_origins, needed_equations
from whet.lower.rewrites import Rewrites
from whet.lower.uses import loads
from whet.target import Target

NAME = "fuse_quantised_products"
VECTORS = 2


def fuse_quantised_products(equations: Equations, rewrites: Rewrites, target: Target) -> Equations:
    """Let products bring what only rows in blocks are made of into these; return what is left.

    A register tile has to hold a whole panel, as it does with 16 lanes.
    """
    if target.lanes * VECTORS != PANEL:
        return equations
    readers = count_readers(equations)
    for tensor in equations.tensors:
        definition = tensor.definition
        if definition is not None and isinstance(definition.anchor, QuantizedRows):
            _take_product(tensor, definition, definition.anchor, (readers, rewrites, target))
    return needed_equations(equations)


def _take_product(
    tensor: Tensor,
    definition: Definition,
    anchor: QuantizedRows,
    by: tuple[Readers, Rewrites, Target],
) -> None:
    readers, rewrites, target = by
    found = [e for e in loads(definition) if _is_product(e.source)]
    if len(found) != 1 or anchor.steps or GROUP // anchor.spans < target.lanes:
        return
    source: Tensor = found[0].source
    own = source.definition
    assert own is not None and isinstance(own.anchor, BlockSum), "it is a product"
    row, depth = anchor.row, anchor.depth
    if found[0].index != (var(row), var(depth)) or own.anchor.col.extent != depth.extent:
        return
    if not readers.single(source) or not rewrites.take(NAME):
        return
    points: dict[Atom, IndexLike] = dict(zip(own.axes, found[0].index, strict=True))
    body = own.body.substitute(points)

    def inlined(e: Expr) -> Expr:
        return body if isinstance(e, Load) and e.source is source else e

    tensor.definition = replace(
        definition,
        anchor=replace(
            anchor,
            x=rewrite_leaves(anchor.x, inlined),
            product=replace(own.anchor, row=row, col=depth),
        ),
    )
    merge_origins(source, tensor)


def _is_product(source: Tensor) -> bool:
    definition = source.definition
    return (
        definition is not None and isinstance(definition.anchor, BlockSum) and not definition.index
    )
