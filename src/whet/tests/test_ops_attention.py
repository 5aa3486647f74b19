"""Attention of ONNX: against its reference in double precision, and as one kernel."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import whet
from whet.tests.ops_harness import OPSET

Array = np.ndarray[Any, np.dtype[Any]]

SIZES = [(2, 4, 4, 7, 11, 8, 5), (1, 6, 2, 13, 13, 7, 16), (1, 1, 1, 1, 1, 1, 1)]
FORMS: list[dict[str, Any]] = [
    {},
    {"is_causal": 1, "softcap": 2.0},
    {"left_window_size": 2, "right_window_size": 1},
    {"scale": 0.3, "left_window_size": 1, "is_causal": 1},
]


def _inputs(sizes: tuple[int, ...], *, packed: bool, past: int, mask: str) -> dict[str, Array]:
    batch, heads, groups, queries, keys, size, width = sizes
    rng = np.random.default_rng(5)
    shapes: dict[str, tuple[int, ...]] = {
        "q": (batch, heads, queries, size),
        "k": (batch, groups, keys, size),
        "v": (batch, groups, keys, width),
    }
    if packed:
        shapes = {n: (s[0], s[2], s[1] * s[3]) for n, s in shapes.items()}
    if past:
        shapes |= {"pk": (batch, groups, past, size), "pv": (batch, groups, past, width)}
    found: dict[str, Array] = {n: rng.standard_normal(s) for n, s in shapes.items()}
    place = (queries, keys + past)
    if mask == "bool":
        found["m"] = rng.random((batch, 1, *place)) < 0.6
        found["m"][:, :, -1] = False
    if mask == "float":
        blocked = rng.random((heads, *place)) < 0.3
        found["m"] = np.where(blocked, -np.inf, rng.standard_normal((heads, *place)))
    return found


def _model(inputs: dict[str, Array], shapes: dict[str, Any], **attributes: Any) -> onnx.ModelProto:
    names = [n if n in inputs else "" for n in ("q", "k", "v", "m", "pk", "pv")]
    outputs = ["y", "nk", "nv"] if "pk" in inputs else ["y"]
    node = helper.make_node("Attention", names, outputs, name="attention", **attributes)
    infos = [
        helper.make_tensor_value_info(
            n, helper.np_dtype_to_tensor_dtype(a.dtype), shapes.get(n, a.shape)
        )
        for n, a in inputs.items()
    ]
    kind = helper.np_dtype_to_tensor_dtype(inputs["q"].dtype)
    outs = [helper.make_tensor_value_info(n, kind, None) for n in outputs]
    graph = helper.make_graph([node], "one", infos, outs)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=10)


def _check(inputs: dict[str, Array], dtype: str, shapes: dict[str, Any], **attributes: Any) -> Any:
    expected = ReferenceEvaluator(_model(inputs, {}, **attributes)).run(None, inputs)
    given = {n: a.astype(dtype) if a.dtype.kind == "f" else a for n, a in inputs.items()}
    model = whet.compile(_model(given, shapes, **attributes), options=whet.Options(threads=1))
    found = model(given)
    bound = {"float64": 1e-12, "float32": 2e-5, "float16": 1e-2}[dtype]
    for name, value in zip(("y", "nk", "nv"), expected, strict=False):
        np.testing.assert_allclose(found[name], np.asarray(value), rtol=bound, atol=bound)
    return model


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("form", range(len(FORMS)))
def test_forms(sizes: tuple[int, ...], form: int) -> None:
    inputs = _inputs(sizes, packed=False, past=0, mask="")
    model = _check(inputs, "float32", {}, **FORMS[form])
    kinds = [group.kernel.split("_")[0] for group in model.stats.groups]
    assert "attention" in kinds
    assert "contraction" not in kinds


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.parametrize("mask", ["bool", "float"])
def test_masks_and_caches(dtype: str, mask: str) -> None:
    for past in (0, 3):
        inputs = _inputs(SIZES[1], packed=False, past=past, mask=mask)
        _check(inputs, dtype, {}, is_causal=1)


@pytest.mark.parametrize("packed", [False, True])
def test_run_time_lengths(packed: bool) -> None:
    inputs = _inputs(SIZES[0], packed=packed, past=0, mask="")
    shapes = {
        n: ["B", "L" if n == "q" else "S", a.shape[2]]
        if packed
        else ["B", a.shape[1], "L" if n == "q" else "S", a.shape[3]]
        for n, a in inputs.items()
    }
    heads = {"q_num_heads": SIZES[0][1], "kv_num_heads": SIZES[0][2]} if packed else {}
    _check(inputs, "float32", shapes, is_causal=1, left_window_size=4, **heads)


def test_rows_without_keys_are_zero_and_nan_stays() -> None:
    inputs = _inputs((1, 2, 2, 5, 6, 4, 4), packed=False, past=0, mask="bool")
    inputs["q"][0, 0, 1] = np.nan
    given = {n: a.astype("float32") if a.dtype.kind == "f" else a for n, a in inputs.items()}
    found = whet.compile(_model(given, {}))(given)["y"]
    assert (found[0, :, -1] == 0).all()
    assert np.isnan(found[0, 0, 1]).all()
    assert np.isfinite(found[0, 1]).all()
