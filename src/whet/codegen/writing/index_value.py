"""Index polynomials to instructions, on scalars or vectors of 64-bit integers."""

from __future__ import annotations

from collections.abc import Callable

from whet.codegen.writing.builder import I64, Builder, Value, const, i64, lanes
from whet.index import Atom, Div, Mod, Poly, proved

AtomValue = Callable[[Atom], Value]


def index_value(b: Builder, p: Poly, atom_value: AtomValue) -> Value:
    """Write a polynomial; ``atom_value`` gives every atom but divisions and remainders."""
    total: Value | None = None
    for monomial, c in p.terms:
        term: Value | None = None
        for atom in monomial:
            value = _atom_value(b, atom, atom_value)
            term = value if term is None else _multiply(b, term, value)
        if term is None:
            term = i64(c)
        elif c != 1:
            term = _multiply(b, term, i64(c))
        total = term if total is None else _sum(b, total, term)
    return total if total is not None else i64(0)


def _atom_value(b: Builder, atom: Atom, atom_value: AtomValue) -> Value:
    if not isinstance(atom, Div | Mod):
        return atom_value(atom)
    top = index_value(b, atom.numerator, atom_value)
    bottom = index_value(b, atom.denominator, atom_value)
    count = max(lanes(top.type), lanes(bottom.type))
    top, bottom = _widen(b, top, count), _widen(b, bottom, count)
    positive = proved(atom.denominator, 1, from_zero=True)
    if not positive:
        bottom = _never_zero(b, bottom)
    if proved(atom.numerator, 0, from_zero=True) and proved(atom.denominator, 0, from_zero=True):
        return b.binary("udiv" if isinstance(atom, Div) else "urem", top, bottom)
    rest = b.binary("srem", top, bottom)
    wrong = _rounded_wrong(b, rest, bottom, positive)
    if isinstance(atom, Mod):
        return b.select(wrong, b.binary("add", rest, bottom), rest)
    quotient = b.binary("sdiv", top, bottom)
    return b.select(wrong, b.binary("sub", quotient, const(quotient.type, 1)), quotient)


def _never_zero(b: Builder, bottom: Value) -> Value:
    """Return a divisor, 1 where it is 0: a run without elements may evaluate it, none reads it."""
    one = const(bottom.type, 1)
    return b.select(b.icmp("eq", bottom, const(bottom.type, 0)), one, bottom)


def _rounded_wrong(b: Builder, rest: Value, bottom: Value, positive: bool) -> Value:
    """Return whether a remainder's sign is not that of the denominator, as ours has to be."""
    zero = const(rest.type, 0)
    if positive:
        return b.icmp("slt", rest, zero)
    differs = b.icmp("slt", b.binary("xor", rest, bottom), zero)
    return b.binary("and", differs, b.icmp("ne", rest, zero))


def _widen(b: Builder, value: Value, count: int) -> Value:
    if lanes(value.type) == count:
        return value
    if value.known is not None:
        return const(f"<{count} x {I64}>", value.known)
    return b.splat(value, count)


def _multiply(b: Builder, x: Value, y: Value) -> Value:
    if lanes(x.type) == 1 and lanes(y.type) == 1:
        return b.mul(x, y)
    count = max(lanes(x.type), lanes(y.type))
    return b.binary("mul", _widen(b, x, count), _widen(b, y, count))


def _sum(b: Builder, x: Value, y: Value) -> Value:
    if lanes(x.type) == 1 and lanes(y.type) == 1:
        return b.add(x, y)
    count = max(lanes(x.type), lanes(y.type))
    return b.binary("add", _widen(b, x, count), _widen(b, y, count))
