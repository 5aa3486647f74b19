"""``check``: what a model needs, what runs where and what it costs, without generating code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from whet.driver import Shapes, plan
from whet.errors import Problem, UnsupportedError
from whet.frontend.operators import is_known_name
from whet.frontend.read import read_proto
from whet.frontend.reading import Source
from whet.graph.edit import name_of
from whet.lower.build import STEPS
from whet.ops.table import op_table
from whet.options import Options
from whet.program.placement import Place, placements
from whet.program.plan import find_liveness, part_liveness, plan_memory
from whet.program.records import Program
from whet.runtime.cpu import available_cpus

ALL_NATIVE, WITH_CAVEATS, UNSUPPORTED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Report:
    """What ``check`` found.

    Attributes:
        problems: every node that cannot be compiled, and why; if any, nothing else is known.
        places: number of launches and steps by place: ``native``, ``control`` or ``host``.
        ops: kernel launches by the operators that they compute together, most frequent first.
        caveats: what is not plain native code with sizes known before a run.
        dims: dimensions that are known at run time only.
        flops: floating-point operations of one run, open dimensions taken as ``assumed``.
        moved_bytes: what all launches read and write.
        weight_bytes: packed constants.
        arena_bytes: memory of intermediate results and the threads' scratch.
        assumed: what open dimensions were taken as.
    """

    problems: tuple[Problem, ...]
    places: Mapping[str, int]
    ops: Mapping[str, int]
    caveats: tuple[str, ...] = ()
    dims: tuple[str, ...] = ()
    flops: int = 0
    moved_bytes: int = 0
    weight_bytes: int = 0
    arena_bytes: int = 0
    assumed: int = 1

    @property
    def verdict(self) -> int:
        """0 if all is native, 1 if it runs with caveats, 2 if something is not supported."""
        if self.problems:
            return UNSUPPORTED
        return WITH_CAVEATS if self.caveats else ALL_NATIVE

    def as_json(self) -> dict[str, Any]:
        """Return the report as a JSON value."""
        fields = asdict(self) | {"problems": [p._asdict() for p in self.problems]}
        return {"verdict": self.verdict, **fields}


def check(
    source: Source,
    *,
    shapes: Shapes | None = None,
    options: Options | None = None,
    assumed: int = 1,
) -> Report:
    """Report what a model needs and costs.

    Args:
        source: as ``compile`` takes it.
        shapes: as ``compile`` takes them.
        options: as ``compile`` takes them.
        assumed: what to take open dimensions as, for costs.

    Raises:
        WhetError: the model is damaged, or exceeds a limit.
    """
    try:
        assembled = plan(source, shapes=shapes, options=options)
    except UnsupportedError as error:
        problems = dict.fromkeys((*error.problems, *_without_lowering(source)))
        return Report(_one_each(problems), {}, {})
    return _report(assembled.program, assembled.weights.nbytes, assumed)


def _one_each(problems: Mapping[Problem, None]) -> tuple[Problem, ...]:
    """Return one problem a node, in order; the first found says most."""
    return tuple({p.node or p: p for p in reversed(list(problems))}.values())[::-1]


def _without_lowering(source: Source) -> list[Problem]:
    """Return the nodes whose operator is unknown or has no lowering, looking at names alone.

    What comes first ends a compilation: operators that nobody knows hide those without lowering.
    """
    proto = ir.to_proto(source) if isinstance(source, ir.Model) else read_proto(source)
    model = ir.from_proto(proto)
    table, own = op_table(), set(model.functions)
    found: list[Problem] = []
    for node in model.graph.all_nodes():
        if node.op_identifier() in own or node.op_type in STEPS:
            continue
        key = ("" if node.domain == "ai.onnx" else node.domain, node.op_type)
        if key not in table and not is_known_name(*key):
            found.append(Problem(name_of(node), node.op_type, "the operator has no lowering"))
    return found


def _report(program: Program, weight_bytes: int, assumed: int) -> Report:
    dims = dict.fromkeys(program.dims, assumed)
    placed = placements(program)
    host = sorted({op for p in placed if p.place == Place.HOST for op in p.ops})
    caveats = []
    if program.script is not None:
        caveats.append("a script runs the native code in parts: control flow or sizes from data")
    if host:
        caveats.append(f"the host computes what is no arithmetic: {', '.join(host)}")
    if program.dims:
        caveats.append(f"sizes are known at run time only: {', '.join(program.dims)}")
    return Report(
        problems=(),
        places=dict(Counter(p.place.value for p in placed)),
        ops=dict(Counter(" + ".join(launch.ops) for launch in program.launches).most_common()),
        caveats=tuple(caveats),
        dims=program.dims,
        flops=sum(x.flops.evaluate(dims) for x in program.launches),
        moved_bytes=sum(x.bytes.evaluate(dims) for x in program.launches),
        weight_bytes=weight_bytes,
        arena_bytes=_arena_bytes(program, dims),
        assumed=assumed,
    )


def _arena_bytes(program: Program, dims: Mapping[str, int]) -> int:
    """Return the memory of intermediate results; of the largest part, if there are several."""
    threads = program.threads or available_cpus()
    lives = [part_liveness(program, p) for p in program.parts] or [find_liveness(program)]
    return max(plan_memory(program, dims, live, threads=threads).arena_bytes for live in lives)
