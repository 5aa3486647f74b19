"""Calls that look like the one before, and all in which they may differ from it."""

from __future__ import annotations

from collections import UserDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import whet
from whet.runtime.model import CompiledModel
from whet.tests.flow_models import parse

Array = np.ndarray[Any, np.dtype[Any]]


@pytest.fixture
def model(cache: Path) -> CompiledModel:
    """Return the sum of two inputs of any number of rows."""
    text = "g (float[n,3] x, float[n,3] y) => (float[n,3] z) { z = Add(x, y) }"
    return whet.compile(parse(text), options=whet.Options(threads=2, cache_dir=cache))


def pair(rows: int, seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal((rows, 3)).astype(np.float32) for name in ("x", "y")}


def test_new_numbers_and_new_results(model: CompiledModel) -> None:
    results = []
    for seed in range(3):
        inputs = pair(4, seed)
        results.append((model(inputs)["z"], inputs["x"] + inputs["y"]))
    for found, expected in results:
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("rows", [1, 5, 0, 70_000])
def test_other_shapes_between_equal_ones(model: CompiledModel, rows: int) -> None:
    """Among them none to compute, and results that are aligned."""
    for count in (4, rows, rows, 4):
        inputs = pair(count)
        np.testing.assert_array_equal(model(inputs)["z"], inputs["x"] + inputs["y"])


def test_arrays_that_need_a_copy(model: CompiledModel) -> None:
    inputs = pair(4)
    expected = model(inputs)["z"]
    wide = np.zeros((4, 6), np.float32)
    wide[:, ::2] = inputs["x"]
    raw = np.zeros(4 * 3 * 4 + 1, np.uint8)
    skewed = raw[1:].view(np.float32).reshape(4, 3)
    skewed[:] = inputs["x"]
    fixed = inputs["x"].copy()
    fixed.flags.writeable = False
    for x in (wide[:, ::2], skewed, fixed, inputs["x"].astype(">f4"), inputs["x"].tolist()):
        if isinstance(x, list):
            x = np.asarray(x, np.float32).view(np.recarray)
        np.testing.assert_array_equal(model({**inputs, "x": x})["z"], expected)
    np.testing.assert_array_equal(model(UserDict(inputs))["z"], expected)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": np.zeros((4, 3), np.float64)}, "float64"),
        ({"x": np.zeros((5, 3), np.float32)}, "n"),
        ({"x": np.zeros((4, 2), np.float32)}, "x"),
        ({"w": np.zeros((4, 3), np.float32)}, "w"),
        ({"x": None}, "x"),
    ],
)
def test_calls_that_no_longer_fit(
    model: CompiledModel, change: dict[str, Any], message: str
) -> None:
    inputs = pair(4)
    model(inputs)
    with pytest.raises(whet.InputError, match=message):
        model({**inputs, **change})
    with pytest.raises(whet.InputError, match="y"):
        model({"x": inputs["x"]})
    np.testing.assert_array_equal(model(inputs)["z"], inputs["x"] + inputs["y"])


def test_arrays_that_change_in_place(model: CompiledModel) -> None:
    """The same objects may be of another shape or type the next time."""
    inputs = pair(4)
    model(inputs)
    for array in inputs.values():
        array.resize((2, 3), refcheck=False)
    np.testing.assert_array_equal(model(inputs)["z"], inputs["x"] + inputs["y"])


def test_given_outputs_in_between(model: CompiledModel) -> None:
    inputs, given = pair(4), np.empty((4, 3), np.float32)
    first = model(inputs)["z"]
    assert model.run(inputs, outputs={"z": given})["z"] is given
    second = model(inputs)["z"]
    assert second is not given
    assert not np.shares_memory(first, second)
    np.testing.assert_array_equal(given, second)
