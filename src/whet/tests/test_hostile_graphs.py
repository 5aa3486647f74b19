"""Models made to do harm: each is refused with a reason, quickly, or compiles and is right."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.frontend.load import load_model
from whet.limits import Budget
from whet.passes.fold_constants import fold_constants
from whet.tests.fuzz.onnx_files import LIMITS

Array = np.ndarray[Any, np.dtype[Any]]
I64 = 2**63
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def _model(
    nodes: Sequence[onnx.NodeProto],
    shape: Sequence[int | str],
    constants: Mapping[str, Any] | None = None,
    *,
    outputs: Sequence[str] = ("y",),
    functions: Sequence[onnx.FunctionProto] = (),
) -> onnx.ModelProto:
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info(name, FLOAT, None) for name in outputs],
        tensors,
    )
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10, functions=functions)


def _one(
    op: str, shape: Sequence[int | str], attributes: Mapping[str, Any], *constants: Any
) -> onnx.ModelProto:
    """Return a model of one node: ``x`` first, then constants; ``None`` leaves an input out."""
    given = {f"c{k}": c for k, c in enumerate(constants) if c is not None}
    names = ["x", *(f"c{k}" if c is not None else "" for k, c in enumerate(constants))]
    return _model([helper.make_node(op, names, ["y"], **attributes)], shape, given)


def _folded(op: str, *constants: Any, **attributes: Any) -> onnx.ModelProto:
    """Return ``x + op(constants)``."""
    names = [f"c{k}" for k in range(len(constants))]
    nodes = [helper.make_node(op, names, ["c"], **attributes)]
    nodes.append(helper.make_node("Add", ["x", "c"], ["y"]))
    return _model(nodes, [1], dict(zip(names, constants, strict=True)))


def _sizes_from_data(count: int) -> onnx.ModelProto:
    """Return a slice along as many axes, with steps that a run gives."""
    model = _one("Slice", [4], {}, *map(np.array, ([0], [4], [0])))
    model.graph.node[0].input.append("n")
    model.graph.input.append(helper.make_tensor_value_info("n", INT64, [count]))
    return model


def _compile(model: onnx.ModelProto, **limits: int) -> Any:
    options = whet.Options(threads=1, limits=whet.Limits(**limits) if limits else LIMITS)
    return whet.compile(model.SerializeToString(), options=options)


def _f32(*values: float) -> Array:
    return np.array(values, np.float32)


ONE = np.float32(1)
IMAGE = (1, 1, 4, 4)
WINDOW = np.ones((1, 1, 2, 2), np.float32)

E120 = whet.ShapeError
REFUSED: dict[str, tuple[Callable[[], onnx.ModelProto], type[whet.WhetError], str]] = {
    "range without end": (
        lambda: _folded("Range", np.float32(0), np.float32(1), np.float32(1e-30)),
        whet.ShapeError, "no end",
    ),
    "range of nothing": (
        lambda: _folded("Range", np.float32(0), np.float32(np.nan), ONE), whet.ShapeError, "no end",
    ),
    "range of steps of zero": (
        lambda: _folded("Range", np.float32(0), ONE, np.float32(0)), whet.ShapeError, "no end",
    ),
    "one-hot of 2^40": (
        lambda: _folded("OneHot", np.array([1]), np.array(2**40), _f32(0, 1)),
        whet.ResourceError, "tensor_bytes",
    ),
    "padding of 2^40": (
        lambda: _folded("Pad", _f32(1, 1), np.array([2**40, 0])), whet.ResourceError, "tensor",
    ),
    "scales not a number": (
        lambda: _one("Resize", IMAGE, {}, None, _f32(1, 1, np.nan, np.inf)),
        whet.ResourceError, "tensor_bytes",
    ),
    "negative scales": (
        lambda: _one("Resize", IMAGE, {}, None, _f32(1, 1, -2, 0)), whet.ShapeError, "shape",
    ),
    "negative split": (
        lambda: _one("Split", [4], {}, np.array([-1, 5])), whet.WhetError, "E1",
    ),
    "parts for other outputs": (
        lambda: _one("Split", [4], {"num_outputs": 3}), whet.ShapeError, "3 parts for 1",
    ),
    "very many sizes": (lambda: _sizes_from_data(1 << 15), whet.ShapeError, "any rank"),
    "negative expand": (
        lambda: _one("Expand", [1], {}, np.array([-3])), whet.ShapeError, "-3",
    ),
    "negative repeats": (lambda: _one("Tile", [1], {}, np.array([-3])), whet.ShapeError, "neg"),
    "rank of 500": (
        lambda: _one("Reshape", [1], {}, np.ones(500, np.int64)), whet.ResourceError, "rank 500",
    ),
    "product beyond 64 bits": (
        lambda: _one("Reshape", [4], {}, np.array([2**62, 2**62, 4])), whet.ShapeError, "overflow",
    ),
    "step of 2^63": (
        lambda: _one("Slice", [4], {}, *map(np.array, ([0], [4], [0], [I64 - 1]))),
        whet.ShapeError, "steps",
    ),
    "step of -2^63": (
        lambda: _one("Slice", [4], {}, *map(np.array, ([3], [-9], [0], [-I64]))),
        whet.ShapeError, "steps",
    ),
    "step of 0": (
        lambda: _one("Slice", [4], {}, *map(np.array, ([0], [4], [0], [0]))),
        whet.ShapeError, "step",
    ),
    "stride of 0": (
        lambda: _one("Conv", IMAGE, {"strides": [0, 0]}, WINDOW), whet.ShapeError, "strides",
    ),
    "padding of a convolution": (
        lambda: _one("Conv", IMAGE, {"pads": [2**40] * 4}, WINDOW), whet.ResourceError, "tensor",
    ),
    "no groups": (lambda: _one("Conv", IMAGE, {"group": 0}, WINDOW), whet.ShapeError, "group 0"),
    "no groups of channels": (
        lambda: _one("GroupNormalization", IMAGE, {"num_groups": 0}, _f32(1), _f32(1)),
        whet.ShapeError, "0 groups",
    ),
    "window of 0": (
        lambda: _one("MaxPool", IMAGE, {"kernel_shape": [0, 0]}), whet.ShapeError, "positive",
    ),
    "negative neighbourhood": (lambda: _one("LRN", IMAGE, {"size": -3}), whet.ShapeError, "size"),
    "axis far away": (lambda: _one("Softmax", [4], {"axis": -(2**62)}), whet.ShapeError, "axis"),
    "block of 0": (
        lambda: _one("DepthToSpace", IMAGE, {"blocksize": 0}), whet.ShapeError, "positive",
    ),
    "another number of channels": (
        lambda: _one("ConvTranspose", (1, 999, 4, 4), {}, np.ones((2, 1, 3, 3), np.float32)),
        whet.ShapeError, "999",
    ),
    "other channels": (
        lambda: _one("InstanceNormalization", IMAGE, {}, _f32(1, 1), _f32(1, 1)), E120, "channel",
    ),
    "an input left out": (lambda: _one("Add", [1], {}, None), whet.ModelError, "leaves out"),
    "an equation of other characters": (
        lambda: _one("Einsum", [2], {"equation": "%>"}), whet.ShapeError, "equation",
    ),
    "an attribute that is no text": (
        lambda: _one("Einsum", [2], {"equation": b"\xff"}), whet.ModelError, "UTF-8",
    ),
    "two types": (lambda: _one("Add", [1], {}, np.array([1])), whet.ModelError, "equal types"),
    "a type that is not taken": (
        lambda: _one("Where", [1], {}, ONE, ONE), whet.WhetError, "E1",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_parameters_that_make_no_sense(name: str) -> None:
    make, error, words = REFUSED[name]
    with pytest.raises(error, match=words):
        _compile(make())


# -- size ------------------------------------------------------------------------------------------


def _laughs(levels: int) -> onnx.ModelProto:
    """Return functions of which each calls the next twice: 2^levels nodes."""
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("f", 1)]
    functions = []
    for k in range(levels):
        calls = [
            helper.make_node(f"f{k + 1}", ["u"], ["a"], domain="f"),
            helper.make_node(f"f{k + 1}", ["a"], ["v"], domain="f"),
        ]
        functions.append(helper.make_function("f", f"f{k}", ["u"], ["v"], calls, imports))
    last = [helper.make_node("Relu", ["u"], ["v"])]
    functions.append(helper.make_function("f", f"f{levels}", ["u"], ["v"], last, imports))
    call = helper.make_node("f0", ["x"], ["y"], domain="f")
    return _model([call], [2], functions=functions)


def test_functions_are_counted_before_they_are_unfolded() -> None:
    with pytest.raises(whet.ResourceError, match=r"268435456 nodes(.|\n)*limits.nodes"):
        _compile(_laughs(28))
    with pytest.raises(whet.ResourceError, match="depth"):
        _compile(_laughs(60))
    x = _f32(-1, 2)
    np.testing.assert_array_equal(_compile(_laughs(3)).run({"x": x})["y"], np.maximum(x, 0))


def test_each_limit_is_enforced_and_named() -> None:
    """A limit below what the model needs is an error that says which option raises it."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    model = _model(nodes, [2, 8], {"w": np.ones((8, 8), np.float32)})
    for name, value in {
        "file_bytes": 100, "nodes": 1, "rank": 1, "tensor_bytes": 100, "total_bytes": 100,
    }.items():  # fmt: skip
        with pytest.raises(whet.ResourceError, match=rf"--limit {name}="):
            _compile(model, **{name: value})
    for name in ("tensor_bytes", "total_bytes"):
        _compile(model, **{name: 256})


