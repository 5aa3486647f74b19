"""Several products of one input with constant matrices become one wide product.

``[x·A, x·B, x·C] = split(x·[A B C])``, and the same with a bias for each: query, key and value of
attention, or gate and up projections. One wide product reads ``x`` once and fills the machine.

Products with weights in blocks become one that has all the weights, if their formats are equal and
attention reads the results: what reads a product element by element, as a gate does, is computed in
its epilogue, which is worth more.
"""

from __future__ import annotations

from concurrent.futures import Executor, ThreadPoolExecutor

import msgspec
import numpy as np
import onnx_ir as ir

from whet.graph.edit import (
    Names,
    add_initializer,
    add_tensor,
    begin_rewrite,
    constant_array,
    constant_tensor,
    inherit_sources,
    make_node,
    single_user,
    value_like,
)
from whet.graph.match import Miss
from whet.graph.opset import WHET_DOMAIN

Matrix = np.ndarray[tuple[int, int], np.dtype[np.generic]]

_LEAST_WIDTH = 64
"""Narrower products of unequal widths stay apart: the split would cost more than it saves."""

_READ_IN_PLACE = frozenset({"Attention", "PagedAttention", "RMSNormalization", "RotaryEmbedding"})
"""What reads columns of a wide result where they lie, and is part of no product's epilogue."""


class Product(msgspec.Struct, frozen=True):
    """A product with a constant matrix of rank 2, with its bias.

    Attributes:
        nodes: ``MatMul``, ``Gemm`` or ``BlockMatMul``, the first and the last perhaps with ``Add``.
        weight: the matrix, or its columns in blocks.
        transposed: whether the matrix is stored as width × depth.
        bias: one number per column, or ``None``.
        width: columns of the result.
    """

    nodes: tuple[ir.Node, ...]
    weight: ir.Value
    transposed: bool
    bias: ir.Value | None
    width: int

    @property
    def output(self) -> ir.Value:
        """The value that the rest of the graph reads."""
        return self.nodes[-1].outputs[0]


def merge_matmuls(model: ir.Model) -> int:
    """Merge products of the main graph that share their input; return how many were merged."""
    names = Names(model)
    count = 0
    beside = ThreadPoolExecutor(1)
    try:
        for value in _values(model.graph):
            for group in mergeable(value, model.graph):
                _merge(model.graph, value, group, names, beside)
                count += len(group)
    finally:
        beside.shutdown(wait=False)  # it still does what it was given
    return count


def mergeable(value: ir.Value, graph: ir.Graph) -> list[list[Product]]:
    """Return groups of products of ``value`` in ``graph`` that one product can replace."""
    groups: dict[tuple[object, ...], list[Product]] = {}
    for node in dict.fromkeys(use.node for use in value.uses()):
        product = as_product(node, value)
        if isinstance(product, Product) and node.graph is graph:
            first = product.nodes[0]
            form = first.attributes["format"].value if "format" in first.attributes else ""
            key = (first.op_type, form, product.bias is None, product.weight.dtype)
            groups.setdefault(key, []).append(product)
    return [g for g in groups.values() if len(g) > 1 and _fits(g)]


def as_product(node: ir.Node, value: ir.Value) -> Product | Miss:
    """Return the product that ``node`` starts, or why it cannot be merged."""
    if (node.domain, node.op_type) == (WHET_DOMAIN, "BlockMatMul"):
        return _as_blocks(node, value)
    if node.op_type not in ("MatMul", "Gemm") or node.domain != "":
        return Miss(f"{node.op_type} is not a product")
    if node.inputs[0] is not value or node.inputs[1] is value:
        return Miss("the input is not the left factor")
    weight = node.inputs[1]
    tensor = constant_tensor(weight)
    if weight is None or tensor is None or len(tensor.shape) != 2:
        return Miss("the right factor is not a constant matrix")
    rows, columns = tensor.shape.numpy()
    if node.op_type == "Gemm":
        return _as_gemm(node, weight, (rows, columns))
    return _with_bias(node, weight, columns, transposed=False)


def _with_bias(node: ir.Node, weight: ir.Value, width: int, *, transposed: bool) -> Product:
    user = single_user(node.outputs[0])
    bias = _bias_of(user, node.outputs[0], width)
    if bias is None or user is None:
        return Product((node,), weight, transposed, None, width)
    return Product((node, user), weight, transposed, bias, width)


def _as_blocks(node: ir.Node, value: ir.Value) -> Product | Miss:
    if len(node.inputs) != 2 or node.inputs[0] is not value:
        return Miss("it has several weights already")
    weight = node.inputs[1]
    tensor = constant_tensor(weight)
    if weight is None or tensor is None or len(tensor.shape) != 2:
        return Miss("the right factor is not a constant matrix")
    product = _with_bias(node, weight, tensor.shape.numpy()[0], transposed=True)
    if not _is_read_in_place(product.output):
        return Miss("what reads it is computed in its epilogue")
    return product


def _is_read_in_place(value: ir.Value) -> bool:
    """Whether attention, its rotation or a norm in front of it are all that reads a value."""
    users = [use.node for use in value.uses()]
    return not value.is_graph_output() and all(
        _is_read_in_place(user.outputs[0])
        if user.op_type == "Reshape"
        else user.op_type in _READ_IN_PLACE
        for user in users
    )


