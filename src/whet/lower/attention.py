"""Recognising attention: a product, a softmax over its columns, and a product with the result.

Whatever is between product and softmax (scale, mask, bias) becomes the score expression, so that
every exporter's spelling ends in one kernel that never writes the scores.
"""

from __future__ import annotations

from collections.abc import Callable

from whet.index import Atom, Axis, IndexLike, product, var
from whet.kernel.attention_schedule import (
    MOST_INTEGER_KEYS,
    MOST_KEYS,
    Heads,
    choose_attention,
)
from whet.kernel.expr import Call, Const, Expr, Load, Read, Var, rewrite_leaves, walk
from whet.kernel.spec import Attention, Step, Store
from whet.kernel.tensor import Attend, Definition, Product, Steps, Tensor
from whet.lower.loops import by_stride
from whet.lower.storage import Params, Storage, Storages, address_of, magnitude, to_reads
from whet.lower.uses import sources
from whet.ops.normalise import softmax_body, softmax_raised, softmax_unless_empty
from whet.target import Target

SHORT_FLOATS = ("float16", "bfloat16")
TYPICAL_LENGTH = 256
"""Queries and keys, where their number is only known when the model runs."""

Single = Callable[[Tensor], bool]


def fuse_attention(tensor: Tensor, single: Single) -> bool:
    """Turn a product with a softmax of a product into one attention; returns whether it was one."""
    definition = tensor.definition
    if definition is None or not isinstance(definition.anchor, Product) or definition.anchor.taps:
        return False
    outer = definition.anchor
    soft = source_at(outer.a, (*outer.rows, outer.depth), single)
    if soft is None or not isinstance(outer.b, Load):
        return False
    scored = _score(soft, single)
    if scored is None:
        return False
    scores, score, rows, key = scored
    body = None if soft.definition is None else _unrounded(soft.definition.body)
    inner = scores.definition.anchor if scores.definition is not None else None
    if not isinstance(inner, Product) or not is_static(inner.depth, outer.col):
        return False
    if not isinstance(inner.a, Load) or not isinstance(inner.b, Load):
        return False
    depth = Axis("d", inner.depth.extent)  # may be equal to the key axis: rename both at once
    back: dict[Atom, IndexLike] = {
        **{a: var(r) for a, r in zip(inner.rows, outer.rows, strict=True)},
        inner.col: var(outer.depth),
        inner.depth: var(depth),
    }
    forth: dict[Atom, IndexLike] = {
        **{a: var(r) for a, r in zip(rows, outer.rows, strict=True)},
        key: var(outer.depth),
    }
    attend = Attend(
        q=inner.a.substitute(back),
        k=inner.b.substitute(back),
        v=outer.b,
        score=score.substitute(forth),
        rows=outer.rows,
        key=outer.depth,
        depth=depth,
        col=outer.col,
        zero_nan=body is not None and _is_nan_free(body),
        zero_empty=body is not None and _is_empty_free(body),
    )
    whole = Definition(definition.axes, definition.body, attend, definition.index)
    become_attention(tensor, whole, scores, soft)
    return True


def become_attention(tensor: Tensor, definition: Definition, scores: Tensor, soft: Tensor) -> None:
    """Give a tensor the definition of an attention, and the nodes of what that takes in."""
    tensor.definition = definition
    tensor.nodes = tuple(dict.fromkeys((*scores.nodes, *soft.nodes, *tensor.nodes)))
    tensor.ops = (*scores.ops, *soft.ops, *tensor.ops)
    if tensor.rank == 4:
        tensor.order = (0, 2, 1, 3)


def is_static(*axes: Axis) -> bool:
    """Whether extents are known when compiling."""
    return all(axis.extent.constant is not None for axis in axes)


def source_at(expr: Expr, axes: tuple[Axis, ...], single: Single) -> Tensor | None:
    """Return the tensor that an expression reads at exactly these axes, if it is read only here."""
    if not isinstance(expr, Load) or not single(expr.source) or len(expr.index) != len(axes):
        return None
    for index, axis in zip(expr.index, axes, strict=True):
        if index != var(axis) and not (axis.extent == 1 and index == 0):
            return None
    source: Tensor = expr.source
    return source


def _score(soft: Tensor, single: Single) -> tuple[Tensor, Expr, tuple[Axis, ...], Axis] | None:
    """Take a softmax apart: the product it reads, the score expression, its rows and key axis."""
    definition = soft.definition
    steps = softmax_steps(definition)
    if definition is None or steps is None:
        return None
    top, total = steps
    rows, key, met = definition.axes[:-1], definition.axes[-1], top.axes[0]
    here = top.body.substitute({met: var(key)})
    highest, whole = Var(top.name, here.dtype), Var(total.name, here.dtype)
    raised = total.body.substitute({met: var(key)}) == softmax_raised(here, highest)
    body = _unrounded(definition.body)
    plain = softmax_body(here, highest, whole)
    shared = body == softmax_unless_empty(here, highest, whole) or (
        _unrounded(_without_nan_test(body)) == plain
    )
    if not raised or not shared or here.dtype != "float32":
        return None
    return product_read(definition, here, (rows, key), single)


