"""Random ONNX models: the same graph from the same seed, in any element type.

Values stay near 1, so that single precision can be compared with the reference in double.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from whet.dtypes import numpy_dtype

Array = np.ndarray[Any, np.dtype[Any]]
Shape = tuple[int, ...]
EXTENTS = (1, 2, 3, 4, 5, 7, 8, 13, 16, 17, 32, 33)
MOST_ELEMENTS = 8192
OPSET = 21


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its name and shape."""

    name: str
    shape: Shape

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)


def _dtype(name: str) -> np.dtype[Any]:
    found = numpy_dtype(name)
    assert isinstance(found, np.dtype)
    return found


class Network:
    """A graph under construction.

    Args:
        seed: what the graph is made from.
        dtype: element type of all floats.
        batch: name of the first dimension of every input, and of a size to compute shapes with.
    """

    def __init__(self, seed: int, dtype: str = "float32", batch: tuple[str, int] | None = None):
        self.rng = np.random.default_rng(seed)
        self.dtype = numpy_dtype(dtype)
        self.batch = batch
        self.kind = helper.np_dtype_to_tensor_dtype(self.dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[Value] = []
        self.values: list[Value] = []
        self.read: set[str] = set()
        self._count = 0

    # -- choosing ----------------------------------------------------------------------------

    def choice(self, items: Any) -> Any:
        """Return one of some items."""
        return items[int(self.rng.integers(len(items)))]

    def integer(self, low: int, high: int) -> int:
        """Return an integer from ``low`` to ``high``, both included."""
        return int(self.rng.integers(low, high + 1))

    def likely(self, chance: float) -> bool:
        """Return ``True`` with a probability."""
        return bool(self.rng.random() < chance)

    @property
    def free(self) -> int:
        """The first dimension that steps may move, reduce or cut."""
        return 1 if self.batch else 0

    def axis(self, x: Value) -> int:
        """Return a dimension that steps may change."""
        return self.integer(self.free, x.rank - 1)

    # -- building ----------------------------------------------------------------------------

    def name(self) -> str:
        """Return a fresh name."""
        self._count += 1
        return f"v{self._count}"

    def constant(self, array: Array) -> str:
        """Add a constant; floats take the type of the graph."""
        name = self.name()
        values = array.astype(self.dtype) if array.dtype.kind == "f" else array
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def weights(self, *shape: int, depth: int = 1) -> str:
        """Add normal numbers that keep the size of sums over ``depth`` terms."""
        values = self.rng.standard_normal(shape) / math.sqrt(depth)
        return self.constant(values.astype(np.float16).astype(np.float64))

    def ints(self, *values: int) -> str:
        """Add integers."""
        return self.constant(np.array(values, np.int64))

    def input(self, shape: Shape) -> Value:
        """Add an input."""
        value = Value(f"x{len(self.inputs)}", shape)
        self.inputs.append(value)
        self.values.append(value)
        return value

    def op(self, kind: str, *inputs: Value | str, shape: Shape, **attributes: Any) -> Value:
        """Append a node with one output."""
        return self.ops(kind, *inputs, shapes=[shape], **attributes)[0]

    def ops(
        self, kind: str, *inputs: Value | str, shapes: list[Shape], **attributes: Any
    ) -> list[Value]:
        """Append a node."""
        names = [i.name if isinstance(i, Value) else i for i in inputs]
        self.read.update(names)
        made = [Value(self.name(), shape) for shape in shapes]
        node = helper.make_node(
            kind, names, [v.name for v in made], name=f"{kind}_{len(self.nodes)}", **attributes
        )
        self.nodes.append(node)
        return made

    # -- the result --------------------------------------------------------------------------

    def model(self) -> onnx.ModelProto:
        """Return the model; its outputs are all values that nothing reads, and some others."""
        made = [v for v in self.values if v not in self.inputs]
        rng = np.random.default_rng(self._count)
        ends = [v for v in made if v.name not in self.read or rng.random() < 0.1]
        graph = helper.make_graph(
            self.nodes,
            "random",
            [self._info(v) for v in self.inputs],
            [helper.make_tensor_value_info(v.name, self.kind, None) for v in ends],
            initializer=self.constants,
        )
        imports = [helper.make_opsetid("", OPSET)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)

    def _info(self, value: Value) -> onnx.ValueInfoProto:
        shape: tuple[int | str, ...] = value.shape
        if self.batch:
            shape = (self.batch[0], *value.shape[1:])
        return helper.make_tensor_value_info(value.name, self.kind, shape)


Made = Value | list[Value] | None
Step = Callable[[Network, Value], Made]


def random_network(
    seed: int,
    dtype: str = "float32",
    *,
    steps: int = 8,
    batch: tuple[str, int] | None = None,
    smooth: bool = False,
) -> Network:
    """Return a random graph; a step that does not fit the shapes at hand is left out.

    ``smooth`` leaves out steps that compare, where coarse types decide otherwise.
    """
    from whet.tests.random_steps import COMPARING, STEPS

    choices = [s for s in STEPS if not (smooth and s in COMPARING)]
    net = Network(seed, dtype, batch)
    for _ in range(net.integer(1, 2)):
        net.input(_input_shape(net))
    while len(net.nodes) < steps:
        x = net.choice(net.values[-3:] if net.likely(0.7) else net.values)
        made = net.choice(choices)(net, x)
        for value in made if isinstance(made, list) else [made] if made is not None else []:
            if math.prod(value.shape) <= MOST_ELEMENTS:
                net.values.append(value)
    return net


def _input_shape(net: Network) -> Shape:
    rank = net.choice((2, 3, 4, 4, 4))
    first = net.batch[1] if net.batch else net.choice((1, 2, 3))
    shape = (first, *(net.choice(EXTENTS) for _ in range(rank - 1)))
    while math.prod(shape) > MOST_ELEMENTS:
        shape = (first, *(max(e // 2, 1) for e in shape[1:]))
    return shape


def inputs_of(net: Network, seed: int, batch: int | None = None) -> dict[str, Array]:
    """Return fresh random inputs, the same numbers in every element type."""
    rng = np.random.default_rng(seed)
    found: dict[str, Array] = {}
    for value in net.inputs:
        shape = value.shape if batch is None else (batch, *value.shape[1:])
        numbers = rng.standard_normal(shape).astype(np.float16)
        found[value.name] = numbers.astype(net.dtype)
    return found
