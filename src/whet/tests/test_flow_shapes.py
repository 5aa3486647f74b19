"""Shapes that depend on data: cut into parts, with sizes read between them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import whet
from whet.errors import InputError, ShapeError
from whet.tests.flow_models import check, compiled, parse

X = np.random.default_rng(7).standard_normal((2, 3, 4)).astype(np.float32)


def ints(*values: int) -> np.ndarray[Any, Any]:
    return np.array(values, np.int64)


def test_reshape() -> None:
    model = compiled(
        """g (float[a,b,c] x, int64[2] s) => (float[p,q] y) {
        z = Relu(x) y0 = Reshape(z, s) y = Exp(y0) }"""
    )
    relu = np.exp(np.maximum(X, 0))
    for shape, wanted in (((6, 4), (6, 4)), ((-1, 3), (8, 3)), ((0, -1), (2, 12))):
        check(model, {"x": X, "s": ints(*shape)}, relu.reshape(wanted))
    for wrong in ((5, 5), (-1, 5), (-2, -12), (1 << 40, 1 << 40)):
        with pytest.raises(ShapeError):
            model({"x": X, "s": ints(*wrong)})
    check(model, {"x": X, "s": ints(3, 8)}, relu.reshape(3, 8))  # an error leaves no trace


def test_reshape_by_computed_sizes_is_cut_once() -> None:
    model = compiled(
        """g (float[a,b] x, int64[1] n) => (float[p,q,r] y) {
        m = Add(n, n) b = Shape<start=0,end=1>(x) rest = Constant<value_ints=[-1]>()
        s = Concat<axis=0>(b, m, rest) z = Relu(x) y = Reshape(z, s) }"""
    )
    x = X.reshape(2, 12)
    check(model, {"x": x, "n": ints(2)}, np.maximum(x, 0).reshape(2, 4, 3))
    assert len(model.program.parts) == 2


def test_expand_and_tile() -> None:
    model = compiled(
        """g (float[a,b,c] x, int64[4] s, int64[3] t) => (float[o,p,q,r] y, float[u,v,w] z) {
        y = Expand(x, s) z = Tile(x, t) }"""
    )
    tiled = np.tile(X, (3, 1, 2))
    feeds = {"x": X, "s": ints(3, 2, 1, 4), "t": ints(3, 1, 2)}
    check(model, feeds, np.broadcast_to(X, (3, 2, 3, 4)), tiled)
    row = X[:1, :, :1]
    feeds = {"x": row, "s": ints(1, 2, 3, 5), "t": ints(1, 0, 1)}
    check(model, feeds, np.broadcast_to(row, (1, 2, 3, 5)), row[:, :0])
    with pytest.raises(ShapeError, match="fit"):
        model({"x": X, "s": ints(1, 2, 5, 4), "t": ints(1, 1, 1)})
    with pytest.raises(ShapeError, match="-1"):
        model({"x": X, "s": ints(1, 2, 3, 4), "t": ints(1, -1, 1)})


@given(
    st.integers(-9, 9), st.integers(-9, 9), st.sampled_from([-3, -1, 1, 2, 5]), st.integers(1, 7)
)
@settings(max_examples=60, deadline=None)
def test_slice(start: int, end: int, step: int, length: int) -> None:
    model = _slicer()
    x = np.arange(length * 2, dtype=np.float32).reshape(2, length)
    feeds = {"x": x, "s": ints(start), "e": ints(end), "d": ints(step)}
    check(model, feeds, np.exp(-x[:, start:end:step]))


_SLICERS: list[Any] = []


def _slicer() -> Any:
    if not _SLICERS:
        _SLICERS.append(
            compiled(
                """g (float[2,n] x, int64[1] s, int64[1] e, int64[1] d) => (float[p,q] y) {
                k = Constant<value_ints=[1]>() z = Slice(x, s, e, k, d) w = Neg(z) y = Exp(w) }"""
            )
        )
    return _SLICERS[0]


def test_slice_of_a_dimension_that_may_be_shorter() -> None:
    model = compiled(
        """g (float[n] x) => (float[p] y) { s = Constant<value_ints=[-3]>()
        e = Constant<value_ints=[5]>() y = Slice(x, s, e) }"""
    )
    for n in (1, 2, 3, 7, 20):
        x = np.arange(n, dtype=np.float32)
        check(model, {"x": x}, x[-3:5])


def test_pad() -> None:
    model = compiled("g (float[a,b] x, int64[4] p) => (float[u,v] y) { y = Pad(x, p) }")
    x = X[0]
    check(model, {"x": x, "p": ints(1, 2, 0, 3)}, np.pad(x, ((1, 0), (2, 3))))
    check(model, {"x": x, "p": ints(-1, 2, 1, -3)}, np.pad(x, ((0, 1), (2, 0)))[1:, :-3])
    model = compiled(
        'g (float[a,b] x, int64[4] p) => (float[u,v] y) { y = Pad<mode="reflect">(x, p) }'
    )
    check(model, {"x": x, "p": ints(1, 2, 0, 3)}, np.pad(x, ((1, 0), (2, 3)), "reflect"))


@pytest.mark.parametrize("dtype", ["float32", "int64", "int32", "float64"])
def test_range(dtype: str) -> None:
    name = {"float32": "float", "float64": "double"}.get(dtype, dtype)
    model = compiled(f"g ({name} s, {name} e, {name} d) => ({name}[p] y) {{ y = Range(s, e, d) }}")
    for start, end, step in ((1, 9, 2), (7, -4, -3), (1, 0, 2), (0, 5, 1), (3, 3, 1)):
        feeds = {"s": start, "e": end, "d": step}
        wanted = np.arange(start, end, step).astype(dtype)
        check(model, {k: np.array(v, dtype) for k, v in feeds.items()}, wanted)


def test_split_and_fill() -> None:
    model = compiled(
        """g (float[a,b,c] x, int64[2] s) => (float[p,b,c] y, float[q,b,c] z, float[t,u] w) {
        y, z = Split(x, s) w = ConstantOfShape(s) }"""
    )
    for sizes in ((1, 1), (0, 2), (2, 0)):
        y, z = X[: sizes[0]], X[sizes[0] :]
        check(model, {"x": X, "s": ints(*sizes)}, y, z, np.zeros(sizes, np.float32))
    with pytest.raises(ShapeError, match="fit"):
        model({"x": X, "s": ints(1, 2)})


def test_axes() -> None:
    model = compiled(
        """g (float[a,b,c] x, int64[2] s) => (float[p] y, float[q,r,t] z) {
        y = ReduceMean<keepdims=0>(x, s) z = ReduceSum(x, s) }"""
    )
    for axes in ((0, 1), (2, 0), (-1, 1)):
        mean, whole = X.mean(axes), X.sum(axes, keepdims=True)
        check(model, {"x": X, "s": ints(*axes)}, mean, whole)
    model = compiled(
        """g (float[a,b,c] x, int64[1] s, int64 k) => (float[p,q,r,t] y, float[u,v,w] z) {
        y = Unsqueeze(x, s) z = CumSum(x, k) }"""
    )
    for axis in (0, 2, -1):
        wanted = np.expand_dims(X, axis)
        check(model, {"x": X, "s": ints(axis), "k": axis}, wanted, X.cumsum(axis))
    model = compiled("g (float[a,b,c] x, int64[1] s) => (float[p,q] y) { y = Squeeze(x, s) }")
    check(model, {"x": X[:, 1:2], "s": ints(1)}, X[:, 1])
    with pytest.raises(ShapeError):
        model({"x": X, "s": ints(1)})


def test_counts_of_zero_flow_on() -> None:
    model = compiled(
        """g (float[a] x) => (float y, float z, float[q] w) {
        n = NonZero(x) m = Transpose(n) g = GatherND(x, m) y = ReduceSum<keepdims=0>(g)
        z = ReduceProd<keepdims=0>(g) c = Concat<axis=0>(x, g) w = Softmax<axis=0>(c) }""",
        threads=2,
    )
    for x in (X.reshape(-1), np.zeros(3, np.float32), np.array([0, 2, 0, 3], np.float32)):
        picked = x[x != 0]
        joined = np.exp(np.concatenate([x, picked]))
        check(model, {"x": x}, picked.sum(), picked.prod(), joined / joined.sum())


def test_dims_that_must_agree() -> None:
    model = compiled("g (float[a] x, float[b] y) => (float[c] z) { z = Add(x, y) }")
    check(model, {"x": X[0, 0], "y": X[0, 1]}, X[0, 0] + X[0, 1])
    with pytest.raises(ShapeError, match=r"3 and 4|4 and 3"):
        model({"x": X[0, 0], "y": X[0, 1, :3]})


def test_given_outputs_are_checked_when_their_shape_is_known() -> None:
    model = compiled("g (float[a] x, int64[2] s) => (float[p,q] y) { y = Reshape(x, s) }")
    x, y = np.arange(6, dtype=np.float32), np.zeros((2, 3), np.float32)
    result = model.run({"x": x, "s": ints(2, 3)}, outputs={"y": y})
    assert result["y"] is y
    np.testing.assert_array_equal(y, x.reshape(2, 3))
    with pytest.raises(InputError, match="shape is"):
        model.run({"x": x, "s": ints(3, 2)}, outputs={"y": y})
    with pytest.raises(InputError, match="memory"):
        model.run({"x": x, "s": ints(2, 3)}, outputs={"y": x.reshape(2, 3)})


def test_a_saved_script_runs(tmp_path: Path) -> None:
    model = compiled("g (float[a] x, int64[2] s) => (float[p,q] y) { y = Reshape(x, s) }")
    model.save(tmp_path / "m.whet")
    again = whet.load(tmp_path / "m.whet")
    assert again.program == model.program
    x = np.arange(6, dtype=np.float32)
    check(again, {"x": x, "s": ints(3, -1)}, x.reshape(3, 2))
    assert again.profile_run({"x": x, "s": ints(3, -1)}).shape[1] == len(model.program.launches)


def test_many_shapes_leave_memory_flat() -> None:
    model = compiled("g (float[a] x, int64[2] s) => (float[p,q] y) { y = Reshape(x, s) }")
    for n in range(1, 300):
        check(model, {"x": np.ones(n, np.float32), "s": ints(1, n)}, np.ones((1, n), np.float32))
    assert model._plan is not None
    assert all(len(known) <= 64 for known in model._plan._bindings)


RESIZE = """g (float[1,2,h,w] x, float[1,2,u,v] like) => (float[1,2,p,q] y) {{
    s = Shape(like) y = Resize<{}>(x, , , s) }}"""


@pytest.mark.parametrize(
    "how",
    [
        'mode="linear"',
        'mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"',
        'mode="cubic", coordinate_transformation_mode="align_corners"',
        'mode="linear", antialias=1',
    ],
)
def test_resize_to_the_size_of_another(how: str) -> None:
    model = compiled(RESIZE.format(how))
    rng = np.random.default_rng(11)
    for before, after in (
        ((5, 7), (10, 14)),
        ((5, 7), (3, 11)),
        ((4, 4), (4, 4)),
        ((1, 3), (2, 1)),
    ):
        x = rng.standard_normal((1, 2, *before)).astype(np.float32)
        like = np.zeros((1, 2, *after), np.float32)
        fixed = whet.compile(
            parse(RESIZE.format(how)),
            shapes={"x": x.shape, "like": like.shape},
            options=whet.Options(threads=1),
        )
        feeds = {"x": x, "like": like}
        check(model, feeds, fixed(feeds)["y"])


def test_resize_by_scales_from_data() -> None:
    model = compiled("g (float[a,b] x, float[2] s) => (float[p,q] y) { y = Resize(x, , s) }")
    x = X[0]
    check(model, {"x": x, "s": np.array([2, 3], np.float32)}, x.repeat(2, 0).repeat(3, 1))
    check(model, {"x": x, "s": np.array([1, 0.5], np.float32)}, x[:, ::2])


def test_squeeze_refuses_an_open_dim_that_would_go() -> None:
    model = compiled("g (float[n,1,3] x) => (float[n,3] y) { y = Squeeze(x) }")
    x = X.reshape(8, 1, 3)
    check(model, {"x": x}, x[:, 0])
    with pytest.raises(ShapeError, match="do not fit"):
        model({"x": x[:1]})
