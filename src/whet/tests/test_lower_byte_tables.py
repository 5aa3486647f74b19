"""Functions of single bytes: tables in kernels, of every byte, and what stays computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

import whet
from whet.driver import plan
from whet.kernel.expr import Read, byte_of, walk
from whet.kernel.spec import Contraction, Nest
from whet.tests.kernel_runner import execute, interpret, kernels_of, trial_of

CASCADELAKE = "x86_64-unknown-linux-gnu:cascadelake"
HASWELL = "x86_64-unknown-linux-gnu:haswell"
REWRITES = {"tabulate_bytes": None}
Array = np.ndarray[Any, np.dtype[Any]]
ALL = np.arange(256, dtype=np.uint8)


class Net:
    """A graph of quantised values, written node by node."""

    def __init__(self, kind: int = TensorProto.UINT8) -> None:
        self.kind = helper.tensor_dtype_to_np_dtype(kind)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def constant(self, name: str, value: Any, dtype: Any) -> str:
        """Add a constant."""
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node of one output."""
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output

    def grid(self, name: str, scale: Any, zero: Any) -> list[str]:
        """Add scale and zero point."""
        return [
            self.constant(f"{name}_scale", scale, np.float32),
            self.constant(f"{name}_zero", zero, self.kind),
        ]

    def quantise(self, x: str, name: str, scale: Any, zero: Any, **attributes: Any) -> str:
        """Return a value on a grid, as floats."""
        grid = self.grid(name, scale, zero)
        self.node("QuantizeLinear", [x, *grid], name, **attributes)
        return self.node("DequantizeLinear", [name, *grid], f"{name}_float", **attributes)

    def model(
        self, shape: tuple[int | str, ...], output: str, kinds: tuple[int, int]
    ) -> onnx.ModelProto:
        """Return the graph of ``x`` and one output, with their types."""
        given = helper.make_tensor_value_info("x", kinds[0], shape)
        made = helper.make_tensor_value_info(output, kinds[1], None)
        graph = helper.make_graph(self.nodes, "bytes", [given], [made], self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def silu(net: Net, x: str, name: str, zero: int) -> str:
    """Add ``x sigmoid(x)`` as ONNX Runtime quantises it: both factors and their product."""
    low = int(np.iinfo(net.kind).min)
    share = net.quantise(net.node("Sigmoid", [x], f"{name}_s"), f"{name}_q", 1 / 255, low)
    return net.quantise(net.node("Mul", [x, share], f"{name}_m"), f"{name}_y", 0.03, zero)


def alone(op: str, kind: int, shape: tuple[int | str, ...]) -> onnx.ModelProto:
    """Return a function of a byte that is given."""
    net = Net(kind)
    grid = net.grid("x", 0.06, 100 if kind == TensorProto.UINT8 else -5)
    x = net.node("DequantizeLinear", ["x", *grid], "floats")
    if op == "SiLU":
        silu(net, x, "f", 17)
        return net.model(shape, "f_y", (kind, kind))
    net.quantise(net.node(op, [x], "f"), "y", 0.013, 40)
    return net.model(shape, "y", (kind, kind))


def convolution(
    widths: tuple[int, int], pixels: int, kind: int = TensorProto.UINT8, batch: int | str = 1
) -> onnx.ModelProto:
    """Return a convolution, its SiLU and another convolution, quantised."""
    rng = np.random.default_rng()
    net = Net(kind)
    middle = 100 if kind == TensorProto.UINT8 else -20
    x = net.quantise("x", "xq", 0.02, middle)
    for k, (before, after) in enumerate((widths, widths[::-1])):
        w = net.constant(f"w{k}", rng.integers(-127, 128, (after, before, 3, 3)), np.int8)
        s = net.constant(f"w{k}_scale", rng.random(after) / (200 * before), np.float32)
        w = net.node("DequantizeLinear", [w, s], f"w{k}_float", axis=0)
        c = net.node("Conv", [x, w], f"c{k}", pads=[1, 1, 1, 1])
        x = silu(net, net.quantise(c, f"c{k}q", 0.05, middle), f"f{k}", middle)
    shape = (batch, widths[0], pixels, pixels)
    return net.model(shape, x, (TensorProto.FLOAT, TensorProto.FLOAT))


def reference(model: onnx.ModelProto, x: Array) -> Array:
    return np.asarray(ReferenceEvaluator(model).run(None, {"x": x})[0])  # type: ignore[index]


def run(model: onnx.ModelProto, x: Array, cache: Path, **options: Any) -> Array:
    given = {"threads": 2, **options}
    compiled = whet.compile(model, options=whet.Options(cache_dir=cache, **given))
    return next(iter(compiled({"x": x}).values()))


def tables(model: onnx.ModelProto, target: str = "host", **options: Any) -> list[Any]:
    """Return the kernels that look bytes up."""
    options = {"rewrites": REWRITES, **options}
    calls, _ = kernels_of(model, target=target, every=True, **options)
    return [
        c.kernel
        for c in calls
        if any(
            isinstance(e, Read) and byte_of(e.address) is not None
            for store in getattr(c.kernel, "stores", ())
            for e in walk(store.value)
        )
    ]


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT8])
@pytest.mark.parametrize(
    ("op", "target"),
    [
        *((op, "host") for op in ("Sigmoid", "SiLU", "Tanh", "HardSwish", "Gelu", "Exp", "Log")),
        *(("SiLU", target) for target in (CASCADELAKE, HASWELL)),
    ],
)
def test_every_byte(op: str, kind: int, target: str, cache: Path) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for shape in ((256,), (1, 3, 257), (1,), (0, 4)):
        model = alone(op, kind, shape)
        assert len(tables(model, target)) == (0 if 0 in shape else 1)
        x = np.resize(ALL, int(np.prod(shape))).view(dtype).reshape(shape)
        with np.errstate(all="ignore"):
            expected = reference(model, x)
        found = run(model, x, cache, target=target)
        assert found.dtype == dtype
        steps = np.abs(found.astype(int) - expected.astype(int))
        if op == "Log":  # of a negative number ONNX's reference casts NaN, which has no one result
            steps = steps[x.astype(int) >= (100 if kind == TensorProto.UINT8 else -5)]
        assert steps.max(initial=0) <= 1
        computed = run(model, x, cache, target=target, passes={"tabulate_bytes": False})
        assert np.abs(found.astype(int) - computed.astype(int)).max(initial=0) <= 1


