"""Vectors of 64 bytes that are stored in halves.

A Zen 4 does 64 bytes in two steps. Beside products a whole vector takes the time of 1.8 of them,
two halves that of 0.95 (eight stores for sixteen ``vfmadd231ps``).
"""

from __future__ import annotations

from whet.codegen.writing.builder import Builder, Value, element, lanes


def store_scratch(b: Builder, value: Value, pointer: Value) -> None:
    """Store a vector to scratch, at a multiple of 64 bytes, in halves where that is quicker.

    LLVM would make one store of both again if they were not volatile.
    """
    if not b.halves:
        b.store(value, pointer, 64)
        return
    half = lanes(value.type) // 2
    for k in range(2):
        part = b.shuffle(value, list(range(k * half, (k + 1) * half)))
        place = b.gep(pointer, element(value.type), k * half)
        b.line(f"store volatile {part}, ptr {place.text}, align 32")
