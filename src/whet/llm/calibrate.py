"""What the matrices of a decoder read: second moments over texts, group of matrices by group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from whet.driver import compile as compile_model
from whet.kernel.paged import PAGE
from whet.llm.architecture import Array
from whet.llm.engine.program import Span, cache_pools, step_inputs
from whet.options import Options

BYTES_AT_ONCE = 1 << 31
"""Memory for the moments that are gathered in one pass over the texts."""


@dataclass(slots=True)
class Moments:
    """Of the rows that some matrices read.

    Attributes:
        gram: the sum of ``x xᵀ``, float64.
        absolute: the sum of ``|x|`` of each channel.
        rows: number of rows.
        readers: names of the weights.
        source: name of the value that is read.
    """

    gram: Array
    absolute: Array
    rows: int = 0
    readers: list[str] = field(default_factory=list)
    source: str = ""


@dataclass(frozen=True, slots=True)
class Products:
    """The matrices of a decoder's graph, by what they read.

    Attributes:
        sources: values that are read.
        readers: names of their weights.
        depths: their lengths.
    """

    sources: Mapping[str, ir.Value]
    readers: Mapping[str, tuple[str, ...]]
    depths: Mapping[str, int]


def products_of(model: ir.Model) -> Products:
    """Return the matrices of a graph of ``decoder_graph``, those that give logits left out."""
    sources: dict[str, ir.Value] = {}
    readers: dict[str, tuple[str, ...]] = {}
    depths: dict[str, int] = {}
    for node in model.graph:
        value, weight = (node.inputs[0], node.inputs[1]) if len(node.inputs) > 1 else (None, None)
        if node.op_type != "Gemm" or value is None or weight is None or weight.shape is None:
            continue
        name = str(value.name)
        if name == "norm":
            continue
        sources[name] = value
        readers[name] = (*readers.get(name, ()), str(weight.name))
        depths[name] = weight.shape.numpy()[1]
    return Products(sources, readers, depths)


def gather_moments(
    model: ir.Model, chunks: Sequence[Sequence[int]], options: Options | None = None
) -> dict[str, Moments]:
    """Return the moments of everything that matrices read, by the name of the value.

    Args:
        model: the graph of ``decoder_graph``; its outputs are as before afterwards.
        chunks: tokens, each chunk a sequence of its own.
        options: how to compile.
    """
    products = products_of(model)
    found: dict[str, Moments] = {}
    outputs = list(model.graph.outputs)
    for names in _batches(products):
        for name in names:
            value = products.sources[name]
            value.type = ir.TensorType(ir.DataType.FLOAT)
            value.shape = ir.Shape(["tokens", products.depths[name]])
            model.graph.outputs.append(value)
        found.update(_pass(model, names, products, chunks, options))
        del model.graph.outputs[len(outputs) :]
    return found


def _batches(products: Products) -> Iterator[list[str]]:
    """Yield names whose moments fit into memory together."""
    batch: list[str] = []
    size = 0
    for name, depth in products.depths.items():
        if batch and size + 8 * depth * depth > BYTES_AT_ONCE:
            yield batch
            batch, size = [], 0
        batch.append(name)
        size += 8 * depth * depth
    if batch:
        yield batch


def _pass(
    model: ir.Model,
    names: Sequence[str],
    products: Products,
    chunks: Sequence[Sequence[int]],
    options: Options | None,
) -> dict[str, Moments]:
    """Run all chunks once and add up the moments of some values."""
    compiled = compile_model(model, options=options)
    pages = list(range(-(-max(map(len, chunks)) // PAGE)))
    pools = cache_pools(compiled, len(pages))
    found = {
        name: Moments(
            np.zeros((d, d)), np.zeros(d), readers=list(products.readers[name]), source=name
        )
        for name in names
        for d in (products.depths[name],)
    }
    for chunk in chunks:
        seen = compiled.run({**step_inputs([Span(chunk, 0, pages, 1)]), **pools})
        for name, moments in found.items():
            x = np.asarray(seen[name], np.float64)
            moments.gram += x.T @ x
            moments.absolute += np.abs(x).sum(axis=0)
            moments.rows += len(x)
    return found
