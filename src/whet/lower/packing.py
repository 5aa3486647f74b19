"""Constant operands as kernels read them: strided views, columns in panels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from whet.index import Axis, Poly, as_poly
from whet.lower.storage import Root
from whet.program.records import BufferKind


def strided_view(value: np.ndarray, address: Poly, axes: Sequence[Axis]) -> np.ndarray:
    """Return the elements of a constant at an address, one dimension per axis.

    Half-precision floats become float32, in which products are summed.
    """
    flat = np.ascontiguousarray(value).reshape(-1)
    start = address.substitute(dict.fromkeys(axes, 0)).constant
    shape = [x.extent.constant for x in axes]
    steps = [address.coefficient(x).constant for x in axes]
    assert start is not None and None not in shape and None not in steps, "constants are static"
    view = np.lib.stride_tricks.as_strided(
        flat[start:],
        [n or 0 for n in shape],
        [(s or 0) * flat.itemsize for s in steps],
        writeable=False,
    )
    is_half = flat.itemsize < 4 and flat.dtype.kind not in "iub"
    return view.astype(np.float32) if is_half else view


def split_panels(values: np.ndarray, width: int) -> np.ndarray:
    """Return [..., columns] as [..., panels, width], with zeros behind the last column."""
    cols = values.shape[-1]
    panels = -(-cols // width)
    wide = np.zeros((*values.shape[:-1], panels * width), values.dtype)
    wide[..., :cols] = values
    return wide.reshape(*values.shape[:-1], panels, width)


def packed_root(name: str, values: np.ndarray) -> Root:
    """Return constant memory that holds some values."""
    return Root(name, BufferKind.CONSTANT, values.dtype.name, as_poly(values.size), values)
