"""Addresses inside a loop nest: each loop advances the pointers that depend on it, once.

A ``Frame`` knows the values of the axes bound so far and, for every memory access of the kernel, a
pointer with those axes already applied. What stays in the innermost loop is one constant offset.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from whet.codegen.builder import I64, Builder, Value, const, i64, lanes
from whet.codegen.operations import storage_type
from whet.index import Atom, Axis, Dim, Div, Mod, Opaque, Poly, bounds, var

Access = tuple[int, Poly]


@dataclass(slots=True)
class Frame:
    """Axis values and advanced pointers at one depth of a nest."""

    b: Builder
    dims: Mapping[str, Value]
    dtypes: tuple[str, ...]
    pointers: dict[Access, tuple[Value, Poly]] = field(default_factory=dict)
    env: dict[Axis, Value] = field(default_factory=dict)

    def bind(self, axis: Axis, value: Value) -> Frame:
        """Return a frame in which ``axis`` has a value and pointers have advanced by it."""
        moved = dict(self.pointers)
        atom = var(axis)
        for access, (pointer, rest) in self.pointers.items():
            if axis not in rest.atoms or not rest.is_affine_in(axis):
                continue
            stride = rest.coefficient(axis)
            if any(isinstance(a, Axis) and a not in self.env for a in stride.atoms):
                continue
            if any(isinstance(a, Div | Mod | Opaque) for a in stride.atoms):
                continue
            step = self.b.mul(value, self.scalar_index(stride))
            kind = storage_type(self.dtypes[access[0]])
            moved[access] = (self.b.gep(pointer, kind, step), rest - stride * atom)
        return Frame(self.b, self.dims, self.dtypes, moved, {**self.env, axis: value})

    def scalar_index(self, p: Poly) -> Value:
        """Return a polynomial of bound axes and dimensions as a 64-bit integer."""
        return index_value(self.b, p, lambda atom: self._atom(atom))

    def _atom(self, atom: Atom) -> Value:
        if isinstance(atom, Dim):
            return self.dims[atom.name]
        assert isinstance(atom, Axis), f"{atom} has no scalar value here"
        return self.env[atom]


def root_frame(
    b: Builder,
    params: list[Value],
    dtypes: tuple[str, ...],
    accesses: Iterable[Access],
    dims: Mapping[str, Value],
) -> Frame:
    """Return the frame outside all loops, with constant offsets applied."""
    frame = Frame(b, dims, dtypes)
    for access in accesses:
        param, address = access
        fixed = Poly({m: c for m, c in address.terms if all(isinstance(a, Dim) for a in m)})
        kind = storage_type(dtypes[param])
        start = b.gep(params[param], kind, frame.scalar_index(fixed))
        frame.pointers[access] = (start, address - fixed)
    return frame


def index_value(b: Builder, p: Poly, atom_value: object) -> Value:
    """Write a polynomial; ``atom_value(atom)`` gives atoms, scalars or vectors alike."""
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


def _atom_value(b: Builder, atom: Atom, atom_value: object) -> Value:
    if isinstance(atom, Div | Mod):
        top = index_value(b, atom.numerator, atom_value)
        bottom = index_value(b, atom.denominator, atom_value)
        low = bounds(atom.numerator)[0]
        return _floor(b, top, bottom, low is not None and low >= 0, isinstance(atom, Div))
    return atom_value(atom)  # type: ignore[operator,no-any-return]


def _floor(b: Builder, top: Value, bottom: Value, positive: bool, quotient: bool) -> Value:
    top, bottom = _match(b, top, bottom)
    if positive:
        return b.binary("udiv" if quotient else "urem", top, bottom)
    q = b.binary("sdiv", top, bottom)
    r = b.binary("srem", top, bottom)
    negative = b.icmp("slt", r, const(r.type, 0))
    if quotient:
        return b.select(negative, b.binary("sub", q, const(q.type, 1)), q)
    return b.select(negative, b.binary("add", r, bottom), r)


def _match(b: Builder, x: Value, y: Value) -> tuple[Value, Value]:
    count = max(lanes(x.type), lanes(y.type))
    return _widen(b, x, count), _widen(b, y, count)


def _widen(b: Builder, value: Value, count: int) -> Value:
    if lanes(value.type) == count:
        return value
    if value.text.lstrip("-").isdigit():
        return const(f"<{count} x {I64}>", int(value.text))
    return b.splat(value, count)


def _multiply(b: Builder, x: Value, y: Value) -> Value:
    if lanes(x.type) == 1 and lanes(y.type) == 1:
        return b.mul(x, y)
    left, right = _match(b, x, y)
    return b.binary("mul", left, right)


def _sum(b: Builder, x: Value, y: Value) -> Value:
    if lanes(x.type) == 1 and lanes(y.type) == 1:
        return b.add(x, y)
    left, right = _match(b, x, y)
    return b.binary("add", left, right)
