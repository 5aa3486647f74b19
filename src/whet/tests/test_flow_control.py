"""Branches and loops."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import whet
from whet.errors import ShapeError
from whet.tests.flow_models import check, compiled

X = np.random.default_rng(3).standard_normal((2, 3)).astype(np.float32)

BRANCH = """g (float[2,3] x, bool c) => (float[2,3] y) {
    z = Add(x, x)
    y0 = If(c) <then_branch = t () => (float[2,3] a) { a = Mul(z, x) },
                else_branch = e () => (float[2,3] b) { b = Sub(x, z) }>
    y = Relu(y0) }"""


@pytest.mark.parametrize("threads", [1, 2])
def test_if(threads: int) -> None:
    model = compiled(BRANCH, threads=threads)
    check(model, {"x": X, "c": True}, np.maximum(2 * X * X, 0))
    check(model, {"x": X, "c": False}, np.maximum(-X, 0))


def test_if_of_a_constant_is_no_control_flow() -> None:
    model = compiled(
        """g (float[3] x) => (float[3] y) { one = Constant<value_int=1>() c = Cast<to=9>(one)
        y = If(c) <then_branch = t () => (float[3] a) { a = Neg(x) },
                   else_branch = e () => (float[3] b) { b = Exp(x) }> }"""
    )
    assert model.program.script is None
    check(model, {"x": X[0]}, -X[0])


def test_branches_of_different_shapes() -> None:
    model = compiled(
        """g (float[n,3] x, bool c) => (float[m,3] y) {
        z = If(c) <then_branch = t () => (float[p,3] a) { a = Concat<axis=0>(x, x) },
                   else_branch = e () => (float[q,3] b) { b = Identity(x) }>
        y = Relu(z) }"""
    )
    relu = np.maximum(X, 0)
    check(model, {"x": X, "c": True}, np.concatenate([relu, relu]))
    check(model, {"x": X, "c": False}, relu)


def test_an_output_never_shares_memory_with_an_input() -> None:
    model = compiled(
        """g (float[3] x, bool c) => (float[3] y, float[3] z) {
        y = If(c) <then_branch = t () => (float[3] a) { a = Identity(x) },
                   else_branch = e () => (float[3] b) { b = Exp(x) }>
        z = Identity(y) }"""
    )
    found = model({"x": X[0], "c": np.array(True)})
    assert not np.shares_memory(found["y"], X) and not np.shares_memory(found["y"], found["z"])


LOOP = """g (float[2,3] x, int64 n) => (float[2,3] y, float[k,2,3] s) {
    y, s = Loop(n, , x) <body = b (int64 i, bool c, float[2,3] v)
        => (bool d, float[2,3] w, float[2,3] q) {
        d = Identity(c) f = Cast<to=1>(i) w = Add(v, f) q = Mul(w, x) }> }"""


@pytest.mark.parametrize("trips", [0, 1, 5])
def test_loop(trips: int) -> None:
    states = [X]
    for trip in range(trips):
        states.append(states[-1] + np.float32(trip))
    piled = np.array([s * X for s in states[1:]], np.float32).reshape(trips, 2, 3)
    check(compiled(LOOP), {"x": X, "n": trips}, states[-1], piled)


def test_loop_until_a_condition_fails() -> None:
    model = compiled(
        """g (float x) => (float y, int64[n] s) {
        y, s = Loop(, , x) <body = b (int64 i, bool c, float v) => (bool d, float w, int64 j) {
            two = Constant<value_float=2.0>() w = Mul(v, two)
            top = Constant<value_float=100.0>() d = Less(w, top) j = Identity(i) }> }"""
    )
    check(model, {"x": np.float32(3)}, np.float32(192), np.arange(6))


def test_a_carried_value_may_grow_in_nested_control_flow() -> None:
    model = compiled(
        """g (float[a,3] x, int64 n) => (float[k,3] y) {
        z = Relu(x)
        y = Loop(n, , x) <body = b (int64 i, bool c, float[r,3] v) => (bool d, float[u,3] w) {
            d = Identity(c) two = Constant<value_int=2>() m = Mod(i, two) odd = Cast<to=9>(m)
            w = If(odd) <then_branch = t () => (float[p,3] e) { e = Concat<axis=0>(v, z) },
                         else_branch = f () => (float[q,3] g) { g = Add(v, v) }> }> }""",
        threads=2,
    )
    for rows in (1, 2):
        value = x = X[:rows]
        for trip in range(5):
            value = np.concatenate([value, np.maximum(x, 0)]) if trip % 2 else value + value
        check(model, {"x": x, "n": 5}, value)


def test_scan_backwards() -> None:
    model = compiled(
        """g (float[3] s, float[n,3] x) => (float[3] y, float[3,n] z) {
        y, z = Scan<num_scan_inputs=1, scan_input_directions=[1], scan_output_directions=[1],
            scan_output_axes=[-1], body = b (float[3] t, float[3] e) => (float[3] u, float[3] o) {
            u = Add(t, e) o = Mul(u, e) }>(s, x) }"""
    )
    for rows in (1, 4):
        x = np.random.default_rng(rows).standard_normal((rows, 3)).astype(np.float32)
        state, piled = X[0], []
        for row in x[::-1]:
            state = state + row
            piled.append(state * row)
        check(model, {"s": X[0], "x": x}, state, np.stack(piled[::-1], axis=-1))


def test_scripts_run_concurrently() -> None:
    model = compiled(LOOP)
    wanted = model({"x": X, "n": np.array(20)})["y"]
    found: list[np.ndarray] = []

    def run() -> None:
        for _ in range(10):
            found.append(model({"x": X, "n": np.array(20)})["y"])

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 40
    assert all(np.array_equal(f, wanted) for f in found)


def test_a_saved_loop_runs(tmp_path: Path) -> None:
    model = compiled(LOOP)
    model.save(tmp_path / "m.whet")
    again = whet.load(tmp_path / "m.whet")
    feeds = {"x": X, "n": np.array(3)}
    for one, other in zip(model(feeds).values(), again(feeds).values(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_collected_values_of_different_shapes_are_an_error() -> None:
    model = compiled(
        """g (int64 n) => (float[k,m] s) {
        o = Constant<value_int=1>() t = Cast<to=9>(o)
        s = Loop(n, t) <body = b (int64 i, bool c) => (bool d, float[m] q) {
            d = Identity(c) z = Constant<value_ints=[1]>() r = Reshape(i, z)
            q = ConstantOfShape(r) }> }"""
    )
    with pytest.raises(ShapeError, match="differ"):
        model({"n": np.array(3)})
