"""Several translations of one model as one outline that takes the one made for a run's shapes."""

from __future__ import annotations

from collections.abc import Sequence

from whet.kernel.tensor import Tensor
from whet.lower.outline import Control, Held, Item, Outline


def choose_by_shape(outlines: Sequence[Outline]) -> Outline:
    """Return an outline that runs the first for any shapes, and each other for its inputs' shapes.

    The script chooses; native code and weights that are equal in several become one later.
    """
    inputs: list[Item] = list(outlines[0].inputs)
    outputs = [(name, _result(name, item)) for name, item in outlines[0].outputs]
    choice = Control(
        "pick",
        tuple(inputs),
        tuple(item for _, item in outputs),
        "shapes",
        blocks=tuple(outlines),
        when=tuple(tuple(map(_extents, other.inputs)) for other in outlines[1:]),
    )
    return Outline(inputs, outputs, [choice])


def _result(name: str, item: Item) -> Item:
    if isinstance(item, Held):
        return Held(name, item.kind, item.element)
    return Tensor(name, item.shape, item.dtype)


def _extents(item: Item) -> tuple[int, ...]:
    """Return the shape of an input, -1 where it is open; what the script holds has none."""
    if isinstance(item, Held):
        return ()
    return tuple(-1 if e.constant is None else e.constant for e in item.shape)
