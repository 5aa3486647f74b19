"""MatMulBnb4: products with weights of 4 bits, the codes of bitsandbytes' FP4 and NF4."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from whet.frontend.translation import Array, Foreign, Translation

FP4: Array = np.array([0, 1 / 192, 2 / 3, 1, 1 / 3, 1 / 2, 1 / 6, 1 / 4], np.float32)
"""The values of the codes 0 to 7; those of 8 to 15 are their negatives."""

NF4: Array = np.array([
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635,
    -0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725,
    0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941,
    0.7229568362236023, 1.0,
], np.float32)  # fmt: skip
"""The values of all codes: quantiles of a normal distribution."""

TABLES: tuple[Array, ...] = (np.concatenate([FP4, -FP4]), NF4)
"""By ``quant_type``."""


def matmul_bnb4(t: Translation) -> ir.Value:
    """MatMulBnb4: ``A W'`` with W [N, K] as codes times the largest value of each block.

    Two codes lie in a byte, the first in its upper half; blocks run through the rows of W. The
    weights become floats.
    """
    columns, depth, block = t.take("N"), t.take("K"), t.take("block_size")
    kind = t.take("quant_type")
    t.only(training_mode=0, transB=1)
    if kind not in range(len(TABLES)) or block < 1:
        raise t.refuse(f"quant_type={kind} with blocks of {block} is not supported")
    packed, largest = t.constant(t.input(1)).reshape(-1), t.constant(t.input(2)).reshape(-1)
    count = columns * depth
    if packed.size != -(-count // 2) or largest.size != -(-count // block):
        raise t.refuse(
            f"{packed.size} bytes and {largest.size} blocks do not fit {columns} x {depth}"
        )
    codes = np.stack([packed >> 4, packed & 15], axis=-1).reshape(-1)[:count]
    scales = np.repeat(largest.astype(np.float32), block)[:count]
    weights = (TABLES[kind][codes] * scales).reshape(columns, depth)
    turned = np.ascontiguousarray(weights.T)
    return t.op("MatMul", t.input(0), t.cast(t.tensor(ir.Tensor(turned)), t.dtype(t.input(0))))


OPS: tuple[Foreign, ...] = (Foreign("MatMulBnb4", matmul_bnb4),)
