"""Translation of operators of other domains to standard ones, before any pass sees the graph.

The tables in ``contrib/`` and ``ml/`` say what each operator becomes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from types import MappingProxyType

import onnx_ir as ir

from whet.errors import ShapeError, UnsupportedError
from whet.frontend.contrib.table import CONTRIB_DOMAIN, CONTRIB_OPS, MISPLACED_OPS
from whet.frontend.ml.table import ML_DOMAIN, ML_OPS
from whet.frontend.translation import Foreign, Translation, infer_node
from whet.graph.edit import Names
from whet.graph.infer import infer_leniently
from whet.graph.opset import WHET_DOMAIN

Key = tuple[str, str]


def foreign_operators() -> Mapping[Key, Foreign]:
    """Return every operator that has a translation, by domain and name."""
    table: dict[Key, Foreign] = {}
    families: tuple[tuple[str, Iterable[Foreign]], ...] = (
        (CONTRIB_DOMAIN, CONTRIB_OPS),
        ("", MISPLACED_OPS),
        (ML_DOMAIN, ML_OPS),
    )
    for domain, operators in families:
        for operator in operators:
            assert (domain, operator.name) not in table, f"{operator.name} is there twice"
            table[domain, operator.name] = operator
    return MappingProxyType(table)


def translate_model(model: ir.Model) -> int:
    """Replace every node that has a translation, in place.

    Returns:
        How many nodes were replaced.

    Raises:
        UnsupportedError: a form of an operator has no translation; all such nodes are listed.
    """
    table = foreign_operators()
    if not any(_key(node) in table for node in model.graph.all_nodes()):
        return 0
    infer_leniently(model)
    walk = _Walk(model, table)
    walk.graph(model.graph)
    if walk.problems:
        raise _all_of(walk.problems)
    for domain in {key[0] for key in table if key[0]}:
        model.opset_imports.pop(domain, None)
    if any(node.domain == WHET_DOMAIN for node in model.graph.all_nodes()):
        model.opset_imports[WHET_DOMAIN] = 1
    return walk.count


def _key(node: ir.Node) -> Key:
    return ("" if node.domain == "ai.onnx" else node.domain, node.op_type)


def _infer_if_unknown(node: ir.Node) -> None:
    """Infer what foreign operators in front of a standard node kept from being known."""
    if node.domain == WHET_DOMAIN:
        return
    if any(v.dtype is None for v in node.outputs):
        infer_node(node)
        return
    blocks = any(a.type == ir.AttributeType.GRAPH for a in node.attributes.values())
    if any(v.shape is None for v in node.outputs) and not blocks:
        with suppress(ShapeError):  # contradictions are reported later
            infer_node(node)


class _Walk:
    """One walk over a model, each graph's nodes in order."""

    def __init__(self, model: ir.Model, table: Mapping[Key, Foreign]) -> None:
        self.model = model
        self.table = table
        self.names = Names(model)
        self.count = 0
        self.problems: list[UnsupportedError] = []

    def graph(self, graph: ir.Graph) -> None:
        for node in list(graph):
            operator = self.table.get(_key(node))
            if operator is not None:
                self.translate(node, operator)
                continue
            before = self.count
            for attribute in node.attributes.values():
                if attribute.type == ir.AttributeType.GRAPH:
                    self.graph(attribute.as_graph())
            if self.count > before and not self.problems:
                infer_leniently(self.model)
            _infer_if_unknown(node)

    def translate(self, node: ir.Node, operator: Foreign) -> None:
        translation = Translation(node, self.names)
        try:
            result = operator.translate(translation)
            translation.finish(operator.ignored)
            values = (result,) if isinstance(result, ir.Value) else tuple(result)
            _replace(translation, values)
        except UnsupportedError as error:
            if self.problems and "is unknown" in error.message:
                return  # what is unknown here follows from an earlier problem
            self.problems.append(error)
            return
        self.count += 1


def _replace(translation: Translation, values: tuple[ir.Value | None, ...]) -> None:
    """Let all readers of the node's outputs read the new values, which take over the names."""
    node, named = translation.node, set[ir.Value]()
    padded = (*values, *(None for _ in node.outputs[len(values) :]))
    for position, output in enumerate(node.outputs):
        value = padded[position]
        if not translation.wants(position):
            continue
        if value is None:
            raise translation.refuse(f"output {position} is not supported")
        if value.producer() not in translation.made or value in named:
            value = translation.op("Identity", value)
        if value.shape is None and output.shape is not None:
            value.shape = output.shape.copy()
        name, output.name = output.name, None
        output.replace_all_uses_with(value, replace_graph_outputs=True)
        value.name = name
        named.add(value)
    assert node.graph is not None
    node.graph.remove(node, safe=True)


def _all_of(problems: list[UnsupportedError]) -> UnsupportedError:
    if len(problems) == 1:
        return problems[0]
    listed = "; ".join(f"{p.message} at {p.where}" for p in problems)
    return UnsupportedError(
        f"the model uses forms of operators that cannot be translated: {listed}",
        hint=problems[0].hint or "export with standard ONNX operators",
    )
