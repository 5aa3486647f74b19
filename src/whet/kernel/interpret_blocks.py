"""What rows in blocks and block products mean, in NumPy."""

from __future__ import annotations

import numpy as np

from whet.kernel.block_formats import GROUP, BlockFormat, read_blocks
from whet.kernel.blocks import (
    CODE_WORDS,
    LEVELS,
    ROW_TILE,
    SCALE_WORD,
    START_WORD,
    row_words,
)
from whet.kernel.semantics import Array


def quantized_rows(x: Array, zero: int, spans: int) -> Array:
    """Return rows [row, depth] in blocks [tile, group, row in its tile, word], 32-bit integers."""
    whole = np.zeros((-(-len(x) // ROW_TILE) * ROW_TILE, x.shape[1]), np.float32)
    whole[: len(x)] = x
    groups = _quantized_groups(whole, zero, spans)
    tiles = groups.reshape(len(groups), -1, ROW_TILE, groups.shape[-1])
    return np.ascontiguousarray(tiles.swapaxes(0, 1))


def _quantized_groups(x: Array, zero: int, spans: int) -> Array:
    """Return rows as [group, row, word]."""
    groups = x.reshape(len(x), -1, GROUP).transpose(1, 0, 2)
    top = np.abs(groups).max(axis=-1)
    with np.errstate(all="ignore"):
        scale = top / np.float32(LEVELS)
        inverse = np.where(top == 0, np.float32(0), np.float32(LEVELS) / top)
        codes = np.nan_to_num(np.rint(groups * inverse[..., None])).astype(np.int32)
    result = np.zeros((*groups.shape[:2], row_words(spans)), np.int32)
    result[..., :CODE_WORDS] = np.ascontiguousarray(codes.astype(np.int8)).view(np.int32)
    result[..., SCALE_WORD] = scale.view(np.int32)
    sums = codes.reshape(*groups.shape[:2], spans, -1).sum(-1, dtype=np.int32)
    starts = sums * np.int32(-zero)
    if not zero:
        starts = (scale[..., None] * sums.astype(np.float32)).view(np.int32)
    result[..., START_WORD:] = starts
    return result


def block_product(rows: Array, weights: Array, kind: BlockFormat) -> Array:
    """Return the product [row, column] of rows in blocks and weights, in float64.

    There are whole tiles of rows; those behind the last mean nothing.
    """
    rows = rows.swapaxes(0, 1).reshape(rows.shape[1], -1, rows.shape[3])
    blocks = read_blocks(kind, weights)
    codes = np.ascontiguousarray(rows[..., :CODE_WORDS]).view(np.int8)
    scale = np.ascontiguousarray(rows[..., SCALE_WORD]).view(np.float32).astype(np.float64)
    count, groups, _ = blocks.codes.shape
    shape = (-1, kind.spans, GROUP // kind.spans)
    left = codes.reshape(*rows.shape[:2], *shape[1:]).astype(np.float64)
    right = blocks.codes.reshape(count, *shape).astype(np.float64) - kind.zero
    sums = np.einsum("gmsk,ngsk->mngs", left, right)
    scales = blocks.group_scales().reshape(count, groups, kind.spans).astype(np.float64)
    total = np.einsum("mngs,ngs,gm->mn", sums, scales, scale)
    minimums = blocks.group_minimums()
    if minimums is not None:
        values = left.sum(axis=(2, 3)) * scale
        total = total + np.einsum("gm,ng->mn", values, minimums.astype(np.float64))
    return np.asarray(total)
