"""Small steps that give every model the same outward form."""

from __future__ import annotations

import onnx_ir as ir

from whet.graph.edit import Names, constant_tensor, name_of

_SPLITTABLE = frozenset({"Concat", "Max", "Min", "Sum"})
_MOST_INPUTS = 64


def release_initializer_inputs(model: ir.Model) -> None:
    """Make inputs that have a default value constants; old models list all weights as inputs."""
    inputs = model.graph.inputs
    free = [v for v in inputs if v.name not in model.graph.initializers]
    if len(free) != len(inputs):
        kept = list(free)
        constants = list(model.graph.initializers.values())
        inputs.clear()
        inputs.extend(kept)
        for value in constants:
            if value.name not in model.graph.initializers:
                model.graph.initializers.add(value)


def lift_constants(model: ir.Model) -> None:
    """Turn ``Constant`` nodes of the main graph into initialisers; outputs get a copy of one."""
    graph = model.graph
    names = Names(model)
    for node in list(graph):
        if node.op_type != "Constant" or node.domain != "":
            continue
        output = node.outputs[0]
        tensor = constant_tensor(output)
        if tensor is None:
            continue
        name = names.fresh(f"{output.name}_const")
        value = ir.Value(
            name=name,
            type=ir.TensorType(tensor.dtype),
            shape=ir.Shape(tensor.shape.numpy()),
            const_value=tensor,
        )
        graph.register_initializer(value)
        if output.is_graph_output():
            node.op_type = "Identity"
            node.attributes.clear()
            node.resize_inputs(1)
            node.replace_input_with(0, value)
            continue
        output.replace_all_uses_with(value)
        graph.remove(node, safe=True)


def split_wide_nodes(model: ir.Model) -> None:
    """Turn sums, extremes and concatenations of very many inputs into trees of narrower ones.

    ``f(x0, …, xn) = f(f(x0, …, x63), f(x64, …), …)`` for ``Concat``, ``Max``, ``Min`` and ``Sum``.
    What is written for a node grows with its inputs, in depth too.
    """
    names = Names(model)
    for graph in model.graphs():
        for node in list(graph):
            splittable = node.domain == "" and node.op_type in _SPLITTABLE
            while splittable and len(node.inputs) > _MOST_INPUTS:
                _narrow(graph, node, names)


def _narrow(graph: ir.Graph | ir.Function, node: ir.Node, names: Names) -> None:
    parts = []
    for start in range(0, len(node.inputs), _MOST_INPUTS):
        part = ir.Value(name=names.fresh(f"{node.outputs[0].name}_part"))
        inner = ir.Node(
            "",
            node.op_type,
            node.inputs[start : start + _MOST_INPUTS],
            list(node.attributes.values()),
            outputs=[part],
        )
        graph.insert_before(node, inner)
        parts.append(part)
    node.resize_inputs(len(parts))
    for position, part in enumerate(parts):
        node.replace_input_with(position, part)


def name_nodes(model: ir.Model) -> None:
    """Give every node a unique name, from its operator if it has none."""
    taken: set[str] = set()
    counts: dict[str, int] = {}
    for node in model.graph.all_nodes():
        base = name_of(node)
        name, count = base, counts.get(base, 1)
        while name in taken:
            count += 1
            name = f"{base}_{count}"
        counts[base] = count
        taken.add(name)
        node.name = name
