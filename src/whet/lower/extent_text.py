"""How a run-time extent reads: ``(H+1)//2``, as one would write it in Python, not as in a key."""

from __future__ import annotations

from whet.index import Atom, Poly
from whet.index.atoms import Div, Mod, show


def extent_text(extent: Poly) -> str:
    """Return a polynomial with what is added as a number at the end."""
    text = ""
    for atoms, factor in sorted(extent.terms, key=lambda term: (not term[0], term[1] < 0)):
        number = [str(abs(factor))] if abs(factor) != 1 or not atoms else []
        alone = len(atoms) == 1 and factor == 1
        sign = "-" if factor < 0 else "+" if text else ""
        text += sign + "*".join([*number, *(_atom_text(atom, alone=alone) for atom in atoms)])
    return text or "0"


def _atom_text(atom: Atom, *, alone: bool) -> str:
    """Return an atom; a quotient in a product, or with a sign in front, is in parentheses."""
    if not isinstance(atom, Div | Mod):
        return show(atom)
    sign = "//" if isinstance(atom, Div) else "%"
    text = f"{_operand_text(atom.numerator)}{sign}{_operand_text(atom.denominator)}"
    return text if alone else f"({text})"


def _operand_text(operand: Poly) -> str:
    """Return an operand of a division, in parentheses unless it is a name or a number."""
    text = extent_text(operand)
    return text if text.isalnum() else f"({text})"
