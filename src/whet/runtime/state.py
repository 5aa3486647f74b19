"""What one call of a model needs for itself: context, scratch, arena and helper threads."""

from __future__ import annotations

import mmap
import os
import threading
import weakref
from collections.abc import Sequence

import msgspec

from whet.errors import ResourceError
from whet.limits import require_memory
from whet.mapped import MappedFile
from whet.program import context
from whet.program.context import ContextLayout, profile_slots
from whet.program.plan import MemoryPlan
from whet.runtime.arrays import Array, address_of
from whet.runtime.cpu import available_cpus
from whet.runtime.image import NativeCode, buffer_address, outside_functions

# How long a waiting thread spins at most before it sleeps; waking one costs 5 to 50 us.
_SPIN_NS = 100_000
_SPIN_NS_OVERSUBSCRIBED = 2_000
_HUGE_PAGE = 2 * 2**20
_JOIN_S = 5.0


class Binding(msgspec.Struct, frozen=True, eq=False):
    """What follows from the values of the run-time dimensions.

    Attributes:
        dims: position in ``Program.dims`` and value of each that matters.
        output_shapes: shapes of the outputs.
        plan: where temporaries lie.
        empty: whether there is nothing to compute because all outputs are empty.
        part: which part of the program it is for.
        buffers: those of the inputs and outputs, -1 where one is not used; none for parts of a
            script.
        output_bytes: about what the outputs take; of parts of a script.
    """

    dims: tuple[tuple[int, int], ...]
    output_shapes: tuple[tuple[int, ...], ...]
    plan: MemoryPlan
    empty: bool
    part: int = 0
    buffers: tuple[int, ...] = ()
    output_bytes: int = 0


class Engine(msgspec.Struct, frozen=True, eq=False):
    """What all calls of a model share.

    Attributes:
        code: the mapped machine code.
        layout: where the tables of a context lie.
        constants: address by buffer index.
        scratch_bytes: scratch memory for each thread beside the arena; of older files.
        threads: threads of one call.
    """

    code: NativeCode
    layout: ContextLayout
    constants: dict[int, int]
    scratch_bytes: int
    threads: int


