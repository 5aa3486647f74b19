"""The one table of tolerances: how far a result may be from the same sum in double precision.

The bound of an element is ``units * eps * (|expected| + growth(length) * scale)``, where ``eps`` is
half a unit in the last place of the type, ``scale`` the size of the terms that were summed, and
``growth`` the square root of their number, as rounding errors of either sign add up.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]

EPS = {"float64": 2.0**-53, "float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8}
"""Largest relative error of one rounding, by element type."""

UNITS = {
    "exact": 0.0,  # moves and comparisons
    "pointwise": 8.0,  # a few roundings and functions of at most 4 ULP
    "reduction": 8.0,  # sums in another order
    "product": 8.0,  # sums of products in another order
    "attention": 16.0,  # two products and a softmax between them
    "graph": 128.0,  # a dozen operators behind each other
    "fast": 256.0,  # algorithms that trade accuracy, such as Winograd convolution
}
"""Roundings that a class of operators may be away, in units of half an ULP."""


NOISE_UNITS = 16.0
"""How often the error of another implementation a result may be away, where that is larger."""


@dataclass(frozen=True, slots=True)
class Tolerance:
    """Relative and absolute bounds, as ``numpy.testing.assert_allclose`` takes them."""

    rtol: float
    atol: float


def tolerance(op_class: str, dtype: str, *, length: int = 1, scale: float = 1.0) -> Tolerance:
    """Return the bound for a class of operators.

    Args:
        op_class: a key of ``UNITS``.
        dtype: type of the result; of the arithmetic, if that is coarser.
        length: number of terms in a sum.
        scale: size of a term.
    """
    unit = UNITS[op_class] * EPS.get(dtype, 0.0)
    return Tolerance(unit, unit * math.sqrt(max(length, 1)) * scale)


def largest_difference(a: Array, b: Array) -> float:
    """Return the largest finite difference of two arrays' elements, 0 for other shapes."""
    if a.shape != b.shape:
        return 0.0
    with np.errstate(invalid="ignore"):
        difference = np.abs(a.astype(np.float64) - b.astype(np.float64))
    return float(difference[np.isfinite(difference)].max(initial=0.0))


def assert_close(
    found: Array,
    expected: Array,
    op_class: str,
    *,
    dtype: str = "",
    length: int = 1,
    scale: float = 1.0,
    noise: float = 0.0,
) -> None:
    """Assert that a result has the shape of what is expected and lies within the table's bound.

    ``dtype`` is the type of the arithmetic, by default that of the result; ``noise`` what another
    implementation in that type was away.
    """
    assert found.shape == expected.shape, f"{found.shape} is not {expected.shape}"
    if found.dtype.kind in "biu":
        np.testing.assert_array_equal(found, expected)
        return
    bound = tolerance(op_class, dtype or found.dtype.name, length=length, scale=scale)
    np.testing.assert_allclose(
        found.astype(np.float64),
        expected.astype(np.float64),
        rtol=bound.rtol,
        atol=bound.atol + NOISE_UNITS * noise,
    )
