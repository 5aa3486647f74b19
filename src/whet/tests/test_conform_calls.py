"""Calling compiled models: shapes known late, arrays of every kind, several callers, refusals."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import whet
from whet.errors import InputError, UnsupportedError
from whet.frontend.load import load_model
from whet.lower.build import check_supported
from whet.ops.table import op_table
from whet.runtime.model import CompiledModel
from whet.tests.tolerance import assert_close

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int | str, ...]
node = helper.make_node


def graph_of(
    nodes: list[onnx.NodeProto],
    inputs: dict[str, Shape],
    constants: dict[str, Array] | None = None,
    *,
    outputs: tuple[str, ...] = ("y",),
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(n, kind, s) for n, s in inputs.items()],
        [helper.make_tensor_value_info(n, kind, None) for n in outputs],
        initializer=[numpy_helper.from_array(v, n) for n, v in (constants or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def compiled(model: onnx.ModelProto, cache: Path, **options: Any) -> CompiledModel:
    return whet.compile(
        model, options=whet.Options(**{"threads": 1, "cache_dir": cache, **options})
    )


def normal(*shape: int, seed: int = 0) -> Array:
    values = np.random.default_rng(seed).standard_normal(shape)
    depth = max(shape[-1], 1) if len(shape) > 1 else 1
    return np.asarray(values / np.sqrt(depth), np.float32)


def reference(model: onnx.ModelProto, inputs: dict[str, Array]) -> list[Array]:
    with np.errstate(all="ignore"):
        return [np.asarray(a) for a in ReferenceEvaluator(model).run(None, inputs)]


# -- run-time dimensions ---------------------------------------------------------------------------


def perceptron() -> onnx.ModelProto:
    nodes = [
        node("Gemm", ["x", "a", "c"], ["h"]), node("Relu", ["h"], ["r"]),
        node("MatMul", ["r", "b"], ["z"]), node("Softmax", ["z"], ["y"]),
    ]  # fmt: skip
    constants = {"a": normal(20, 33), "b": normal(33, 7), "c": normal(33)}
    return graph_of(nodes, {"x": ("N", 20)}, constants)


def pictures() -> onnx.ModelProto:
    """Return a small residual network for pictures, batch known late."""
    nodes = [
        node("Conv", ["x", "a"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Relu", ["c1"], ["r1"]),
        node("Conv", ["r1", "b"], ["c2"], pads=[1, 1, 1, 1]), node("Add", ["c2", "r1"], ["s"]),
        node("Conv", ["s", "d"], ["c3"], pads=[1, 1, 1, 1], group=16),
        node("MaxPool", ["c3"], ["p"], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        node("GlobalAveragePool", ["p"], ["g"]), node("Flatten", ["g"], ["f"]),
        node("MatMul", ["f", "e"], ["y"]),
    ]  # fmt: skip
    constants = {
        "a": normal(16, 3, 3, 3), "b": normal(16, 16, 3, 3), "d": normal(16, 1, 3, 3),
        "e": normal(16, 10),
    }  # fmt: skip
    return graph_of(nodes, {"x": ("N", 3, 17, 15)}, constants)


def encoder(length: int | str) -> onnx.ModelProto:
    """Return one transformer layer of two heads, batch and perhaps length known late."""
    width, heads = 16, 2
    nodes: list[onnx.NodeProto] = []
    for name in "qkv":
        nodes += [
            node("MatMul", ["x", f"w{name}"], [f"{name}0"]),
            node("Reshape", [f"{name}0", "split"], [f"{name}1"]),
            node("Transpose", [f"{name}1"], [name], perm=[0, 2, 1, 3]),
        ]
    nodes += [
        node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]), node("MatMul", ["q", "kt"], ["s0"]),
        node("Mul", ["s0", "scale"], ["s1"]), node("Softmax", ["s1"], ["p"]),
        node("MatMul", ["p", "v"], ["o0"]), node("Transpose", ["o0"], ["o1"], perm=[0, 2, 1, 3]),
        node("Reshape", ["o1", "join"], ["o2"]), node("MatMul", ["o2", "wo"], ["o3"]),
        node("Add", ["o3", "x"], ["h"]), node("LayerNormalization", ["h", "g"], ["y"]),
    ]  # fmt: skip
    constants = {f"w{n}": normal(width, width, seed=k) for k, n in enumerate("qkvo")}
    constants |= {
        "split": np.array([0, 0, heads, width // heads]), "join": np.array([0, 0, width]),
        "scale": np.array(0.35, np.float32), "g": normal(width),
    }  # fmt: skip
    return graph_of(nodes, {"x": ("N", length, width)}, constants)


@pytest.mark.parametrize(
    ("build", "rest"),
    [(perceptron, (20,)), (pictures, (3, 17, 15)), (lambda: encoder(9), (9, 16))],
    ids=["perceptron", "pictures", "encoder"],
)
def test_one_file_serves_every_batch(
    build: Callable[[], onnx.ModelProto], rest: tuple[int, ...], cache: Path, tmp_path: Path
) -> None:
    proto = build()
    compiled(proto, cache).save(tmp_path / "m.whet")
    model = whet.load(tmp_path / "m.whet")
    assert model.inputs[0].shape[0] == model.outputs[0].shape[0] == "N"
    for batch in (1, 2, 5):
        x = normal(batch, *rest, seed=batch)
        (expected,) = reference(proto, {"x": x})
        assert_close(model({"x": x})["y"], expected, "graph", scale=float(np.abs(expected).max()))


def tokens() -> onnx.ModelProto:
    """Return the encoder behind embeddings of tokens and places, with a mask, as BERT has them."""
    body = encoder("L")
    nodes = [
        node("Gather", ["words", "ids"], ["e"]), node("Shape", ["ids"], ["shape"]),
        node("Slice", ["shape", "one", "two"], ["length"]),
        node("Slice", ["places", "zero", "length"], ["place"]), node("Add", ["e", "place"], ["x"]),
        node("Unsqueeze", ["mask", "axes"], ["m0"]),
        node("Cast", ["m0"], ["m1"], to=TensorProto.FLOAT), node("Sub", ["unit", "m1"], ["m2"]),
        node("Mul", ["m2", "low"], ["bias"]),
    ]  # fmt: skip
    for n in body.graph.node:
        if n.op_type == "Softmax":
            nodes.append(node("Add", ["s1", "bias"], ["s2"]))
            n.input[0] = "s2"
        nodes.append(n)
    constants = {t.name: numpy_helper.to_array(t) for t in body.graph.initializer}
    constants |= {
        "words": normal(50, 16), "places": normal(64, 16, seed=1), "zero": np.array([0]),
        "one": np.array([1]), "two": np.array([2]), "axes": np.array([1, 2]),
        "unit": np.array(1, np.float32), "low": np.array(-1e4, np.float32),
    }  # fmt: skip
    model = graph_of(nodes, {"ids": ("N", "L"), "mask": ("N", "L")}, constants)
    for value in model.graph.input:
        value.type.tensor_type.elem_type = TensorProto.INT64
    return model


def test_batch_and_length_are_known_late(cache: Path) -> None:
    proto = tokens()
    model = compiled(proto, cache)
    for batch, length in ((1, 1), (2, 7), (3, 33)):
        rng = np.random.default_rng(length)
        inputs = {
            "ids": rng.integers(0, 50, (batch, length)),
            "mask": (np.arange(length) < max(length - 2, 1))
            .astype(np.int64)[None]
            .repeat(batch, 0),
        }
        (expected,) = reference(proto, inputs)
        assert_close(model(inputs)["y"], expected, "graph", scale=float(np.abs(expected).max()))


# -- no elements -----------------------------------------------------------------------------------

EMPTY: dict[str, tuple[onnx.NodeProto, dict[str, Shape], dict[str, Array]]] = {
    "relu": (node("Relu", ["x"], ["y"]), {"x": (0, 3)}, {}),
    "rows": (node("MatMul", ["x", "w"], ["y"]), {"x": (0, 3)}, {"w": normal(3, 4)}),
    "cols": (node("MatMul", ["x", "z"], ["y"]), {"x": (2, 3), "z": (3, 0)}, {}),
    "depth": (node("MatMul", ["x", "z"], ["y"]), {"x": (2, 0), "z": (0, 4)}, {}),
    "weights": (node("MatMul", ["x", "w"], ["y"]), {"x": (2, 0)}, {"w": normal(0, 4)}),
    "sum": (node("ReduceSum", ["x", "a"], ["y"]), {"x": (2, 0)}, {"a": np.array([1])}),
    "softmax": (node("Softmax", ["x"], ["y"]), {"x": (0, 5)}, {}),
    "concat": (node("Concat", ["x", "z"], ["y"], axis=1), {"x": (2, 0), "z": (2, 3)}, {}),
    "transpose": (node("Transpose", ["x"], ["y"]), {"x": (2, 0, 3)}, {}),
    "images": (node("Conv", ["x", "w"], ["y"]), {"x": (0, 3, 5, 5)}, {"w": normal(4, 3, 3, 3)}),
    "pool": (node("MaxPool", ["x"], ["y"], kernel_shape=[2, 2]), {"x": (0, 3, 4, 4)}, {}),
    "slice": (
        node("Slice", ["x", "s", "s"], ["y"]), {"x": (4, 3)}, {"s": np.array([2])},
    ),
    "gather": (node("Gather", ["x", "s"], ["y"]), {"x": (4, 3)}, {"s": np.zeros(0, np.int64)}),
    "broadcast": (node("Add", ["x", "z"], ["y"]), {"x": (1, 4), "z": (0, 4)}, {}),
    "norm": (node("LayerNormalization", ["x", "w"], ["y"]), {"x": (0, 4)}, {"w": normal(4)}),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(EMPTY))
@pytest.mark.parametrize("level", [0, 3])
def test_extents_of_zero(name: str, level: int, cache: Path) -> None:
    operation, shapes, constants = EMPTY[name]
    proto = graph_of([operation], shapes, constants)
    inputs = {n: normal(*(int(e) for e in s)) for n, s in shapes.items()}
    (expected,) = reference(proto, inputs)
    assert_close(compiled(proto, cache, opt_level=level)(inputs)["y"], expected, "pointwise")


def test_a_batch_of_zero(cache: Path) -> None:
    model = compiled(perceptron(), cache)
    assert model({"x": np.zeros((0, 20), np.float32)})["y"].shape == (0, 7)


# -- arrays ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(cache: Path) -> CompiledModel:
    """A compiled perceptron."""
    return compiled(perceptron(), cache)


def strided(x: Array) -> Array:
    return np.repeat(x, 2, axis=1)[:, ::2]


def read_only(x: Array) -> Array:
    copy = x.copy()
    copy.flags.writeable = False
    return copy


def unaligned(x: Array) -> Array:
    raw = np.zeros(x.nbytes + 1, np.uint8)[1:]
    moved = raw.view(np.float32).reshape(x.shape)
    moved[...] = x
    return moved


KINDS: dict[str, Callable[[Array], Any]] = {
    "strided": strided,
    "columns first": np.asfortranarray,
    "backwards": lambda x: x[::-1].copy()[::-1],
    "read-only": read_only,
    "byte-swapped": lambda x: x.astype(">f4"),
    "unaligned": unaligned,
    "list": lambda x: [np.float32(v) for v in x] if x.ndim == 1 else list(x),
}


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_arrays_of_every_kind(kind: str, model: CompiledModel) -> None:
    x = normal(4, 20)
    np.testing.assert_array_equal(model({"x": KINDS[kind](x)})["y"], model({"x": x})["y"])


@pytest.mark.parametrize(
    "inputs",
    [
        {"x": np.zeros((2, 20))}, {"x": np.zeros((2, 20), np.int32)},
        {"x": np.zeros((2, 19), np.float32)}, {"x": np.zeros(20, np.float32)},
        {"x": np.zeros((2, 20, 1), np.float32)}, {}, {"z": np.zeros((2, 20), np.float32)},
        {"x": np.zeros((2, 20), np.float32), "z": 1}, {"x": "text"}, {"x": None},
    ],
)  # fmt: skip
def test_wrong_inputs_are_named(inputs: dict[str, Any], model: CompiledModel) -> None:
    with pytest.raises(InputError) as caught:
        model(inputs)
    assert "'x'" in str(caught.value) or "x" in caught.value.message or "z" in caught.value.message


def test_outputs_are_written_in_place(model: CompiledModel) -> None:
    x, y = normal(3, 20), np.full((3, 7), np.nan, np.float32)
    found = model.run({"x": x}, outputs={"y": y})
    assert found["y"] is y
    np.testing.assert_array_equal(y, model({"x": x})["y"])
    with pytest.raises(InputError):
        model.run({"x": x}, outputs={"y": np.zeros((2, 7), np.float32)})


def test_two_threads_call_one_model(model: CompiledModel) -> None:
    inputs = [normal(n, 20, seed=n) for n in (1, 3, 4)]
    expected = [model({"x": x})["y"] for x in inputs]
    wrong: list[int] = []

    def call(first: int) -> None:
        for k in range(first, first + 150):
            found = model({"x": inputs[k % 3]})["y"]
            if not np.array_equal(found, expected[k % 3]):
                wrong.append(k)

    callers = [threading.Thread(target=call, args=(k,)) for k in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


# -- refusals --------------------------------------------------------------------------------------


def test_all_unknown_operators_are_listed() -> None:
    nodes = [
        node("Det", ["x"], ["d"]), node("NonZero", ["d"], ["n"]), node("Cast", ["n"], ["f"], to=1),
        node("Unique", ["f"], ["y"]),
    ]  # fmt: skip
    model = load_model(graph_of(nodes, {"x": (2, 3, 3)}))
    known = {key: op for key, op in op_table().items() if key[1] == "Cast"}
    with pytest.raises(UnsupportedError) as caught:
        check_supported(model, known)
    assert all(word in str(caught.value) for word in ("Det", "NonZero", "Unique"))
    assert "Cast" not in str(caught.value)
