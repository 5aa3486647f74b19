"""Polynomials in a manifest: sizes and counts that depend on run-time dimensions."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from whet.index import ZERO, Atom, Dim, Div, Mod, Poly, as_poly, product, var


def to_json(p: Poly) -> Any:
    """Encode a polynomial over dimensions for a manifest; integers stay integers."""
    constant = p.constant
    if constant is not None:
        return constant
    return [[c, [_atom_to_json(a) for a in m]] for m, c in p.terms]


def from_json(data: Any) -> Poly:
    """Decode what ``to_json`` wrote."""
    if isinstance(data, int):
        return _number(data)
    total = ZERO
    for c, atoms in data:
        total = total + product([c, *(_atom_from_json(a) for a in atoms)])
    return total


@lru_cache(maxsize=1024)
def _number(value: int) -> Poly:
    """Return a number as a polynomial, the same object again: a program repeats its sizes."""
    return as_poly(value)


def _atom_to_json(atom: Atom) -> Any:
    if isinstance(atom, Dim):
        return atom.name if atom.least == 1 else ["dim", atom.name, atom.least]
    if isinstance(atom, Div | Mod):
        sign = "//" if isinstance(atom, Div) else "%"
        return [sign, to_json(atom.numerator), to_json(atom.denominator)]
    raise TypeError(f"{type(atom).__name__} does not belong in a manifest")


def _atom_from_json(data: Any) -> Poly:
    if isinstance(data, str):
        return var(Dim(data))
    sign, numerator, denominator = data
    if sign == "dim":
        return var(Dim(numerator, denominator))
    top, bottom = from_json(numerator), from_json(denominator)
    return top // bottom if sign == "//" else top % bottom
