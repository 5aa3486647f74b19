"""From the shapes of a call's inputs to the part that runs it, its dimensions and its memory."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from whet.errors import ArtifactError, InputError
from whet.index import Dim, Poly
from whet.program.plan import Liveness, MemoryPlan, find_liveness, part_liveness, plan_memory
from whet.program.records import BufferKind, Part, Program
from whet.runtime.arrays import Port, bind_dims
from whet.runtime.state import Binding

BINDINGS_KEPT = 64

Shapes = tuple[tuple[int, ...], ...]


class Variant(msgspec.Struct, frozen=True):
    """A way to run a model: for any shapes, or for those that it was made for.

    Attributes:
        number: which part of the program it is.
        when: the shapes of inputs that it is for, -1 for any extent; empty for any shapes.
        inputs: buffer of each input, or -1.
        outputs: buffer of each output.
        output_shapes: shapes of the outputs.
        live: when its temporaries are needed.
    """

    number: int
    when: Shapes
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    output_shapes: tuple[tuple[Poly, ...], ...]
    live: Liveness

    def fits(self, shapes: Shapes) -> bool:
        """Tell whether it is for given shapes."""
        return fits(self.when, shapes)


def fits(when: Shapes, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Tell whether shapes are those that something is made for, -1 for any extent."""
    return all(
        len(wanted) == len(shape) and all(w in (-1, n) for w, n in zip(wanted, shape, strict=True))
        for wanted, shape in zip(when, shapes, strict=False)
    )


class Bindings:
    """The variants of a program, and memory plans for the shapes seen last.

    Args:
        program: a program without a script.
        ports: its inputs.
        threads: threads of one call.
    """

    def __init__(self, program: Program, ports: Sequence[Port], threads: int) -> None:
        self.known: dict[Shapes, Binding] = {}
        self._program = program
        self._ports = ports
        self._threads = threads
        self._variants = _variants(program)
        self._needed = needed_dims(program)

    def variant_for(self, shapes: Shapes) -> Variant:
        """Return the first variant made for given shapes, else the one for any."""
        return next((v for v in self._variants[1:] if v.fits(shapes)), self._variants[0])

    def arena_bytes(self) -> int:
        """Return the arena that the largest variant needs where open dimensions are 1."""
        ones = dict.fromkeys(self._program.dims, 1)
        return max(
            plan_memory(self._program, ones, v.live, threads=self._threads).arena_bytes
            for v in self._variants
        )

    def bind(self, shapes: Shapes) -> Binding:
        """Return what follows from given shapes; it is kept for a while.

        Raises:
            InputError: the shapes do not fit the model.
        """
        known = self.known.get(shapes)
        if known is not None:
            return known
        program, variant = self._program, self.variant_for(shapes)
        dims = bind_dims(self._ports, program.dims, shapes)
        outputs = _output_shapes(variant, dims)
        zero = [name for name, value in dims.items() if value == 0]
        empty = bool(zero) and all(0 in shape for shape in outputs)
        if empty:
            plan = MemoryPlan({}, 0)
        else:
            refuse_zeros([name for name in zero if name in self._needed])
            plan = _plan(program, dims, variant.live, self._threads)
        values = tuple(enumerate(dims.values()))
        buffers = (*variant.inputs, *variant.outputs)
        binding = Binding(values, outputs, plan, empty, variant.number, buffers)
        while len(self.known) >= BINDINGS_KEPT:
            self.known.pop(next(iter(self.known)), None)
        self.known[shapes] = binding
        return binding


def needed_dims(program: Program) -> frozenset[str]:
    """Return the dimensions of the inputs that native code counts on not to be 0."""
    atoms = {a for shape in program.input_shapes for p in shape for a in p.atoms}
    return frozenset(a.name for a in atoms if isinstance(a, Dim) and a.least)


def refuse_zeros(names: Sequence[str]) -> None:
    """Refuse inputs without elements where native code counts on some.

    Raises:
        InputError: a name is given.
    """
    if names:
        text = f"dimension {names[0]!r} is 0, and the model takes elements from there"
        raise InputError(text, hint="give at least 1")


def _output_shapes(variant: Variant, dims: dict[str, int]) -> Shapes:
    try:
        outputs = tuple(
            tuple(axis.evaluate(dims) for axis in axes) for axes in variant.output_shapes
        )
    except ZeroDivisionError:
        raise InputError(f"a size is divided by 0, with {_told(dims)}", hint="give more") from None
    negative = [s for s in outputs if min(s, default=0) < 0]
    if negative:
        raise InputError(f"an output would have the shape {negative[0]}", hint="give more")
    return outputs


def _plan(program: Program, dims: dict[str, int], live: Liveness, threads: int) -> MemoryPlan:
    """Return the memory plan, if no size on the way is one that cannot be."""
    try:
        least = min((size.evaluate(dims) for size, _ in live.sizes), default=0)
    except ZeroDivisionError:
        least = -1
    if least < 0:
        text = f"a size is negative, or divided by 0, with {_told(dims)}"
        raise InputError(text, hint="give more")
    return plan_memory(program, dims, live, threads=threads)


def _told(dims: dict[str, int]) -> str:
    return ", ".join(f"{name} = {value}" for name, value in dims.items())


def _variants(program: Program) -> tuple[Variant, ...]:
    if program.parts:
        return tuple(_variant(program, n, part) for n, part in enumerate(program.parts))
    inputs = _buffers_by_name(program, BufferKind.INPUT)
    outputs = _buffers_by_name(program, BufferKind.OUTPUT)
    missing = [spec.name for spec in program.outputs if spec.name not in outputs]
    if missing:
        raise ArtifactError(f"outputs without a buffer: {', '.join(missing)}")
    whole = Variant(
        number=0,
        when=(),
        inputs=tuple(inputs.get(spec.name, -1) for spec in program.inputs),
        outputs=tuple(outputs[spec.name] for spec in program.outputs),
        output_shapes=program.output_shapes,
        live=find_liveness(program),
    )
    return (whole,)


def _variant(program: Program, number: int, part: Part) -> Variant:
    live = part_liveness(program, part)
    return Variant(number, part.when, part.inputs, part.outputs, part.output_shapes, live)


def _buffers_by_name(program: Program, kind: BufferKind) -> dict[str, int]:
    found: dict[str, int] = {}
    for index, buffer in enumerate(program.buffers):
        if buffer.kind is kind and found.setdefault(buffer.name, index) != index:
            raise ArtifactError(f"two buffers of {kind} {buffer.name!r}")
    return found
