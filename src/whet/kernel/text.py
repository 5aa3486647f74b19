"""Kernels as text for people: what is computed, over which axes, with which schedule."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from whet.index import Atom, Axis, Dim, Div, Opaque, Poly
from whet.kernel.expr import Call, Const, Expr, Guard, IndexValue, Load, Read, Var, Within, walk
from whet.kernel.paged import QueryPart
from whet.kernel.pairs import Pairs
from whet.kernel.recurrence import Pass
from whet.kernel.scatter import Update
from whet.kernel.spec import Ahead, Dot, Kernel, Panels, Second, Step, Store

_INFIX = {"add": "+", "sub": "-", "mul": "*", "div": "/", "lt": "<", "le": "<=", "eq": "=="}
_SMALL = 2
"""Expressions of at most this many nodes are repeated instead of named."""


def kernel_spec_text(name: str, kernel: Kernel) -> str:
    """Return a kernel as text: parameters, axes, what is read, summed and stored, the schedule."""
    params = ", ".join(
        f"{'out ' if p.written else ''}p{k}: {p.dtype}" for k, p in enumerate(kernel.params)
    )
    lines = [f"{type(kernel).__name__.lower()} {name}({params})"]
    for field in kernel.__struct_fields__:
        if field != "params":
            lines.extend(_field_lines(field, getattr(kernel, field), "  "))
    return "\n".join(lines) + "\n"


def expr_text(expr: Expr) -> str:
    """Return an expression as text; what occurs more than once is spelled out each time."""
    return _show(expr, {})


def axis_text(axis: Axis) -> str:
    """Return ``i<224``."""
    return f"{axis.name}<{index_text(axis.extent)}"


def index_text(index: Poly) -> str:
    """Return an index, such as ``768*i + k + 4``; what is read from data stands in braces."""
    terms = [_term_text(atoms, factor) for atoms, factor in index.terms]
    return " + ".join(sorted(terms, key=lambda t: t.isdigit())) or "0"


def _term_text(atoms: tuple[Atom, ...], factor: int) -> str:
    parts = [_atom_text(a) for a in atoms]
    return "*".join(parts if parts and factor == 1 else [str(factor), *parts])


def _atom_text(atom: Atom) -> str:
    if isinstance(atom, Axis | Dim):
        return atom.name
    if isinstance(atom, Opaque):
        return f"{{{expr_text(atom.expr)}}}"
    sign = "//" if isinstance(atom, Div) else "%"
    return f"(({index_text(atom.numerator)}) {sign} ({index_text(atom.denominator)}))"


def _field_lines(label: str, value: Any, indent: str) -> Iterator[str]:
    if (
        isinstance(value, tuple)
        and value
        and isinstance(value[0], Store | Step | Pass | Update | QueryPart)
    ):
        for item in value:
            yield from _field_lines(label, item, indent)
    elif isinstance(value, Store):
        yield from _with_names(
            value.value, f"p{value.param}[{index_text(value.address)}] = ", indent
        )
    elif isinstance(value, Step):
        over = ", ".join(axis_text(a) for a in value.axes)
        yield from _with_names(value.body, f"{value.name} = {value.op} over {over} of ", indent)
    elif isinstance(value, Pass | Update | QueryPart):
        yield f"{indent}{label}:"
        for field in value.__struct_fields__:
            yield from _field_lines(field, getattr(value, field), indent + "  ")
    elif isinstance(value, Expr):
        yield from _with_names(value, f"{label} = ", indent)
    elif value not in ((), None):
        yield f"{indent}{label}: {_plain(value)}"


def _plain(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(_plain(v) for v in value)
    writer = next((w for kind, w in _WRITERS if isinstance(value, kind)), str)
    return writer(value)


def _within_text(condition: Within) -> str:
    return f"0 <= {index_text(condition.index)} < {index_text(condition.extent)}"


def _panels_text(panels: Panels) -> str:
    names = ("panel", "depth", *("tap" for _ in panels.tap_strides))
    steps = zip((panels.panel_stride, panels.depth_stride, *panels.tap_strides), names, strict=True)
    terms = " + ".join(f"({index_text(step)})*{name}" for step, name in steps)
    return f"p{panels.param}[{index_text(panels.base)} + {terms}]"


def _dot_text(dot: Dot) -> str:
    flips = ", sign flipped" if dot.flips else ""
    return f"{axis_text(dot.axis)} of {index_text(dot.extent)}{flips}"


def _ahead_text(ahead: Ahead) -> str:
    return f"{ahead.bytes} bytes of p{ahead.param}, {ahead.lines} lines at each unrolled step"


def _pairs_text(pairs: Pairs) -> str:
    begins, factors = f"p{pairs.squares}", f"p{pairs.factors}"
    return (
        f"two products a multiplication, sums begin with {begins} and are multiplied by {factors}"
    )


def _second_text(second: Second) -> str:
    return f"{expr_text(second.a)} from depth {second.start} on"


_WRITERS: tuple[tuple[type, Callable[[Any], str]], ...] = (
    (Axis, axis_text),
    (Within, _within_text),
    (Dot, _dot_text),
    (Ahead, _ahead_text),
    (Pairs, _pairs_text),
    (Panels, _panels_text),
    (Second, _second_text),
    (Expr, expr_text),
    (Poly, index_text),
)


def _with_names(expr: Expr, head: str, indent: str) -> Iterator[str]:
    """Yield ``head expr``, after a line for each larger expression that it uses more than once."""
    uses: Counter[Expr] = Counter()
    order: list[Expr] = []
    for node in walk(expr):
        if node not in uses:
            order.append(node)
        uses[node] += 1
    names: dict[Expr, str] = {}
    for node in reversed(order):
        if uses[node] > 1 and node.children() and sum(1 for _ in walk(node)) > _SMALL:
            names[node] = f"t{len(names)}"
            yield f"{indent}{names[node]} = {_show(node, names, top=True)}"
    yield f"{indent}{head}{_show(expr, names, top=True)}"


def _show(expr: Expr, names: dict[Expr, str], *, top: bool = False) -> str:
    if expr in names and not top:
        return names[expr]
    if not expr.children():
        return _leaf(expr)
    if isinstance(expr, Guard):
        tests = " and ".join(_plain(c) for c in expr.conditions)
        then, otherwise = _show(expr.then, names), _show(expr.otherwise, names)
        return f"({then} if {tests} else {otherwise})"
    assert isinstance(expr, Call), f"no text for {type(expr).__name__}"
    args = [_show(a, names) for a in expr.args]
    if expr.op in _INFIX and len(args) == 2:
        return f"({args[0]} {_INFIX[expr.op]} {args[1]})"
    label = f"{expr.op}.{expr.dtype}" if expr.op == "cast" else expr.op
    return f"{label}({', '.join(args)})"


def _leaf(expr: Expr) -> str:
    match expr:
        case Const(value=float(value)):
            return f"{value:.9g}"
        case Const() | IndexValue():
            return str(expr.value) if isinstance(expr, Const) else f"({index_text(expr.index)})"
        case Load():
            return f"{expr.source.name}[{', '.join(index_text(i) for i in expr.index)}]"
        case Read():
            return f"p{expr.param}[{index_text(expr.address)}]"
    assert isinstance(expr, Var), f"no text for {type(expr).__name__}"
    return expr.name