@pytest.mark.parametrize("target", ["host", CASCADELAKE, HASWELL])
@pytest.mark.parametrize(
    ("widths", "pixels"), [((16, 64), 9), ((17, 33), 7), ((32, 130), 14), ((5, 3), 1)]
)
def test_the_end_of_a_convolution(
    widths: tuple[int, int], pixels: int, target: str, cache: Path
) -> None:
    model = convolution(widths, pixels)
    found = tables(model, target)
    assert len(found) == 2
    assert all(isinstance(kernel, Contraction) for kernel in found)
    rng = np.random.default_rng()
    x = rng.standard_normal((1, widths[0], pixels, pixels)).astype(np.float32)
    y = run(model, x, cache, target=target)
    steps = np.abs(y - reference(model, x)) / 0.03
    assert steps.max() < 1.5
    assert (steps > 0.5).mean() < 0.02


@pytest.mark.parametrize("kind", [TensorProto.UINT8, TensorProto.INT8])
def test_a_batch_that_the_run_knows(kind: int, cache: Path) -> None:
    model = convolution((12, 24), 6, kind, "batch")
    compiled = whet.compile(model, options=whet.Options(threads=2, cache_dir=cache))
    for batch in (0, 1, 3):
        x = np.random.default_rng().standard_normal((batch, 12, 6, 6)).astype(np.float32)
        found = next(iter(compiled({"x": x}).values()))
        assert found.shape == (batch, 12, 6, 6)
        if batch:
            assert np.abs(found - reference(model, x)).max() < 1.5 * 0.03


@pytest.mark.parametrize("target", ["host", CASCADELAKE])
def test_agrees_with_the_interpreter(target: str, cache: Path) -> None:
    rng = np.random.default_rng()
    calls, chosen = kernels_of(convolution((16, 67), 8), target=target, rewrites=REWRITES)
    looked_up = [c for c in calls if any(r.name.endswith(".table") for r in c.roots)]
    assert looked_up
    for call in looked_up:
        assert isinstance(call.kernel, Contraction | Nest)
        trial = trial_of(call, chosen, {}, rng, odd=False)
        (found,) = execute(trial, cache, threads=2)
        (expected,) = interpret(trial, precise=False)
        np.testing.assert_allclose(found, expected, atol=1 if found.dtype.kind in "iu" else 1e-6)


