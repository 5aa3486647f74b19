"""LSTM, GRU and RNN, compiled: every option, against the equations in double precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import whet
from whet.errors import WhetError
from whet.runtime.model import CompiledModel
from whet.tests.ops_harness import run_node
from whet.tests.recurrent_reference import ALPHA, BETA, DEFAULTS, GATES, Array, reference
from whet.tests.tolerance import assert_close

SLOTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")
FUNCTIONS = (
    "Relu", "Tanh", "Sigmoid", "Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh",
    "HardSigmoid", "Elu", "Softsign", "Softplus",
)  # fmt: skip
OPS = ("LSTM", "GRU", "RNN")


@dataclass(frozen=True)
class Case:
    """One layer with its arrays; those named in ``given`` are inputs, the others constants."""

    op: str
    arrays: dict[str, Array]
    attributes: dict[str, Any]
    outputs: tuple[str, ...]
    given: frozenset[str] = frozenset({"X", "sequence_lens", "initial_h", "initial_c"})

    def node(self) -> onnx.NodeProto:
        """Return the layer as a node."""
        names = [slot if slot in self.arrays else "" for slot in SLOTS]
        used = max(k for k, name in enumerate(names) if name) + 1
        return helper.make_node(self.op, names[:used], self.outputs, **self.attributes)

    def model(self, symbols: dict[str, tuple[str | int, ...]] | None = None) -> onnx.ModelProto:
        """Return a model of the layer alone."""
        expected = self.expected()
        kind = helper.np_dtype_to_tensor_dtype(self.arrays["X"].dtype)
        inputs = [
            helper.make_tensor_value_info(
                n, helper.np_dtype_to_tensor_dtype(a.dtype), (symbols or {}).get(n, a.shape)
            )
            for n, a in self.inputs().items()
        ]
        outputs = [
            helper.make_tensor_value_info(n, kind, None if symbols else e.shape)
            for n, e in expected.items()
        ]
        constants = [
            numpy_helper.from_array(a, n) for n, a in self.arrays.items() if n not in self.given
        ]
        graph = helper.make_graph([self.node()], "layer", inputs, outputs, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)

    def inputs(self) -> dict[str, Array]:
        """Return the arrays of the inputs."""
        return {n: a for n, a in self.arrays.items() if n in self.given}

    def expected(self) -> dict[str, Array]:
        """Return the outputs that are wanted."""
        found = reference(self.op, self.arrays, **self.attributes)
        return {n: a for n, a in zip(self.outputs, found, strict=False) if n}

    def check(self, found: dict[str, Array]) -> None:
        """Compare outputs with what they should be."""
        expected = self.expected()
        assert found.keys() == expected.keys()
        hidden = self.arrays["R"].shape[2]
        for name, array in expected.items():
            assert found[name].dtype == self.arrays["X"].dtype
            scale = max(1.0, float(np.abs(array).max(initial=0.0)))
            assert_close(found[name], array, "graph", length=hidden, scale=scale)


def layer(op: str, sizes: tuple[int, int, int, int], seed: int = 0, **attributes: Any) -> Case:
    """Return a layer with every input that is not an option; sizes: steps, batch, input, hidden."""
    rng = np.random.default_rng(seed)
    steps, batch, width, hidden = sizes
    directions = 2 if attributes.get("direction") == "bidirectional" else 1
    rows = GATES[op] * hidden
    shapes = {
        "X": (steps, batch, width),
        "W": (directions, rows, width),
        "R": (directions, rows, hidden),
        "B": (directions, 2 * rows),
    }
    if attributes.get("layout"):
        shapes["X"] = (batch, steps, width)
    scale = 1 / np.sqrt(hidden)
    arrays = {n: (rng.standard_normal(s) * scale).astype(np.float32) for n, s in shapes.items()}
    outputs = ("Y", "Y_h", "Y_c") if op == "LSTM" else ("Y", "Y_h")
    return Case(op, arrays, {"hidden_size": hidden, **attributes}, outputs)


def some_attributes(op: str, rng: np.random.Generator) -> dict[str, Any]:
    """Return random attributes."""
    attributes: dict[str, Any] = {
        "direction": str(rng.choice(["forward", "reverse", "bidirectional"])),
        "layout": int(rng.integers(2)),
    }
    flags = {"clip": 0.3, "linear_before_reset": 1, "input_forget": 1}
    kinds = {"linear_before_reset": "GRU", "input_forget": "LSTM"}
    for name, value in flags.items():
        if kinds.get(name, op) == op and rng.random() < 0.4:
            attributes[name] = value
    if rng.random() < 0.5:
        return attributes
    directions = 2 if attributes["direction"] == "bidirectional" else 1
    names = [str(n) for n in rng.choice(FUNCTIONS, len(DEFAULTS[op]) * directions)]
    attributes["activations"] = names
    for name, table in (("activation_alpha", ALPHA), ("activation_beta", BETA)):
        count = sum(n in table for n in names)
        if count:
            attributes[name] = [float(v) for v in rng.uniform(0.1, 0.6, count)]
    return attributes


def with_options(op: str, seed: int) -> Case:
    """Return a layer with random sizes and options."""
    rng = np.random.default_rng(seed)
    steps, batch, width = (int(n) for n in rng.integers(1, (6, 8, 20)))
    hidden = int(rng.choice([1, 7, 16, 33]))
    attributes = some_attributes(op, rng)
    case = layer(op, (steps, batch, width, hidden), seed, **attributes)
    directions = case.arrays["R"].shape[0]
    state = (batch, directions, hidden) if attributes["layout"] else (directions, batch, hidden)
    optional: dict[str, Array] = {
        "sequence_lens": rng.integers(0, steps + 1, batch).astype(np.int32),
        "initial_h": rng.standard_normal(state).astype(np.float32),
    }
    if op == "LSTM":
        optional["initial_c"] = rng.standard_normal(state).astype(np.float32)
        optional["P"] = rng.standard_normal((directions, 3 * hidden)).astype(np.float32)
    arrays = {n: a for n, a in case.arrays.items() if n != "B" or rng.random() < 0.7}
    arrays |= {n: a for n, a in optional.items() if rng.random() < 0.5}
    kept = tuple(n if rng.random() < 0.8 else "" for n in case.outputs[:-1]) + case.outputs[-1:]
    given = case.given | (frozenset("WRBP") if rng.random() < 0.3 else frozenset())
    return Case(op, arrays, case.attributes, kept, given)


def compiled(case: Case, **options: Any) -> CompiledModel:
    return whet.compile(case.model(), options=whet.Options(cache_dir="", **options))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("hidden", [1, 7, 16, 33, 256])
def test_sizes(op: str, hidden: int) -> None:
    for steps, batch in ((1, 1), (5, 1), (5, 3)):
        case = layer(op, (steps, batch, 9, hidden), direction="bidirectional")
        case.check(compiled(case, threads=1)(case.inputs()))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("seed", range(8))
def test_options(op: str, seed: int) -> None:
    case = with_options(op, seed)
    level = 3 - seed % 4
    case.check(compiled(case, threads=1 + seed % 2, opt_level=level)(case.inputs()))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("seed", range(6))
def test_equations(op: str, seed: int) -> None:
    case = with_options(op, seed)
    found = run_node(case.node(), case.arrays)
    case.check({n: a for n, a in zip(case.outputs, found, strict=False) if n})


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", ["float16", "float64"])
def test_types(op: str, dtype: str) -> None:
    case = layer(op, (4, 2, 5, 17), direction="bidirectional")
    arrays = {n: a.astype(dtype) for n, a in case.arrays.items()}
    case = Case(op, arrays, case.attributes, case.outputs)
    case.check(compiled(case, threads=1)(case.inputs()))


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("direction", ["reverse", "bidirectional"])
def test_run_time_dimensions(op: str, direction: str) -> None:
    rng = np.random.default_rng(1)
    small = layer(op, (3, 2, 5, 20), direction=direction)
    source = small.model({"X": ("steps", "batch", 5)})
    model = whet.compile(source, options=whet.Options(threads=2, cache_dir=""))
    for steps, batch in ((3, 2), (1, 1), (4, 7), (2, 13)):
        x = rng.standard_normal((steps, batch, 5)).astype(np.float32)
        case = Case(op, {**small.arrays, "X": x}, small.attributes, small.outputs)
        case.check(model(case.inputs()))


def test_states_continue_a_sequence() -> None:
    whole = layer("LSTM", (6, 2, 5, 19))
    x = whole.arrays["X"]
    expected = compiled(whole, threads=1)(whole.inputs())
    states = {f"initial_{s}": np.zeros((1, 2, 19), np.float32) for s in "hc"}
    half = Case("LSTM", {**whole.arrays, "X": x[:3], **states}, whole.attributes, whole.outputs)
    model = compiled(half, threads=1)
    first = model(half.inputs())
    again = {"X": x[3:], "initial_h": first["Y_h"], "initial_c": first["Y_c"]}
    second = model(again)
    np.testing.assert_array_equal(np.concatenate([first["Y"], second["Y"]]), expected["Y"])
    np.testing.assert_array_equal(second["Y_c"], expected["Y_c"])


@pytest.mark.parametrize("op", OPS)
def test_threads_and_neighbours_change_no_bit(op: str) -> None:
    case = layer(op, (4, 7, 6, 40))
    alone = compiled(case, threads=1)(case.inputs())
    shared = compiled(case, threads=2)(case.inputs())
    for name, array in alone.items():
        np.testing.assert_array_equal(shared[name], array)
    arrays = {**case.arrays, "X": case.arrays["X"][:, 2:3]}
    single = Case(op, arrays, case.attributes, case.outputs)
    found = compiled(single, threads=1)(single.inputs())
    np.testing.assert_array_equal(found["Y"], alone["Y"][:, :, 2:3])


def test_a_layer_is_one_product_and_one_recurrence() -> None:
    case = layer("LSTM", (5, 1, 6, 32), direction="bidirectional")
    plain = Case("LSTM", case.arrays, case.attributes, ("", "Y_h"))
    kinds = [g.kernel.split("_")[0] for g in compiled(plain, threads=1).stats.groups]
    assert kinds == ["contraction", "recurrence", "map"]


@pytest.mark.parametrize(
    ("attributes", "words"),
    [
        ({"activations": ["Tanh", "Gelu", "Tanh"]}, "activation 'Gelu'"),
        ({"activations": ["Tanh"]}, "needs 3 activations"),
        ({"direction": "sideways"}, "direction 'sideways'"),
        ({"hidden_size": 5}, "hidden_size"),
    ],
)
def test_bad_attributes(attributes: dict[str, Any], words: str) -> None:
    case = layer("LSTM", (2, 1, 3, 4))
    bad = Case("LSTM", case.arrays, {**case.attributes, **attributes}, case.outputs)
    with pytest.raises(WhetError, match=words):
        run_node(bad.node(), bad.arrays)


@pytest.mark.parametrize(("name", "words"), [("W", "w for this x"), ("B", "should be")])
def test_bad_shapes(name: str, words: str) -> None:
    case = layer("GRU", (2, 1, 3, 4))
    arrays = {**case.arrays, name: case.arrays[name][..., :-1]}
    with pytest.raises(WhetError, match=words):
        run_node(case.node(), arrays)