def softmax_steps(definition: Definition | None) -> tuple[Step, Step] | None:
    """Return the maximum and the sum that a softmax takes along one axis."""
    if definition is None or definition.index or not isinstance(definition.anchor, Steps):
        return None
    steps = definition.anchor.steps
    if [s.op for s in steps] != ["max", "sum"] or steps[0].axes != steps[1].axes:
        return None
    return (steps[0], steps[1]) if len(steps[0].axes) == 1 else None


def _unrounded(body: Expr) -> Expr:
    """Return what is rounded to 16 bits, as probabilities between products of such floats are."""
    rounded = isinstance(body, Call) and body.op == "cast" and body.dtype in SHORT_FLOATS
    return body.args[0] if isinstance(body, Call) and rounded else body


def _without_nan_test(body: Expr) -> Expr:
    """Return ``p`` of ``p where p is a number, else 0``, which exporters write after a softmax."""
    return body.args[2] if isinstance(body, Call) and _is_nan_free(body) else body


def _is_nan_free(body: Expr) -> bool:
    if not isinstance(body, Call) or body.op != "select":
        return False
    test, zero, value = body.args
    return test == Call("ne", (value, value), "bool") and zero == Const(0.0, value.dtype)


def _is_empty_free(body: Expr) -> bool:
    """Whether a softmax gives 0 where it finds nothing but minus infinity."""
    return isinstance(body, Call) and body.op == "select" and not _is_nan_free(body)


def product_read(
    soft: Definition, here: Expr, point: tuple[tuple[Axis, ...], Axis], single: Single
) -> tuple[Tensor, Expr, tuple[Axis, ...], Axis] | None:
    """Find the one product that a score reads at its own point, and inline its epilogue."""
    rows, key = point
    candidates = [
        t
        for t in sources(soft)
        if t.definition is not None and isinstance(t.definition.anchor, Product) and single(t)
    ]
    for scores in candidates:
        found = [e for e in walk(here) if isinstance(e, Load) and e.source is scores]
        inner = scores.definition
        assert inner is not None and isinstance(inner.anchor, Product)
        if inner.index or inner.anchor.taps or len(inner.axes) != len(rows) + 1:
            continue
        if any(source_at(e, (*rows, key), single) is None for e in found):
            continue
        at: dict[Atom, IndexLike] = {
            a: var(b) for a, b in zip(inner.axes, (*rows, key), strict=True)
        }
        epilogue = inner.body.substitute(at)

        def inline(e: Expr, epilogue: Expr = epilogue, scores: Tensor = scores) -> Expr:
            return epilogue if isinstance(e, Load) and e.source is scores else e

        return scores, rewrite_leaves(here, inline), rows, key
    return None


def _length(axis: Axis) -> int:
    return TYPICAL_LENGTH if axis.extent.constant is None else axis.extent.constant


def build_attention(
    definition: Definition, storage: Storage, storages: Storages, target: Target, threads: int
) -> tuple[Attention, Params]:
    """Return the attention kernel that computes a definition into storage, and its parameters."""
    anchor = definition.anchor
    assert isinstance(anchor, Attend)
    params = Params()
    output = params.write(storage.root)
    body = to_reads(definition.body, storages, params)
    store = Store(output, address_of(definition.position, storage), body)

    def read(expr: Expr) -> Read:
        assert isinstance(expr, Load), "operands are legal here"
        place = storages[id(expr.source)]
        return Read(params.number(place.root), address_of(expr.index, place), expr.dtype)

    outer = by_stride(anchor.rows[:-1], store.address)
    points = max(magnitude(product(a.extent for a in outer)), 1)
    row = anchor.rows[-1]
    heads = Heads(
        points,
        _length(row),
        _length(anchor.key),
        magnitude(anchor.depth.extent),
        magnitude(anchor.col.extent),
        fixed=anchor.key.extent.constant is not None,
        most=MOST_KEYS if anchor.integers is None else MOST_INTEGER_KEYS,
    )
    tile = choose_attention(heads, target, threads)
    q, k, v = read(anchor.q), read(anchor.k), read(anchor.v)
    score = to_reads(anchor.score, storages, params)
    kernel = Attention(
        params.records(),
        outer,
        row,
        anchor.key,
        anchor.depth,
        anchor.col,
        q,
        k,
        v,
        score,
        (store,),
        *tile,
        zero_nan=anchor.zero_nan,
        zero_empty=anchor.zero_empty,
        integers=anchor.integers,
    )
    return kernel, params