class State:
    """Memory and helper threads for one call at a time.

    The helpers hold no reference to the state, so that dropping it stops them.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._bound: Binding | None = None
        self._arena: mmap.mmap | None = None
        self._arena_bytes = 0
        self._profile: mmap.mmap | None = None
        threads = engine.threads
        stride = context.scratch_stride(engine.scratch_bytes)
        size = -(-engine.layout.size_bytes(threads) // mmap.PAGESIZE) * mmap.PAGESIZE
        self._block = allocate(size + stride * threads)
        self.address = buffer_address(self._block)
        self.slots = memoryview(self._block).cast("q")
        self._buffer_slot = engine.layout.buffer_table // context.SLOT
        spin_ns = _SPIN_NS if threads <= available_cpus() else _SPIN_NS_OVERSUBSCRIBED
        syscall, clock = outside_functions()
        for offset, value in (
            (context.THREADS, threads),
            (context.SCRATCH, self.address + size),
            (context.SCRATCH_STRIDE, stride),
            (context.SYSCALL, syscall),
            (context.CLOCK, clock),
            (context.SPIN_NS, spin_ns),
        ):
            self.slots[offset // context.SLOT] = value
        for index, address in engine.constants.items():
            self.slots[self._buffer_slot + index] = address
        self._start_helpers()

    def run(
        self,
        binding: Binding,
        buffers: Sequence[int],
        arrays: Sequence[Array],
        weights: MappedFile | None = None,
    ) -> bool:
        """Run the program once; the GIL is released.

        Args:
            binding: what follows from the shapes.
            buffers: where the program finds each array; -1 if it does not look.
            arrays: inputs and outputs, contiguous.
            weights: the file that the run reads, if it is to be looked at behind it. Native code
                does so in a microsecond where Python takes 35, with nothing of it in the caches.

        Returns:
            Whether that file is no longer what it was.
        """
        if binding is not self._bound:
            self._bind(binding)
        slots, first, code = self.slots, self._buffer_slot, self._engine.code
        for buffer, array in zip(buffers, arrays, strict=True):
            if buffer >= 0:
                slots[first + buffer] = address_of(array)
        if weights is not None and code.start_watching is not None:
            return code.start_watching(self.address, weights.stamp_address) != 0 or weights.lost
        code.start(self.address)
        return weights is not None and weights.changed()

    def growth(self, binding: Binding) -> int:
        """Return how much memory a run would take beyond what is there already."""
        need = binding.plan.arena_bytes
        return need if need > self._arena_bytes else 0

    def profile(self, *, on: bool) -> memoryview | None:
        """Switch time stamps on or off; return where they appear: begin and end in ns.

        The order is thread, launch, (begin, end); zeros mean that a thread had no part in a launch.
        The memory stays where it is once it is there, as a thread may still be writing.
        """
        slots = profile_slots(self._engine.layout.launches, self._engine.threads)
        wanted = on and slots > 0
        if wanted and self._profile is None:
            self._profile = allocate(slots * context.SLOT)
        if not wanted or self._profile is None:
            self.slots[context.PROFILE // context.SLOT] = 0
            return None
        self._profile[:] = bytes(len(self._profile))
        self.slots[context.PROFILE // context.SLOT] = buffer_address(self._profile)
        return memoryview(self._profile).cast("q")[:slots]

    def _bind(self, binding: Binding) -> None:
        """Point temporaries and dimensions at what a binding says."""
        self._bound = None  # an interrupt below must not leave a half-made binding in force
        need = binding.plan.arena_bytes
        if self._arena is None or need > self._arena_bytes:
            self._arena, self._arena_bytes = allocate(need + _HUGE_PAGE), need
        base = -(-buffer_address(self._arena) // _HUGE_PAGE) * _HUGE_PAGE
        slots, first = self.slots, self._buffer_slot
        for index, offset in binding.plan.offsets.items():
            slots[first + index] = base + offset
        for index, value in binding.dims:
            slots[context.DIMS // context.SLOT + index] = value
        slots[context.PART // context.SLOT] = binding.part
        self._bound = binding

    def _start_helpers(self) -> None:
        engine = self._engine
        helpers: list[threading.Thread] = []
        self._finalizer = weakref.finalize(
            self, _stop, engine.code, self.address, helpers, os.getpid()
        )
        for number in range(1, engine.threads):
            helper = threading.Thread(
                target=_help,
                args=(engine.code, self.address, number, self._block),
                name=f"whet-{number}",
                daemon=True,
            )
            try:
                helper.start()
            except RuntimeError as error:
                self._finalizer()
                raise ResourceError(
                    f"thread {number + 1} of {engine.threads} could not be started",
                    hint="use fewer threads, or close models that are no longer needed",
                ) from error
            helpers.append(helper)


def allocate(size: int) -> mmap.mmap:
    """Return zeroed private memory, in huge pages where that pays.

    Raises:
        ResourceError: there is not enough memory.
    """
    require_memory(size)
    try:
        block = mmap.mmap(-1, max(size, 1), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except (OSError, ValueError, OverflowError) as error:
        raise ResourceError(f"{size} bytes of memory cannot be had: {error}") from error
    if size >= 2 * _HUGE_PAGE and hasattr(mmap, "MADV_HUGEPAGE"):
        block.madvise(mmap.MADV_HUGEPAGE)
    return block


def _help(code: NativeCode, address: int, number: int, keep: mmap.mmap) -> None:
    """Be a helper thread until stopped; ``keep`` is the memory that it works on."""
    code.worker(address, number)
    del keep


def _stop(code: NativeCode, address: int, helpers: list[threading.Thread], pid: int) -> None:
    """Send the helpers home; in a forked child there are none."""
    if pid != os.getpid():
        return
    code.stop(address)
    for helper in helpers:
        if helper is not threading.current_thread():
            helper.join(_JOIN_S)
