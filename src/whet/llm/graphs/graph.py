"""Writing an ONNX graph: nodes, constants, and weights that are read when they are needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from whet.graph.opset import WHET_DOMAIN, canonical_opset
from whet.llm.architecture import Array

Dims = Sequence[int | str]
FLOAT, BOOL = ir.DataType.FLOAT, ir.DataType.BOOL
INT32, INT64 = ir.DataType.INT32, ir.DataType.INT64
INT8, UINT8 = ir.DataType.INT8, ir.DataType.UINT8


class GraphWriter:
    """Collects the nodes of one graph."""

    def __init__(self) -> None:
        self._nodes: list[ir.Node] = []
        self._inputs: list[ir.Value] = []
        self._initializers: dict[str, ir.Value] = {}

    def input(self, name: str, dtype: ir.DataType, dims: Dims) -> ir.Value:
        """Add an input; dims that are names are known when the model runs."""
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(dims))
        self._inputs.append(value)
        return value

    def constant(self, name: str, array: Array) -> ir.Value:
        """Add a constant, or return the one of that name."""
        return self._initializer(name, ir.Tensor(array, name=name))

    def ints(self, *numbers: int) -> ir.Value:
        """Add some integers, or return those that are there."""
        name = "ints." + ".".join(map(str, numbers))
        return self.constant(name, np.array(numbers, np.int64))

    def weight(
        self,
        name: str,
        shape: tuple[int, ...],
        read: Callable[[], Array],
        dtype: ir.DataType = FLOAT,
    ) -> ir.Value:
        """Add weights that are read when the model is packed."""

        def tensor() -> ir.TensorProtocol:
            return ir.Tensor(np.ascontiguousarray(read()), name=name)

        return self._initializer(name, ir.LazyTensor(tensor, dtype, ir.Shape(shape), name=name))

    def _initializer(self, name: str, tensor: Any) -> ir.Value:
        known = self._initializers.get(name)
        if known is None:
            kind = ir.TensorType(tensor.dtype)
            known = ir.Value(name=name, type=kind, shape=tensor.shape, const_value=tensor)
            self._initializers[name] = known
        return known

    def op(self, op_type: str, *inputs: ir.Value | None, name: str, **attributes: Any) -> ir.Value:
        """Add a node of the standard domain and return its output."""
        return self._node("", op_type, inputs, name, attributes)[0]

    def two(
        self, op_type: str, *inputs: ir.Value, name: str, **attributes: Any
    ) -> tuple[ir.Value, ir.Value]:
        """Add a node of the standard domain that has two outputs."""
        first, second = self._node("", op_type, inputs, name, attributes, outputs=2)
        return first, second

    def whet_op(
        self,
        op_type: str,
        *inputs: ir.Value,
        name: str,
        dims: Dims,
        dtype: ir.DataType = FLOAT,
        **attributes: Any,
    ) -> ir.Value:
        """Add a node of Whet's own domain, whose output ``onnx`` cannot infer."""
        (value,) = self._node(WHET_DOMAIN, op_type, inputs, name, attributes)
        value.type, value.shape = ir.TensorType(dtype), ir.Shape(dims)
        return value

    def _node(
        self,
        domain: str,
        op_type: str,
        inputs: Sequence[ir.Value | None],
        name: str,
        attributes: dict[str, Any],
        *,
        outputs: int = 1,
    ) -> list[ir.Value]:
        made = ir.convenience.convert_attributes(attributes)
        values = [ir.Value(name=f"{name}.{k}" if k else name) for k in range(outputs)]
        self._nodes.append(ir.Node(domain, op_type, inputs, made, outputs=values, name=name))
        return values

    def model(self, name: str, outputs: Sequence[ir.Value]) -> ir.Model:
        """Return the model."""
        opsets = {"": canonical_opset(), WHET_DOMAIN: 1}
        graph = ir.Graph(
            self._inputs,
            outputs,
            nodes=self._nodes,
            initializers=list(self._initializers.values()),
            opset_imports=opsets,
            name=name,
        )
        return ir.Model(graph, ir_version=10)
