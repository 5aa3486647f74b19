"""Kernels that differ in numbers alone: one kernel, the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.kernel.expr import Const, walk
from whet.kernel.spec import Nest
from whet.tests.kernel_runner import kernels_of
from whet.tests.test_integer_attention import Builder

Array = np.ndarray[Any, Any]
NAME = "share_kernels"
SHARED: dict[str, int | None] = {NAME: None}


def model_of(
    nodes: list[onnx.NodeProto], constants: dict[str, Any], x: Array, outputs: list[str]
) -> onnx.ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(x.dtype)
    graph = helper.make_graph(
        nodes,
        "shared",
        [helper.make_tensor_value_info("x", kind, x.shape)],
        [helper.make_tensor_value_info(name, kind, x.shape) for name in outputs],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def names_of(model: onnx.ModelProto, *, shared: bool) -> list[str]:
    """Return the kernel of each launch."""
    options = whet.Options(passes={NAME: shared})
    return [g.kernel for g in whet.compile(model, options=options).stats.groups]


class Layers:
    """Products of bytes, each with a scale and a zero point of its own."""

    def __init__(self, rows: int, width: int, count: int) -> None:
        rng = np.random.default_rng(width)
        self.x = rng.integers(0, 256, (rows, width), np.uint8)
        self.weights = rng.integers(-128, 128, (count, width, width)).astype(np.int8)
        self.scales = rng.uniform(3e-4, 9e-4, count).astype(np.float32)
        self.zeros = rng.permutation(200)[:count].astype(np.uint8)

    def model(self) -> onnx.ModelProto:
        """Return the model."""
        nodes, constants = [], {"one": np.float32(1)}
        for k, (w, scale, zero) in enumerate(
            zip(self.weights, self.scales, self.zeros, strict=True)
        ):
            constants |= {f"w{k}": w, f"s{k}": scale, f"z{k}": zero}
            last = ["x" if k == 0 else f"q{k - 1}", f"w{k}", *([] if k == 0 else [f"z{k - 1}"])]
            nodes += [
                helper.make_node("MatMulInteger", last, [f"sum{k}"]),
                helper.make_node("Cast", [f"sum{k}"], [f"f{k}"], to=TensorProto.FLOAT),
                helper.make_node("Mul", [f"f{k}", f"s{k}"], [f"m{k}"]),
                helper.make_node("QuantizeLinear", [f"m{k}", "one", f"z{k}"], [f"q{k}"]),
            ]
        return model_of(nodes, constants, self.x, [f"q{len(self.scales) - 1}"])

    def reference(self) -> Array:
        """Return its result, from exact sums."""
        now, point = self.x.astype(np.int64), 0
        for w, scale, zero in zip(self.weights, self.scales, self.zeros, strict=True):
            total = ((now - point) @ w.astype(np.int64)).astype(np.float32)
            point = int(zero)
            now = np.clip(np.rint(total * scale).astype(np.int64) + point, 0, 255)
        return now.astype(np.uint8)


@pytest.mark.parametrize(("rows", "width"), [(1, 16), (7, 20), (33, 64)])
def test_layers_of_one_shape_are_one_kernel(rows: int, width: int) -> None:
    layers = Layers(rows, width, 4)
    model, name = layers.model(), "q3"
    found = whet.compile(model)({"x": layers.x})[name]
    apart = whet.compile(model, options=whet.Options(passes={NAME: False}))
    assert np.array_equal(found, layers.reference())
    assert np.array_equal(found, apart({"x": layers.x})[name])
    assert len(set(names_of(model, shared=True))) < len(set(names_of(model, shared=False)))


def maps(numbers: list[tuple[float, float]], x: Array) -> onnx.ModelProto:
    """Return results ``max(x * a + b, 0)`` of their own for each pair of numbers."""
    nodes, constants = [], {"nil": np.float32(0)}
    for k, (a, b) in enumerate(numbers):
        constants |= {f"a{k}": np.float32(a), f"b{k}": np.float32(b)}
        nodes += [
            helper.make_node("Mul", ["x", f"a{k}"], [f"m{k}"]),
            helper.make_node("Add", [f"m{k}", f"b{k}"], [f"n{k}"]),
            helper.make_node("Max", [f"n{k}", "nil"], [f"y{k}"]),
        ]
    return model_of(nodes, constants, x, [f"y{k}" for k in range(len(numbers))])


def test_a_number_that_all_have_stays_in_the_code() -> None:
    x = np.random.default_rng(1).standard_normal((5, 9)).astype(np.float32)
    numbers = [(2.5, 1.0), (-3.25, 1.0), (0.1, 1.0)]
    model = maps(numbers, x)
    calls, _ = kernels_of(model, rewrites=SHARED)
    assert len({c.kernel for c in calls}) == 1
    kernel = calls[0].kernel
    assert isinstance(kernel, Nest)
    left = {e.value for e in walk(kernel.stores[0].value) if isinstance(e, Const)}
    assert left == {1.0, 0.0}
    assert [float(c.roots[-1].make()[0]) for c in calls if c.roots[-1].make] == [
        float(np.float32(a)) for a, _ in numbers
    ]
    found = whet.compile(model)({"x": x})
    for k, (a, b) in enumerate(numbers):
        right = np.maximum(x.astype(np.float64) * float(np.float32(a)) + b, 0)
        assert np.abs(found[f"y{k}"] - right).max() <= 1e-6


def test_limits_stop_after_a_number_of_groups() -> None:
    x = np.ones((4, 4), np.float32)
    model = maps([(2.5, 1.0), (-3.25, 1.0)], x)
    counts = [
        len({c.kernel for c in kernels_of(model, rewrites={NAME: limit})[0]}) for limit in (0, 1)
    ]
    assert counts == [2, 1]


def test_numbers_before_a_loop_over_a_row_stay() -> None:
    """A variance is divided by its count once a row, not once an element."""
    rng = np.random.default_rng(2)
    x, nodes, constants = rng.standard_normal((6, 40)).astype(np.float32), [], {}
    for k, epsilon in enumerate((1e-5, 1e-3)):
        scale = rng.standard_normal(40).astype(np.float32)
        constants[f"s{k}"] = scale
        nodes.append(
            helper.make_node("LayerNormalization", ["x", f"s{k}"], [f"y{k}"], epsilon=epsilon)
        )
    model = model_of(nodes, constants, x, ["y0", "y1"])
    calls, _ = kernels_of(model, rewrites=SHARED)
    assert len({c.kernel for c in calls}) == 2
    wide = x.astype(np.float64)
    away = wide - wide.mean(1, keepdims=True)
    found = whet.compile(model)({"x": x})
    for k, epsilon in enumerate((1e-5, 1e-3)):
        right = away / np.sqrt((away**2).mean(1, keepdims=True) + epsilon) * constants[f"s{k}"]
        assert np.abs(found[f"y{k}"] - right).max() < 1e-5


def test_attention_on_integers_reads_its_numbers() -> None:
    """Two of one shape, with other zero points: one kernel, the bits of two."""
    first, second = Builder((9, 8, 12)), Builder((9, 8, 12), zeros={"q": 99, "v": 140})
    models = [b.model() for b in (first, second)]
    joined = onnx.compose.merge_models(
        onnx.compose.add_prefix(models[0], "a_"), onnx.compose.add_prefix(models[1], "b_"), []
    )
    feeds = {
        f"{p}{n}": v for p, b in (("a_", first), ("b_", second)) for n, v in b.feeds(1).items()
    }
    kernels = [n for n in names_of(joined, shared=True) if n.startswith("attention")]
    assert len(kernels) == 2 and len(set(kernels)) == 1
    found = whet.compile(joined)(feeds)
    apart = whet.compile(joined, options=whet.Options(passes={NAME: False}))(feeds)
    for name, value in apart.items():
        assert np.array_equal(found[name], value), name
