"""Constants that a 32-bit integer takes one after another become one.

    (x - a) + b = x + (b - a)     32-bit integers wrap

A convolution of 8-bit integers takes off what the zero point of its input adds, the sums of its
weights, and adds a bias: a load, an operation and four bytes a channel are spared.
"""

from __future__ import annotations

import numpy as np
from msgspec.structs import replace

from whet.index import ZERO, Poly
from whet.kernel.expr import Call, Expr, Load
from whet.kernel.tensor import Tensor
from whet.lower.equations import Equations
from whet.lower.readers import Readers, count_readers, needed_equations
from whet.ops.node import constant

_SIGNS = {"add": 1, "sub": -1}


def merge_terms(equations: Equations) -> Equations:
    """Return equations in which a value takes one constant where it took several."""
    terms = _Terms(count_readers(equations))
    tensors: list[Tensor] = []
    for tensor in equations.tensors:
        definition = tensor.definition
        if definition is not None:
            body = terms.merged(definition.body)
            if body is not definition.body:
                tensor.definition = replace(definition, body=body)
        tensors += [*terms.take(), tensor]
    return needed_equations(Equations(tensors, equations.inputs, equations.outputs))


class _Terms:
    """Makes sums of constants that nothing else reads."""

    def __init__(self, readers: Readers) -> None:
        self._readers = readers
        self._sums: dict[tuple[str, Load, str, Load], Load] = {}
        self._new: list[Tensor] = []

    def take(self) -> list[Tensor]:
        """Return the constants made since the last time."""
        made, self._new = self._new, []
        return made

    def merged(self, expr: Expr) -> Expr:
        """Return an equal expression whose chains of constants are merged."""
        outer = expr.map(self.merged)
        inner = outer.args[0] if isinstance(outer, Call) else None
        second, first = self._term(outer), self._term(inner)
        if first is None or second is None or _place(first[1]) != _place(second[1]):
            return outer
        assert isinstance(inner, Call)
        return Call("add", (inner.args[0], self._sum(first, second)), "int32")

    def _term(self, expr: Expr | None) -> tuple[str, Load] | None:
        """Return what is done with a constant of its own that an expression takes last."""
        if not isinstance(expr, Call) or expr.op not in _SIGNS or expr.dtype != "int32":
            return None
        load = expr.args[1]
        if not isinstance(load, Load) or load.source.value is None:
            return None
        return (expr.op, load) if self._readers.single(load.source) else None

    def _sum(self, first: tuple[str, Load], second: tuple[str, Load]) -> Load:
        """Return what both constants add; the same again for an expression that stands twice."""
        known = self._sums.get((*first, *second))
        if known is not None:
            return known
        a, b = (_SIGNS[op] * load.source.value.astype(np.int64) for op, load in (first, second))
        name = f"{second[1].source.name}.merged"
        source = constant(name, (a + b.reshape(a.shape)).astype(np.int32))
        self._readers.tensors[id(source)] = 1
        self._new.append(source)
        return self._sums.setdefault((*first, *second), Load(source, first[1].index, "int32"))


def _place(load: Load) -> list[tuple[Poly, Poly]]:
    """Return indices and extents of a load, those of axes with one element left out."""
    pairs = zip(load.index, load.source.shape, strict=True)
    return [(index, extent) for index, extent in pairs if extent != 1 or index != ZERO]
