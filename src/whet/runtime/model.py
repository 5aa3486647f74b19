"""``CompiledModel``: a program that runs; ``load.py`` makes one."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.errors import ArtifactError, InputError
from whet.index import Poly
from whet.program.context import layout_of
from whet.program.records import (
    PICTURE_BLOCKS,
    BufferKind,
    FusedGroup,
    Program,
    Stats,
    TensorSpec,
    variant_name,
)
from whet.runtime.again import Again, call_again
from whet.runtime.arrays import (
    Array,
    Port,
    address_of,
    bind_dims,
    check_given,
    collect_inputs,
    dim_name,
    make_port,
    place_outputs,
    settle_outputs,
)
from whet.runtime.bindings import Bindings
from whet.runtime.changed import changed_inputs, check_changed, refuse_empty
from whet.runtime.cpu import check_target
from whet.runtime.image import NativeCode
from whet.runtime.parts import Parts
from whet.runtime.source import SourceFile
from whet.runtime.state import Binding, Engine, State

if TYPE_CHECKING:
    from whet.runtime.blocks import Blocks
    from whet.runtime.profile import ProfiledRuns, Stamps
    from whet.runtime.walk import ScriptPlan

_IDLE_STATES_KEPT = 8
_SHAPE = attrgetter("shape")


class CompiledModel:
    """A compiled model. Calls are safe from any thread and run concurrently.

    Build one with ``from_memory`` or ``load``. Made for another machine, it has no code that could
    be called: it can be inspected and saved, and running it is a ``TargetError``.
    """

    def __init__(
        self, parts: Parts, code: NativeCode | None, threads: int, source: SourceFile | None = None
    ) -> None:
        program = parts.program
        self._source = source
        self._parts = parts
        self._threads = threads
        self._plan = _script_plan(parts, threads)
        self._inputs = _make_ports(program.inputs, program.input_shapes)
        self._outputs = _make_ports(program.outputs, program.output_shapes)
        self._dims = _input_dims(program)
        self._changed = changed_inputs(program)
        self._blocks = _picture_blocks(parts, self._inputs)
        self._bindings = Bindings(program, self._inputs, threads) if self._plan is None else None
        self._known = self._bindings.known if self._bindings is not None else {}
        self._engine = _make_engine(parts, code, threads) if code else None
        self._names = tuple(spec.name for spec in program.outputs)
        self._states: deque[State] = deque(maxlen=_IDLE_STATES_KEPT)
        self._pid = os.getpid()
        self._again: Again | None = None

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What the model takes."""
        return self._parts.program.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What the model gives."""
        return self._parts.program.outputs

    @property
    def program(self) -> Program:
        """The program, for reports."""
        return self._parts.program

    @property
    def graph(self) -> bytes | memoryview | None:
        """The optimised graph as ONNX bytes, if it was kept."""
        return self._parts.graph

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the compiler noted: options, hash of the source and the like."""
        return self._parts.metadata

    @property
    def stats(self) -> Stats:
        """What the model costs."""
        program, parts = self._parts.program, self._parts
        ones = dict.fromkeys(program.dims, 1)
        plan = self._plan
        return Stats(
            arena_bytes=plan.arena_bytes(ones) if plan else self._whole().arena_bytes(),
            weight_bytes=parts.weights.nbytes,
            code_bytes=len(parts.code),
            launches=len(program.launches),
            groups=tuple(FusedGroup(x.kernel, x.nodes, x.ops) for x in program.launches),
            compile_s=parts.compile_s,
            target=f"{program.target.triple}:{program.target.cpu}",
            threads=self._threads,
            programs=tuple(variant_name(program, k) for k in range(max(len(program.parts), 1)))
            if plan is None
            else plan.programs(),
        )

    def program_for(self, shapes: Mapping[str, Sequence[int]]) -> str:
        """Return which of ``stats.programs`` runs inputs of given shapes.

        Raises:
            InputError: a shape is missing.
        """
        if self._plan is not None and not self._plan.cases:
            return "script"
        missing = [spec.name for spec in self.inputs if spec.name not in shapes]
        if missing:
            raise InputError(f"missing shapes: {', '.join(missing)}")
        wanted = tuple(tuple(shapes[spec.name]) for spec in self.inputs)
        if self._plan is not None:
            return self._plan.program_for(wanted)
        return variant_name(self.program, self._whole().variant_for(wanted).number)

    def _whole(self) -> Bindings:
        assert self._bindings is not None, "a script has plans of its own"
        return self._bindings

    def run(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any] | None = None
    ) -> dict[str, Array]:
        """Run the model once; calling the model is the same.

        The fewer steps Python takes here, the better: a large model leaves nothing of Python in the
        caches, and each function costs some microseconds then.

        Args:
            inputs: an array for each input by name. Contiguous ones are used in place.
            outputs: arrays to write to, by name; new ones are made for the others.

        Raises:
            InputError: an array does not fit; the error names it.
            ShapeError: sizes that depend on data do not fit together.
            ResourceError: memory or threads ran out.
            ArtifactError: the file that the model was loaded from was changed.
            TargetError: the code is for another machine.
        """
        again = self._again
        if again is not None and outputs is None:
            known = again.arrays(inputs)
            if known is not None:
                return self._compute(again.binding, known, again.results())
        engine = self._engine or self._engine_here()
        if self._plan is not None:
            return self._run_script(self._plan, engine, inputs, outputs)
        arrays = collect_inputs(self._inputs, inputs)
        if self._blocks is not None:
            self._blocks.check(arrays)
        if self._changed:
            check_changed(self._changed, self._inputs, inputs, arrays)
        shapes = tuple(map(_SHAPE, arrays))
        binding = self._known.get(shapes) or self._whole().bind(shapes)
        if self._changed:
            refuse_empty(self._changed, empty=binding.empty)
        results = place_outputs(self._outputs, binding.output_shapes, outputs, arrays)
        if self._blocks is None and not self._changed:
            self._again = call_again(self._inputs, self._outputs, binding, shapes)
        return self._compute(binding, arrays, dict(zip(self._names, results, strict=True)))

    def _compute(
        self, binding: Binding, arrays: list[Array], results: dict[str, Array]
    ) -> dict[str, Array]:
        """Compute results from arrays that were checked, and return them."""
        if binding.empty:
            return results
        source = self._source
        weights = None if source is None else source.weights
        state = self._take_state(self._engine or self._engine_here())
        try:
            changed = state.run(binding, binding.buffers, (*arrays, *results.values()), weights)
        finally:
            self._states.append(state)
        if changed and source is not None:
            source.check()
        return results

    __call__ = run

    def release(self) -> None:
        """Free the memory and helper threads that are kept for the next call."""
        self._states.clear()

    def profile_run(self, inputs: Mapping[str, Any]) -> Stamps:
        """Run once and return time stamps in ns, of shape (threads, launches, 2).

        The last axis is begin and end; zeros mean that a thread had no part in a launch.

        Raises:
            TargetError: the code is for another machine.
        """
        stamps: Stamps = self.profile_runs(inputs, 1).stamps[0]
        return stamps

    def profile_runs(self, inputs: Mapping[str, Any], runs: int) -> ProfiledRuns:
        """Run in turn without and with time stamps, ``runs`` times each, after warming up.

        Raises:
            InputError: an array does not fit; the error names it.
            TargetError: the code is for another machine.
        """
        from whet.runtime.items import collect_items
        from whet.runtime.profile import record_runs

        engine = self._engine_here()
        state = State(engine)
        work: Callable[[], object]
        if self._plan is None:
            work = partial(self._run_bound, state, self._collect(inputs))
        else:
            items = collect_items(self._inputs, inputs)
            work = partial(self._walk, self._plan, state, items, {})
        shape = (self._threads, len(self.program.launches), 2)
        return record_runs(state, work, runs, shape)

    def _collect(self, inputs: Mapping[str, Any]) -> list[Array]:
        arrays = collect_inputs(self._inputs, inputs)
        if self._blocks is not None:
            self._blocks.check(arrays)
        return arrays

    def _run_bound(self, state: State, arrays: list[Array]) -> None:
        binding = self._whole().bind(tuple([array.shape for array in arrays]))
        results = place_outputs(self._outputs, binding.output_shapes, None, arrays)
        if not binding.empty:
            state.run(binding, binding.buffers, (*arrays, *results))

    def _walk(
        self, plan: ScriptPlan, state: State, items: list[Any], own: Mapping[int, Array]
    ) -> list[Any]:
        return plan.walk(state, self._script_dims(items), own).run(items)

    def _run_script(
        self,
        plan: ScriptPlan,
        engine: Engine,
        inputs: Mapping[str, Any],
        outputs: Mapping[str, Any] | None,
    ) -> dict[str, Array]:
        from whet.runtime.items import collect_items

        items = collect_items(self._inputs, inputs)
        if self._blocks is not None:
            self._blocks.check(items)
        given = check_given(self._outputs, outputs, [a for a in items if isinstance(a, np.ndarray)])
        slots = zip(self._outputs, plan.script.main.outputs, strict=True)
        own = {slot: given[port.name] for port, slot in slots if port.name in given}
        state = self._take_state(engine)
        try:
            results = self._walk(plan, state, items, own)
        finally:
            self._states.append(state)
        return settle_outputs(self._outputs, results, given, items)

    def _script_dims(self, items: Sequence[Any]) -> dict[str, int]:
        """Return the dimensions that the arrays among the inputs give."""
        pairs = [(p, a) for p, a in zip(self._inputs, items, strict=True) if p.dtype != object]
        ports, shapes = [p for p, _ in pairs], [a.shape for _, a in pairs]
        return bind_dims(ports, self._dims, shapes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to a ``.whet`` file, whole or not at all.

        Raises:
            ArtifactError: the file cannot be written, or the one loaded was changed.
        """
        from whet.program.save import write_container

        if self._source is not None:
            self._source.check()
        parts = self._parts
        write_container(
            path,
            parts.program,
            parts.symbols,
            {
                "code": memoryview(parts.code),
                "weights": parts.weights.data,
                **({} if parts.graph is None else {"graph": memoryview(parts.graph)}),
            },
            parts.metadata,
        )

    def _engine_here(self) -> Engine:
        if self._engine is None:
            check_target(self.program.target)
        assert self._engine is not None, "code without an engine is for another machine"
        return self._engine

    def _take_state(self, engine: Engine) -> State:
        if os.getpid() != self._pid:
            self._states, self._pid = deque(maxlen=_IDLE_STATES_KEPT), os.getpid()
        try:
            return self._states.pop()
        except IndexError:
            return State(engine)


def _script_plan(parts: Parts, threads: int) -> ScriptPlan | None:
    """Return the plan of a program with a script; what runs scripts is imported for those alone."""
    if parts.program.script is None:
        return None
    from whet.runtime.walk import ScriptPlan

    return ScriptPlan(parts.program, parts.weights, threads)


def _picture_blocks(parts: Parts, inputs: Sequence[Port]) -> Blocks | None:
    """Return what checks blocks among the inputs, which few models have."""
    text = parts.metadata.get(PICTURE_BLOCKS)
    if text is None:
        return None
    from whet.runtime.blocks import Blocks

    return Blocks.of(text, inputs)


def _make_engine(parts: Parts, code: NativeCode, threads: int) -> Engine:
    program, weights = parts.program, address_of(parts.weights)
    return Engine(
        code=code,
        layout=layout_of(program),
        constants={
            index: weights + buffer.offset
            for index, buffer in enumerate(program.buffers)
            if buffer.kind is BufferKind.CONSTANT
        },
        scratch_bytes=program.scratch_bytes,
        threads=threads,
    )


def _make_ports(
    specs: Sequence[TensorSpec], shapes: Sequence[tuple[Poly, ...]]
) -> tuple[Port, ...]:
    return tuple(make_port(spec, axes) for spec, axes in zip(specs, shapes, strict=True))


def _input_dims(program: Program) -> tuple[str, ...]:
    """Return the dimensions that inputs give, which are all unless there is a script."""
    bound = {dim_name(axis) for axes in program.input_shapes for axis in axes}
    free = [name for name in program.dims if name not in bound]
    if free and program.script is None:
        raise ArtifactError(f"dimensions that no input gives: {', '.join(free)}")
    return tuple(name for name in program.dims if name in bound)
