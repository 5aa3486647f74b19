"""``Gradient``: derivatives against central differences of ONNX's reference in double precision."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import whet
from whet.errors import ModelError, UnsupportedError
from whet.frontend.gradient.expand import derivative_rules
from whet.frontend.gradient.pointwise import FACTORS
from whet.tests.seeds import seeds_of_models

Array = np.ndarray[Any, np.dtype[Any]]
TRAINING = "ai.onnx.preview.training"
OPSETS = [helper.make_opsetid("", 24), helper.make_opsetid(TRAINING, 1)]
STEP = 1e-6
OPTIONS = whet.Options(threads=1)
LIMITED = {"Asin": (-0.9, 0.9), "Acos": (-0.9, 0.9), "Atanh": (-0.9, 0.9), "Acosh": (1.1, 3.0)}
POSITIVE = frozenset({"Log", "Sqrt", "Pow"})


def fresh_rng() -> np.random.Generator:
    return np.random.default_rng(next(seeds_of_models(1)))


def node(op: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attributes)


def gradient(y: str, xs: list[str], zs: tuple[str, ...] = ()) -> onnx.NodeProto:
    outputs = [f"d{y}_d{x}" for x in xs]
    return helper.make_node(
        "Gradient", [*xs, *zs], outputs, domain=TRAINING, xs=xs, zs=list(zs) or None, y=y
    )


def model_of(
    nodes: list[onnx.NodeProto], feeds: dict[str, Array], outputs: list[str],
    constants: dict[str, Array] | None = None, shapes: dict[str, list[Any]] | None = None,
) -> onnx.ModelProto:  # fmt: skip
    inputs = [
        helper.make_tensor_value_info(
            n, helper.np_dtype_to_tensor_dtype(a.dtype), (shapes or {}).get(n, a.shape)
        )
        for n, a in feeds.items()
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, None) for n in outputs]
    stored = [numpy_helper.from_array(a, n) for n, a in (constants or {}).items()]
    graph = helper.make_graph(nodes, "gradients", inputs, ends, stored)
    return helper.make_model(graph, opset_imports=OPSETS, ir_version=10)


def differences(model: onnx.ModelProto, feeds: dict[str, Array], y: str, x: str) -> Array:
    """Return the derivative of the sum of ``y`` by ``x`` from central differences."""
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    kept = [n for n in plain.graph.node if n.op_type != "Gradient"]
    del plain.graph.node[:]
    plain.graph.node.extend(kept)
    del plain.graph.output[:]
    plain.graph.output.append(helper.make_tensor_value_info(y, TensorProto.DOUBLE, None))
    run = ReferenceEvaluator(plain)
    found = np.zeros(feeds[x].shape)
    for place in list(np.ndindex(*found.shape)):
        sums = []
        for step in (STEP, -STEP):
            moved = feeds[x].copy()
            moved[place] += step
            results: Any = run.run([y], feeds | {x: moved})
            sums.append(float(np.sum(results[0])))
        found[place] = (sums[0] - sums[1]) / (2 * STEP)
    return found


def check(model: onnx.ModelProto, feeds: dict[str, Array], pairs: list[tuple[str, str]]) -> None:
    found = whet.compile(model, options=OPTIONS).run(feeds)
    for y, x in pairs:
        expected = differences(model, feeds, y, x)
        np.testing.assert_allclose(found[f"d{y}_d{x}"], expected, rtol=1e-6, atol=1e-6, err_msg=y)


def test_functions_of_one_input() -> None:
    rng = fresh_rng()
    nodes: list[onnx.NodeProto] = []
    feeds: dict[str, Array] = {}
    pairs: list[tuple[str, str]] = []
    for op in sorted(FACTORS.keys() - {"Erf", "Gelu"}):
        low, high = LIMITED.get(op, (0.2, 2.0) if op in POSITIVE else (-4.0, 4.0))
        feeds[f"x{op}"] = rng.uniform(low, high, 7)
        nodes += [node(op, f"x{op}", f"y{op}"), gradient(f"y{op}", [f"x{op}"])]
        pairs.append((f"y{op}", f"x{op}"))
    nodes += [node("Gelu", "xSin", "yGelu", approximate="tanh"), gradient("yGelu", ["xSin"])]
    pairs.append(("yGelu", "xSin"))
    check(model_of(nodes, feeds, [f"d{y}_d{x}" for y, x in pairs]), feeds, pairs)


BINARY = "Add Sub Mul Div Pow Max Min Mean Sum PRelu".split()
WIDE = frozenset({"Sum", "Mean", "PRelu"})
"""Operators whose reference broadcasts its later inputs only."""


def test_the_error_function_and_gelu() -> None:
    """ONNX's reference of them knows single precision alone."""
    x = fresh_rng().uniform(-3.0, 3.0, 9)
    nodes = [node("Erf", "x", "y"), gradient("y", ["x"]), node("Gelu", "x", "z"),
             gradient("z", ["x"])]  # fmt: skip
    found = whet.compile(model_of(nodes, {"x": x}, ["dy_dx", "dz_dx"]), options=OPTIONS).run(
        {"x": x}
    )
    np.testing.assert_allclose(found["dy_dx"], 2 / np.sqrt(np.pi) * np.exp(-x * x), rtol=1e-12)
    cdf = np.array([0.5 + 0.5 * math.erf(v / math.sqrt(2)) for v in x])
    density = np.exp(-x * x / 2) / np.sqrt(2 * np.pi)
    np.testing.assert_allclose(found["dz_dx"], cdf + x * density, rtol=1e-10, atol=1e-12)


