"""Random models, compiled and run: against the reference in double precision, level by level."""

from __future__ import annotations

import itertools
import multiprocessing
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import whet
from whet.runtime.model import CompiledModel
from whet.tests.fences import fenced
from whet.tests.random_models import inputs_of, random_network
from whet.tests.seeds import seeds_of_models
from whet.tests.tolerance import assert_close, largest_difference

Array = np.ndarray[Any, np.dtype[Any]]
BATCHES = (1, 2, 5)
NAMED = ("N", 2)


def expected_of(model: onnx.ModelProto, inputs: dict[str, Array]) -> list[Array] | None:
    """Return what the reference computes; ``None`` where it gives up."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            return [np.asarray(a) for a in ReferenceEvaluator(model).run(None, dict(inputs))]
        except Exception:  # noqa: BLE001 - the reference has faults of its own, of any type
            return None


def check(
    found: dict[str, Array], expected: list[Array], rounded: list[Array] | None = None
) -> None:
    """Compare all outputs; even doubles meet attributes in single precision on their way.

    Where terms cancel, a result is as uncertain as its largest term: ``rounded`` is what the
    reference computes in the type of the model, and its error belongs to the bound.
    """
    for index, (array, wanted) in enumerate(zip(found.values(), expected, strict=True)):
        scale = max(float(np.abs(wanted).max(initial=0.0)), 0.05)
        dtype = "float32" if array.dtype == np.float64 else array.dtype.name
        noise = 0.0 if rounded is None else largest_difference(rounded[index], wanted)
        assert_close(array, wanted, "graph", dtype=dtype, scale=scale, noise=noise)


def widened(inputs: dict[str, Array]) -> dict[str, Array]:
    """Return inputs in double precision."""
    return {name: array.astype(np.float64) for name, array in inputs.items()}


def compiled(model: onnx.ModelProto, cache: Path, **options: Any) -> CompiledModel:
    return whet.compile(
        model, options=whet.Options(**{"threads": 1, "cache_dir": cache, **options})
    )


def agrees(seed: int, cache: Path, dtype: str = "float32", **options: Any) -> None:
    smooth = dtype != "float32"
    net = random_network(seed, dtype, smooth=smooth)
    inputs = inputs_of(net, seed)
    model, wide = net.model(), random_network(seed, "float64", smooth=smooth).model()
    expected = expected_of(wide, widened(inputs))
    if expected is not None:
        check(compiled(model, cache, **options)(inputs), expected, expected_of(model, inputs))


def batches_agree(seed: int, cache: Path) -> None:
    net = random_network(seed, batch=NAMED)
    wide = random_network(seed, "float64", batch=NAMED).model()
    single = net.model()
    model = compiled(single, cache)
    for batch in BATCHES:
        inputs = inputs_of(net, seed, batch)
        expected = expected_of(wide, widened(inputs))
        if expected is not None:
            check(model(inputs), expected, expected_of(single, inputs))


def stays_inside(seeds: list[int], cache: Path) -> None:
    """Run models whose inputs and outputs lie between forbidden pages; a fault ends the process."""
    for seed in seeds:
        net = random_network(seed, batch=NAMED)
        model = compiled(net.model(), cache)
        for batch, at_end in itertools.product(BATCHES, (False, True)):
            inputs = inputs_of(net, seed, batch)
            around = {name: fenced(array, at_end=at_end) for name, array in inputs.items()}
            results = {name: fenced(array, at_end=at_end) for name, array in model(around).items()}
            model.run(around, outputs=results)


def assert_stays_inside(seeds: list[int], cache: Path) -> None:
    """Assert that no kernel of these models touches memory outside its arrays."""
    process = multiprocessing.get_context("spawn").Process(target=stays_inside, args=(seeds, cache))
    process.start()
    process.join()
    assert process.exitcode == 0, f"exit code {process.exitcode} for one of the seeds {seeds}"


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


def test_no_kernel_reads_or_writes_outside_its_arrays(cache: Path) -> None:
    past_an_edge = 127613  # a padded operand that all lanes share
    assert_stays_inside([past_an_edge, *seeds_of_models(12)], cache)


def test_models_agree_with_the_reference(cache: Path) -> None:
    for seed in seeds_of_models(40):
        agrees(seed, cache)


@pytest.mark.parametrize("level", [0, 1, 2])
def test_models_agree_at_lower_levels(level: int, cache: Path) -> None:
    for seed in seeds_of_models(8):
        agrees(seed, cache, opt_level=level)


@pytest.mark.parametrize("dtype", ["float64", "float16", "bfloat16"])
def test_models_agree_in_other_types(dtype: str, cache: Path) -> None:
    for seed in seeds_of_models(6):
        agrees(seed, cache, dtype)


def test_one_model_takes_any_batch(cache: Path) -> None:
    for seed in seeds_of_models(15):
        batches_agree(seed, cache)


def test_bits_do_not_depend_on_threads(cache: Path) -> None:
    for seed in seeds_of_models(6):
        threads_agree(seed, cache)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_models_agree_with_the_reference(cache: Path) -> None:
    for seed in seeds_of_models(200, of=600):
        agrees(seed, cache)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("level", [0, 1, 2])
def test_many_models_agree_at_lower_levels(level: int, cache: Path) -> None:
    for seed in seeds_of_models(60, of=150):
        agrees(seed, cache, opt_level=level)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_many_models_take_any_batch(cache: Path) -> None:
    for seed in seeds_of_models(100, of=300):
        batches_agree(seed, cache)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_bits_of_many_models_do_not_depend_on_threads(cache: Path) -> None:
    for seed in seeds_of_models(40, of=100):
        threads_agree(seed, cache)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kernels_of_many_models_stay_inside_their_arrays(cache: Path) -> None:
    assert_stays_inside(list(seeds_of_models(60, of=150)), cache)
