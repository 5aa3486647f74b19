"""States of a calibration that somebody changed, and sums that no state can hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

import whet
from whet.errors import ArtifactError, InputError
from whet.tests.quantized_models import build

Array = np.ndarray[Any, Any]


def product() -> onnx.ModelProto:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="p")
    return build([node], {"w": np.ones((4, 3))}, ["n", 4], ["n", 3])


def changed_states(
    folder: Path, part: str, changes: dict[str, Callable[[Array], Array]]
) -> Iterator[None]:
    """Write a state anew, one array of it changed at a time."""
    with np.load(folder / "calibration.npz") as file:
        arrays = dict(file)
    (key,) = [name for name in arrays if name.startswith(part)]
    for change in changes.values():
        np.savez(folder / "calibration.npz", **{**arrays, key: change(arrays[key])})
        yield


CHANGES: dict[str, dict[str, Callable[[Array], Array]]] = {
    "m/gram": {
        "no element": lambda a: a[:, :0],
        "NaN": lambda a: np.full_like(a, np.nan),
        "no sum of squares": lambda a: 1 - a,
        "negative": lambda a: -a,
        "not symmetric": lambda a: np.triu(2 * a),
        "another type": lambda a: a.astype(np.float64),
    },
    "m/total": {"no element": lambda a: a[:, :0], "NaN": lambda a: np.full_like(a, np.nan)},
    "m/rows": {"no element": lambda a: a.reshape(1)[:0], "a real number": lambda a: a + 0.5},
    "h/counts": {
        "fewer": lambda a: a[:7],
        "negative": lambda a: -a,
    },
    "h/numbers": {
        "no extremes": lambda a: np.append([1, -1], a[2:]),
        "infinite": lambda a: np.append([-np.inf, np.inf], a[2:]),
        "an infinite width": lambda a: np.append(a[:5], np.inf),
        "a width beyond all": lambda a: np.append(a[:5], 2000.0),
        "a width of 0": lambda a: np.append(a[:5], -2000.0),
        "fewer zeros than none": lambda a: a - [0, 0, 0, 0, 9, 0],
    },
}  # fmt: skip


@pytest.mark.parametrize("calibrator", ["mse", "entropy"])
@pytest.mark.parametrize("part", CHANGES)
def test_a_state_with_other_sums_is_refused(part: str, calibrator: str, tmp_path: Path) -> None:
    model = product()
    x = np.ones((3, 4), np.float32)
    config = {"rounding": "gptq", "calibrator": calibrator}
    whet.quantize(model, x, config=config, state=tmp_path)
    for _ in changed_states(tmp_path, part, CHANGES[part]):
        with pytest.raises(ArtifactError, match="the calibration state is damaged"):
            whet.quantize(model, x, config=config, state=tmp_path)


def test_values_whose_squares_overflow_are_refused() -> None:
    model = product()
    x = np.full((3, 4), 1e25, np.float32)
    assert whet.quantize(model, x).report.quantized == {"p": "MatMul"}
    with pytest.raises(InputError, match="too large to be squared"):
        whet.quantize(model, x, config={"rounding": "gptq"})
