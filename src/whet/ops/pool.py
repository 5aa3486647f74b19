"""Pooling over windows: greatest, average and Lp norm."""

from __future__ import annotations

import msgspec
import numpy as np

from whet.dtypes import DTYPES
from whet.errors import UnsupportedError
from whet.index import Axis, Poly, as_poly, product, var
from whet.kernel.expr import Const, Expr, Guard, IndexValue, Var, Within, guard
from whet.kernel.spec import Step
from whet.kernel.tensor import Definition, Steps, Tensor, axes_for
from whet.ops.build import binary, cast, compare, compute_type, const, select, unary
from whet.ops.node import Node, Op, constant
from whet.ops.operand import attribute_flag
from whet.ops.windows import Window, channels_last, window_of


class _Windows(msgspec.Struct, frozen=True):
    """Windows over a batch of images with channels.

    Attributes:
        x: the images, batch and channels first.
        window: kernel, strides, dilations and paddings.
        axes: axes of the result.
        taps: axes of a window.
    """

    x: Tensor
    window: Window
    axes: tuple[Axis, ...]
    taps: tuple[Axis, ...]

    @property
    def places(self) -> tuple[Poly, ...]:
        """Where in the image a tap of a window lies; outside of it where it meets padding."""
        pairs = enumerate(zip(self.axes[2:], self.taps, strict=True))
        return tuple(self.window.position(k, var(o), var(t)) for k, (o, t) in pairs)

    @property
    def conditions(self) -> tuple[Within, ...]:
        """The conditions that a tap does not meet padding."""
        return tuple(Within(p, e) for p, e in zip(self.places, self.x.shape[2:], strict=True))

    def element(self, outside: Expr, dtype: str) -> Expr:
        """Return the element under a tap, ``outside`` where it meets padding."""
        index = (var(self.axes[0]), var(self.axes[1]), *self.places)
        return guard(self.conditions, cast(self.x.at(*index), dtype), outside)

    def result(self, node: Node, body: Expr, *steps: Step, output: int = 0) -> Tensor:
        """Return the pooled tensor, stored channels last."""
        shape = tuple(a.extent for a in self.axes)
        definition = Definition(self.axes, body, Steps(steps))
        order = channels_last(self.x.rank)
        return node.define(shape, body.dtype, definition, output=output, order=order)


def _windows(node: Node) -> _Windows:
    x = node.input(0)
    if x.rank < 3:
        raise node.error(f"needs rank 3 or more, not {x.rank}")
    kernel = tuple(int(k) for k in node.attribute("kernel_shape") or ())
    if len(kernel) != x.rank - 2 or min(kernel) < 1:
        raise node.error(f"kernel_shape {list(kernel)} does not fit {list(x.shape)}")
    window = window_of(node, kernel, x.shape[2:])
    count = tuple(_count(node, window, k, length) for k, length in enumerate(x.shape[2:]))
    axes = axes_for((*x.shape[:2], *count))
    return _Windows(x, window, axes, axes_for(tuple(as_poly(k) for k in kernel), "r"))


def _count(node: Node, window: Window, k: int, length: Poly) -> Poly:
    """Return the number of windows along one dimension.

    Rounded up (``ceil_mode``), a last window may stick out, unless it starts behind the image.
    Automatic paddings already fit the rounded-up count.
    """
    before, after = window.before[k], window.after[k]
    room = length + (before + after - window.extent(k))
    if room.constant is not None and room.constant < 0:
        raise node.error(f"a window of {window.extent(k)} does not fit into {length}")
    stride, automatic = window.strides[k], node.attribute("auto_pad", "NOTSET") != "NOTSET"
    if not attribute_flag(node, "ceil_mode") or stride == 1 or automatic:
        return window.outputs(k, length)
    # min(ceil(room / s), floor((n + before - 1) / s)) + 1: of two quotients that one of the less
    more = (after - window.extent(k) + stride).constant
    assert more is not None, "paddings are numbers unless they are automatic"
    return (length + before + min(more - 1, -1)) // stride + 1


def lowest(dtype: str) -> float | int:
    """Return the least value of an element type."""
    if DTYPES[dtype].is_float:
        return -np.inf
    return int(np.iinfo(dtype).min)


def _max_pool(node: Node) -> list[Tensor]:
    windows = _windows(node)
    dtype = windows.x.dtype
    value = windows.element(Const(lowest(dtype), dtype), dtype)
    best = Step("best", "max", windows.taps, value, dtype)
    result = [windows.result(node, Var("best", dtype), best)]
    if len(node.outputs) > 1 and node.outputs[1]:
        result.append(_positions(node, windows, best))
    return result


def _positions(node: Node, windows: _Windows, best: Step) -> Tensor:
    """Return where in the input the greatest element of every window stands; the first one."""
    x = windows.x
    spatial = list(zip(windows.places, x.shape[2:], strict=True))
    if attribute_flag(node, "storage_order"):
        spatial.reverse()
    place = var(windows.axes[0]) * x.shape[1] + var(windows.axes[1])
    place = place * product(x.shape[2:])
    stride = product(())
    for position, extent in reversed(spatial):
        place = place + position * stride
        stride = stride * extent
    far = const(int(np.iinfo(np.int64).max), "int64")
    same = compare("eq", best.body, Var("best", best.dtype))
    found = select(same, IndexValue(place, "int64"), far)
    inside = guard(windows.conditions, found, far)
    first = Step("place", "min", windows.taps, inside, "int64")
    return windows.result(node, Var("place", "int64"), best, first, output=1)


