"""Models made to do harm: each is refused with a reason, quickly, or compiles and is right."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import whet
from whet.frontend.load import load_model
from whet.limits import Budget
from whet.passes.fold_constants import fold_constants
from whet.tests.hostile_models import (
    I64,
    INT64,
    compile_model,
    f32,
    make_model,
    single,
)

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
    return make_model([call], [2], functions=functions)


def test_functions_are_counted_before_they_are_unfolded() -> None:
    with pytest.raises(whet.ResourceError, match=r"268435456 nodes(.|\n)*limits.nodes"):
        compile_model(_laughs(28))
    with pytest.raises(whet.ResourceError, match="depth"):
        compile_model(_laughs(60))
    x = f32(-1, 2)
    np.testing.assert_array_equal(compile_model(_laughs(3)).run({"x": x})["y"], np.maximum(x, 0))


def test_each_limit_is_enforced_and_named() -> None:
    """A limit below what the model needs is an error that says which option raises it."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Relu", ["h"], ["y"])]
    model = make_model(nodes, [2, 8], {"w": np.ones((8, 8), np.float32)})
    for name, value in {
        "file_bytes": 100, "nodes": 1, "rank": 1, "tensor_bytes": 100, "total_bytes": 100,
    }.items():  # fmt: skip
        with pytest.raises(whet.ResourceError, match=rf"--limit {name}="):
            compile_model(model, **{name: value})
    for name in ("tensor_bytes", "total_bytes"):
        compile_model(model, **{name: 256})


def test_time_and_memory_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    model = single("Relu", [2], {})
    with monkeypatch.context() as patch:
        patch.setattr("whet.limits.private_bytes", iter(range(0, 2**40, 2**33)).__next__)
        with pytest.raises(whet.ResourceError, match="compile_bytes"):
            compile_model(model, compile_bytes=2**32)
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
    model = make_model(nodes, [1000], {"w": weights})
    for bound in (100, 2**20):
        compiled = compile_model(model, folded_bytes=bound)
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
    model = make_model(nodes, [1], {n: a.astype(np.float32) for n, a in constants.items()})
    found = compile_model(model).run({"x": f32(1)})["y"]
    np.testing.assert_allclose(found, 4 * 65 * 65 + 1, rtol=1e-5)


# -- shape of the graph ----------------------------------------------------------------------------


def test_long_chains_do_not_exhaust_the_stack() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["h0"])]
    nodes += [helper.make_node("Neg", [f"h{k}"], [f"h{k + 1}"]) for k in range(2000)]
    model = compile_model(make_model(nodes, [3], outputs=["h2000"]))
    np.testing.assert_array_equal(model.run({"x": f32(-1, 0, 2)})["h2000"], f32(0, 0, 2))


def test_doubling_does_not_explode() -> None:
    nodes = [helper.make_node("Add", ["x", "x"], ["h0"])]
    for k in range(60):
        nodes.append(helper.make_node("Transpose", [f"h{k}"], [f"t{k}"]))
        nodes.append(helper.make_node("Max", [f"h{k}", f"t{k}"], [f"h{k + 1}"]))
    found = compile_model(make_model(nodes, [3, 3], outputs=["h60"])).run(
        {"x": np.eye(3, dtype=np.float32)}
    )
    np.testing.assert_array_equal(found["h60"], 2 * np.eye(3))


@pytest.mark.parametrize("op", ["Sum", "Max", "Concat"])
def test_very_many_inputs(op: str) -> None:
    """Operators with thousands of inputs become trees; order and result stay."""
    attributes: dict[str, Any] = {"axis": 0} if op == "Concat" else {}
    nodes = [helper.make_node("Neg", ["x"], ["z"])]
    nodes.append(helper.make_node(op, ["x", "z", "z"] * 700, ["y"], **attributes))
    x = f32(1, -2)
    stacked = np.tile(np.stack([x, -x, -x]), (700, 1))
    expected = {"Sum": stacked.sum(0), "Max": stacked.max(0), "Concat": stacked.reshape(-1)}[op]
    np.testing.assert_array_equal(
        compile_model(make_model(nodes, [2])).run({"x": x})["y"], expected
    )


