"""LoRA adapters beside the weights: each token of a step has one of several, or none.

``y = W x + B (m · (A x))``. The rows of ``A`` and the columns of ``B`` are those of all adapters,
side by side; ``m`` is 1 where they are of the token's own and 0 elsewhere. So requests with
different adapters run together, the weights may stay in blocks of few bits, and a token's bits do
not depend on its company. ``whet.llm.checkpoints.lora`` adds adapters to the
weights instead.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from whet.errors import UnsupportedError
from whet.llm.architecture import Architecture, Array, Part
from whet.llm.checkpoints.checkpoint import Checkpoint
from whet.llm.checkpoints.lora import Change, adapter_changes
from whet.llm.graphs.graph import FLOAT, GraphWriter

_ROLES = frozenset(["q", "k", "v", "o", "gate", "up", "down"])


@dataclass(frozen=True, slots=True)
class Adapters:
    """Several adapters of one model.

    Attributes:
        columns: which of all rows of ``A`` and columns of ``B`` are an adapter's, by its name.
        rank: how many there are in all.
        changes: of each adapter, what it changes by the tensor's name.
    """

    columns: Mapping[str, slice]
    rank: int
    changes: Mapping[str, Mapping[str, Change]]

    def changed(self, tensor: str) -> bool:
        """Tell whether an adapter changes a tensor."""
        return any(tensor in found for found in self.changes.values())

    def mask(self, counts: Sequence[int], names: Sequence[str]) -> Array:
        """Return which rows of ``A`` each token uses [token, rank].

        Args:
            counts: tokens of each sequence of a step.
            names: each sequence's adapter, "" for none.
        """
        found = np.zeros((len(names), self.rank), np.float32)
        for line, name in zip(found, names, strict=True):
            if name:
                line[self.columns[name]] = 1
        return np.repeat(found, counts, axis=0)

    def first(self, tensor: str, width: int) -> Array:
        """Return ``A`` of a tensor, of all adapters [rank, in]."""
        found = np.zeros((self.rank, width), np.float32)
        for name, changes in self.changes.items():
            if tensor in changes:
                found[self._own(name, changes[tensor])] = changes[tensor].first()
        return found

    def second(self, part: Part, height: int) -> Array:
        """Return ``B`` of a part of a tensor, of all adapters, with their factors [out, rank]."""
        rows = replace(part, transposed=False)
        found = np.zeros((height, self.rank), np.float32)
        for name, changes in self.changes.items():
            if part.name in changes:
                change = changes[part.name]
                found[:, self._own(name, change)] = rows.take(change.second())
        return found

    def _own(self, name: str, change: Change) -> slice:
        """Return where a change lies, whose rank may be less than the adapter's largest."""
        start = self.columns[name].start
        return slice(start, start + change.rank)


def open_adapters(
    folders: Mapping[str, str | os.PathLike[str]], checkpoint: Checkpoint, arch: Architecture
) -> Adapters | None:
    """Return the adapters of some names, ``None`` for none.

    Raises:
        ModelError: a file is missing or damaged, or an adapter is for another model.
        UnsupportedError: one is no plain LoRA, or changes what cannot differ from token to token.
    """
    if not folders:
        return None
    layers = [layer for layer in arch.layers if layer.experts is None]
    free = {part.name for layer in layers for role, part in layer.parts.items() if role in _ROLES}
    columns, changes, end = dict[str, slice](), dict[str, Mapping[str, Change]](), 0
    for name, folder in folders.items():
        changes[name] = found = adapter_changes(folder, checkpoint)
        odd = next((target for target in found if target not in free), None)
        if odd is not None:
            raise UnsupportedError(
                f"the adapter {name!r} changes {odd!r}, which all tokens share",
                where=str(folder),
                hint="add it to the weights with --adapter",
            )
        start, end = end, end + max(change.rank for change in found.values())
        columns[name] = slice(start, end)
    return Adapters(columns, end, changes)


@dataclass(frozen=True, slots=True)
class AdapterLinear:
    """Writes what adapters add to linear layers.

    Attributes:
        g: the graph.
        adapters: ``None`` for none.
        mask: which rows of ``A`` each token uses.
    """

    g: GraphWriter
    adapters: Adapters | None
    mask: ir.Value | None = None

    @staticmethod
    def begun(g: GraphWriter, adapters: Adapters | None) -> AdapterLinear:
        """Return a writer, whose graph has one more input if there are adapters."""
        if adapters is None:
            return AdapterLinear(g, None)
        mask = g.input("adapters", FLOAT, ["tokens", adapters.rank])
        return AdapterLinear(g, adapters, mask)

    def linear(
        self, x: ir.Value, part: Part, shape: tuple[int, int], name: str,
        plain: Callable[[str], ir.Value],
    ) -> ir.Value:  # fmt: skip
        """Write a layer with what adapters add to it.

        Args:
            x: rows of floats.
            part: the layer's weights.
            shape: their columns and depth.
            name: of the result.
            plain: writes the layer without adapters under a name.
        """
        adapters = self.adapters
        if adapters is None or self.mask is None or not adapters.changed(part.name):
            return plain(name)
        g, (height, width), rank = self.g, shape, adapters.rank
        y = plain(f"{name}.plain")
        key = f"{name}.lora"
        a = g.weight(f"{key}.a", (rank, width), lambda: adapters.first(part.name, width))
        b = g.weight(f"{key}.b", (height, rank), lambda: adapters.second(part, height))
        inner = g.op("Gemm", x, a, name=f"{key}.inner", transB=1)
        own = g.op("Mul", inner, self.mask, name=f"{key}.own")
        change = g.op("Gemm", own, b, name=f"{key}.change", transB=1)
        return g.op("Add", y, change, name=name)
