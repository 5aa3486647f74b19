"""Pools that round up and whose last window would lie outside: ``onnx`` counts it in old opsets.

With n elements, padding a and b, windows of extent k at stride s, ``ceil((n + a + b - k) / s) + 1``
windows are one too many where the last begins at ``n + a`` or behind. Opset 22 says so, and all
runtimes compute that; shape inference of older opsets does not, so that what it says of the values
behind such a pool, in the file or while it is upgraded, contradicts what it says later.
"""

from __future__ import annotations

import onnx_ir as ir

_POOLS = frozenset({"AveragePool", "LpPool", "MaxPool"})


def forget_wrong_shapes(graph: ir.Graph) -> int:
    """Forget the shapes behind pools that drop a window; they are inferred again.

    Returns:
        How many values are concerned.
    """
    behind: set[ir.Value] = set()
    for node in graph:
        drops = node.domain == "" and node.op_type in _POOLS and _drops_window(node)
        if drops or any(value in behind for value in node.inputs if value is not None):
            behind.update(node.outputs)
            for value in node.outputs if node.domain == "" else ():
                value.shape = None
    return len(behind)


def _drops_window(node: ir.Node) -> bool:
    x = node.inputs[0] if node.inputs else None
    if x is None or x.shape is None or not node.attributes.get_int("ceil_mode", 0):
        return False
    sizes = x.shape[2:]
    rank, ones = len(sizes), [1] * len(sizes)
    kernel, strides, dilations, pads = (
        list(node.attributes.get_ints(name, default))
        for name, default in (
            ("kernel_shape", ones),
            ("strides", ones),
            ("dilations", ones),
            ("pads", [0] * 2 * rank),
        )
    )
    if [len(a) for a in (kernel, strides, dilations, pads)] != [rank] * 3 + [2 * rank]:
        return False
    sides = zip(sizes, kernel, strides, dilations, pads[:rank], pads[rank:], strict=True)
    return any(
        isinstance(n, int) and s > 0 and -(-(n + a + b - (k - 1) * d - 1) // s) * s >= n + a
        for n, k, s, d, a, b in sides
    )
