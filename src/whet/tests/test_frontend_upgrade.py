"""Every adapter: the old form, run by the reference, agrees with its upgrade."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from onnx.reference import ReferenceEvaluator

from whet.errors import ModelError
from whet.frontend.load import load_model
from whet.graph.opset import canonical_opset
from whet.tests.passkit import Array, evaluate, feeds, peer


def old(opset: int, signature: str, body: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(
        f'<ir_version: 7, opset_import: ["": {opset}]> g {signature} {{ {body} }}'
    )


def upgraded(proto: onnx.ModelProto) -> ir.Model:
    model = load_model(proto)
    assert model.opset_imports[""] == canonical_opset()
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    return model


@pytest.mark.parametrize(
    ("opset", "output", "body"),
    [
        (11, "[2,4]", "y = ReduceSum<axes=[1], keepdims=0>(x)"),
        (13, "[2,1,4]", "y = ReduceMean<axes=[1]>(x)"),
        (13, "[1,1,1]", "y = ReduceMax(x)"),
        (11, "[2,3,4]", "a = Unsqueeze<axes=[0]>(x) y = Squeeze<axes=[0]>(a)"),
        (9, "[1,2,4]", "y = Slice<axes=[0,1], starts=[0,-2], ends=[1,9]>(x)"),
        (10, "[2,5,4]", 'y = Pad<pads=[0,1,0,0,1,0], value=1.5, mode="constant">(x)'),
        (10, "[2,3,4]", "y = Clip<min=-0.5, max=0.5>(x)"),
        (10, "[2,3,4]", "y = Clip<max=0.5>(x)"),
        (11, "[2,3,1]", "y, z = Split<axis=2, split=[1,3]>(x)"),
        (13, "[2,3,2]", "y, z = Split<axis=2>(x)"),
        (9, "[2,3,2]", "y, i = TopK<k=2>(x)"),
        (11, "[2,3,4]", "y = Dropout<ratio=0.3>(x)"),
    ],
)
def test_attributes_that_became_inputs(opset: int, output: str, body: str) -> None:
    proto = old(opset, f"(float[2,3,4] x) => (float{output} y)", body)
    model = upgraded(proto)
    inputs = feeds(model)
    expected = np.asarray(next(iter(ReferenceEvaluator(proto).run(None, inputs))))
    np.testing.assert_allclose(evaluate(model, inputs)[0], expected, rtol=1e-6, atol=1e-6)


def softmax(x: Array, axis: tuple[int, ...]) -> Array:
    e = np.exp(x - x.max(axis=axis, keepdims=True))
    return np.asarray(e / e.sum(axis=axis, keepdims=True))


@pytest.mark.parametrize(("axis", "axes"), [(0, (0, 1, 2)), (1, (1, 2)), (2, (2,)), (-1, (2,))])
def test_softmax_of_a_flattened_matrix(axis: int, axes: tuple[int, ...]) -> None:
    body = f"y = Softmax<axis={axis}>(x) z = LogSoftmax<axis={axis}>(x)"
    proto = old(11, "(float[2,3,4] x) => (float[2,3,4] y, float[2,3,4] z)", body)
    model = upgraded(proto)
    inputs = feeds(model)
    plain, logarithm = evaluate(model, inputs)
    expected = softmax(inputs["x"], axes)
    np.testing.assert_allclose(plain, expected, rtol=1e-5)
    np.testing.assert_allclose(np.exp(logarithm), expected, rtol=1e-5)
    kinds = [n.op_type for n in model.graph]
    assert ("Flatten" in kinds) == (len(axes) > 1)


def test_upsample_and_old_resize() -> None:
    signature = "(float[1,1,2,2] x) => (float[1,1,4,4] y)"
    expected = np.repeat(np.repeat(np.arange(4.0).reshape(1, 1, 2, 2), 2, 2), 2, 3)
    inputs = {"x": np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)}
    scales = "s = Constant<value = float[4] {1.0, 1.0, 2.0, 2.0}>()"
    for opset, body in [
        (7, 'y = Upsample<scales=[1.0, 1.0, 2.0, 2.0], mode="nearest">(x)'),
        (9, f'{scales} y = Upsample<mode="nearest">(x, s)'),
        (10, f'{scales} y = Resize<mode="nearest">(x, s)'),
    ]:
        model = upgraded(old(opset, signature, body))
        np.testing.assert_array_equal(evaluate(model, inputs)[0], expected)


def test_resize_with_empty_inputs() -> None:
    body = (
        "r = Constant<value = float[0] {}>() s = Constant<value = int64[4] {1, 1, 4, 4}>() "
        'y = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", '
        'nearest_mode="floor">(x, r, r, s)'
    )
    model = upgraded(old(11, "(float[1,1,2,2] x) => (float[1,1,4,4] y)", body))
    assert [v is None for v in model.graph[-1].inputs] == [False, True, True, False]


def test_broadcast_along_an_axis() -> None:
    proto = old(
        6,
        "(float[2,3,4] x, float[3] b) => (float[2,3,4] y)",
        "y = Add<axis=1, broadcast=1>(x, b)",
    )
    model = upgraded(proto)
    inputs = feeds(model)
    expected = inputs["x"] + inputs["b"][:, None]
    np.testing.assert_array_equal(evaluate(model, inputs)[0], expected)


def test_group_normalisation_parameters_per_group() -> None:
    proto = old(
        18,
        "(float[1,4,2] x, float[2] s, float[2] b) => (float[1,4,2] y)",
        "y = GroupNormalization<num_groups=2>(x, s, b)",
    )
    model = upgraded(proto)
    inputs = feeds(model)
    groups = inputs["x"].reshape(1, 2, 4)
    normal = (groups - groups.mean(2, keepdims=True)) / np.sqrt(groups.var(2, keepdims=True) + 1e-5)
    expected = (normal * inputs["s"][:, None] + inputs["b"][:, None]).reshape(1, 4, 2)
    np.testing.assert_allclose(evaluate(model, inputs)[0], expected, rtol=1e-4, atol=1e-5)


def test_renamed_modes() -> None:
    proto = old(
        16,
        "(float[1,1,3,3] x, float[1,2,2,2] g) => (float[1,1,2,2] y)",
        'y = GridSample<mode="bilinear">(x, g)',
    )
    assert upgraded(proto).graph[-1].attributes["mode"].as_string() == "linear"
    proto = old(
        9,
        "(float[3] x, int64[1] i, float[1] u) => (float[3] y)",
        "y = Scatter(x, i, u)",
    )
    assert upgraded(proto).graph[-1].op_type == "ScatterElements"


@pytest.mark.peer
def test_roi_align_keeps_its_corners() -> None:
    proto = old(
        10,
        "(float[1,1,8,8] x, float[1,4] r, int64[1] i) => (float[1,1,2,2] y)",
        "y = RoiAlign<output_height=2, output_width=2, sampling_ratio=2>(x, r, i)",
    )
    model = upgraded(proto)
    inputs = feeds(model)
    inputs["r"] = np.array([[1, 1, 6, 7]], np.float32)
    inputs["i"] = np.zeros(1, np.int64)
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(proto.SerializeToString())
    np.testing.assert_allclose(
        peer(model, inputs, opset=16), session.run(None, inputs)[0], rtol=1e-5
    )


@pytest.mark.parametrize(
    ("opset", "signature", "body", "words"),
    [
        (
            8,
            "(float[1,2,3] x, float[2] a) => (float[1,2,3] y)",
            "y = BatchNormalization<spatial=0>(x, a, a, a, a)",
            "spatial=0",
        ),
        (
            9,
            "(float[1,2,3] x, float[2] a) => (float[1,2,3] y, float[2] m)",
            "y, m = BatchNormalization(x, a, a, a, a)",
            "training mode",
        ),
        (
            11,
            "(float[1,1,2,2] x, float[0] r, float[4] s) => (float[1,1,4,4] y)",
            'y = Resize<coordinate_transformation_mode="tf_half_pixel_for_nn">(x, r, s)',
            "tf_half_pixel_for_nn",
        ),
        (
            9,
            "(float[4] x) => (float[4] y, bool[4] m)",
            "y, k = Dropout(x) m = Cast<to=9>(k)",
            "mask",
        ),
    ],
)
def test_forms_without_equivalent(opset: int, signature: str, body: str, words: str) -> None:
    with pytest.raises(ModelError, match=words) as caught:
        load_model(old(opset, signature, body))
    assert f"opset {opset}" in str(caught.value)


@pytest.mark.parametrize(
    ("opset", "output", "body", "newer"),
    [
        (1, "[2,3,4]", "y = Relu<consumed_inputs=[0]>(x)", "y = Relu(x)"),
        (
            1,
            "[2,12]",
            "y = Reshape<shape=[0,-1]>(x)",
            "s = Constant<value_ints=[2,12]>() y = Reshape(x, s)",
        ),
        (1, "[2,3,4]", 'c = Cast<to="DOUBLE">(x) y = Cast<to="FLOAT">(c)', "y = Identity(x)"),
        (3, "[2,6,4]", "y = Concat(x, x)", "y = Concat<axis=1>(x, x)"),
        (
            1,
            "[2,3,6]",
            "y = Pad<paddings=[0,0,1,0,0,1]>(x)",
            "p = Constant<value_ints=[0,0,1,0,0,1]>() y = Pad(x, p)",
        ),
        (
            1,
            "[2,3,3]",
            "y = LpPool<p=2.0, kernel_shape=[2]>(x)",
            "y = LpPool<p=2, kernel_shape=[2]>(x)",
        ),
        (5, "[2,3,4]", "y = Selu(x)", "y = Selu<alpha=1.6732, gamma=1.0507>(x)"),
        (1, "[2,3,4]", "r = Relu(x) y = Softmax<axis=2>(r)", "r = Relu(x) y = Softmax<axis=2>(r)"),
        (
            1,
            "[2,3,4]",
            "s = Relu(x) y = Add<broadcast=1, axis=1>(s, b)",
            "u = Constant<value_ints=[1]>() s = Relu(x) c = Unsqueeze(b, u) y = Add(s, c)",
        ),
        (
            5,
            "[2,9,4]",
            "n = Constant<value_float=3.0>() a = Constant<value_float=1.0>() y = Tile(x, n, a)",
            "n = Constant<value_ints=[1,3,1]>() y = Tile(x, n)",
        ),
    ],
)
def test_first_opsets(opset: int, output: str, body: str, newer: str) -> None:
    signature = f"(float[2,3,4] x, float[3] b) => (float{output} y)"
    if "Constant" in body:
        body = body.replace("value_float=3.0", "value = float {3.0}")
        body = body.replace("value_float=1.0", "value = float {1.0}")
    model = upgraded(old(opset, signature, body))
    inputs = feeds(model)
    plain = old(13, signature, newer)
    expected = np.asarray(next(iter(ReferenceEvaluator(plain).run(None, inputs))))
    np.testing.assert_allclose(evaluate(model, inputs)[0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("pool", ["AveragePool", "MaxPool"])
@pytest.mark.parametrize("opset", [10, 12, 21])
@pytest.mark.parametrize("described", [False, True])
def test_a_window_that_begins_outside_is_none(pool: str, opset: int, *, described: bool) -> None:
    """Inference of old opsets counts it, in the file and while the Softmax is upgraded."""
    body = (
        f"a = {pool}<kernel_shape=[2], strides=[3], ceil_mode=1>(x) b = Softmax<axis=1>(a) "
        f"y = {pool}<kernel_shape=[1], strides=[1]>(b)"
    )
    proto = old(opset, "(float[N,4,6] x) => (float[N,4,K] y)", body)
    if described:
        proto = onnx.shape_inference.infer_shapes(proto)
        assert proto.graph.value_info[0].type.tensor_type.shape.dim[2].dim_value == 3
    model = upgraded(proto)
    assert str(model.graph.outputs[0].shape).endswith("4,2]")
