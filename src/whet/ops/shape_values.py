"""Small tensors whose elements follow from shapes: known when compiling, up to run-time dimensions.

An equation over known tensors is evaluated with polynomials in place of numbers. That covers
whatever exporters do with shapes (``Shape``, ``Gather``, ``Concat``, ``Where``, arithmetic, casts)
with one rule instead of one per operator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product as points_of

import msgspec
import numpy as np
from msgspec.structs import replace

from whet.dtypes import DTYPES, numpy_dtype
from whet.index import ZERO, Atom, Axis, IndexLike, Opaque, Poly, as_poly, at_least, var
from whet.kernel.expr import Call, Const, Expr, Guard, IndexValue, Load, Var, Within, walk
from whet.kernel.semantics import SEMANTICS, convert, register_dtype
from whet.kernel.spec import Step
from whet.kernel.tensor import Definition, Steps, Tensor, axes_for
from whet.ops.build import const
from whet.ops.node import Node, constant

Value = Poly | float
LIMIT = 256


class _UnknownError(Exception):
    """A value depends on data, or on how large run-time dimensions are."""


def propagate(node: Node, outputs: list[Tensor]) -> list[Tensor]:
    """Return the outputs of a node, known ones by their values instead of their equations."""
    return [_known_output(node, tensor) for tensor in outputs]


def known_tensor(
    name: str, values: Sequence[Value], shape: tuple[Poly, ...], dtype: str, node: Node
) -> Tensor:
    """Return a tensor with these elements; a constant if no run-time dimension occurs in them."""
    numbers = [_number(v) for v in values]
    if all(n is not None for n in numbers):
        extents = tuple(e.constant or 0 for e in shape)
        array = np.array(numbers, dtype=register_dtype(dtype)).reshape(extents)
        return replace_origin(constant(name, array.astype(numpy_dtype(dtype))), node)
    polys = tuple(_poly(v) for v in values)
    axes = axes_for(shape)
    flat = ZERO
    for axis in axes:
        flat = flat * axis.extent + var(axis)
    body: Expr = const(0, dtype)
    if len(polys) == 1:
        body = IndexValue(polys[0], dtype)
    else:
        for k, p in reversed(list(enumerate(polys))):
            body = Guard((Within(flat - k, as_poly(1)),), IndexValue(p, dtype), body, dtype)
    tensor = Tensor(name, shape, dtype, Definition(axes, body), known=polys)
    return replace_origin(tensor, node)


def replace_origin(tensor: Tensor, node: Node) -> Tensor:
    """Return the tensor as a result of a node."""
    return replace(tensor, nodes=node.origins or (node.name,), ops=(node.op,))


def _known_output(node: Node, tensor: Tensor) -> Tensor:
    size = tensor.size.constant
    definition = tensor.definition
    if definition is None or tensor.known is not None or size is None or size > LIMIT:
        return tensor
    if definition.index or not _over_known(definition):
        return tensor
    try:
        values = _elements(definition)
    except _UnknownError:
        return tensor
    return known_tensor(tensor.name, values, tensor.shape, tensor.dtype, node)


def partly_known(tensor: Tensor) -> tuple[Poly | None, ...]:
    """Return the integers of a small tensor of static shape, ``None`` for what depends on data.

    Raises:
        ValueError: the tensor is too large or its size depends on the run.
    """
    size = tensor.size.constant
    if size is None or size > LIMIT:
        raise ValueError(f"{tensor.name} has {tensor.size} elements")
    definition = tensor.definition
    if tensor.known is not None:
        return tensor.known
    if definition is None or definition.index or definition.anchor is not None:
        return (None,) * size
    return tuple(_element(definition, point) for point in _points(definition.axes))


def _element(definition: Definition, point: dict[Atom, IndexLike]) -> Poly | None:
    try:
        return _poly(_Point(point).value(definition.body))
    except _UnknownError:
        return None


def _over_known(definition: Definition) -> bool:
    anchor = definition.anchor
    if anchor is not None and not isinstance(anchor, Steps):
        return False
    return all(
        e.source.value is not None or e.source.known is not None
        for root in definition.expressions()
        for e in walk(root)
        if isinstance(e, Load)
    )


def _elements(definition: Definition) -> list[Value]:
    found: list[Value] = []
    for point in _points(definition.axes):
        place = _Point(point)
        if isinstance(definition.anchor, Steps):
            for step in definition.anchor.steps:
                place = _run_step(place, step)
        found.append(place.value(definition.body))
    return found


def _points(axes: tuple[Axis, ...]) -> list[dict[Atom, IndexLike]]:
    extents = [a.extent.constant for a in axes]
    if any(e is None for e in extents) or np.prod([e or 0 for e in extents]) > LIMIT:
        raise _UnknownError
    ranges = (range(e or 0) for e in extents)
    return [dict(zip(axes, point, strict=True)) for point in points_of(*ranges)]


def _run_step(place: _Point, step: Step) -> _Point:
    op = {"sum": "add", "prod": "mul", "max": "max", "min": "min"}[step.op]
    total: Value | None = None
    for point in _points(step.axes):
        value = _Point({**place.at, **point}, place.names).value(step.body)
        total = value if total is None else _apply(op, [total, value], [step.dtype] * 2, step.dtype)
    if total is None:
        raise _UnknownError
    return _Point(place.at, {**place.names, step.name: total})


class _Point(msgspec.Struct, frozen=True):
    """One element: the values of axes and of finished reductions."""

    at: dict[Atom, IndexLike]
    names: dict[str, Value] = msgspec.field(default_factory=dict)

    def value(self, expr: Expr) -> Value:
        """Return the value of an expression here."""
        match expr:
            case Const():
                return _plain(np.asarray(expr.value), expr.dtype)
            case Var():
                return self.names[expr.name]
            case IndexValue():
                return self.index(expr.index)
            case Load():
                return self._load(expr)
            case Guard():
                return self.value(expr.then if self._holds(expr) else expr.otherwise)
            case Call():
                args = [self.value(a) for a in expr.args]
                return _apply(expr.op, args, [a.dtype for a in expr.args], expr.dtype)
            case _:
                raise _UnknownError

    def index(self, p: Poly) -> Poly:
        """Return an index here; data-dependent ones are looked up."""
        here = p.substitute(self.at)
        looked_up: dict[Atom, IndexLike] = {}
        for atom in here.atoms:
            if isinstance(atom, Opaque):
                looked_up[atom] = _poly(self.value(atom.expr))
        return here.substitute(looked_up)

    def _load(self, load: Load) -> Value:
        source: Tensor = load.source
        place = [self.index(p).constant for p in load.index]
        extents = [e.constant for e in source.shape]
        if any(k is None for k in place) or any(e is None for e in extents):
            raise _UnknownError
        where = tuple(k or 0 for k in place)
        shape = tuple(e or 0 for e in extents)
        if any(not 0 <= k < e for k, e in zip(where, shape, strict=True)):
            raise _UnknownError
        if source.value is not None:
            return _plain(source.value[where], source.dtype)
        if source.known is None:
            raise _UnknownError
        return source.known[int(np.ravel_multi_index(where, shape)) if shape else 0]

    def _holds(self, expr: Guard) -> bool:
        for condition in expr.conditions:
            here = Within(self.index(condition.index), self.index(condition.extent))
            if here.never:
                return False
            if not here.always:
                raise _UnknownError
        return True


# -- arithmetic on values --------------------------------------------------------------------------


def _plain(value: np.ndarray, dtype: str) -> Value:
    if DTYPES[dtype].kind in "biu":
        return as_poly(int(value))
    return float(value)  # small floats too, which are stored and not computed with


def _number(value: Value) -> int | float | None:
    return value.constant if isinstance(value, Poly) else value


def _poly(value: Value) -> Poly:
    if isinstance(value, Poly):
        return value
    if value != int(value):
        raise _UnknownError
    return as_poly(int(value))


def _apply(op: str, args: list[Value], dtypes: list[str], dtype: str) -> Value:
    numbers = [_number(a) for a in args]
    if op == "select" and numbers[0] is not None:
        return args[1] if numbers[0] else args[2]
    if all(n is not None for n in numbers):
        return _apply_numbers(op, numbers, dtypes, dtype)
    if op not in _SYMBOLIC:
        raise _UnknownError
    if op == "cast" and DTYPES[dtype].kind == "b":
        raise _UnknownError
    return _SYMBOLIC[op](*(_poly(a) for a in args))


def _apply_numbers(
    op: str, numbers: Sequence[int | float | None], dtypes: list[str], dtype: str
) -> Value:
    pairs = zip(numbers, dtypes, strict=True)
    arrays = [np.asarray(n).astype(register_dtype(d)) for n, d in pairs]
    with np.errstate(all="ignore"):
        result = convert(arrays[0], dtype) if op == "cast" else SEMANTICS[op](*arrays)
    return _plain(np.asarray(result), dtype)


def _compared(p: Poly, q: Poly) -> int:
    """Return the sign of ``p - q``, if it is the same for all dimensions."""
    if p == q:
        return 0
    if at_least(p - q, 1):
        return 1
    if at_least(q - p, 1):
        return -1
    raise _UnknownError


def _equal(p: Poly, q: Poly) -> Poly:
    return as_poly(int(_compared(p, q) == 0))


def _divided(p: Poly, q: Poly) -> Poly:
    if not (at_least(p, 0) and at_least(q, 1)):
        raise _UnknownError
    return p // q


def _remainder(p: Poly, q: Poly) -> Poly:
    if not (at_least(p, 0) and at_least(q, 1)):
        raise _UnknownError
    return p % q


def _largest(p: Poly, q: Poly) -> Poly:
    return p if at_least(p - q, 0) else q if at_least(q - p, 0) else _undecided()


def _smallest(p: Poly, q: Poly) -> Poly:
    return p if at_least(q - p, 0) else q if at_least(p - q, 0) else _undecided()


def _absolute(p: Poly) -> Poly:
    return p if at_least(p, 0) else -p if at_least(-p, 0) else _undecided()


def _undecided() -> Poly:
    raise _UnknownError


_SYMBOLIC: dict[str, Callable[..., Poly]] = {
    "add": lambda p, q: p + q,
    "sub": lambda p, q: p - q,
    "mul": lambda p, q: p * q,
    "neg": lambda p: -p,
    "abs": _absolute,
    "div": _divided,
    "rem": _remainder,
    "mod": _remainder,
    "max": _largest,
    "min": _smallest,
    "eq": _equal,
    "ne": lambda p, q: 1 - _equal(p, q),
    "lt": lambda p, q: as_poly(int(_compared(p, q) < 0)),
    "le": lambda p, q: as_poly(int(_compared(p, q) <= 0)),
    "gt": lambda p, q: as_poly(int(_compared(p, q) > 0)),
    "ge": lambda p, q: as_poly(int(_compared(p, q) >= 0)),
    "cast": lambda p: p,
    "floor": lambda p: p,
    "ceil": lambda p: p,
    "round": lambda p: p,
}
