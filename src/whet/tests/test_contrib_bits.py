"""MatMulNBits whose rows may be integers: what it computes, and when the weights stay floats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import whet
from whet.frontend.contrib.packed import numbers_of

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Weights:
    """Weights of a node, and what they stand for [column, depth], in float64."""

    model: ModelProto
    floats: Array


def packed(numbers: Array, bits: int) -> Array:
    """Return rows of numbers with the lowest bits first, padded to whole bytes."""
    count = 8 // bits
    whole = np.pad(numbers, ((0, 0), (0, -numbers.shape[1] % count)))
    parts = whole.reshape(len(whole), -1, count).astype(np.uint8)
    places = np.arange(count, dtype=np.uint8) * bits
    return np.asarray(np.bitwise_or.reduce(parts << places, axis=-1))


def weights(
    columns: int, depth: int, *, bits: int = 4, block: int = 32, zeros: str = "", level: int = 4,
    dims: tuple[int | str, ...] = ("n",), size: float = 0.02, bias: bool = False,
) -> Weights:  # fmt: skip
    """Make a model of one node; ``zeros`` is empty, ``all`` or ``float``."""
    rng, blocks = np.random.default_rng(bits + columns), -(-depth // block)
    codes = rng.integers(0, 1 << bits, (columns, blocks * block))
    scales: Array = np.asarray(size * (0.5 + rng.random((columns, blocks))), np.float32)
    middle = 1 << (bits - 1)
    points: Array = np.full((columns, blocks), middle, np.float32)
    if zeros == "all":
        points = np.asarray(rng.integers(0, 1 << bits, points.shape), np.float32)
    if zeros == "float":
        points = np.asarray(middle + rng.standard_normal(points.shape), np.float32)
    each = [np.repeat(a, block, axis=1)[:, :depth].astype(np.float64) for a in (scales, points)]
    given: dict[str, Array] = {
        "b": packed(codes, bits).reshape(columns, blocks, -1), "s": scales,
    }  # fmt: skip
    if zeros:
        given["z"] = points if zeros == "float" else packed(points, bits)
    if bias:
        given["c"] = rng.standard_normal(columns).astype(np.float32)
    inputs = ["x", "b", "s", "z" if zeros else "", "", "c" if bias else ""]
    node = helper.make_node(
        "MatMulNBits", inputs, ["y"], domain="com.microsoft", K=depth, N=columns, bits=bits,
        block_size=block, accuracy_level=level,
    )  # fmt: skip
    graph = helper.make_graph(
        [node], "bits",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [*dims, depth])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [*dims, columns])],
        [numpy_helper.from_array(a, n) for n, a in given.items()],
    )  # fmt: skip
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    return Weights(model, (codes[:, :depth] - each[1]) * each[0])


def in_integers(compiled: Any) -> bool:
    return any("QuantizeRows" in g.ops for g in compiled.stats.groups)


def in_blocks(compiled: Any) -> bool:
    return any("BlockMatMul" in g.ops for g in compiled.stats.groups)


def most(x: Array, w: Weights) -> Array:
    """Return how far results may be off: half a step of every row's 32, and float16 of weights."""
    groups = np.abs(x.astype(np.float64)).reshape(*x.shape[:-1], x.shape[-1] // 32, 32)
    step = np.broadcast_to(groups.max(-1, keepdims=True) / 254, groups.shape).reshape(x.shape)
    large = np.abs(w.floats)
    coarse = large + 16 * np.abs(w.floats).max() / 15  # a minimum is rounded for all codes
    return np.asarray((1.01 * step) @ large.T + 2.0**-10 * np.abs(x) @ coarse.T)


CASES: list[dict[str, Any]] = [
    {},
    {"block": 64, "dims": ("n", 3)},
    {"block": 128, "zeros": "all", "bias": True},
    {"zeros": "float", "dims": ("a", "b", "c")},
    {"bits": 8, "bias": True},
    {"bits": 2, "zeros": "all"},
]


@pytest.mark.peer
@pytest.mark.parametrize("case", CASES, ids=str)
def test_rows_become_integers(case: dict[str, Any]) -> None:
    ort = pytest.importorskip("onnxruntime")
    w = weights(45, 192, **case)
    compiled = whet.compile(w.model)
    session = ort.InferenceSession(w.model.SerializeToString())
    assert in_integers(compiled)
    bias = next((numpy_helper.to_array(t) for t in w.model.graph.initializer if t.name == "c"), 0)
    rng, dims = np.random.default_rng(8), case.get("dims", ("n",))
    for rows in (1, 2, 13, 0):
        lead = [rows, 3, 2][: len(dims)]
        x = rng.standard_normal((*lead, 192)).astype(np.float32)
        found = compiled({"x": x})["y"]
        right = x.astype(np.float64) @ w.floats.T + bias
        assert found.shape == right.shape
        (theirs,) = session.run(None, {"x": x}) if x.size else (found,)
        assert np.linalg.norm(found - theirs) <= 0.01 * np.linalg.norm(theirs)
        assert (np.abs(found - right) <= most(x, w) + 1e-5).all()


@pytest.mark.parametrize(
    "case",
    [
        {"level": 0}, {"level": 1}, {"block": 16}, {"bits": 8, "zeros": "all"},
        {"size": 1e-9}, {"size": 1e5},
    ],
    ids=str,
)  # fmt: skip
def test_what_no_format_holds_stays_floats(case: dict[str, Any]) -> None:
    w = weights(33, 96, **case)
    compiled = whet.compile(w.model)
    assert not in_integers(compiled) and in_blocks(compiled) == (case.get("block", 32) == 32)
    x = np.random.default_rng(10).standard_normal((5, 96)).astype(np.float32)
    right = x.astype(np.float64) @ w.floats.T
    assert np.abs(compiled({"x": x})["y"] - right).max() <= 1e-5 * np.abs(right).max()


def test_a_depth_that_no_group_divides_stays_floats() -> None:
    w = weights(33, 80)
    assert not in_blocks(whet.compile(w.model))


def test_layers_that_read_the_same_rows_share_them() -> None:
    w = weights(32, 64)
    second = w.model.graph.node.add()
    second.CopyFrom(w.model.graph.node[0])
    second.output[0] = "z"
    w.model.graph.output.add().CopyFrom(w.model.graph.output[0])
    w.model.graph.output[1].name = "z"
    codes = next(t for t in w.model.graph.initializer if t.name == "b")
    other = numpy_helper.to_array(codes) ^ 0x35
    w.model.graph.initializer.append(numpy_helper.from_array(other, "b2"))
    second.input[1] = "b2"
    compiled = whet.compile(w.model)
    assert sorted("+".join(g.ops) for g in compiled.stats.groups) == [
        "BlockMatMul", "BlockMatMul", "QuantizeRows"
    ]  # fmt: skip


def test_numbers_are_packed_as_they_are_read() -> None:
    numbers = np.random.default_rng(1).integers(0, 4, (3, 9))
    assert np.array_equal(numbers_of(packed(numbers, 2), 2)[:, :9], numbers)


def test_zero_points_of_a_byte_each() -> None:
    """NNCF's ``compress_weights`` does not pack them, and ONNX Runtime refuses its files."""
    w = weights(33, 96, zeros="all", level=0)
    z = next(t for t in w.model.graph.initializer if t.name == "z")
    points = numbers_of(numpy_helper.to_array(z).reshape(33, -1), 4)[:, :3]
    z.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(points), "z"))
    x = np.random.default_rng(9).standard_normal((5, 96)).astype(np.float32)
    found = whet.compile(w.model)({"x": x})["y"]
    np.testing.assert_allclose(found, x @ w.floats.T, rtol=2e-4, atol=2e-4)
    z.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(points[:, :1]), "z"))
    with pytest.raises(whet.WhetError, match=r"zero points .* do not fit 33 x 3 blocks"):
        whet.compile(w.model)
