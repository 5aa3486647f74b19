"""Functions of the script between texts and numbers: conversion and tables of labels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from whet.dtypes import numpy_dtype
from whet.errors import InputError
from whet.program.script import Call

Values = list[Any]


def to_numbers(step: Call, inputs: Values) -> Values:
    """Return the numbers that texts spell: ``3.14``, ``1e-5``, ``-INF``, ``NaN``.

    Raises:
        InputError: a text spells no number of the type.
    """
    dtype = numpy_dtype(str(dict(step.settings)["to"]))
    texts = inputs[0].reshape(-1).tolist()
    found = np.zeros(len(texts), dtype)
    for k, text in enumerate(texts):
        try:
            found[k] = _number(text, dtype)
        except (ValueError, OverflowError):
            raise InputError(
                f"{text[:40]!r} is no number of type {dtype.name}", where=step.where
            ) from None
    return [found.reshape(inputs[0].shape)]


def _number(text: str, dtype: np.dtype[Any]) -> int | float:
    if "_" in text:
        raise ValueError("Python's way to group digits is no number here")
    if dtype.kind not in "iub":
        return float(text)
    try:
        whole = int(text)
    except ValueError:
        whole = int(float(text))
    if dtype.kind != "b" and not np.iinfo(dtype).min <= whole <= np.iinfo(dtype).max:
        raise OverflowError("out of range")
    return whole


def to_texts(step: Call, inputs: Values) -> Values:
    """Return numbers as texts, floats in as few plain digits as tell them from others."""
    array = np.asarray(inputs[0])
    return [_texts([_spelled(v) for v in array.reshape(-1)], array.shape)]


def _spelled(value: Any) -> str:
    if isinstance(value, np.bool_):
        return "1" if value else "0"
    if isinstance(value, np.integer):
        return str(int(value))
    number = float(value)
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "INF" if number > 0 else "-INF"
    exact = value if isinstance(value, np.floating) else np.float32(value)
    return np.format_float_positional(exact, unique=True, trim="-")


def labels(step: Call, inputs: Values) -> Values:
    """Return what a table has for every element, or a default; a repeated key counts as its last.

    The settings hold ``keys``, ``values`` and ``default``, and the type of the ``result``.
    """
    settings: dict[str, Any] = dict(step.settings)
    keys, values, default = settings["keys"], settings["values"], settings["default"]
    table = dict(zip(keys, values, strict=True))
    unknown = next((v for k, v in zip(keys, values, strict=True) if _is_nan(k)), default)
    array = inputs[0]
    found = [
        unknown if _is_nan(key) else table.get(key, default) for key in array.reshape(-1).tolist()
    ]
    if settings["result"] == "string":
        return [_texts(found, array.shape)]
    return [np.array(found, numpy_dtype(str(settings["result"]))).reshape(array.shape)]


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _texts(texts: list[str], shape: tuple[int, ...]) -> Any:
    found = np.empty(len(texts), dtype=object)
    found[:] = texts
    return found.reshape(shape)
