"""Cutting a model into native parts, and the script that runs them.

Every tensor gets a level. What a block is given has level 0; a tensor is of the highest level of
what it loads and of the dimensions that it mentions. Values read as sizes, and the inputs of
branches, loops and calls, have to be finished: what depends on them is of the next level. The
tensors of one level become one part, which runs after the events of that level.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from whet.kernel.expr import Expr, Load
from whet.kernel.tensor import Definition, Tensor
from whet.lower.equations import Equations, collect_tensors
from whet.lower.outline import Control, Event, Expected, Item, Outline, dims_in, dims_of
from whet.lower.uses import loads, rewrite_definition, sources
from whet.ops.late import Agreement, ValueRead
from whet.program.script import (
    ABSENT,
    Block,
    Call,
    Case,
    Collect,
    Expect,
    If,
    Loop,
    Pick,
    Read,
    Require,
    Run,
    Slice,
    Step,
)

Copier = Callable[[Tensor], Tensor]


class PartEquations(msgspec.Struct):
    """One part before it is lowered.

    Attributes:
        equations: its tensors; inputs and outputs in the order of the step that runs it.
        dims: names of the dimensions that it mentions.
    """

    equations: Equations
    dims: tuple[str, ...]


class Cut(msgspec.Struct):
    """A model cut into parts.

    Attributes:
        parts: the native parts.
        main: the script.
        slots: how many slots there are.
        constants: constants that the script itself reads, with their slots.
    """

    parts: list[PartEquations]
    main: Block
    slots: int
    constants: list[tuple[int, Tensor]]


def cut_outline(outline: Outline) -> Cut:
    """Cut a model."""
    cutter = _Cutter()
    main = cutter.block(outline)
    return Cut(cutter.parts, main, cutter.count, cutter.constants)


class _Levels(msgspec.Struct):
    """Levels of one block: when a tensor is computed, and from when on a value is there."""

    computed: dict[int, int] = msgspec.field(default_factory=dict)
    there: dict[int, int] = msgspec.field(default_factory=dict)
    dims: dict[str, int] = msgspec.field(default_factory=dict)
    tensors: list[Tensor] = msgspec.field(default_factory=list)

    def compute(self, roots: Iterable[Item | None]) -> None:
        """Give levels to tensors and all that they load."""
        wanted = [t for t in roots if isinstance(t, Tensor)]
        for tensor in collect_tensors(wanted, known=self.computed):
            if tensor.definition is None:
                continue
            below = [self.dims.get(name, 0) for name in dims_in(tensor)]
            for source in sources(tensor.definition):
                native = source.definition is not None
                table = self.computed if native else self.there
                below.append(table.get(id(source), 0))
            self.computed[id(tensor)] = max(below, default=0)
            self.tensors.append(tensor)

    def ready(self, item: Item) -> int:
        """Return the level from which on a value is there."""
        if id(item) in self.computed:
            return self.computed[id(item)] + 1
        return self.there.get(id(item), 0)


class _Cutter(msgspec.Struct):
    parts: list[PartEquations] = msgspec.field(default_factory=list)
    constants: list[tuple[int, Tensor]] = msgspec.field(default_factory=list)
    count: int = 0
    _slots: dict[int, int] = msgspec.field(default_factory=dict)
    _kept: list[Item] = msgspec.field(default_factory=list)

    def slot(self, item: Item | None) -> int:
        """Return the slot of a value, a new one at first sight."""
        if item is None:
            return ABSENT
        known = self._slots.get(id(item))
        if known is not None:
            return known
        self._slots[id(item)] = slot = self.count
        self._kept.append(item)
        self.count += 1
        if isinstance(item, Tensor) and item.value is not None:
            self.constants.append((slot, item))
        return slot

    def block(self, outline: Outline) -> Block:
        """Cut one block."""
        levels = _Levels()
        placed: list[tuple[int, Event]] = []
        for event in outline.events:
            placed.append((self._place(event, levels), event))
        results = [item for _, item in outline.outputs]
        levels.compute(results)
        wanted = {id(t) for t in results if isinstance(t, Tensor)}
        for event in outline.events:
            wanted |= {id(t) for t in _inputs(event) if isinstance(t, Tensor)}
        sink_views(levels, wanted)
        inputs = tuple(self.slot(item) for item in outline.inputs)
        steps: list[Step] = []
        top = max([0, *levels.computed.values(), *(level for level, _ in placed)])
        for level in range(top + 1):
            steps += [self._step(event) for at, event in placed if at == level]
            steps += self._run(level, levels, wanted)
        return Block(inputs, tuple(steps), tuple(self.slot(item) for item in results))

    def _place(self, event: Event, levels: _Levels) -> int:
        """Return the level of an event, and note what it makes."""
        inputs = _inputs(event)
        levels.compute(inputs)
        level = max((levels.ready(i) for i in inputs if i is not None), default=0)
        level = max([level, *(levels.dims.get(name, 0) for name in _dims_used(event))])
        if isinstance(event, Expected):
            level = max(level, levels.ready(event.tensor))
            levels.dims.update(dict.fromkeys(event.binds, level))
        elif isinstance(event, ValueRead):
            levels.dims.update(dict.fromkeys(event.dims, level))
        elif isinstance(event, Control):
            levels.there.update({id(o): level for o in event.outputs if o is not None})
        return level

    def _step(self, event: Event) -> Step:
        if isinstance(event, ValueRead):
            return Read(self.slot(event.tensor), event.dims, event.where)
        if isinstance(event, Agreement):
            return Require(event.left, event.right, event.where)
        if isinstance(event, Expected):
            tensor = event.tensor
            slot = self.slot(tensor)
            return Expect(slot, tensor.dtype, tensor.shape, event.binds, event.where)
        for outer, inner in event.captured:
            self._slots[id(inner)] = self.slot(outer)
            self._kept.append(inner)
        return self._control(event)

    def _control(self, event: Control) -> Step:
        inputs = tuple(self.slot(item) for item in event.inputs)
        outputs = tuple(self.slot(item) for item in event.outputs)
        if event.kind == "if":
            then, otherwise = (self.block(b) for b in event.blocks)
            return If(inputs[0], then, otherwise, outputs, event.where)
        if event.kind == "pick":
            first, *others = (self.block(b) for b in event.blocks)
            cases = tuple(Case(w, b) for w, b in zip(event.when, others, strict=True))
            return Pick(inputs, cases, first, outputs)
        if event.kind == "call":
            return Call(event.function, inputs, outputs, event.settings, event.where)
        carried = len(inputs) - 2 - len(event.slices)
        sliced = zip(inputs[2 + carried :], event.slices, strict=True)
        collected = zip(event.outputs[carried:], outputs[carried:], event.collected, strict=True)
        return Loop(
            trips=inputs[0],
            condition=inputs[1],
            carried=inputs[2 : 2 + carried],
            slices=tuple(Slice(slot, s.axis, s.backwards) for slot, s in sliced),
            body=self.block(event.blocks[0]),
            outputs=outputs[:carried],
            collects=tuple(
                _collect(item, slot, s.axis, backwards=s.backwards) for item, slot, s in collected
            ),
            where=event.where,
        )

    def _run(self, level: int, levels: _Levels, wanted: set[int]) -> list[Step]:
        """Return the step that runs the tensors of a level; none if there are none."""
        own = [t for t in levels.tensors if levels.computed[id(t)] == level]
        crossing = {
            id(s)
            for t in levels.tensors
            if levels.computed[id(t)] != level and t.definition is not None
            for s in sources(t.definition)
            if s.known is None
        }
        results = [t for t in own if id(t) in wanted or id(t) in crossing]
        if not results:
            return []
        equations, outside = part_of(own, results)
        names = {name for t in equations.tensors for name in dims_in(t)}
        names |= {name for t in equations.inputs for name in dims_of(t.shape)}
        self.parts.append(PartEquations(equations, tuple(sorted(names))))
        reads = tuple(self.slot(t) for t in outside)
        writes = tuple(self.slot(t) for t in results)
        return [Run(len(self.parts) - 1, reads, writes)]


def _inputs(event: Event) -> list[Item | None]:
    if isinstance(event, ValueRead):
        return [event.tensor]
    if isinstance(event, Control):
        return [*event.inputs, *(outer for outer, _ in event.captured)]
    return []


def _dims_used(event: Event) -> set[str]:
    """Return the names of dimensions that must have values before an event."""
    if isinstance(event, Agreement):
        return dims_of((event.left, event.right))
    if isinstance(event, Expected):
        return dims_of(event.tensor.shape) - set(event.binds)
    if isinstance(event, Control):
        names: set[str] = set()
        for block in event.blocks:
            names |= free_dims(block)
        return names
    return set()


def free_dims(outline: Outline) -> set[str]:
    """Return the dimensions that a block mentions; those that it binds itself do no harm."""
    names: set[str] = set()
    roots: list[Item | None] = [item for _, item in outline.outputs]
    for event in outline.events:
        roots += _inputs(event)
        names |= _dims_used(event)
    tensors = [t for t in roots if isinstance(t, Tensor)]
    for tensor in collect_tensors(tensors, known={}):
        names |= dims_in(tensor)
    return names


def _collect(item: Item | None, slot: int, axis: int, *, backwards: bool) -> Collect:
    assert isinstance(item, Tensor), "stacks are arrays, and always made"
    shape = (*item.shape[:axis], *item.shape[axis + 1 :])
    return Collect(slot, item.dtype, shape, axis, backwards)


def sink_views(levels: _Levels, wanted: set[int]) -> None:
    """Move tensors that are a plain function of one other to the level of their readers.

    They can be inlined there, and the smaller tensor crosses the cut.
    """
    readers: dict[int, set[int]] = {}
    for tensor in reversed(levels.tensors):
        definition = tensor.definition
        assert definition is not None, "only computed tensors have a level"
        own = levels.computed[id(tensor)]
        later = readers.get(id(tensor), set())
        arrays = [s for s in sources(definition) if s.value is None and s.known is None]
        plain = definition.anchor is None and len(arrays) <= 1 and id(tensor) not in wanted
        if plain and later and min(later) > own:
            levels.computed[id(tensor)] = own = min(later)
        for source in sources(definition):
            readers.setdefault(id(source), set()).add(own)


def part_of(own: list[Tensor], results: list[Tensor]) -> tuple[Equations, list[Tensor]]:
    """Return the equations of a part, and the tensors from outside that it reads.

    The tensors are copied, as lowering changes them.
    """
    copies: dict[int, Tensor] = {}
    inputs: list[Tensor] = []
    outside: list[Tensor] = []
    inner = {id(t) for t in own}

    def copied(tensor: Tensor) -> Tensor:
        known = copies.get(id(tensor))
        if known is not None or tensor.value is not None:
            return known or tensor
        definition = tensor.definition
        fresh = Tensor(tensor.name, tensor.shape, tensor.dtype)
        if definition is not None and (id(tensor) in inner or tensor.known is not None):
            fresh.definition = _rewritten(definition, copied)
            fresh.known, fresh.order = tensor.known, tensor.order
            fresh.nodes, fresh.ops = tensor.nodes, tensor.ops
        else:
            inputs.append(fresh)
            outside.append(tensor)
        copies[id(tensor)] = fresh
        return fresh

    for tensor in own:
        copied(tensor)
    outputs = [(t.name, copies[id(t)]) for t in results]
    tensors = collect_tensors([t for _, t in outputs], known={})
    return Equations(tensors, inputs, outputs), outside


def _rewritten(definition: Definition, copied: Copier) -> Definition:
    table = {id(load.source): copied(load.source) for load in loads(definition)}

    def rewrite(e: Expr) -> Expr:
        if isinstance(e, Load) and table.get(id(e.source), e.source) is not e.source:
            return Load(table[id(e.source)], e.index, e.dtype)
        return e

    return rewrite_definition(definition, rewrite)
