"""How far one array is from another, in all the ways people ask for.

All figures are computed in float64 over the elements that are finite in both arrays; elements that
are not finite have to agree exactly (NaN with NaN, +inf with +inf) and are counted apart.
"""

from __future__ import annotations

import math
from typing import Any

import msgspec
import numpy as np

Array = np.ndarray[Any, Any]
Wide = np.ndarray[Any, np.dtype[np.float64]]
Index = tuple[int, ...]

_FLOAT_BITS = {16: np.int16, 32: np.int32, 64: np.int64}


class Metrics(msgspec.Struct, frozen=True, kw_only=True):
    """The difference of an array ``a`` from the golden array ``g``.

    Attributes:
        dtype: element type of ``g``.
        shape: shape of ``g``.
        elements: how many elements are finite in both.
        mismatches: share of elements that are not equal, bit patterns of NaN left aside.
        cosine: ``a·g / (|a| |g|)``; 1 if both are zero, 0 if only one is.
        max_abs: ``max |a - g|``.
        mean_abs: ``mean |a - g|``.
        max_scaled: ``max |a - g| / max |g|``.
        max_relative: ``max |a - g| / |g|``, where ``|g|`` is at least ``eps max |g|``.
        mean_relative: the mean of the same.
        accumulated_relative: ``sum |a - g| / sum |g|``.
        rmse: ``sqrt(mean (a - g)²)``.
        relative_euclidean: ``|a - g| / |g|``, Euclidean norms.
        kl: divergence of ``softmax(a)`` from ``softmax(g)`` over all elements, in nats.
        max_ulp: largest distance in units in the last place of the element type; floats only.
        mean_ulp: the mean of the same.
        worst: where ``|a - g|`` is largest.
        not_finite: elements of ``g`` that are NaN or infinite.
        not_finite_mismatches: elements that are not finite in one array and differ in the other.
        first_not_finite: where the first of them is.
        problem: why the arrays cannot be compared; all else is then empty.
    """

    dtype: str
    shape: tuple[int, ...]
    elements: int = 0
    mismatches: float = 0.0
    cosine: float = 1.0
    max_abs: float = 0.0
    mean_abs: float = 0.0
    max_scaled: float = 0.0
    max_relative: float = 0.0
    mean_relative: float = 0.0
    accumulated_relative: float = 0.0
    rmse: float = 0.0
    relative_euclidean: float = 0.0
    kl: float = 0.0
    max_ulp: float | None = None
    mean_ulp: float | None = None
    worst: Index | None = None
    not_finite: int = 0
    not_finite_mismatches: int = 0
    first_not_finite: Index | None = None
    problem: str = ""


def measure_error(found: Array, golden: Array) -> Metrics:
    """Compare an array with the golden one.

    Args:
        found: the array that is judged.
        golden: what it should be. A float result may have another float type than ``found``.

    Returns:
        The metrics; shapes or kinds of types that differ are a ``problem``, not an error.
    """
    problem = _problem(found, golden)
    if problem:
        return Metrics(dtype=golden.dtype.name, shape=golden.shape, problem=problem)
    if golden.dtype.kind in "OSUT":
        return _compare_words(found, golden)
    return _compare_numbers(found, golden)


def _problem(found: Array, golden: Array) -> str:
    if found.shape != golden.shape:
        return f"the shape is {_shape(found)}, not {_shape(golden)}"
    if _is_float(found) != _is_float(golden) or (found.dtype.kind == "c") != (
        golden.dtype.kind == "c"
    ):
        return f"the type is {found.dtype.name}, not {golden.dtype.name}"
    return ""


def _shape(array: Array) -> str:
    return "×".join(map(str, array.shape)) or "scalar"


def _is_float(array: Array) -> bool:
    """Whether elements are real floating-point numbers; most of ml_dtypes have the kind V."""
    return array.dtype.kind == "f" or (array.dtype.kind == "V" and "int" not in array.dtype.name)


def _compare_words(found: Array, golden: Array) -> Metrics:
    differ = np.asarray(found.astype(object) != golden.astype(object), bool)
    return Metrics(
        dtype="string",
        shape=golden.shape,
        elements=golden.size,
        mismatches=float(differ.mean()) if differ.size else 0.0,
        worst=_first(differ),
    )


def _first(mask: Array) -> Index | None:
    """Return the index of the first true element."""
    if not mask.any():
        return None
    return tuple(int(i) for i in np.unravel_index(int(mask.argmax()), mask.shape))


def _parts(array: Array) -> Wide:
    """Return real numbers in double precision; complex ones as pairs along a new last axis."""
    if array.dtype.kind == "c":
        wide = np.asarray(array, np.complex128)
        return np.stack([wide.real, wide.imag], axis=-1)
    return np.asarray(array).astype(np.float64)


