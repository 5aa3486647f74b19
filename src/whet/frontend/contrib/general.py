"""Operators that exist as standard ones today, and small formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from whet.frontend.translation import Foreign, Translation


def same(op_type: str, *attributes: str) -> Callable[[Translation], ir.Value]:
    """Return the translation of an operator that a standard one replaces as it is."""

    def translate(t: Translation) -> ir.Value:
        return t.op(op_type, *t.node.inputs, **t.rest(*attributes))

    return translate


def expand_dims(t: Translation) -> ir.Value:
    """ExpandDims: one dim of 1 at ``axis``, a scalar or vector of one."""
    axis = t.op("Reshape", t.cast(t.input(1), ir.DataType.INT64), np.array([1], np.int64))
    return t.op("Unsqueeze", t.input(0), axis)


def unique(t: Translation) -> tuple[ir.Value, ...]:
    """Unique: of a vector, in order of appearance; values, their numbers and counts."""
    values, _, numbers, counts = t.ops(4, "Unique", t.input(0), sorted=0)
    return values, numbers, counts


def pad(t: Translation) -> ir.Value:
    """Pad: the value may be a vector of one."""
    value = t.optional(2)
    scalar = None if value is None else t.op("Reshape", value, np.zeros(0, np.int64))
    pads = t.op("Reshape", t.cast(t.input(1), ir.DataType.INT64), np.array([-1], np.int64))
    return t.op("Pad", t.input(0), pads, scalar, **t.rest("mode"))


def range_of(t: Translation) -> ir.Value:
    """Range: limits may be vectors of one, and the step defaults to 1."""
    parts = [t.op("Squeeze", t.input(k)) for k in (0, 1)]
    step = t.optional(2)
    last = t.scalar(1, t.input(0)) if step is None else t.op("Squeeze", step)
    return t.op("Range", *parts, last)


def cdist(t: Translation) -> ir.Value:
    """CDist: distances of the rows of two matrices, ``|a|² + |b|² - 2 a b'``."""
    a, b, metric = t.input(0), t.input(1), t.take("metric", "sqeuclidean")
    if metric not in ("euclidean", "sqeuclidean"):
        raise t.refuse(f"metric={metric} is not supported")
    gap = t.op("Sub", t.unsqueeze(a, 1), t.unsqueeze(b, 0))
    total = t.op("ReduceSumSquare", gap, np.array([2]), keepdims=0)
    return t.op("Sqrt", total) if metric == "euclidean" else total


def complex_mul(t: Translation) -> ir.Value:
    """ComplexMul: ``(a + bi)(c + di)``, the parts in the last dim."""
    return _complex_product(t, -1)


def complex_mul_conj(t: Translation) -> ir.Value:
    """ComplexMulConj: ``(a + bi)(c - di)``."""
    return _complex_product(t, 1)


def _complex_product(t: Translation, sign: int) -> ir.Value:
    (a, b), (c, d) = (t.ops(2, "Split", t.input(k), axis=-1, num_outputs=2) for k in (0, 1))
    ac, bd, bc, ad = (t.op("Mul", x, y) for x, y in ((a, c), (b, d), (b, c), (a, d)))
    with_plus, with_minus = t.op("Add", ac, bd), t.op("Sub", ac, bd)
    real = with_minus if sign < 0 else with_plus
    imaginary = t.op("Add", bc, ad) if sign < 0 else t.op("Sub", bc, ad)
    return t.op("Concat", real, imaginary, axis=-1)


def is_all_finite(t: Translation) -> ir.Value:
    """IsAllFinite: whether no element of any input is NaN or infinite, as asked."""
    nan_only, inf_only = t.take("isnan_only", 0), t.take("isinf_only", 0)
    found = []
    for x in t.node.inputs:
        tests = [() if inf_only else ("IsNaN",), () if nan_only else ("IsInf",)]
        found += [t.op(op, x) for names in tests for op in names]
    counts = [t.op("ReduceMax", t.cast(f, ir.DataType.INT32), keepdims=0) for f in found]
    worst = t.op("Max", *counts)
    return t.op("Equal", worst, t.scalar(0, worst))


def inverse(t: Translation) -> ir.Value:
    """Inverse: Gauss-Jordan elimination with pivoting, one step for each row.

    In step ``k`` the row with the largest entry of column ``k`` among rows ``k`` and below changes
    places with row ``k``; then all other rows are cleared in that column.
    """
    x = t.input(0)
    n = t.fixed(x, -1)
    if n > 32:
        raise t.refuse(f"matrices of {n} rows are not supported, 32 are")
    kind = t.dtype(x).numpy()
    work = t.op("Concat", x, t.op("Expand", np.eye(n, dtype=kind), t.shape(x)), axis=-1)
    rows = np.arange(n, dtype=np.int64)[:, None]
    for k in range(n):
        work = _eliminated(t, work, rows, k)
    return t.slice(work, -1, n, 2 * n)


def _eliminated(t: Translation, work: ir.Value, rows: np.ndarray, k: int) -> ir.Value:
    column = t.slice(work, -1, k, k + 1)
    below = t.op("Where", rows >= k, t.op("Abs", column), t.scalar(-1.0, work))
    pivot = t.op("ArgMax", below, axis=-2, keepdims=1)
    chosen = t.op("Equal", pivot, rows)
    own = t.slice(work, -2, k, k + 1)
    zero = t.scalar(0.0, work)
    best = t.op("ReduceSum", t.op("Where", chosen, work, zero), np.array([-2]))
    swapped = t.op("Where", chosen, own, work)
    row = t.op("Div", best, t.slice(best, -1, k, k + 1))
    factor = t.slice(swapped, -1, k, k + 1)
    cleared = t.op("Sub", swapped, t.op("Mul", factor, row))
    return t.op("Where", rows == k, row, cleared)


def rfft(t: Translation) -> ir.Value:
    """Rfft: one-sided transform of the last dim; parts in a new last dim."""
    t.only(onesided=1, normalized=0, signal_ndim=1)
    x = t.input(0)
    axis = np.array(t.rank(x) - 1, np.int64)
    return t.op("DFT", t.unsqueeze(x, -1), None, axis, onesided=1)


def torch_embedding(t: Translation) -> ir.Value:
    """TorchEmbedding: rows of a table; the other inputs matter in training only."""
    return t.op("Gather", t.input(0), t.input(1))


def unfold_tensor(t: Translation) -> ir.Value:
    """UnfoldTensor: windows along one dim, their elements in a new last dim."""
    x, step, size = t.input(0), t.take("step", 1), t.take("size")
    axis = t.take("dim", -1) % t.rank(x)
    count = (t.fixed(x, axis) - size) // step + 1
    places = np.arange(count)[:, None] * step + np.arange(size)
    windows = t.op("Gather", x, places, axis=axis)
    order = [k for k in range(t.rank(x) + 1) if k != axis + 1]
    return t.transpose(windows, *order, axis + 1)


OPS = (
    Foreign("Trilu", same("Trilu", "upper")),
    Foreign("GatherND", same("GatherND")),
    Foreign("ExpandDims", expand_dims),
    Foreign("Unique", unique),
    Foreign("Pad", pad),
    Foreign("Range", range_of),
    Foreign("CDist", cdist),
    Foreign("ComplexMul", complex_mul),
    Foreign("ComplexMulConj", complex_mul_conj),
    Foreign("IsAllFinite", is_all_finite),
    Foreign("Inverse", inverse),
    Foreign("Rfft", rfft),
    Foreign("TorchEmbedding", torch_embedding),
    Foreign("UnfoldTensor", unfold_tensor),
)