def test_odd_names() -> None:
    """Control characters, paths, formats and megabytes are names like any other."""
    for name in ("\u202e\0\n\t\"'%{}", "../../etc/passwd", "n" * 3_000_000):
        nodes = [helper.make_node("Relu", ["x"], [name], name=name)]
        nodes.append(helper.make_node("Neg", [name], ["y"], name=name))
        compiled = compile_model(make_model(nodes, [name[:50], 2]))
        np.testing.assert_array_equal(compiled.run({"x": np.ones((1, 2), np.float32)})["y"], -1)
    nodes = [helper.make_node("Softmax", ["x"], ["y"], name="n" * 3_000_000, axis=9)]
    with pytest.raises(whet.WhetError) as caught:
        compile_model(make_model(nodes, [2]))
    assert len(str(caught.value)) < 5000


def test_dims_are_not_evaluated(tmp_path: Any) -> None:
    """A dimension is a name, whatever it looks like."""
    touched = tmp_path / "touched"
    for name in (f"__import__('os').system('touch {touched}')", "n**n**n**9", "(" * 5000, "a/0"):
        compiled = compile_model(single("Relu", [name, 2], {}))
        assert compiled.run({"x": np.ones((3, 2), np.float32)})["y"].shape == (3, 2)
    assert not touched.exists()


# -- structure -------------------------------------------------------------------------------------


def _softmax(*attributes: onnx.AttributeProto) -> onnx.ModelProto:
    node = helper.make_node("Softmax", ["x"], ["y"])
    node.attribute.extend(attributes)
    return make_model([node], [4, 4])


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
            compile_model(model)


def test_constants_that_lowering_computes_keep_to_the_limits() -> None:
    """Beyond the bytes that may be folded an equation stays one, and the result the same."""
    column = np.linspace(0, 1, 64, dtype=np.float32)[:, None]
    nodes = [
        helper.make_node("MatMul", ["a", "b"], ["c"]),
        helper.make_node("Add", ["x", "c"], ["y"]),
    ]
    model = make_model(nodes, [64, 64], {"a": column, "b": column.T})
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
    model = single("Relu", [2], {})
    model.graph.input[0].type.tensor_type.elem_type = 0
    with pytest.raises(whet.ModelError, match="no type"):
        compile_model(model)
    model.graph.input[0].ClearField("type")
    with pytest.raises(whet.ModelError, match="no type"):
        compile_model(model)


def test_sparse_constants_are_named() -> None:
    model = single("Add", [4], {}, f32(1))
    values, places = numpy_helper.from_array(f32(1), "s"), numpy_helper.from_array(np.array([9]))
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [2**40]))
    with pytest.raises(whet.UnsupportedError, match="'s' is sparse"):
        compile_model(model)


def test_indices_outside_are_no_reads_outside() -> None:
    """Indices that only the run knows are kept inside the data."""
    model = make_model([helper.make_node("Gather", ["x", "i"], ["y"])], [4])
    model.graph.input.append(helper.make_tensor_value_info("i", INT64, [4]))
    indices = np.array([10**12, -(10**12), -I64, I64 - 1])
    found = compile_model(model).run({"x": f32(1, 2, 3, 4), "i": indices})["y"]
    assert set(found.tolist()) <= {1.0, 2.0, 3.0, 4.0}


def test_integers_divide_by_zero_without_a_signal() -> None:
    for op in ("Div", "Mod"):
        node = helper.make_node(op, ["i", "j"], ["y"])
        kinds = [helper.make_tensor_value_info(n, INT64, [3]) for n in "ij"]
        result = helper.make_tensor_value_info("y", INT64, None)
        graph = helper.make_graph([node], "g", kinds, [result])
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        compile_model(model).run({"i": np.array([1, -I64, -I64]), "j": np.array([0, -1, 0])})
