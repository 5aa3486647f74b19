"""Contrib operators against ONNX Runtime, and against formulas where it has no CPU kernel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper

import whet
from whet.errors import UnsupportedError
from whet.frontend.load import load_model
from whet.tests.contrib_cases import BIAS, CASES, GAIN, Case, X
from whet.tests.contrib_harness import (
    Array,
    agree,
    by_peer,
    by_whet,
    feeds_of,
    model_of,
    normal,
)
from whet.tests.tolerance import assert_close


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.op)
def test_agrees_with_onnx_runtime(case: Case) -> None:
    model = model_of(
        case.op, case.inputs, case.outputs, constants=case.constants, **case.attributes
    )
    agree(model, case.inputs, steps=case.steps, length=case.length, scale=case.scale)


def test_simplified_layer_norm_of_the_standard_domain() -> None:
    given: dict[str, Any] = {"domain": "", "axis": -1, "epsilon": 1e-5, "stash_type": 1}
    for outputs in (1, 2):
        agree(model_of("SimplifiedLayerNormalization", [X, GAIN], outputs, **given), [X, GAIN])


def erf(x: Array) -> Array:
    return np.asarray(np.vectorize(math.erf)(x.astype(np.float64)))


def gelu(x: Array) -> Array:
    return np.asarray(x * 0.5 * (1 + erf(x / math.sqrt(2))))


def softmax(x: Array, axes: tuple[int, ...]) -> Array:
    e = np.exp(x - x.max(axis=axes, keepdims=True))
    return np.asarray(e / e.sum(axis=axes, keepdims=True))


def grouped(x: Array, groups: int) -> Array:
    """Normalise ``(n, h, w, c)`` in groups of channels."""
    parts = x.astype(np.float64).reshape(*x.shape[:3], groups, -1)
    centred = parts - parts.mean((1, 2, 4), keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean((1, 2, 4), keepdims=True) + 1e-5)
    return np.asarray(scaled.reshape(x.shape))


IMAGE = normal(2, 3, 4, 8, seed=9)
SKIP = normal(2, 3, 4, 8, seed=10)
WIDE = X.astype(np.float64)


PAIRS = (normal(3, 2), normal(3, 2, seed=1))


def group_norm_with_silu() -> Array:
    y = grouped(IMAGE, 4) * GAIN + BIAS
    return np.asarray(y / (1 + np.exp(-y)))


def complex_product(*, conjugate: bool) -> Array:
    a, b = PAIRS[0].view(np.complex64), PAIRS[1].view(np.complex64)
    return np.asarray((a * (b.conj() if conjugate else b)).view(np.float32))


SHIFT = normal(2, 1, 8, seed=3)
PLACES = np.array([[1, 0], [2, 2]])
GROUPS = {"groups": 4, "activation": 1, "epsilon": 1e-5}
SKIP_GROUPS = {"groups": 2, "activation": 0, "epsilon": 1e-5, "channels_last": 1}
FORMULAS: list[tuple[str, list[Array | None], dict[str, Any], Array]] = [
    ("BiasAdd", [X, BIAS, X], {}, 2 * WIDE + BIAS),
    ("BiasSplitGelu", [X, BIAS], {}, (WIDE + BIAS)[..., :4] * gelu((WIDE + BIAS)[..., 4:])),
    ("ScaledSiLU", [X], {"alpha": 0.5}, 0.5 * WIDE / (1 + np.exp(-WIDE))),
    ("BiasDropout", [X, BIAS, X], {}, 2 * WIDE + BIAS),
    ("BiasSoftmax", [X, SHIFT], {"axis": 2, "is_inner_broadcast": 1}, softmax(WIDE + SHIFT, (2,))),
    ("GroupNorm", [IMAGE, GAIN, BIAS], GROUPS, group_norm_with_silu()),
    (
        "SkipGroupNorm",
        [IMAGE, GAIN, BIAS, SKIP, BIAS],
        SKIP_GROUPS,
        grouped(IMAGE + SKIP + BIAS, 2) * GAIN + BIAS,
    ),
    ("ComplexMul", [*PAIRS], {}, complex_product(conjugate=False)),
    ("ComplexMulConj", [*PAIRS], {}, complex_product(conjugate=True)),
    ("TorchEmbedding", [normal(4, 3), PLACES], {}, normal(4, 3)[PLACES]),
]


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "expected"), FORMULAS, ids=[f[0] for f in FORMULAS]
)
def test_agrees_with_its_formula(
    op: str, inputs: list[Array | None], attributes: dict[str, Any], expected: Array
) -> None:
    model = model_of(op, inputs, **attributes)
    (found,) = by_whet(model, feeds_of(model, inputs))
    assert_close(found, expected.astype(np.float32), "graph", length=8, scale=4.0)


@pytest.mark.parametrize("number", [1.0, np.nan, np.inf])
def test_is_all_finite(number: float) -> None:
    first, second = normal(3), np.array([1.0, number], np.float32)
    model = model_of("IsAllFinite", [first, second])
    (found,) = by_whet(model, {"x0": first, "x1": second})
    assert bool(found) == np.isfinite(number)


def test_packed_heads_are_those_apart() -> None:
    q, k, v = (normal(2, 5, 2, 4, seed=s) for s in range(3))
    flat: list[Array | None] = [a.reshape(2, 5, 8) for a in (q, k, v)]
    model = model_of("MultiHeadAttention", flat, num_heads=2)
    (expected,) = by_peer(model, feeds_of(model, flat))
    for inputs in ([np.stack([q, k, v], 3)], [q.reshape(2, 5, 8), np.stack([k, v], 3)]):
        model = model_of("MultiHeadAttention", inputs, num_heads=2)
        (found,) = by_whet(model, feeds_of(model, inputs))
        assert_close(found, expected, "attention", length=5)


@pytest.mark.parametrize(
    ("op", "inputs", "attributes", "reason"),
    [
        ("Gelu", [X], {"approximate": "tanh"}, "attribute approximate is not known"),
        ("FusedConv", [normal(1, 4, 6, 6), normal(8, 4, 3, 3)], {"activation": "Cube"}, "Cube"),
        ("CDist", [normal(3, 4), normal(5, 4)], {"metric": "cosine"}, "metric=cosine"),
        ("QuickGelu", [X], {"alpha": 3}, "alpha is a INT"),
        ("Attention", [X, normal(8, 24)], {"num_heads": 2, "do_rotary": 1}, "do_rotary=1"),
        ("Attention", [X, normal(8, 24)], {}, "num_heads is missing"),
    ],
)
def test_what_is_not_understood_is_refused(
    op: str, inputs: list[Array | None], attributes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(UnsupportedError, match=reason):
        whet.compile(model_of(op, inputs, **attributes))


def test_unknown_contrib_operators_are_listed_with_their_domain() -> None:
    with pytest.raises(UnsupportedError, match=r"com\.microsoft::Sampling"):
        whet.compile(model_of("Sampling", [X]))


def test_all_refusals_are_told_at_once() -> None:
    a = helper.make_node("QuickGelu", ["x"], ["a"], name="first", domain="com.microsoft", beta=1.0)
    b = helper.make_node("Gelu", ["a"], ["b"], name="second", domain="com.microsoft", gamma=1.0)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3])
    y = helper.make_tensor_value_info("b", TensorProto.FLOAT, [2, 3])
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    graph = helper.make_graph([a, b], "g", [x], [y])
    with pytest.raises(UnsupportedError, match=r"first.*|second.*") as raised:
        load_model(helper.make_model(graph, opset_imports=imports))
    assert "'first'" in str(raised.value)
    assert "'second'" in str(raised.value)


def chain() -> onnx.ModelProto:
    """Return a model whose outputs are an input's own value, one value twice, and a constant."""
    nodes = [
        helper.make_node("SkipLayerNormalization", ["x", "x", "g"], ["a", "", "", "s"]),
        helper.make_node("QuickGelu", ["s"], ["q"]),
    ]
    for node in nodes:
        node.domain = "com.microsoft"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 8])
    weights = [onnx.numpy_helper.from_array(GAIN, "g")]
    outputs = [onnx.ValueInfoProto(name=n) for n in ("s", "a", "q")]
    graph = helper.make_graph(nodes, "g", [x], outputs, weights)
    imports = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def test_names_of_outputs_stay_and_the_graph_is_standard() -> None:
    model = load_model(chain())
    assert [v.name for v in model.graph.outputs] == ["s", "a", "q"]
    assert {n.domain for n in model.graph} == {""}
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    x = normal(3, 4, 8)
    for a, b in zip(by_whet(chain(), {"x": x}), by_peer(chain(), {"x": x}), strict=True):
        assert_close(a, b, "graph", length=8)


def test_sequences_of_any_length_share_one_program() -> None:
    weight, shift = normal(8, 24, seed=7) / 3, normal(24, seed=8)
    mask = np.ones((2, 5), np.int32)
    inputs: list[Array | None] = [X, weight, shift, mask]
    shapes = {0: ("batch", "length", 8), 3: ("batch", "length")}
    given: dict[str, Any] = {"num_heads": 2, "unidirectional": 1, "constants": (1, 2)}
    model = model_of("Attention", inputs, open_dims=shapes, **given)
    compiled = whet.compile(model, options=whet.Options(threads=1))
    for batch, length in ((1, 1), (2, 5), (3, 17)):
        x = normal(batch, length, 8, seed=length)
        mask = np.ones((batch, length), np.int32)
        mask[0, length // 2 + 1 :] = 0
        feeds = {"x0": x, "x3": mask}
        (expected,) = by_peer(model, feeds)
        assert_close(compiled.run(feeds)["y0"], expected, "attention", length=length)