def test_time_and_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = _one("Relu", [2], {})
    with monkeypatch.context() as patch:
        patch.setattr("whet.limits.private_bytes", iter(range(0, 2**40, 2**33)).__next__)
        with pytest.raises(whet.ResourceError, match="compile_bytes"):
            _compile(model, compile_bytes=2**32)
    times = iter(range(0, 10_000, 100))
    with monkeypatch.context() as patch:
        patch.setattr("time.monotonic", lambda: float(next(times)))
        with pytest.raises(whet.ResourceError, match="compile_s"):
            whet.limits.Budget(whet.Limits(compile_s=50), started_s=-100.0).check("here")


def test_limits_are_strict() -> None:
    with pytest.raises(whet.OptionError, match="nodes"):
        whet.Options(limits={"node": 3})  # type: ignore[arg-type]
    for value in (0, -1, 1.5, True, "9"):
        with pytest.raises(whet.OptionError, match="limit nodes"):
            whet.Limits(nodes=value)  # type: ignore[arg-type]
    assert whet.Options(limits={"nodes": 7}).limits.nodes == 7  # type: ignore[arg-type]


def test_folded_constants_are_bounded() -> None:
    """What would exceed the bound stays a node, and is right."""
    nodes = [helper.make_node("Exp", ["w"], ["c"]), helper.make_node("Add", ["x", "c"], ["y"])]
    weights = np.linspace(0, 1, 1000, dtype=np.float32)
    model = _model(nodes, [1000], {"w": weights})
    for bound in (100, 2**20):
        compiled = _compile(model, folded_bytes=bound)
        found = compiled.run({"x": weights})["y"]
        np.testing.assert_allclose(found, weights + np.exp(weights), rtol=1e-5)
        budget = Budget(whet.Limits(folded_bytes=bound))
        assert fold_constants(load_model(model), budget=budget) == (bound > 100)


