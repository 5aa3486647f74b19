"""Sequences of a script. They are values: whatever grows from one leaves it as it was."""

from __future__ import annotations

from typing import Any


class Elements:
    """A sequence. Those that grow at the end, one from another, share one list.

    A loop that fills a sequence would take time with the square of its trips if each of them
    copied it: 80,000 took 10.8 s instead of 2. The last of those that share a list owns its end;
    what grows from another one is a copy.

    Args:
        shared: the elements; the sequence takes the list over.
    """

    __slots__ = ("_shared", "_size")

    def __init__(self, shared: list[Any]) -> None:
        self._shared = shared
        self._size = len(shared)

    def __len__(self) -> int:
        return self._size

    def at(self, position: int) -> Any:
        """Return an element; the position counts from the front and is one that there is."""
        return self._shared[position]

    def grown(self, element: Any) -> Elements:
        """Return the sequence with one more element at the end."""
        longer = self._shared if self._size == len(self._shared) else self.copied()
        longer.append(element)
        return Elements(longer)

    def copied(self) -> list[Any]:
        """Return the elements in a list of their own."""
        return self._shared[: self._size]


def as_plain(value: Any) -> Any:
    """Return a value as the caller of a model gets it: sequences are lists."""
    if not isinstance(value, Elements):
        return value
    return [as_plain(element) for element in value.copied()]
