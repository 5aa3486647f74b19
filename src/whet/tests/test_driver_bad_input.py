"""Models and arguments that no compilation can honour: a clear error, or a right result."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.tests.small_models import layer_model, run_layer

HUGE = 2**37


def _info(name: str, shape: Any, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: dict[str, np.ndarray[Any, Any]] | None = None,
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(a, name) for name, a in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, tensors)
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def _relu(shape: Any) -> onnx.ModelProto:
    return _model([helper.make_node("Relu", ["x"], ["y"])], [_info("x", shape)], [_info("y", None)])


# -- what is no model ------------------------------------------------------------------------------


def test_paths_that_hold_no_model(tmp_path: Path) -> None:
    """A missing file, a folder, a pipe, a device: an error that names it, without waiting."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "no.onnx", tmp_path, tmp_path / "pipe", "/dev/null", "a\0b"):
        with pytest.raises(whet.ModelError):
            whet.compile(path)


def test_bytes_that_are_no_model(tmp_path: Path) -> None:
    """Empty, foreign and truncated bytes are refused, from memory and from a file."""
    whole = layer_model().SerializeToString()
    for data in (b"", b"some text", whole[: len(whole) // 2], b"\x89WHET\r\n\x1a" + bytes(99)):
        (tmp_path / "m.onnx").write_bytes(data)
        for source in (data, tmp_path / "m.onnx"):
            with pytest.raises(whet.ModelError, match="hint"):
                whet.compile(source)


def test_objects_that_are_no_model() -> None:
    """The error says what may be given."""
    for source in (42, None, bytearray(b"x"), [1]):
        with pytest.raises(whet.ModelError, match="cannot load a model from"):
            whet.compile(source)  # type: ignore[arg-type]


def test_everything_unsupported_is_listed_at_once() -> None:
    """Unknown operators come in one list, and so do known ones that cannot be compiled."""
    nodes = [
        helper.make_node("Foo", ["x"], ["a"]),
        helper.make_node("Bar", ["a"], ["b"], domain="mine"),
    ]
    with pytest.raises(whet.UnsupportedError, match=r"(?s)Foo.*mine::Bar"):
        whet.compile(_model(nodes, [_info("x", [2])], [_info("b", [2])]))
    nodes = [
        helper.make_node("Tile", ["s", "n"], ["a"]),
        helper.make_node("Where", ["m", "s", "s"], ["b"]),
    ]
    inputs = [
        _info("s", [2], TensorProto.STRING),
        _info("n", [1], TensorProto.INT64),
        _info("m", [2], TensorProto.BOOL),
    ]
    outputs = [_info(name, None, TensorProto.STRING) for name in ("a", "b")]
    with pytest.raises(whet.UnsupportedError, match=r"(?s)string of Tile.*string of Where"):
        whet.compile(_model(nodes, inputs, outputs))


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("Relu", ["x"], ["y"], strength=3),
        helper.make_node("Relu", ["x", "x"], ["y"]),
        helper.make_node("Relu", ["nothing"], ["y"]),
        helper.make_node("Elsewhere", ["x"], ["y"], domain="not.imported"),
        helper.make_node("MatMul", ["x", "x"], ["y"]),
    ],
)
def test_nodes_without_names_are_called_by_what_they_make(node: onnx.NodeProto) -> None:
    with pytest.raises(whet.WhetError) as caught:
        whet.compile(_model([node], [_info("x", [2, 3])], [_info("y", None)]))
    assert f"{node.op_type}_y" in str(caught.value)


# -- arguments -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shapes", "error"),
    [
        ({"z": (2, 4)}, whet.OptionError),
        ([("x", (2, 4))], whet.OptionError),
        ({"x": 5}, whet.ShapeError),
        ({"x": "ab"}, whet.ShapeError),
        ({"x": (2,)}, whet.ShapeError),
        ({"x": (-1, 4)}, whet.ShapeError),
        ({"x": (True, 4)}, whet.ShapeError),
        ({"x": (2.0, 4)}, whet.ShapeError),
        ({"x": (2**70, 4)}, whet.ShapeError),
        ({"x": (2, 5)}, whet.ShapeError),
    ],
)
def test_shapes_that_do_not_fit(shapes: Any, error: type[whet.WhetError]) -> None:
    """Unknown names and impossible dims are errors that say so."""
    with pytest.raises(error):
        whet.compile(layer_model("n"), shapes=shapes)


def test_options_of_another_kind() -> None:
    """A dictionary is no ``Options``."""
    with pytest.raises(whet.OptionError, match=r"whet\.Options"):
        whet.compile(layer_model(), options={"threads": 1})  # type: ignore[arg-type]


# -- shapes ----------------------------------------------------------------------------------------


def test_dims_beyond_memory() -> None:
    """Tensors beyond the limit are refused; what merely does not fit fails when it runs."""
    for shape in ([HUGE, HUGE], [2**62, 8]):
        with pytest.raises(whet.ResourceError, match=r"bytes(.|\n)*limits.tensor_bytes"):
            whet.compile(_relu(shape))
    with pytest.raises(whet.InputError):
        whet.compile(_relu([HUGE]))({"x": np.ones(3, np.float32)})
    expand = helper.make_node("Expand", ["x", "s"], ["y"])
    model = _model([expand], [_info("x", [1])], [_info("y", None)], {"s": np.array([HUGE])})
    with pytest.raises(whet.ResourceError):
        whet.compile(model)({"x": np.ones(1, np.float32)})


