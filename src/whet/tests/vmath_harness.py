"""Compile vector functions into loops over arrays; references and errors in ULP."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numpy.typing import NDArray

from whet.codegen.vmath import FUNCTIONS
from whet.codegen.writing.builder import Builder, Module, i64, vector

Array = NDArray[Any]
DTYPES: dict[str, np.dtype[Any]] = {"float": np.dtype("f4"), "double": np.dtype("f8")}
SPECIAL = (0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 0.5, -0.5, 2.0, -2.0, 3.0, -3.0, 1.5)


def loops(names: Sequence[str], type_: str, lanes: int) -> str:
    """Return a module with a function ``f_NAME(out, x…, count)`` for each name.

    It applies the vector function to ``count`` elements, a multiple of ``lanes``.
    """
    module = Module()
    for name in names:
        function = FUNCTIONS[name]
        inputs = [("ptr noalias", f"x{k}") for k in range(function.arity)]
        b = Builder(module, f"f_{name}", [("ptr noalias", "out"), *inputs, ("i64", "count")])
        lane_type = vector(type_, lanes)
        with b.loop(i64(0), b.param(function.arity + 1), lanes) as index:
            places = [b.gep(b.param(k + 1), type_, index) for k in range(function.arity)]
            result = function.emit(b, *(b.load(lane_type, place) for place in places))
            b.store(result, b.gep(b.param(0), type_, index))
        b.finish()
    return module.text()


def machine(triple: str | None = None, cpu: str | None = None) -> llvm.TargetMachine:
    """Return a code generator for a target, the host by default."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    features = ""
    if triple is None:
        triple, cpu = llvm.get_process_triple(), llvm.get_host_cpu_name()
        features = llvm.get_host_cpu_features().flatten()
    target = llvm.Target.from_triple(triple)
    return target.create_target_machine(cpu=cpu or "", features=features, opt=2, reloc="pic")


def optimised(text: str) -> llvm.ModuleRef:
    """Parse a module and promote its allocas."""
    module = llvm.parse_assembly(text)
    module.verify()
    builder = llvm.create_pass_builder(machine(), llvm.create_pipeline_tuning_options(0))
    passes = llvm.create_new_module_pass_manager()
    passes.add_sroa_pass()
    passes.run(module, builder)
    return module


def assembly(text: str, triple: str, cpu: str) -> str:
    """Return the assembly of a module for a target."""
    return str(machine(triple, cpu).emit_assembly(optimised(text)))


