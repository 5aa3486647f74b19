"""The driver of a program: native code that walks all launches on every thread.

``whet_start(ctx)`` runs the program once; ``whet_worker(ctx, thread)`` is what a helper thread
does for its whole life; ``whet_run(ctx, thread)`` is one walk by one thread; ``whet_stop(ctx)``
sends the helpers home. With one thread the walk is a plain sequence of kernel calls. If the program
has parts, a run is a run of one of them, whose number stands in ``ctx``. Where things lie in
``ctx`` is said by ``whet.program.context``, how threads meet by ``whet.codegen.threads.sync``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from whet.codegen.threads.sync import STATE_SLOTS, sync_text
from whet.codegen.writing.builder import I1, I32, I64, PTR, Builder, Module, Value, i64
from whet.codegen.writing.index_value import index_value
from whet.errors import CompileError
from whet.index import Atom, Dim, Poly
from whet.program import context
from whet.program.context import ContextLayout, layout_of, scratch_stride, segments_of
from whet.program.records import NO_SCRATCH, Launch, Program

_SLOT = {name: index for index, name in enumerate(STATE_SLOTS)}
_MOST_CHUNKS = 2**31


def driver_text(program: Program) -> str:
    """Return the LLVM IR of a program's driver module.

    The module defines ``whet_start``, ``whet_run``, ``whet_worker``, ``whet_stop``, and
    ``memset``, ``memcpy`` and ``memmove`` for all objects of the image; the kernels stay outside.

    Raises:
        CompileError: one kernel is launched with different numbers of arguments, or a launch has
            too many chunks.
    """
    layout = layout_of(program)
    module = Module()
    for name, arguments in sorted(_kernels(program.launches).items()):
        types = ", ".join([*[PTR] * (arguments + 2), I64, I64, I64])
        module.declare(name, f"declare void @{name}({types}) nounwind")
    _write_thunks(module, program, layout)
    _write_serial(module, program)
    _write_parallel(module, program, layout)
    return module.text() + sync_text(layout, program.target.triple.split("-", 1)[0])


def poly_value(b: Builder, poly: Poly, dims: Mapping[str, Value]) -> Value:
    """Write the value of a polynomial over run-time dimensions as a 64-bit integer."""

    def dimension(atom: Atom) -> Value:
        if not isinstance(atom, Dim):
            raise CompileError(f"{atom} cannot be computed before a launch")
        return dims[atom.name]

    return index_value(b, poly, dimension)


def _kernels(launches: Iterable[Launch]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for launch in launches:
        if counts.setdefault(launch.kernel, len(launch.args)) != len(launch.args):
            raise CompileError(f"kernel {launch.kernel} is launched with different arguments")
        if (launch.chunks.constant or 0) > _MOST_CHUNKS:
            raise CompileError(f"kernel {launch.kernel} has {launch.chunks} chunks")
    return counts


def _load_dims(b: Builder, program: Program, table: Value) -> dict[str, Value]:
    return {
        name: b.load(I64, b.gep(table, I64, index), align=8)
        for index, name in enumerate(program.dims)
    }


def _write_thunks(module: Module, program: Program, layout: ContextLayout) -> None:
    """Write one function per launch that fetches the buffers and calls the kernel."""
    for index, launch in enumerate(program.launches):
        names = [(PTR, n) for n in ("ctx", "dims", "scratch")]
        names += [(I64, n) for n in ("begin", "end", "again")]
        b = Builder(module, f"whet.launch.{index}", names)
        table = b.gep(b.param(0), "i8", layout.buffer_table)
        pointers = [b.load(PTR, b.gep(table, PTR, buffer), align=8) for buffer in launch.args]
        arguments = [*pointers, *(b.param(k) for k in range(1, len(names)))]
        b.line(f"call void @{launch.kernel}({', '.join(str(v) for v in arguments)})")
        b.finish()


def _scratch(b: Builder, program: Program, launch: Launch, thread: Value | None) -> Value:
    """Write where the scratch memory of a thread lies, the first one if none is given."""
    if launch.scratch == NO_SCRATCH:
        return Value("null", PTR)
    table = b.gep(b.param(0), "i8", layout_of(program).buffer_table)
    base = b.load(PTR, b.gep(table, PTR, launch.scratch), align=8)
    if thread is None:
        return base
    size = program.buffers[launch.scratch].size_bytes.constant
    assert size is not None, "scratch memory has one size for all shapes"
    return b.gep(base, "i8", b.binary("mul", i64(scratch_stride(size)), thread))


def _parts(program: Program) -> list[range]:
    """Return the launches of each part, or all of them if there are no parts."""
    if not program.parts:
        return [range(len(program.launches))]
    return [range(part.begin, part.end) for part in program.parts]


def _each_part(b: Builder, program: Program, part: Value | None) -> Iterator[range]:
    """Yield the launches of every part, and write them where only that part runs."""
    parts = _parts(program)
    for number, launches in enumerate(parts[:-1]):
        assert part is not None, "several parts have a number"
        here, other = b.label("part"), b.label("other")
        b.branch(b.icmp("eq", part, i64(number)), here, other)
        b.start(here)
        yield launches
        b.line("ret void")
        b.start(other)
    yield parts[-1]


def _write_serial(module: Module, program: Program) -> None:
    """Write the walk of a single thread: no atomics, no barriers."""
    b = Builder(module, "whet.serial", [(PTR, "ctx")])
    ctx = b.param(0)
    dims = b.gep(ctx, "i8", context.DIMS)
    sizes = _load_dims(b, program, dims)
    several = len(program.parts) > 1
    part = b.load(I64, b.gep(ctx, "i8", context.PART), align=8) if several else None
    for launches in _each_part(b, program, part):
        for index in launches:
            chunks = poly_value(b, program.launches[index].chunks, sizes)
            if chunks.text != "0":
                scratch = _scratch(b, program, program.launches[index], None)
                where = f"{ctx}, i64 {index}, {chunks}, ptr @whet.launch.{index}"
                b.line(f"call void @whet.alone({where}, {dims}, {scratch})")
    b.finish()


def _write_parallel(module: Module, program: Program, layout: ContextLayout) -> None:
    """Write the walk of one of several threads."""
    b = Builder(module, "whet.parallel", [(PTR, "ctx"), (I64, "thread")])
    ctx, thread = b.param(0), b.param(1)
    state = b.alloca(f"[{len(STATE_SLOTS)} x i64]")
    several = len(program.parts) > 1
    dims = b.alloca(f"[{max(layout.dims + several, 1)} x i64]")
    generation = _write_join(b, layout, dims, several=several)
    threads = b.load(I64, b.gep(ctx, "i8", context.THREADS), align=8)
    first = {"generation": generation, "thread": thread, "threads": threads, "finished": i64(0)}
    for name, value in first.items():
        b.store(value, b.gep(state, I64, _SLOT[name]), align=8)
    sizes = _load_dims(b, program, dims)
    part = b.load(I64, b.gep(dims, I64, layout.dims), align=8) if several else None
    segments = list(enumerate(segments_of(program.launches)))
    for launches in _each_part(b, program, part):
        own = [(n, s) for n, s in segments if launches.start <= s.start < launches.stop]
        for number, segment in own:
            total = i64(0)
            for index in segment:
                chunks = poly_value(b, program.launches[index].chunks, sizes)
                total = b.add(total, chunks)
                if chunks.text != "0":
                    scratch = _scratch(b, program, program.launches[index], thread)
                    where = f"{ctx}, {state}, i64 {index}, {chunks}, ptr @whet.launch.{index}"
                    b.line(f"call void @whet.share({where}, {dims}, {scratch})")
            _end_segment(b, f"{ctx}, {state}, i64 {number}, {total}", last=segment is own[-1][1])
    b.finish()


def _end_segment(b: Builder, arguments: str, *, last: bool) -> None:
    """Report the chunks done and wait for the rest; helpers need not wait at the very end."""
    b.line(f"call void @whet.report({arguments})")
    go, leave = b.label("go"), b.label("leave")
    if last:
        wait = b.label("wait")
        b.branch(b.icmp("eq", b.param(1), i64(0)), wait, leave)
        b.start(wait)
    b.branch(b.op(f"call i1 @whet.wait({arguments})", I1), go, leave)
    b.start(leave)
    b.line("ret void")
    b.start(go)


def _write_join(b: Builder, layout: ContextLayout, dims: Value, *, several: bool) -> Value:
    """Enter the open run: copy its dimensions, and behind them its part; leave if there is none.

    The copy counts only if the same run is still open after it, so that a thread that comes late
    never mixes two runs.
    """
    ctx = b.param(0)
    word = b.gep(ctx, "i8", context.GENERATION)
    join, copy, closed, joined = (b.label(h) for h in ("join", "copy", "closed", "joined"))
    b.jump(join)
    b.start(join)
    before = b.op(f"load atomic i32, {word} acquire, align 4", I32)
    odd = b.icmp("ne", b.binary("and", before, Value("1", I32)), Value("0", I32))
    b.branch(odd, copy, closed)
    b.start(closed)
    b.line("ret void")
    b.start(copy)
    places = [context.DIMS + index * context.SLOT for index in range(layout.dims)]
    for index, place in enumerate([*places, context.PART] if several else places):
        source = b.gep(ctx, "i8", place)
        size = b.op(f"load atomic i64, {source} monotonic, align 8", I64)
        b.store(size, b.gep(dims, I64, index), align=8)
    b.line("fence acquire")
    after = b.op(f"load atomic i32, {word} monotonic, align 4", I32)
    b.branch(b.icmp("eq", before, after), joined, join)
    b.start(joined)
    return b.cast("zext", before, I64)
