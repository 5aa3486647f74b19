"""Polynomials over loop axes and run-time dimensions, their bounds and their division.

Bounds and division stand here together: what divides depends on what can be proved.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Union

from whet.index.atoms import Atom, Axis, Dim, Div, Mod, Opaque, mentions, show

Monomial = tuple[Atom, ...]
IndexLike = Union["Poly", int]


class Poly:
    """An integer polynomial in canonical form; equal polynomials compare and hash equal."""

    __slots__ = ("_atoms", "_hash", "terms")

    def __init__(self, terms: Mapping[Monomial, int]) -> None:
        kept = [(m, c) for m, c in terms.items() if c]
        if len(kept) > 1:
            kept.sort(key=lambda item: [a.key for a in item[0]])
        self.terms: tuple[tuple[Monomial, int], ...] = tuple(kept)
        self._hash = hash(self.terms)
        self._atoms: frozenset[Atom] | None = None

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        if isinstance(other, int):
            return self.constant == other
        return isinstance(other, Poly) and self.terms == other.terms

    def __repr__(self) -> str:
        if not self.terms:
            return "0"
        return "+".join("*".join([str(c), *(show(a) for a in m)]) for m, c in self.terms)

    @property
    def constant(self) -> int | None:
        """The value if no atom occurs, else ``None``."""
        if not self.terms:
            return 0
        if len(self.terms) == 1 and not self.terms[0][0]:
            return self.terms[0][1]
        return None

    def __add__(self, other: IndexLike) -> Poly:
        right = as_poly(other)
        if not right.terms:
            return self
        if not self.terms:
            return right
        total = dict(self.terms)
        for monomial, coefficient in right.terms:
            total[monomial] = total.get(monomial, 0) + coefficient
        return Poly(total)

    __radd__ = __add__

    def __neg__(self) -> Poly:
        return Poly({m: -c for m, c in self.terms})

    def __sub__(self, other: IndexLike) -> Poly:
        return self + -as_poly(other)

    def __rsub__(self, other: IndexLike) -> Poly:
        return as_poly(other) - self

    def __mul__(self, other: IndexLike) -> Poly:
        right = as_poly(other)
        for p, q in ((self, right), (right, self)):
            scale = q.constant
            if scale is not None:
                return p if scale == 1 else Poly({m: c * scale for m, c in p.terms})
        total: dict[Monomial, int] = {}
        for left_atoms, left in self.terms:
            for right_atoms, scale in right.terms:
                monomial = tuple(sorted(left_atoms + right_atoms, key=lambda a: a.key))
                total[monomial] = total.get(monomial, 0) + left * scale
        return Poly(total)

    __rmul__ = __mul__

    def __floordiv__(self, other: IndexLike) -> Poly:
        return _divide(self, as_poly(other))[0]

    def __mod__(self, other: IndexLike) -> Poly:
        return _divide(self, as_poly(other))[1]

    @property
    def atoms(self) -> frozenset[Atom]:
        """All atoms, including those inside divisions."""
        if self._atoms is None:
            self._atoms = frozenset(self._find_atoms())
        return self._atoms

    def _find_atoms(self) -> Iterator[Atom]:
        for monomial, _ in self.terms:
            for atom in monomial:
                yield atom
                if isinstance(atom, Div | Mod):
                    yield from atom.numerator.atoms
                    yield from atom.denominator.atoms

    def coefficient(self, atom: Atom) -> Poly:
        """Return the factor of ``atom`` where it occurs once in a monomial."""
        found: dict[Monomial, int] = {}
        for monomial, c in self.terms:
            if atom in monomial:
                rest = list(monomial)
                rest.remove(atom)
                found[tuple(rest)] = c
        return Poly(found)

    def is_affine_in(self, atom: Atom) -> bool:
        """Tell whether ``atom`` occurs at most linearly and not inside another atom."""
        for monomial, _ in self.terms:
            if monomial.count(atom) > 1:
                return False
            if any(a != atom and mentions(a, atom) for a in monomial):
                return False
        return True

    def substitute(self, mapping: Mapping[Atom, IndexLike]) -> Poly:
        """Replace atoms and simplify again."""
        if all(isinstance(a, Axis | Dim) and a not in mapping for a in self.atoms):
            return self
        total: dict[Monomial, int] = {}
        for monomial, c in self.terms:
            product = as_poly(c)
            for atom in monomial:
                product = product * _substitute_atom(atom, mapping)
            for m, scale in product.terms:
                total[m] = total.get(m, 0) + scale
        return Poly(total)

    def evaluate(self, dims: Mapping[str, int]) -> int:
        """Return the value for given dimensions.

        Raises:
            KeyError: a dimension is missing.
        """
        total = 0
        for monomial, c in self.terms:
            for atom in monomial:
                c *= _evaluate_atom(atom, dims)
            total += c
        return total


def as_poly(value: IndexLike) -> Poly:
    """Return an integer or polynomial as a polynomial."""
    return value if isinstance(value, Poly) else Poly({(): int(value)})


def var(atom: Atom) -> Poly:
    """Return an atom as a polynomial."""
    return Poly({(atom,): 1})


ZERO = Poly({})
ONE = Poly({(): 1})


def product(values: Iterable[IndexLike]) -> Poly:
    """Multiply polynomials."""
    total = ONE
    for value in values:
        total = total * value
    return total


def ceil_div(p: Poly, d: int) -> Poly:
    """Return ``p / d`` rounded up."""
    return (p + (d - 1)) // d


Bounds = tuple[int | None, int | None]


def bounds(p: Poly, *, from_zero: bool = False) -> Bounds:
    """Return the least and greatest value of a polynomial where both are known integers.

    Args:
        p: the polynomial.
        from_zero: every dimension may be 0, whatever else may be counted on.
    """
    low: int | None = 0
    high: int | None = 0
    for monomial, c in p.terms:
        term = _monomial_bounds(monomial, from_zero)
        least, most = term if c >= 0 else (term[1], term[0])
        low = None if low is None or least is None else low + c * least
        high = None if high is None or most is None else high + c * most
    return low, high


def at_least(p: Poly, minimum: int) -> bool:
    """Tell whether ``p >= minimum`` can be proved for all axes and all values of the dimensions."""
    if not proved(p, minimum):
        return False
    dims = [a for a in p.atoms if isinstance(a, Dim) and a.least and a.counted_on is not None]
    if dims and not proved(p, minimum, from_zero=True):
        for dim in dims:
            assert dim.counted_on is not None
            dim.counted_on.add(dim.name)
    return True


def proved(p: Poly, minimum: int, *, from_zero: bool = False) -> bool:
    """Tell whether ``p >= minimum`` can be proved, without counting on it.

    Args:
        p: the polynomial.
        minimum: what it is compared with.
        from_zero: every dimension may be 0, whatever else may be counted on.
    """
    low = bounds(p, from_zero=from_zero)[0]
    if low is not None:
        return low >= minimum
    worst = p
    for _ in range(8):
        axes = [a for a in worst.atoms if isinstance(a, Axis)]
        if not axes:
            break
        axis = axes[0]
        if not worst.is_affine_in(axis):
            return False
        slope = worst.coefficient(axis)
        falling = all(c < 0 for _, c in slope.terms)
        rising = all(c > 0 for _, c in slope.terms)
        if not falling and not rising:
            return False
        worst = worst.substitute({axis: axis.extent - 1 if falling else 0})
    if not from_zero:
        dims = (a for a in worst.atoms if isinstance(a, Dim))
        worst = worst.substitute({a: var(a) + a.least for a in dims})
    constant = sum(c for m, c in worst.terms if not m)
    return constant >= minimum and all(c >= 0 for m, c in worst.terms if m)


def less_than(p: Poly, q: Poly) -> bool:
    """Tell whether ``p < q`` can be proved."""
    return at_least(q - p, 1)


def recombine(p: Poly) -> Poly:
    """Replace ``d * (n // d) + n % d`` by ``n``, also when both carry a common factor."""
    for monomial, c in p.terms:
        for atom in monomial:
            if not isinstance(atom, Mod):
                continue
            rest = list(monomial)
            rest.remove(atom)
            factor = product([c, *(var(a) for a in rest)])
            quotient = _quotient(atom.numerator, atom.denominator) * atom.denominator * factor
            if all(p_term in p.terms for p_term in quotient.terms):
                return recombine(p - quotient - factor * var(atom) + factor * atom.numerator)
    return p


def _monomial_bounds(monomial: Monomial, from_zero: bool) -> Bounds:
    low: int | None = 1
    high: int | None = 1
    for atom in monomial:
        a_low, a_high = _atom_bounds(atom, from_zero)
        if a_low is None or a_low < 0:
            return None, None
        low = low * a_low if low is not None else None
        high = high * a_high if high is not None and a_high is not None else None
    return low, high


def _atom_bounds(atom: Atom, from_zero: bool) -> Bounds:
    if isinstance(atom, Axis):
        top = bounds(atom.extent, from_zero=from_zero)[1]
        return 0, None if top is None else max(top - 1, 0)
    if isinstance(atom, Dim):
        return 0 if from_zero else atom.least, None
    if isinstance(atom, Opaque):
        return atom.low, None if atom.high is None else bounds(atom.high - 1, from_zero=from_zero)[
            1
        ]
    divisor = atom.denominator.constant
    low, high = bounds(atom.numerator, from_zero=from_zero)
    if divisor is None or divisor <= 0:
        return (0 if low is not None and low >= 0 else None), None
    if isinstance(atom, Mod):
        return 0, divisor - 1
    return None if low is None else low // divisor, None if high is None else high // divisor


def _divide(p: Poly, d: Poly) -> tuple[Poly, Poly]:
    """Return quotient and remainder, simplified as far as the ranges allow."""
    if d == 1 or p == ZERO:
        return p, ZERO
    if p.constant is not None and d.constant is not None:
        return as_poly(p.constant // d.constant), as_poly(p.constant % d.constant)
    if p == d:
        return ONE, ZERO
    whole, rest = _split_multiples(p, d)
    if rest == ZERO or (at_least(rest, 0) and less_than(rest, d)):
        return whole, rest
    exact = _exact_quotient(rest, d)
    if exact is not None:
        return whole + exact, ZERO
    return whole + _quotient(rest, d), var(Mod(rest, d))


def _quotient(p: Poly, d: Poly) -> Poly:
    """Return a quotient that stays one; ``(n // a + c) // b = (n + a c) // (a b)``."""
    by = d.constant
    inner = [m[0] for m, c in p.terms if len(m) == 1 and c == 1 and isinstance(m[0], Div)]
    if by is None or by <= 0 or len(inner) != 1:
        return var(Div(p, d))
    own, shift = inner[0], (p - var(inner[0])).constant
    divisor = own.denominator.constant
    if shift is None or divisor is None or divisor <= 0:
        return var(Div(p, d))
    return (own.numerator + shift * divisor) // (divisor * by)


def _exact_quotient(p: Poly, d: Poly) -> Poly | None:
    """Return ``p / d`` where polynomial division by several terms leaves nothing."""
    if len(d.terms) < 2:
        return None
    atoms, factor = max(d.terms, key=lambda term: (len(term[0]), [a.key for a in term[0]]))
    whole, rest = ZERO, p
    for _ in p.terms:
        step = next((s for s in (_over(t, atoms, factor) for t in rest.terms) if s), None)
        if step is None:
            break
        whole, rest = whole + step, rest - step * d
    return whole if rest == ZERO else None


def _over(term: tuple[Monomial, int], atoms: Monomial, factor: int) -> Poly | None:
    """Return one term divided by another, if that is a term."""
    left = list(term[0])
    for atom in atoms:
        if atom not in left:
            return None
        left.remove(atom)
    return None if term[1] % factor else Poly({tuple(left): term[1] // factor})


def _split_multiples(p: Poly, d: Poly) -> tuple[Poly, Poly]:
    """Write ``p`` as ``whole * d + rest`` with what divides term by term."""
    if len(d.terms) != 1:
        return ZERO, p
    (d_atoms, d_factor) = d.terms[0]
    whole: dict[Monomial, int] = {}
    rest: dict[Monomial, int] = {}
    for monomial, c in p.terms:
        remaining: list[Atom] | None = list(monomial)
        for atom in d_atoms:
            if remaining is None or atom not in remaining:
                remaining = None
                break
            remaining.remove(atom)
        if remaining is None:
            rest[monomial] = c
            continue
        key = tuple(remaining)
        quotient, left = divmod(c, d_factor) if not monomial or c % d_factor == 0 else (0, c)
        whole[key] = whole.get(key, 0) + quotient
        if left:
            rest[monomial] = rest.get(monomial, 0) + left
    return Poly(whole), Poly(rest)


def _substitute_atom(atom: Atom, mapping: Mapping[Atom, IndexLike]) -> Poly:
    if atom in mapping:
        return as_poly(mapping[atom])
    if isinstance(atom, Div):
        return atom.numerator.substitute(mapping) // atom.denominator.substitute(mapping)
    if isinstance(atom, Mod):
        return atom.numerator.substitute(mapping) % atom.denominator.substitute(mapping)
    if isinstance(atom, Opaque):
        rewrite = getattr(atom.expr, "substitute", None)
        return var(Opaque(rewrite(mapping), atom.low, atom.high)) if rewrite else var(atom)
    return var(atom)


def _evaluate_atom(atom: Atom, dims: Mapping[str, int]) -> int:
    if isinstance(atom, Dim):
        return dims[atom.name]
    if isinstance(atom, Div):
        return atom.numerator.evaluate(dims) // atom.denominator.evaluate(dims)
    if isinstance(atom, Mod):
        return atom.numerator.evaluate(dims) % atom.denominator.evaluate(dims)
    raise TypeError(f"{show(atom)} has no value outside a kernel")