def _as_gemm(node: ir.Node, weight: ir.Value, shape: tuple[int, int]) -> Product | Miss:
    numbers = {k: a.value for k, a in node.attributes.items()}
    if numbers.get("transA", 0) or numbers.get("alpha", 1.0) != 1 or numbers.get("beta", 1.0) != 1:
        return Miss("Gemm transposes its input or scales")
    transposed = bool(numbers.get("transB", 0))
    width = shape[0] if transposed else shape[1]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    tensor = constant_tensor(bias)
    if bias is not None and (tensor is None or tuple(tensor.shape.numpy()) != (width,)):
        return Miss("the bias is not one constant per column")
    return Product((node,), weight, transposed, bias, width)


def _bias_of(user: ir.Node | None, own: ir.Value, width: int) -> ir.Value | None:
    if user is None or user.op_type != "Add" or user.domain != "":
        return None
    other = user.inputs[1] if user.inputs[0] is own else user.inputs[0]
    tensor = constant_tensor(other)
    fits = tensor is not None and tuple(tensor.shape.numpy()) == (width,)
    return other if fits else None


def _fits(group: list[Product]) -> bool:
    widths = {p.width for p in group}
    blocks = group[0].nodes[0].op_type == "BlockMatMul"
    return blocks or len(widths) == 1 or min(widths) >= _LEAST_WIDTH


def _values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *(v for node in graph for v in node.outputs)]


def _merge(
    graph: ir.Graph, value: ir.Value, group: list[Product], names: Names, beside: Executor
) -> None:
    begin_rewrite(graph)
    order = {node: i for i, node in enumerate(graph)}
    group = sorted(group, key=lambda p: order[p.nodes[0]])
    stem = group[0].nodes[0].name or "merged"
    first = group[0].nodes[0]
    inputs = [value, *_weights(graph, group, names.fresh(f"{stem}_weights"), beside)]
    product = _wide_value(group, names.fresh(f"{stem}_wide"))
    bias = _wide_bias(graph, group, names.fresh(f"{stem}_bias"))
    takes_bias = bias is not None and first.op_type == "Gemm"
    if bias is not None and takes_bias:
        inputs.append(bias)
    made = [_wide_node(first, inputs, product, names.fresh(f"{stem}_merged"))]
    if bias is not None and not takes_bias:
        biased = _wide_value(group, names.fresh(f"{stem}_biased"))
        name = names.fresh(f"{stem}_add")
        made.append(make_node("Add", [product, bias], outputs=[biased], name=name))
        product = biased
    sizes = np.array([p.width for p in group], np.int64)
    parts = [value_like(p.output, names.fresh(f"{p.output.name}_part")) for p in group]
    split = [product, add_initializer(graph, sizes, names.fresh(f"{stem}_widths"))]
    name = names.fresh(f"{stem}_split")
    made.append(make_node("Split", split, {"axis": -1}, outputs=parts, name=name))
    _place(graph, group, made, parts)


def _place(
    graph: ir.Graph, group: list[Product], made: list[ir.Node], parts: list[ir.Value]
) -> None:
    old = [node for p in group for node in p.nodes]
    for node in made:
        inherit_sources(node, old)
    outputs = [p.output for p in group]
    ir.convenience.replace_nodes_and_values(graph, group[0].nodes[0], old, made, outputs, parts)


def _weights(graph: ir.Graph, group: list[Product], name: str, beside: Executor) -> list[ir.Value]:
    """Return the weights of a wide product; those in blocks are put together when packed.

    Matrices are put together on another thread: the next passes look at their shapes alone.
    """
    if group[0].nodes[0].op_type == "BlockMatMul":
        return [p.weight for p in group]
    matrices = [_matrix(p) for p in group]
    joined = beside.submit(_joined, matrices)
    dtype = group[0].weight.dtype
    assert dtype is not None, "weights have a type"
    shape = ir.Shape((len(matrices[0]), sum(p.width for p in group)))
    tensor = ir.LazyTensor(lambda: ir.Tensor(joined.result(), dtype), dtype, shape, name=name)
    return [add_tensor(graph, tensor, name)]


def _joined(matrices: list[Matrix]) -> Matrix:
    return np.ascontiguousarray(np.concatenate(matrices, axis=1))


def _wide_node(first: ir.Node, inputs: list[ir.Value], product: ir.Value, name: str) -> ir.Node:
    kept = {k: a.value for k, a in first.attributes.items() if k == "format"}
    return make_node(first.op_type, inputs, kept, outputs=[product], name=name, domain=first.domain)


def _matrix(product: Product) -> Matrix:
    array = constant_array(product.weight)
    return array.T if product.transposed else array


def _wide_bias(graph: ir.Graph, group: list[Product], name: str) -> ir.Value | None:
    if group[0].bias is None:
        return None
    return add_initializer(graph, np.concatenate([constant_array(p.bias) for p in group]), name)


def _wide_value(group: list[Product], name: str) -> ir.Value:
    shape = group[0].output.shape
    width = sum(p.width for p in group)
    wide = None if shape is None else ir.Shape([*list(shape)[:-1], width])
    return value_like(group[0].output, name, wide)
