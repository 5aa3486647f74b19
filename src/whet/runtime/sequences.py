"""Functions of the script on sequences, and on optionals, which may be ``None``."""

from __future__ import annotations

from typing import Any

import numpy as np

from whet.errors import ShapeError
from whet.program.script import Call
from whet.runtime.elements import Elements

Values = list[Any]


def construct(step: Call, inputs: Values) -> Values:
    """Return a sequence of the inputs."""
    return [Elements(list(inputs))]


def empty(step: Call, inputs: Values) -> Values:
    """Return a sequence of nothing."""
    return [Elements([])]


def at(step: Call, inputs: Values) -> Values:
    """Return one element."""
    sequence, position = inputs
    return [sequence.at(_position(step, position, len(sequence) - 1, len(sequence)))]


def insert(step: Call, inputs: Values) -> Values:
    """Return a sequence with one more element, at a position or at the end."""
    sequence, element = inputs[0], inputs[1]
    given = inputs[2] if len(inputs) > 2 else None
    size = len(sequence)
    place = size if given is None else _position(step, given, size, size)
    if place == size:
        return [sequence.grown(element)]
    longer = sequence.copied()
    longer.insert(place, element)
    return [Elements(longer)]


def erase(step: Call, inputs: Values) -> Values:
    """Return a sequence without one element: that at a position, or the last."""
    sequence = inputs[0].copied()
    given = inputs[1] if len(inputs) > 1 else None
    if not sequence:
        raise ShapeError("there is nothing to erase", where=step.where)
    size = len(sequence)
    del sequence[-1 if given is None else _position(step, given, size - 1, size)]
    return [Elements(sequence)]


def length(step: Call, inputs: Values) -> Values:
    """Return the number of elements."""
    return [np.array(len(inputs[0]), np.int64)]


def concatenate(step: Call, inputs: Values) -> Values:
    """Return all elements as one array, along an old or a new axis."""
    settings = dict(step.settings)
    elements = inputs[0].copied()
    if not elements:
        raise ShapeError("an empty sequence has no shape to put together", where=step.where)
    join = np.stack if settings["new_axis"] else np.concatenate
    try:
        return [join(elements, axis=int(str(settings["axis"])))]
    except ValueError as error:
        raise ShapeError(f"arrays do not go together: {error}", where=step.where) from error


def split(step: Call, inputs: Values) -> Values:
    """Return parts of an array: of given sizes, of one size, or single slices."""
    settings = dict(step.settings)
    array, axis = inputs[0], int(str(settings["axis"]))
    sizes = inputs[1] if len(inputs) > 1 else None
    size = array.shape[axis]
    if sizes is None:
        cuts = list(range(1, size))
    elif sizes.ndim == 0:
        if int(sizes) <= 0:
            raise ShapeError(f"parts of size {int(sizes)}", where=step.where)
        cuts = list(range(int(sizes), size, int(sizes)))
    else:
        if int(sizes.sum()) != size or (sizes < 0).any():
            text = f"parts of {sizes.tolist()} do not make up {size}"
            raise ShapeError(text, where=step.where)
        cuts = np.cumsum(sizes)[:-1].tolist()
    parts = np.split(array, cuts, axis=axis) if size or sizes is not None else []
    if not settings["keepdims"]:
        parts = [part.squeeze(axis) for part in parts]
    return [Elements([np.array(part, order="C") for part in parts])]


def optional(step: Call, inputs: Values) -> Values:
    """Return the value that was given, or nothing."""
    return [inputs[0] if inputs else None]


def has_element(step: Call, inputs: Values) -> Values:
    """Return whether an optional holds something."""
    return [np.array(inputs[0] is not None)]


def get_element(step: Call, inputs: Values) -> Values:
    """Return what an optional holds."""
    if inputs[0] is None:
        raise ShapeError("the optional is empty", where=step.where)
    return [inputs[0]]


def _position(step: Call, given: Any, last: int, size: int) -> int:
    """Return a position counted from the front, from one that may count from the end."""
    place = int(given.reshape(-1)[0]) if given.size == 1 else size + 1
    front = place + size if place < 0 else place
    if not 0 <= front <= last:
        raise ShapeError(f"there is no position {place} in {size} elements", where=step.where)
    return front
