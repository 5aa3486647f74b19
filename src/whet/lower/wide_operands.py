"""Halves that products read are kept as float32, where a processor does not multiply halves.

A product reads its first operand one number at a time, for each vector of columns again, and would
convert it as often: ResNet-50 in float16 took 52 ms so, 28 with float32 between its layers (two
threads of a Zen 4). Values are rounded to a half before they are stored, so that results stay.
"""

from __future__ import annotations

from collections.abc import Container

from msgspec.structs import replace

from whet.kernel.expr import Call, Const, Expr, Guard, Load, walk
from whet.kernel.tensor import Product, Steps, Tensor
from whet.lower.equations import Equations
from whet.lower.uses import rewrite_definition, sources
from whet.ops.build import cast
from whet.ops.movement import concat_parts
from whet.target import Target

WIDE = "float32"


def widen_operands(equations: Equations, target: Target) -> None:
    """Let computed tensors that only products and pointwise operators read be float32, in place."""
    halves = ("float16",) if target.bfloat16_dot else ("float16", "bfloat16")
    kept = _kept(equations)
    wide = [t for t in _operands(equations) if t.dtype in halves and id(t) not in kept]
    types = {id(t): t.dtype for t in wide}
    for tensor in wide:
        tensor.dtype = WIDE

    def read(e: Expr) -> Expr:
        if not isinstance(e, Load) or id(e.source) not in types or e.dtype == WIDE:
            return e
        return cast(Load(e.source, e.index, WIDE), types[id(e.source)])

    for tensor in equations.tensors:
        definition = tensor.definition
        if definition is None:
            continue
        changed = rewrite_definition(definition, read)
        if isinstance(changed.anchor, Product):
            anchor = replace(changed.anchor, a=_uncast(changed.anchor.a, types))
            changed = replace(changed, anchor=anchor)
        if id(tensor) in types:
            changed = replace(changed, body=_rounded(changed.body, types[id(tensor)], types))
        tensor.definition = changed


def _operands(equations: Equations) -> list[Tensor]:
    """Return what products read first, and what that is a mere view or copy of."""
    found: dict[int, Tensor] = {}
    for tensor in reversed(equations.tensors):
        definition = tensor.definition
        if definition is None:
            continue
        if isinstance(definition.anchor, Product):
            read = [e.source for e in walk(definition.anchor.a) if isinstance(e, Load)]
        else:
            moved = definition.body if id(tensor) in found and definition.anchor is None else None
            read = [moved.source] if isinstance(moved, Load) else []
        found |= {id(s): s for s in read if s.definition is not None}
    return list(found.values())


def _kept(equations: Equations) -> set[int]:
    """Return tensors that stay as they are: outputs, and what is read in place as it is."""
    kept = {id(t) for _, t in equations.outputs}
    for tensor in equations.tensors:
        definition = tensor.definition
        if definition is None:
            continue
        if concat_parts(tensor) is not None:
            kept |= {id(tensor), *(id(s) for s in sources(definition))}
        elif isinstance(definition.anchor, Product):
            kept |= {id(e.source) for e in walk(definition.anchor.b) if isinstance(e, Load)}
        elif not isinstance(definition.anchor, Steps | None):
            kept |= {id(s) for s in sources(definition)}
    return kept


def _rounded(body: Expr, half: str, wide: Container[int]) -> Expr:
    """Return a value as float32, rounded: what is computed as a half has more bits until then."""
    moved = _uncast(body, wide)
    return moved if moved.dtype == WIDE else cast(cast(cast(body, WIDE), half), WIDE)


def _uncast(expr: Expr, wide: Container[int]) -> Expr:
    """Return an expression as float32 if it only reads what is kept so, else as it is."""
    if isinstance(expr, Guard) and isinstance(expr.otherwise, Const):
        then = _uncast(expr.then, wide)
        if then is not expr.then:
            return Guard(expr.conditions, then, Const(expr.otherwise.value, WIDE), WIDE)
    inner = expr.args[0] if isinstance(expr, Call) and expr.op == "cast" else None
    return inner if isinstance(inner, Load) and id(inner.source) in wide else expr
