"""Large weights stay in the file: splitting loses nothing, whatever the bytes are."""

from __future__ import annotations

import contextlib
import mmap
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from whet.errors import WhetError
from whet.frontend.load import load_model
from whet.frontend.split import LARGE_BYTES, split_weights


def _model(sizes: list[int]) -> onnx.ModelProto:
    rng = np.random.default_rng(len(sizes))
    tensors = [
        numpy_helper.from_array(rng.standard_normal(size, np.float32), f"w{k}")
        for k, size in enumerate(sizes)
    ]
    nodes = [helper.make_node("Identity", [t.name], [f"y{k}"]) for k, t in enumerate(tensors)]
    outputs = [
        helper.make_tensor_value_info(f"y{k}", TensorProto.FLOAT, (size,))
        for k, size in enumerate(sizes)
    ]
    graph = helper.make_graph(nodes, "g", [], outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@given(st.lists(st.sampled_from([0, 1, 1000, 1023, 1024, 1025, 40000]), max_size=6))
def test_the_parts_are_the_whole(sizes: list[int]) -> None:
    """Putting the weights back gives the model; exactly the large ones are apart."""
    model = _model(sizes)
    data = model.SerializeToString()
    split = split_weights(memoryview(data))
    assert set(split.weights) == {k for k, size in enumerate(sizes) if 4 * size >= LARGE_BYTES}
    assert len(split.rest) <= len(data) - sum(len(w) for w in split.weights.values())
    rest = onnx.ModelProto.FromString(split.rest)
    for position, weight in split.weights.items():
        assert not rest.graph.initializer[position].HasField("raw_data")
        rest.graph.initializer[position].raw_data = bytes(weight)
    assert rest == model


def test_weights_are_views_of_the_file(tmp_path: Path) -> None:
    """Loading a file copies no large weight."""
    onnx.save(_model([5000]), tmp_path / "m.onnx")
    tensor = load_model(tmp_path / "m.onnx").graph.initializers["w0"].const_value
    assert tensor is not None
    base: object = tensor.numpy()
    while isinstance(base, np.ndarray):
        base = base.base
    assert isinstance(base, memoryview)
    assert isinstance(base.obj, mmap.mmap)


def test_graphs_that_a_parser_would_merge_are_left_to_it() -> None:
    """Protocol buffers may repeat a field; only the parser knows what that means."""
    data = _model([2000]).SerializeToString()
    twice = data + data
    assert split_weights(memoryview(twice)).rest == twice


def test_a_weight_of_the_wrong_size_is_refused() -> None:
    """The size is checked though the parser never sees the bytes."""
    model = _model([2000])
    model.graph.initializer[0].raw_data += b"1234"
    with pytest.raises(WhetError, match="8004 bytes, needs 8000"):
        load_model(model.SerializeToString())


@given(st.binary(max_size=200), st.integers(0, 2**31))
def test_no_bytes_make_it_fail(noise: bytes, place: int) -> None:
    """Foreign and damaged bytes come back whole, or as parts that together are no longer."""
    data = bytearray(_model([1, 1500]).SerializeToString())
    data[place % len(data)] ^= 0x55
    for candidate in (noise, bytes(data), bytes(data[: place % len(data)])):
        split = split_weights(memoryview(candidate))
        if not split.weights:
            assert len(split.rest) <= len(candidate) + 20
        with np.errstate(all="ignore"), contextlib.suppress(WhetError):
            load_model(candidate)
