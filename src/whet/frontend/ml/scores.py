"""What classifiers and regressors do with raw scores: transforms and labels."""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from whet.frontend.translation import Array, Translation

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")

_ZERO = 1e-7
"""Scores nearer to 0 than this count as 0 in SOFTMAX_ZERO."""

_WINITZKI = 0.147
"""The constant of Winitzki's approximation of the inverse error function."""


def transformed(t: Translation, scores: ir.Value, name: str) -> ir.Value:
    """Apply a post transform to scores of shape ``(rows, classes)``.

    Raises:
        UnsupportedError: the name is not known.
    """
    if name == "NONE":
        return scores
    if name == "SOFTMAX":
        return t.op("Softmax", scores, axis=-1)
    if name == "LOGISTIC":
        return t.op("Sigmoid", scores)
    if name == "SOFTMAX_ZERO":
        return _softmax_zero(t, scores)
    if name == "PROBIT":
        return _probit(t, scores)
    raise t.refuse(f"post_transform={name} is not known")


def _softmax_zero(t: Translation, scores: ir.Value) -> ir.Value:
    """Softmax in which 0 stays 0: ``z e^-max / sum`` instead of ``e^(z - max) / sum``."""
    axis = np.array([1], np.int64)
    top = t.op("ReduceMax", scores, axis)
    far = t.op("Greater", t.op("Abs", scores), t.scalar(_ZERO, scores))
    raised = t.op("Exp", t.op("Sub", scores, top))
    small = t.op("Mul", scores, t.op("Exp", t.op("Neg", top)))
    parts = t.op("Where", far, raised, small)
    total = t.op("ReduceSum", parts, axis)
    empty = t.op("Equal", total, t.scalar(0.0, total))
    return t.op("Where", empty, t.scalar(0.5, scores), t.op("Div", parts, total))


def _probit(t: Translation, scores: ir.Value) -> ir.Value:
    """Return ``sqrt(2) erfinv(2 p - 1)`` by Winitzki's formula, as ONNX Runtime computes it."""
    x = t.op("Sub", t.op("Mul", scores, t.scalar(2.0, scores)), t.scalar(1.0, scores))
    inside = t.op("Sub", t.scalar(1.0, scores), t.op("Mul", x, x))
    log = t.op("Log", inside)
    half = t.op("Mul", log, t.scalar(0.5, scores))
    v = t.op("Add", half, t.scalar(2.0 / (math.pi * _WINITZKI), scores))
    scaled = t.op("Mul", log, t.scalar(1.0 / _WINITZKI, scores))
    root = t.op("Sqrt", t.op("Sub", t.op("Mul", v, v), scaled))
    size = t.op("Sqrt", t.op("Sub", root, v))
    signed = t.op("Mul", t.op("Sign", x), t.op("Mul", size, t.scalar(1.41421356, scores)))
    return t.op("Where", t.op("Equal", inside, t.scalar(0.0, x)), t.scalar(0.0, x), signed)


def take_labels(t: Translation, integers: str) -> Array:
    """Return the class labels; numbers stand for strings that nothing reads.

    Raises:
        UnsupportedError: they are strings that are read, or missing.
    """
    numbers, strings = t.take(integers, ()), t.take("classlabels_strings", ())
    if numbers:
        return np.array(numbers, np.int64)
    if not strings:
        raise t.refuse("class labels are missing")
    if t.wants(0):
        raise t.refuse("labels that are strings are not numeric", "use the scores alone")
    return np.arange(len(strings), dtype=np.int64)


def label_of_best(t: Translation, scores: ir.Value, labels: Array) -> ir.Value:
    """Return the label of the highest score of each row."""
    return t.op("Gather", labels, t.op("ArgMax", scores, axis=1, keepdims=0))


def label_if_above(t: Translation, score: ir.Value, limit: float, labels: Array) -> ir.Value:
    """Return the second label where a score ``(rows, 1)`` is above a limit, else the first."""
    above = t.op("Greater", t.op("Squeeze", score, np.array([1])), t.scalar(limit, score))
    return t.op("Where", above, labels[1], labels[0])


def with_opposite(t: Translation, score: ir.Value, name: str) -> ir.Value:
    """Return transformed scores ``(-s, s)`` of the two classes that one score ``s`` decides."""
    pair = t.op("Concat", t.op("Neg", score), score, axis=1)
    return transformed(t, pair, name)


def floats(t: Translation, x: ir.Value) -> ir.Value:
    """Return numbers as float32, or float64 if they are that."""
    return x if t.dtype(x) == ir.DataType.DOUBLE else t.cast(x, ir.DataType.FLOAT)