def test_constant_convolutions_are_not_folded_in_python() -> None:
    nodes = [
        helper.make_node("Conv", ["a", "w"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    constants = {"a": np.ones((1, 4, 128, 128)), "w": np.ones((4, 4, 65, 65))}
    model = _model(nodes, [1], {n: a.astype(np.float32) for n, a in constants.items()})
    found = _compile(model).run({"x": _f32(1)})["y"]
    np.testing.assert_allclose(found, 4 * 65 * 65 + 1, rtol=1e-5)


# -- shape of the graph ----------------------------------------------------------------------------


def test_long_chains_do_not_exhaust_the_stack() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["h0"])]
    nodes += [helper.make_node("Neg", [f"h{k}"], [f"h{k + 1}"]) for k in range(2000)]
    model = _compile(_model(nodes, [3], outputs=["h2000"]))
    np.testing.assert_array_equal(model.run({"x": _f32(-1, 0, 2)})["h2000"], _f32(0, 0, 2))


def test_doubling_does_not_explode() -> None:
    nodes = [helper.make_node("Add", ["x", "x"], ["h0"])]
    for k in range(60):
        nodes.append(helper.make_node("Transpose", [f"h{k}"], [f"t{k}"]))
        nodes.append(helper.make_node("Max", [f"h{k}", f"t{k}"], [f"h{k + 1}"]))
    found = _compile(_model(nodes, [3, 3], outputs=["h60"])).run({"x": np.eye(3, dtype=np.float32)})
    np.testing.assert_array_equal(found["h60"], 2 * np.eye(3))


@pytest.mark.parametrize("op", ["Sum", "Max", "Concat"])
def test_very_many_inputs(op: str) -> None:
    """Operators with thousands of inputs become trees; order and result stay."""
    attributes: dict[str, Any] = {"axis": 0} if op == "Concat" else {}
    nodes = [helper.make_node("Neg", ["x"], ["z"])]
    nodes.append(helper.make_node(op, ["x", "z", "z"] * 700, ["y"], **attributes))
    x = _f32(1, -2)
    stacked = np.tile(np.stack([x, -x, -x]), (700, 1))
    expected = {"Sum": stacked.sum(0), "Max": stacked.max(0), "Concat": stacked.reshape(-1)}[op]
    np.testing.assert_array_equal(_compile(_model(nodes, [2])).run({"x": x})["y"], expected)


def test_odd_names() -> None:
    """Control characters, paths, formats and megabytes are names like any other."""
    for name in ("\u202e\0\n\t\"'%{}", "../../etc/passwd", "n" * 3_000_000):
        nodes = [helper.make_node("Relu", ["x"], [name], name=name)]
        nodes.append(helper.make_node("Neg", [name], ["y"], name=name))
        compiled = _compile(_model(nodes, [name[:50], 2]))
        np.testing.assert_array_equal(compiled.run({"x": np.ones((1, 2), np.float32)})["y"], -1)
    nodes = [helper.make_node("Softmax", ["x"], ["y"], name="n" * 3_000_000, axis=9)]
    with pytest.raises(whet.WhetError) as caught:
        _compile(_model(nodes, [2]))
    assert len(str(caught.value)) < 5000


def test_dims_are_not_evaluated(tmp_path: Any) -> None:
    """A dimension is a name, whatever it looks like."""
    touched = tmp_path / "touched"
    for name in (f"__import__('os').system('touch {touched}')", "n**n**n**9", "(" * 5000, "a/0"):
        compiled = _compile(_one("Relu", [name, 2], {}))
        assert compiled.run({"x": np.ones((3, 2), np.float32)})["y"].shape == (3, 2)
    assert not touched.exists()


# -- structure -------------------------------------------------------------------------------------


def _softmax(*attributes: onnx.AttributeProto) -> onnx.ModelProto:
    node = helper.make_node("Softmax", ["x"], ["y"])
    node.attribute.extend(attributes)
    return _model([node], [4, 4])


def test_attributes_of_the_wrong_kind() -> None:
    """Another type, a repeated name, an unknown name, a reference outside a function."""
    axis = helper.make_attribute("axis", 1)
    reals = onnx.AttributeProto(name="axis", type=onnx.AttributeProto.FLOATS, i=1)
    reference = onnx.AttributeProto(name="axis", type=onnx.AttributeProto.INT, ref_attr_name="a")
    for model, words in (
        (_softmax(reals), "type FLOATS"),
        (_softmax(axis, axis), "two attributes"),
        (_softmax(helper.make_attribute("location", "x")), "no attribute 'location'"),
        (_softmax(reference), "from a function"),
    ):
        with pytest.raises(whet.ModelError, match=words):
            _compile(model)


def test_constants_that_lowering_computes_keep_to_the_limits() -> None:
    """Beyond the bytes that may be folded an equation stays one, and the result the same."""
    column = np.linspace(0, 1, 64, dtype=np.float32)[:, None]
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    model = _model(nodes, [64, 64], {"a": column, "b": column.T})
    weights, x = [], np.ones((64, 64), np.float32)
    for folded in (1 << 10, 1 << 20):
        options = whet.Options(
            threads=1, passes={"fold_constants": False}, limits=whet.Limits(folded_bytes=folded)
        )
        compiled = whet.compile(model.SerializeToString(), options=options)
        weights.append(compiled.stats.weight_bytes)
        np.testing.assert_allclose(compiled.run({"x": x})["y"], 1 + column * column.T, rtol=1e-6)
    assert weights[0] < 1 << 12 < weights[1]


def test_inputs_without_a_type() -> None:
    model = _one("Relu", [2], {})
    model.graph.input[0].type.tensor_type.elem_type = 0
    with pytest.raises(whet.ModelError, match="no type"):
        _compile(model)
    model.graph.input[0].ClearField("type")
    with pytest.raises(whet.ModelError, match="no type"):
        _compile(model)


def test_sparse_constants_are_named() -> None:
    model = _one("Add", [4], {}, _f32(1))
    values, places = numpy_helper.from_array(_f32(1), "s"), numpy_helper.from_array(np.array([9]))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2**40]))
    with pytest.raises(whet.UnsupportedError, match="'s' is sparse"):
        _compile(model)


def test_indices_outside_are_no_reads_outside() -> None:
    """Indices that only the run knows are kept inside the data."""
    model = _model([helper.make_node("Gather", ["x", "i"], ["y"])], [4])
    model.graph.input.append(helper.make_tensor_value_info("i", INT64, [4]))
    indices = np.array([10**12, -(10**12), -I64, I64 - 1])
    found = _compile(model).run({"x": _f32(1, 2, 3, 4), "i": indices})["y"]
    assert set(found.tolist()) <= {1.0, 2.0, 3.0, 4.0}


def test_integers_divide_by_zero_without_a_signal() -> None:
    for op in ("Div", "Mod"):
        node = helper.make_node(op, ["i", "j"], ["y"])
        kinds = [helper.make_tensor_value_info(n, INT64, [3]) for n in "ij"]
        result = helper.make_tensor_value_info("y", INT64, None)
        graph = helper.make_graph([node], "g", kinds, [result])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        _compile(model).run({"i": np.array([1, -I64, -I64]), "j": np.array([0, -1, 0])})
