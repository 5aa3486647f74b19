"""Calibration data: what is read, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whet.errors import InputError, WhetError
from whet.program.records import TensorSpec
from whet.quantize.data import CalibrationData
from whet.quantize.images import IMAGENET, ImageOptions, read_image

X = TensorSpec("x", "float32", ("n", 3, 4))
I = TensorSpec("i", "int64", ("n", 2))  # noqa: E741 - the input's name
IMAGE = TensorSpec("image", "float32", (1, 3, 6, 5))
SAMPLES = np.random.default_rng(0).standard_normal((7, 3, 4)).astype(np.float32)


def read(source: Any, *specs: TensorSpec, **more: Any) -> list[Any]:
    return list(CalibrationData(source, specs or (X,), **more).batches())


def test_every_kind_of_source_gives_the_same(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    np.save(folder / "a.npy", SAMPLES[:3])
    np.savez(folder / "b.npz", x=SAMPLES[3:])
    np.save(tmp_path / "all.npy", SAMPLES)
    sources: list[Any] = [
        SAMPLES, {"x": SAMPLES}, list(SAMPLES), [{"x": s} for s in SAMPLES], folder,
        tmp_path / "all.npy", str(tmp_path / "all.npy"), lambda: iter(SAMPLES),
    ]  # fmt: skip
    for source in sources:
        batches = read(source, batch=4)
        assert [len(b.feeds["x"]) for b in batches] == [4, 3]
        assert np.array_equal(np.concatenate([b.feeds["x"] for b in batches]), SAMPLES)


def test_batches_are_as_the_model_takes_them() -> None:
    fixed = TensorSpec("x", "float32", (2, 3, 4))
    assert [len(b.feeds["x"]) for b in read(SAMPLES, fixed)] == [2, 2, 2]
    assert [len(b.feeds["x"]) for b in read(SAMPLES, batch=4, limit=5)] == [4, 1]
    longer = TensorSpec("x", "float32", ("n", "length", 4))
    mixed = [SAMPLES[0], SAMPLES[1], SAMPLES[2][:2]]
    assert [b.feeds["x"].shape for b in read(mixed, longer, batch=8)] == [(2, 3, 4), (1, 2, 4)]


def test_labels_and_several_inputs(tmp_path: Path) -> None:
    ids = np.arange(14, dtype=np.int32).reshape(7, 2)
    np.savez(tmp_path / "d.npz", x=SAMPLES.astype(np.float64), i=ids, labels=np.arange(7))
    (batch,) = read(tmp_path / "d.npz", X, I, batch=8)
    assert batch.feeds["i"].dtype == np.int64
    assert batch.feeds["x"].dtype == np.float32
    assert batch.labels.tolist() == list(range(7))
    (pairs,) = read([(SAMPLES, np.arange(7))], batch=8)
    assert pairs.labels.tolist() == list(range(7))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (SAMPLES[:, :2], r"a sample has the shape \[2, 4\], 'x' takes \[3, 4\]"),
        (np.full((2, 3, 4), np.nan, np.float32), "NaN or infinite in float32: 24 of 24"),
        ({"z": SAMPLES, "q": SAMPLES}, "the input 'x' is missing"),
        (SAMPLES.astype(complex), "the type is complex128"),
        (iter([SAMPLES]), "an iterator can be read once"),
        ([], "there is no data"),
        ("missing.npy", "cannot read: No such file"),
        ("missing", "no such file"),
        ((SAMPLES, np.arange(3)), "different numbers of samples"),
        (SAMPLES.astype(np.float64) * 1e300, "NaN or infinite in float32: 84 of 84"),
        (np.zeros((0, 2, 3, 4), np.float32), "there is no data"),
    ],
)
def test_bad_data_is_one_clear_error(source: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read([source] if isinstance(source, tuple) else source)


@pytest.mark.parametrize("number", [-1, 256])
def test_whole_numbers_that_do_not_fit_are_refused(number: int) -> None:
    spec = TensorSpec("u", "uint8", ("n", 2))
    (batch,) = read(np.array([[0, 255]]), spec)
    assert batch.feeds["u"].tolist() == [[0, 255]]
    with pytest.raises(InputError, match="numbers that do not fit in uint8: 1 of 2"):
        read(np.array([[0, number]]), spec)


def test_types_that_no_file_has_are_read_from_float32(tmp_path: Path) -> None:
    spec = TensorSpec("x", "bfloat16", ("n", 3, 4))
    np.save(tmp_path / "x.npy", SAMPLES)
    (batch,) = read(tmp_path / "x.npy", spec)
    assert str(batch.feeds["x"].dtype) == "bfloat16"
    np.save(tmp_path / "x.npy", batch.feeds["x"])  # NumPy keeps the bytes and forgets the type
    with pytest.raises(InputError, match=r"the type is \|V2"):
        read(tmp_path / "x.npy", spec)


def test_a_model_without_inputs_takes_no_data() -> None:
    with pytest.raises(InputError, match="no inputs"):
        list(CalibrationData(SAMPLES, ()).batches())


def test_what_systems_leave_in_folders_is_no_data(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in (".hidden", "cat", "dog"):
        (tmp_path / name).mkdir()
        image.fromarray(np.zeros((6, 5, 3), np.uint8)).save(tmp_path / name / "a.png")
        (tmp_path / name / "._a.png").write_bytes(b"no image")
        (tmp_path / name / "notes.txt").write_text("no image")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    assert [b.labels.tolist() for b in read(tmp_path, IMAGE)] == [[0], [1]]


def test_a_folder_that_links_to_itself_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "again.npy").symlink_to(tmp_path)
    with pytest.raises(InputError, match="there is no data"):
        read(tmp_path)
    (tmp_path / "loop.npy").symlink_to("loop.npy")
    with pytest.raises(InputError, match="cannot read"):
        read(tmp_path)


def test_bad_files(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no data"):
        read(tmp_path)
    (tmp_path / "bad.npy").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not an array file"):
        read(tmp_path)


def test_images(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    pixels = np.random.default_rng(1).integers(0, 256, (6, 5, 3)).astype(np.uint8)
    for label in ("cat", "dog"):
        (tmp_path / label).mkdir()
        image.fromarray(pixels).save(tmp_path / label / "a.png")
    batches = read(tmp_path, IMAGE)
    assert [b.labels.tolist() for b in batches] == [[0], [1]]
    wanted = pixels.transpose(2, 0, 1)[None] / 255
    assert np.allclose(batches[0].feeds["image"], wanted)
    path = tmp_path / "cat" / "a.png"
    last = TensorSpec("image", "float32", (1, 6, 5, 3))
    options = ImageOptions(mean=(0.5, 0.25, 0.0), std=(2.0, 1.0, 1.0), order="bgr", scale=1.0)
    assert np.allclose(read_image(path, last, options),
                       (pixels[..., ::-1] - [0.5, 0.25, 0]) / [2, 1, 1])  # fmt: skip
    assert read_image(path, TensorSpec("i", "uint8", (1, 1, 3, 4)), ImageOptions()).shape == (
        1, 3, 4,
    )  # fmt: skip
    assert read_image(path, IMAGE, IMAGENET).shape == (3, 6, 5)
    (tmp_path / "bad.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="not an image"):
        read(tmp_path, IMAGE)
    with pytest.raises(WhetError, match="takes no image"):
        read(path, X)