def _compare_numbers(found: Array, golden: Array) -> Metrics:
    with np.errstate(all="ignore"):
        a, g = _parts(found), _parts(golden)
        equal = (a == g) | (np.isnan(a) & np.isnan(g))
        finite = np.isfinite(a) & np.isfinite(g)
        wrong = ~finite & ~equal
        sizes = _sizes(a[finite], g[finite], _epsilon(golden))
        ulps = _ulps(found, golden, finite) if _is_float(golden) else {}
        error = np.where(finite, np.abs(a - g), 0.0)
    worst = _first(error == error.max()) if error.size and error.max() > 0 else None
    counts = Metrics(
        dtype=golden.dtype.name,
        shape=golden.shape,
        elements=int(finite.sum()),
        mismatches=float(1.0 - equal.mean()) if equal.size else 0.0,
        worst=worst,
        not_finite=int((~np.isfinite(g)).sum()),
        not_finite_mismatches=int(wrong.sum()),
        first_not_finite=_first(wrong),
    )
    return msgspec.structs.replace(counts, **sizes, **ulps)


def _epsilon(golden: Array) -> float:
    if golden.dtype.kind == "f" and golden.dtype.isbuiltin == 1:  # float8_e5m2 has that kind, too
        return float(np.finfo(golden.dtype).eps)
    if not _is_float(golden):
        return 0.0
    import ml_dtypes

    return float(ml_dtypes.finfo(golden.dtype).eps)  # type: ignore[no-untyped-call]


def _sizes(a: Wide, g: Wide, epsilon: float) -> dict[str, float]:
    """Return the metrics of finite numbers; scaled first, so that squares do not overflow."""
    if not g.size:
        return {}
    largest = float(np.abs(g).max())
    scale = _power_of_two(max(largest, float(np.abs(a).max())))
    a_unit, g_unit = a / scale, g / scale
    error = np.abs(a_unit - g_unit)
    floor = max(epsilon * largest / scale, np.finfo(np.float64).tiny)
    relative = error / np.maximum(np.abs(g_unit), floor)
    norm_a, norm_g = _norm(a_unit), _norm(g_unit)
    return {
        "cosine": _cosine(a_unit, g_unit, norm_a, norm_g),
        "max_abs": float(error.max()) * scale,
        "mean_abs": float(error.mean()) * scale,
        "max_scaled": _ratio(float(error.max()) * scale, largest),
        "max_relative": float(relative.max()),
        "mean_relative": float(relative.mean()),
        "accumulated_relative": _ratio(float(error.sum()), float(np.abs(g_unit).sum())),
        "rmse": math.sqrt(float(np.square(error).mean())) * scale,
        "relative_euclidean": _ratio(_norm(error), norm_g),
        "kl": _divergence(a, g),
    }


def _norm(x: Wide) -> float:
    """Return the length of a vector, without a library whose threads wait for each other.

    On a machine that others use OpenBLAS took 40 ms for 100,000 numbers, most of ``--per-layer``.
    """
    return math.sqrt(float(np.square(x).sum()))


def _power_of_two(number: float) -> float:
    """Return the largest power of two that is not above a number; dividing by it is exact."""
    return math.ldexp(1.0, math.frexp(number)[1] - 1) if number else 1.0


def _ratio(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return part / whole if whole else math.inf


def _cosine(a: Wide, g: Wide, norm_a: float, norm_g: float) -> float:
    if norm_a == 0 or norm_g == 0:
        return 1.0 if norm_a == norm_g else 0.0
    return min(1.0, float((a / norm_a * (g / norm_g)).sum()))


def _divergence(a: Wide, g: Wide) -> float:
    log_a, log_g = _log_softmax(a), _log_softmax(g)
    return max(0.0, float((np.exp(log_g) * (log_g - log_a)).sum()))


def _log_softmax(x: Wide) -> Wide:
    shifted = x - x.max()
    result: Wide = shifted - np.log(np.exp(shifted).sum())
    return result


def _ulps(found: Array, golden: Array, finite: Array) -> dict[str, float]:
    """Return distances counted in numbers of the golden array's type."""
    bits = golden.dtype.itemsize * 8
    if not finite.any() or bits not in _FLOAT_BITS:
        return {}
    ours = np.asarray(found[finite]).astype(golden.dtype)
    (sign_a, size_a), (sign_g, size_g) = _bits(ours, bits), _bits(golden[finite], bits)
    apart = size_a.astype(np.float64) + size_g.astype(np.float64)
    steps = np.where(sign_a == sign_g, np.abs(size_a - size_g).astype(np.float64), apart)
    return {"max_ulp": float(steps.max()), "mean_ulp": float(steps.mean())}


def _bits(array: Array, bits: int) -> tuple[Array, Array]:
    """Split floats into sign and the number of floats between them and zero."""
    pattern = np.ascontiguousarray(array).view(_FLOAT_BITS[bits]).astype(np.int64)
    return pattern < 0, pattern & ((1 << (bits - 1)) - 1)
