"""Tables of rotary positions."""

from __future__ import annotations

import numpy as np

from whet.llm.architecture import Array, Rope


def rope_tables(rope: Rope, positions: int) -> tuple[Array, Array]:
    """Return cosines and sines of shape (positions, size / 2), in float32.

    Angles are products in float32, as in the models' own code, so that results agree at large
    positions too.
    """
    exponent: Array = np.arange(0, rope.size, 2, dtype=np.float32) / np.float32(rope.size)
    inverse = (1.0 / np.float32(rope.theta) ** exponent).astype(np.float32)
    inverse = _stretched(inverse, rope)
    original, long = rope.long
    divisors = long if long and positions > original else rope.divisors
    if divisors:
        inverse = np.asarray(inverse / np.array(divisors, np.float32), np.float32)
    angles = np.arange(positions, dtype=np.float32)[:, None] * inverse[None, :]
    factor = np.float32(rope.magnitude)
    return np.cos(angles) * factor, np.sin(angles) * factor


def _stretched(inverse: Array, rope: Rope) -> Array:
    """Slow the turns of all frequencies, or as Llama 3 does, of the low ones."""
    if rope.llama3 is None:
        return np.asarray(inverse / np.float32(rope.factor))
    low, high, original = rope.llama3
    length = 2 * np.pi / inverse
    smooth = np.clip((original / length - low) / (high - low), 0.0, 1.0)
    return np.asarray((1 - smooth) * inverse / rope.factor + smooth * inverse, np.float32)
