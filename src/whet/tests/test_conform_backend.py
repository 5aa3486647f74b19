"""ONNX's backend tests: what passed once keeps passing, and nothing fails other than by refusal."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from whet.tests.backend_cases import FOLDED, names
from whet.tests.backend_suite import PASSED, Workers, read_failures, read_passes

SEED = 20261
SAMPLE = 120
REFUSED_SAMPLE = 30
FOLDED_SAMPLE = 100
PLAIN_SAMPLE = 500


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
    _check(workers, random.Random(SEED).sample(_without_folded(), SAMPLE), {PASSED})


def _without_folded() -> list[str]:
    return [name for name in read_passes() if not name.endswith(FOLDED)]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sample_of_what_passes_with_constants_alone(workers: Workers) -> None:
    """What is folded says little that another run would not; all: ``backend_suite +folded``."""
    folded = [name for name in read_passes() if name.endswith(FOLDED)]
    _check(workers, random.Random(SEED).sample(folded, FOLDED_SAMPLE), {PASSED})


def _check_failures(workers: Workers, listed: dict[str, str]) -> None:
    found = {name: workers.run(name) for name in listed}
    bad = {
        name: result for name, result in found.items() if result[0] not in (PASSED, listed[name])
    }
    assert not bad


def test_what_does_not_pass_is_listed_with_a_reason() -> None:
    statuses = set(read_failures().values())
    assert statuses <= {"refused", "wrong"}, "no test may crash or end in an error of our own"
    assert not set(read_failures()) & set(read_passes())


def test_a_sample_of_the_rest_fails_as_listed(workers: Workers) -> None:
    listed = read_failures()
    chosen = random.Random(SEED).sample(sorted(listed), REFUSED_SAMPLE)
    _check_failures(workers, {name: listed[name] for name in chosen})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_passes_pass(workers: Workers) -> None:
    _check(workers, _without_folded(), {PASSED})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_others_fail_as_listed(workers: Workers) -> None:
    _check_failures(workers, read_failures())


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sample_passes_without_optimisation(tmp_path_factory: pytest.TempPathFactory) -> None:
    plain = Workers(str(tmp_path_factory.mktemp("plain")), level=0)
    fixed = [name for name in read_passes() if "+" not in name]
    _check(plain, random.Random(SEED).sample(fixed, PLAIN_SAMPLE), {PASSED})
    plain.close()
