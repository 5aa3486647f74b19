"""What index polynomials are made of: axes, run-time dimensions, and what cannot be simplified."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from whet.index.poly import Poly


class Axis(msgspec.Struct, frozen=True):
    """A loop variable, ``0 <= axis < extent``."""

    name: str
    extent: Poly

    @property
    def key(self) -> str:
        """Sort key, unique by content."""
        return f"a.{self.name}"


class Dim(msgspec.Struct, frozen=True):
    """A dimension known only at run time.

    Attributes:
        name: its name, unique in a model.
        least: the smallest value that arithmetic may count on: 1 for a dimension of the model's
            inputs, 0 for one that depends on data.
        counted_on: takes the names of the dimensions of which something was proved that does not
            hold for 0; a run with 0 there is refused. It does not tell dimensions apart.
    """

    name: str
    least: int = 1
    counted_on: set[str] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and (self.name, self.least) == (other.name, other.least)

    def __hash__(self) -> int:
        return hash((self.name, self.least))

    def __repr__(self) -> str:
        return f"Dim(name={self.name!r}, least={self.least!r})"

    @property
    def key(self) -> str:
        """Sort key, unique by content."""
        return f"d.{self.name}"


class Div(msgspec.Struct, frozen=True, dict=True):
    """Floor division that could not be simplified."""

    numerator: Poly
    denominator: Poly

    @cached_property
    def key(self) -> str:
        """Sort key, unique by content."""
        return f"q.({self.numerator})//({self.denominator})"


class Mod(msgspec.Struct, frozen=True, dict=True):
    """Remainder, of the sign of the denominator, that could not be simplified."""

    numerator: Poly
    denominator: Poly

    @cached_property
    def key(self) -> str:
        """Sort key, unique by content."""
        return f"r.({self.numerator})%({self.denominator})"


class Opaque(msgspec.Struct, frozen=True, dict=True):
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
