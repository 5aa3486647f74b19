"""Normalisations over axes: softmax and its kin, layer, instance, group and Lp norms.

Variances take two passes, ``sum((x - mean)^2) / n``, and half types are computed in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from whet.index import ONE, ZERO, Axis, Poly, product, var
from whet.kernel.expr import Expr, IndexValue, Var, Within, guard
from whet.kernel.spec import Step
from whet.kernel.tensor import Definition, Steps, Tensor, axes_for
from whet.ops.build import binary, cast, compare, compute_type, const, inverse, select, unary
from whet.ops.node import Node, Op, normalise_axis
from whet.ops.operand import agree, agree_to_broadcast, attribute_float, number, operand
from whet.ops.pointwise import element_type

Index = tuple[Poly, ...]


class _Rows(msgspec.Struct, frozen=True):
    """A tensor normalised along some of its dimensions.

    Attributes:
        x: the tensor.
        axes: one axis per dimension.
        along: reduced axes.
        inside: index of an element met by the reduction.
        dtype: type of the arithmetic.
    """

    x: Tensor
    axes: tuple[Axis, ...]
    along: tuple[Axis, ...]
    inside: Index
    dtype: str

    @property
    def here(self) -> Expr:
        """The element at the axes."""
        return cast(self.x.at(*map(var, self.axes)), self.dtype)

    @property
    def there(self) -> Expr:
        """The element met by a reduction."""
        return cast(self.x.at(*self.inside), self.dtype)

    @property
    def count(self) -> Expr:
        """Number of elements normalised together."""
        return number(product(a.extent for a in self.along), self.dtype)

    def step(self, name: str, op: str, body: Expr) -> Step:
        """Return a reduction over the normalised elements."""
        return Step(name, op, self.along, body, self.dtype)

    def total(self, name: str) -> Var:
        """Return a reduction's result."""
        return Var(name, self.dtype)

    def mean(self) -> Expr:
        """Return the mean, from step ``sum``."""
        return binary("div", self.total("sum"), self.count)

    def centred(self, value: Expr) -> Expr:
        """Return a value's distance from the mean."""
        return binary("sub", value, self.mean())

    def moments(self) -> tuple[Step, Step]:
        """Return the steps of mean and variance: ``sum`` and ``squares``."""
        away = self.centred(self.there)
        return (
            self.step("sum", "sum", self.there),
            self.step("squares", "sum", binary("mul", away, away)),
        )

    def deviation(self, epsilon: float) -> Expr:
        """Return ``sqrt(variance + epsilon)``, from step ``squares``."""
        variance = binary("div", self.total("squares"), self.count)
        return unary("sqrt", binary("add", variance, epsilon))

    def over_deviation(self, value: Expr, epsilon: float) -> Expr:
        """Return ``value / sqrt(variance + epsilon)`` with one division for all elements."""
        return binary("mul", value, inverse(self.deviation(epsilon)))

    def result(self, node: Node, body: Expr, *steps: Step) -> Tensor:
        """Return the normalised tensor."""
        value = cast(body, self.x.dtype)
        return node.define(self.x.shape, self.x.dtype, Definition(self.axes, value, Steps(steps)))


def _rows(x: Tensor, positions: set[int], dtype: str | None = None) -> _Rows:
    axes = axes_for(x.shape)
    along = {k: Axis(f"r{k}", x.shape[k]) for k in sorted(positions)}
    inside = tuple(var(along.get(k, a)) for k, a in enumerate(axes))
    return _Rows(x, axes, tuple(along.values()), inside, dtype or compute_type(x.dtype))


def _one_axis(node: Node, default: int) -> _Rows:
    x = node.input(0)
    return _rows(x, {normalise_axis(node, int(node.attribute("axis", default)), x.rank)})


# -- softmax ---------------------------------------------------------------------------------------


def softmax_raised(value: Expr, top: Var) -> Expr:
    """Return the exponential of a value, relative to its row's greatest."""
    return unary("exp_nonpositive", binary("sub", value, top))


def softmax_body(value: Expr, top: Var, total: Var) -> Expr:
    """Return one element of a softmax; attention is recognised by this form."""
    return binary("mul", softmax_raised(value, top), inverse(total))


def softmax_unless_empty(value: Expr, top: Var, total: Var) -> Expr:
    """Return one element of a softmax that is 0 where all values are minus infinity."""
    empty = compare("eq", top, -np.inf)
    return select(empty, const(0, value.dtype), softmax_body(value, top, total))


def _exponentials(rows: _Rows) -> tuple[Step, Step]:
    raised = softmax_raised(rows.there, rows.total("top"))
    return rows.step("top", "max", rows.there), rows.step("total", "sum", raised)


