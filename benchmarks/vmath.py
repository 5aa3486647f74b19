"""Measure the vector maths: ns and cycles per element in cache, against NumPy on the same data.

Run ``python benchmarks/vmath.py [NAME …]``. The two sides alternate call by call; each one's best
time counts, and that of a call on 64 elements is subtracted from both. The clock comes from a chain
of dependent additions timed in the same run, whose latency is known (`--add-latency` overrides it).
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from typing import Any

import llvmlite.binding as llvm
import numpy as np

from whet.codegen.vmath import FUNCTIONS, instructions
from whet.codegen.writing.builder import F32, Builder, Module, Value, i64
from whet.tests.vmath_harness import loops, machine, optimised

COUNT, FEW = 4096, 64
ROUNDS = 200
NUMPY: dict[str, Callable[..., Any]] = {
    "exp": np.exp,
    "exp2": np.exp2,
    "expm1": np.expm1,
    "log": np.log,
    "log2": np.log2,
    "log1p": np.log1p,
    "tanh": np.tanh,
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "pow": np.power,
    "fmod": np.fmod,
    "sqrt": np.sqrt,
    "maximum": np.maximum,
}


def link(text: str, name: str, arity: int) -> tuple[Callable[..., None], object]:
    """Compile a module; returns its function and what keeps it alive."""
    library = llvm.JITLibraryBuilder().add_object_img(machine().emit_object(optimised(text)))
    tracker = library.export_symbol(name).link(llvm.create_lljit_compiler(), name)
    types = [ctypes.c_void_p] * arity + [ctypes.c_int64]
    return ctypes.CFUNCTYPE(None, *types)(tracker[name]), tracker


def nanoseconds(run: Callable[[], object]) -> float:
    """Return the time of one call in nanoseconds."""
    start = time.perf_counter_ns()
    run()
    return float(time.perf_counter_ns() - start)


def clock_ghz(latency: int) -> float:
    """Return the clock rate from a chain of dependent additions of known latency."""
    b = Builder(Module(), "chain", [("ptr", "p"), ("i64", "count")])
    cell = b.alloca(F32)
    b.store(b.load(F32, b.param(0)), cell)
    with b.loop(i64(0), b.param(1)):
        total = b.load(F32, cell)
        for _ in range(16):
            total = b.binary("fadd", total, Value("1.0", F32))
        b.store(total, cell)
    b.store(b.load(F32, cell), b.param(0))
    b.finish()
    chain, alive = link(b.module.text(), "chain", 1)
    place = np.zeros(1, np.float32)
    times = [nanoseconds(lambda: chain(place.ctypes.data, 10_000)) for _ in range(30)]
    del alive
    return 16 * 10_000 * latency / min(times)


def measure(name: str, lanes: int) -> tuple[float, float]:
    """Return ns per element, ours and NumPy's (NaN where it has no such function)."""
    function = FUNCTIONS[name]
    native, alive = link(loops([name], F32, lanes), f"f_{name}", function.arity + 1)
    rng = np.random.default_rng(0)
    xs = [rng.uniform(0.05, 0.95, COUNT).astype(np.float32) for _ in range(function.arity)]
    xs[0] = xs[0] + 1 if name == "acosh" else xs[0]
    out = np.empty_like(xs[0])
    pointers = (out.ctypes.data, *(x.ctypes.data for x in xs))
    peer = NUMPY.get(name)
    times: dict[tuple[bool, int], list[float]] = {}
    for _ in range(ROUNDS):
        for count in (COUNT, FEW):
            spent = nanoseconds(lambda size=count: native(*pointers, size))  # type: ignore[misc]
            times.setdefault((True, count), []).append(spent)
            few, short = [x[:count] for x in xs], out[:count]
            if peer is not None:
                spent = nanoseconds(lambda a=few, o=short: peer(*a, out=o))  # type: ignore[misc]
                times.setdefault((False, count), []).append(spent)
    del alive
    return per_element(times, ours=True), per_element(times, ours=False)


def per_element(times: dict[tuple[bool, int], list[float]], *, ours: bool) -> float:
    """Return the best time of the long call less that of the short one, for one element."""
    if (ours, COUNT) not in times:
        return float("nan")
    return (min(times[ours, COUNT]) - min(times[ours, FEW])) / (COUNT - FEW)


def add_latency() -> int:
    """Return the cycles of a dependent float addition on this machine."""
    name = llvm.get_host_cpu_name()
    return 2 if name == "znver5" else 3 if name.startswith("znver") else 4


def main() -> None:
    """Print one row a function."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="functions; all by default")
    parser.add_argument("--lanes", type=int, default=16)
    parser.add_argument("--add-latency", type=int, default=add_latency())
    options = parser.parse_args()
    clock = clock_ghz(options.add_latency)
    print(f"{llvm.get_host_cpu_name()}, about {clock:.2f} GHz, {options.lanes} lanes, f32 in cache")
    print(f"{'function':16}{'IR':>5}{'ns/elem':>9}{'cycles':>8}{'numpy ns':>10}{'ratio':>7}")
    for name in options.names or sorted(FUNCTIONS):
        ours, theirs = measure(name, options.lanes)
        size = instructions(FUNCTIONS[name], f"<{options.lanes} x float>")
        row = f"{name:16}{size:5}{ours:9.3f}{ours * clock:8.2f}{theirs:10.3f}{theirs / ours:7.1f}"
        print(row)


if __name__ == "__main__":
    main()
