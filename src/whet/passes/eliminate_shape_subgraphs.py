"""Shape arithmetic on partly known shapes: what is known becomes a constant.

Each small integer tensor is followed as a list of dims, known or symbolic, through ``Shape``,
``Gather``, ``Slice``, ``Concat``, ``Squeeze``, ``Unsqueeze``, ``Cast``, ``Add``, ``Sub`` and
``Mul``. Where all dims turn out to be integers the tensor becomes a constant; a ``Reshape`` or
``Expand`` to dims of which one is unknown gets a constant target with ``-1`` or ``0``.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from whet.graph.edit import Names, add_initializer, begin_rewrite, ints, rank, scalar
from whet.graph.match import Miss
from whet.passes.fold_constants import shape_slice

Dim = int | str | None
Dims = tuple[Dim, ...]
Known = dict[ir.Value, Dims]

_MAX_DIMS = 64


def eliminate_shape_subgraphs(model: ir.Model) -> int:
    """Fold shape arithmetic of the main graph as far as dims are known; return rewrites."""
    graph, names = model.graph, Names(model)
    known: Known = {}
    count = 0
    for node in list(graph):
        if node.domain != "":
            continue
        dims = _follow(node, known)
        if dims is not None:
            known[node.outputs[0]] = dims
            count += _to_constant(graph, node, dims, names)
        elif node.op_type == "Reshape":
            target = reshape_target(node, known)
            count += isinstance(target, tuple) and _set_target(graph, node, target, names)
    return count


def reshape_target(node: ir.Node, known: Known) -> tuple[int, ...] | Miss:
    """Return a constant target for a ``Reshape`` whose target is computed, or why there is none."""
    source, target = node.inputs[0], node.inputs[1]
    if source is None or target is None or ints(target) is not None:
        return Miss("the target is constant already")
    if target not in known:
        return Miss("the target is not made of dims")
    allowzero = node.attributes.get("allowzero")
    dims = known[target]
    if 0 in dims or (allowzero is not None and allowzero.as_int()):
        return Miss("a dim of the target is 0")
    own = _dims_of(source)
    made = [_copied(d, i, own) for i, d in enumerate(dims)]
    unknown = [i for i, d in enumerate(made) if d is None]
    if len(unknown) > 1 or (unknown and -1 in made):
        return Miss(f"{len(unknown)} dims of the target are unknown")
    return tuple(-1 if d is None else d for d in made)


def _copied(dim: Dim, index: int, own: Dims) -> int | None:
    if isinstance(dim, int):
        return dim
    same = dim is not None and index < len(own) and own[index] == dim
    return 0 if same else None


def _dims_of(value: ir.Value | None) -> Dims:
    if value is None or value.shape is None:
        return ()
    return tuple(d if isinstance(d, int) else d.value for d in value.shape)


def _set_target(graph: ir.Graph, node: ir.Node, target: tuple[int, ...], names: Names) -> bool:
    begin_rewrite(graph)
    name = names.fresh(f"{node.name}_target")
    node.replace_input_with(1, add_initializer(graph, np.array(target, np.int64), name))
    return True


def _to_constant(graph: ir.Graph, node: ir.Node, dims: Dims, names: Names) -> int:
    output = node.outputs[0]
    if output.is_graph_output() or not all(isinstance(d, int) for d in dims):
        return 0
    if output.dtype not in (ir.DataType.INT64, ir.DataType.INT32) or not output.uses():
        return 0
    array = np.array(dims, dtype=output.dtype.numpy())
    if rank(output) == 0:
        array = array.reshape(())
    elif rank(output) != 1:
        return 0
    begin_rewrite(graph)
    output.replace_all_uses_with(add_initializer(graph, array, names.fresh(f"{output.name}_dims")))
    return 1


def _follow(node: ir.Node, known: Known) -> Dims | None:
    rule = _RULES.get(node.op_type)
    if rule is None or len(node.outputs) != 1:
        return None
    dims = rule(node, known)
    return dims if dims is not None and len(dims) <= _MAX_DIMS else None


def _read(value: ir.Value | None, known: Known) -> Dims | None:
    if value is None:
        return None
    return known[value] if value in known else ints(value)


def _shape(node: ir.Node, known: Known) -> Dims | None:
    source = node.inputs[0]
    if source is None or source.shape is None:
        return None
    return _dims_of(source)[shape_slice(node, len(source.shape))]


def _gather(node: ir.Node, known: Known) -> Dims | None:
    dims, indices = _read(node.inputs[0], known), ints(node.inputs[1])
    if dims is None or indices is None or rank(node.inputs[0]) != 1:
        return None
    if any(not -len(dims) <= i < len(dims) for i in indices):
        return None
    return tuple(dims[i] for i in indices)


def _slice(node: ir.Node, known: Known) -> Dims | None:
    dims = _read(node.inputs[0], known)
    starts, ends = scalar(node.inputs[1]), scalar(node.inputs[2])
    step = scalar(node.inputs[4]) if len(node.inputs) > 4 else 1
    if dims is None or starts is None or ends is None or step is None or step <= 0:
        return None
    return dims[slice(int(starts), int(ends), int(step))]


def _concat(node: ir.Node, known: Known) -> Dims | None:
    parts = [_read(v, known) for v in node.inputs]
    if any(p is None or rank(v) != 1 for p, v in zip(parts, node.inputs, strict=True)):
        return None
    return tuple(d for p in parts if p is not None for d in p)


def _same(node: ir.Node, known: Known) -> Dims | None:
    dims = _read(node.inputs[0], known)
    fits = rank(node.outputs[0]) in (0, 1)
    return (
        dims if fits and node.outputs[0].dtype in (ir.DataType.INT64, ir.DataType.INT32) else None
    )


def _binary(operation: Callable[[int, int], int]) -> Callable[[ir.Node, Known], Dims | None]:
    def rule(node: ir.Node, known: Known) -> Dims | None:
        first, second = (_read(v, known) for v in node.inputs)
        if first is None or second is None:
            return None
        if len(first) != len(second):
            first, second = _widened(first, len(second)), _widened(second, len(first))
        if len(first) != len(second):
            return None
        pairs = zip(first, second, strict=True)
        return tuple(
            operation(a, b) if isinstance(a, int) and isinstance(b, int) else None for a, b in pairs
        )

    return rule


def _widened(dims: Dims, length: int) -> Dims:
    return dims * length if len(dims) == 1 else dims


_RULES: dict[str, Callable[[ir.Node, Known], Dims | None]] = {
    "Shape": _shape,
    "Gather": _gather,
    "Slice": _slice,
    "Concat": _concat,
    "Squeeze": _same,
    "Unsqueeze": _same,
    "Cast": _same,
    "Identity": _same,
    "Add": _binary(lambda a, b: a + b),
    "Sub": _binary(lambda a, b: a - b),
    "Mul": _binary(lambda a, b: a * b),
}