@cache
def compiled(name: str, type_: str = "float", lanes: int = 16) -> Callable[..., Array]:
    """Return a function from arrays of any length to a new array."""
    image = machine().emit_object(optimised(loops([name], type_, lanes)))
    library = llvm.JITLibraryBuilder().add_object_img(image).export_symbol(f"f_{name}")
    tracker = library.link(llvm.create_lljit_compiler(), f"{name}_{type_}_{lanes}")
    pointers = [ctypes.c_void_p] * (FUNCTIONS[name].arity + 1)
    native = ctypes.CFUNCTYPE(None, *pointers, ctypes.c_int64)(tracker[f"f_{name}"])

    def run(*xs: Array, keep: object = tracker) -> Array:
        count = -(-xs[0].size // lanes) * lanes
        padded = [np.ones(count, DTYPES[type_]) for _ in xs]
        for target, x in zip(padded, xs, strict=True):
            target[: x.size] = x
        out = np.empty(count, DTYPES[type_])
        native(out.ctypes.data, *(x.ctypes.data for x in padded), count)
        return out[: xs[0].size]

    return run


def samples(dtype: np.dtype[Any], count: int) -> Array:
    """Return about ``2 count`` numbers: every exponent, the usual range, edges and specials."""
    unsigned = np.dtype(f"u{dtype.itemsize}")
    top = int(np.array(np.inf, dtype).view(unsigned))
    patterns = np.arange(0, top, (2 * top // count) | 1, dtype=unsigned).view(dtype)
    ranges = [np.linspace(-w, w, count // 4).astype(dtype) for w in (2, 20, 120, 800)]
    info = np.finfo(dtype)
    edges = [info.max, info.tiny, info.smallest_subnormal, 1 - info.epsneg, 1 + info.eps]
    pi = np.arange(1, 400) * (math.pi / 4)
    special = np.array([*edges, *pi, *SPECIAL], dtype)
    return np.concatenate([patterns, -patterns, *ranges, special, -special])


def reference(name: str, x: Array) -> Array:
    """Return what a function of one operand should be, computed in the precision of ``x``."""
    with np.errstate(all="ignore"):
        return np.asarray(_REFERENCES[name](x))


def _erf(x: Array) -> Array:
    """Return erf: the C library's for f64, a series of positive terms for long double."""
    if x.dtype == np.float64:
        return np.fromiter(map(math.erf, x.tolist()), np.float64, x.size)
    a = np.minimum(np.abs(x), 7)
    term = total = a
    for n in range(1, 200):
        term = term * (2 * a * a) / (2 * n + 1)
        total = total + term
    result = total * np.exp(-a * a) * 2 / np.sqrt(_pi(x))
    return np.copysign(np.where(a == 7, 1, np.minimum(result, 1)), x)


def _pi(x: Array) -> Array:
    return np.asarray(4 * np.arctan(x.dtype.type(1)))


def _gelu_tanh(x: Array) -> Array:
    cubic = x.dtype.type(44715) / 1000000
    return np.asarray(x / (1 + np.exp(-2 * np.sqrt(2 / _pi(x)) * (x + cubic * x**3))))


_REFERENCES: dict[str, Callable[[Array], Any]] = {
    "exp": np.exp,
    "exp_nonpositive": lambda x: np.exp(np.minimum(x, 0)),
    "exp2": np.exp2,
    "expm1": np.expm1,
    "sinh": np.sinh,
    "cosh": np.cosh,
    "log": np.log,
    "log2": np.log2,
    "log1p": np.log1p,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "silu": lambda x: x / (1 + np.exp(-x)),
    "tanh": np.tanh,
    "erf": _erf,
    "gelu": lambda x: x * (1 + _erf(x / np.sqrt(x.dtype.type(2)))) / 2,
    "gelu_tanh": _gelu_tanh,
    "softplus": lambda x: np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x))),
    "sin": np.sin,
    "cos": np.cos,
    "tan": np.tan,
    "asin": np.arcsin,
    "acos": np.arccos,
    "atan": np.arctan,
    "asinh": np.arcsinh,
    "acosh": np.arccosh,
    "atanh": np.arctanh,
    "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x,
    "abs": np.abs,
    "floor": np.floor,
    "ceil": np.ceil,
    "round": np.rint,
    "trunc": np.trunc,
    "sign": np.sign,
    "relu": lambda x: np.maximum(x, 0),
}


def ulp_errors(got: Array, exact: Array, floor: float = 0.0) -> Array:
    """Return errors in units in the last place of the exact result; infinite where classes differ.

    Errors of up to ``floor`` are forgiven. ``exact`` has more precision than ``got``; beyond the
    largest number of the narrow format it counts as infinite, and an ulp to either side is one.
    """
    info = np.finfo(got.dtype)
    with np.errstate(all="ignore"):
        rounded = exact.astype(got.dtype)
        exponent = np.maximum(np.frexp(exact)[1], info.minexp + 1)
        unit = np.ldexp(exact.dtype.type(1), exponent - 1 - info.nmant)
        error = np.maximum(np.abs(got.astype(exact.dtype) - exact) - floor, 0) / unit
        alike = (got == rounded) | (np.isnan(got) & np.isnan(rounded))
        finite = np.where(np.isinf(got), exact, got.astype(exact.dtype))
        edge = (np.isinf(got) != np.isinf(rounded)) & (
            np.abs(finite) > info.max * (1 - 8 * info.eps)
        )
    error = np.where(np.isnan(error), np.inf, error)
    error = np.where(edge & (np.sign(got) == np.sign(rounded)), 1, error)
    return np.where(alike & ~np.isfinite(error), 0, error)
