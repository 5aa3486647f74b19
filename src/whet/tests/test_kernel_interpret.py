"""The interpreter itself: grids, guards, reductions, nests, contractions, on hand-made kernels."""

from __future__ import annotations

import numpy as np
import pytest

from whet.index import ZERO, Axis, Dim, as_poly, var
from whet.kernel.expr import Call, Const, Expr, Guard, IndexValue, Read, Var, Within, index_of
from whet.kernel.interpret import evaluate_tensor
from whet.kernel.interpret_kernels import run_contraction, run_nest
from whet.kernel.semantics import SEMANTICS, convert
from whet.kernel.spec import Contraction, Nest, Panels, Param, Step, Store, Tile
from whet.kernel.tensor import Attend, Definition, Product, Tensor, axes_for

RNG = np.random.default_rng(19)
ROUNDING = 4 * 2.0**-24 * 4 * 4
"""Of four float32 terms, each a product of two normal numbers of at most 4, that may cancel."""
F32 = "float32"


def tensor(name: str, *shape: int | str, definition: Definition | None = None) -> Tensor:
    extents = tuple(as_poly(e) if isinstance(e, int) else var(Dim(e)) for e in shape)
    return Tensor(name, extents, F32, definition)


def defined(shape: Tensor, body: Expr) -> Tensor:
    """Return a tensor of the shape of another, over the default axes."""
    return Tensor("y", shape.shape, body.dtype, Definition(axes_for(shape.shape), body))


# -- tensors ---------------------------------------------------------------------------------------


def test_reads_outside_raise() -> None:
    x = tensor("x", 4)
    (i,) = axes_for(x.shape)
    y = defined(x, x.at(var(i) + 1))
    with pytest.raises(IndexError, match="extent of 4"):
        evaluate_tensor(y, {"x": np.zeros(4, np.float32)})


def test_guards_keep_reads_inside() -> None:
    x = tensor("x", 4)
    (i,) = axes_for(x.shape)
    inside = (Within(var(i) + 1, as_poly(4)),)
    y = defined(x, Guard(inside, x.at(var(i) + 1), Const(9.0, F32), F32))
    found = evaluate_tensor(y, {"x": np.arange(4, dtype=np.float32)})
    np.testing.assert_array_equal(found, [1, 2, 3, 9])


def test_otherwise_is_read_everywhere() -> None:
    x = tensor("x", 4)
    (i,) = axes_for(x.shape)
    outside = (Within(var(i) - 3, as_poly(1)),)
    y = defined(x, Guard(outside, Const(0.0, F32), x.at(var(i) + 1), F32))
    with pytest.raises(IndexError):
        evaluate_tensor(y, {"x": np.zeros(4, np.float32)})


def test_computed_indices_are_limited() -> None:
    x, k = tensor("x", 3), Tensor("k", (as_poly(4),), "int64")
    (i,) = axes_for(k.shape)
    y = Tensor("y", k.shape, F32, Definition((i,), x.at(index_of(k.at(var(i)), 0, as_poly(3)))))
    arrays = {"x": np.array([5, 6, 7], np.float32), "k": np.array([-4, 0, 2, 99])}
    np.testing.assert_array_equal(evaluate_tensor(y, arrays), [5, 5, 7, 7])


def test_run_time_dimensions_come_from_inputs() -> None:
    x = tensor("x", "N", 2)
    i, _ = axes_for(x.shape)
    y = defined(x, IndexValue(var(Dim("N")) * 10 + var(i), F32))
    y = defined(
        x, Call("add", (x.broadcast(axes_for(x.shape)), y.broadcast(axes_for(x.shape))), F32)
    )
    found = evaluate_tensor(y, {"x": np.ones((3, 2), np.float32)})
    np.testing.assert_array_equal(found, [[31, 31], [32, 32], [33, 33]])


def test_halves_are_computed_in_single_precision() -> None:
    x = Tensor("x", (as_poly(1),), "float16")
    (i,) = axes_for(x.shape)
    big = Call("mul", (x.at(var(i)), Const(100.0, "float16")), "float16")
    y = defined(x, Call("div", (big, Const(100.0, "float16")), "float16"))
    found = evaluate_tensor(y, {"x": np.array([60000], np.float16)})
    np.testing.assert_array_equal(found, np.array([60000], np.float16))


def test_double_precision() -> None:
    x = tensor("x", 1)
    (i,) = axes_for(x.shape)
    y = defined(x, Call("add", (x.at(var(i)), Const(1e-12, F32)), F32))
    found = evaluate_tensor(y, {"x": np.ones(1, np.float32)}, precise=True)
    assert float(found[0]) == 1 + 1e-12


def test_products_and_scattered_results() -> None:
    a, b = tensor("a", 3, 4), tensor("b", 4, 5)
    m, n, k = Axis("m", as_poly(3)), Axis("n", as_poly(5)), Axis("k", as_poly(4))
    anchor = Product(a.at(var(m), var(k)), b.at(var(k), var(n)), (m,), n, (), k)
    definition = Definition((m, n), Var("acc", F32), anchor, (var(n), var(m)))
    y = Tensor("y", (as_poly(5), as_poly(3)), F32, definition)
    arrays = {t.name: RNG.normal(size=(3, 4) if t is a else (4, 5)).astype(F32) for t in (a, b)}
    expected = (arrays["a"] @ arrays["b"]).T
    np.testing.assert_allclose(evaluate_tensor(y, arrays), expected, rtol=1e-5, atol=ROUNDING)


