"""ONNX's own backend tests as models, inputs and wanted outputs, each in up to four forms."""

from __future__ import annotations

import functools
import warnings
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper
from onnx.backend.test.loader import load_model_tests

from whet.tests.ops_harness import parameters_of

FOLDERS = ("simple", "pytorch-converted", "pytorch-operator", "real")
FIXED = "+constants"
OPEN = "+symbolic"
FOLDED = "+folded"
FORMS = (FIXED, OPEN, FOLDED)
ALL = -1
WITH_WEIGHTS = frozenset({
    "Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "DeformConv", "CausalConvWithState",
    "GRU", "LSTM", "RNN", "QuantizeLinear", "DequantizeLinear", "GroupNormalization",
})  # fmt: skip
WITH_HEADS = frozenset({"Attention", "RotaryEmbedding", "LinearAttention", "FlexAttention"})


@dataclass(frozen=True)
class Case:
    """One test: a model, its inputs by name and the outputs it must give, in order."""

    name: str
    model: onnx.ModelProto
    inputs: dict[str, Any]
    outputs: list[Any]
    rtol: float
    atol: float


@functools.cache
def all_cases() -> dict[str, Any]:
    """Return ONNX's test cases by name; models in files are read when they are needed."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = {f"node/{case.name}": case for case in collect_testcases(None)}
    for kind in FOLDERS:
        found.update({f"{kind}/{case.name}": case for case in load_model_tests(kind=kind)})
    return found


def names() -> list[str]:
    """Return the names of all tests in their forms.

    Besides the plain one there is one with its parameters as constants, one with names for the
    dimensions of its inputs, and one in which all inputs are constants.
    """
    forms = ("", *FORMS)
    return sorted(base + form for base in all_cases() for form in forms)


def load_case(name: str) -> Case | None:
    """Return one test by name; ``None`` if there is nothing to make constant or to name."""
    case = all_cases()[name.partition("+")[0]]
    found = _topology(name, case) if case.kind == "real" else _plain_case(name, case)
    if name.endswith(FIXED):
        return with_constants(found, parameters(found))
    if name.endswith(FOLDED):
        return with_constants(found, set(found.inputs)) if case.kind == "node" else None
    return with_open_dims(found) if name.endswith(OPEN) else found


def _topology(name: str, case: Any) -> Case:
    """Return a network whose weights are all the same, with the output that belongs to ones."""
    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    stem = Path(case.url).stem
    model = onnx.load(folder / f"{stem}.onnx")
    known = {i.name for i in model.graph.initializer}
    inputs = {
        i.name: np.ones([d.dim_value for d in i.type.tensor_type.shape.dim], np.float32)
        for i in model.graph.input
        if i.name not in known
    }
    wanted = onnx.TensorProto.FromString((folder / f"{stem}_output_0.pb").read_bytes())
    return Case(name, model, inputs, [numpy_helper.to_array(wanted)], case.rtol, case.atol)


def _plain_case(name: str, case: Any) -> Case:
    model = case.model if case.model is not None else onnx.load(Path(case.model_dir) / "model.onnx")
    sets = case.data_sets or [_stored_set(Path(case.model_dir), model)]
    inputs, outputs = sets[0]
    given = [as_array(v) for v in inputs]
    known = {i.name for i in model.graph.initializer}
    free = [i.name for i in model.graph.input]
    if len(free) != len(given):
        free = [n for n in free if n not in known]
    return Case(
        name, model, dict(zip(free, given, strict=False)), [as_array(v) for v in outputs],
        case.rtol, case.atol,
    )  # fmt: skip


def with_open_dims(case: Case) -> Case | None:
    """Return the test with a name for every extent of its inputs above 1, equal ones the same.

    Weights, heads, and what says shapes or axes stay as they are: they belong to a model.
    """
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    del model.graph.value_info[:]
    kept = _kept_axes(model)
    count = 0
    for value in model.graph.input:
        if value.name not in case.inputs:
            continue
        for axis, dim in enumerate(_innermost(value.type).tensor_type.shape.dim):
            if dim.dim_value > 1 and not {axis, ALL} & kept[value.name]:
                dim.dim_param = f"extent_{dim.dim_value}"
                count += 1
    for value in model.graph.output:
        if value.type.HasField("tensor_type"):
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()
    return replace(case, model=model) if count else None


def _innermost(kind: onnx.TypeProto) -> onnx.TypeProto:
    """Return the type of the arrays that a type holds: an array, a sequence, an optional."""
    for outer in ("optional_type", "sequence_type"):
        if kind.HasField(outer):
            kind = getattr(kind, outer).elem_type
    return kind


def _kept_axes(model: onnx.ModelProto) -> dict[str, set[int]]:
    """Return by input which axes a model fixes."""
    ranks = {i.name: len(i.type.tensor_type.shape.dim) for i in model.graph.input}
    kept: dict[str, set[int]] = defaultdict(set)
    for node in model.graph.node:
        for k, name in enumerate(node.input):
            if k in parameters_of(node) or (k > 0 and node.op_type in WITH_WEIGHTS):
                kept[name].add(ALL)
            elif node.op_type in WITH_HEADS:
                kept[name] |= _head_axes(ranks.get(name, 0), node.op_type)
    return kept


def _head_axes(rank: int, op: str) -> set[int]:
    """Return the axes of heads and of what belongs to one; lengths of sequences are open."""
    if op == "RotaryEmbedding":
        return {1, 2, 3}
    return {1, 3} if rank == 4 else {2}


def parameters(case: Case) -> set[str]:
    """Return the inputs that have to be known when compiling, unless the model may be cut."""
    graph = case.model.graph
    wanted = {
        n.input[k] for n in graph.node for k in parameters_of(n) if k < len(n.input) and n.input[k]
    }
    return wanted & set(case.inputs)


def with_constants(case: Case, wanted: set[str]) -> Case | None:
    """Return the test with some inputs turned into constants; ``None`` if they are no arrays."""
    if not wanted or not all(isinstance(case.inputs[n], np.ndarray) for n in wanted):
        return None
    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    kept = [i for i in model.graph.input if i.name not in wanted]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    model.graph.initializer.extend(
        numpy_helper.from_array(case.inputs[n], n) for n in sorted(wanted)
    )
    inputs = {n: v for n, v in case.inputs.items() if n not in wanted}
    return Case(case.name, model, inputs, case.outputs, case.rtol, case.atol)


def as_array(value: Any) -> Any:
    """Return a value of a test as an array, if it is one."""
    if isinstance(value, onnx.TensorProto):
        return numpy_helper.to_array(value)
    if isinstance(value, list | tuple | dict | onnx.SequenceProto | onnx.OptionalProto):
        return value
    return None if value is None else np.asarray(value)


def _stored_set(folder: Path, model: onnx.ModelProto) -> tuple[list[Any], list[Any]]:
    data = folder / "test_data_set_0"
    return _stored(data, "input", model.graph.input), _stored(data, "output", model.graph.output)


def _stored(folder: Path, word: str, values: Iterable[Any]) -> list[Any]:
    found: list[Any] = []
    for k, value in enumerate(values):
        path = folder / f"{word}_{k}.pb"
        if not path.exists():
            continue
        tensor = value.type.HasField("tensor_type")
        raw = path.read_bytes()
        found.append(
            onnx.TensorProto.FromString(raw) if tensor else onnx.SequenceProto.FromString(raw)
        )
    return found
