"""Moving channels between the first and the last place."""

from __future__ import annotations

import onnx_ir as ir

from whet.frontend.translation import Translation


def channels_first(t: Translation, x: ir.Value) -> ir.Value:
    """Move the last dim behind the batch."""
    rank = t.rank(x)
    return t.transpose(x, 0, rank - 1, *range(1, rank - 1))


def channels_last(t: Translation, x: ir.Value) -> ir.Value:
    """Move the dim behind the batch to the end."""
    rank = t.rank(x)
    return t.transpose(x, 0, *range(2, rank), 1)