def _softmax(node: Node) -> list[Tensor]:
    rows = _one_axis(node, -1)
    body = softmax_body(rows.here, rows.total("top"), rows.total("total"))
    return [rows.result(node, body, *_exponentials(rows))]


def log_softmax(node: Node) -> list[Tensor]:
    """Lower ``LogSoftmax``: ``x - top - log(sum(exp(x - top)))``."""
    rows = _one_axis(node, -1)
    lowered = binary("sub", rows.here, rows.total("top"))
    body = binary("sub", lowered, unary("log", rows.total("total")))
    return [rows.result(node, body, *_exponentials(rows))]


def _hardmax(node: Node) -> list[Tensor]:
    """Return 1 at the first greatest element, else 0."""
    rows = _one_axis(node, -1)
    (r,) = rows.along
    k = int(r.name[1:])
    place = Var("place", "int64")
    found = compare("eq", rows.there, rows.total("top"))
    far = number(r.extent, "int64")
    first = Step(
        "place", "min", rows.along, select(found, IndexValue(var(r), "int64"), far), "int64"
    )
    is_first = compare("eq", IndexValue(var(rows.axes[k]), "int64"), place)
    body = select(is_first, const(1, rows.dtype), const(0, rows.dtype))
    return [rows.result(node, body, rows.step("top", "max", rows.there), first)]


# -- moments ---------------------------------------------------------------------------------------


def _stash_type(node: Node, x: Tensor) -> str:
    stash = element_type(node, node.attribute("stash_type", 1))
    return "float64" if "float64" in (x.dtype, stash) else stash


def _scaled(body: Expr, dtype: str, scale: Expr | None, bias: Expr | None) -> Expr:
    if scale is not None:
        body = binary("mul", body, cast(scale, dtype))
    if bias is not None:
        body = binary("add", body, cast(bias, dtype))
    return body


def _layer_norm(node: Node) -> list[Tensor]:
    x, epsilon = node.input(0), attribute_float(node, "epsilon", 1e-5)
    first = normalise_axis(node, int(node.attribute("axis", -1)), x.rank)
    dtype = _stash_type(node, x)
    rows = _rows(x, set(range(first, x.rank)), dtype)
    steps = rows.moments()
    given = (node.optional(1), node.optional(2))
    for tensor in given:
        if tensor is not None:
            agree_to_broadcast(node, tensor, x.shape)
    scale, bias = (None if t is None else operand(t, rows.axes) for t in given)
    plain = rows.over_deviation(rows.centred(rows.here), epsilon)
    body = _scaled(plain, dtype, scale, bias)
    result = [rows.result(node, body, *steps)]
    statistics = (rows.mean(), 1), (inverse(rows.deviation(epsilon)), 2)
    for output, (value, used) in enumerate(statistics, start=1):
        if output < len(node.outputs):
            result.append(_statistic(node, rows, value, steps[:used], output))
    return result


def _statistic(
    node: Node, rows: _Rows, value: Expr, steps: tuple[Step, ...], output: int
) -> Tensor:
    """Return a mean or deviation as a tensor with extents of 1 along the normalised axes."""
    reduced = {int(a.name[1:]) for a in rows.along}
    shape = tuple(ONE if k in reduced else e for k, e in enumerate(rows.x.shape))
    definition = Definition(axes_for(shape), value, Steps(steps))
    return node.define(shape, value.dtype, definition, output=output)


def _rms_norm(node: Node) -> list[Tensor]:
    x, epsilon = node.input(0), attribute_float(node, "epsilon", 1e-5)
    first = normalise_axis(node, int(node.attribute("axis", -1)), x.rank)
    dtype = _stash_type(node, x)
    rows = _rows(x, set(range(first, x.rank)), dtype)
    agree_to_broadcast(node, node.input(1), x.shape)
    step = rows.step("squares", "sum", binary("mul", rows.there, rows.there))
    plain = rows.over_deviation(rows.here, epsilon)
    return [rows.result(node, _scaled(plain, dtype, operand(node.input(1), rows.axes), None), step)]


def _instance_norm(node: Node) -> list[Tensor]:
    x, epsilon = node.input(0), attribute_float(node, "epsilon", 1e-5)
    if x.rank < 3:
        raise node.error(f"x is {list(x.shape)}, not a batch of rank 3 or more")
    for k in (1, 2):
        agree(node, node.input(k).shape, (x.shape[1],), "one value for each channel")
    rows = _rows(x, set(range(2, x.rank)))
    scale, bias = (per_channel(node.input(k), rows.axes) for k in (1, 2))
    plain = rows.over_deviation(rows.centred(rows.here), epsilon)
    return [rows.result(node, _scaled(plain, rows.dtype, scale, bias), *rows.moments())]


