"""Random models, compiled and run: against the reference in double precision, level by level."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import whet
from whet.runtime.model import CompiledModel
from whet.tests.random_models import inputs_of, random_network
from whet.tests.tolerance import assert_close

Array = np.ndarray[Any, np.dtype[Any]]
BATCHES = (1, 2, 5)
NAMED = ("N", 2)
SEEDS = 20260
"""Where the seeds of the models come from: fixed, so that a failure can be repeated."""


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel cache that the tests share."""
    return tmp_path_factory.mktemp("kernels")


def fresh_seeds(count: int) -> Iterator[int]:
    """Yield seeds; the last one is in the report of a test that fails."""
    for seed in random.sample(range(1_000_000), count):
        sys.stdout.write(f"seed {seed}\n")
        yield seed


def expected_of(model: onnx.ModelProto, inputs: dict[str, Array]) -> list[Array] | None:
    """Return what the reference computes; ``None`` where it gives up."""
    wide = {n: a.astype(np.float64) for n, a in inputs.items()}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return [np.asarray(a) for a in ReferenceEvaluator(model).run(None, wide)]
        except Exception:  # noqa: BLE001 - the reference has faults of its own, of any type
            return None


def check(found: dict[str, Array], expected: list[Array]) -> None:
    """Compare all outputs; even doubles meet attributes in single precision on their way."""
    for array, wanted in zip(found.values(), expected, strict=True):
        scale = max(float(np.abs(wanted).max(initial=0.0)), 0.05)
        dtype = "float32" if array.dtype == np.float64 else array.dtype.name
        assert_close(array, wanted, "graph", dtype=dtype, scale=scale)


def compiled(model: onnx.ModelProto, cache: Path, **options: Any) -> CompiledModel:
    return whet.compile(
        model, options=whet.Options(**{"threads": 1, "cache_dir": cache, **options})
    )


def agrees(seed: int, cache: Path, dtype: str = "float32", **options: Any) -> None:
    smooth = dtype != "float32"
    net = random_network(seed, dtype, smooth=smooth)
    inputs = inputs_of(net, seed)
    expected = expected_of(random_network(seed, "float64", smooth=smooth).model(), inputs)
    if expected is not None:
        check(compiled(net.model(), cache, **options)(inputs), expected)


def batches_agree(seed: int, cache: Path) -> None:
    net = random_network(seed, batch=NAMED)
    wide = random_network(seed, "float64", batch=NAMED).model()
    model = compiled(net.model(), cache)
    for batch in BATCHES:
        inputs = inputs_of(net, seed, batch)
        expected = expected_of(wide, inputs)
        if expected is not None:
            check(model(inputs), expected)


def threads_agree(seed: int, cache: Path) -> None:
    net = random_network(seed, steps=12)
    inputs = inputs_of(net, seed)
    model = net.model()
    found = [compiled(model, cache, threads=n)(inputs) for n in (1, 2, 3)]
    for other in found[1:]:
        for name, array in found[0].items():
            np.testing.assert_array_equal(array, other[name])


def test_the_same_seed_gives_the_same_model() -> None:
    first, second = random_network(7).model(), random_network(7).model()
    assert first.SerializeToString() == second.SerializeToString()


def test_models_agree_with_the_reference(cache: Path) -> None:
    for seed in fresh_seeds(40):
        agrees(seed, cache)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_models_agree_at_lower_levels(level: int, cache: Path) -> None:
    for seed in fresh_seeds(8):
        agrees(seed, cache, opt_level=level)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_models_agree_in_other_types(dtype: str, cache: Path) -> None:
    for seed in fresh_seeds(6):
        agrees(seed, cache, dtype)


def test_one_model_takes_any_batch(cache: Path) -> None:
    for seed in fresh_seeds(15):
        batches_agree(seed, cache)


def test_bits_do_not_depend_on_threads(cache: Path) -> None:
    for seed in fresh_seeds(6):
        threads_agree(seed, cache)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_models_agree_with_the_reference(cache: Path) -> None:
    for seed in fresh_seeds(600):
        agrees(seed, cache)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("level", [0, 1, 2])
def test_many_models_agree_at_lower_levels(level: int, cache: Path) -> None:
    for seed in fresh_seeds(150):
        agrees(seed, cache, opt_level=level)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_models_take_any_batch(cache: Path) -> None:
    for seed in fresh_seeds(300):
        batches_agree(seed, cache)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_bits_of_many_models_do_not_depend_on_threads(cache: Path) -> None:
    for seed in fresh_seeds(100):
        threads_agree(seed, cache)
