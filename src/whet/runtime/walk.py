"""Running a script: the control around native code, one step after another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from whet.dtypes import numpy_dtype
from whet.errors import ShapeError
from whet.index import Poly
from whet.program.plan import MemoryPlan, part_liveness, plan_memory
from whet.program.records import Launch, Part, Program, shapes_name
from whet.program.script import (
    ABSENT,
    Block,
    Call,
    Collect,
    Expect,
    If,
    Loop,
    Pick,
    Read,
    Require,
    Run,
    Script,
    Slice,
)
from whet.runtime.arrays import Array, dim_name, empty_aligned
from whet.runtime.bindings import fits, needed_dims, refuse_zeros
from whet.runtime.calls import CALLS
from whet.runtime.elements import as_plain
from whet.runtime.loop_memory import VALUE_BYTES, LoopMemory, result_bytes
from whet.runtime.piles import Piles
from whet.runtime.state import Binding, State
from whet.words import counted

_BINDINGS_KEPT = 64
ONE_HINT = "to repeat what has size 1, compile with that size fixed, such as --shape mask:1,..."

Dims = dict[str, int]


class ScriptPlan:
    """What all runs of one script share: constants, and a few memory plans of every part.

    Args:
        program: the program, with its script.
        weights: the weights section.
        threads: threads of one call.
    """

    def __init__(self, program: Program, weights: Array, threads: int) -> None:
        assert program.script is not None, "only a program with parts is planned this way"
        self.script: Script = program.script
        self.program = program
        self._threads = threads
        self._live = [part_liveness(program, part) for part in program.parts]
        self._bindings: list[dict[tuple[int, ...], Binding]] = [{} for _ in program.parts]
        self._needed = needed_dims(program)
        steps = self.script.main.steps
        self.cases = steps[0].cases if len(steps) == 1 and isinstance(steps[0], Pick) else ()
        self._position = {name: k for k, name in enumerate(program.dims)}
        self._blank: list[Any] = [None] * self.script.slots
        for row in self.script.constants:
            dtype = numpy_dtype(row.dtype)
            array = np.ndarray(row.shape, dtype, weights.data, row.offset)
            array.flags.writeable = False
            self._blank[row.slot] = array

    def walk(self, state: State, dims: Dims, given: Mapping[int, Array]) -> Walk:
        """Return one run of the script; the arguments are those of ``Walk``."""
        return Walk(self, state, dims, given)

    def blank(self) -> list[Any]:
        """Return slots that hold nothing but the constants."""
        return list(self._blank)

    def programs(self) -> tuple[str, ...]:
        """Return what the ways to run the model are called."""
        if not self.cases:
            return ("script",)
        return tuple(
            shapes_name(self.program, when) for when in ((), *(c.when for c in self.cases))
        )

    def program_for(self, shapes: tuple[tuple[int, ...], ...]) -> str:
        """Return which of them runs inputs of given shapes."""
        found = (case.when for case in self.cases if fits(case.when, shapes))
        return shapes_name(self.program, next(found, ()))

    def arena_bytes(self, dims: Mapping[str, int]) -> int:
        """Return the arena that the largest part needs for given dimensions."""
        plans = (
            plan_memory(self.program, dims, live, threads=self._threads) for live in self._live
        )
        return max((plan.arena_bytes for plan in plans), default=0)

    def binding(self, number: int, dims: Dims) -> Binding:
        """Return the memory plan of a part for given dimensions.

        Raises:
            ShapeError: a size is negative or does not exist.
        """
        part = self.program.parts[number]
        key = tuple([dims[name] for name in part.dims])
        known = self._bindings[number]
        found = known.get(key)
        if found is None:
            found = self._bind(number, part, dims)
            while len(known) >= _BINDINGS_KEPT:
                known.pop(next(iter(known)), None)
            known[key] = found
        return found

    def _bind(self, number: int, part: Part, dims: Dims) -> Binding:
        launches = self.program.launches[part.begin : part.end]
        live = self._live[number]
        try:
            shapes = tuple(tuple(p.evaluate(dims) for p in axes) for axes in part.output_shapes)
            if any(extent < 0 for shape in shapes for extent in shape):
                raise _odd_sizes(part, launches, dims)
            taken = _bytes_of(shapes, part.output_dtypes)
            empty = all(0 in shape for shape in shapes)
            if empty:
                return Binding((), shapes, MemoryPlan({}, 0), True, number, output_bytes=taken)
            refuse_zeros([n for n in part.dims if dims[n] == 0 and n in self._needed])
            for launch in launches:
                launch.chunks.evaluate(dims)
            sizes = [size.evaluate(dims) for size, _ in live.sizes]
            plan = plan_memory(self.program, dims, live, threads=self._threads)
        except ZeroDivisionError:
            raise _odd_sizes(part, launches, dims) from None
        if any(size < 0 for size in sizes):
            raise _odd_sizes(part, launches, dims)
        values = tuple((self._position[name], dims[name]) for name in part.dims)
        return Binding(values, shapes, plan, False, number, output_bytes=taken)


class Walk:
    """One run of a script.

    Args:
        plan: what runs of the script share.
        state: memory and threads of this run.
        dims: dimensions of the model's inputs.
        given: arrays of the caller by the slot whose value they should get.
    """

    def __init__(
        self, plan: ScriptPlan, state: State, dims: Dims, given: Mapping[int, Array]
    ) -> None:
        self._plan = plan
        self._state = state
        self._dims = dims
        self._given = given
        self._slots = plan.blank()
        self._memory = LoopMemory()
        self._do: dict[type, Callable[[Any], None]] = {
            Run: self._run,
            Expect: self._expect,
            Read: self._read,
            Require: self._require,
            If: self._if,
            Loop: self._loop,
            Pick: self._pick,
            Call: self._call,
        }

    def run(self, inputs: Sequence[Any]) -> list[Any]:
        """Run the script; returns its outputs."""
        return [as_plain(value) for value in self._block(self._plan.script.main, inputs)]

    def _block(self, block: Block, inputs: Sequence[Any]) -> list[Any]:
        slots = self._slots
        for slot, value in zip(block.inputs, inputs, strict=True):
            slots[slot] = value
        for step in block.steps:
            self._do[type(step)](step)
        return [slots[slot] for slot in block.outputs]

    def _run(self, step: Run) -> None:
        plan, state, slots = self._plan, self._state, self._slots
        part = plan.program.parts[step.part]
        binding = plan.binding(step.part, self._dims)
        if self._memory.loops:
            self._memory.take(binding.output_bytes + state.growth(binding))
        for slot, shape, name in zip(
            step.outputs, binding.output_shapes, part.output_dtypes, strict=True
        ):
            dtype = numpy_dtype(name)
            own = self._given.get(slot)
            fits = own is not None and own.shape == shape and own.dtype == dtype
            slots[slot] = own if fits else empty_aligned(shape, dtype)
        if binding.empty:
            return
        values, buffers = (*step.inputs, *step.outputs), (*part.inputs, *part.outputs)
        used = [(b, np.asarray(slots[s])) for s, b in zip(values, buffers, strict=True) if b >= 0]
        state.run(binding, [buffer for buffer, _ in used], [array for _, array in used])

    def _expect(self, step: Expect) -> None:
        array = self._slots[step.slot]
        wanted = numpy_dtype(step.dtype)
        if not isinstance(array, np.ndarray) or array.dtype != wanted:
            kind = getattr(array, "dtype", type(array).__name__)
            raise ShapeError(f"the value is {kind}, not {step.dtype}", where=step.where)
        if array.ndim != len(step.shape):
            raise ShapeError(f"the rank is {array.ndim}, not {len(step.shape)}", where=step.where)
        free = set(step.binds)
        for extent, size in zip(step.shape, array.shape, strict=True):
            name = dim_name(extent)
            if name in free:
                self._dims[str(name)] = size
                free.remove(str(name))
        for axis, (extent, size) in enumerate(zip(step.shape, array.shape, strict=True)):
            wanted_size = extent.evaluate(self._dims)
            if wanted_size != size:
                raise ShapeError(f"axis {axis} is {size}, not {wanted_size}", where=step.where)

    def _read(self, step: Read) -> None:
        values = self._slots[step.slot].reshape(-1).tolist()
        if len(values) != len(step.dims):
            raise ShapeError(
                f"{counted(len(values), 'size')} instead of {len(step.dims)}", where=step.where
            )
        for name, value in zip(step.dims, values, strict=True):
            if value < 0:
                raise ShapeError(f"a size is {value}", where=step.where)
            self._dims[name] = int(value)

    def _require(self, step: Require) -> None:
        try:
            left, right = step.left.evaluate(self._dims), step.right.evaluate(self._dims)
        except ZeroDivisionError:
            raise ShapeError("a size that must not be 0 is", where=step.where) from None
        if left != right:
            hint = ONE_HINT if 1 in (left, right) else None
            raise ShapeError(f"sizes do not fit: {left} and {right}", where=step.where, hint=hint)

    def _if(self, step: If) -> None:
        block = step.then if _truth(self._slots[step.condition], step.where) else step.otherwise
        results = self._block(block, ())
        for slot, value in zip(step.outputs, results, strict=True):
            self._store(slot, value)

    def _pick(self, step: Pick) -> None:
        values = [self._slots[slot] for slot in step.inputs]
        shapes = [v.shape if isinstance(v, np.ndarray) else () for v in values]
        found = (case.block for case in step.cases if fits(case.when, shapes))
        results = self._block(next(found, step.otherwise), values)
        for slot, value in zip(step.outputs, results, strict=True):
            self._store(slot, value)

    def _loop(self, step: Loop) -> None:
        slots = self._slots
        limit = None if step.trips == ABSENT else _whole(slots[step.trips], step.where)
        if step.slices:
            limit = _common_length(step, slots)
        going = step.condition == ABSENT or _truth(slots[step.condition], step.where)
        carried = [slots[slot] for slot in step.carried]
        piles = Piles(len(step.collects), step.where)
        trip, head = 0, 0 if step.slices else 1
        self._memory.loops.append(step.where)
        while going and (limit is None or trip < limit):
            first = [np.array(trip, np.int64), np.array(True)] if head else []
            parts = [_slice_of(slots[s.slot], s, trip) for s in step.slices]
            results = self._block(step.body, [*first, *carried, *parts])
            if head:
                going = _truth(results[0], step.where)
            carried = results[head : head + len(carried)]
            piles.add(results[head + len(carried) :])
            trip += 1
        self._memory.take(piles.element_bytes)
        self._memory.loops.pop()
        for slot, value in zip(step.outputs, carried, strict=True):
            self._store(slot, value)
        for collect, pile in zip(step.collects, piles.piles, strict=True):
            self._store(collect.slot, self._stacked(collect, pile, step.where))

    def _stacked(self, collect: Collect, pile: list[Array], where: str) -> Array:
        if not pile:
            inner = [_size_or_zero(p, self._dims) for p in collect.shape]
            shape = (*inner[: collect.axis], 0, *inner[collect.axis :])
            return empty_aligned(shape, numpy_dtype(collect.dtype))
        if any(value.shape != pile[0].shape for value in pile):
            raise ShapeError("the collected values differ in shape", where=where)
        return np.stack(pile[::-1] if collect.backwards else pile, axis=collect.axis)

    def _call(self, step: Call) -> None:
        arguments = [None if s == ABSENT else self._slots[s] for s in step.inputs]
        if self._memory.loops:
            self._memory.take(result_bytes(step.function, arguments))
        results = CALLS[step.function](step, arguments)
        for slot, value in zip(step.outputs, results, strict=True):
            self._store(slot, value)

    def _store(self, slot: int, value: Any) -> None:
        if slot != ABSENT:
            self._slots[slot] = value


def _odd_sizes(part: Part, launches: Sequence[Launch], dims: Dims) -> ShapeError:
    nodes = dict.fromkeys(name for launch in launches for name in launch.nodes)
    sizes = ", ".join(f"{name} = {dims[name]}" for name in part.dims)
    text = f"a size is negative, or divided by zero, with {sizes}"
    return ShapeError(text, where=", ".join(nodes))


def _bytes_of(shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str]) -> int:
    """Return about what arrays take."""
    pairs = zip(shapes, dtypes, strict=True)
    return sum(math.prod(s) * numpy_dtype(d).itemsize + VALUE_BYTES for s, d in pairs)


def _truth(value: Array, where: str) -> bool:
    if value.size != 1:
        raise ShapeError(f"a condition has the shape {value.shape}", where=where)
    return bool(value.reshape(-1)[0])


def _whole(value: Array, where: str) -> int:
    if value.size != 1:
        raise ShapeError(f"a number of trips has the shape {value.shape}", where=where)
    return int(value.reshape(-1)[0])


def _common_length(step: Loop, slots: Sequence[Any]) -> int:
    lengths = {slots[s.slot].shape[s.axis] for s in step.slices}
    if len(lengths) != 1:
        text = f"sliced arrays have different lengths: {sorted(lengths)}"
        raise ShapeError(text, where=step.where)
    return int(lengths.pop())


def _slice_of(array: Array, how: Slice, trip: int) -> Array:
    index = array.shape[how.axis] - 1 - trip if how.backwards else trip
    return np.array(array[(slice(None),) * how.axis + (index,)], order="C")


def _size_or_zero(extent: Poly, dims: Dims) -> int:
    """Return an extent that may depend on dimensions which only a trip would have bound."""
    try:
        return max(extent.evaluate(dims), 0)
    except KeyError:
        return 0
