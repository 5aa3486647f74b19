"""Guards of a nest: what they depend on, where all of them hold, and when they change nothing."""

from __future__ import annotations

from whet.index import Axis, Opaque
from whet.kernel.expr import Call, Const, Expr, Guard, Within, all_atoms, walk
from whet.kernel.semantics import identity_of
from whet.kernel.spec import Step


def is_neutral(step: Step) -> bool:
    """Whether every element that a guard leaves out changes nothing in a reduction."""
    body = step.body
    guards = [e for e in walk(body) if isinstance(e, Guard)]
    if step.op == "sum":
        factors = body.args if isinstance(body, Call) and body.op == "mul" else (body,)
        return all(g in factors and g.otherwise == Const(0, g.dtype) for g in guards)
    neutral = identity_of(step.op, step.dtype)
    return all(g == body and g.otherwise == Const(neutral, g.dtype) for g in guards)


def conditions_of(expr: Expr) -> set[Within]:
    """Return the conditions of all guards of an expression."""
    return {c for e in walk(expr) if isinstance(e, Guard) for c in e.conditions}


def moves_one_tap(condition: Within, taps: set[Axis], fixed: set[Axis]) -> bool:
    """Whether a condition depends on one tap, which moves forwards, and otherwise on fixed axes."""
    found = [t for t in taps if t in condition.index.atoms]
    others = all_atoms(condition.index) - taps - fixed
    if any(isinstance(a, Axis | Opaque) for a in others):
        return False
    if len(found) != 1 or not condition.index.is_affine_in(found[0]):
        return False
    slope = condition.index.coefficient(found[0]).constant
    return slope is not None and slope > 0


def extremes(condition: Within, outer: set[Axis]) -> tuple[Within, ...] | None:
    """Return the condition at the least and greatest index that the inner axes reach."""
    low = high = condition.index
    if any(isinstance(a, Axis) for a in all_atoms(condition.extent)):
        return None
    for atom in all_atoms(condition.index):
        if not isinstance(atom, Axis) or atom in outer:
            continue
        slope = condition.index.coefficient(atom).constant
        if slope is None or not condition.index.is_affine_in(atom):
            return None
        top = atom.extent - 1
        low = low.substitute({atom: 0 if slope > 0 else top})
        high = high.substitute({atom: top if slope > 0 else 0})
    pair = (Within(low, condition.extent), Within(high, condition.extent))
    return pair if low != high else pair[:1]
