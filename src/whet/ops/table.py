"""All operators, by domain and name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from whet.errors import CompileError
from whet.ops import activation, conv, matmul, movement, normalise, pointwise, pool, reduce, views
from whet.ops.node import Op

FAMILIES = (activation, conv, matmul, movement, normalise, pointwise, pool, reduce, views)


def op_table() -> Mapping[tuple[str, str], Op]:
    """Return every operator's lowering by ``(domain, name)``.

    Raises:
        CompileError: two families claim one operator.
    """
    table: dict[tuple[str, str], Op] = {}
    for family in FAMILIES:
        for op in family.OPS:
            if (op.domain, op.name) in table:
                raise CompileError(f"operator {op.name} is defined twice")
            table[(op.domain, op.name)] = op
    return MappingProxyType(table)
