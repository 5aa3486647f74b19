"""Random models against the reference in double precision, and against ONNX Runtime."""

from __future__ import annotations

import importlib.util
import traceback
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

import whet
from whet.errors import CompileError, WhetError
from whet.tests.fuzz.children import BUG, OK, REFUSED
from whet.tests.fuzz.draft import Array, Draft
from whet.tests.fuzz.operators import operators, propose
from whet.tests.tolerance import assert_close, largest_difference

_KNOWN_OPSET = 22
"""The newest one that ONNX Runtime takes in full."""

_MOST_NODES = 7
_MOST_ATTEMPTS = 60
_DTYPES = ("float32",) * 7 + ("float64", "float16")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Sample:
    """A model, its inputs, and how it is compiled."""

    model: onnx.ModelProto
    feeds: dict[str, Array]
    opt_level: int


JUMPS = frozenset({
    "ArgMax", "ArgMin", "Ceil", "Compress", "DynamicQuantizeLinear", "Equal", "Floor", "Greater",
    "GreaterOrEqual", "Hardmax", "IsInf", "IsNaN", "Less", "LessOrEqual", "Mod",
    "NonMaxSuppression", "NonZero", "QLinearConv", "QLinearMatMul", "QuantizeLinear", "Round",
    "Sign", "TopK", "Unique",
})  # fmt: skip
"""Operators whose result may change by much when an input changes by a rounding error."""

NEAR_ZERO = frozenset({"BlackmanWindow", "HammingWindow", "HannWindow"})
"""Operators that give rounding errors of either sign for 0."""


def sample(seed: int) -> Sample:
    """Return the random model of a seed."""
    rng = np.random.default_rng(seed)
    draft = Draft(seed, str(rng.choice(_DTYPES)))
    names, size = operators(), int(rng.integers(1, _MOST_NODES + 1))
    for _ in range(_MOST_ATTEMPTS):
        if len(draft.nodes) == size:
            break
        draft.append(propose(draft, draft.choice(names)))
    model = draft.model(symbolic=bool(rng.random() < 0.4))
    return Sample(model, draft.feeds(model), int(rng.choice((0, 1, 2, 3, 3, 3))))


def judge(case: Sample, cache: str) -> tuple[str, str]:
    """Return what becomes of a model: ``ok``, ``refused`` or ``bug``, and why.

    A difference is a bug if it is one to the reference in double precision, to the reference in
    the types of the model and to ONNX Runtime, as far as each computes the model: each has faults
    of its own. Outputs that are ``unsure`` are not compared.
    """
    if not case.model.graph.node:
        return OK, "empty"
    options = whet.Options(threads=1, cache_dir=cache, opt_level=case.opt_level)
    try:
        compiled = whet.compile(case.model, options=options)
        found = compiled.run(case.feeds)
    except CompileError as error:
        return BUG, str(error)
    except WhetError as error:
        return REFUSED, str(error)
    except Exception:  # noqa: BLE001 - that is what is looked for
        return BUG, traceback.format_exc()
    return _verdict(case, found)


def _verdict(case: Sample, found: Mapping[str, Array]) -> tuple[str, str]:
    """Compare results with every oracle that computes the model."""
    double, own = _in_double(case), _in_own_types(case)
    noise = [0.0] * len(found)
    if double is not None and own is not None:
        noise = [largest_difference(a, b) for a, b in zip(double, own, strict=True)]
    doubtful = unsure(case.model.graph)
    judged = {n: None if n in doubtful else a for n, a in found.items()}
    wrong = ""
    for name in ("double", "own", "ort"):
        expected = {"double": double, "own": own}.get(name) or _in_onnx_runtime(case)
        if expected is not None:
            wrong = _difference(judged, expected, noise)
            if not wrong:
                return OK, ""
            wrong = f"{name}: {wrong}"
    return (BUG, wrong) if wrong else (OK, "no oracle computes it")


def unsure(graph: onnx.GraphProto) -> set[str]:
    """Return the values that a last bit of a computed value decides, and what is made of them."""
    computed: set[str] = set()
    near_zero: set[str] = set()
    found: set[str] = set()
    for node in graph.node:
        read = set(node.input)
        inside = node.op_type == "MelWeightMatrix"  # takes floors of logarithms
        jumps = inside or (node.op_type in JUMPS and bool(read & computed))
        if jumps or read & (near_zero | found):
            found.update(node.output)
        if node.op_type in NEAR_ZERO:
            near_zero.update(node.output)
        computed.update(node.output)
    return found


def _difference(
    found: Mapping[str, Array | None], expected: list[Array], noise: Sequence[float]
) -> str:
    for (name, array), wanted, room in zip(found.items(), expected, noise, strict=True):
        if array is None:
            continue
        scale = max(float(np.abs(wanted.astype(np.float64)).max(initial=0.0)), 1.0)
        dtype = "float32" if array.dtype == np.float64 else array.dtype.name
        try:
            assert_close(array, np.asarray(wanted), "graph", dtype=dtype, scale=scale, noise=room)
        except AssertionError as error:
            return f"{name}: {' '.join(str(error).split())[:600]}"
    return ""


def _in_double(case: Sample) -> list[Array] | None:
    feeds = {n: _widened(a) for n, a in case.feeds.items()}
    return _reference(widened(case.model), feeds)


def _in_own_types(case: Sample) -> list[Array] | None:
    return _reference(case.model, case.feeds)


def _reference(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array] | None:
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return [np.asarray(a) for a in ReferenceEvaluator(model).run(None, dict(feeds))]
        except Exception:  # noqa: BLE001 - it has faults of its own, of any type
            return None


def _in_onnx_runtime(case: Sample) -> list[Array] | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    model.opset_import[0].version = min(model.opset_import[0].version, _KNOWN_OPSET)
    try:
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), providers=["CPUExecutionProvider"]
        )
        return [np.asarray(a) for a in session.run(None, case.feeds)]
    except Exception:  # noqa: BLE001 - it does not know all operators and types
        return None


def _widened(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind not in "biu" else array


def widened(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return a model whose small floats are all doubles."""
    wide = onnx.ModelProto()
    wide.CopyFrom(model)
    for value in (*wide.graph.input, *wide.graph.output):
        if value.type.tensor_type.elem_type in _FLOATS:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in wide.graph.initializer:
        if tensor.data_type in _FLOATS and not _is_scale(tensor.name, wide):
            tensor.CopyFrom(numpy_helper.from_array(_widened(_array(tensor)), tensor.name))
    for node in wide.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i in _FLOATS:
                attribute.i = TensorProto.DOUBLE
    return wide


def _array(tensor: onnx.TensorProto) -> Any:
    return numpy_helper.to_array(tensor)


def _is_scale(name: str, model: onnx.ModelProto) -> bool:
    """Whether a constant is the scales of a Resize, whose type is fixed."""
    return any(n.op_type == "Resize" and name in n.input[2:3] for n in model.graph.node)
