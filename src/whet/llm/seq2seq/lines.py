"""The sequences of an encoder–decoder that run together, as the arrays that a step takes.

Keys and values of a sequence's tokens begin at the first place of its row, and what is behind its
own is hidden: sums over places are made in the same order whatever runs beside it, and what is
hidden adds exactly 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from whet.llm.architecture import Array

HIDDEN = np.float32(-1e30)
"""Added to the scores of what a sequence does not see."""
ROOM = 32
"""Places are added so many at a time: a program plans its memory once for each number of them."""


@dataclass(slots=True)
class Lines:
    """Sequences that run.

    Attributes:
        numbers: of the requests.
        lengths: tokens of each that were computed.
        crossed: what the decoder attends to of the sources, [line, place, width], by name.
        hidden: 0 where a source has a place, else ``HIDDEN``: [line, 1, 1, place].
        past: keys and values of the tokens so far, [line, place, width], by name.
    """

    numbers: list[int] = field(default_factory=list)
    lengths: list[int] = field(default_factory=list)
    crossed: dict[str, Array] = field(default_factory=dict)
    hidden: Array = field(default_factory=lambda: np.zeros((0, 1, 1, 0), np.float32))
    past: dict[str, Array] = field(default_factory=dict)

    @property
    def places(self) -> int:
        """Places of the cache of each line."""
        return next(iter(self.past.values())).shape[1] if self.past else 0

    def join(self, numbers: Sequence[int], crossed: Mapping[str, Array], hidden: Array) -> None:
        """Add sequences that have no tokens yet."""
        place = max(hidden.shape[3], self.hidden.shape[3] if self.numbers else 0)
        if self.numbers:
            both = (_wider(self.hidden, 3, place, HIDDEN), _wider(hidden, 3, place, HIDDEN))
            self.hidden = np.concatenate(both)
        else:
            self.hidden = hidden
        for name, new in crossed.items():
            parts = [self.crossed[name]] if self.numbers else []
            self.crossed[name] = np.concatenate([_wider(a, 1, place, 0) for a in (*parts, new)])
        self.numbers += numbers
        self.lengths += [0] * len(numbers)
        self.past = {
            name: np.concatenate([old, np.zeros((len(numbers), *old.shape[1:]), np.float32)])
            for name, old in self.past.items()
        }

    def leave(self, ended: frozenset[int]) -> None:
        """Drop sequences."""
        rows = [k for k, number in enumerate(self.numbers) if number not in ended]
        if len(rows) < len(self.numbers):
            self.take(rows)

    def take(self, rows: Sequence[int]) -> None:
        """Go on with these lines, in this order; one may come several times."""
        rows = list(rows)
        self.numbers = [self.numbers[k] for k in rows]
        self.lengths = [self.lengths[k] for k in rows]
        self.hidden = self.hidden[rows]
        self.crossed = {name: array[rows] for name, array in self.crossed.items()}
        self.past = {name: array[rows] for name, array in self.past.items()}

    def prepared(self, names: Sequence[str], width: int) -> None:
        """Make room for one token more of every line; ``names`` are those of the cache."""
        wanted = -(-(max(self.lengths) + 1) // ROOM) * ROOM
        for name in names:
            old = self.past.get(name)
            if old is None or not len(old):
                old = np.zeros((len(self.numbers), 0, width), np.float32)
            if old.shape[1] < wanted:
                old = _wider(old, 1, wanted, 0)
            self.past[name] = old

    def store(self, new: Mapping[str, Array]) -> None:
        """Put the keys and values of one token of every line, [line, 1, width], in their places."""
        rows = np.arange(len(self.numbers))
        for name, array in new.items():
            self.past[name][rows, self.lengths] = array[:, 0]
        self.lengths = [length + 1 for length in self.lengths]


def _wider(array: Array, axis: int, size: int, value: float | np.float32) -> Array:
    """Return an array with ``value`` behind the end of an axis."""
    if array.shape[axis] == size:
        return array
    pads = [(0, 0)] * array.ndim
    pads[axis] = (0, size - array.shape[axis])
    return np.pad(array, pads, constant_values=value)
