"""Constants on their way to the weights section, and models on theirs to shape inference."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.graph.infer import light_proto
from whet.lower.copying import SAMPLES, SHARED_FROM_BYTES, Copies, sampled_digest


@pytest.mark.parametrize("shape", [(), (0, 7), (3, 5), (1, 611, 977), (7, 401, 331)])
def test_pieces_are_the_whole(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng()
    value = rng.standard_normal((*shape[::-1],)).astype(np.float32).T
    target = np.full(shape, np.nan)
    copies = Copies()
    copies.start(target, value)
    copies.finish()
    assert np.array_equal(target, value.astype(np.float64))


def test_large_copies_are_among_the_tests() -> None:
    assert SHARED_FROM_BYTES < 7 * 401 * 331 * 4


def test_equal_bytes_have_equal_digests() -> None:
    rng = np.random.default_rng()
    for size in (0, 1, 7, 8, 4099, 8 * SAMPLES * 3 + 5):
        data, kind = rng.integers(0, 256, size, np.uint8), np.dtype(np.uint8)
        assert sampled_digest(data, kind) == sampled_digest(data.copy(), kind)
        assert sampled_digest(data, kind) != sampled_digest(np.append(data, np.uint8(0)), kind)


def test_digests_are_of_elements_in_order_not_in_memory() -> None:
    value = np.random.default_rng().standard_normal((97, 101, 7)).astype(np.float32)
    turned = value.transpose(2, 0, 1)
    kind = np.dtype(np.float32)
    assert sampled_digest(turned, kind) == sampled_digest(np.ascontiguousarray(turned), kind)
    assert sampled_digest(turned, kind) != sampled_digest(value, kind)


def test_copies_wait_when_many_are_pending(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whet.lower.copying.MOST_PENDING_BYTES", SHARED_FROM_BYTES)
    values = [np.full(SHARED_FROM_BYTES, k, np.uint8) for k in range(9)]
    targets, copies = [np.zeros_like(value) for value in values], Copies()
    for target, value in zip(targets, values, strict=True):
        copies.start(target, value)
    copies.finish()
    assert all(map(np.array_equal, targets, values))


def _products(weights: list[np.ndarray]) -> onnx.ModelProto:
    rows, cols = weights[0].shape
    nodes = [helper.make_node("MatMul", ["x", f"w{k}"], [f"y{k}"]) for k in range(len(weights))]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [40, rows])
    outputs = [
        helper.make_tensor_value_info(f"y{k}", TensorProto.FLOAT, [40, cols])
        for k in range(len(weights))
    ]
    constants = [numpy_helper.from_array(w, f"w{k}") for k, w in enumerate(weights)]
    return helper.make_model(helper.make_graph(nodes, "products", [x], outputs, constants))


def test_weights_that_differ_in_one_element_stay_apart() -> None:
    rng = np.random.default_rng()
    weights = [rng.standard_normal((600, 500)).astype(np.float32)] * 3
    weights[1] = weights[1].copy()
    place = tuple(rng.integers(0, extent) for extent in weights[1].shape)
    weights[1][place] += 1
    options = whet.Options(threads=1, passes={"merge_matmuls": False})
    x = rng.standard_normal((40, 600)).astype(np.float32)
    found = whet.compile(_products(weights), options=options).run({"x": x})
    for weight, y in zip(weights, found.values(), strict=True):
        exact = x.astype(np.float64) @ weight
        bound = 600 * np.finfo(np.float32).eps * (np.abs(x) @ np.abs(weight))
        assert np.all(np.abs(y - exact) <= bound)
    assert np.array_equal(found["y0"], found["y2"])
    assert not np.array_equal(found["y0"], found["y1"])


def test_a_light_proto_leaves_the_model_as_it_was() -> None:
    weights = [np.ones((64, 64), np.float32), np.ones((64, 64), np.float32)]
    model = ir.from_proto(_products(weights))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    light = light_proto(model)
    assert [value.name for value in light.graph.input] == ["x", "w0", "w1"]
    assert not light.graph.initializer
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert all(value.is_initializer() for value in model.graph.initializers.values())
    assert not any(value.is_graph_input() for value in model.graph.initializers.values())
