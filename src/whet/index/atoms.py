"""What index polynomials are made of: axes, run-time dimensions, and what cannot be simplified."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whet.index.poly import Poly


@dataclass(frozen=True, slots=True)
class Axis:
    """A loop variable, ``0 <= axis < extent``."""

    name: str
    extent: Poly

    @property
    def key(self) -> str:
        """Sort key, unique by content."""
        return f"a.{self.name}"


@dataclass(frozen=True, slots=True)
class Dim:
    """A dimension known only at run time.

    Attributes:
        name: its name, unique in a model.
        least: the smallest value that arithmetic may count on: 1 for a dimension of the model's
            inputs, 0 for one that depends on data.
        counted_on: takes the names of the dimensions of which something was proved that does not
            hold for 0; a run with 0 there is refused.
    """

    name: str
    least: int = 1
    counted_on: set[str] | None = field(default=None, compare=False, repr=False)

    @property
    def key(self) -> str:
        """Sort key, unique by content."""
        return f"d.{self.name}"


@dataclass(frozen=True)
class Div:
    """Floor division that could not be simplified."""

    numerator: Poly
    denominator: Poly

    @cached_property
    def key(self) -> str:
        """Sort key, unique by content."""
        return f"q.({self.numerator})//({self.denominator})"


@dataclass(frozen=True)
class Mod:
    """Remainder, of the sign of the denominator, that could not be simplified."""

    numerator: Poly
    denominator: Poly

    @cached_property
    def key(self) -> str:
        """Sort key, unique by content."""
        return f"r.({self.numerator})%({self.denominator})"


@dataclass(frozen=True)
class Opaque:
    """An index read from data, such as the row of a Gather; ``expr`` belongs to the caller."""

    expr: Any
    low: int | None = None
    high: Poly | None = None

    @cached_property
    def key(self) -> str:
        """Sort key, unique by content."""
        return f"x.{self.expr!r}"


Atom = Axis | Dim | Div | Mod | Opaque


def show(atom: Atom) -> str:
    """Return an atom as it is printed."""
    return atom.name if isinstance(atom, Axis | Dim) else atom.key


def mentions(atom: Atom, inner: Atom) -> bool:
    """Tell whether an atom has another one inside."""
    if isinstance(atom, Div | Mod):
        return inner in atom.numerator.atoms or inner in atom.denominator.atoms
    if isinstance(atom, Opaque):
        depends: Callable[[Atom], bool] | None = getattr(atom.expr, "depends_on", None)
        return bool(depends and depends(inner))
    return False