BINARY = "Add Sub Mul Div Pow Max Min Mean Sum PRelu".split()
WIDE = frozenset({"Sum", "Mean", "PRelu"})
"""Operators whose reference broadcasts its later inputs only."""


def test_the_error_function() -> None:
    """ONNX's reference of it knows single precision alone."""
    x = fresh_rng().uniform(-3.0, 3.0, 9)
    model = model_of([node("Erf", "x", "y"), gradient("y", ["x"])], {"x": x}, ["dy_dx"])
    found = whet.compile(model, options=OPTIONS).run({"x": x})["dy_dx"]
    np.testing.assert_allclose(found, 2 / np.sqrt(np.pi) * np.exp(-x * x), rtol=1e-12)


def test_functions_of_two_inputs_with_broadcasting() -> None:
    rng = fresh_rng()
    nodes: list[onnx.NodeProto] = []
    feeds: dict[str, Array] = {}
    pairs: list[tuple[str, str]] = []
    for op in BINARY:
        a, b = f"a{op}", f"b{op}"
        low = 0.3 if op in ("Pow", "Div") else -2.0
        feeds |= {a: rng.uniform(low, 2.0, (3, 1, 2)), b: rng.uniform(low, 2.0, (5, 1))}
        if op in WIDE:
            feeds[a] = rng.uniform(low, 2.0, (2, 5, 2))
        nodes += [node(op, f"{a} {b}", f"y{op}"), gradient(f"y{op}", [a, b])]
        pairs += [(f"y{op}", a), (f"y{op}", b)]
    check(model_of(nodes, feeds, [f"d{y}_d{x}" for y, x in pairs]), feeds, pairs)


