"""Numbers as LLVM IR writes them: floats by their bits."""

from __future__ import annotations

import struct


def number_text(number: float | int | bool, type_: str) -> str:
    """Return a number as LLVM IR writes a constant of a scalar type."""
    if type_ == "i1":
        return "true" if number else "false"
    if type_ == "float":
        rounded = struct.unpack("<d", struct.pack("<d", _round_f32(float(number))))[0]
        return f"0x{struct.unpack('<Q', struct.pack('<d', rounded))[0]:016X}"
    if type_ == "double":
        return f"0x{struct.unpack('<Q', struct.pack('<d', float(number)))[0]:016X}"
    if type_ == "half":
        return f"0xH{struct.unpack('<H', struct.pack('<e', number))[0]:04X}"
    if type_ == "bfloat":
        bits = struct.unpack("<I", struct.pack("<f", _round_f32(float(number))))[0]
        return f"0xR{bits >> 16:04X}"
    return str(int(number))


def _round_f32(number: float) -> float:
    try:
        return float(struct.unpack("<f", struct.pack("<f", number))[0])
    except OverflowError:
        return float("inf") if number > 0 else float("-inf")
