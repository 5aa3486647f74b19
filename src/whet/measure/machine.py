"""The machine at hand: what it is, its multiply-add peak and its memory bandwidth, measured."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import platform
import threading
import time
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path

import llvmlite.binding as llvm
import msgspec
import numpy as np

from whet.codegen.objects.object_code import compile_ir
from whet.codegen.objects.targets import host_target, target_machine
from whet.measure.peak_kernels import READ_STREAMS, multiply_add_text, read_text

VERSIONED = ("whet", "llvmlite", "onnx", "onnxruntime", "openvino", "torch", "numpy")
PEAK_STEPS = 40_000  # 24 chains of 16 lanes: 31 MFLOP, well under a millisecond
PEAK_TRIALS = 400
READ_TRIALS = 6
READ_BYTES = 256 * 1024 * 1024

Kernel = Callable[[int, int], None]


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """Where a measurement was made."""

    cpu: str
    llvm_cpu: str
    cpus: int
    memory_bytes: int
    system: str
    python: str
    versions: dict[str, str]


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Measured limits of a number of threads.

    Attributes:
        gflops: f32 multiply-add peak, two operations each.
        read_gbytes: memory read bandwidth, 1e9 bytes a second.
    """

    threads: int
    gflops: float
    read_gbytes: float


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.lower().startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for package in VERSIONED:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe_machine() -> Machine:
    """Return what the machine is and which versions are installed."""
    return Machine(
        cpu=_cpu_name(),
        llvm_cpu=llvm.get_host_cpu_name(),
        cpus=len(os.sched_getaffinity(0)),
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        system=f"{platform.system()} {platform.release()}",
        python=platform.python_version(),
        versions=_versions(),
    )


class LimitKernels:
    """The compiled kernels; they live as long as this object.

    Args:
        lanes: f32 elements of a vector, by default as many as the machine's registers hold.
    """

    def __init__(self, lanes: int | None = None) -> None:
        target = host_target()
        self.lanes = lanes or target.lanes
        self.chains = target.registers * 3 // 4
        text = multiply_add_text("multiply_add", self.lanes, self.chains)
        text += read_text("read", self.lanes)
        self._jit = llvm.create_lljit_compiler(target_machine(target))
        builder = llvm.JITLibraryBuilder().add_object_img(compile_ir(text, target))
        builder = builder.export_symbol("multiply_add").export_symbol("read")
        self._library = builder.link(self._jit, "limits")
        self.multiply_add = self._function("multiply_add")
        self.read = self._function("read")

    def _function(self, name: str) -> Kernel:
        kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
        function: Kernel = kind(self._library[name])
        return function


def _best_seconds(calls: list[Callable[[], None]], trials: int) -> list[float]:
    """Run every call ``trials`` times, all in threads of their own at once; return best seconds.

    Each thread keeps to a CPU of its own: the scheduler may leave young threads on one CPU for
    longer than a trial lasts.
    """
    gate = threading.Barrier(len(calls))
    cpus = sorted(os.sched_getaffinity(0))
    best = [0.0] * len(calls)

    def work(index: int) -> None:
        os.sched_setaffinity(0, {cpus[index % len(cpus)]})
        gate.wait()
        stamps = [time.perf_counter()]
        for _ in range(trials):
            calls[index]()
            stamps.append(time.perf_counter())
        best[index] = min(end - start for start, end in pairwise(stamps))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return best


def measure_peak(threads: int = 1, kernels: LimitKernels | None = None) -> float:
    """Return the f32 multiply-add peak of ``threads`` threads in GFLOP/s.

    The sum of each thread's best trial while all run. Trials are shorter than a scheduler's time
    slice, so that some of them are undisturbed even on a busy machine.
    """
    kernels = kernels or LimitKernels()
    vectors = kernels.chains + 1
    buffers = [np.zeros(vectors * kernels.lanes, np.float32) for _ in range(threads)]
    calls: list[Callable[[], None]] = [
        partial(kernels.multiply_add, buffer.ctypes.data, PEAK_STEPS) for buffer in buffers
    ]
    work = PEAK_STEPS * kernels.chains * kernels.lanes * 2
    return sum(work / seconds for seconds in _best_seconds(calls, PEAK_TRIALS)) / 1e9


def measure_read(threads: int = 1, kernels: LimitKernels | None = None) -> float:
    """Return the memory read bandwidth of ``threads`` threads in GB/s (1e9 bytes).

    The threads read disjoint parts of 256 MiB, more than the caches of most machines hold.
    """
    kernels = kernels or LimitKernels()
    step = READ_STREAMS * kernels.lanes * 4
    steps = READ_BYTES // threads // step
    buffers = [np.zeros((steps + 2) * step // 4, np.int32) for _ in range(threads)]
    for buffer in buffers:
        buffer += 1  # touch the pages, or all of them are one page of zeros
    calls: list[Callable[[], None]] = [
        partial(kernels.read, buffer.ctypes.data, steps) for buffer in buffers
    ]
    return sum(steps * step / seconds for seconds in _best_seconds(calls, READ_TRIALS)) / 1e9


def measure_limits(threads: int) -> Limits:
    """Measure peak and bandwidth for a number of threads; takes about half a second."""
    kernels = LimitKernels()
    return Limits(
        threads=threads,
        gflops=measure_peak(threads, kernels),
        read_gbytes=measure_read(threads, kernels),
    )


def higher(first: Limits, second: Limits) -> Limits:
    """Return the higher of two measurements of the same limits, as noise only lowers them."""
    return Limits(
        threads=first.threads,
        gflops=max(first.gflops, second.gflops),
        read_gbytes=max(first.read_gbytes, second.read_gbytes),
    )
