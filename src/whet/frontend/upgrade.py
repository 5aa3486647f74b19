"""Rewriting of old opsets to the canonical one, by an explicit adapter for each changed form.

Only operators whose form or meaning changed have an adapter; for all others the newest schema
accepts what the old one wrote. The tables in ``adapters_*.py`` say below which opset each
adapter applies.
"""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from whet.errors import ModelError
from whet.frontend.adapters_axes import AXES_ADAPTERS
from whet.frontend.adapters_first import FIRST_ADAPTERS
from whet.frontend.adapters_forms import FORM_ADAPTERS
from whet.frontend.adapters_legacy import LEGACY_ADAPTERS
from whet.frontend.adapters_resize import RESIZE_ADAPTERS
from whet.frontend.adapting import INFERRED_FROM, Adapter, Rewriter
from whet.frontend.dropped_windows import forget_wrong_shapes
from whet.graph.edit import Names, name_of
from whet.graph.infer import infer_leniently, infer_node
from whet.graph.opset import ONNX_DOMAINS, canonical_opset

_NEEDS_RANKS_BELOW = 21
"""Adapters of operators older than this may ask for shapes."""


def adapters() -> dict[str, tuple[Adapter, ...]]:
    """Return the adapters by operator, in the order in which they apply."""
    table: dict[str, list[Adapter]] = {}
    families = (FIRST_ADAPTERS, LEGACY_ADAPTERS, AXES_ADAPTERS, FORM_ADAPTERS, RESIZE_ADAPTERS)
    for adapter in (a for family in families for a in family):
        for op_type in adapter.op_types:
            table.setdefault(op_type, []).append(adapter)
    return {op: tuple(sorted(rows, key=lambda a: a.below)) for op, rows in table.items()}


def upgrade_model(model: ir.Model) -> int:
    """Bring the model and its functions to the canonical opset, in place.

    Returns:
        How many nodes were rewritten.

    Raises:
        ModelError: an old form has no equivalent; the node and operator are named.
    """
    table = adapters()
    _spell_domain(model)
    bodies = [(model.graph, model.opset_imports)]
    bodies += [(f.graph, f.opset_imports) for f in model.functions.values()]
    if any(_needs_ranks(graph, v.get("", canonical_opset()), table) for graph, v in bodies):
        infer_leniently(model)
    names = Names(model)
    count = 0
    for graph, imports in bodies:
        version = imports.get("", canonical_opset())
        count += _upgrade_graph(graph, version, table, names)
        imports[""] = canonical_opset()
    forget_wrong_shapes(model.graph)
    return count


def _needs_ranks(graph: ir.Graph, version: int, table: dict[str, tuple[Adapter, ...]]) -> bool:
    """Whether an adapter that may ask for shapes applies to a node."""
    if version < INFERRED_FROM:
        return True
    return version < _NEEDS_RANKS_BELOW and any(
        version < adapter.below
        for node in graph.all_nodes()
        for adapter in table.get(node.op_type, ())
    )


def _spell_domain(model: ir.Model) -> None:
    imports = [model.opset_imports, *(f.opset_imports for f in model.functions.values())]
    for table in imports:
        if "ai.onnx" in table:
            table[""] = table.pop("ai.onnx")
    for node in _all_nodes(model):
        if node.domain in ONNX_DOMAINS:
            node.domain = ""


def _all_nodes(model: ir.Model) -> Iterable[ir.Node]:
    yield from model.graph.all_nodes()
    for function in model.functions.values():
        yield from function.all_nodes()


def _upgrade_graph(
    graph: ir.Graph, version: int, table: dict[str, tuple[Adapter, ...]], names: Names
) -> int:
    count = 0
    for body in (graph, *graph.subgraphs()):
        for node in list(body):
            node.version = None
            if node.domain == "":
                count += _upgrade_node(node, version, table, Rewriter(body, names, version))
                if version < INFERRED_FROM and node.graph is not None:
                    infer_node(node)
    return count


def _upgrade_node(
    node: ir.Node, version: int, table: dict[str, tuple[Adapter, ...]], rewriter: Rewriter
) -> int:
    count = 0
    for adapter in table.get(node.op_type, ()):
        if version >= adapter.below:
            continue
        where = f"node {name_of(node)!r} ({node.op_type}, opset {version})"
        fault = adapter.apply(node, rewriter)
        if fault is not None:
            raise ModelError(fault, where=where, hint="export the model with a newer opset")
        count += 1
        if node.graph is None:
            break
    return count
