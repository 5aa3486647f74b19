"""Images of any size as patches, with positions of rows and columns, as Qwen's towers take them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from whet.llm.architecture import Array
from whet.llm.checkpoints.config import Config
from whet.llm.images.image_resize import scaling_of, snapped
from whet.llm.images.vision import Pixels

_THETA = 10000.0


@dataclass(frozen=True, slots=True)
class Patches:
    """How an image is cut: sides of a patch, patches merged along a side, size of half a head."""

    side: int
    merged: int
    half: int


def prepared_patches(facts: Config, bounds: tuple[int, int], cut: Patches, image: Array) -> Pixels:
    """Return the patches of an image, those that are merged one after another."""
    scaling, side, merged = scaling_of(facts), cut.side, cut.merged
    high, wide = snapped(image, side * merged, *bounds)
    pixels = scaling.numbers(scaling.resized(image, high, wide))
    rows, columns = high // side // merged, wide // side // merged
    split = pixels.reshape(3, rows, merged, side, columns, merged, side)
    flat = split.transpose(1, 4, 2, 5, 0, 3, 6).reshape(-1, 3 * side * side)
    exponent = np.arange(0, cut.half, 2, dtype=np.float32) / np.float32(cut.half)
    inverse = (1.0 / np.float32(_THETA) ** exponent).astype(np.float32)
    places = patch_places(rows, columns, merged)[..., None].astype(np.float32)
    angles = np.concatenate(list(places * inverse), axis=-1)
    inputs = {"patches": np.ascontiguousarray(flat), "cos": np.cos(angles), "sin": np.sin(angles)}
    return Pixels(inputs, rows * columns, (rows, columns))


def patch_places(rows: int, columns: int, merged: int) -> Array:
    """Return row and column [2, patch] of every patch, those that are merged after another."""
    places = np.indices((rows * merged, columns * merged)).reshape(2, rows, merged, columns, merged)
    return places.transpose(0, 1, 3, 2, 4).reshape(2, -1)
