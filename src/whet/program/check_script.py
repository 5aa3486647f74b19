"""Checks that a script refers only to slots, parts and dimensions that exist."""

from __future__ import annotations

from collections.abc import Iterator

from whet.dtypes import DTYPES
from whet.index import Dim, Poly
from whet.program.records import Part, Program
from whet.program.script import (
    ABSENT,
    Block,
    Call,
    Expect,
    If,
    Loop,
    Pick,
    Read,
    Require,
    Run,
    Script,
    Step,
    all_blocks,
    inner_blocks,
)

_MOST_SLOTS = 1 << 24
_MOST_DEPTH = 64


def is_held_type(kind: str) -> bool:
    """Tell whether a type is that of a value that a script keeps, such as ``sequence(float32)``."""
    inner = kind
    for _ in range(_MOST_DEPTH):
        outer, bracket, rest = inner.partition("(")
        if not bracket or outer not in ("sequence", "optional") or not rest.endswith(")"):
            break
        inner = rest[:-1]
    return inner in ("string", "?") or (inner != kind and inner in DTYPES)


def script_problem(program: Program, weights: int) -> str:
    """Return what is wrong with the parts and the script of a program, or an empty text."""
    script = program.script
    if script is None:
        return _variant_problem(program) if program.parts else ""
    if not 0 <= script.slots <= _MOST_SLOTS:
        return f"a script with {script.slots} slots"
    if _depth(script.main) > _MOST_DEPTH:
        return "a script that is nested too deep"
    return (
        _part_problem(program)
        or _constant_problem(script, weights)
        or _main_problem(program, script)
        or _step_problems(program, script)
    )


def _depth(block: Block) -> int:
    deepest, todo = 0, [(block, 1)]
    while todo and deepest <= _MOST_DEPTH:
        current, depth = todo.pop()
        deepest = max(deepest, depth)
        todo.extend((b, depth + 1) for step in current.steps for b in inner_blocks(step))
    return deepest


def _variant_problem(program: Program) -> str:
    """Return what is wrong with parts that each do all of the work."""
    for number, part in enumerate(program.parts):
        if len(part.inputs) != len(program.inputs) or len(part.outputs) != len(program.outputs):
            return f"part {number} does not take and give what the model does"
        if part.output_dtypes != tuple(spec.dtype for spec in program.outputs):
            return f"part {number} gives other types than the model"
        ranks = [len(shape) for shape in part.when]
        if ranks != ([len(axes) for axes in program.input_shapes] if number else []):
            return f"part {number} is for shapes that the model does not have"
    return _part_problem(program)


def _part_problem(program: Program) -> str:
    begin = 0
    for number, part in enumerate(program.parts):
        if not begin == part.begin <= part.end <= len(program.launches):
            return f"part {number} does not follow the one before"
        begin = part.end
        problem = _port_problem(program, part)
        if problem:
            return f"part {number} {problem}"
        if part.end > part.begin and not program.launches[part.begin].waits:
            return f"part {number} does not start with a barrier"
    return "" if begin == len(program.launches) else "launches that belong to no part"


def _port_problem(program: Program, part: Part) -> str:
    ports = [p for p in (*part.inputs, *part.outputs) if p >= 0]
    if not all(-1 <= p < len(program.buffers) for p in (*part.inputs, *part.outputs)):
        return "uses a buffer that does not exist"
    if -1 in part.outputs or len(set(ports)) != len(ports):
        return "uses no buffer for an output, or one twice"
    if not len(part.output_shapes) == len(part.outputs) == len(part.output_dtypes):
        return "has outputs without shape or type"
    if not set(part.output_dtypes) <= set(DTYPES) or not set(part.dims) <= set(program.dims):
        return "has an output of unknown type, or an unknown dimension"
    return ""


def _constant_problem(script: Script, weights: int) -> str:
    for row in script.constants:
        if row.dtype not in DTYPES or not 0 <= row.slot < script.slots:
            return "a constant of unknown type or slot"
        size = DTYPES[row.dtype].size
        for extent in row.shape:
            if not 0 <= extent <= weights:
                return "a constant outside the weights"
            size *= extent
        if row.offset % 64 or not 0 <= row.offset <= weights - size:
            return "a constant outside the weights"
    return ""


def _main_problem(program: Program, script: Script) -> str:
    main = script.main
    if len(main.inputs) != len(program.inputs) or len(main.outputs) != len(program.outputs):
        return "the script has other inputs or outputs than the model"
    return ""


def _step_problems(program: Program, script: Script) -> str:
    names = set(program.dims)
    for block in all_blocks(script.main):
        slots = [*block.inputs, *block.outputs]
        for step in block.steps:
            slots += [s for s in _slots(step) if s != ABSENT]
            if not _dims(step) <= names:
                return f"a step uses a dimension that does not exist: {sorted(_dims(step) - names)}"
            problem = _form_problem(program, step)
            if problem:
                return problem
        if not all(0 <= slot < script.slots for slot in slots):
            return "a step uses a slot that does not exist"
    return ""


def _form_problem(program: Program, step: Step) -> str:
    if isinstance(step, Run):
        if not 0 <= step.part < len(program.parts):
            return f"the script runs part {step.part}, which does not exist"
        part = program.parts[step.part]
        if len(step.inputs) != len(part.inputs) or len(step.outputs) != len(part.outputs):
            return f"the script runs part {step.part} with other values than it takes"
    if isinstance(step, If):
        counts = {len(b.outputs) for b in (step.then, step.otherwise)} | {len(step.outputs)}
        return "" if len(counts) == 1 else "branches with different outputs"
    if isinstance(step, Pick):
        return _pick_problem(step)
    return _loop_problem(step) if isinstance(step, Loop) else ""


def _loop_problem(step: Loop) -> str:
    own = 0 if step.slices else 2
    carried = len(step.carried)
    takes = own + carried + len(step.slices)
    gives = (1 if own else 0) + carried + len(step.collects)
    if len(step.body.inputs) != takes or len(step.body.outputs) != gives:
        return "a loop whose body takes or gives other values"
    return "" if len(step.outputs) == carried else "a loop that does not give what it carries"


def _pick_problem(step: Pick) -> str:
    if any(len(case.when) != len(step.inputs) for case in step.cases):
        return "a choice for other values than it looks at"
    sizes = {(len(b.inputs), len(b.outputs)) for b in inner_blocks(step)}
    wanted = {(len(step.inputs), len(step.outputs))}
    return "" if sizes == wanted else "a choice of blocks that take or give other values"


def _slots(step: Step) -> Iterator[int]:
    if isinstance(step, Run | Call | Pick):
        yield from (*step.inputs, *step.outputs)
    elif isinstance(step, Expect | Read):
        yield step.slot
    elif isinstance(step, If):
        yield from (step.condition, *step.outputs)
    elif isinstance(step, Loop):
        yield from (step.trips, step.condition, *step.carried, *step.outputs)
        yield from (s.slot for s in step.slices)
        yield from (c.slot for c in step.collects)


def _dims(step: Step) -> set[str]:
    polys: list[Poly] = []
    names: set[str] = set()
    if isinstance(step, Expect):
        polys, names = list(step.shape), set(step.binds)
    elif isinstance(step, Read):
        names = set(step.dims)
    elif isinstance(step, Require):
        polys = [step.left, step.right]
    elif isinstance(step, Loop):
        polys = [p for c in step.collects for p in c.shape]
    return names | {a.name for p in polys for a in p.atoms if isinstance(a, Dim)}
