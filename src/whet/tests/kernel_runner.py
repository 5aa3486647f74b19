"""Runs single kernels, as lowering makes them from models, compiled and by the interpreter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx

from whet.codegen.compile import compile_program
from whet.codegen.objects.cache import ObjectCache
from whet.codegen.objects.targets import resolve_target
from whet.dtypes import numpy_dtype
from whet.frontend.load import load_model
from whet.index import Dim, as_poly, product, var
from whet.kernel.chain import Chain
from whet.kernel.interpret_kernels import (
    run_attention,
    run_chain,
    run_contraction,
    run_nest,
    run_pooled,
)
from whet.kernel.pooled import Pooled
from whet.kernel.schedules import Schedules
from whet.kernel.spec import Attention, Contraction, Nest
from whet.kernel.tensor import Tensor
from whet.lower.assemble import assemble
from whet.lower.lower import Lowered, lower
from whet.lower.select import KernelCall
from whet.lower.storage import Root
from whet.ops.table import op_table
from whet.passes.pipeline import run_passes
from whet.program.records import BufferKind
from whet.runtime.arrays import empty_aligned
from whet.runtime.load import from_memory
from whet.runtime.parts import Parts
from whet.target import Target

Array = np.ndarray[Any, np.dtype[Any]]
INTERPRETED = (Nest, Contraction, Chain, Pooled, Attention)
FILL = 77
EVERY_TENTH = 10


@dataclass(frozen=True, slots=True)
class Trial:
    """A kernel with the contents of its parameters, and values of the run-time dimensions."""

    call: KernelCall
    buffers: list[Array]
    dims: dict[str, int]
    target: Target

    @property
    def written(self) -> list[int]:
        """Numbers of the parameters that the kernel writes."""
        return [k for k, p in enumerate(self.call.kernel.params) if p.written]

    @property
    def length(self) -> int:
        """The number of terms in the longest sum."""
        kernel = self.call.kernel
        if isinstance(kernel, Contraction):
            return self._count((*kernel.taps, kernel.depth))
        if isinstance(kernel, Chain):
            return max(self._count((*part.taps, part.depth)) for part in kernel.parts)
        if isinstance(kernel, Pooled):
            windows = max((self._count(s.axes) for s in kernel.window.steps), default=1)
            return windows * self._count((*kernel.product.taps, kernel.product.depth))
        if isinstance(kernel, Attention):
            return max(self._count((kernel.depth,)), self._count((kernel.key,)))
        assert isinstance(kernel, Nest)
        return max((self._count(s.axes) for s in kernel.steps), default=1)

    def _count(self, axes: Any) -> int:
        return product(a.extent for a in axes).evaluate(self.dims)


def kernels_of(
    model: onnx.ModelProto,
    *,
    level: int = 3,
    target: str | Target = "host",
    rewrites: Mapping[str, int | None] = MappingProxyType({}),
    every: bool = False,
) -> tuple[list[KernelCall], Target]:
    """Return the kernels of a model that the interpreter knows, or every one."""
    loaded = load_model(model)
    run_passes(loaded, opt_level=level, switches={})
    chosen = resolve_target(target) if isinstance(target, str) else target
    lowered = lower(
        loaded, op_table(), chosen, level=level, schedules=Schedules(2, rewrites=rewrites)
    )
    return [c for c in lowered.calls if every or isinstance(c.kernel, INTERPRETED)], chosen


def trial_of(
    call: KernelCall, target: Target, dims: dict[str, int], rng: np.random.Generator, *, odd: bool
) -> Trial:
    """Fill the parameters of a kernel; with ``odd``, floats hold infinities and NaN too."""
    buffers = []
    for root, param in zip(call.roots, call.kernel.params, strict=True):
        size = root.size.evaluate(dims)
        dtype = np.dtype(numpy_dtype(root.dtype))
        if param.written:
            buffers.append(np.full(size, 1 if root.dtype == "bool" else FILL).astype(dtype))
        elif root.make is not None:
            buffers.append(np.ascontiguousarray(root.make()).reshape(-1).astype(dtype))
        else:
            buffers.append(_numbers(size, dtype, rng, odd=odd))
    return Trial(call, buffers, dims, target)


def _numbers(size: int, dtype: np.dtype[Any], rng: np.random.Generator, *, odd: bool) -> Array:
    if dtype.kind == "b":
        return rng.random(size) < 0.5
    if dtype.kind in "iu":
        if dtype.itemsize == 1:
            return rng.integers(0, 256, size).astype(np.uint8).view(dtype)
        return rng.integers(0, 5, size).astype(dtype)
    values = rng.standard_normal(size)
    if odd:
        strange = rng.choice([np.inf, -np.inf, np.nan, 0.0, -0.0], size)
        values = np.where(rng.integers(0, EVERY_TENTH, size) == 0, strange, values)
    with np.errstate(all="ignore"):
        return values.astype(dtype)


def interpret(trial: Trial, *, precise: bool) -> list[Array]:
    """Return what the interpreter writes to the written parameters."""
    call, kernel = trial.call, trial.call.kernel
    buffers = [b.copy() for b in trial.buffers]
    if precise:
        buffers = [b.astype(np.float64) if b.dtype.kind in "fV" else b for b in buffers]
    if isinstance(kernel, Nest):
        run_nest(kernel, buffers, trial.dims, precise=precise)
    elif isinstance(kernel, Attention):
        run_attention(kernel, buffers, trial.dims, precise=precise)
    elif isinstance(kernel, Chain):
        run_chain(kernel, buffers, trial.target.lanes, trial.dims, precise=precise)
    elif isinstance(kernel, Pooled):
        run_pooled(kernel, buffers, trial.target.lanes, trial.dims, precise=precise)
    else:
        assert isinstance(call.kernel, Contraction)
        run_contraction(call.kernel, buffers, trial.target.lanes, trial.dims, precise=precise)
    return [buffers[k] for k in trial.written]


def execute(trial: Trial, cache: Path, *, threads: int = 1) -> list[Array]:
    """Compile the kernel into a program of its own and run it."""
    call = trial.call
    inputs: list[tuple[Tensor, Root]] = []
    outputs: list[tuple[str, Tensor, Root]] = []
    roots = []
    for k, (old, param) in enumerate(zip(call.roots, call.kernel.params, strict=True)):
        kind = BufferKind.OUTPUT if param.written else BufferKind.INPUT
        root = Root(f"p{k}", kind, old.dtype, old.size)
        flat = Tensor(f"p{k}", (old.size,), old.dtype)
        roots.append(root)
        if param.written:
            outputs.append((f"p{k}", flat, root))
        else:
            inputs.append((flat, root))
    for name in sorted(trial.dims):
        extent = as_poly(var(Dim(name)))
        root = Root(f"dim.{name}", BufferKind.INPUT, "int8", extent)
        inputs.append((Tensor(f"dim.{name}", (extent,), "int8"), root))
    alone = KernelCall(call.kernel, tuple(roots), call.nodes, call.ops, call.flops)
    lowered = Lowered((alone,), tuple(inputs), tuple(outputs))
    assembled = assemble(lowered, trial.target, threads=threads, reuse=True)
    image = compile_program(
        assembled.program, assembled.kernels, trial.target, ObjectCache(cache), jobs=1
    )
    parts = Parts(assembled.program, image.code, image.symbols, assembled.weights)
    given = {f"p{k}": _aligned(b) for k, b in enumerate(trial.buffers) if k not in trial.written}
    given |= {f"dim.{n}": np.zeros(v, np.int8) for n, v in trial.dims.items()}
    results = {f"p{k}": trial.buffers[k].copy() for k in trial.written}
    from_memory(parts).run(given, outputs=results)
    return list(results.values())


def _aligned(array: Array) -> Array:
    """Return a copy that starts at a whole cache line, as weights do in a compiled file."""
    copy = empty_aligned(array.shape, array.dtype)
    copy[...] = array
    return copy
