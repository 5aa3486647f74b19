"""Weights of 2, 4 and 8 bits: several in one byte, the lowest bits first."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir

from whet.frontend.translation import Array

_TYPES = {2: (ir.DataType.UINT2, ml_dtypes.uint2), 4: (ir.DataType.UINT4, ml_dtypes.uint4)}


def numbers_of(packed: Array, bits: int) -> Array:
    """Return the unsigned numbers in the bytes of each row, as uint8."""
    count = 8 // bits
    shifts = np.arange(count, dtype=np.uint8) * bits
    parts = (packed[..., None] >> shifts) & np.uint8((1 << bits) - 1)
    return np.asarray(parts.reshape(*packed.shape[:-1], packed.shape[-1] * count))


def quantised_tensor(numbers: Array, bits: int) -> ir.TensorProtocol:
    """Return unsigned numbers as a constant of the type that stores so many bits."""
    if bits == 8:
        return ir.Tensor(numbers)
    kind, storage = _TYPES[bits]
    return ir.Tensor(numbers.astype(storage), dtype=kind)
