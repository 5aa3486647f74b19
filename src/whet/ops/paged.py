"""Attention over a paged cache, of the domain ``whet``: ONNX has no operator that keeps a cache.

``PagedAttention(q, k, v, key_pages, value_pages, slots, tiles, tables)`` puts the keys and values
of this step's tokens into the pools, in place, and attends over what the tables say:

    q [tokens, heads, depth], k [tokens, kv_heads, depth], v [tokens, kv_heads, columns]
    key_pages [pages, kv_heads, depth, 32], value_pages [pages, kv_heads, 32, columns up to 16s]
    slots [tokens]: place of a token in the pools, page * 32 + position in it; outside: not kept
    tiles [tiles, 4]: row of the table, first token, number of tokens, position of the first one
    tables [sequences, pages of each]

Pools are float32, float16, bfloat16 or int8. Those of 8 bits come with two more inputs, pools of
their scales, ``key_scales`` and ``value_scales [pages, kv_heads, 32]``, which are kept likewise: a
scale for every token and head.

``whet.kernel.interpret_paged`` says in NumPy what it means. It takes the attributes ``scale``,
``softcap`` and ``window`` of ``whet.kernel.paged.Weighing``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from whet.graph.opset import WHET_DOMAIN
from whet.index import Axis, Poly, as_poly, var
from whet.kernel.expr import Call, Expr, IndexValue, Var, index_of
from whet.kernel.paged import COLUMNS, PAGE, PagedAttend, Weighing
from whet.kernel.scatter import Updates
from whet.kernel.spec import ACCUMULATOR, Step
from whet.kernel.tensor import Definition, Steps, Tensor, axes_for
from whet.ops.build import binary, cast, unary
from whet.ops.node import Node, Op
from whet.ops.operand import agree

POOL_TYPES = ("float32", "float16", "bfloat16", "int8")

LARGEST = 127.0
LEAST = 1e-30
"""Below this a scale only belongs to zeros."""


def _lower(node: Node) -> list[Tensor]:
    q, k, v, keys, values, slots, tiles, tables = (node.input(i) for i in range(8))
    _check(node, (q, k, v), (keys, values), (slots, tiles, tables))
    agree(node, slots.shape, q.shape[:1], "a slot for every token")
    heads, depth, cols = k.shape[1], q.shape[2], v.shape[2]
    agree(node, keys.shape[1:], (heads, depth, as_poly(PAGE)), "pages of keys")
    agree(node, values.shape[1:], (heads, as_poly(PAGE), _padded(cols)), "pages of values")
    agree(node, tiles.shape[1:], (as_poly(4),), "four numbers a tile")

    def key_place(token: Axis, head: Axis, column: Axis) -> tuple[Poly, Poly, Poly, Poly]:
        page, position = _slot(slots, token)
        return page, var(head), var(column), position

    def value_place(token: Axis, head: Axis, column: Axis) -> tuple[Poly, Poly, Poly, Poly]:
        page, position = _slot(slots, token)
        return page, var(head), position, var(column)

    scales = _kept_scales(node, (k, v), slots) if keys.dtype == "int8" else []
    sizes: list[Tensor | None] = [scale for scale, _ in scales] or [None, None]
    kept_keys = _kept(node, "keys", keys, _coded(k, keys.dtype, sizes[0]), key_place)
    kept_values = _kept(node, "values", values, _coded(v, values.dtype, sizes[1]), value_place)
    axes = axes_for((q.shape[0], q.shape[1], cols))
    anchor = PagedAttend(
        q=q.at(var(axes[0]), var(axes[1]), var(inner := Axis("d", depth))),
        tiles=tiles.at(0, 0),
        tables=tables.at(0, 0),
        keys=kept_keys.at(0, 0, 0, 0),
        values=kept_values.at(0, 0, 0, 0),
        axes=(axes[0], axes[1], axes[2]),
        depth=inner,
        weighing=Weighing(
            float(node.attribute("scale", 1.0)),
            float(node.attribute("softcap", 0.0)),
            int(node.attribute("window", 0)),
        ),
        scales=tuple(pool.at(0, 0, 0) for _, pool in scales),
    )
    body = Var(ACCUMULATOR, "float32")
    return [node.define((q.shape[0], q.shape[1], cols), "float32", Definition(axes, body, anchor))]


def _check(
    node: Node,
    rows: tuple[Tensor, Tensor, Tensor],
    pools: tuple[Tensor, Tensor],
    places: tuple[Tensor, Tensor, Tensor],
) -> None:
    """Refuse what the kernel cannot take.

    Raises:
        ShapeError: a type, a rank or a size does not fit, or a pool is no input of the model.
    """
    for tensor, rank, dtypes in (
        *((t, 3, ("float32",)) for t in rows),
        *((t, 4, POOL_TYPES) for t in pools),
    ):
        if tensor.rank != rank or tensor.dtype not in dtypes:
            raise node.error(f"{tensor.name!r} is {tensor.dtype} of rank {tensor.rank}")
    if pools[0].dtype != pools[1].dtype:
        raise node.error(f"keys are {pools[0].dtype}, values {pools[1].dtype}")
    for tensor, rank in zip(places, (1, 2, 2), strict=True):
        if tensor.rank != rank or tensor.dtype != "int32":
            raise node.error(f"{tensor.name!r} is {tensor.dtype}, not int32 of rank {rank}")
    _check_inputs(node, pools)
    q, k, v = rows
    sizes = [q.shape[1], k.shape[1], q.shape[2], v.shape[2]]
    if any(s.constant is None for s in sizes) or k.shape[1] != v.shape[1]:
        raise node.error("heads and their sizes have to be known when compiling, and agree")
    if (q.shape[1].constant or 0) % (k.shape[1].constant or 1):
        raise node.error(f"{q.shape[1]} heads cannot share {k.shape[1]} heads of keys")


def _check_inputs(node: Node, pools: Sequence[Tensor]) -> None:
    """Refuse pools that are no inputs of the model."""
    for pool in pools:
        if pool.definition is not None or pool.value is not None:
            raise node.error(f"{pool.name!r} is changed in place, so it has to be an input")


def _padded(columns: Poly) -> Poly:
    return as_poly(-(-(columns.constant or 0) // COLUMNS) * COLUMNS)


def _slot(slots: Tensor, token: Axis) -> tuple[Poly, Poly]:
    """Return the page of a token, and its position there."""
    slot = index_of(slots.at(var(token)), None, None)
    return slot // PAGE, slot % PAGE


Place = Callable[..., tuple[Poly, ...]]
Rows = Callable[..., Expr]


def _kept_scales(
    node: Node, rows: tuple[Tensor, Tensor], slots: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Return the scales of keys and of values, and the pools with those of this step in them."""
    found = []
    for position, name, source in zip((8, 9), ("key", "value"), rows, strict=True):
        pool = node.input(position)
        _check_inputs(node, [pool])
        agree(node, pool.shape[1:], (source.shape[1], as_poly(PAGE)), f"pages of {name} scales")
        if pool.rank != 3 or pool.dtype != "float32":
            raise node.error(f"{pool.name!r} is {pool.dtype} of rank {pool.rank}")
        axes, inner = axes_for(source.shape[:2]), Axis("d", source.shape[2])
        size = unary("abs", source.at(*(var(a) for a in axes), var(inner)))
        largest = Steps((Step("top", "max", (inner,), size, "float32"),))
        body = binary("div", Var("top", "float32"), LARGEST)
        definition = Definition(axes, body, largest)
        scale = node.temporary(f"{name}_scale", source.shape[:2], "float32", definition)

        def place(token: Axis, head: Axis) -> tuple[Poly, ...]:
            page, position = _slot(slots, token)
            return page, var(head), position

        def value(token: Axis, head: Axis, scale: Tensor = scale) -> Expr:
            return scale.at(var(token), var(head))

        update = _Rows(source.shape[:2], value)
        found.append((scale, _kept(node, f"{name}_scales", pool, update, place)))
    return found


