"""A model, or a part of one, as equations."""

from __future__ import annotations

from collections.abc import Container, Iterable

import msgspec

from whet.kernel.tensor import Tensor
from whet.lower.uses import sources


class Equations(msgspec.Struct):
    """A stretch of a model as equations.

    Attributes:
        tensors: all tensors, each after those it loads.
        inputs: the inputs, in order.
        outputs: the outputs with their names, in order.
    """

    tensors: list[Tensor]
    inputs: list[Tensor]
    outputs: list[tuple[str, Tensor]]


def collect_tensors(roots: Iterable[Tensor], known: Container[int]) -> list[Tensor]:
    """Return all tensors that the roots need, each after those it loads.

    Args:
        roots: where to start.
        known: identities of tensors that are left out, with what they alone need.
    """
    found: list[Tensor] = []
    seen: set[int] = set()
    stack: list[tuple[Tensor, bool]] = [(t, False) for t in reversed(list(roots))]
    while stack:
        tensor, ready = stack.pop()
        if ready:
            found.append(tensor)
            continue
        if id(tensor) in seen or id(tensor) in known:
            continue
        seen.add(id(tensor))
        stack.append((tensor, True))
        if tensor.definition is not None:
            stack.extend((s, False) for s in reversed(sources(tensor.definition)))
    return found
