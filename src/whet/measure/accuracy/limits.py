"""What counts as accurate: limits by metric, defaults by element type, and breaches of them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from whet.errors import OptionError, nearest
from whet.measure.accuracy.metrics import Metrics

AT_LEAST = frozenset({"cosine"})
"""Metrics that must not fall below their limit; all others must not exceed it."""

LIMITED = (
    "mismatches",
    "cosine",
    "max_abs",
    "mean_abs",
    "max_scaled",
    "max_relative",
    "mean_relative",
    "accumulated_relative",
    "rmse",
    "relative_euclidean",
    "kl",
    "max_ulp",
    "mean_ulp",
    "not_finite_mismatches",
)

Limits = Mapping[str, float]

_EXACT: Limits = {"mismatches": 0.0}
# Sums in another order change float32 results of deep networks by 1e-5 to 1e-4 of the largest
# value (ResNet-50 and BERT against ONNX Runtime); an algorithmic fault moves single elements by
# far more than 1e-3. Half types have 2^-11 and 2^-8 for one rounding.
_SINGLE: Limits = {"cosine": 0.9999, "relative_euclidean": 1e-3, "max_scaled": 1e-3}
_DEFAULTS: dict[str, Limits] = {
    "float64": _SINGLE,
    "float32": _SINGLE,
    "float16": {"cosine": 0.999, "relative_euclidean": 1e-2, "max_scaled": 1e-2},
    "bfloat16": {"cosine": 0.99, "relative_euclidean": 5e-2, "max_scaled": 5e-2},
    "complex64": _SINGLE,
    "complex128": _SINGLE,
}

PRESETS: dict[str, Limits] = {
    "ascend": {
        "cosine": 0.99,
        "relative_euclidean": 0.05,
        "kl": 0.005,
        "rmse": 1.0,
        "mean_relative": 1.0,
    },
    "exact": _EXACT,
}
"""Named sets; ``ascend`` holds the limits of Ascend's comparison tools."""


class Breach(msgspec.Struct, frozen=True, kw_only=True):
    """One metric beyond its limit."""

    metric: str
    value: float | None
    limit: float | None


def limits_for(dtype: str, given: Limits | None = None) -> Limits:
    """Return the limits for an element type: those given, or the defaults of the type.

    Types without a default (integers, bool, strings, floats below 16 bits) have to be equal.
    Elements that are not finite always have to agree.
    """
    chosen = given if given else _DEFAULTS.get(dtype, _EXACT)
    return {"not_finite_mismatches": 0.0, **chosen}


def find_breaches(metrics: Metrics, given: Limits | None = None) -> tuple[Breach, ...]:
    """Return every metric beyond its limit.

    A figure that is NaN, or that a limit asks for and the type does not have, is a breach.
    """
    if metrics.problem:
        return (Breach(metric="comparable", value=0.0, limit=1.0),)
    found = []
    for name, limit in limits_for(metrics.dtype, given).items():
        value: float | None = getattr(metrics, name)
        if value is None and name in ("max_ulp", "mean_ulp") and not metrics.elements:
            continue
        if value is None or not _within(name, value, limit):
            found.append(Breach(metric=name, value=value, limit=limit))
    return tuple(found)


def _within(name: str, value: float, limit: float) -> bool:
    return value >= limit if name in AT_LEAST else value <= limit


def parse_limits(texts: tuple[str, ...]) -> Limits | None:
    """Read ``cosine=0.999`` and names of presets; ``None`` if there are none.

    Raises:
        OptionError: a name or a number is not valid.
    """
    chosen: dict[str, float] = {}
    for text in texts:
        name, equals, number = text.partition("=")
        if not equals:
            if name not in PRESETS:
                hint = nearest(name, PRESETS)
                raise OptionError(f"there are no limits called {name!r}", hint=hint)
            chosen |= PRESETS[name]
            continue
        if name not in LIMITED:
            raise OptionError(f"there is no metric {name!r}", hint=nearest(name, LIMITED))
        try:
            chosen[name] = float(number)
        except ValueError:
            raise OptionError(
                f"{number!r} is not a number", where=text, hint="such as cosine=0.999"
            ) from None
    return chosen or None
