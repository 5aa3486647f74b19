"""The steps of random models: each appends a few nodes, or nothing where they do not fit."""

from __future__ import annotations

from whet.tests.random_models import Step
from whet.tests.random_movement import (
    concat,
    data_gather,
    depth_to_space,
    expand,
    flatten,
    gather,
    pad,
    reshape,
    slice_,
    split,
    squeeze,
    tile,
    transpose,
)
from whet.tests.random_pointwise import (
    clip,
    divided,
    exponential,
    mask,
    unary,
    where,
    with_constant,
    with_value,
)
from whet.tests.random_products import attention, gemm, gram, left_product, linear
from whet.tests.random_rows import channel_norm, cumulative, layer_norm, reduce, softmax
from whet.tests.random_windows import conv, conv_transpose, global_pool, pool, resize

STEPS: tuple[Step, ...] = (
    unary, unary, clip, exponential, with_constant, with_constant, divided, with_value, with_value,
    where, mask, linear, linear, gemm, left_product, gram, attention, conv, conv, conv, conv,
    conv_transpose, pool, pool, global_pool, resize, reduce, reduce, softmax, layer_norm,
    channel_norm, cumulative, concat, concat, reshape, reshape, flatten, squeeze, transpose,
    transpose, slice_, slice_, split, pad, expand, tile, gather, data_gather, depth_to_space,
)  # fmt: skip

COMPARING = frozenset({where, mask, data_gather})
