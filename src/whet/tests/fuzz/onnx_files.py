"""Damaged ONNX files: each is refused with a reason, or compiles and runs."""

from __future__ import annotations

import functools
import math
import traceback
import warnings
from typing import Any

import numpy as np
import onnx

import whet
from whet.dtypes import numpy_dtype
from whet.errors import CompileError, WhetError
from whet.limits import Limits
from whet.runtime.model import CompiledModel
from whet.tests import backend_cases
from whet.tests.fences import fenced
from whet.tests.fuzz.children import BUG, OK, REFUSED
from whet.tests.fuzz.mutate import mutate_bytes, mutate_message
from whet.tests.random_models import random_network

LIMITS = Limits(
    tensor_bytes=2**30,
    folded_bytes=2**28,
    total_bytes=2**28,
    compile_bytes=2**31,
    nodes=5000,
    compile_s=60,
)
_MOST_FENCED_BYTES = 1 << 18
_MOST_WORK = 10**8
_LARGEST_SEED_FILE = 20_000


@functools.cache
def _seed_names() -> list[str]:
    cases = backend_cases.all_cases()
    return sorted(n for n in cases if n.startswith("node/"))


def original(rng: np.random.Generator) -> onnx.ModelProto:
    """Return a model to damage: one of ONNX's own tests, or a random network."""
    names = _seed_names()
    while rng.random() < 0.6:
        case = backend_cases.load_case(names[int(rng.integers(len(names)))])
        if case is not None and case.model.ByteSize() < _LARGEST_SEED_FILE:
            return case.model
    steps = int(rng.integers(1, 6))
    batch = ("N", 2) if rng.random() < 0.3 else None
    return random_network(int(rng.integers(10_000)), steps=steps, batch=batch).model()


def damaged(seed: int) -> bytes:
    """Return the damaged file of a seed."""
    rng = np.random.default_rng(seed)
    model = onnx.ModelProto()
    model.CopyFrom(original(rng))
    if rng.random() < 0.7:
        mutate_message(model, rng)
        return bytes(model.SerializeToString())
    return mutate_bytes(model.SerializeToString(), rng)


def compile_and_run(data: bytes, cache: str) -> tuple[str, str]:
    """Return what becomes of a file: ``ok``, ``refused`` or ``bug``, and why."""
    warnings.simplefilter("ignore")
    try:
        options = whet.Options(threads=1, cache_dir=cache, limits=LIMITS)
        model = whet.compile(data, options=options)
        _run(model)
    except CompileError as error:
        return BUG, str(error)
    except WhetError as error:
        return (REFUSED, type(error).__name__) if len(str(error)) > 10 else (BUG, repr(error))
    except Exception:  # noqa: BLE001 - that is what is looked for
        return BUG, traceback.format_exc()
    return OK, ""


def _run(model: CompiledModel) -> None:
    """Run a model on ones, unless that is much work or it takes more than arrays."""
    if any("(" in spec.dtype for spec in model.inputs):
        return
    dims = dict.fromkeys(model.program.dims, 3)
    work = sum(x.flops.evaluate(dims) + x.bytes.evaluate(dims) for x in model.program.launches)
    shapes = {
        s.name: tuple(p.evaluate(dims) for p in axes)
        for s, axes in zip(model.inputs, model.program.input_shapes, strict=True)
    }
    if work + sum(map(math.prod, shapes.values())) > _MOST_WORK:
        return
    model.run({s.name: _ones(shapes[s.name], s.dtype) for s in model.inputs})


def _ones(shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    """Return ones, where there are not many with a page behind them that must not be read."""
    if dtype == "string":
        return np.full(shape, "one", object)
    array = np.ones(shape, numpy_dtype(dtype))
    return fenced(array, at_end=True) if array.nbytes <= _MOST_FENCED_BYTES else array
