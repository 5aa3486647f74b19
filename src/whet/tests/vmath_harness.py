"""Compile a vector function into a loop over arrays, and measure errors in ULP."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache

import llvmlite.binding as llvm
import numpy as np
from numpy.typing import NDArray

from whet.codegen.builder import Builder, Module, i64, vector
from whet.codegen.vmath import FUNCTIONS

Array = NDArray[np.floating]
DTYPES = {"float": np.dtype(np.float32), "double": np.dtype(np.float64)}


def loop_text(name: str, type_: str, lanes: int) -> str:
    """Return a module whose ``f(out, x…, count)`` applies a function; ``count`` is a multiple of lanes."""
    function, module = FUNCTIONS[name], Module()
    inputs = [("ptr noalias", f"x{k}") for k in range(function.arity)]
    b = Builder(module, "f", [("ptr noalias", "out"), *inputs, ("i64", "count")])
    lane_type = vector(type_, lanes)
    with b.loop(i64(0), b.param(function.arity + 1), lanes) as index:
        xs = [b.load(lane_type, b.gep(b.param(k + 1), type_, index)) for k in range(function.arity)]
        b.store(function.emit(b, *xs), b.gep(b.param(0), type_, index))
    b.finish()
    return module.text()


def machine(
    triple: str | None = None, cpu: str | None = None, features: str = ""
) -> llvm.TargetMachine:
    """Return a code generator for a target, the host by default."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    if triple is None:
        triple, cpu = llvm.get_process_triple(), llvm.get_host_cpu_name()
        features = llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_triple(triple)
    return target.create_target_machine(cpu=cpu or "", features=features, opt=2, reloc="pic")


def assembly(text: str, triple: str, cpu: str) -> str:
    """Return the assembly of a module."""
    return str(machine(triple, cpu).emit_assembly(optimised(text)))


def optimised(text: str) -> llvm.ModuleRef:
    """Parse a module and promote its allocas."""
    module = llvm.parse_assembly(text)
    module.verify()
    builder = llvm.create_pass_builder(
        machine(), llvm.create_pipeline_tuning_options(speed_level=0)
    )
    passes = llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.run(module, builder)
    return module


@cache
def compiled(name: str, type_: str = "float", lanes: int = 16) -> Callable[..., Array]:
    """Return a function on arrays of any length."""
    image = machine().emit_object(optimised(loop_text(name, type_, lanes)))
    jit = llvm.create_lljit_compiler()
    library = (
        llvm.JITLibraryBuilder().add_object_img(image).add_current_process().export_symbol("f")
    )
    tracker = library.link(jit, f"{name}_{type_}_{lanes}")
    arity = FUNCTIONS[name].arity
    native = ctypes.CFUNCTYPE(None, *([ctypes.c_void_p] * (arity + 1)), ctypes.c_int64)(
        tracker["f"]
    )
    dtype = DTYPES[type_]

    def run(*xs: Array, out: Array | None = None) -> Array:
        del_tracker = tracker  # keeps the code alive as long as the function
        assert del_tracker is not None
        size = -(-xs[0].size // lanes) * lanes
        if size != xs[0].size or out is None:
            xs = tuple(np.concatenate([x, np.ones(size - x.size, dtype)]).astype(dtype) for x in xs)
            result = np.empty(size, dtype)
        else:
            result = out
        native(result.ctypes.data, *(x.ctypes.data for x in xs), size)
        return result if out is not None else result[:size]

    def trimmed(*xs: Array, out: Array | None = None) -> Array:
        return run(*xs, out=out)[: xs[0].size]

    return trimmed


def all_exponents(dtype: np.dtype[np.floating], count: int) -> Array:
    """Return about ``count`` numbers, evenly spaced over the bit patterns of finite numbers."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    top = int(np.array(np.inf, dtype).view(unsigned))
    step = max(1, 2 * top // count) | 1
    positive = np.arange(0, top, step, dtype=unsigned)
    numbers = positive.view(dtype)
    return np.concatenate([numbers, -numbers])


SPECIAL = (0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 0.5, -0.5, 2.0, -2.0)


def ulp_error(got: Array, exact: NDArray[np.longdouble], floor: float = 0.0) -> float:
    """Return the largest error in units in the last place; infinite where classes differ.

    Errors of up to ``floor`` are forgiven. Results beyond the largest number count as infinite.
    """
    info = np.finfo(got.dtype)
    with np.errstate(all="ignore"):
        rounded = exact.astype(got.dtype)
        same = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
        unit = np.ldexp(
            np.longdouble(1), np.maximum(np.frexp(exact)[1], info.minexp + 1) - 1 - info.nmant
        )
        error = np.abs(got.astype(np.longdouble) - exact)
        units = np.where(same, np.minimum(error / unit, 1), np.maximum(error - floor, 0) / unit)
    units = np.where(same & ~np.isfinite(units), 0, units)
    edge = np.isinf(rounded) ^ np.isinf(got)
    near = np.abs(np.where(np.isinf(got), exact, got).astype(np.longdouble)) > info.max * (1 - 1e-6)
    units = np.where(edge & near & (np.sign(got) == np.sign(rounded)), 1, units)
    units = np.where(np.isnan(units), np.inf, units)
    return float(units.max())
