"""Merged groups of channels without their zeros: lanes take channels of their own group.

A vector of pixels holds the channels of all groups that share a vector of filters. One permutation
brings every lane its group's next channel, for as many multiply-adds as the model has.
"""

from __future__ import annotations

import numpy as np

from whet.index import Axis
from whet.kernel.expr import Read
from whet.kernel.tensor import Product
from whet.target import Target


def spread_of(anchor: Product, a: Read, target: Target) -> int:
    """Return how many channels a group has if lanes of a product may take their own, else 0."""
    depth, cols = anchor.depth.extent.constant, anchor.col.extent.constant
    if anchor.merged == 1 or depth is None or cols != target.lanes or depth != cols:
        return 0
    contiguous = a.address.coefficient(anchor.depth) == 1
    return depth // anchor.merged if contiguous and a.dtype == "float32" else 0


def spread_depth(anchor: Product, spread: int) -> Axis:
    """Return the depth that lanes go along: the channels of one group."""
    return Axis(anchor.depth.name, anchor.depth.extent // anchor.merged) if spread else anchor.depth


def own_weights(panels: np.ndarray, spread: int) -> np.ndarray:
    """Return [..., depth, lanes] as [..., spread, lanes], without the channels of other groups."""
    lanes = np.arange(panels.shape[-1])
    channels = lanes // spread * spread + np.arange(spread)[:, None]
    return np.ascontiguousarray(panels[..., channels, lanes])