class _Rows(msgspec.Struct, frozen=True):
    """What a step adds to a pool: an element at each point."""

    shape: tuple[Poly, ...]
    at: Rows


def _coded(rows: Tensor, dtype: str, scale: Tensor | None) -> _Rows:
    """Return rows in the type of a pool: rounded, or in steps of a scale."""

    def at(token: Axis, head: Axis, column: Axis) -> Expr:
        value = rows.at(var(token), var(head), var(column))
        if scale is None:
            return cast(value, dtype)
        step = binary("max", scale.at(var(token), var(head)), LEAST)
        return cast(Call("nearest", (binary("div", value, step),), "int32"), dtype)

    return _Rows(rows.shape, at)


def _kept(node: Node, name: str, pool: Tensor, rows: _Rows, place: Place) -> Tensor:
    """Return a pool with the rows of this step in it, in the pool's own memory."""
    axes = axes_for(pool.shape)
    own = axes_for(rows.shape, "u")
    at = tuple(IndexValue(p, "int64") for p in place(*own))
    value = rows.at(*own)
    start = pool.at(*(var(a) for a in axes))
    anchor = Updates(own, at, value, "", in_place=True)
    return node.temporary(name, pool.shape, pool.dtype, Definition(axes, start, anchor))


OPS: tuple[Op, ...] = (Op("PagedAttention", _lower, domain=WHET_DOMAIN),)
