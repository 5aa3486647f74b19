"""Buckets: several shapes of an input, each of which gets a program of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from whet.errors import ShapeError

Shape = tuple[int | str, ...]
Shapes = dict[str, Shape]


def split_buckets(shapes: Mapping[str, Any] | None) -> tuple[Shapes | None, list[Shapes]]:
    """Return the shapes that always hold, and one set of shapes for each bucket.

    An input with buckets has a list of shapes. Several such lists go together, the first with the
    first and so on. What the model leaves open stays open outside of the buckets.

    Raises:
        ShapeError: lists are of different lengths.
    """
    if not isinstance(shapes, Mapping):
        return shapes, []
    lists = {name: given for name, given in shapes.items() if isinstance(given, list) and given}
    if not lists or not all(_is_bucket(shape) for given in lists.values() for shape in given):
        return dict(shapes), []
    lengths = {len(given) for given in lists.values()}
    if len(lengths) != 1:
        counts = ", ".join(f"{name} has {len(given)}" for name, given in lists.items())
        raise ShapeError(
            f"buckets do not go together: {counts}",
            where="shapes",
            hint="give every input that has buckets the same number of shapes",
        )
    fixed = {name: given for name, given in shapes.items() if name not in lists}
    count = lengths.pop()
    return fixed, [fixed | {name: lists[name][k] for name in lists} for k in range(count)]


def _is_bucket(shape: object) -> bool:
    return isinstance(shape, Sequence) and not isinstance(shape, str)
