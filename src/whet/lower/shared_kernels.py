"""Kernels that differ in numbers alone become one, which reads the numbers from memory.

Layers of one shape have scales and zero points of their own in a quantised model: BERT-base had
146 kernels for its 183 launches, 9 for 88 in floats. A number that all of them have stays where it
is, so that code which knows it is written as before. Only what is done once for each result reads
its numbers; what is done along a sum, or before a loop over a row, keeps them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
import numpy as np
from msgspec.structs import replace

from whet.index import as_poly
from whet.kernel.expr import Call, Const, Expr, Guard, Read, Var, walk
from whet.kernel.spec import Attention, Contraction, Nest, Param
from whet.lower.rewrites import Rewrites
from whet.lower.select import KernelCall
from whet.lower.storage import Root, constant_root
from whet.ops.node import constant

NAME = "share_kernels"

READABLE = ("float32", "int32", "int8", "uint8")
"""Types of numbers that may be read from memory."""

Sharable = Contraction | Nest | Attention
Rewrite = Callable[[Const], Expr]
_WHOLE = {"add": int.__add__, "sub": int.__sub__, "mul": int.__mul__}


class _Member(msgspec.Struct, frozen=True):
    """A launch whose kernel may be shared: its place, its kernel, and the numbers in it."""

    place: int
    kernel: Sharable
    numbers: tuple[Const, ...]


def share_kernels(calls: Sequence[KernelCall], rewrites: Rewrites) -> list[KernelCall]:
    """Return calls whose kernels are equal where they differed in numbers."""
    groups: dict[Sharable, list[_Member]] = {}
    for place, call in enumerate(calls):
        kernel = call.kernel
        if isinstance(kernel, Sharable) and not (isinstance(kernel, Nest) and kernel.squares):
            outline, numbers = _outline(kernel)
            groups.setdefault(outline, []).append(_Member(place, kernel, numbers))
    result = list(calls)
    for members in groups.values():
        if len({m.numbers for m in members}) > 1 and rewrites.take(NAME):
            for member in members:
                kernel, roots = _reading(member, _differing(members))
                call = calls[member.place]
                result[member.place] = replace(call, kernel=kernel, roots=(*call.roots, *roots))
    return result


def _outline(kernel: Sharable) -> tuple[Sharable, tuple[Const, ...]]:
    """Return a kernel without its numbers, and the numbers in the order in which they stand."""
    numbers: list[Const] = []

    def blank(number: Const) -> Expr:
        numbers.append(number)
        return Var("#", number.dtype)

    return _rewritten(kernel, blank), tuple(numbers)


def _differing(members: Sequence[_Member]) -> list[int | None]:
    """Return a number for each place where members differ, the same where all have the same twice.

    ``None`` is where they do not differ.
    """
    columns = list(zip(*(m.numbers for m in members), strict=True))
    known = dict.fromkeys(c for c in columns if len(set(c)) > 1)
    slots = {column: slot for slot, column in enumerate(known)}
    return [slots.get(column) for column in columns]


def _reading(member: _Member, slots: Sequence[int | None]) -> tuple[Sharable, list[Root]]:
    """Return a kernel that reads some of its numbers, and the memory that it reads them from."""
    held = {slot: n for slot, n in zip(slots, member.numbers, strict=True) if slot is not None}
    params, roots, reads = list(member.kernel.params), list[Root](), dict[int, Read]()
    for dtype in sorted({n.dtype for n in held.values()}):
        own = [slot for slot, n in held.items() if n.dtype == dtype]
        reads |= {slot: Read(len(params), as_poly(k), dtype) for k, slot in enumerate(own)}
        values = np.array([held[slot].value for slot in own], dtype)
        params.append(Param(dtype, written=False))
        roots.append(constant_root(constant(f"{dtype} numbers", values)))
    places = iter(slots)

    def read(number: Const) -> Expr:
        slot = next(places)
        return number if slot is None else reads[slot]

    return replace(_rewritten(member.kernel, read), params=tuple(params)), roots


def _rewritten(kernel: Sharable, rewrite: Rewrite) -> Sharable:
    """Return a kernel with other numbers in what is done once for each result, in order."""
    names_wait = isinstance(kernel, Nest) and bool(kernel.row)

    def below(expr: Expr) -> Expr:
        expr = _whole(expr)
        if isinstance(expr, Const):
            return rewrite(expr) if expr.dtype in READABLE else expr
        if names_wait and _is_settled(expr):
            return expr
        if isinstance(expr, Guard) and isinstance(expr.otherwise, Const):
            return replace(expr, then=below(expr.then))
        return expr.map(below)

    stores = tuple(replace(s, value=below(s.value)) for s in kernel.stores)
    if not isinstance(kernel, Attention):
        return replace(kernel, stores=stores)
    integers = kernel.integers
    if integers is not None:
        integers = replace(integers, share=below(integers.share))
    return replace(kernel, stores=stores, score=below(kernel.score), integers=integers)


def _whole(expr: Expr) -> Expr:
    """Return what is known of a 32-bit integer as a number: arithmetic with numbers alone."""
    if not isinstance(expr, Call) or expr.dtype != "int32":
        return expr
    args = [_whole(a) for a in expr.args]
    values = [a.value for a in args if isinstance(a, Const) and isinstance(a.value, int)]
    if len(values) != len(args):
        return expr
    if expr.op == "cast":
        return Const(int(values[0]), "int32")
    if expr.op not in _WHOLE:
        return expr
    found = _WHOLE[expr.op](int(values[0]), int(values[1]))
    return Const((found + 2**31) % 2**32 - 2**31, "int32")


def _is_settled(expr: Expr) -> bool:
    """Whether earlier results decide a value alone: then it is computed before a loop."""
    parts = list(walk(expr))
    plain = all(isinstance(e, Call | Const | Var) for e in parts)
    return plain and any(isinstance(e, Var) for e in parts)