@pytest.mark.parametrize("zero_nan", [False, True])
def test_attention(zero_nan: bool) -> None:
    q, k, v = tensor("q", 2, 3), tensor("k", 4, 3), tensor("v", 4, 5)
    m, n = Axis("m", as_poly(2)), Axis("n", as_poly(5))
    key, depth = Axis("s", as_poly(4)), Axis("d", as_poly(3))
    mask = tensor("mask", 2, 4)
    score = Call("add", (Var("acc", F32), mask.at(var(m), var(key))), F32)
    operands = (q.at(var(m), var(depth)), k.at(var(key), var(depth)), v.at(var(key), var(n)))
    anchor = Attend(*operands, score, (m,), key, depth, n, zero_nan)
    y = Tensor("y", (as_poly(2), as_poly(5)), F32, Definition((m, n), Var("acc", F32), anchor))
    shapes = {"q": (2, 3), "k": (4, 3), "v": (4, 5)}
    arrays = {name: RNG.normal(size=shape).astype(F32) for name, shape in shapes.items()}
    arrays["mask"] = np.array([[0, 0, -np.inf, 0], [-np.inf] * 4], F32)
    raised = np.exp(arrays["q"] @ arrays["k"].T + arrays["mask"])
    first = (raised[0] / raised[0].sum()) @ arrays["v"]
    found = evaluate_tensor(y, arrays)
    np.testing.assert_allclose(found[0], first, rtol=1e-5, atol=ROUNDING)
    assert (found[1] == 0).all() if zero_nan else np.isnan(found[1]).all()


# -- operations ------------------------------------------------------------------------------------


def test_integer_division() -> None:
    a, d = np.array([7, -7, 7, -7, 7]), np.array([2, 2, -2, -2, 0])
    np.testing.assert_array_equal(SEMANTICS["div"](a, d), [3, -3, -3, 3, 0])
    np.testing.assert_array_equal(SEMANTICS["rem"](a, d), [1, -1, 1, -1, 0])
    np.testing.assert_array_equal(SEMANTICS["mod"](a, d), [1, 1, -1, -1, 0])


def test_shifts_by_more_than_the_width() -> None:
    a = np.array([1, -1, 1], np.int8)
    count = np.array([7, 1, 8], np.int8)
    np.testing.assert_array_equal(SEMANTICS["shl"](a, count), np.array([-128, -2, 0], np.int8))
    np.testing.assert_array_equal(SEMANTICS["shr"](a, count), np.array([0, 127, 0], np.int8))


def test_conversion_saturates() -> None:
    x = np.array([np.nan, 300, -300, 1.9, -1.9], np.float32)
    np.testing.assert_array_equal(convert(x, "int8"), [0, 127, -128, 1, -1])
    np.testing.assert_array_equal(convert(x, "uint8"), [0, 255, 0, 1, 0])
    assert convert(np.float64(1e30) * np.ones(1), "int64")[0] == np.iinfo(np.int64).max


# -- kernels ---------------------------------------------------------------------------------------


def test_softmax_nest() -> None:
    rows, row = Axis("i", as_poly(3)), Axis("j", var(Dim("S")))
    address = var(rows) * row.extent + var(row)
    x = Read(0, address, F32)
    lowered = Call("sub", (x, Var("top", F32)), F32)
    raised = Call("exp", (lowered,), F32)
    steps = (Step("top", "max", (row,), x, F32), Step("total", "sum", (row,), raised, F32))
    value = Call("div", (raised, Var("total", F32)), F32)
    params = (Param(F32, False), Param(F32, True))
    nest = Nest(params, (rows,), steps, (row,), (Store(1, address, value),), vector_rows=True)
    given, out = RNG.normal(size=(3, 5)).astype(F32), np.zeros(15, np.float32)
    run_nest(nest, [given.reshape(-1), out], {"S": 5})
    expected = np.exp(given) / np.exp(given).sum(1, keepdims=True)
    np.testing.assert_allclose(out.reshape(3, 5), expected, rtol=1e-5)


def test_convolution_with_panels() -> None:
    """A padded convolution along one dimension: ``y[o, m] = sum over t, c of x[o+t-1, c] w``."""
    length, channels, filters, taps, lanes = 6, 3, 5, 3, 4
    x = RNG.normal(size=(length, channels)).astype(F32)
    w = RNG.normal(size=(taps, channels, filters)).astype(F32)
    packed = np.zeros((2, taps, channels, lanes), F32)
    for f in range(filters):
        packed[f // lanes, :, :, f % lanes] = w[:, :, f]
    o, m = Axis("o", as_poly(length)), Axis("m", as_poly(filters))
    t, c = Axis("t", as_poly(taps)), Axis("c", as_poly(channels))
    place = var(o) + var(t) - 1
    panels = Panels(
        1,
        ZERO,
        as_poly(taps * channels * lanes),
        as_poly(lanes),
        (as_poly(channels * lanes),),
        True,
    )
    kernel = Contraction(
        params=(Param(F32, False), Param(F32, False), Param(F32, True)),
        outer=(),
        row=o,
        col=m,
        taps=(t,),
        depth=c,
        a=Read(0, place * channels + var(c), F32),
        bounds=(Within(place, as_poly(length)),),
        b=panels,
        stores=(Store(2, var(o) * filters + var(m), Var("acc", F32)),),
        tile=Tile(2, 1, 1, 1, 1),
    )
    out = np.zeros(length * filters, np.float32)
    run_contraction(kernel, [x.reshape(-1), packed.reshape(-1), out], lanes)
    wide = np.pad(x, ((1, 1), (0, 0)))
    expected = sum(wide[k : k + length] @ w[k] for k in range(taps))
    np.testing.assert_allclose(out.reshape(length, filters), expected, rtol=1e-5, atol=1e-6)
