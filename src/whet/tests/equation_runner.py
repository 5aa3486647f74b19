"""Compiles equations that no model led to, and runs them, for tests of single kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from whet.codegen.compile import compile_program
from whet.codegen.objects.cache import ObjectCache
from whet.codegen.objects.targets import resolve_target
from whet.index import Dim, var
from whet.kernel.schedules import Schedules
from whet.kernel.tensor import Tensor
from whet.lower.assemble import assemble
from whet.lower.equations import Equations, collect_tensors
from whet.lower.lower import lower_equations
from whet.runtime.load import from_memory
from whet.runtime.parts import Parts
from whet.tests.fences import fenced

Array = np.ndarray[Any, np.dtype[Any]]


def run_compiled(
    outputs: Sequence[Tensor],
    inputs: Mapping[str, Array],
    dims: Mapping[str, int],
    cache: Path,
    *,
    level: int = 3,
) -> list[Array]:
    """Compile some equations and run them, with all arrays next to forbidden pages.

    Args:
        outputs: what is computed.
        inputs: arrays of the input tensors, by name.
        dims: run-time dimensions, also those that depend on data.
        cache: folder of the kernel cache.
        level: optimisation level.
    """
    tensors = collect_tensors(outputs, known=())
    given = [t for t in tensors if t.definition is None and t.value is None]
    extents = [Tensor(f"dim.{name}", (var(Dim(name)),), "int8") for name in sorted(dims)]
    named = [(f"out{k}", t) for k, t in enumerate(outputs)]
    equations = Equations(tensors, [*given, *extents], named)
    target = resolve_target("host")
    lowered = lower_equations(equations, target, level=level, schedules=Schedules(1))
    assembled = assemble(lowered, target, threads=1, reuse=True)
    image = compile_program(
        assembled.program, assembled.kernels, target, ObjectCache(cache), jobs=1
    )
    parts = Parts(assembled.program, image.code, image.symbols, assembled.weights)
    arrays = {t.name: fenced(inputs[t.name], at_end=True) for t in given}
    arrays |= {f"dim.{name}": np.zeros(size, np.int8) for name, size in dims.items()}
    model = from_memory(parts)
    plain = model(arrays)
    results = {n: fenced(np.zeros_like(a), at_end=True) for n, a in plain.items()}
    model.run(arrays, outputs=results)
    return [results[name] for name, _ in named]
