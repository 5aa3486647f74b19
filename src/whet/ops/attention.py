"""Attention: softmax(scale * q k' + mask) v, with grouped heads, caches, masks and windows.

Scores and probabilities are equations of their own, which fusion turns into one kernel.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec
import numpy as np

from whet.index import ONE, ZERO, Axis, Poly, as_poly, var
from whet.kernel.expr import Expr, IndexValue, Var, Within, guard
from whet.kernel.spec import ACCUMULATOR, Step
from whet.kernel.tensor import Definition, Product, Steps, Tensor
from whet.ops.build import binary, cast, compare, compute_type, const, select, unary
from whet.ops.movement import joined
from whet.ops.node import Node, Op
from whet.ops.normalise import softmax_raised, softmax_unless_empty
from whet.ops.operand import agree, attribute_flag, attribute_float
from whet.ops.pointwise import element_type

Score = Callable[[Expr], Expr]
LOWEST = -np.inf
RAW, CAPPED, BIASED, SHARES = range(4)


class Heads(msgspec.Struct, frozen=True):
    """A tensor of heads, ``[batch, heads, length, size]`` or ``[batch, length, heads * size]``.

    Attributes:
        x: the tensor.
        count: number of heads.
    """

    x: Tensor
    count: int

    @property
    def length(self) -> Poly:
        """Number of positions."""
        return self.x.shape[-2]

    @property
    def size(self) -> Poly:
        """Elements of one head."""
        return self.x.shape[-1] if self.x.rank == 4 else self.x.shape[-1] // self.count

    def place(self, batch: Poly, head: Poly, position: Poly, element: Poly) -> tuple[Poly, ...]:
        """Return the index of an element."""
        if self.x.rank == 4:
            return (batch, head, position, element)
        return (batch, position, head * self.size + element)

    def at(self, batch: Poly, head: Poly, position: Poly, element: Poly) -> Expr:
        """Return an element."""
        return self.x.at(*self.place(batch, head, position, element))


def heads_of(node: Node, position: int, attribute: str) -> Heads:
    """Return an input as heads; with three dimensions an attribute says how many.

    Raises:
        ShapeError: the rank is neither 3 nor 4, or the number of heads is unknown.
    """
    x = node.input(position)
    if x.rank not in (3, 4):
        raise node.error(f"input {position} has rank {x.rank}, needs 3 or 4")
    count = x.shape[1].constant if x.rank == 4 else node.attribute(attribute)
    if not count or (x.rank == 3 and x.shape[2] % count != 0):
        raise node.error(f"the heads of input {position} {list(x.shape)} are unknown")
    return Heads(x, int(count))


class Grid(msgspec.Struct, frozen=True):
    """The axes of attention: every query of every head meets every key.

    Attributes:
        batch: batch entries.
        group: heads of keys and values.
        member: queries' heads that share one of those; ``None`` if there is one each.
        query: positions of queries.
        key: positions of keys.
    """

    batch: Axis
    group: Axis
    member: Axis | None
    query: Axis
    key: Axis

    @property
    def rows(self) -> tuple[Axis, ...]:
        """All axes but the keys."""
        middle = () if self.member is None else (self.member,)
        return (self.batch, self.group, *middle, self.query)

    @property
    def head(self) -> Poly:
        """The head of the queries."""
        if self.member is None:
            return var(self.group)
        return var(self.group) * self.member.extent + var(self.member)

    @property
    def heads(self) -> Poly:
        """Number of heads of the queries."""
        return self.group.extent * (ONE if self.member is None else self.member.extent)


def grid_of(node: Node, q: Heads, k: Heads) -> Grid:
    """Return the axes of attention between queries and keys.

    Raises:
        ShapeError: the queries' heads do not share the keys' heads evenly.
    """
    if q.count % k.count or q.size != k.size:
        raise node.error(f"queries {list(q.x.shape)} and keys {list(k.x.shape)} do not fit")
    share = q.count // k.count
    return Grid(
        batch=Axis("b", q.x.shape[0]),
        group=Axis("g", as_poly(k.count)),
        member=None if share == 1 else Axis("r", as_poly(share)),
        query=Axis("i", q.length),
        key=Axis("j", k.length),
    )


def raw_scores(node: Node, grid: Grid, q: Heads, k: Heads, score: Score) -> Tensor:
    """Return an expression of ``q k'`` over the axes of attention."""
    depth = Axis("d", q.size)
    b, i, j = var(grid.batch), var(grid.query), var(grid.key)
    a = q.at(b, grid.head, i, var(depth))
    keys = k.at(b, var(grid.group), j, var(depth))
    body = score(Var(ACCUMULATOR, q.x.dtype))
    axes = (*grid.rows, grid.key)
    product = Product(a, keys, grid.rows, grid.key, (), depth)
    shape = tuple(x.extent for x in axes)
    return node.temporary("scores", shape, body.dtype, Definition(axes, body, product))


