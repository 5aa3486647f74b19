"""Passes on what quantisers of others write: agreement, idempotence, and reasons to stay."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from whet.graph.match import Miss
from whet.passes.convolve_transposed import convolve_transposed, transposed_form
from whet.passes.gather_quantised import gather_quantised, table_of
from whet.passes.lifted import liftable
from whet.passes.move_quantised import move_quantised
from whet.passes.multiply_in_integers import integer_form, multiply_in_integers
from whet.passes.restore_dequantise import restore_dequantise, stored_weights
from whet.passes.unsign_activations import unsign_activations
from whet.tests.passkit import Array, build, evaluate, peer
from whet.tests.test_passes_quantised import agree, bytes_for, node_of, operators

S = np.asarray(0.05, np.float32)

SPLIT = """
split (KIND[1, 6, 4] x, float s, KIND z, int64[3] parts, float t)
  => (float[1, 2, 4] a, float[1, 2, 4] b, KIND[1, 2, 4] c) {
  xf = DequantizeLinear (x, s, z)
  a, b, m = Split <axis = 1> (xf, parts)
  c = QuantizeLinear (m, s, z)
}
"""


@pytest.mark.parametrize("kind", ["uint8", "int8"])
def test_split_moves_bytes(kind: str) -> None:
    """Queries, keys and values of one product, from ``unbind`` through TorchScript."""
    model = build(SPLIT.replace("KIND", kind), s=S, z=np.asarray(7, kind), parts=np.full(3, 2))
    agree(move_quantised, model, 2, steps=0)
    assert node_of(model, "Split").outputs[0].dtype in (ir.DataType.UINT8, ir.DataType.INT8)
    assert "QuantizeLinear" not in operators(model)


def test_signs_go_through_split() -> None:
    model = build(
        """
        signed (float[2, 4] x, float s, int8 z, int64[2] parts) => (float[1, 4] a, float[1, 4] b) {
          q = QuantizeLinear (x, s, z)
          m, n = Split <axis = 0> (q, parts)
          a = DequantizeLinear (m, s, z)
          b = DequantizeLinear (n, s, z)
        }""",
        s=S, z=np.asarray(-3, np.int8), parts=np.array([1, 1]),
    )  # fmt: skip
    agree(unsign_activations, model, 1, steps=0)
    assert {v.dtype for v in node_of(model, "Split").outputs} == {ir.DataType.UINT8}


# -- transposed convolutions -----------------------------------------------------------------------

TRANSPOSED = """
transposed (uint8[2, 4, 5, 3] x, float sx, uint8 zx, int8[4, 3, 1, 1] w, float[3] sw, int8[3] zw,
            int32[3] b, float[3] sb) => (float[2, 6, h, v] y) {
  xf = DequantizeLinear (x, sx, zx)
  wf = DequantizeLinear <axis = 1> (w, sw, zw)
  bf = DequantizeLinear <axis = 0> (b, sb)
  t = ConvTranspose <SETTINGS> (xf, wf, bf)
  y = Relu (t)
}
"""


def transposed(settings: str, kernel: tuple[int, int], group: int = 1) -> ir.Model:
    rng = np.random.default_rng(3)
    filters = 6 // group
    text = TRANSPOSED.replace("SETTINGS", f"{settings}, group = {group}")
    text = text.replace("[3] sw", f"[{filters}] sw").replace("[3] zw", f"[{filters}] zw")
    text = text.replace("int32[3] b, float[3] sb", "int32[6] b, float[6] sb")
    text = text.replace("[4, 3, 1, 1]", f"[4, {filters}, {kernel[0]}, {kernel[1]}]")
    return build(
        text, sx=S, zx=np.asarray(11, np.uint8),
        w=rng.integers(-128, 128, (4, filters, *kernel)).astype(np.int8),
        sw=rng.uniform(0.01, 0.1, filters).astype(np.float32),
        zw=rng.integers(-9, 9, filters).astype(np.int8),
        b=rng.integers(-900, 900, 6).astype(np.int32), sb=np.full(6, 0.01, np.float32),
    )  # fmt: skip


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize(
    ("settings", "kernel"),
    [
        ("strides = [2, 2]", (2, 2)),
        ("strides = [2, 2], pads = [1, 1, 1, 1], output_padding = [1, 1]", (3, 3)),
        ("strides = [2, 2], pads = [1, 1, 1, 1]", (4, 4)),
        ("strides = [1, 1], pads = [0, 1, 1, 0]", (3, 2)),
        ("strides = [3, 3], pads = [2, 0, 4, 1]", (7, 5)),
    ],
)
def test_transposed_convolutions_multiply_integers(
    settings: str, kernel: tuple[int, int], group: int
) -> None:
    """A layer that enlarges images, as NNCF and PyTorch FX quantise it."""
    model = transposed(settings, kernel, group)
    inputs = bytes_for(model)
    right = peer(model, inputs) if group > 1 else evaluate(model, inputs)[0]
    assert convolve_transposed(model) == 1
    assert multiply_in_integers(model) == 1
    found = evaluate(model, inputs)[0]
    np.testing.assert_allclose(found, right, rtol=2e-5, atol=2e-5 * np.abs(right).max())
    assert convolve_transposed(model) == 0
    kinds = operators(model)
    assert "ConvInteger" in kinds and "ConvTranspose" not in kinds
    if "DepthToSpace" in kinds:
        assert kinds.index("Relu") < kinds.index("DepthToSpace"), "it runs on registers"


@pytest.mark.parametrize(
    ("settings", "kernel", "why"),
    [
        ("strides = [2, 1]", (2, 2), "strides"),
        ("strides = [2, 2], output_padding = [1, 1]", (2, 2), "larger"),
        ("strides = [2, 2], dilations = [2, 2]", (2, 2), "dilations"),
        ('strides = [2, 2], auto_pad = "SAME_UPPER"', (3, 3), "auto_pad"),
    ],
)
def test_other_transposed_convolutions_stay(
    settings: str, kernel: tuple[int, int], why: str
) -> None:
    model = transposed(settings, kernel)
    reason = transposed_form(node_of(model, "ConvTranspose"))
    assert isinstance(reason, Miss) and why in reason.why


# -- tables, scales behind movements ---------------------------------------------------------------

TABLE = """
table (int64[2, 3] i, int8[7, 4] w, float[7] s, int8[7] z) => (float[2, 3, 4] y) {
  wf = DequantizeLinear <axis = 0> (w, s, z)
  y = Gather <axis = 0> (wf, i)
}
"""


@pytest.mark.parametrize("zero", [0, 5])
def test_rows_of_tables_are_gathered_as_bytes(zero: int) -> None:
    """An embedding as NNCF quantises it."""
    rng = np.random.default_rng(4)
    given: dict[str, Array] = {
        "w": rng.integers(-128, 128, (7, 4)).astype(np.int8),
        "s": rng.uniform(0.01, 0.1, 7).astype(np.float32),
        "z": np.full(7, zero, np.int8),
    }
    model = build(TABLE, **given)
    indices: dict[str, Array] = {"i": np.array([[0, 6, -1], [3, 3, 2]])}
    before = evaluate(model, indices)
    assert gather_quantised(model) == 1
    np.testing.assert_array_equal(evaluate(model, indices)[0], before[0])
    assert node_of(model, "Gather").outputs[0].dtype == ir.DataType.INT8
    assert gather_quantised(model) == 0
    text = TABLE.replace("axis = 0> (w,", "axis = 1> (w,").replace("float[7] s", "float[4] s")
    few: dict[str, Array] = {name: given[name][:4] for name in "sz"}
    columns = build(text.replace("int8[7] z", "int8[4] z"), w=given["w"], **few)
    reason = table_of(node_of(columns, "Gather"))
    assert isinstance(reason, Miss) and "each of its rows" in reason.why


BEHIND = """
behind (uint8[1, 6, 8] x, float s, uint8 z, int64[4] heads, int64[3] whole, float c, float[8] v,
        float t, uint8 p) => (uint8[1, 2, 6, 4] y, uint8[1, 6, 8] w) {
  xf = DequantizeLinear (x, s, z)
  a = Sigmoid (xf)
  b = Reshape (a, heads)
  m = Transpose <perm = [0, 2, 1, 3]> (b)
  k = Mul (m, c)
  y = QuantizeLinear (k, t, p)
  d = Reshape (xf, heads)
  e = Transpose <perm = [0, 2, 1, 3]> (d)
  f = Sigmoid (e)
  g = Transpose <perm = [0, 2, 1, 3]> (f)
  h = Reshape (g, whole)
  i = Mul (v, h)
  w = QuantizeLinear (i, t, p)
}
"""


def test_scales_go_ahead_of_movements() -> None:
    """Queries that are scaled, and results of attention that are smoothed, as NNCF writes them."""
    model = build(
        BEHIND, s=S, z=np.asarray(3, np.uint8), heads=np.array([1, 6, 2, 4]), c=S,
        whole=np.array([1, 6, 8]), v=np.linspace(0.5, 2, 8, dtype=np.float32),
        t=np.asarray(0.01, np.float32), p=np.asarray(9, np.uint8),
    )  # fmt: skip
    agree(move_quantised, model, 10, steps=0)
    for node in model.graph:
        if node.op_type == "QuantizeLinear":
            scale = node.inputs[0].producer() if node.inputs[0] is not None else None
            assert scale is not None and scale.op_type == "Mul"
            assert any(v is not None and v.producer() is not None for v in scale.inputs)
            sources = [v.producer() for v in scale.inputs if v is not None and v.producer()]
            assert [n.op_type for n in sources if n is not None] == ["Sigmoid"]


def test_what_others_read_is_not_lifted() -> None:
    model = build(
        """
        read (float[2, 3] x, float[2, 1] v) => (float[3, 2] m, float[3, 2] y) {
          a = Sigmoid (x)
          m = Transpose (a)
          y = Relu (m)
        }"""
    )
    reason = liftable(node_of(model, "Relu"))
    assert isinstance(reason, Miss) and "others read" in reason.why


# -- zero points of channels -----------------------------------------------------------------------

DEPTHWISE = """
depthwise (uint8[n, 3, 6, 5] x, float[3] s, uint8[3] z, int8[6, 1, 3, 3] w, float[6] sw,
           int8[6] zw) => (float[n, 6, h, v] y) {
  xf = DequantizeLinear <axis = 1> (x, s, z)
  wf = DequantizeLinear <axis = 0> (w, sw, zw)
  y = Conv <group = 3, SETTINGS> (xf, wf)
}
"""


def depthwise(settings: str, shape: str = "n, 3, 6, 5") -> ir.Model:
    rng = np.random.default_rng(6)
    return build(
        DEPTHWISE.replace("SETTINGS", settings).replace("n, 3, 6, 5", shape),
        s=np.array([0.01, 0.02, 0.05], np.float32), z=np.array([0, 130, 255], np.uint8),
        w=rng.integers(-128, 128, (6, 1, 3, 3)).astype(np.int8),
        sw=rng.uniform(0.01, 0.1, 6).astype(np.float32), zw=np.arange(6, dtype=np.int8),
    )  # fmt: skip


@pytest.mark.parametrize(
    "settings", ["pads = [1, 1, 1, 1]", "pads = [0, 1, 2, 0], strides = [2, 2]", "strides = [1, 1]"]
)
def test_channels_with_their_own_zero_points(settings: str) -> None:
    """A depthwise convolution behind HardSwish, as NNCF's preset MIXED quantises it."""
    model = depthwise(settings)
    agree(multiply_in_integers, model, 1, steps=0)
    assert "ConvInteger" in operators(model)


