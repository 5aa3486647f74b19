"""Programs through linker, driver and runtime, in memory."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from whet.index import Dim, var
from whet.tests.toys import CHUNK, make_model, make_program, random_steps, simulate


def _inputs(rng: np.random.Generator, chunks: int) -> dict[str, np.ndarray]:
    return {n: rng.integers(-9, 9, (chunks, CHUNK)) for n in ("x", "y")}


@pytest.mark.parametrize("threads", [1, 2, 3, 4])
@pytest.mark.parametrize("chunks", [1, 3, 40])
def test_random_graphs_match_simulation(threads: int, chunks: int) -> None:
    rng = np.random.default_rng(threads * 100 + chunks)
    for reuse in (True, False):
        steps = random_steps(rng, 25, 3)
        outputs = [5, 20, 27]
        program = make_program(
            steps, outputs, chunks=chunks, threads=threads, constants=1, reuse=reuse
        )
        constant = rng.integers(-9, 9, chunks * CHUNK)
        model = make_model(program, constant)
        for _ in range(5):
            given = _inputs(rng, chunks)
            values = simulate(steps, [given["x"], given["y"], constant])
            result = model(given)
            for k in outputs:
                np.testing.assert_array_equal(result[f"o{k}"].reshape(-1), values[k])


def test_thousand_runs_agree() -> None:
    rng = np.random.default_rng(7)
    steps = random_steps(rng, 30, 2)
    model = make_model(make_program(steps, [31], chunks=13, threads=2))
    for _ in range(1000):
        given = _inputs(rng, 13)
        want = simulate(steps, [given["x"], given["y"]])[31]
        np.testing.assert_array_equal(model(given)["o31"].reshape(-1), want)


def test_concurrent_callers() -> None:
    rng = np.random.default_rng(8)
    steps = random_steps(rng, 30, 2)
    model = make_model(make_program(steps, [31], chunks=13, threads=2))
    wrong: list[int] = []

    def call(seed: int) -> None:
        own = np.random.default_rng(seed)
        for _ in range(60):
            given = _inputs(own, 13)
            want = simulate(steps, [given["x"], given["y"]])[31]
            if not np.array_equal(model(given)["o31"].reshape(-1), want):
                wrong.append(seed)

    callers = [threading.Thread(target=call, args=(seed,)) for seed in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not wrong


@pytest.mark.parametrize("threads", [1, 3])
def test_symbolic_dimension(threads: int) -> None:
    rng = np.random.default_rng(9)
    steps = random_steps(rng, 12, 2)
    model = make_model(make_program(steps, [8, 13], chunks=var(Dim("n")), threads=threads))
    for chunks in (1, 7, 100, 2, 7, 33):
        given = _inputs(rng, chunks)
        values = simulate(steps, [given["x"], given["y"]])
        result = model(given)
        assert result["o13"].shape == (chunks, CHUNK)
        for k in (8, 13):
            np.testing.assert_array_equal(result[f"o{k}"].reshape(-1), values[k])
