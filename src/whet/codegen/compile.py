"""Kernels to an image: text, cache, compiler processes, linking."""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping

import msgspec

from whet.codegen.kinds.table import kernel_text
from whet.codegen.objects.cache import ObjectCache, object_key
from whet.codegen.objects.kernel_key import kernel_key
from whet.codegen.objects.link import Image, link
from whet.codegen.objects.object_code import compile_ir
from whet.codegen.objects.worker import read_frame, write_frame
from whet.codegen.threads.spmd import driver_text
from whet.errors import CompileError
from whet.kernel.spec import Kernel
from whet.program.records import Program
from whet.target import Target

KERNELS_PER_PROCESS = 4
DRIVER = "driver"

# Imports come from where this process has them, never from the current folder.
_HELPER = (
    "import sys; sys.path[:] = sys.argv[1:]; from whet.codegen.objects.worker import main; main()"
)

Report = Callable[[int, int], None]


def compile_program(
    program: Program,
    kernels: Mapping[str, Kernel],
    target: Target,
    cache: ObjectCache,
    *,
    jobs: int,
    report: Report | None = None,
) -> Image:
    """Compile and link all kernels of a program and its driver.

    Args:
        program: launches by kernel name.
        kernels: specifications by name.
        target: what to compile for.
        cache: objects of earlier compilations.
        jobs: compiler processes, this one included.
        report: called as ``report(done, total)``.
    """
    known = {n: kernel_key(n, k, program.dims, target) for n, k in kernels.items()}
    objects = {n: found for n, k in known.items() if (found := cache.recall(k)) is not None}
    texts = {
        n: kernel_text(n, k, program.dims, target) for n, k in kernels.items() if n not in objects
    }
    texts[DRIVER] = driver_text(program)
    keys = {name: object_key(text, target) for name, text in texts.items()}
    objects |= {n: found for n, key in keys.items() if (found := cache.get(key)) is not None}
    missing = {name: text for name, text in texts.items() if name not in objects}
    batch = _Batch(missing, target, len(kernels) + 1, report, objects)
    batch.run(min(jobs, 1 + len(missing) // KERNELS_PER_PROCESS))
    for name in missing:
        cache.put(keys[name], objects[name])
    for name in known.keys() & keys.keys():
        cache.remember(known[name], keys[name])
    return link({name: objects[name] for name in (*kernels, DRIVER)})


class _Batch(msgspec.Struct):
    """Modules being compiled by this process and its helpers."""

    texts: Mapping[str, str]
    target: Target
    total: int
    report: Report | None
    objects: dict[str, bytes]
    errors: list[str] = msgspec.field(default_factory=list)
    lock: threading.Lock = msgspec.field(default_factory=threading.Lock)
    waiting: queue.SimpleQueue[str] = msgspec.field(default_factory=queue.SimpleQueue)

    def run(self, jobs: int) -> None:
        """Compile everything; helpers end with the batch, also when it is interrupted."""
        if self.report is not None:
            self.report(len(self.objects), self.total)
        for name in sorted(self.texts, key=lambda n: -len(self.texts[n])):
            self.waiting.put(name)
        helpers: list[subprocess.Popen[bytes]] = []
        feeders: list[threading.Thread] = []
        try:
            for _ in range(jobs - 1 if sys.executable else 0):
                helpers.append(_start_helper())
                feeder = threading.Thread(target=self._feed, args=helpers[-1:], daemon=True)
                feeder.start()
                feeders.append(feeder)
            self._drain(lambda text: compile_ir(text, self.target))
            for feeder in feeders:
                feeder.join()
        finally:
            for helper in helpers:
                helper.kill()
            for feeder in feeders:
                feeder.join()  # the pipes that it uses are closed next
            for helper in helpers:
                _close_pipes(helper)
        if self.errors:
            raise CompileError(self.errors[0])

    def _feed(self, helper: subprocess.Popen[bytes]) -> None:
        source, sink = helper.stdout, helper.stdin
        assert source is not None and sink is not None

        def remote(text: str) -> bytes:
            write_frame(sink, text.encode())
            answer = read_frame(source)
            if answer is None or answer[:1] != b"+":
                raise CompileError((answer or b"-the compiler process ended")[1:].decode())
            return answer[1:]

        try:
            write_frame(sink, msgspec.msgpack.encode(self.target))
            self._drain(remote)
        except (OSError, CompileError) as error:
            self.errors.append(str(error))

    def _drain(self, compile_one: Callable[[str], bytes]) -> None:
        while not self.errors:
            try:
                name = self.waiting.get_nowait()
            except queue.Empty:
                return
            done = compile_one(self.texts[name])
            with self.lock:
                self.objects[name] = done
                if self.report is not None:
                    self.report(len(self.objects), self.total)


def _start_helper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-P", "-c", _HELPER, *(os.path.abspath(folder) for folder in sys.path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        process_group=0,  # Ctrl-C reaches this process alone, which ends its helpers
    )


def _close_pipes(helper: subprocess.Popen[bytes]) -> None:
    """Close the pipes of a compiler process that was stopped, whatever it was doing."""
    helper.wait()
    for pipe in (helper.stdin, helper.stdout):
        if pipe is not None:
            with contextlib.suppress(OSError):  # half a message may be left in the buffer
                pipe.close()
