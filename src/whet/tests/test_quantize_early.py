"""Evaluation data and metrics of no use are found before the calibration, which may take long."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import whet
from whet.cli import exits
from whet.cli.main import run_command
from whet.errors import ArtifactError, InputError, OptionError
from whet.quantize.api import Goal
from whet.quantize.config import QuantizeConfig
from whet.quantize.convert import convert_floats
from whet.quantize.static import Request
from whet.tests.quantized_models import build, residual_net

X = np.random.default_rng(1).standard_normal((8, 3, 9, 7)).astype(np.float32)
GOOD = X[:4]
MODEL = residual_net(np.random.default_rng(0))


def failing(*given: Any) -> float:
    raise KeyError("no such label")


METRICS: dict[str, tuple[Any, str]] = {
    "raises": (failing, "the metric fails: KeyError"),
    "is NaN": (lambda o, r, y: float("nan"), "the metric of the float model is nan"),
    "is infinite": (lambda o, r, y: float("inf"), "the metric of the float model is inf"),
    "is nothing": (lambda o, r, y: None, "the metric fails: TypeError"),
    "is an array": (lambda o, r, y: o["y"], "the metric fails: TypeError"),
    "takes two arguments": (lambda o, r: 1.0, "the metric fails: TypeError"),
    "needs labels": (lambda o, r, y: float(y[0]), "the metric fails: TypeError"),
    "changes labels": (lambda o, r, y: y.sort() or 1.0, "the metric fails"),
}

EVALUATIONS: dict[str, tuple[Any, str]] = {
    "another shape": (X[:, :, :5], r"a sample has the shape \[3, 5, 7\]"),
    "NaN": (np.full_like(X, np.nan), "NaN or infinite"),
    "fewer labels": ((GOOD, np.zeros(3, int)), "different numbers of samples"),
    "labels that are no classes": ((GOOD, np.full(4, 99)), "labels are not numbers of classes"),
    "no label that is right": (
        (X, (whet.compile(MODEL)({"x": X})["y"].argmax(axis=1) + 1) % 5), "is right for none of 8"),
    "labels of some": ([(GOOD, np.zeros(4, int)), X[4:]], "4 of 8 samples have labels"),
    "labels of some of a batch": (
        [(X[:9], np.zeros(8, int)), X[:3], (GOOD, np.zeros(4, int))], "12 of 15 samples have"),
    "labels of two shapes": (
        [(X, np.zeros(8, int)), (X, np.zeros((8, 2), int))], r"labels have the shapes \[\] and"),
    "ragged labels": ((GOOD, [[1], [2, 3], [4], [5]]), "labels are no array"),
    "nothing": ([], "there is no data"),
    "no such file": ("nowhere.npy", "No such file"),
}  # fmt: skip


class Untouched:
    """Calibration data that nobody may read."""

    def __call__(self) -> Iterator[Any]:
        """Fail."""
        raise AssertionError("the calibration began")


@pytest.fixture(scope="module")
def model() -> onnx.ModelProto:
    return MODEL


@pytest.mark.parametrize("mode", ["static", "float16"])
@pytest.mark.parametrize("name", [*METRICS, *EVALUATIONS])
def test_it_is_found_first(name: str, mode: str, model: onnx.ModelProto, tmp_path: Path) -> None:
    given: Any = GOOD if not name.endswith(("labels",)) else (GOOD, np.arange(4)[::-1])
    given = GOOD if name == "needs labels" else given
    metric, message = METRICS.get(name, ("top1", ""))
    if name in EVALUATIONS:
        given, message = EVALUATIONS[name]
    with pytest.raises((InputError, OptionError), match=message) as caught:
        if mode == "static":
            whet.quantize(
                model, Untouched(), metric=metric, max_drop="1%", evaluation=given, state=tmp_path
            )
        else:
            convert_floats(
                Request(model, Untouched()), "float16", Goal("1%", metric, evaluation=given)
            )
    assert caught.value.where
    assert not list(tmp_path.iterdir())


def test_kept_scores_that_are_damaged_are_found_first(
    model: onnx.ModelProto, tmp_path: Path
) -> None:
    (tmp_path / "scores.json").write_text("{")
    with pytest.raises(ArtifactError, match="not a file of scores"):
        whet.quantize(model, Untouched(), max_drop="1%", evaluation=GOOD, state=tmp_path)


def test_a_file_of_a_metric_is_found_first(
    model: onnx.ModelProto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    onnx.save(model, "m.onnx")
    np.save("x.npy", X)
    Path("custom.py").write_text("def f(outputs, references, labels):\n    return len(labels)\n")
    line = "quantize m.onnx --calibration x.npy --state s --max-drop 1% --metric custom.py:f"
    assert run_command(line.split()) == exits.USAGE
    assert "the metric fails: TypeError" in capsys.readouterr().err
    assert not (tmp_path / "s" / "calibration.npz").exists()


def test_what_a_search_finds_is_as_before(model: onnx.ModelProto, tmp_path: Path) -> None:
    """An interrupted search goes on, to the same bytes."""
    more: dict[str, Any] = {"max_drop": "0.001%", "metric": "cosine", "evaluation": GOOD,
                            "config": {"smooth": 0.5, "equalize": True}}  # fmt: skip
    whole = whet.quantize(model, X, **more)
    stops = iter(range(6))

    def stop(stage: str, done: int, total: int) -> None:
        if stage == "sensitivity" and next(stops) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        whet.quantize(model, X, **more, state=tmp_path, progress=stop)
    assert (tmp_path / "scores.json").exists()
    again = whet.quantize(model, X, **more, state=tmp_path)
    assert again.model.SerializeToString() == whole.model.SerializeToString()
    assert again.report.target == whole.report.target


@pytest.mark.parametrize("mode", ["static", "float16"])
def test_all_of_the_evaluation_data_is_looked_at(mode: str, model: onnx.ModelProto) -> None:
    """``samples`` says how many calibrate; of 16-bit floats it was what is judged too."""
    seen: list[int] = []

    def counted(outputs: Any, references: Any, labels: Any) -> float:
        seen.append(len(outputs["y"]))
        return 1.0

    if mode == "static":
        whet.quantize(model, X, metric=counted, max_drop=1, evaluation=X, config={"samples": 3})
    else:
        config = QuantizeConfig(samples=3)
        convert_floats(Request(model, X, config), "float16", Goal(1, counted, evaluation=X))
    assert set(seen) == {8}


@pytest.mark.parametrize("more", [{"evaluation": X}, {"pick": "speed"}, {"metric": "cosine"}])
def test_what_changes_nothing_is_refused(more: dict[str, Any], model: onnx.ModelProto) -> None:
    with pytest.raises(OptionError, match="changes nothing alone"):
        whet.quantize(model, X, **more)


def test_a_model_with_an_input_of_that_name_has_no_labels() -> None:
    node = onnx.helper.make_node("MatMul", ["labels", "w"], ["y"], name="p")
    model = build([node], {"w": np.eye(4, 3)}, ["n", 4], ["n", 3])
    model.graph.input[0].name = "labels"
    made = whet.quantize(model, {"labels": np.eye(4, dtype=np.float32)}, max_drop=1)
    assert made.report.target is not None
