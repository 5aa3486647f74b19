"""How often tensors are read, and which are needed at all."""

from __future__ import annotations

from collections import Counter

import msgspec

from whet.kernel.tensor import Tensor
from whet.lower.equations import Equations
from whet.lower.uses import sources


class Readers(msgspec.Struct):
    """How many tensors read each tensor, by identity, and which ones are outputs."""

    tensors: Counter[int]
    outputs: set[int]

    def single(self, tensor: Tensor) -> bool:
        """Tell whether one tensor alone reads a tensor, and no caller."""
        return self.tensors[id(tensor)] == 1 and id(tensor) not in self.outputs

    def count(self, tensor: Tensor) -> int:
        """Return how many tensors and callers read a tensor."""
        return self.tensors[id(tensor)] + (id(tensor) in self.outputs)


def count_readers(equations: Equations) -> Readers:
    """Return who is read how often."""
    tensors: Counter[int] = Counter()
    for tensor in equations.tensors:
        if tensor.definition is not None:
            tensors.update(id(s) for s in sources(tensor.definition))
    return Readers(tensors, {id(t) for _, t in equations.outputs})


def needed_equations(equations: Equations) -> Equations:
    """Return equations without tensors that nobody reads any more."""
    needed = {id(t) for _, t in equations.outputs}
    for tensor in reversed(equations.tensors):
        if id(tensor) in needed and tensor.definition is not None:
            needed |= {id(s) for s in sources(tensor.definition)}
    kept = [t for t in equations.tensors if id(t) in needed]
    return Equations(kept, equations.inputs, equations.outputs)


def merge_origins(source: Tensor, tensor: Tensor) -> None:
    """Let a tensor name the model's nodes of a source that it now computes itself."""
    tensor.nodes = tuple(dict.fromkeys((*source.nodes, *tensor.nodes)))
    tensor.ops = (*source.ops, *tensor.ops)
