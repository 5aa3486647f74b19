"""Inputs and outputs of models that take sequences, optionals or texts besides arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from whet.dtypes import DTYPES, numpy_dtype
from whet.errors import ArtifactError, InputError
from whet.runtime.arrays import Array, Port, check_names, check_port
from whet.runtime.elements import Elements

TEXT = "string"


def is_array(dtype: str) -> bool:
    """Tell whether a type in a manifest is that of plain arrays."""
    return dtype in DTYPES


def collect_items(ports: Sequence[Port], inputs: Mapping[str, Any]) -> list[Any]:
    """Return the inputs in order: arrays as native code takes them, and sequences of such.

    Raises:
        InputError: a name is missing or unknown, or a value is not of its type.
    """
    check_names(ports, inputs)
    return [
        check_port(inputs[port.name], port)
        if is_array(port.spec.dtype)
        else _checked(inputs[port.name], port.spec.dtype, f"input {port.name!r}")
        for port in ports
    ]


def _checked(value: Any, kind: str, where: str) -> Any:
    if kind == "?":
        return value
    if is_array(kind):
        return _array(value, kind, where)
    outer, _, inner = kind.partition("(")
    inner = inner.removesuffix(")")
    if outer == "optional":
        return None if value is None else _checked(value, inner, where)
    if kind == TEXT:
        return as_texts(value, where)
    if outer != "sequence":
        raise ArtifactError(f"the model has a value of the unknown type {kind}", where=where)
    if not isinstance(value, list | tuple):
        text = f"{type(value).__name__} is not a sequence of arrays"
        raise InputError(text, where=where, hint="give a list of arrays")
    return Elements([_checked(element, inner, where) for element in value])


def _array(value: Any, kind: str, where: str) -> Array:
    array = np.asarray(value)
    dtype = numpy_dtype(kind)
    if array.dtype.newbyteorder("=") != dtype:
        raise InputError(f"dtype is {array.dtype}, the model takes {dtype}", where=where)
    return np.array(array, dtype=dtype, order="C")


def as_texts(value: Any, where: str) -> Array:
    """Return an array of Python texts.

    Raises:
        InputError: something in it is no text.
    """
    array = np.asarray(value, dtype=object)
    flat = [v.decode() if isinstance(v, bytes) else v for v in array.reshape(-1)]
    if not all(isinstance(v, str) for v in flat):
        raise InputError("not all elements are texts", where=where)
    found = np.empty(len(flat), dtype=object)
    found[:] = [str(v) for v in flat]
    return found.reshape(array.shape)