def shares(node: Node, grid: Grid, value: Callable[[Axis], Expr], dtype: str) -> Tensor:
    """Return the softmax over the keys of a value; rows of minus infinities give 0."""
    met = Axis("met", grid.key.extent)
    here, there = value(grid.key), value(met)
    top, total = Var("top", here.dtype), Var("total", here.dtype)
    steps = (
        Step("top", "max", (met,), there, here.dtype),
        Step("total", "sum", (met,), softmax_raised(there, top), here.dtype),
    )
    axes = (*grid.rows, grid.key)
    body = cast(softmax_unless_empty(here, top, total), dtype)
    shape = tuple(x.extent for x in axes)
    return node.temporary("shares", shape, dtype, Definition(axes, body, Steps(steps)))


def weighted(node: Node, grid: Grid, share: Tensor, v: Heads, like: Heads) -> Tensor:
    """Return the values weighted by shares, laid out as the queries ``like`` are."""
    col = Axis("e", v.size)
    b, i = var(grid.batch), var(grid.query)
    a = share.at(*map(var, grid.rows), var(grid.key))
    values = cast(v.at(b, var(grid.group), var(grid.key), var(col)), share.dtype)
    product = Product(a, values, grid.rows, col, (), grid.key)
    flat = grid.heads * v.size
    batch, length = grid.batch.extent, grid.query.extent
    if like.x.rank == 3:
        shape: tuple[Poly, ...] = (batch, length, flat)
        index: tuple[Poly, ...] = (b, i, grid.head * v.size + var(col))
    else:
        shape, index = (batch, grid.heads, length, v.size), (b, grid.head, i, var(col))
    body = Var(ACCUMULATOR, share.dtype)
    return node.define(shape, share.dtype, Definition((*grid.rows, col), body, product, index))


# -- masks -----------------------------------------------------------------------------------------


class Visible(msgspec.Struct, frozen=True):
    """Which keys a query sees.

    Attributes:
        mask: added to scores, or saying which are seen; broadcast over the axes of attention.
        lengths: number of valid keys of every batch entry.
        past: keys before the first query's own, where that is known when compiling.
        causal: whether later keys are hidden.
        left: how many earlier keys are seen; all if negative.
        right: how many later keys are seen; all if negative.
    """

    mask: Tensor | None = None
    lengths: Tensor | None = None
    past: Poly = ZERO
    causal: bool = False
    left: int = -1
    right: int = -1

    def apply(self, score: Expr, grid: Grid, key: Axis) -> Expr:
        """Return a score as the mask leaves it, minus infinity where the key is hidden."""
        hidden = const(LOWEST, score.dtype)
        if self.mask is not None:
            score = _masked(score, self.mask, grid, key)
        right = 0 if self.causal else self.right
        if self.lengths is not None:
            count = cast(self.lengths.at(var(grid.batch)), "int64")
            place = IndexValue(var(key), "int64")
            seen = compare("lt", place, count)
            own = IndexValue(var(grid.query) - grid.query.extent, "int64")
            away = binary("sub", place, binary("add", own, count))
            if right >= 0:
                seen = binary("and", seen, compare("le", away, right))
            if self.left >= 0:
                seen = binary("and", seen, compare("ge", away, -self.left))
            return select(seen, score, hidden)
        ahead = var(grid.query) + self.past - var(key)
        limits: list[Within] = []
        if right >= 0:
            limits.append(Within(ahead + right, grid.query.extent + self.past + right))
        if self.left >= 0:
            limits.append(Within(self.left - ahead, key.extent + self.left))
        return guard(tuple(limits), score, hidden)


def _masked(score: Expr, mask: Tensor, grid: Grid, key: Axis) -> Expr:
    """Apply a mask of up to four dimensions; keys behind its end are hidden."""
    places = (var(grid.batch), grid.head, var(grid.query), var(key))[4 - mask.rank :]
    short = [p if e != 1 else ZERO for p, e in zip(places, mask.shape, strict=True)]
    last = mask.shape[-1] if mask.rank else key.extent
    if mask.rank:
        short[-1] = var(key)
    element = mask.at(*short)
    hidden = const(LOWEST, score.dtype)
    if mask.dtype == "bool":
        applied = select(element, score, hidden)
    else:
        bias = cast(element, score.dtype)
        applied = select(compare("eq", bias, LOWEST), hidden, binary("add", score, bias))
    return guard((Within(var(key), last),), applied, hidden)


# -- Attention of ONNX -----------------------------------------------------------------------------


def lower_attention(node: Node) -> list[Tensor]:
    """Lower ``Attention``; source: ONNX Attention 23 to 25."""
    q = heads_of(node, 0, "q_num_heads")
    k, past = _cached(node, 1, 4, "present_key")
    v, _ = _cached(node, 2, 5, "present_value")
    grid = grid_of(node, q, k)
    _check_fit(node, grid, k, v)
    visible = Visible(
        mask=node.optional(3),
        lengths=node.optional(6),
        past=past,
        causal=attribute_flag(node, "is_causal"),
        left=int(node.attribute("left_window_size", -1)),
        right=int(node.attribute("right_window_size", -1)),
    )
    stages = _Stages(node, grid, visible, q)
    wanted = int(node.attribute("qk_matmul_output_mode", 0))
    shown = wanted if len(node.outputs) > 3 and node.outputs[3] else SHARES
    scores = raw_scores(node, grid, q, k, lambda x: stages.run(x, -1, shown))

    def value(key: Axis) -> Expr:
        score = scores.at(*map(var, grid.rows), var(key))
        return cast(stages.run(score, shown, SHARES, key), stages.dtype)

    share = shares(node, grid, value, q.x.dtype)
    result = [weighted(node, grid, share, v, q)]
    result += [_headed(node, k, 1), _headed(node, v, 2)]
    return [*result, _shown(node, grid, share if wanted == SHARES else scores, q.x.dtype)]