def test_long_vectors_do_not_exhaust_the_compiler() -> None:
    """Shape inference must not take memory for each element of a vector."""
    nodes = [
        helper.make_node("ConstantOfShape", ["s"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    model = _model(nodes, [_info("x", [1])], [_info("y", None)], {"s": np.array([HUGE])})
    assert whet.compile(model).outputs[0].shape == (HUGE,)


def test_open_dims_without_names_are_independent() -> None:
    """Dims that are unknown, or -1 as some exporters write, each get a name of their own."""
    for dims in ([None, None], [-1, -1]):
        model = whet.compile(_relu(dims))
        assert model.inputs[0].shape == ("x_0", "x_1")
        x = np.linspace(-1, 1, 6, dtype=np.float32).reshape(2, 3)
        np.testing.assert_array_equal(model({"x": x})["y"], np.maximum(x, 0))


def test_an_unknown_rank_must_be_given() -> None:
    """The error shows how."""
    with pytest.raises(whet.ShapeError, match="shapes="):
        whet.compile(_relu(None))
    assert whet.compile(_relu(None), shapes={"x": (2, 3)}).inputs[0].shape == (2, 3)


def test_empty_and_zero_dimensional_arrays() -> None:
    """No elements and no dimensions are ordinary cases."""
    empty = np.ones((0, 4), np.float32)
    assert whet.compile(_relu([0, 4]))({"x": empty})["y"].shape == (0, 4)
    assert whet.compile(layer_model("n"))({"x": empty})["y"].shape == (0, 3)
    assert whet.compile(_relu([]))({"x": np.float32(3)})["y"] == 3


# -- odd graphs ------------------------------------------------------------------------------------


def test_graphs_without_nodes() -> None:
    """An output may be an input or a constant."""
    x = np.array([1, -2], np.float32)
    same = whet.compile(_model([], [_info("x", [2])], [_info("x", [2])]))
    np.testing.assert_array_equal(same({"x": x})["x"], x)
    fixed = whet.compile(_model([], [], [_info("w", [2])], {"w": x}))
    np.testing.assert_array_equal(fixed({})["w"], x)


def test_one_tensor_as_two_outputs() -> None:
    """Two names are two arrays; one name twice is refused."""
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Identity", ["y"], ["z"])]
    model = _model(nodes, [_info("x", [2])], [_info("y", [2]), _info("z", [2])])
    result = whet.compile(model)({"x": np.array([1, -2], np.float32)})
    assert result["y"].tolist() == result["z"].tolist() == [1, 0]
    assert not np.shares_memory(result["y"], result["z"])
    model = _model(nodes[:1], [_info("x", [2])], [_info("y", [2]), _info("y", [2])])
    with pytest.raises(whet.ModelError, match="two outputs"):
        whet.compile(model)


def test_weights_that_are_not_numbers_stay_so() -> None:
    """NaN and infinity go through products and softmax as IEEE 754 says."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Softmax", ["h"], ["y"]),
    ]
    w = np.eye(3, dtype=np.float32)
    w[0, 0], w[1, 1] = np.nan, np.inf
    model = _model(nodes, [_info("x", [1, 3])], [_info("y", [1, 3])], {"w": w})
    assert np.isnan(whet.compile(model)({"x": np.ones((1, 3), np.float32)})["y"]).all()


# -- arrays ----------------------------------------------------------------------------------------


def test_arrays_of_every_make() -> None:
    """Strided, reversed, swapped, unaligned, read-only and broadcast arrays give right results."""
    model = whet.compile(layer_model("n"))
    x = np.linspace(-2, 2, 12, dtype=np.float32).reshape(3, 4)
    locked = x.copy()
    locked.flags.writeable = False
    unaligned = np.frombuffer(b"\0" + x.tobytes(), np.float32, 12, 1).reshape(3, 4)
    wide = np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3]
    views = (np.asfortranarray(x), x[::-1, ::-1], x.astype(">f4"), locked, unaligned, wide)
    for given in (*views, np.broadcast_to(np.float32(2), (3, 4))):
        np.testing.assert_allclose(model({"x": given})["y"], run_layer(given), rtol=1e-5)


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"x": np.ones((2, 4), np.float32), "q": 1},
        {"x": np.ones((2, 4))},
        {"x": np.ones((2, 5), np.float32)},
        {"x": np.ones(4, np.float32)},
        {"x": None},
        {"x": "text"},
        [np.ones((2, 4), np.float32)],
    ],
)
def test_arrays_that_do_not_fit(inputs: Any) -> None:
    """Missing, unknown and wrongly typed or shaped inputs are errors that name them."""
    with pytest.raises(whet.InputError):
        whet.compile(layer_model())(inputs)


def test_an_array_too_large_to_copy() -> None:
    """Memory that cannot be had is an error, not a crash."""
    huge = np.broadcast_to(np.float32(1), (HUGE, 4))
    with pytest.raises(whet.ResourceError):
        whet.compile(layer_model("n"))({"x": huge})
