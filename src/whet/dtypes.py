"""Element types: names as NumPy and ml_dtypes know them, sizes and classes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    import numpy as np


BITS_PER_BYTE = 8


class SmallFloat(msgspec.Struct, frozen=True):
    """A floating-point format of at most 8 bits; sources: OCP OFP8 and MX, ONNX float8.

    Attributes:
        exponent: bits of the exponent.
        mantissa: bits of the mantissa.
        bias: what is subtracted from the exponent.
        special: what the largest codes mean: ``ieee`` infinities and NaN, ``fn`` a NaN alone,
            ``fnuz`` a NaN at the code of -0, ``finite`` no special values, ``power`` powers of two
            without sign or zero, and a NaN.
    """

    exponent: int
    mantissa: int
    bias: int
    special: str

    @property
    def largest(self) -> int:
        """The code of the largest finite value."""
        codes = 1 << (self.exponent + self.mantissa)
        spare = {"ieee": 1 << self.mantissa, "fn": 1, "power": 1}
        return codes - 1 - spare.get(self.special, 0)

    @property
    def maximum(self) -> float:
        """The largest finite value."""
        top, fraction = divmod(self.largest, 1 << self.mantissa)
        scale: float = 2.0 ** (top - self.bias)
        return (1 + fraction / (1 << self.mantissa)) * scale


class DType(msgspec.Struct, frozen=True):
    """An element type.

    Attributes:
        name: NumPy or ml_dtypes name.
        size: bytes of one element in memory; types of less than a byte take one.
        kind: ``f`` float, ``i`` signed, ``u`` unsigned, ``b`` boolean, ``e`` a small float, which
            is moved as its bits and only computed with after conversion.
        bits: width of the value.
        small: how the bits of a small float are read.
    """

    name: str
    size: int
    kind: str
    bits: int
    small: SmallFloat | None = None

    @property
    def is_float(self) -> bool:
        """Whether it is a floating-point type that is computed with."""
        return self.kind == "f"

    @property
    def is_packed(self) -> bool:
        """Whether a value leaves bits of its byte unused."""
        return self.kind in "iu" and self.bits < BITS_PER_BYTE

    @property
    def limits(self) -> tuple[int, int]:
        """The least and greatest value of an integer type."""
        if self.kind == "i":
            return -(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1
        return 0, (1 << self.bits) - 1


def _small(name: str, bits: int, form: tuple[int, int, int], special: str) -> DType:
    return DType(name, 1, "e", bits, SmallFloat(*form, special))


DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        DType("float64", 8, "f", 64),
        DType("float32", 4, "f", 32),
        DType("float16", 2, "f", 16),
        DType("bfloat16", 2, "f", 16),
        DType("int64", 8, "i", 64),
        DType("int32", 4, "i", 32),
        DType("int16", 2, "i", 16),
        DType("int8", 1, "i", 8),
        DType("int4", 1, "i", 4),
        DType("int2", 1, "i", 2),
        DType("uint64", 8, "u", 64),
        DType("uint32", 4, "u", 32),
        DType("uint16", 2, "u", 16),
        DType("uint8", 1, "u", 8),
        DType("uint4", 1, "u", 4),
        DType("uint2", 1, "u", 2),
        DType("bool", 1, "b", 1),
        _small("float8_e4m3fn", 8, (4, 3, 7), "fn"),
        _small("float8_e4m3fnuz", 8, (4, 3, 8), "fnuz"),
        _small("float8_e5m2", 8, (5, 2, 15), "ieee"),
        _small("float8_e5m2fnuz", 8, (5, 2, 16), "fnuz"),
        _small("float8_e8m0fnu", 8, (8, 0, 127), "power"),
        _small("float6_e2m3fn", 6, (2, 3, 1), "finite"),
        _small("float6_e3m2fn", 6, (3, 2, 3), "finite"),
        _small("float4_e2m1fn", 4, (2, 1, 1), "finite"),
    )
}


BYTES = ("int8", "uint8")
"""Integers of 8 bits."""


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the NumPy type of a name; the small floats come from ml_dtypes."""
    import numpy as np

    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes  # 70 ms that most models do not need

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return found
