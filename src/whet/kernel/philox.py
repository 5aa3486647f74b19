"""Random bits from a counter: Philox-2x32-10 in NumPy, the definition that kernels follow.

Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011. The bits at a
counter depend on nothing else, so that any number of threads draws the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

ROUNDS = 10
WORD = 32
MULTIPLIER = 0xD256D193
KEY_STEP = 0x9E3779B9

Array = np.ndarray[Any, np.dtype[Any]]


def random_bits(counter: Array, key: Array) -> Array:
    """Return 64 random bits for 64-bit counters and a key of which 32 bits count."""
    word, mask = np.uint64(WORD), np.uint64((1 << WORD) - 1)
    low, high = counter & mask, counter >> word
    key = key & mask
    for _ in range(ROUNDS):
        product = low * np.uint64(MULTIPLIER)
        low, high = (product >> word) ^ key ^ high, product & mask
        key = (key + np.uint64(KEY_STEP)) & mask
    return np.asarray(low | (high << word))