def test_zero_points_around_unknown_images_stay() -> None:
    reason = integer_form(node_of(depthwise("pads = [1, 1, 1, 1]", "n, 3, a, b"), "Conv"))
    assert isinstance(reason, Miss) and "border" in reason.why


# -- weights that a model makes floats of ----------------------------------------------------------

CASTS = {
    "cast": ("int8[8, 6] w", "wf = Cast <to = 1> (w)", "x, wf"),
    "nncf": (
        "int8[8, 6] w",
        "c = Cast <to = 1> (w)\n m = Mul (c, s)\n wf = Sub (m, sz)",
        "x, wf",
    ),
    "torchao": (
        "int8[6, 8] w, int64[3] apart, int64[2] joined",
        "r = Reshape (w, apart)\n c = Cast <to = 1> (r)\n d = Sub (c, z)\n m = Mul (d, sb)\n"
        " j = Reshape (m, joined)\n wf = Transpose (j)",
        "x, wf",
    ),
}


@pytest.mark.parametrize("form", CASTS)
def test_casts_of_weights_are_a_dequantise_linear(form: str) -> None:
    """Linear layers of torchao's ``quantize_`` and of NNCF's graphs, exported as programs."""
    rng = np.random.default_rng(7)
    parameter, nodes, inputs = CASTS[form]
    scales = rng.uniform(0.01, 0.1, (1, 6)).astype(np.float32)
    given: dict[str, Array] = {
        "w": rng.integers(-8, 8, (6, 8) if form == "torchao" else (8, 6)).astype(np.int8),
        "s": scales, "sz": scales * 3, "sb": rng.uniform(0.01, 0.1, (6, 2, 1)).astype(np.float32),
        "z": rng.integers(-2, 2, (6, 2, 1)).astype(np.float32),
        "apart": np.array([6, 2, 4]), "joined": np.array([6, 8]),
    }  # fmt: skip
    more = "float[1, 6] s, float[1, 6] sz, float[6, 2, 1] sb, float[6, 2, 1] z"
    model = build(
        f"casts (float[5, 8] x, {parameter}, {more}) => (float[5, 6] y) "
        f"{{ {nodes}\n y = MatMul ({inputs}) }}",
        **given,
    )
    agree(restore_dequantise, model, 1, steps=0)
    assert "Cast" not in operators(model) and "DequantizeLinear" in operators(model)


def test_zero_points_that_are_no_integers_stay() -> None:
    model = build(
        """
        half (float[5, 2] x, int8[2, 3] w, float[1, 3] z) => (float[5, 3] y) {
          c = Cast <to = 1> (w)
          d = Sub (c, z)
          y = MatMul (x, d)
        }""",
        w=np.ones((2, 3), np.int8), z=np.full((1, 3), 0.5, np.float32),
    )  # fmt: skip
    reason = stored_weights(node_of(model, "Cast"))
    assert isinstance(reason, Miss) and "no integer" in reason.why
