"""Constant operands as kernels read them: strided views, columns in panels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from whet.errors import CompileError
from whet.index import Axis, Poly


def strided_view(value: np.ndarray, address: Poly, axes: Sequence[Axis]) -> np.ndarray:
    """Return the elements of a constant at an address, one dimension per axis."""
    flat = np.ascontiguousarray(value).reshape(-1)
    start = address.substitute(dict.fromkeys(axes, 0)).constant
    shape = [x.extent.constant for x in axes]
    steps = [address.coefficient(x).constant for x in axes]
    assert start is not None and None not in shape and None not in steps, "constants are static"
    last = start + sum((s or 0) * max((n or 0) - 1, 0) for s, n in zip(steps, shape, strict=True))
    if not 0 <= start <= last < max(len(flat), 1):
        raise CompileError(f"elements {start} to {last} of a constant of {len(flat)} are read")
    return np.lib.stride_tricks.as_strided(
        flat[start:],
        [n or 0 for n in shape],
        [(s or 0) * flat.itemsize for s in steps],
        writeable=False,
    )


def split_panels(values: np.ndarray, width: int) -> np.ndarray:
    """Return [..., columns] as [..., panels, width], zeros behind the last column.

    It is a view where the panels are full.
    """
    cols = values.shape[-1]
    panels = -(-cols // width)
    if cols % width:
        wide = np.zeros((*values.shape[:-1], panels * width), values.dtype)
        wide[..., :cols] = values
        values = wide
    return values.reshape(*values.shape[:-1], panels, width)


def product_type(value: np.ndarray) -> np.dtype[Any]:
    """Return the type of packed weights: half precision becomes float32, as products are summed."""
    half = value.itemsize < 4 and value.dtype.kind not in "iub"
    return np.dtype(np.float32) if half else value.dtype
