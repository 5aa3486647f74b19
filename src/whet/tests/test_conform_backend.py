"""ONNX's backend tests: what passed once keeps passing, and nothing fails other than by refusal."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from whet.tests.backend_suite import PASSED, REFUSED, Workers, all_cases, names, read_passes

SEED = 20261
SAMPLE = 120
REFUSED_SAMPLE = 30


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    """A process for the tests, with a kernel cache of its own."""
    found = Workers(str(tmp_path_factory.mktemp("kernels")))
    yield found
    found.close()


def _check(workers: Workers, chosen: list[str], allowed: set[str]) -> None:
    found = {name: workers.run(name) for name in chosen}
    bad = {name: result for name, result in found.items() if result[0] not in allowed}
    assert not bad


def test_the_list_is_sorted_and_names_existing_tests() -> None:
    passes = read_passes()
    assert passes == sorted(set(passes))
    assert not set(passes) - set(names())


def test_a_sample_of_passes_passes(workers: Workers) -> None:
    _check(workers, random.Random(SEED).sample(read_passes(), SAMPLE), {PASSED})


def test_a_sample_of_the_rest_is_refused(workers: Workers) -> None:
    rest = sorted(set(all_cases()) - set(read_passes()))
    _check(workers, random.Random(SEED).sample(rest, REFUSED_SAMPLE), {PASSED, REFUSED})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_passes_pass(workers: Workers) -> None:
    _check(workers, read_passes(), {PASSED})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_others_are_refused(workers: Workers) -> None:
    rest = sorted(set(names()) - set(read_passes()))
    _check(workers, rest, {PASSED, REFUSED, "none"})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_pass_without_optimisation(tmp_path_factory: pytest.TempPathFactory) -> None:
    plain = Workers(str(tmp_path_factory.mktemp("plain")), level=0)
    _check(plain, read_passes(), {PASSED})
    plain.close()
