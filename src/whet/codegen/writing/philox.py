"""Random bits from a counter: Philox-2x32-10, a vector at a time.

Salmon, Moraes, Dror and Shaw, "Parallel Random Numbers: As Easy as 1, 2, 3", 2011.
"""

from __future__ import annotations

from whet.codegen.writing.builder import Builder, Value, const
from whet.kernel.philox import KEY_STEP, MULTIPLIER, ROUNDS, WORD


def random_bits(b: Builder, counter: Value, key: Value) -> Value:
    """Return 64 random bits for 64-bit counters and a key of which 32 bits count."""
    type_ = counter.type
    word, mask = const(type_, WORD), const(type_, (1 << WORD) - 1)
    low, high = b.binary("and", counter, mask), b.binary("lshr", counter, word)
    key = b.binary("and", key, mask)
    for _ in range(ROUNDS):
        product = b.binary("mul", low, const(type_, MULTIPLIER))
        mixed = b.binary("xor", b.binary("lshr", product, word), key)
        low, high = b.binary("xor", mixed, high), b.binary("and", product, mask)
        key = b.binary("and", b.binary("add", key, const(type_, KEY_STEP)), mask)
    return b.binary("or", low, b.binary("shl", high, word))