CHAINS: dict[str, tuple[list[onnx.NodeProto], dict[str, tuple[int, ...]], dict[str, Array]]] = {
    "products": (
        [
            node("MatMul", "a b", "p"),
            node("Gemm", "p c e", "q", transA=1, transB=1, alpha=0.5, beta=2.0),
            node("MatMul", "q v", "y"),
        ],
        {"a": (4, 3), "b": (3, 5), "c": (2, 4), "e": (2,), "v": (2,)},
        {},
    ),
    "rows": (
        [node("Softmax", "a", "p"), node("Mul", "p a", "q"), node("LogSoftmax", "q", "r", axis=0),
         node("Mul", "r p", "y")],
        {"a": (3, 4)},
        {},
    ),
    "reductions": (
        [node("ReduceMean", "a ax", "p"), node("Sub", "a p", "q"), node("ReduceL2", "q ax", "r"),
         node("ReduceSumSquare", "q", "s", keepdims=0), node("ReduceMax", "a ax", "t"),
         node("ReduceLogSumExp", "a ax", "u"), node("ReduceL1", "a ax", "w"),
         node("Mul", "r s", "rs"), node("Sum", "rs t u w", "z"), node("ReduceSum", "z", "y")],
        {"a": (2, 3, 4)},
        {"ax": np.array([1], np.int64)},
    ),
    "movement": (
        [node("Transpose", "a", "p", perm=[2, 0, 1]), node("Reshape", "p shape", "q"),
         node("Slice", "q lo hi ax st", "r"), node("Gather", "r at", "s", axis=1),
         node("Pad", "s pads", "t"), node("Split", "t", "u w", axis=0, num_outputs=2),
         node("Exp", "u", "ue"), node("Concat", "ue w u", "v", axis=1), node("Mul", "v v", "y")],
        {"a": (2, 3, 4)},
        {"shape": np.array([6, 4]), "lo": np.array([4]), "hi": np.array([-7]),
         "ax": np.array([0]), "st": np.array([-2]), "at": np.array([[0, 3], [3, 1]]),
         "pads": np.array([0, 1, 0, 1, 0, 2])},
    ),
    "convolution": (
        [node("Conv", "a b c", "p", strides=[2, 1], dilations=[1, 2], pads=[1, 0, 0, 1]),
         node("Tanh", "p", "y")],
        {"a": (2, 2, 6, 5), "b": (3, 2, 2, 2), "c": (3,)},
        {},
    ),
    "choices": (
        [node("Greater", "a b", "g"), node("Where", "g a b", "p"), node("Clip", "p lo hi", "q"),
         node("Mul", "q a", "y")],
        {"a": (3, 4), "b": (4,)},
        {"lo": np.array(-0.5), "hi": np.array(0.75)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHAINS)
def test_chains(name: str) -> None:
    rng = fresh_rng()
    nodes, shapes, constants = CHAINS[name]
    feeds = {n: rng.uniform(-1.5, 1.5, s) for n, s in shapes.items()}
    pairs = [("y", x) for x in feeds]
    model = model_of(
        [*nodes, gradient("y", list(feeds))], feeds, [f"d{y}_d{x}" for y, x in pairs], constants
    )
    check(model, feeds, pairs)


def test_second_derivatives_and_values_in_between() -> None:
    x = fresh_rng().uniform(-1.0, 1.0, 5)
    nodes = [
        node("Sin", "x", "h"), node("Mul", "h x", "y"), gradient("y", ["x"]),
        gradient("dy_dx", ["x"]), gradient("y", ["h"], ("x",)),
    ]  # fmt: skip
    model = model_of(nodes, {"x": x}, ["ddy_dx_dx", "dy_dh"])
    found = whet.compile(model, options=OPTIONS).run({"x": x})
    np.testing.assert_allclose(found["ddy_dx_dx"], 2 * np.cos(x) - x * np.sin(x), rtol=1e-12)
    np.testing.assert_allclose(found["dy_dh"], x, rtol=1e-12)


def test_the_derivative_at_other_values_and_of_what_does_not_depend() -> None:
    rng = fresh_rng()
    feeds = {n: rng.uniform(-1.0, 1.0, 3) for n in ("x", "at", "free")}
    nodes = [
        helper.make_node("Gradient", ["at", "free"], ["g", "none"], domain=TRAINING,
                         xs=["x", "free"], y="y"),
        node("Mul", "x x", "y"),
    ]  # fmt: skip
    found = whet.compile(model_of(nodes, feeds, ["g", "none", "y"]), options=OPTIONS).run(feeds)
    np.testing.assert_allclose(found["g"], 2 * feeds["at"], rtol=1e-12)
    assert not found["none"].any()


def test_open_dimensions() -> None:
    x = fresh_rng().uniform(-1.0, 1.0, (4, 3))
    nodes = [node("Softmax", "x", "p"), node("Mul", "p x", "y"), gradient("y", ["x"])]
    model = model_of(nodes, {"x": x}, ["dy_dx"], shapes={"x": ["batch", 3]})
    compiled = whet.compile(model, options=OPTIONS)
    for rows in (1, 4):
        found = compiled.run({"x": x[:rows]})["dy_dx"]
        np.testing.assert_allclose(
            found, differences(model, {"x": x[:rows]}, "y", "x"), rtol=1e-6, atol=1e-8
        )


def test_operators_without_derivative_are_named() -> None:
    x = {"x": np.ones((2, 3))}
    nodes = [node("CumSum", "x ax", "y"), gradient("y", ["x"])]
    with pytest.raises(UnsupportedError, match="CumSum has no derivative"):
        whet.compile(model_of(nodes, x, ["dy_dx"], {"ax": np.array(0)}), options=OPTIONS)
    assert "CumSum" not in derivative_rules()


def test_names_that_do_not_exist_are_refused() -> None:
    x = {"x": np.ones((2, 3))}
    nodes = [
        node("Exp", "x", "y"),
        helper.make_node("Gradient", ["x"], ["g"], domain=TRAINING, xs=["nothing"], y="y"),
    ]
    with pytest.raises(ModelError, match="no value 'nothing'"):
        whet.compile(model_of(nodes, x, ["g"]), options=OPTIONS)
