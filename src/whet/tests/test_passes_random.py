"""The whole pipeline on random graphs: it must agree with the reference at every level."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.frontend.load import load_model
from whet.graph.opset import canonical_opset
from whet.graph.text import graph_text
from whet.passes.pipeline import run_passes
from whet.tests.passkit import RELATIVE_TOLERANCE, Array, evaluate

STEPS = (
    "relu", "identity", "scale", "shift", "neutral", "transpose", "flatten", "unsqueeze",
    "linear", "projections", "norm", "rms", "gelu", "silu", "pad", "slice", "concat", "twice",
    "shape", "split", "constant", "dead", "convolution",
)  # fmt: skip


class Network:
    """A random graph of one tensor that flows through steps."""

    def __init__(self, shape: tuple[int, ...], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.input = ir.val("x", ir.DataType.FLOAT, shape)
        self.graph = ir.Graph(
            [self.input], [], nodes=[], opset_imports={"": canonical_opset()}, name="g"
        )
        self.value, self.shape, self.count = self.input, shape, 0

    def const(self, array: Array) -> ir.Value:
        """Add a constant."""
        self.count += 1
        name = f"c{self.count}"
        value = ir.val(name, const_value=ir.Tensor(array, name=name))
        self.graph.register_initializer(value)
        return value

    def numbers(self, *shape: int) -> ir.Value:
        """Add a constant of random positive numbers."""
        return self.const(self.rng.uniform(0.2, 1.0, shape).astype(np.float32))

    def ints(self, *values: int) -> ir.Value:
        """Add a constant of integers."""
        return self.const(np.array(values, np.int64))

    def op(self, kind: str, *inputs: ir.Value, outputs: int = 1, **attributes: object) -> ir.Value:
        """Append a node and return its first output."""
        self.count += 1
        names = [ir.val(f"v{self.count}_{i}") for i in range(outputs)]
        node = ir.node(kind, inputs, attributes, outputs=names)  # type: ignore[arg-type]
        self.graph.append(node)
        return names[0]

    def model(self) -> ir.Model:
        """Close the graph and load it."""
        last = self.op("Identity", self.value)
        last.name = "y"
        last.type = ir.TensorType(ir.DataType.FLOAT)
        self.graph.outputs.append(last)
        return load_model(ir.Model(self.graph, ir_version=10))


def add_step(net: Network, step: str) -> None:
    """Append one random step; steps that do not fit the rank do nothing."""
    x, shape = net.value, net.shape
    simple = {
        "relu": lambda: net.op("Relu", x),
        "identity": lambda: net.op("Dropout", net.op("Identity", x)),
        "scale": lambda: net.op("Mul", x, net.numbers(*shape[-1:])),
        "shift": lambda: net.op("Add", net.numbers(1), x),
        "neutral": lambda: net.op(
            "Mul", net.op("Sub", x, net.const(np.zeros(1, np.float32))), _one(net)
        ),
        "silu": lambda: net.op("Mul", net.op("Sigmoid", x), x),
        "twice": lambda: net.op("Sub", net.op("Exp", _tanh(net)), net.op("Exp", _tanh(net))),
        "shape": lambda: net.op("Reshape", net.op("Neg", x), net.op("Shape", x)),
        "constant": lambda: net.op("Add", x, net.op("Neg", net.op("Sqrt", net.numbers(1)))),
        "norm": lambda: _norm(net, centred=True),
        "rms": lambda: _norm(net, centred=False),
        "gelu": lambda: _gelu(net),
    }
    if step in simple:
        net.value = simple[step]()
    elif step == "dead":
        net.op("Neg", net.op("Relu", x))
    else:
        _reshaping_step(net, step)


def _one(net: Network) -> ir.Value:
    return net.const(np.ones(net.shape[-1], np.float32))


def _tanh(net: Network) -> ir.Value:
    return net.op("Tanh", net.value)


def _norm(net: Network, *, centred: bool) -> ir.Value:
    x, axes = net.value, net.ints(-1)
    d = net.op("Sub", x, net.op("ReduceMean", x, axes)) if centred else x
    square = net.op("Pow", d, net.const(np.array(2, np.float32)))
    mean = net.op("ReduceMean", square, axes)
    root = net.op("Sqrt", net.op("Add", mean, net.const(np.array(1e-3, np.float32))))
    return net.op("Mul", net.op("Div", d, root), net.numbers(net.shape[-1]))


def _gelu(net: Network) -> ir.Value:
    x, half = net.value, net.const(np.array(0.5, np.float32))
    gate = net.op("Erf", net.op("Mul", x, net.const(np.array(0.5**0.5, np.float32))))
    return net.op("Mul", net.op("Mul", x, net.op("Add", gate, _one(net))), half)


def _reshaping_step(net: Network, step: str) -> None:
    x, shape = net.value, net.shape
    rank, last = len(shape), shape[-1]
    if step == "transpose":
        perm = [int(p) for p in net.rng.permutation(rank)]
        net.value, net.shape = net.op("Transpose", x, perm=perm), tuple(shape[p] for p in perm)
    elif step == "flatten" and rank > 1:
        net.value = net.op("Flatten", x, axis=rank - 1)
        net.shape = (int(np.prod(shape[:-1])), last)
    elif step == "unsqueeze" and rank < 4:
        net.value, net.shape = net.op("Unsqueeze", x, net.ints(0)), (1, *shape)
    elif step == "linear" and rank > 1:
        product = net.op("MatMul", x, net.numbers(last, 3))
        net.value, net.shape = net.op("Add", product, net.numbers(3)), (*shape[:-1], 3)
    elif step == "projections" and rank > 1:
        parts = [net.op("MatMul", x, net.numbers(last, 4)) for _ in range(3)]
        net.value, net.shape = net.op("Concat", *parts, axis=-1), (*shape[:-1], 12)
    elif step == "slice" and last > 1:
        net.value = net.op("Slice", x, net.ints(0), net.ints(last - 1), net.ints(rank - 1))
        net.shape = (*shape[:-1], last - 1)
    elif step == "concat" and last < 32:
        net.value, net.shape = net.op("Concat", x, x, axis=-1), (*shape[:-1], 2 * last)
    elif step == "split" and last % 2 == 0:
        net.value = net.op("Split", x, outputs=2, axis=-1, num_outputs=2)
        net.shape = (*shape[:-1], last // 2)
    elif step in ("pad", "convolution") and rank == 4:
        _convolution(net, padded=step == "pad")


def _convolution(net: Network, *, padded: bool) -> None:
    x, channels = net.value, net.shape[1]
    before = net.op("Pad", x, net.ints(0, 0, 1, 1, 0, 0, 1, 0)) if padded else x
    product = net.op("Conv", before, net.numbers(5, channels, 1, 1))
    statistics = [net.numbers(5) for _ in range(4)]
    net.value = net.op("BatchNormalization", product, *statistics)
    grown = (1, 2)[padded] - 1
    net.shape = (net.shape[0], 5, net.shape[2] + 2 * grown, net.shape[3] + grown)


@settings(max_examples=60, deadline=None)
@given(
    steps=st.lists(st.sampled_from(STEPS), min_size=1, max_size=8),
    shape=st.sampled_from([(4,), (3, 4), (2, 3, 4), (1, 2, 3, 4)]),
    level=st.sampled_from([0, 1, 2, 3]),
    seed=st.integers(0, 1000),
)
def test_agrees_with_the_reference(
    steps: list[str], shape: tuple[int, ...], level: int, seed: int
) -> None:
    net = Network(shape, seed)
    for step in steps:
        add_step(net, step)
    model = net.model()
    inputs = {"x": net.rng.uniform(-1, 1, shape).astype(np.float32)}
    (before,) = evaluate(model, inputs)
    run_passes(model, opt_level=level)
    (after,) = evaluate(model, inputs)
    assert before.shape == after.shape
    scale = max(1.0, float(np.abs(before).max(initial=0.0)))
    np.testing.assert_allclose(after, before, rtol=0, atol=RELATIVE_TOLERANCE * 5 * scale)
    text = graph_text(model)
    assert sum(r.rewrites for r in run_passes(model, opt_level=level)) == 0
    assert graph_text(model) == text
