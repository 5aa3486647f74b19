"""Images as calibration data: what ``--image`` says becomes of them, and damaged files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from whet.cli.main import run_command
from whet.cli.quantize_images import read_images
from whet.errors import InputError, OptionError
from whet.program.records import TensorSpec
from whet.quantize.data import CalibrationData
from whet.quantize.images import ImageOptions, read_image
from whet.tests.quantized_models import residual_net

Array = np.ndarray[Any, Any]
pillow = pytest.importorskip("PIL.Image")
IMAGE = TensorSpec("x", "float32", (1, 3, 9, 7))


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Return a red picture, twice as wide as it is high, with a green right half."""
    pixels = np.zeros((18, 36, 3), np.uint8)
    pixels[:, :, 0], pixels[:, 18:, 1] = 200, 100
    (tmp_path / "images").mkdir()
    path = tmp_path / "images" / "a.png"
    pillow.fromarray(pixels).save(path)
    return path


OPTIONS = {
    "scale=1": lambda plain: plain * 255,
    "mean=0.5": lambda plain: plain - 0.5,
    "mean=0.5/0.25/0": lambda plain: plain - np.array([0.5, 0.25, 0])[:, None, None],
    "std=0.5": lambda plain: plain / 0.5,
    "std=1/2/4": lambda plain: plain / np.array([1, 2, 4])[:, None, None],
    "order=bgr": lambda plain: plain[::-1],
    "scale=1,mean=10,std=2": lambda plain: (plain * 255 - 10) / 2,
}


@pytest.mark.parametrize("text", OPTIONS)
def test_each_key_does_what_it_says(text: str, picture: Path) -> None:
    plain = read_image(picture, IMAGE, ImageOptions()).astype(np.float64)
    found = read_image(picture, IMAGE, read_images(text))
    assert np.allclose(found, OPTIONS[text](plain), atol=1e-5)


def test_resize_cuts_the_middle_out(picture: Path) -> None:
    spans = []
    for text in ("resize=0", "resize=9", "resize=900"):
        green = read_image(picture, IMAGE, read_images(text))[1]
        spans.append(np.ptp(green[0]))
    assert spans[0] > 0.39  # the whole width
    assert spans[1] == pytest.approx(spans[0], rel=0.05)  # 7 of 18 columns, both halves
    assert spans[2] < 0.7 * spans[0]  # 7 of 1800: nothing but the edge, which is blurred
    assert np.array_equal(
        read_image(picture, IMAGE, read_images("imagenet,mean=0,std=1")),
        read_image(picture, IMAGE, read_images("resize=256")),
    )


def test_the_command_hands_them_on(picture: Path, tmp_path: Path) -> None:
    model, reports = tmp_path / "m.onnx", []
    onnx.save(residual_net(np.random.default_rng(0)), model)
    for more in ([], ["--image", "scale=1"]):
        line = ["quantize", str(model), "--calibration", str(picture.parent), *more,
                "-o", str(tmp_path / "q.onnx"), "--json", "--calibrator", "minmax"]  # fmt: skip
        assert run_command(line) == 0
        graph = onnx.load(tmp_path / "q.onnx").graph
        reports.append({t.name: onnx.numpy_helper.to_array(t) for t in graph.initializer})
    assert reports[1]["x_scale"] == pytest.approx(255 * reports[0]["x_scale"], rel=1e-3)


@pytest.mark.parametrize(
    "text",
    ["scale=1/255", "scale=nan", "scale=inf", "scale=", "resize=nan", "resize=-1", "resize=1e12",
     "resize=2.5", "std=0", "std=1/0/1", "mean=1/2", "mean=a", "order=xyz", "size=3", "wide"],
)  # fmt: skip
def test_impossible_values_are_refused(text: str) -> None:
    with pytest.raises(OptionError):
        read_images(text)


def test_three_numbers_for_one_channel_are_refused(picture: Path) -> None:
    with pytest.raises(OptionError, match="one channel"):
        read_image(picture, TensorSpec("x", "float32", (1, 1, 9, 7)), read_images("imagenet"))


def test_images_get_the_type_of_the_input(picture: Path) -> None:
    spec = TensorSpec("x", "float16", (1, 3, 9, 7))
    (batch,) = CalibrationData(picture, (spec,)).batches()
    assert batch.feeds["x"].dtype == np.float16


def _damaged(kind: str, path: Path) -> bytes:
    whole = path.read_bytes()
    if kind == "too large":
        pillow.open(path).save(path, "bmp")
        whole = path.read_bytes()
        return whole[:18] + b"\x00\x00\x00\x70" + whole[22:]
    if kind == "no chunk":
        return whole.replace(b"IDAT", b"\xff\xdc6\xf4")
    return whole[: len(whole) // 2] if kind == "cut" else b""


@pytest.mark.parametrize("kind", ["too large", "no chunk", "cut", "empty"])
def test_damaged_images_are_errors_that_name_the_file(kind: str, picture: Path) -> None:
    picture.write_bytes(_damaged(kind, picture))
    with pytest.raises(InputError, match="not an image") as error:
        read_image(picture, IMAGE, ImageOptions())
    assert error.value.where == str(picture)


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(InputError, match=r"this is no file\b.*\n  hint: give an image file"):
        read_image(tmp_path / "a.png", IMAGE, ImageOptions())
