"""How many rewrites of a kind lowering may still make: switches, and limits for bisection."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Rewrites(msgspec.Struct):
    """Counts the rewrites of kernels, by the name that switches them.

    Attributes:
        left: how many may still be made, by name; ``None`` is any number, a missing name none.
    """

    left: dict[str, int | None] = msgspec.field(default_factory=dict)

    def any_left(self, name: str) -> bool:
        """Tell whether one more rewrite may be made, without counting it."""
        return self.left.get(name, 0) != 0

    def take(self, name: str) -> bool:
        """Tell whether one more rewrite may be made, and count it."""
        left = self.left.get(name, 0)
        if left:
            self.left[name] = left - 1
        return left is None or left > 0


def rewrites_within(limits: Mapping[str, int | None]) -> Rewrites:
    """Return a count that begins at limits, one for each name."""
    return Rewrites(dict(limits))
