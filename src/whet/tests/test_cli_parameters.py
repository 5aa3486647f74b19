"""What is read from the command line, right and wrong."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from whet.cli import exits
from whet.cli.main import run_command
from whet.cli.parameters import parse_dims, parse_shape, parse_shapes, parse_switches


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("input:1,3,224,224", ("input", (1, 3, 224, 224))),
        ("input:batch, 3", ("input", ("batch", 3))),
        ("gpu_0/data:0:7", ("gpu_0/data:0", (7,))),
        ("scalar:", ("scalar", ())),
    ],
)
def test_shape(text: str, expected: tuple[str, tuple[int | str, ...]]) -> None:
    assert parse_shape(text) == expected


@pytest.mark.parametrize("text", ["", "input", ":1,2", "input:1,,2", "input:-1", "input:1x2"])
def test_wrong_shape_is_explained(text: str) -> None:
    with pytest.raises(click.BadParameter, match="NAME:DIM"):
        parse_shape(text)


@given(st.text(min_size=1), st.lists(st.integers(0, 10**9), min_size=1))
def test_shape_survives_writing_and_reading(name: str, shape: list[int]) -> None:
    assert parse_shape(f"{name}:{','.join(map(str, shape))}") == (name, tuple(shape))


def test_no_shapes_is_none_and_repeats_are_refused() -> None:
    assert parse_shapes([]) is None
    with pytest.raises(click.BadParameter, match="twice"):
        parse_shapes(["a:1", "a:2"])


def test_switches() -> None:
    assert parse_switches(["a=off", "b=on", "c=False"]) == {"a": False, "b": True, "c": False}
    for text in ("a", "a=", "=on", "a=maybe"):
        with pytest.raises(click.BadParameter, match="NAME=on"):
            parse_switches([text])


def test_dims() -> None:
    assert parse_dims(["batch=4", "seq=128"]) == {"batch": 4, "seq": 128}
    for text in ("batch=²", "batch", "=4", "batch=", "batch=-1"):
        with pytest.raises(click.BadParameter, match="NAME=NUMBER"):
            parse_dims([text])


@pytest.mark.parametrize(
    "line",
    [
        "tune m.onnx --seconds nan",
        "compare m.onnx m.onnx --threshold nan",
        "bench m.onnx --seconds NaN",
        "bench m.onnx --require nan",
        "quantize m.onnx --calibration x.npy --smooth nan",
        "demo --seconds nan",
        "migrate m.onnx --latency-ms nan",
        "migrate m.onnx --tune -nan",
    ],
)
def test_nan_is_no_number(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is compared with it is neither late nor wrong."""
    assert run_command(line.split()) == exits.USAGE
    assert "is not a number" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--feeds", "--streams"])
def test_numbers_of_what_is_made_are_bounded(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command(["bench", "m.onnx", option, str(10**26)]) == exits.USAGE
    assert "1<=x<=1024" in capsys.readouterr().err
