"""Every operator that Whet compiles, by domain and name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import MappingProxyType

from msgspec.structs import replace

from whet.errors import CompileError
from whet.kernel.tensor import Tensor
from whet.ops import (
    activation,
    attention,
    batch_normalise,
    blocks,
    casts,
    causal_conv,
    conv,
    deform_conv,
    determinant,
    einsum,
    fold_columns,
    gather,
    grid_sample,
    integer_product,
    losses,
    matmul,
    mel,
    movement,
    normalise,
    paged,
    pointwise,
    pool,
    quantize,
    random,
    recurrent,
    reduce,
    resize,
    roi,
    rotary,
    scan,
    scatter,
    selection,
    sort,
    spectral,
    suppression,
    training,
    unique,
    unpool,
    views,
    window_functions,
)
from whet.ops.node import Lower, Node, Op
from whet.ops.shape_values import propagate

FAMILIES: tuple[tuple[Op, ...], ...] = (
    pointwise.OPS,
    activation.OPS,
    attention.OPS,
    paged.OPS,
    blocks.OPS,
    rotary.OPS,
    losses.OPS,
    casts.OPS,
    views.OPS,
    movement.OPS,
    gather.OPS,
    resize.OPS,
    grid_sample.OPS,
    reduce.OPS,
    normalise.OPS,
    batch_normalise.OPS,
    pool.OPS,
    conv.OPS,
    causal_conv.OPS,
    deform_conv.OPS,
    fold_columns.OPS,
    roi.OPS,
    matmul.OPS,
    einsum.OPS,
    determinant.OPS,
    spectral.OPS,
    window_functions.OPS,
    mel.OPS,
    quantize.OPS,
    integer_product.OPS,
    random.OPS,
    training.OPS,
    recurrent.OPS,
    scan.OPS,
    scatter.OPS,
    unpool.OPS,
    sort.OPS,
    selection.OPS,
    suppression.OPS,
    unique.OPS,
)


def op_table() -> Mapping[tuple[str, str], Op]:
    """Return every operator's lowering by ``(domain, name)``."""
    return merge(FAMILIES)


def merge(families: Iterable[Iterable[Op]]) -> Mapping[tuple[str, str], Op]:
    """Return one table of several families.

    Raises:
        CompileError: two families claim one operator.
    """
    table: dict[tuple[str, str], Op] = {}
    for family in families:
        for op in family:
            key = (op.domain, op.name)
            if key in table:
                raise CompileError(f"operator {op.name} is defined twice")
            table[key] = replace(op, lower=_knowing(op.lower))
    return MappingProxyType(table)


def _knowing(lower: Lower) -> Lower:
    """Return a lowering whose outputs carry the values that follow from shapes."""

    def lowered(node: Node) -> list[Tensor]:
        return propagate(node, lower(node))

    return lowered