class _Stages(msgspec.Struct, frozen=True):
    """What happens to a product of query and key, one stage after another."""

    node: Node
    grid: Grid
    visible: Visible
    q: Heads

    @property
    def dtype(self) -> str:
        """Type in which the softmax is computed."""
        code = self.node.attribute("softmax_precision", 0)
        wanted = element_type(self.node, code) if code else "float32"
        return "float64" if "float64" in (wanted, self.q.x.dtype) else "float32"

    def run(self, x: Expr, done: int, last: int, key: Axis | None = None) -> Expr:
        """Return a score after the stages from ``done`` (exclusive) up to ``last``."""
        x = cast(x, compute_type(x.dtype))
        cap = attribute_float(self.node, "softcap", 0.0)
        if done < RAW:
            x = binary("mul", x, self._scale())
        if done < CAPPED <= last and cap > 0:
            x = binary("mul", unary("tanh", binary("div", x, cap)), cap)
        if done < BIASED <= last:
            x = self.visible.apply(x, self.grid, key or self.grid.key)
        return x

    def _scale(self) -> float:
        size = self.q.size.constant
        if size is None:
            raise self.node.error("needs heads of static size")
        given = self.node.attribute("scale")
        return 1 / math.sqrt(max(size, 1)) if not given else float(np.float32(given))


def _check_fit(node: Node, grid: Grid, k: Heads, v: Heads) -> None:
    """Check, now or in a run, that all is as large as the axes along which it is read."""
    if v.count != k.count:
        raise node.error(f"keys {list(k.x.shape)} and values {list(v.x.shape)} do not fit")
    batch, mask, lengths = grid.batch.extent, node.optional(3), node.optional(6)
    agree(node, (k.x.shape[0], v.x.shape[0]), (batch, batch), "batch of keys and values")
    agree(node, (v.length,), (k.length,), "lengths of keys and values")
    if lengths is not None:
        agree(node, lengths.shape, (batch,), "a length for every batch entry")
    if mask is not None:
        wide = (batch, grid.heads, grid.query.extent, grid.key.extent)
        if mask.rank > len(wide):
            raise node.error(f"the mask {list(mask.shape)} has too many dimensions")
        pairs = list(zip(mask.shape, wide[4 - mask.rank :], strict=True))[:-1]
        full = [(m, e) for m, e in pairs if m != 1]
        agree(node, tuple(m for m, _ in full), tuple(e for _, e in full), "the mask")


def _cached(node: Node, position: int, past: int, name: str) -> tuple[Heads, Poly]:
    """Return keys or values behind those of earlier calls, and how many those are."""
    new, earlier = heads_of(node, position, "kv_num_heads"), node.optional(past)
    if earlier is None:
        return new, ZERO
    if earlier.rank != 4:
        raise node.error(f"input {past} has rank {earlier.rank}, needs 4")
    parts = [earlier, _headed(node, new, position)]
    sides = [(t.shape[0], t.shape[1], t.shape[3]) for t in parts]
    agree(node, sides[0], sides[1], f"input {past} and what comes after it")
    kept = [p for p in parts if p.shape[2] != 0] or parts[:1]
    return Heads(joined(node.step(name), kept, 2), new.count), earlier.shape[2]


def _headed(node: Node, heads: Heads, output: int) -> Tensor:
    """Return heads with four dimensions."""
    if heads.x.rank == 4:
        return heads.x
    shape = (heads.x.shape[0], as_poly(heads.count), heads.length, heads.size)
    return node.pointwise(
        shape, heads.x.dtype, lambda b, h, i, d: heads.at(*map(var, (b, h, i, d))), output=output
    )


def _shown(node: Node, grid: Grid, scores: Tensor, dtype: str) -> Tensor:
    """Return scores or probabilities with one dimension for the queries' heads."""
    shape = (grid.batch.extent, grid.heads, grid.query.extent, grid.key.extent)

    def body(*axes: Axis) -> Expr:
        b, h, i, j = map(var, axes)
        group = (h,) if grid.member is None else divmod_of(h, grid.member.extent)
        return cast(scores.at(b, *group, i, j), dtype)

    return node.pointwise(shape, dtype, body, output=3)


def divmod_of(index: Poly, extent: Poly) -> tuple[Poly, Poly]:
    """Return quotient and remainder of an index."""
    return index // extent, index % extent


OPS: tuple[Op, ...] = (Op("Attention", lower_attention),)
