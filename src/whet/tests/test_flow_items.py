"""Sequences, optionals and texts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import whet
from whet.cli.main import run_command
from whet.errors import InputError, OptionError, ShapeError, UnsupportedError
from whet.runtime.elements import Elements
from whet.tests.flow_models import check, compiled, parse

X = np.random.default_rng(5).standard_normal((4, 3)).astype(np.float32)


def test_a_sequence_that_never_leaves_the_model() -> None:
    model = compiled(
        """g (float[n,3] x, int64[m] sizes, int64 k) => (float[p,3] y, float[q,3] z, int64 c) {
        s = SplitToSequence<axis=0>(x, sizes) e = SequenceAt(s, k) f = Exp(e)
        t = SequenceInsert(s, f) c = SequenceLength(t)
        y = ConcatFromSequence<axis=0>(t) u = SequenceErase(t, k)
        z = ConcatFromSequence<axis=0>(u) }"""
    )
    for sizes, k in (((1, 3), 1), ((2, 2), -1), ((1, 1, 2), 0)):
        parts = np.split(X, np.cumsum(sizes)[:-1])
        grown = [*parts, np.exp(parts[k])]
        left = list(grown)
        del left[k]
        feeds = {"x": X, "sizes": np.array(sizes), "k": k}
        check(model, feeds, np.concatenate(grown), np.concatenate(left), len(grown))
    with pytest.raises(ShapeError, match="position"):
        model({"x": X, "sizes": np.array([2, 2]), "k": np.array(2)})
    with pytest.raises(ShapeError, match="make up"):
        model({"x": X, "sizes": np.array([2, 3]), "k": np.array(0)})


def test_sequences_in_and_out(tmp_path: Path) -> None:
    model = compiled(
        """g (seq(float[n,3]) s, float[3] b) => (seq(float[m,3]) r) {
        r = SequenceMap <body = f (float[a,3] e, float[3] c) => (float[a,3] d) {
            d = Add(e, c) }>(s, b) }"""
    )
    model.save(tmp_path / "m.whet")
    for ready in (model, whet.load(tmp_path / "m.whet")):
        for parts in ([X, X[:1]], [], [X[:0], X[1:]]):
            found: Any = ready({"s": parts, "b": X[0]})["r"]
            assert len(found) == len(parts)
            for one, part in zip(found, parts, strict=True):
                np.testing.assert_allclose(one, part + X[0], rtol=1e-6)
    with pytest.raises(InputError, match="sequence"):
        model({"s": X, "b": X[0]})
    with pytest.raises(InputError, match="dtype"):
        model({"s": [X.astype(np.float64)], "b": X[0]})


def test_a_loop_that_fills_a_sequence() -> None:
    model = compiled(
        """g (float[3] x, int64 n) => (float[k,3] y) {
        e = SequenceEmpty()
        s = Loop(n, , e) <body = b (int64 i, bool c, seq(float[3]) t) => (bool d, seq(float[3]) u) {
            d = Identity(c) f = Cast<to=1>(i) w = Mul(x, f) u = SequenceInsert(t, w) }>
        y = ConcatFromSequence<axis=0, new_axis=1>(s) }"""
    )
    check(model, {"x": X[0], "n": 4}, X[0] * np.arange(4, dtype=np.float32)[:, None])
    with pytest.raises(ShapeError, match="empty"):
        model({"x": X[0], "n": np.array(0)})


def test_sequences_that_grow_from_one_leave_it_alone() -> None:
    model = compiled(
        """g (seq(float[3]) s, float[3] a, float[3] b, int64 k) =>
            (seq(float[3]) r, seq(float[3]) t, seq(float[3]) u, seq(float[3]) v, seq(float[3]) w) {
            t = SequenceInsert(s, a) u = SequenceInsert(s, b) e = SequenceErase(t)
            v = SequenceInsert(e, b) w = SequenceInsert(v, a, k) r = Identity(s) }"""
    )
    a, b = X[0], X[1]
    own = [X[2], X[3]]
    found: Any = model({"s": own, "a": a, "b": b, "k": np.array(1)})
    wanted = {
        "r": [*X[2:]], "t": [*X[2:], a], "u": [*X[2:], b], "v": [*X[2:], b],
        "w": [X[2], a, X[3], b],
    }  # fmt: skip
    assert len(own) == 2
    for name, rows in wanted.items():
        assert isinstance(found[name], list)
        np.testing.assert_array_equal(found[name], rows, err_msg=name)
    found["t"].append(a)
    assert [len(found[name]) for name in "rtuvw"] == [2, 4, 3, 3, 4]


def test_a_sequence_that_starts_two_loops() -> None:
    """Both begin with the same elements, and the second trip of each grows what the first made."""
    fill = """Loop(n, , s) <body = b{0} (int64 i{0}, bool c{0}, seq(float[3]) t{0}) =>
        (bool d{0}, seq(float[3]) u{0}) {{
        d{0} = Identity(c{0}) w{0} = {1}(x, x) u{0} = SequenceInsert(t{0}, w{0}) }}>"""
    model = compiled(
        f"""g (float[3] x, int64 n) => (float[p,3] y, float[q,3] z) {{
        e = SequenceEmpty() s = SequenceInsert(e, x)
        f = {fill.format(1, "Add")} g = {fill.format(2, "Mul")}
        y = ConcatFromSequence<axis=0, new_axis=1>(f)
        z = ConcatFromSequence<axis=0, new_axis=1>(g) }}"""
    )
    x = X[0]
    check(model, {"x": x, "n": 3}, np.stack([x, *[x + x] * 3]), np.stack([x, *[x * x] * 3]))


def test_what_grows_shares_a_list() -> None:
    """Then a loop that fills a sequence takes time in proportion to its trips."""
    first = Elements([1])
    second = first.grown(2)
    third, other = second.grown(3), second.grown(4)
    assert third._shared is second._shared is first._shared
    assert other._shared is not third._shared
    assert [e.copied() for e in (first, second, third, other)] == [
        [1],
        [1, 2],
        [1, 2, 3],
        [1, 2, 4],
    ]
    assert [len(first), third.at(2), other.at(2)] == [1, 3, 4]


def test_optionals() -> None:
    model = compiled(
        """g (optional(float[3]) o, float[3] x) => (float[3] y, bool h) {
        h = OptionalHasElement(o)
        y = If(h) <then_branch = t () => (float[3] a) { v = OptionalGetElement(o) a = Add(v, x) },
                   else_branch = e () => (float[3] b) { b = Neg(x) }> }"""
    )
    found = model({"o": None, "x": X[0]})
    np.testing.assert_array_equal(found["y"], -X[0])
    assert not found["h"]
    check(model, {"o": X[1], "x": X[0]}, X[0] + X[1], True)


def _texts() -> onnx.ModelProto:
    return parse(
        """g (string[n] x, string[n] w, float[k] f)
        => (string[n] y, bool[n] m, int64[n] c, float[n] z) {
        y = StringConcat(x, w) m = RegexFullMatch<pattern="a+b?">(x)
        p, c = StringSplit<delimiter=" ">(y) q = Cast<to=1>(m) r = ReduceSum<keepdims=0>(f)
        z = Mul(q, r) }"""
    )


def test_texts(tmp_path: Path) -> None:
    model = whet.compile(_texts(), options=whet.Options(threads=1))
    model.save(tmp_path / "m.whet")
    feeds = {"x": np.array(["aab", "", "b"]), "w": np.array([" ä b", "x", "ab c"]), "f": X[0]}
    for ready in (model, whet.load(tmp_path / "m.whet")):
        found = ready(feeds)
        assert found["y"].tolist() == ["aab ä b", "x", "bab c"]
        assert found["m"].tolist() == [True, False, False]
        assert found["c"].tolist() == [3, 1, 2]
        total = X[0].sum()
        np.testing.assert_allclose(found["z"], [total, 0, 0], rtol=1e-6)
    with pytest.raises(InputError, match="texts"):
        model({"x": np.array([1]), "w": np.array(["a"]), "f": X[0]})


def test_host_functions_can_be_forbidden_and_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(_texts(), path)
    with pytest.raises(UnsupportedError, match=r"StringConcat.*RegexFullMatch.*StringSplit"):
        whet.compile(path, options=whet.Options(host_ops=False))
    with pytest.raises(OptionError, match="host_ops"):
        whet.Options(host_ops=1)  # type: ignore[arg-type]
    assert run_command(["compile", str(path), "--no-host-ops"]) != 0
    assert "StringSplit" in capsys.readouterr().err
    assert run_command(["inspect", str(path), "--compile", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["compiled"]["placement"]
    assert {row["place"] for row in rows} == {"native", "host"}
    assert run_command(["inspect", str(path), "--compile"]) == 0
    table = capsys.readouterr().out
    assert "runs in" in table and "StringConcat" in table


def test_a_model_of_control_flow_alone_needs_no_host() -> None:
    compiled(
        """g (float[n,3] x) => (float[m,3] y) {
        s = SequenceConstruct(x, x) y = ConcatFromSequence<axis=0>(s) }""",
        host_ops=False,
    )
