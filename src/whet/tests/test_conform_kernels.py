"""Kernels one by one: compiled code against the interpreter, on shapes that random models have."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whet.codegen.objects.targets import host_target
from whet.tests.kernel_runner import Trial, execute, interpret, kernels_of, trial_of
from whet.tests.random_models import random_network
from whet.tests.seeds import seeds_of_models
from whet.tests.tolerance import EPS, assert_close

Array = np.ndarray[Any, np.dtype[Any]]
AVX2 = "x86_64-unknown-linux-gnu:haswell"
TYPES = ("float64", "float16", "bfloat16")
STEPS = 5

needs_avx2 = pytest.mark.skipif(
    platform.machine() != "x86_64" or "avx2" not in host_target().required,
    reason="runs code for AVX2",
)


def trials(
    seed: int,
    dtype: str = "float32",
    *,
    odd: bool = False,
    named: bool = False,
    target: str = "host",
) -> list[Trial]:
    """Return the kernels of a random model, with random contents."""
    rng = np.random.default_rng(seed)
    net = random_network(seed, dtype, steps=STEPS, batch=("N", 2) if named else None)
    calls, chosen = kernels_of(net.model(), target=target)
    dims = {"N": int(rng.integers(1, 6))} if named else {}
    found = [trial_of(call, chosen, dims, rng, odd=odd) for call in calls]
    return [t for t in found if not _reads_what_it_writes(t)]


def _reads_what_it_writes(trial: Trial) -> bool:
    roots = trial.call.roots
    return any(roots.count(roots[k]) > 1 for k in trial.written)


def check(trial: Trial, cache: Path, *, precise: bool = True) -> None:
    """Compare what both write, the places that neither writes included."""
    types = {p.dtype for p in trial.call.kernel.params if p.dtype in EPS}
    coarsest = max(types, key=lambda t: EPS[t], default="float32")
    results = zip(execute(trial, cache), interpret(trial, precise=precise), strict=True)
    for found, expected in results:
        finite = np.where(np.isfinite(expected.astype(np.float64)), expected, 0)
        scale = max(1.0, float(np.abs(finite.astype(np.float64)).max(initial=0.0)))
        assert_close(found, expected, "product", dtype=coarsest, length=trial.length, scale=scale)


def check_all(count: int, cache: Path, *, of: int = 0, **choices: Any) -> None:
    for seed in seeds_of_models(count, of=of):
        for trial in trials(seed, **choices):
            check(trial, cache, precise=not choices.get("odd", False))


def test_kernels_agree_with_the_interpreter(cache: Path) -> None:
    check_all(25, cache)


def test_kernels_agree_on_infinities_and_nan(cache: Path) -> None:
    check_all(12, cache, odd=True)


@pytest.mark.parametrize("dtype", TYPES)
def test_kernels_of_other_types_agree(dtype: str, cache: Path) -> None:
    check_all(5, cache, dtype=dtype)


def test_kernels_with_run_time_dimensions_agree(cache: Path) -> None:
    check_all(10, cache, named=True)


@needs_avx2
def test_kernels_for_avx2_agree(cache: Path) -> None:
    check_all(8, cache, target=AVX2)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("odd", [False, True])
@pytest.mark.parametrize("dtype", ["float32", *TYPES])
def test_many_kernels_agree(dtype: str, odd: bool, cache: Path) -> None:
    check_all(40, cache, of=100, dtype=dtype, odd=odd)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_kernels_with_run_time_dimensions_agree(cache: Path) -> None:
    check_all(60, cache, of=150, named=True)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@needs_avx2
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_many_kernels_for_avx2_agree(dtype: str, cache: Path) -> None:
    check_all(40, cache, of=100, dtype=dtype, target=AVX2)
