"""Element types: names as NumPy and ml_dtypes know them, sizes and classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, slots=True)
class DType:
    """An element type.

    Attributes:
        name: NumPy or ml_dtypes name.
        size: bytes of one element in memory.
        kind: ``f`` float, ``i`` signed, ``u`` unsigned, ``b`` boolean.
    """

    name: str
    size: int
    kind: str

    @property
    def is_float(self) -> bool:
        """Whether it is a floating-point type."""
        return self.kind == "f"


DTYPES: dict[str, DType] = {
    d.name: d
    for d in (
        DType("float64", 8, "f"),
        DType("float32", 4, "f"),
        DType("float16", 2, "f"),
        DType("bfloat16", 2, "f"),
        DType("int64", 8, "i"),
        DType("int32", 4, "i"),
        DType("int16", 2, "i"),
        DType("int8", 1, "i"),
        DType("uint64", 8, "u"),
        DType("uint32", 4, "u"),
        DType("uint16", 2, "u"),
        DType("uint8", 1, "u"),
        DType("bool", 1, "b"),
    )
}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the NumPy type of a name; the small floats come from ml_dtypes."""
    import numpy as np

    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes  # 70 ms that most models do not need

        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return found