def test_no_more_launches_and_the_switch() -> None:
    model = convolution((16, 64), 9)

    def launches(**options: Any) -> int:
        return len(plan(model, options=whet.Options(**options)).program.launches)

    assert launches() <= launches(passes={"tabulate_bytes": False}) < launches(opt_level=1)
    assert launches() <= launches(passes={"tabulate_bytes": 1}) < launches(opt_level=1)
    assert not tables(model, level=1, rewrites={})


def test_nodes_are_named_once(cache: Path) -> None:
    model = convolution((16, 64), 9)
    for k, node in enumerate(model.graph.node):
        node.name = f"n{k}"
    for launch in plan(model, options=whet.Options()).program.launches:
        assert len(launch.nodes) == len(set(launch.nodes))
        assert launch.ops.count("Sigmoid") <= 1


# -- near misses -----------------------------------------------------------------------------------


def _for_each_channel(net: Net, x: str) -> str:
    scales = np.linspace(0.01, 0.02, 4)
    return net.quantise(net.node("Tanh", [x], "f"), "y", scales, [0] * 4, axis=1)


def _of_two(net: Net, x: str) -> str:
    other = net.quantise(net.node("Transpose", [x], "t", perm=[0, 1, 3, 2]), "tq", 0.05, 3)
    both = net.node("Mul", [net.node("Tanh", [x], "f"), other], "p")
    return net.quantise(both, "y", 0.02, 100)


def _cheap(net: Net, x: str) -> str:
    return net.quantise(net.node("Relu", [x], "f"), "y", 0.02, 0)


def _in_floats(net: Net, x: str) -> str:
    return net.node("Tanh", [x], "y_float")


def _of_a_row(net: Net, x: str) -> str:
    return net.quantise(net.node("Softmax", [x], "f"), "y", 0.004, 0)


@pytest.mark.parametrize("rest", [_for_each_channel, _of_two, _cheap, _in_floats, _of_a_row])
def test_others_are_computed(rest: Callable[[Net, str], str]) -> None:
    net = Net()
    x = net.node("DequantizeLinear", ["x", *net.grid("x", 0.06, 100)], "floats")
    rest(net, x)
    model = net.model((2, 4, 6, 6), "y_float", (TensorProto.UINT8, TensorProto.FLOAT))
    assert not tables(model)


def test_values_between_that_are_given_out_too(cache: Path) -> None:
    model = alone("SiLU", TensorProto.UINT8, (256,))
    more = helper.make_tensor_value_info("f_q", TensorProto.UINT8, None)
    model.graph.output.append(more)
    compiled = whet.compile(model, options=whet.Options(cache_dir=cache))
    found = compiled({"x": ALL})
    expected = ReferenceEvaluator(model).run(None, {"x": ALL})
    for name, values in zip(("f_y", "f_q"), expected, strict=True):
        assert np.abs(found[name].astype(int) - np.asarray(values).astype(int)).max() <= 1


@pytest.mark.parametrize("rewrites", [REWRITES, {}])
def test_lanes_of_depthwise_convolutions_are_channels(rewrites: dict[str, None]) -> None:
    """However often the end of a sum uses what it reads."""
    net = Net()
    x = net.quantise("x", "xq", 0.02, 100)
    rng = np.random.default_rng()
    w = net.constant("w", rng.integers(-127, 128, (96, 1, 5, 5)), np.int8)
    s = net.constant("w_scale", rng.random(96) / 100, np.float32)
    w = net.node("DequantizeLinear", [w, s], "w_float", axis=0)
    c = net.node("Conv", [x, w], "c", pads=[2, 2, 2, 2], group=96)
    c = net.quantise(c, "cq", 0.05, 129)
    y = net.quantise(net.node("HardSwish", [c], "h"), "y", 0.04, 1)
    model = net.model((1, 96, 7, 7), y, (TensorProto.FLOAT, TensorProto.FLOAT))
    calls, _ = kernels_of(model, rewrites=rewrites)
    (nest,) = [c.kernel for c in calls if isinstance(c.kernel, Nest) and c.kernel.steps]
    assert not nest.vector_rows
    assert nest.axes[-1].name == "i1"
