"""Faults to be found: operators and passes that compute something slightly wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
import pytest
from msgspec.structs import replace

from whet.graph.edit import replace_nodes
from whet.kernel.expr import Const
from whet.ops.build import binary
from whet.ops.node import Op
from whet.ops.table import op_table
from whet.passes import pipeline


def plant_wrong_operator(patch: pytest.MonkeyPatch, op_type: str, factor: float = 1.05) -> None:
    """Let the compiler's kernels of one pointwise operator give ``factor`` times its result."""
    right = op_table()[("", op_type)]

    def lower(node: Any) -> Any:
        (tensor,) = right.lower(node)
        definition = tensor.definition
        assert definition is not None
        body = binary("mul", definition.body, Const(factor, tensor.dtype))
        tensor.definition = replace(definition, body=body)
        return [tensor]

    table: Mapping[tuple[str, str], Op] = {**op_table(), ("", op_type): Op(op_type, lower)}
    patch.setattr("whet.driver.op_table", lambda: table)


def plant_wrong_rewrite(
    patch: pytest.MonkeyPatch, name: str, spoil: Callable[[ir.Graph, ir.Node], None], number: int
) -> None:
    """Let the ``number``-th rewrite of a pass be wrong: ``spoil`` changes what it made."""
    entry = next(e for e in pipeline.REWRITES if e.name == name)
    seen: list[int] = []

    def wrong(old: Any, new: Any, old_values: Any, new_values: Any) -> None:
        graph = old[-1].graph
        replace_nodes(old, new, old_values, new_values)
        seen.append(1)
        if len(seen) == number:
            spoil(graph, new[-1])

    def run(model: ir.Model) -> int:
        seen.clear()
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(f"{entry.run.__module__}.replace_nodes", wrong)
            return entry.run(model)

    run.__name__ = name
    entries = tuple(replace(e, run=run) if e.name == name else e for e in pipeline.REWRITES)
    patch.setattr(pipeline, "REWRITES", entries)
