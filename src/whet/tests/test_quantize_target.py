"""The accuracy target, on a trained network and on one that is hostile to 8 bits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import whet
from whet.cli import exits
from whet.cli.main import run_command
from whet.errors import InputError, OptionError, UnsupportedError
from whet.quantize.scores import Score, cosine, find_metric, joined, top1
from whet.quantize.target import Search, parse_drop
from whet.tests.quantized_models import digits, residual_net, trained_net

TRAIN, CALIBRATE = 1200, 200


class TableJudge:
    """Scores by a table: each quantised layer costs what it costs."""

    def __init__(self, costs: dict[str, float]) -> None:
        self.costs, self.judged = costs, 0

    def judge(self, choices: Any) -> Score:
        """Return the sum of what the quantised layers cost."""
        self.judged += 1
        drop = sum(
            cost * {"int8": 1.0, "finer": 0.1, "float": 0.0}[choices[name]]
            for name, cost in self.costs.items()
        )
        return Score(1 - drop, drop)


def search(costs: dict[str, float], limit: float, **more: Any) -> Any:
    judge: Any = TableJudge(costs)
    layers = [(name, "Conv") for name in costs]
    return Search(judge, layers, Score(1.0, 0.0), limit, **more).run()


def test_the_fewest_layers_are_rolled_back() -> None:
    rng = np.random.default_rng(0)
    costs = {f"l{k}": float(c) for k, c in enumerate(rng.exponential(0.01, 20))}
    found = search(costs, 0.05)
    left = [name for name, choice in found.choices.items() if choice == "float"]
    ordered = sorted(costs.values(), reverse=True)
    fewest = next(k for k in range(21) if sum(ordered[k:]) <= 0.05)
    assert len(left) == fewest
    assert found.drop <= 0.05
    assert [r.name for r in found.ranking] == sorted(costs, key=lambda n: -costs[n])
    assert {t.step for t in found.trials} >= {"all", "bisect", "return"}
    assert all(t.accepted == (t.drop <= 0.05) for t in found.trials)


def test_single_layers_come_back() -> None:
    # the third is worse than its neighbours together with others: bisection overshoots
    found = search({"a": 0.4, "b": 0.3, "c": 0.2, "d": 0.001}, 0.21)
    assert found.choices == {"a": "float", "b": "float", "c": "int8", "d": "int8"}
    finer = search({"a": 0.4, "b": 0.001}, 0.1, finer=frozenset({"a"}))
    assert finer.choices == {"a": "finer", "b": "int8"}
    with pytest.raises(UnsupportedError, match="leaves every layer in float"):
        search({"a": 0.4, "b": 0.3}, 0.1)
    assert search({"a": 0.1}, 0.1).ranking == ()


def test_drops_and_metrics(tmp_path: Path) -> None:
    assert parse_drop("0.5%") == 0.005
    assert parse_drop("0.02") == 0.02
    for text in ("half", "-1%", "nan"):
        with pytest.raises(OptionError):
            parse_drop(text)
    a = {"y": np.array([[1.0, 2.0], [3.0, 1.0], [0.0, 0.0]])}
    b = {"y": np.array([[2.0, 1.0], [3.0, 1.0], [0.0, 0.0]])}
    assert top1(a, b, None) == pytest.approx(2 / 3)
    assert top1(a, b, np.array([1, 0, 1])) == pytest.approx(2 / 3)
    assert cosine(a, b, None) == pytest.approx((0.8 + 1 + 1) / 3)
    file = tmp_path / "custom.py"
    file.write_text("def f(outputs, references, labels):\n    return len(outputs['y']) / 4\n"
                    "def g(*a):\n    return 1 / 0\n"
                    "def n(*a):\n    return float('nan')\n")  # fmt: skip
    assert find_metric(f"{file}:f")(a, b, None) == 0.75
    for text, message in [
        (f"{file}:h", "there is no function 'h'"), ("none.py:f", "cannot read"), ("f", "no metric"),
    ]:  # fmt: skip
        with pytest.raises(OptionError, match=message):
            find_metric(text)
    with pytest.raises(OptionError, match="ZeroDivisionError"):
        find_metric(f"{file}:g")(a, b, None)
    assert np.isnan(find_metric(f"{file}:n")(a, b, None))
    with pytest.raises(InputError, match=r"samples of 2 shapes, such as \[2, 6\] and \[3, 6\]"):
        joined([{"y": np.zeros((4, n, 6))} for n in (3, 2)])


def test_a_function_is_a_metric(tmp_path: Path) -> None:
    model = residual_net(np.random.default_rng(0))
    x = np.random.default_rng(1).standard_normal((8, 3, 9, 7)).astype(np.float32)
    asked: list[int] = []

    def small(outputs: Any, references: Any, labels: Any) -> float:
        asked.append(len(outputs["y"]))
        return 1 - float(np.abs(outputs["y"] - references["y"]).max())

    def other(outputs: Any, references: Any, labels: Any) -> float:
        return small(outputs, references, labels) / 2

    for metric, value in ((small, 1.0), (other, 0.5), (small, 1.0)):
        made = whet.quantize(model, x, metric=metric, max_drop=1, state=tmp_path)
        assert made.report.target is not None
        assert made.report.target.float_value == value
        assert (made.report.target.value > 0.5) == (value == 1.0)  # kept scores are another's
    assert set(asked) == {8}
    wrong: Any = 3
    with pytest.raises(OptionError, match="a metric is no int"):
        whet.quantize(model, x, metric=wrong, max_drop=1)
    with pytest.raises(OptionError, match="images is a dict"):
        whet.quantize(model, x, images={"resize": 3})


def accuracy(model: onnx.ModelProto, images: Any, labels: Any) -> float:
    found = whet.compile(model)({"x": images})["y"]
    return float((found.argmax(axis=1) == labels).mean())


def test_digits_keep_their_accuracy_without_settings() -> None:
    images, labels = digits()
    model = trained_net(images[:TRAIN], labels[:TRAIN])
    base = accuracy(model, images[TRAIN:], labels[TRAIN:])
    assert base > 0.93
    made = whet.quantize(model, images[:CALIBRATE])
    assert base - accuracy(made.model, images[TRAIN:], labels[TRAIN:]) <= 0.003
    assert len(made.report.quantized) == 3


def test_a_hostile_network_is_kept_within_the_target(tmp_path: Path) -> None:
    images, labels = digits()
    model = trained_net(images[:TRAIN], labels[:TRAIN], hostile=True)
    base = accuracy(model, images[TRAIN:], labels[TRAIN:])
    config = {"calibrator": "minmax"}
    plain = whet.quantize(model, images[:CALIBRATE], config=config)
    assert base - accuracy(plain.model, images[TRAIN:], labels[TRAIN:]) > 0.05
    made = whet.quantize(
        model,
        images[:CALIBRATE],
        config=config,
        max_drop="0.5%",
        evaluation=(images[TRAIN - 400 : TRAIN], labels[TRAIN - 400 : TRAIN]),
        state=tmp_path,
    )
    target = made.report.target
    assert target is not None
    assert made.report.floats == ("conv2",)
    assert target.ranking[0].name == "conv2"
    assert base - accuracy(made.model, images[TRAIN:], labels[TRAIN:]) <= 0.005
    known = json.loads((tmp_path / "scores.json").read_text())
    assert len(known) >= 5


def test_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    onnx.save(residual_net(np.random.default_rng(0)), "m.onnx")
    x = np.random.default_rng(1).standard_normal((8, 3, 9, 7)).astype(np.float32)
    np.save("x.npy", x)
    line = "quantize m.onnx --calibration x.npy --metric cosine -o o.onnx --per-tensor --state s"
    assert run_command([*line.split(), "--max-drop", "0.001%", "--report", "r.html"]) == exits.OK
    page = Path("r.html").read_text()
    assert "Sensitivity" in page
    assert 'class="bars"' in page
    assert run_command([*line.split(), "--max-drop", "0.001%", "--report", "r.json"]) == exits.OK
    report = json.loads(Path("r.json").read_text())
    assert len(report["target"]["ranking"]) == 6
    Path("config.json").write_text(json.dumps(report["config"]))
    again = "quantize m.onnx --calibration x.npy -o again.onnx --config config.json"
    assert run_command(again.split()) == exits.OK
    assert Path("again.onnx").read_bytes() == Path("o.onnx").read_bytes()
