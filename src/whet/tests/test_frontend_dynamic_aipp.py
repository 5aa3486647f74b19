"""Dynamic AIPP: the same model, its steps said by a block of bytes at each call."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import whet
from whet.cli import exits
from whet.cli.main import run_command
from whet.frontend.preprocess.aipp import parse_aipp
from whet.program.aipp_block import HEAD, IMAGE
from whet.tests.seeds import seeds_of_models
from whet.tests.test_frontend_preprocess import (
    CASES,
    RGB_TO_YUV,
    TO_GRAY,
    YUV_TO_RGB,
    Array,
    compiled,
    expected,
    identity,
)

BYTES = 20_000
BLOCK = "ascend_dynamic_aipp_data"
CAMERA = "aipp_op { aipp_mode: dynamic related_input_rank: 0 max_src_image_size: 20000 }"


def halves(*numbers: float) -> tuple[float, ...]:
    return tuple(float(np.float16(number)) for number in numbers)


def in_block(steps: whet.Preprocess, picture: tuple[int, ...]) -> whet.Preprocess:
    """Return steps whose numbers a block holds exactly, with the size of the picture."""
    rows = {"YUV420SP_U8": (2, 3), "YUV422SP_U8": (1, 2)}.get(steps.pixels, (1, 1))
    return replace(
        steps, source=(picture[0] * rows[0] // rows[1], picture[1]),
        least=halves(*steps.least), scale=halves(*steps.scale), padding_value=0.0,
    )  # fmt: skip


def flat(pictures: Array) -> Array:
    """Return the bytes of the input: pictures, then what is never read."""
    (seed,) = seeds_of_models(1)
    whole = np.random.default_rng(seed).integers(0, 256, BYTES, dtype=np.uint8)
    whole[: pictures.size] = pictures.reshape(-1)
    return whole


def taken(picture: Array, steps: whet.Preprocess, channels: int, dtype: Any = np.float32) -> Array:
    return expected(picture, steps, channels, dtype).transpose(0, 3, 1, 2)


def random_pictures(*shape: int) -> Array:
    (seed,) = seeds_of_models(1)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture(scope="module")
def models() -> dict[int, Any]:
    """Return a model for each number of channels, which all cases share."""
    steps = whet.DynamicPreprocess("x", BYTES)
    return {c: compiled(identity((2, c, 20, 30)), steps) for c in (1, 3)}


@pytest.mark.parametrize(
    ("steps", "picture", "channels"),
    [case for case in CASES if case[0].resize is None],
)
def test_one_model_follows_any_block(
    models: dict[int, Any], steps: whet.Preprocess, picture: tuple[int, ...], channels: int
) -> None:
    model, steps = models[channels], in_block(steps, picture)
    assert [(spec.name, spec.shape) for spec in model.inputs] == [("x", (BYTES,)), (BLOCK, (256,))]
    x = random_pictures(2, *picture)
    got = model({"x": flat(x), BLOCK: whet.aipp_block(steps, batch=2)})["y"]
    np.testing.assert_array_equal(got, taken(x, steps, channels))


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
def test_other_types_and_channels_last(kind: int) -> None:
    steps = in_block(CASES[1][0], (5, 7, 3))
    x = random_pictures(1, 5, 7, 3)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    for shape, axes in (((1, 3, 5, 7), (0, 3, 1, 2)), ((1, 5, 7, 3), (0, 1, 2, 3))):
        model = compiled(identity(shape, kind), whet.DynamicPreprocess("0", BYTES))
        got = model({"x": flat(x), BLOCK: whet.aipp_block(steps)})["y"]
        np.testing.assert_array_equal(got, expected(x, steps, 3, dtype.type).transpose(axes))


def test_images_of_a_batch_have_steps_of_their_own(models: dict[int, Any]) -> None:
    base = whet.Preprocess(source=(29, 41), colours=RGB_TO_YUV)
    each = [
        replace(base, crop=(3, 7, 20, 30), mean=(-5, 300, 0), scale=halves(0.1, 65504, -3e-7)),
        replace(base, crop=(9, 0, 11, 28), padding=(4, 5, 2, 0), least=halves(0.3, -7e4 / 2, 1)),
    ]
    x = random_pictures(2, 29, 41, 3)
    got = models[3]({"x": flat(x), BLOCK: whet.aipp_block(each)})["y"]
    wanted = np.concatenate([taken(x[k : k + 1], steps, 3) for k, steps in enumerate(each)])
    np.testing.assert_array_equal(got, wanted)


def test_the_layout_is_the_documented_one() -> None:
    """Written a second time, number by number, as the C structures have them."""
    steps = whet.Preprocess(
        pixels="YUV420SP_U8", source=(24, 36), swap_red_blue=True, crop=(1, 3, 17, 25),
        colours=YUV_TO_RGB, mean=(104, -117, 123), least=(0.5, 0.25, 0.0), scale=(0.5, 2, 4),
        padding=(1, 2, 0, 5),
    )  # fmt: skip
    head = struct.pack("<B4b3xii9h6x6B2x16x", 1, 1, 1, 0, 1, 36, 24, 298, 0, 409, 298, -100, -208,
                       298, 516, 0, 0, 0, 0, 16, 128, 128)  # fmt: skip
    image = struct.pack("<4b4x12i4h8e16x", 1, 0, 1, 0, 3, 1, 25, 17, 0, 0, 0, 0, 1, 2, 0, 5,
                        104, -117, 123, 0, 0.5, 0.25, 0, 0, 0.5, 2, 4, 0)  # fmt: skip
    assert (len(head), len(image)) == (HEAD.itemsize, IMAGE.itemsize) == (64, 96)
    assert whet.aipp_block(steps).tobytes() == head + image


GOOD = whet.Preprocess(source=(29, 41), crop=(3, 7, 20, 30))


@pytest.mark.parametrize(
    ("place", "value", "message"),
    [
        ((0, 0, "u1"), 3, "inputFormat is 3"),
        ((0, 0, "u1"), 10, "inputFormat is 10"),
        ((0, 1, "i1"), 7, "cscSwitch is 7"),
        ((0, 3, "i1"), 1, "axSwapSwitch is 1"),
        ((0, 4, "i1"), 3, "batchNum is 3"),
        ((0, 8, "<i4"), 0, "srcImageSizeW is 0"),
        ((0, 12, "<i4"), 200, "49200 bytes, the input has 20000"),
        ((1, 1, "i1"), 1, "scfSwitch is 1"),
        ((1, 2, "i1"), 2, "paddingSwitch is 2"),
        ((1, 3, "i1"), 1, "rotateSwitch is 1"),
        ((1, 8, "<i4"), 12, "cropSizeW is 30 from 12"),
        ((1, 12, "<i4"), -1, "cropSizeH is 20 from -1"),
        ((1, 20, "<i4"), 19, "cropSizeH + paddingSize is 19"),
        ((2, 72, "<u2"), 0x7C00, "dtcPixelVarReciChn is not finite"),
    ],
)
def test_fields_that_do_not_fit_are_named(
    models: dict[int, Any], place: tuple[int, int, str], value: int, message: str
) -> None:
    record, offset, kind = place
    block = whet.aipp_block(GOOD, batch=2)
    begin = (0, 64, 160)[record] + offset
    raw = np.array([value], kind).view(np.uint8)
    wrong = block.copy()
    wrong[begin : begin + raw.size] = raw
    x = flat(random_pictures(2, 29, 41, 3))
    before = models[3]({"x": x, BLOCK: block})["y"]
    with pytest.raises(whet.InputError) as caught:
        models[3]({"x": x, BLOCK: wrong})
    assert message in str(caught.value)
    assert caught.value.hint
    np.testing.assert_array_equal(models[3]({"x": x, BLOCK: block})["y"], before)


def test_native_code_stays_in_its_memory_whatever_a_block_says() -> None:
    """Other runtimes get the graph without the check; it means the same there for any bytes."""
    ort = pytest.importorskip("onnxruntime")
    import onnx_ir as ir

    from whet.frontend.load import load_model
    from whet.frontend.preprocess.attach import attach_preprocess
    from whet.optimize.opset import lower_opset

    model = load_model(identity((2, 3, 5, 6)))
    attach_preprocess(model, [whet.DynamicPreprocess("x", 300)])
    lower_opset(model)
    written = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(written, providers=["CPUExecutionProvider"])
    ours = whet.compile(written, options=whet.Options(threads=1, cache_dir=""))
    for seed in seeds_of_models(6):
        chance = np.random.default_rng(seed)
        feed = {"x": chance.integers(0, 256, 300, dtype=np.uint8),
                BLOCK: chance.integers(0, 256, 256, dtype=np.uint8)}  # fmt: skip
        (wanted,) = session.run(None, feed)
        np.testing.assert_array_equal(ours(feed)["y"], wanted)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("aipp_op { aipp_mode: dynamic }", "max_src_image_size is missing"),
        ("aipp_op { aipp_mode: dynamic max_src_image_size: 9 mean_chn_0: 1 }", "mean_chn_0"),
        ("aipp_op { aipp_mode: dynamic max_src_image_size: 0 }", "max_src_image_size"),
        (
            "aipp_op { aipp_mode: dynamic max_src_image_size: 9 support_rotation: true }",
            "support_rotation is not available",
        ),
        ("aipp_op { aipp_mode: late input_format: RGB888_U8 }", "static or dynamic"),
        ("aipp_op { input_format: RGB888_U8 max_src_image_size: 9 }", "aipp_mode: dynamic"),
    ],
)
def test_files_that_are_refused(text: str, message: str) -> None:
    with pytest.raises(whet.OptionError) as caught:
        parse_aipp(text)
    assert message in str(caught.value)
    assert caught.value.hint


def test_steps_that_no_block_holds_are_refused() -> None:
    for wrong, message in (
        ({"resize": (20, 30)}, "resize"), ({"mean": (0.5, 0, 0)}, "mean"),
        ({"padding_value": 1.0}, "padding_value"), ({"source": None}, "source"),
    ):  # fmt: skip
        with pytest.raises(whet.OptionError, match=message):
            whet.aipp_block(replace(GOOD, **wrong))
    with pytest.raises(whet.OptionError, match="differ in"):
        whet.aipp_block([GOOD, replace(GOOD, colours=TO_GRAY)])
    with pytest.raises(whet.OptionError, match="2 records for 3"):
        whet.aipp_block([GOOD, GOOD], batch=3)
    with pytest.raises(whet.OptionError, match="max_src_image_size"):
        whet.DynamicPreprocess("x", 1 << 31)


@pytest.mark.parametrize("shape", [("n", 3, 4, 4), (1, 2, 4, 4), (1, 3, "h", 4)])
def test_models_that_do_not_fit(shape: tuple[int | str, ...]) -> None:
    with pytest.raises(whet.ShapeError, match="--shape"):
        compiled(identity(shape), whet.DynamicPreprocess("x", 100))


def test_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WHET_JOBS", "1")
    onnx.save(identity((2, 3, 20, 30)), "m.onnx")
    Path("aipp.cfg").write_text(CAMERA)
    line = "compile m.onnx -o a.whet --threads 1 --preprocess aipp.cfg"
    assert run_command(line.split()) == exits.OK
    line = "atc --model=m.onnx --framework=5 --output=b --insert_op_conf=aipp.cfg"
    assert run_command(line.split()) == exits.OK
    x = random_pictures(2, 29, 41, 3)
    block = whet.aipp_block(GOOD, batch=2)
    np.savez("in.npz", x=flat(x), ascend_dynamic_aipp_data=block)
    for name in ("a.whet", "b.whet"):
        assert run_command(["run", name, "--input", "in.npz", "--output", "y.npy"]) == exits.OK
        np.testing.assert_array_equal(np.load("y.npy"), taken(x, GOOD, 3))
    capsys.readouterr()
    assert run_command(["run", "a.whet", "--input", "random"]) == exits.INPUT
    shown = " ".join(capsys.readouterr().err.split())
    assert BLOCK in shown
    assert "whet.aipp_block" in shown
    how = "verify m.onnx --preprocess aipp.cfg --threads 1 --json --input in.npz --reference onnx"
    assert run_command(how.split()) == exits.OK
    assert json.loads(capsys.readouterr().out)["passed"]
