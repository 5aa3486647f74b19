"""Scan, scatter, sort and filter kernels with all their parts, against what equations mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whet.codegen.objects.targets import resolve_target
from whet.index import Axis, Dim, Poly, as_poly, var
from whet.kernel.expr import Expr, IndexValue, Var, index_of
from whet.kernel.filter import Kept
from whet.kernel.interpret import evaluate_tensor
from whet.kernel.scan import Prefix
from whet.kernel.scatter import Updates
from whet.kernel.schedules import Schedules
from whet.kernel.sort import Sorted
from whet.kernel.spec import ACCUMULATOR
from whet.kernel.tensor import Definition, Tensor, axes_for
from whet.kernel.text import kernel_spec_text
from whet.lower.equations import Equations
from whet.lower.lower import lower_equations
from whet.ops.build import binary, cast, compare, const, unary
from whet.tests.equation_runner import run_compiled
from whet.tests.node_models import numbers
from whet.tests.seeds import seeds_of_models

Array = np.ndarray[Any, np.dtype[Any]]
SIZES = (1, 2, 3, 16, 17, 33)


def tensor_of(name: str, array: Array, shape: tuple[Poly, ...] | None = None) -> Tensor:
    return Tensor(name, shape or tuple(as_poly(n) for n in array.shape), array.dtype.name)


def check(
    result: Tensor, inputs: dict[str, Array], cache: Path, dims: dict[str, int] | None = None
) -> Array:
    """Compare the compiled tensor with its meaning, fused and not; returns the latter."""
    meant = evaluate_tensor(result, inputs, dims or {})
    for level in (1, 3):
        (found,) = run_compiled([result], inputs, dims or {}, cache, level=level)
        assert (found.dtype, found.shape) == (meant.dtype, meant.shape)
        np.testing.assert_array_equal(found, meant)
    return meant


def positions(axes: tuple[Axis, ...], anchor: Sorted | Kept) -> Tensor:
    shape = tuple(a.extent for a in axes)
    return Tensor("found", shape, "int64", Definition(axes, const(0, "int64"), anchor))


def filtered(x: Tensor, ranks: Poly, *, near: float | None = None) -> Tensor:
    """Return the positions of positive elements of each row, none near one kept before."""
    axes = axes_for((x.shape[0], ranks))
    row, along, other = var(axes[0]), Axis("r", x.shape[1]), Axis("s", x.shape[1])
    keep = compare("gt", x.at(row, var(along)), 0)
    clash: Expr | None = None
    if near is not None:
        apart = binary("sub", x.at(row, var(along)), x.at(row, var(other)))
        clash = compare("lt", unary("abs", apart), near)
    return positions(axes, Kept(along, keep, axes[1], other, clash))


def test_filters_of_random_rows(cache: Path) -> None:
    for seed in seeds_of_models(10):
        rng = np.random.default_rng(seed)
        x = numbers(rng, tuple(int(n) for n in rng.choice(SIZES, 2)), "float32")
        ranks = int(rng.integers(1, x.shape[1] + 3))
        near = float(rng.choice([0.3, 1.0])) if rng.random() < 0.6 else None
        check(filtered(tensor_of("x", x), as_poly(ranks), near=near), {"x": x}, cache)


def test_a_filter_of_run_time_dimensions(cache: Path) -> None:
    x = numbers(np.random.default_rng(2), (3, 19), "float32")
    given = tensor_of("x", x, (var(Dim("n")), var(Dim("m"))))
    for count in (1, 5, 30):
        result = filtered(given, var(Dim("count")), near=0.6)
        check(result, {"x": x}, cache, {"n": 3, "m": 19, "count": count})


def ranked(x: Tensor, ranks: Poly, *, descending: bool, kept: Tensor | None = None) -> Tensor:
    """Return the positions of the slices of each row, in order of their elements."""
    axes = axes_for((x.shape[0], ranks))
    along, depth = Axis("r", x.shape[1]), Axis("c", x.shape[2])
    key = x.at(var(axes[0]), var(along), var(depth))
    use = None if kept is None else kept.at(var(axes[0]), var(along))
    return positions(axes, Sorted(along, depth, key, axes[1], descending, use))


@pytest.mark.parametrize("depth", [1, 3])
def test_sorts_of_random_rows(depth: int, cache: Path) -> None:
    for seed in seeds_of_models(8):
        rng = np.random.default_rng(seed)
        shape = (*(int(n) for n in rng.choice(SIZES, 2)), depth)
        x = rng.integers(0, 3, shape).astype(np.float32)
        x[rng.random(shape) < 0.1] = np.nan
        kept = rng.random(shape[:2]) < 0.7
        ranks = as_poly(int(rng.integers(1, shape[1] + 3)))
        result = ranked(
            tensor_of("x", x), ranks, descending=bool(rng.integers(2)), kept=tensor_of("k", kept)
        )
        check(result, {"x": x, "k": kept}, cache)


def test_sorts_of_what_is_kept_of_long_rows(cache: Path) -> None:
    rng = np.random.default_rng(4)
    x = rng.integers(0, 3, (3, 200, 1)).astype(np.float32)
    for share in (0.0, 0.01, 0.5, 1.0):
        kept = rng.random((3, 200)) < share
        given = tensor_of("x", x), tensor_of("k", kept)
        for ranks in (200, 210):
            result = ranked(given[0], as_poly(ranks), descending=True, kept=given[1])
            check(result, {"x": x, "k": kept}, cache)
    named = tensor_of("x", x, (var(Dim("n")), var(Dim("m")), as_poly(1)))
    use = tensor_of("k", kept, (var(Dim("n")), var(Dim("m"))))
    result = ranked(named, var(Dim("m")), descending=True, kept=use)
    check(result, {"x": x, "k": kept}, cache, {"n": 3, "m": 200})


def test_a_sort_of_run_time_dimensions(cache: Path) -> None:
    x = np.random.default_rng(3).integers(0, 3, (2, 21, 2)).astype(np.int16)
    given = tensor_of("x", x, (as_poly(2), var(Dim("m")), var(Dim("w"))))
    for count in (1, 21, 25):
        result = ranked(given, var(Dim("count")), descending=False)
        check(result, {"x": x}, cache, {"m": 21, "w": 2, "count": count})


def test_a_sort_without_keys_to_compare(cache: Path) -> None:
    x = np.zeros((2, 5, 0), np.float32)
    found = check(ranked(tensor_of("x", x), as_poly(5), descending=True), {"x": x}, cache)
    np.testing.assert_array_equal(found, [range(5)] * 2)


@pytest.mark.parametrize("op", ["max", "min", "sum", "prod"])
@pytest.mark.parametrize("exclusive", [False, True])
def test_scans_with_an_epilogue(op: str, exclusive: bool, cache: Path) -> None:
    for seed in seeds_of_models(3):
        x = numbers(np.random.default_rng(seed), (3, 17, 5), "int32")
        given = tensor_of("x", x)
        axes = axes_for(given.shape)
        here = tuple(var(a) for a in axes)
        anchor = Prefix(axes[1], op, unary("neg", given.at(*here)), "int32", exclusive)
        body = binary("add", Var(ACCUMULATOR, "int32"), given.at(*here))
        total = Tensor("total", given.shape, "int32", Definition(axes, body, anchor))
        twice = binary("mul", total.at(*here), 2)
        check(Tensor("y", given.shape, "int32", Definition(axes, twice)), {"x": x}, cache)


def scattered(x: Tensor, at: Tensor, values: Tensor, op: str) -> Tensor:
    """Return ``x`` with the values put to rows that ``at`` names."""
    axes, own = axes_for(x.shape), axes_for(values.shape, "u")
    row = index_of(cast(at.at(var(own[0])), "int64"), None, None)
    places = (IndexValue(row, "int64"), IndexValue(var(own[1]), "int64"))
    value = unary("neg", values.at(*(var(a) for a in own)))
    start = binary("add", x.at(*(var(a) for a in axes)), 1)
    definition = Definition(axes, start, Updates(own, places, value, op))
    return Tensor("changed", x.shape, x.dtype, definition)


@pytest.mark.parametrize("op", ["", "add", "mul", "max"])
def test_scatters_into_what_is_computed(op: str, cache: Path) -> None:
    for seed in seeds_of_models(4):
        rng = np.random.default_rng(seed)
        rows, columns, updates = (int(n) for n in rng.choice(SIZES, 3))
        x, values = (
            numbers(rng, (rows, columns), "int32"),
            numbers(rng, (updates, columns), "int32"),
        )
        at = rng.integers(-2, rows + 2, updates).astype(np.int32)
        arrays = {"x": x, "at": at, "values": values}
        given = [tensor_of(name, array) for name, array in arrays.items()]
        changed = scattered(given[0], given[1], given[2], op)
        here = axes_for(changed.shape)
        after = binary("mul", changed.at(*(var(a) for a in here)), 3)
        check(Tensor("y", changed.shape, "int32", Definition(here, after)), arrays, cache)


def test_kernels_have_a_text() -> None:
    x = Tensor("x", (as_poly(4), as_poly(9)), "float32")
    result = filtered(x, as_poly(5), near=0.5)
    target = resolve_target("x86_64-linux-gnu:haswell")
    equations = Equations([x, result], [x], [("y", result)])
    (call,) = lower_equations(equations, target, level=2, schedules=Schedules(1)).calls
    assert kernel_spec_text("filter", call.kernel) == (
        "filter filter(out p0: int64, p1: float32)\n"
        "  outer: i0<4\n"
        "  along: r<9\n"
        "  keep = gt(p1[9*i0 + r], 0)\n"
        "  rank: i1<5\n"
        "  other: s<9\n"
        "  clash = (abs((p1[9*i0 + r] - p1[9*i0 + s])) < 0.5)\n"
        "  param: 0\n"
        "  address: 5*i0 + i1\n"
    )
