"""How many rewrites of a kind lowering may still make: switches, and limits for bisection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Rewrites:
    """Counts the rewrites of kernels, by the name that switches them.

    Attributes:
        left: how many may still be made; a name that is not there has no limit.
    """

    left: dict[str, int] = field(default_factory=dict)

    def take(self, name: str) -> bool:
        """Tell whether one more rewrite may be made, and count it."""
        left = self.left.get(name)
        if left is None:
            return True
        self.left[name] = max(left - 1, 0)
        return left > 0


def rewrites_within(limits: Mapping[str, int | None]) -> Rewrites:
    """Return a count within limits; ``None`` is no limit."""
    return Rewrites({name: most for name, most in limits.items() if most is not None})