def _average_pool(node: Node) -> list[Tensor]:
    windows = _windows(node)
    dtype = compute_type(windows.x.dtype)
    value = windows.element(const(0, dtype), dtype)
    total = Step("total", "sum", windows.taps, value, dtype)
    included = attribute_flag(node, "count_include_pad")
    divisor, steps = _divisor(node, windows, included, dtype)
    body = binary("div", Var("total", dtype), divisor)
    return [windows.result(node, cast(body, windows.x.dtype), total, *steps)]


def _divisor(
    node: Node, windows: _Windows, included: bool, dtype: str
) -> tuple[Expr, tuple[Step, ...]]:
    """Return how many elements a window averages: a number, a product of tables, or a count."""
    lengths = [e.constant for e in windows.x.shape[2:]]
    if any(n is None for n in lengths):
        return _counted(windows, included, dtype)
    fixed = 1
    varying: Expr | None = None
    for k, (length, axis) in enumerate(zip(lengths, windows.axes[2:], strict=True)):
        counts = _taps_inside(windows.window, k, (length or 0, axis.extent.constant or 0), included)
        if (counts == counts[:1]).all():
            fixed *= int(counts[0]) if counts.size else 1
            continue
        table = constant(f"{node.name}.count{k}", counts.astype(dtype))
        taps = table.at(var(axis))
        varying = taps if varying is None else binary("mul", varying, taps)
    if varying is None:
        return const(float(fixed), dtype), ()
    return (binary("mul", varying, float(fixed)) if fixed > 1 else varying), ()


def _taps_inside(window: Window, k: int, sizes: tuple[int, int], included: bool) -> np.ndarray:
    """Return the number of averaged taps of every window along one dimension.

    Args:
        window: the windows.
        k: the dimension.
        sizes: length of the image, and number of windows.
        included: whether padding counts.
    """
    length, count = sizes
    before, after = window.before[k].constant, window.after[k].constant
    assert before is not None and after is not None, "the image is static"
    place = np.arange(count)[:, None] * window.strides[k] - before
    place = place + np.arange(window.kernel[k]) * window.dilations[k]
    low, high = (-before, length + after) if included else (0, length)
    return np.asarray(((place >= low) & (place < high)).sum(axis=1))


def _counted(windows: _Windows, included: bool, dtype: str) -> tuple[Expr, tuple[Step, ...]]:
    """Count the taps of every window while running."""
    conditions = windows.conditions
    if included:
        window = windows.window
        conditions = tuple(
            Within(c.index + before, c.extent + (before + after))
            for c, before, after in zip(conditions, window.before, window.after, strict=True)
        )
    one: Expr = const(1.0, dtype)
    body = guard(conditions, one, const(0.0, dtype))
    if not isinstance(body, Guard):
        return const(float(np.prod(windows.window.kernel)), dtype), ()
    return Var("count", dtype), (Step("count", "sum", windows.taps, body, dtype),)


def _norm(x: Expr, p: int) -> Expr:
    size = unary("abs", x)
    if p == 1:
        return size
    return binary("mul", x, x) if p == 2 else binary("pow", size, float(p))


def _root(total: Expr, p: int) -> Expr:
    if p == 1:
        return total
    return unary("sqrt", total) if p == 2 else binary("pow", total, 1.0 / p)


def _lp_pool(node: Node) -> list[Tensor]:
    windows, p = _windows(node), int(node.attribute("p", 2))
    if p < 1:
        raise node.error(f"p is {p}, not 1 or more")
    dtype = compute_type(windows.x.dtype)
    value = _norm(windows.element(const(0, dtype), dtype), p)
    step = Step("total", "sum", windows.taps, value, dtype)
    body = cast(_root(Var("total", dtype), p), windows.x.dtype)
    return [windows.result(node, body, step)]


def _global_lp_pool(node: Node) -> list[Tensor]:
    x, p = node.input(0), int(node.attribute("p", 2))
    if x.rank < 3:
        raise UnsupportedError(f"GlobalLpPool of rank {x.rank}", where=node.name)
    shape = (*x.shape[:2], *(as_poly(1) for _ in x.shape[2:]))
    axes, taps = axes_for(shape), axes_for(x.shape[2:], "r")
    dtype = compute_type(x.dtype)
    value = cast(x.at(var(axes[0]), var(axes[1]), *map(var, taps)), dtype)
    step = Step("total", "sum", taps, _norm(value, p), dtype)
    body = cast(_root(Var("total", dtype), p), x.dtype)
    definition = Definition(axes, body, Steps((step,)))
    return [node.define(shape, x.dtype, definition, order=channels_last(x.rank))]


OPS: tuple[Op, ...] = (
    Op("MaxPool", _max_pool),
    Op("AveragePool", _average_pool),
    Op("LpPool", _lp_pool),
    Op("GlobalLpPool", _global_lp_pool),
)
