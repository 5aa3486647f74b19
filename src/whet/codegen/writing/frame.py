"""Addresses inside a loop nest: each loop advances the pointers that depend on it, once.

A ``Frame`` knows the values of the axes bound so far and, for every memory access of the kernel, a
pointer with those axes already applied. What stays in the innermost loop is one constant offset.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from whet.codegen.writing.builder import Builder, Value
from whet.codegen.writing.conversions import storage_type
from whet.codegen.writing.index_value import index_value
from whet.index import Atom, Axis, Dim, Div, Mod, Opaque, Poly, var

Access = tuple[int, Poly]


class Frame(msgspec.Struct):
    """Axis values and advanced pointers at one depth of a nest."""

    b: Builder
    dims: Mapping[str, Value]
    dtypes: tuple[str, ...]
    pointers: dict[Access, tuple[Value, Poly]] = msgspec.field(default_factory=dict)
    env: dict[Axis, Value] = msgspec.field(default_factory=dict)

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
        return index_value(self.b, p, self._atom)

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
