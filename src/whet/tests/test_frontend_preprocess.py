"""Pictures as bytes in front of a model: every step against NumPy, bit by bit; files and errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import whet
from whet.cli import exits
from whet.cli.main import run_command
from whet.frontend.preprocess.aipp import parse_aipp
from whet.tests.seeds import seeds_of_models

Array = np.ndarray[Any, Any]
YUV_TO_RGB = whet.Colours(((298, 0, 409), (298, -100, -208), (298, 516, 0)), (16, 128, 128))
RGB_TO_YUV = whet.Colours(((66, 129, 25), (-38, -74, 112), (112, -94, -18)), after=(16, 128, 128))
TO_GRAY = whet.Colours(((76, 150, 30), (0, 0, 0), (0, 0, 0)))
STATISTICS: dict[str, Any] = {
    "mean": (104.0, 117.0, 123.0), "least": (0.5, 0.25, 0.0), "scale": (1 / 57, 0.017, 0.0173),
}  # fmt: skip


def identity(shape: tuple[int | str, ...], dtype: int = TensorProto.FLOAT) -> onnx.ModelProto:
    x, y = (helper.make_tensor_value_info(name, dtype, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def random_bytes(shape: tuple[int, ...]) -> Array:
    (seed,) = seeds_of_models(1)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def compiled(
    model: onnx.ModelProto, *steps: whet.Preprocess | whet.DynamicPreprocess, **shapes: Any
) -> Any:
    options = whet.Options(threads=1, cache_dir="")
    return whet.compile(model, preprocess=steps, shapes=shapes or None, options=options)


def unpacked(picture: Array, pixels: str) -> Array:
    """Return N×H×W×C of a picture, one slow assignment after another."""
    if pixels == "YUYV_U8":
        y, u, v = picture[..., 0], picture[:, :, 0::2, 1], picture[:, :, 1::2, 1]
        return np.stack([y, np.repeat(u, 2, 2), np.repeat(v, 2, 2)], -1)
    if pixels in ("YUV420SP_U8", "YUV422SP_U8"):
        rows = 2 if pixels == "YUV420SP_U8" else 1
        height = picture.shape[1] * 2 // (3 if rows == 2 else 4)
        y, below = picture[:, :height], picture[:, height:]
        u, v = (np.repeat(np.repeat(below[:, :, k::2], rows, 1), 2, 2) for k in (0, 1))
        return np.stack([y, u, v], -1)
    return picture


def resized(pixels: Array, size: tuple[int, int]) -> Array:
    """Return bytes between those of a picture, N×H×W×C, weighted by how near their centres are."""
    for axis, wanted in zip((1, 2), size, strict=True):
        have = pixels.shape[axis]
        at = ((np.arange(wanted) + 0.5) * have / wanted - 0.5).clip(0, have - 1)
        low = np.floor(at).astype(int)
        high, part = (low + 1).clip(0, have - 1), (at - low).reshape([-1, *[1] * (3 - axis)])
        pixels = pixels.take(low, axis) * (1 - part) + pixels.take(high, axis) * part
    return np.rint(pixels).astype(np.uint8)


def expected(picture: Array, steps: whet.Preprocess, channels: int, dtype: Any) -> Array:
    """Return what the model sees, N×H×W×C."""
    pixels = unpacked(picture, steps.pixels)
    if pixels.shape[-1] == 4:
        pixels = pixels[..., :3] if steps.swap_alpha else pixels[..., 1:]
    if steps.swap_red_blue:
        pixels = pixels[..., [2, 1, 0] if "RGB" in steps.pixels else [0, 2, 1]]
    if steps.crop:
        top, left, height, width = steps.crop
        pixels = pixels[:, top : top + height, left : left + width]
    if steps.resize:
        pixels = resized(pixels, steps.resize)
    if steps.colours:
        wide = pixels.astype(np.int64) - steps.colours.before
        wide = (wide @ np.array(steps.colours.matrix).T >> 8) + steps.colours.after
        pixels = wide.clip(0, 255)[..., :channels]
    work = np.float64 if dtype == np.float64 else np.float32
    values = pixels.astype(work)
    for numbers, apply in ((steps.mean, np.subtract), (steps.least, np.subtract)):
        values = apply(values, np.array(numbers[:channels], work))
    values = (values * np.array(steps.scale[:channels], work)).astype(dtype)
    top, bottom, left, right = steps.padding or (0, 0, 0, 0)
    around = [(0, 0), (top, bottom), (left, right), (0, 0)]
    return np.pad(values, around, constant_values=dtype(steps.padding_value))


CASES = [
    (whet.Preprocess(), (20, 30, 3), 3),
    (whet.Preprocess(swap_red_blue=True, **STATISTICS), (20, 30, 3), 3),
    (whet.Preprocess(source=(29, 41), crop=(3, 7, 20, 30), **STATISTICS), (29, 41, 3), 3),
    (whet.Preprocess(pixels="XRGB8888_U8", **STATISTICS), (20, 30, 4), 3),
    (whet.Preprocess(pixels="ARGB8888_U8", swap_alpha=True, swap_red_blue=True), (20, 30, 4), 3),
    (whet.Preprocess(pixels="YUV400_U8", mean=(3, 0, 0), scale=(0.1, 1, 1)), (20, 30, 1), 1),
    (whet.Preprocess(colours=TO_GRAY), (20, 30, 3), 1),
    (whet.Preprocess(colours=RGB_TO_YUV, **STATISTICS), (20, 30, 3), 3),
    (whet.Preprocess(pixels="AYUV444_U8", colours=YUV_TO_RGB), (20, 30, 4), 3),
    (whet.Preprocess(pixels="YUYV_U8", colours=YUV_TO_RGB, swap_red_blue=True), (20, 30, 2), 3),
    (whet.Preprocess(pixels="YUV422SP_U8", colours=YUV_TO_RGB, **STATISTICS), (40, 30), 3),
    (whet.Preprocess(source=(40, 15), resize=(20, 30), **STATISTICS), (40, 15, 3), 3),
    (
        whet.Preprocess(
            pixels="YUV420SP_U8", source=(14, 64), crop=(2, 1, 10, 60), resize=(20, 30),
            colours=YUV_TO_RGB,
        ), (21, 64), 3,
    ),
    (whet.Preprocess(pixels="YUV420SP_U8"), (30, 30), 3),
    (
        whet.Preprocess(
            pixels="YUV420SP_U8", source=(24, 36), crop=(1, 3, 17, 25), colours=YUV_TO_RGB,
            padding=(1, 2, 0, 5), padding_value=-1.5, **STATISTICS,
        ), (36, 36), 3,
    ),
]  # fmt: skip


@pytest.mark.parametrize(("steps", "picture", "channels"), CASES)
def test_every_step_is_exact(
    steps: whet.Preprocess, picture: tuple[int, ...], channels: int
) -> None:
    model = compiled(identity(("batch", channels, 20, 30)), steps)
    assert model.inputs[0].shape[1:] == picture
    assert model.inputs[0].dtype == "uint8"
    x = random_bytes((3, *picture))
    wanted = expected(x, steps, channels, np.float32).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(model({"x": x})["y"], wanted)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_types_and_channels_last(kind: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind).type
    steps = whet.Preprocess(padding=(0, 1, 1, 0), padding_value=0.1, **STATISTICS)
    model = compiled(identity((2, 7, 9, 3), kind), steps)
    x = random_bytes((2, 6, 8, 3))
    np.testing.assert_array_equal(model({"x": x})["y"], expected(x, steps, 3, dtype))


def test_open_sizes_and_an_empty_batch() -> None:
    model = compiled(identity(("n", 3, "h", "w")), whet.Preprocess(**STATISTICS))
    for shape in ((0, 4, 4, 3), (1, 1, 1, 3), (2, 5, 3, 3)):
        x = random_bytes(shape)
        wanted = expected(x, replace(CASES[1][0], swap_red_blue=False), 3, np.float32)
        np.testing.assert_array_equal(model({"x": x})["y"], wanted.transpose(0, 3, 1, 2))


def test_it_is_fused_with_the_model() -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    model = identity((1, 3, 8, 8))
    model.graph.node[0].CopyFrom(node)
    program = compiled(model, whet.Preprocess(colours=RGB_TO_YUV, **STATISTICS))
    assert program.stats.launches == 1
    assert program.stats.arena_bytes == 0


AIPP = """
# the camera of the door
aipp_op {
    aipp_mode: static          related_input_name: "x"
    input_format : YUV420SP_U8
    src_image_size_w : 36      src_image_size_h : 24
    crop: true  load_start_pos_h : 1 load_start_pos_w : 3 crop_size_w : 25 crop_size_h : 17
    csc_switch : true  rbuv_swap_switch : false
    matrix_r0c0 : 298 matrix_r0c1 : 0 matrix_r0c2 : 409
    matrix_r1c0 : 298 matrix_r1c1 : -100 matrix_r1c2 : -208
    matrix_r2c0 : 298 matrix_r2c1 : 516 matrix_r2c2 : 0
    input_bias_0 : 16 input_bias_1 : 128 input_bias_2 : 128
    mean_chn_0 : 104 mean_chn_1 : 117 mean_chn_2 : 123
    min_chn_0 : 0.5 min_chn_1 : 0.25
    var_reci_chn_0 : 0.017543859649122806 var_reci_chn_1 : 0.017 var_reci_chn_2 : 0.0173
    padding : true  top_padding_size : 1 bottom_padding_size : 2 right_padding_size : 5
    padding_value : -1.5
}
"""


def test_an_aipp_file_says_the_same_as_the_record() -> None:
    (steps,) = parse_aipp(AIPP)
    cut = {name: getattr(steps, name)[:3] for name in ("mean", "least", "scale")}
    assert replace(steps, **cut) == replace(CASES[-1][0], input="x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no aipp_op block"),
        ("aipp_op { input_format: RGB888_U8", "not closed"),
        ("{ input_format: RGB888_U8 }", "not an AIPP file"),
        ("aipp_op {\n aipp_op { } }", "line 2"),
        ("aipp_op { }", "input_format is missing"),
        ("aipp_op { input_format: RGB888 }", "RGB888_U8"),
        ("aipp_op { aipp_mode: dynamic input_format: RGB888_U8 }", "input_format"),
        ("aipp_op { input_format: RGB888_U8\n crop_size: 3 }", "crop_size_"),
        ("aipp_op { input_format: RGB888_U8 crop: yes }", "true or false"),
        ("aipp_op { input_format: RGB888_U8 crop: true }", "crop_size_h"),
        ("aipp_op { input_format: RGB888_U8 crop: true crop: true }", "twice"),
        ("aipp_op { input_format: RGB888_U8 var_reci_chn_0: nan }", "a number"),
        ("aipp_op { input_format: RGB888_U8 matrix_r0c0: 40000 }", "-32768"),
        ("aipp_op { input_format: RGB888_U8 resize: true }", "resize_output_h"),
        (
            "aipp_op { input_format: RGB888_U8 resize: true resize_output_h: 4"
            " resize_output_w: 4 }",
            "src_image_size_h",
        ),
        ("aipp_op { input_format: RGB888_U8 src_image_size_w: 3 }", "src_image_size_h"),
        ("aipp_op { input_format: RGB888_U8 max_src_image_size: 3 }", "dynamic"),
        ("aipp_op { input_format: RGB888_U8 ax_swap_switch: true }", "unused channel"),
    ],
)
def test_files_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(whet.OptionError) as caught:
        parse_aipp(text)
    assert message in str(caught.value)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("shape", "steps", "message"),
    [
        ((1, 3, 8, 8), whet.Preprocess(input="images"), "no input 'images'"),
        ((1, 3, 8), whet.Preprocess(), "batch of images"),
        ((1, 5, 8, 8), whet.Preprocess(), "3 channels"),
        ((1, 3, 8, 8), whet.Preprocess(pixels="YUV400_U8"), "1 channels"),
        ((1, 3, 8, 8), whet.Preprocess(source=(9, 8)), "9×8"),
        ((1, 3, 8, 8), whet.Preprocess(crop=(0, 0, 7, 8)), "7×8"),
        ((1, 3, 8, 8), whet.Preprocess(source=(4, 4), resize=(8, 9)), "8×9"),
        ((1, 3, 8, 8), whet.Preprocess(padding=(4, 4, 0, 0)), "leaves nothing"),
        ((1, 3, 7, 8), whet.Preprocess(pixels="YUV420SP_U8"), "even"),
        ((1, 3, "h", 8), whet.Preprocess(pixels="YUV420SP_U8"), "--shape"),
        ((1, 3, "h", 8), whet.Preprocess(crop=(0, 0, 8, 8)), "--shape"),
        ((1, 3, "h", 8), whet.Preprocess(padding=(1, 0, 0, 0)), "--shape"),
    ],
)
def test_models_that_do_not_fit(
    shape: tuple[int | str, ...], steps: whet.Preprocess, message: str
) -> None:
    with pytest.raises(whet.WhetError) as caught:
        compiled(identity(shape), steps)
    assert message in str(caught.value)


def test_records_that_are_refused() -> None:
    for wrong in ({"crop": (0, 0, 0, 1)}, {"scale": (1.0,)}, {"padding": (-1, 0, 0, 0)},
                  {"source": (4, 4), "crop": (1, 0, 4, 4)}):  # fmt: skip
        with pytest.raises(whet.OptionError):
            whet.Preprocess(**wrong)
    with pytest.raises(whet.OptionError, match="two descriptions"):
        compiled(identity((1, 3, 4, 4)), whet.Preprocess(), whet.Preprocess(input="x"))
    with pytest.raises(whet.OptionError, match="preprocess is a dict"):
        whet.compile(identity((1, 3, 4, 4)), preprocess={"x": 1})  # type: ignore[arg-type]


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHET_JOBS", "1")
    onnx.save(identity(("n", 3, 20, 30)), "m.onnx")
    Path("aipp.cfg").write_text(AIPP)
    line = "compile m.onnx -o a.whet --threads 1 --preprocess aipp.cfg"
    assert run_command(line.split()) == exits.OK
    line = "atc --model=m.onnx --framework=5 --output=b --insert_op_conf=aipp.cfg"
    assert run_command(line.split()) == exits.OK
    x = random_bytes((2, 36, 36))
    wanted = expected(x, CASES[-1][0], 3, np.float32).transpose(0, 3, 1, 2)
    for name in ("a.whet", "b.whet"):
        model = whet.load(name)
        assert "YUV420SP_U8" in model.metadata["preprocess"]
        np.testing.assert_array_equal(model({"x": x})["y"], wanted)
    capsys.readouterr()
    line = "compile m.onnx -o c.whet --preprocess missing.cfg"
    assert run_command(line.split()) == exits.USAGE
    assert "cannot read the file" in capsys.readouterr().err
    assert not Path("c.whet").exists()


def test_other_runtimes_get_the_same_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """``--preprocess`` of commands that compare: checked, verified and timed beside others."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHET_JOBS", "1")
    onnx.save(identity((2, 3, "h", "w")), "m.onnx")
    Path("aipp.cfg").write_text(AIPP)
    np.save("x.npy", random_bytes((2, 36, 36)))
    how = "m.onnx --shape x:2,3,20,30 --preprocess aipp.cfg --threads 1 --json"

    def ask(line: str) -> dict[str, Any]:
        capsys.readouterr()
        assert run_command(line.split()) == exits.OK, capsys.readouterr().err
        found: dict[str, Any] = json.loads(capsys.readouterr().out)
        return found

    plain = ask("check m.onnx --shape x:2,3,20,30 --json")
    assert ask(f"check {how}")["flops"] > plain["flops"]
    for reference in ("ort", "onnx"):
        found = ask(f"verify {how} --input x.npy --reference {reference}")
        assert (found["passed"], found["model"]) == (True, "m.onnx")
    found = ask(f"bench {how} - --input x.npy --rounds 2 --against ort")
    assert found["largest_difference"]["ort"] < 1e-5
    assert found["model"] == "m.onnx"
    Path("m.whet").touch()
    line = "bench m.whet --preprocess aipp.cfg"
    assert run_command(line.split()) == exits.USAGE
    assert "name the ONNX file" in capsys.readouterr().err
