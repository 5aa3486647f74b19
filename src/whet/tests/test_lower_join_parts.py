"""Parts of a tensor computed from the same elements: one kernel with the bits of two, or left."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

import whet

HEADS, PLACES = 3, 50


def rotation(size: int, width: int, *, interleaved: bool) -> ModelProto:
    """Return a rotation of heads of a size, of which ``width`` elements are turned."""
    node = helper.make_node(
        "RotaryEmbedding",
        ["x", "cos", "sin", "places"],
        ["y"],
        num_heads=HEADS,
        rotary_embedding_dim=width,
        interleaved=int(interleaved),
    )
    table: list[int | str | None] = [PLACES, width // 2]
    rows: list[int | str | None] = [1, "n", HEADS * size]
    shapes = {"x": rows, "cos": table, "sin": table}
    inputs = [helper.make_tensor_value_info(k, TensorProto.FLOAT, s) for k, s in shapes.items()]
    inputs.append(helper.make_tensor_value_info("places", TensorProto.INT64, [1, "n"]))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, rows)
    graph = helper.make_graph([node], "rotation", inputs, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])


def turned(feeds: dict[str, np.ndarray], size: int, width: int, *, interleaved: bool) -> np.ndarray:
    """Return the rotation in float64."""
    x = feeds["x"].astype(np.float64).reshape(-1, HEADS, size)
    angles = [feeds[k].astype(np.float64)[feeds["places"][0]][:, None] for k in ("cos", "sin")]
    turn, result = angles[0] + 1j * angles[1], x.copy()
    if interleaved:
        values = (x[..., 0:width:2] + 1j * x[..., 1:width:2]) * turn
        result[..., 0:width:2], result[..., 1:width:2] = values.real, values.imag
    else:
        half = width // 2
        values = (x[..., :half] + 1j * x[..., half:width]) * turn
        result[..., :half], result[..., half:width] = values.real, values.imag
    return result.reshape(feeds["x"].shape)


@pytest.mark.parametrize(
    ("size", "width", "interleaved", "launches"),
    [(64, 64, False, 2), (20, 20, False, 2), (32, 20, False, 3), (20, 20, True, 2)],
)
def test_halves_of_a_rotation_are_one_kernel(
    size: int, width: int, interleaved: bool, launches: int
) -> None:
    model = rotation(size, width, interleaved=interleaved)
    joined, apart = (whet.compile(model, options=whet.Options(opt_level=k)) for k in (2, 1))
    rng = np.random.default_rng(size + width)
    for rows in (0, 1, 7, 33):
        feeds: dict[str, np.ndarray] = {
            "x": rng.standard_normal((1, rows, HEADS * size), np.float32),
            "cos": rng.standard_normal((PLACES, width // 2), np.float32),
            "sin": rng.standard_normal((PLACES, width // 2), np.float32),
            "places": rng.integers(0, PLACES, (1, rows)),
        }
        y = joined(feeds)["y"]
        assert np.array_equal(y, apart(feeds)["y"])
        assert np.abs(y - turned(feeds, size, width, interleaved=interleaved)).max(initial=0) < 1e-5
    # the last one brings the heads together, as the caller has them
    assert (joined.stats.launches, apart.stats.launches) == (launches, launches + 1)


def test_the_switch_leaves_halves_apart() -> None:
    model = rotation(64, 64, interleaved=False)
    launches = [
        whet.compile(model, options=whet.Options(passes={"join_parts": switch})).stats.launches
        for switch in (True, 1, 0, False)
    ]
    assert launches == [2, 2, 3, 3]


def concatenation(text: str) -> ModelProto:
    """Return a model from lines ``output = Op(inputs)`` that end in a concatenation."""
    nodes = []
    for line in text.split("; "):
        output, call = line.split(" = ")
        op, inputs = call.rstrip(")").split("(")
        nodes.append(helper.make_node(op, inputs.split(","), [output]))
    nodes[-1].attribute.append(helper.make_attribute("axis", 1))
    wide = len(nodes[-1].input)
    values = [helper.make_tensor_value_info(k, TensorProto.FLOAT, ["n", 19]) for k in "xz"]
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", wide * 19])
    graph = helper.make_graph(nodes, "parts", values, [output])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)])


@pytest.mark.parametrize(
    ("text", "launches"),
    [
        ("a = Sin(x); b = Cos(x); y = Concat(a,b)", 1),
        ("a = Sin(x); b = Cos(z); y = Concat(a,b)", 2),
        ("p = Exp(x); a = Sin(p); b = Cos(p); y = Concat(p,a,b)", 3),
    ],
)
def test_only_parts_that_read_the_same_elsewhere_are_joined(text: str, launches: int) -> None:
    model = whet.compile(concatenation(text))
    rng = np.random.default_rng(len(text))
    x, z = (rng.standard_normal((5, 19), np.float32) for _ in "xz")
    e = np.exp(x.astype(np.float64))
    wanted = {
        1: [np.sin(x), np.cos(x)],
        2: [np.sin(x), np.cos(z)],
        3: [e, np.sin(e), np.cos(e)],
    }[launches]
    result = model({"x": x, "z": z})["y"]
    assert np.abs(result - np.concatenate(wanted, axis=1)).max() < 1e-5
    assert model.stats.launches == launches