def per_channel(tensor: Tensor, axes: tuple[Axis, ...]) -> Expr:
    """Return the element of a row that belongs to the channel of an image."""
    return tensor.at(var(axes[1]))


def _group_norm(node: Node) -> list[Tensor]:
    x, epsilon = node.input(0), attribute_float(node, "epsilon", 1e-5)
    groups = int(node.attribute("num_groups"))
    if x.rank < 2 or groups < 1:
        raise node.error(f"{list(x.shape)} does not split into {groups} groups of channels")
    for k in (1, 2):
        agree(node, node.input(k).shape, (x.shape[1],), "one value for each channel")
    channels = node.input(1).shape[0]
    agree(node, (channels % groups,), (ZERO,), f"what {groups} groups leave of the channels")
    dtype = _stash_type(node, x)
    axes, size = axes_for(x.shape), channels // groups
    channel = Axis("r1", size)
    space = tuple(Axis(f"r{k}", x.shape[k]) for k in range(2, x.rank))
    first = var(axes[1]) // size * size
    inside = (var(axes[0]), first + var(channel), *map(var, space))
    rows = _Rows(x, axes, (channel, *space), inside, dtype)
    plain = rows.over_deviation(rows.centred(rows.here), epsilon)
    scale, bias = (per_channel(node.input(k), axes) for k in (1, 2))
    return [rows.result(node, _scaled(plain, dtype, scale, bias), *rows.moments())]


def _mean_variance(node: Node) -> list[Tensor]:
    x = node.input(0)
    axes = node.attribute("axes") or (0, 2, 3)
    rows = _rows(x, {normalise_axis(node, int(a), x.rank) for a in axes})
    floor = 1e-9
    deviation = binary("add", rows.deviation(0.0), floor)
    return [rows.result(node, binary("div", rows.centred(rows.here), deviation), *rows.moments())]


# -- norms -----------------------------------------------------------------------------------------


def _lp_norm(node: Node) -> list[Tensor]:
    """Return ``x / ||x||``, and 0 where the norm is 0."""
    rows = _one_axis(node, -1)
    squared = int(node.attribute("p", 2)) == 2
    size = binary("mul", rows.there, rows.there) if squared else unary("abs", rows.there)
    total: Expr = rows.total("total")
    norm = unary("sqrt", total) if squared else total
    zero = const(0, rows.dtype)
    body = select(compare("eq", norm, 0), zero, binary("div", rows.here, norm))
    return [rows.result(node, body, rows.step("total", "sum", size))]


def _local_response(node: Node) -> list[Tensor]:
    """Return ``x / (bias + alpha/size * sum of squares of neighbouring channels)^beta``."""
    x, size = node.input(0), int(node.attribute("size"))
    alpha, beta = attribute_float(node, "alpha", 1e-4), attribute_float(node, "beta", 0.75)
    axes, dtype = axes_for(x.shape), compute_type(x.dtype)
    if size < 1:
        raise node.error(f"size is {size}, not 1 or more")
    window = Axis("r", ONE * size)
    channel = var(axes[1]) + var(window) - (size - 1) // 2
    index = (var(axes[0]), channel, *map(var, axes[2:]))
    neighbour = cast(x.at(*index), dtype)
    square = binary("mul", neighbour, neighbour)
    inside = guard((Within(channel, x.shape[1]),), square, const(0, dtype))
    step = Step("squares", "sum", (window,), inside, dtype)
    scaled = binary("mul", Var("squares", dtype), alpha / size)
    divisor = binary("pow", binary("add", scaled, attribute_float(node, "bias", 1.0)), beta)
    body = cast(binary("div", cast(x.at(*map(var, axes)), dtype), divisor), x.dtype)
    return [node.define(x.shape, x.dtype, Definition(axes, body, Steps((step,))))]


Lowering = Callable[[Node], list[Tensor]]
_LOWERINGS: dict[str, Lowering] = {
    "Softmax": _softmax,
    "LogSoftmax": log_softmax,
    "Hardmax": _hardmax,
    "LayerNormalization": _layer_norm,
    "RMSNormalization": _rms_norm,
    "InstanceNormalization": _instance_norm,
    "GroupNormalization": _group_norm,
    "MeanVarianceNormalization": _mean_variance,
    "LpNormalization": _lp_norm,
    "LRN": _local_response,
}

OPS: tuple[Op, ...] = tuple(Op(name, lower) for name, lower in _LOWERINGS.items())
