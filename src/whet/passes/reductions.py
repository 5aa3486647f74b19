"""Questions about reduction nodes that several passes ask."""

from __future__ import annotations

import onnx_ir as ir

from whet.graph.edit import ints, rank
from whet.graph.match import Miss


def reduces_last_axis(node: ir.Node) -> Miss | None:
    """Return why a reduction is not over exactly the last axis with dims kept, or ``None``."""
    keep = node.attributes.get("keepdims")
    if keep is not None and not keep.as_int():
        return Miss(f"{node.name} drops the axis")
    axes = ints(node.inputs[1]) if len(node.inputs) > 1 else None
    dims = rank(node.inputs[0])
    if axes == (-1,) or (dims is not None and axes == (dims - 1,)):
        return None
    return Miss(f"{node.name} reduces axes {axes}, need the last one")
