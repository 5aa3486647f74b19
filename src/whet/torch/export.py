"""From a fake-quantised module to ONNX: the same form that ``whet.quantize`` writes."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import torch
from torch import nn

from whet.errors import InputError, UnsupportedError
from whet.graph.edit import constant_array
from whet.optimize.optimize import optimize_graph
from whet.quantize.config import QuantizeConfig
from whet.quantize.grid import Grid, quantize
from whet.quantize.layers import Layer, find_layers, root_of
from whet.quantize.write import Plan, write_plan
from whet.torch.fake import FakeLayer, fake_layers

Array = np.ndarray[Any, Any]


def export_qat(module: nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    """Return a trained fake-quantised module as ONNX with an open batch.

    Weights and scales are those of the module; where two layers read one value, it gets the range
    that covers both.

    Raises:
        UnsupportedError: a layer cannot be found again in the exported graph, or there is none.
        InputError: a layer saw no data in training, or values that are not finite.
    """
    fakes = fake_layers(module)
    if not fakes:
        raise UnsupportedError("no layer was trained for integers", hint="call prepare_qat first")
    for name, fake in fakes.items():
        _check_range(name, fake)
    base = optimize_graph(_plain(module, example)).model
    bits = {fake.weight.most for fake in fakes.values()}
    config = QuantizeConfig(weights="int4" if bits == {7} else "int8")
    layers, _ = find_layers(base, config)
    nodes = {node.name: node for node in base.graph}
    numbers: dict[str, tuple[Array, Grid]] = {}
    grids: dict[str, Grid] = {}
    for name, fake in fakes.items():
        layer = _found(name, fake, layers, nodes)
        value = nodes[layer.name].inputs[0]
        assert value is not None
        root = root_of(value).name or ""
        grids[root] = _wider(grids.get(root), _activation_grid(fake))
        numbers[layer.name] = _weights(fake, layer)
    chosen = tuple(layer for layer in layers if layer.name in numbers)
    return ir.to_proto(write_plan(base, Plan(config, chosen, {}, grids, numbers=numbers)))


def _check_range(name: str, fake: FakeLayer) -> None:
    observed = fake.activation
    if not bool(observed.seen):
        raise InputError(
            "the layer saw no data in training, so that the range of its input is not known",
            where=name,
            hint="run the module on data after train() and before eval()",
        )
    scales = fake.weight.current(fake.layer.weight.detach())
    finite = [bool(torch.isfinite(v).all()) for v in (observed.low, observed.high, scales)]
    if not all(finite):
        raise InputError(
            "the layer saw values, or has weights, that are NaN or infinite", where=name,
            hint="train with a smaller rate, or leave such samples out",
        )  # fmt: skip


def _plain(module: nn.Module, example: torch.Tensor) -> onnx.ModelProto:
    """Export a copy whose layers are plain ones."""
    plain = _unwrapped(copy.deepcopy(module)).eval()
    buffer: Any = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            plain, (example,), buffer, dynamo=False, input_names=["x"], output_names=["y"],
            dynamic_axes={"x": {0: "n"}, "y": {0: "n"}}, opset_version=18,
        )  # fmt: skip
    return onnx.load_from_string(buffer.getvalue())


def _unwrapped(module: nn.Module) -> nn.Module:
    if isinstance(module, FakeLayer):
        return module.layer
    for name, child in module.named_children():
        setattr(module, name, _unwrapped(child))
    return module


def _found(
    name: str, fake: FakeLayer, layers: tuple[Layer, ...], nodes: Mapping[str | None, ir.Node]
) -> Layer:
    """Return the layer that has a module's weights, as they are or transposed."""
    weight = fake.layer.weight.detach().numpy()
    for layer in layers:
        if layer.op in ("Conv", "Gemm", "MatMul") and layer.weight is not None:
            array = constant_array(nodes[layer.name].inputs[layer.weight])
            if np.array_equal(array, weight) or np.array_equal(array.T, weight):
                return layer
    raise UnsupportedError(
        "the layer is not in the exported graph, or other weights were folded into it",
        where=name,
        hint="fold norms before training; prepare_qat does where they follow in a Sequential",
    )


def _activation_grid(fake: FakeLayer) -> Grid:
    scale, zero = fake.activation.parameters_of_grid()
    return Grid(np.asarray(scale.numpy(), np.float32), np.asarray(zero.numpy(), np.int32), "uint8")


def _wider(old: Grid | None, new: Grid) -> Grid:
    return new if old is None or old.scale <= new.scale else old


def _weights(fake: FakeLayer, layer: Layer) -> tuple[Array, Grid]:
    weight = fake.layer.weight.detach()
    scale = fake.weight.current(weight).detach().numpy().astype(np.float32)
    dtype = "int4" if fake.weight.most == 7 else "int8"
    grid = Grid(scale, np.zeros(len(scale), np.int32), dtype, 0)
    numbers = quantize(weight.numpy(), grid)
    if layer.axis == 1:
        numbers = np.ascontiguousarray(numbers.T)
        grid = Grid(grid.scale, grid.zero, dtype, 1)
    return numbers, grid
