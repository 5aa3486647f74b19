"""What is the same in every turn of a loop is computed once, in front of it."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

import whet
from whet.codegen.kinds.table import kernel_text
from whet.codegen.writing.invariant import _settled
from whet.index import as_poly
from whet.kernel.expr import Call, Const, Guard, Var, Within
from whet.tests.kernel_runner import kernels_of

MEAN = Call("div", (Var("sum", "float32"), Const(7.0, "float32")), "float32")


def _normalisation(rows: int, columns: int) -> ModelProto:
    names = ("x", "scale", "bias")
    shapes = ([rows, columns], [columns], [columns])
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in zip(names, shapes, strict=True)
    ]
    node = helper.make_node("LayerNormalization", names, ["y"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [rows, columns])
    return helper.make_model(helper.make_graph([node], "rows", inputs, [y]))


def test_a_row_has_one_square_root() -> None:
    calls, target = kernels_of(_normalisation(5, 333))
    text = "".join(kernel_text("k", c.kernel, (), target) for c in calls)
    assert text.count("= call float @llvm.sqrt") == 1


@pytest.mark.parametrize("columns", [1, 15, 16, 17, 333])
def test_rows_of_any_length(columns: int) -> None:
    rng = np.random.default_rng()
    x, scale, bias = (
        rng.standard_normal(s).astype(np.float32) for s in ((3, columns), columns, columns)
    )
    found = whet.compile(_normalisation(3, columns))({"x": x, "scale": scale, "bias": bias})["y"]
    wide = x.astype(np.float64)
    centred = wide - wide.mean(1, keepdims=True)
    expected = centred / np.sqrt((centred**2).mean(1, keepdims=True) + 1e-5) * scale + bias
    assert np.allclose(found, expected, rtol=1e-4, atol=1e-4)


def test_largest_calls_of_names_and_numbers_are_taken() -> None:
    shifted = Call("sub", (Const(1.0, "float32"), MEAN), "float32")
    assert list(_settled(shifted)) == [shifted]
    assert [c.op for c in _settled(Call("exp", (shifted,), "float32"))] == ["exp"]
    assert list(_settled(Const(1.0, "float32"))) == []


def test_what_may_not_happen_stays_where_it_is() -> None:
    whole = Call("div", (Const(7, "int64"), Var("count", "int64")), "int64")
    assert list(_settled(whole)) == []
    inside = (Within(as_poly(0), as_poly(1)),)
    assert list(_settled(Guard(inside, MEAN, Const(0.0, "float32"), "float32"))) == []
