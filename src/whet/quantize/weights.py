"""Weight-only quantisation: 4 or 8 bits in groups along the depth; activations stay float.

A group of ``block`` weights of one output channel shares a scale: ``w ≈ (q - zero) · scale``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import msgspec
import numpy as np
import onnx_ir as ir

from whet.errors import OptionError, UnsupportedError, nearest
from whet.graph.edit import constant_array
from whet.optimize.optimize import optimize_graph
from whet.quantize.awq import scale_activations
from whet.quantize.blocks import BlockGrid, block_grid, dequantize_blocks, quantize_blocks
from whet.quantize.bodies import all_nodes, name_body_values
from whet.quantize.config import QuantizeConfig
from whet.quantize.layers import Layer, find_layers
from whet.quantize.observe import Observations, Observer, observe
from whet.quantize.rounding import gptq_rows
from whet.quantize.static import Request, calibration_data, input_specs
from whet.quantize.write_weights import write_weights

Array = np.ndarray[Any, Any]
Form = Literal["dequantize", "matmulnbits"]

INTEGER_ROWS = 4
"""The ``accuracy_level`` of MatMulNBits at which rows may be 8-bit integers."""


class WeightConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How weights are quantised alone.

    Attributes:
        bits: 4 or 8.
        block: weights that share a scale, a power of two of 16 or more.
        symmetric: whether 0 is in the middle.
        method: ``nearest``; ``gptq``, which hands errors on; ``awq``, which scales channels first.
        form: DequantizeLinear with blocks in front of the product, or the operator MatMulNBits.
        integer_rows: whether MatMulNBits says that rows may become 8-bit integers.
        skip: layers that are left alone.
    """

    bits: Literal[4, 8] = 4
    block: int = 32
    symmetric: bool = True
    method: Literal["nearest", "gptq", "awq"] = "nearest"
    form: Form = "dequantize"
    integer_rows: bool = False
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Reject blocks that no form can express."""
        if self.block < 16 or self.block & (self.block - 1):
            raise OptionError(f"block is {self.block}", hint="give a power of two of 16 or more")
        if self.integer_rows and self.form != "matmulnbits":
            raise OptionError(
                f"the form {self.form} cannot say that rows may be integers",
                where="integer_rows",
                hint="use the form matmulnbits",
            )


@dataclass(frozen=True, slots=True, eq=False)
class WeightPlan:
    """Weights as numbers, by layer.

    Attributes:
        layers: products with a constant matrix.
        numbers: (depth, columns) numbers of each, with their grid.
    """

    layers: tuple[Layer, ...]
    numbers: Mapping[str, tuple[Array, BlockGrid]]


@dataclass(frozen=True, slots=True, eq=False)
class WeightResult:
    """A model whose matrices are quantised.

    Attributes:
        base: the float graph.
        model: the quantised one.
        left: products that stay as they are, and why.
    """

    base: ir.Model
    model: ir.Model
    left: Mapping[str, str]


def quantize_weights(request: Request, config: WeightConfig) -> WeightResult:
    """Quantise the matrices of a model.

    Args:
        request: the model, and calibration data unless the method is ``nearest``.
        config: how.

    Raises:
        UnsupportedError: it has no products with constant matrices.
        WhetError: the model or the data is not valid.
    """
    base = optimize_graph(request.source, shapes=request.shapes).model
    name_body_values(base)
    given = request.config
    inner = QuantizeConfig(
        rounding="gptq", batch=given.batch, samples=given.samples, seed=given.seed
    )
    layers, left = _matrices(base, inner, config.skip)
    seen = Observations()
    if config.method != "nearest":
        data = calibration_data(replace(request, config=inner), input_specs(base))
        observer = Observer(inner, request.options, request.state, request.progress)
        seen = observe(base, layers, data, observer)
    if config.method == "awq":
        scale_activations(base, layers, seen, lambda w: rounded_blocks(w, config))
    nodes = all_nodes(base)
    numbers = {}
    for layer in layers:
        matrix = constant_array(nodes[layer.name].inputs[1])
        matrix = matrix.T if layer.axis == 0 else matrix
        numbers[layer.name] = _numbers(layer, matrix, seen, config)
    plan = WeightPlan(layers, numbers)
    level = INTEGER_ROWS if config.integer_rows else 0
    made = write_weights(base, plan.layers, plan.numbers, config.form, level)
    return WeightResult(base, made, left)


def _matrices(
    base: ir.Model, config: QuantizeConfig, skip: tuple[str, ...]
) -> tuple[tuple[Layer, ...], dict[str, str]]:
    """Return the products whose matrices are quantised, and why others are not."""
    found, skipped = find_layers(base, config)
    left = {x.name: x.why for x in skipped}
    for layer in found:
        if layer.name in skip:
            left[layer.name] = "it is to be left alone"
        elif layer.weight is not None and (layer.op not in _MATRICES or layer.axis is None):
            left[layer.name] = "its weight is no matrix of a MatMul or Gemm"
    unknown = [name for name in skip if name not in left]
    if unknown:
        names = [layer.name for layer in found]
        raise OptionError(
            f"there is no layer {unknown[0]!r}", where="skip", hint=nearest(unknown[0], names)
        )
    layers = tuple(x for x in found if x.weight is not None and x.name not in left)
    if not layers:
        why = "".join(f": {name}: {reason}" for name, reason in list(left.items())[:1])
        raise UnsupportedError(
            f"no matrix of the model can be quantised{why}",
            hint="MatMul and Gemm with float32 constants can",
        )
    return layers, left


_MATRICES = ("MatMul", "Gemm")


def rounded_blocks(matrix: Array, config: WeightConfig) -> Array:
    """Return a (depth, columns) matrix as its grid can express it."""
    grid = block_grid(matrix, config.bits, config.block, symmetric=config.symmetric)
    return dequantize_blocks(quantize_blocks(matrix, grid), grid)


def _numbers(
    layer: Layer, matrix: Array, seen: Observations, config: WeightConfig
) -> tuple[Array, BlockGrid]:
    grid = block_grid(matrix, config.bits, config.block, symmetric=config.symmetric)
    moments = seen.moments.get(layer.name)
    if config.method != "gptq" or moments is None or not moments.gram.size:
        return quantize_blocks(matrix, grid), grid
    gram = moments.gram[0].astype(np.float64) / max(moments.rows, 1)
    scale, zero = (
        grid.spread(a, len(matrix)).T.astype(np.float64) for a in (grid.scale, grid.zero)
    )
    rows = gptq_rows(matrix.T.astype(np.float64), gram, (scale, zero), grid.limits)
    return rows.T.astype(np.int32), grid
