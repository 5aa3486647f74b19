"""Data of one's own: iterators that end early, fail or change, and outputs that a model selects."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

import whet
from whet.errors import InputError, OptionError, UnsupportedError
from whet.quantize.api import Goal
from whet.quantize.convert import convert_floats
from whet.quantize.scores import cosine, distance
from whet.quantize.static import Request
from whet.tests.quantized_models import residual_net

X = np.random.default_rng(1).standard_normal((8, 3, 9, 7)).astype(np.float32)
MODEL = residual_net(np.random.default_rng(0))


def breaking() -> Iterator[Any]:
    yield X[:3]
    raise OSError("the disk is gone")


def with_argument(folder: str) -> list[Any]:
    return [folder]


ONCE = iter([X])
WRONG: dict[str, tuple[Any, str]] = {
    "fails": (breaking, r"the data fails: OSError: the disk is gone at calibration item 1"),
    "takes an argument": (with_argument, "the data fails: TypeError: .* at calibration item 0"),
    "gives nothing": (lambda: None, "the data fails: TypeError: .* at calibration item 0"),
    "an iterator": (iter([X]), "an iterator can be read once"),
    "no data": (3, "int is no calibration data at calibration"),
    "ends at once": (lambda: iter([]), "(?s)there is no data.*return a new iterator"),
    "always the same iterator": (lambda: ONCE, "(?s)there is no data.*return a new iterator"),
}


@pytest.mark.parametrize("name", WRONG)
def test_data_that_cannot_be_read_is_one_error(name: str) -> None:
    source, message = WRONG[name]
    with pytest.raises(InputError, match=message):
        whet.quantize(MODEL, source, max_drop=1)
    message = message.replace("at calibration", "at evaluation")
    if name not in ("an iterator", "no data"):
        with pytest.raises(InputError, match=message):
            whet.quantize(MODEL, X, max_drop=1, evaluation=source)


def changing() -> Callable[[], Iterator[Any]]:
    """Return a function whose second iterator has half of the samples."""
    sizes = iter([8, 4, 4, 4, 4, 4])
    return lambda: iter([X[: next(sizes)]])


@pytest.mark.parametrize("mode", ["static", "float16"])
def test_data_that_changes_is_one_error(mode: str) -> None:
    with pytest.raises(InputError, match="the data has 4 samples now, 8 before at evaluation"):
        if mode == "static":
            whet.quantize(MODEL, X, metric="cosine", max_drop=1, evaluation=changing())
        else:
            convert_floats(Request(MODEL, X), "float16", Goal(1, "cosine", evaluation=changing()))


def test_a_variant_without_a_metric_is_no_error() -> None:
    """An overflow may make NaN of a metric of one's own: it is as if the target did not hold."""

    def strict(outputs: Any, references: Any, labels: Any) -> float:
        error = float(np.abs(outputs["y"] - references["y"]).max())
        return 1 - error if error < 0.01 else float("nan")

    made = whet.quantize(MODEL, X, metric=strict, max_drop=1)
    target = made.report.target
    assert target is not None
    assert target.trials[0].value == -np.inf
    assert 0 < len(made.report.floats) < len(made.report.config.layers)
    assert target.drop <= 0.01

    def never(outputs: Any, references: Any, labels: Any) -> float:
        return 1.0 if np.array_equal(outputs["y"], references["y"]) else float("nan")

    with pytest.raises(UnsupportedError, match="leaves every layer in float"):
        whet.quantize(MODEL, X, metric=never, max_drop=1)


def test_outputs_of_another_shape_are_infinitely_far() -> None:
    """As what a model selects: a quantised one may select more."""
    found = {"y": np.ones((3, 4), np.float32)}
    right = {"y": np.ones((5, 4), np.float32)}
    assert distance(found, right) == np.inf
    assert cosine(found, right, None) == 0.0


def test_operators_to_skip_exist() -> None:
    made = whet.quantize(MODEL, X, config={"skip_ops": ("Conv", "Relu")})
    assert "Conv" not in made.report.quantized.values()
    with pytest.raises(OptionError, match="there is no operator 'Convolution' at skip_ops"):
        whet.quantize(MODEL, X, config={"skip_ops": ("Convolution",)})
