"""What became of every node of a model: the launches that compute it, or that it is gone."""

from __future__ import annotations

import msgspec
import onnx

from whet.measure.accuracy.graphs import node_label
from whet.program.records import Program


class Fate(msgspec.Struct, frozen=True, kw_only=True):
    """One node.

    Attributes:
        node: its name, or its operator and first output.
        op: its operator type.
        launches: launches that compute it, alone or with others.
        kernels: their kernels.
        with_nodes: nodes that the same launches compute.
    """

    node: str
    op: str
    launches: tuple[int, ...]
    kernels: tuple[str, ...]
    with_nodes: tuple[str, ...]

    @property
    def gone(self) -> bool:
        """Whether no launch computes it: it was folded into constants, merged or not needed."""
        return not self.launches


def trace_nodes(model: onnx.ModelProto, program: Program) -> tuple[Fate, ...]:
    """Return the fate of every node of the main graph, in the order of the model."""
    by_node: dict[str, list[int]] = {}
    for index, launch in enumerate(program.launches):
        for name in launch.nodes:
            by_node.setdefault(name, []).append(index)
    fates = []
    for node in model.graph.node:
        label = node_label(node)
        indices = tuple(by_node.get(label, ()))
        launches = [program.launches[index] for index in indices]
        names = dict.fromkeys(name for launch in launches for name in launch.nodes)
        fates.append(
            Fate(
                node=label,
                op=node.op_type,
                launches=indices,
                kernels=tuple(dict.fromkeys(launch.kernel for launch in launches)),
                with_nodes=tuple(name for name in names if name != label),
            )
        )
    return tuple(fates)
