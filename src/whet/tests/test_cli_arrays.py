"""Arrays from and to files."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from whet.cli import arrays
from whet.errors import ArtifactError, InputError, ResourceError
from whet.program.records import TensorSpec

ONE = (TensorSpec("x", "float32", (2, 3)),)
TWO = (TensorSpec("a", "int64", ("batch",)), TensorSpec("b", "bfloat16", (2,)))


def test_random_is_seeded_and_typed() -> None:
    first = arrays.read_inputs(["random:7"], TWO, {"batch": 5})
    again = arrays.read_inputs(["random:7"], TWO, {"batch": 5})
    other = arrays.read_inputs(["random:8"], TWO, {"batch": 5})
    assert first["a"].shape == (5,)
    assert first["a"].dtype == np.int64
    assert set(first["a"]) <= {0, 1}
    assert first["b"].dtype == ml_dtypes.bfloat16
    assert all(np.array_equal(first[name], again[name]) for name in first)
    assert not np.array_equal(first["b"], other["b"])


def test_random_scalar() -> None:
    assert arrays.read_inputs(["random"], [TensorSpec("s", "float32", ())], {})["s"].shape == ()


def test_random_needs_every_dimension() -> None:
    with pytest.raises(InputError, match="'batch' has no value") as caught:
        arrays.read_inputs(["random"], TWO, {})
    assert "--dim batch=" in str(caught.value)


def test_files_by_name_and_alone(tmp_path: Path) -> None:
    x, a = np.ones((2, 3), np.float32), np.arange(4)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "a.npy", a)
    np.savez(tmp_path / "both.npz", a=a, b=x)
    assert np.array_equal(arrays.read_inputs([f"{tmp_path}/x.npy"], ONE, {})["x"], x)
    assert set(arrays.read_inputs([f"{tmp_path}/both.npz"], TWO, {})) == {"a", "b"}
    mixed = arrays.read_inputs([f"a={tmp_path}/a.npy", "b=random:1"], TWO, {})
    assert np.array_equal(mixed["a"], a)
    assert mixed["b"].shape == (2,)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("missing.npy", "No such file"),
        ("rubbish.npy", "not an array file"),
        ("empty.npy", "not an array file"),
        ("cut.npz", "not an array file"),
        ("objects.npy", "not an array file"),
        ("y=random", "no input 'y'"),
        ("random:x", "not a number"),
    ],
)
def test_bad_sources(
    source: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("whole.npz", x=np.ones(3))
    Path("cut.npz").write_bytes(Path("whole.npz").read_bytes()[:100])
    Path("rubbish.npy").write_bytes(b"rubbish")
    Path("empty.npy").write_bytes(b"")
    objects: Any = np.array([{}], dtype=object)
    np.save("objects.npy", objects, allow_pickle=True)
    with pytest.raises(InputError, match=words):
        arrays.read_inputs([source], ONE, {})


def test_one_array_for_two_inputs(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.ones(3))
    with pytest.raises(InputError, match="2 inputs: a, b"):
        arrays.read_inputs([f"{tmp_path}/x.npy"], TWO, {})


def test_outputs_survive_saving_under_any_name(tmp_path: Path) -> None:
    values = {
        "file": np.arange(3, dtype=">i4"),
        "a/b": np.ones((1, 2), np.float16),
        "low": np.array([1.5, 2], ml_dtypes.bfloat16),
    }
    arrays.write_arrays(tmp_path / "y.npz", values)
    with np.load(tmp_path / "y.npz") as read:
        assert set(read.files) == set(values)
        assert np.array_equal(read["file"], values["file"])
        assert read["a/b"].dtype == np.float16
        assert read["low"].dtype == np.float32
        assert read["low"].tolist() == [1.5, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["y.npz"]


def test_damaged_files_are_errors(tmp_path: Path) -> None:
    """A cut header, a changed compressed stream, a method of compression that there is none of."""
    np.save(tmp_path / "x.npy", np.ones((2, 3), np.float32))
    np.savez_compressed(tmp_path / "x.npz", x=np.random.default_rng(0).random(300))
    rng = np.random.default_rng(1)
    for name in ("x.npy", "x.npz"):
        path = tmp_path / name
        data = path.read_bytes()
        for _ in range(300):
            changed = bytearray(data)
            for at in rng.integers(0, len(data), 3):
                changed[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(changed)
            with suppress(InputError):
                arrays.read_inputs([str(path)], ONE, {})


@pytest.mark.parametrize("kind", ["string", "seq(tensor(float))"])
def test_values_that_are_not_drawn(kind: str) -> None:
    with pytest.raises(InputError, match="no random values") as caught:
        arrays.read_inputs(["random"], [TensorSpec("t", kind, (2,))], {})
    assert "--input t=" in str(caught.value)


@pytest.mark.parametrize("size", [10**15, 2**62, 10**30])
def test_random_inputs_beyond_memory(size: int) -> None:
    with pytest.raises(ResourceError, match="'a'"):
        arrays.read_inputs(["random"], TWO, {"batch": size})


def test_single_output_to_npy(tmp_path: Path) -> None:
    arrays.write_arrays(tmp_path / "y.npy", {"y": np.arange(3)})
    assert np.load(tmp_path / "y.npy").tolist() == [0, 1, 2]
    with pytest.raises(InputError, match="gives 2"):
        arrays.write_arrays(tmp_path / "z.npy", {"y": np.ones(1), "z": np.ones(1)})
    with pytest.raises(InputError, match="unknown suffix"):
        arrays.write_arrays(tmp_path / "y.txt", {"y": np.ones(1)})


def test_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "y.npy"
    path.write_bytes(b"old")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("whet.cli.arrays.np.save", fail)
    with pytest.raises(ArtifactError, match="No space left"):
        arrays.write_arrays(path, {"y": np.ones(3)})
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_describe_counts_what_is_not_finite() -> None:
    facts = arrays.describe_value("y", np.array([1.0, np.nan, 3.0, np.inf], np.float32))
    assert facts["not_finite"] == 2
    assert (facts["min"], facts["max"], facts["mean"]) == (1.0, 3.0, 2.0)
    assert "min" not in arrays.describe_value("y", np.empty((0, 3)))


def test_difference() -> None:
    ones = np.ones(3)
    assert arrays.difference(ones, ones) == 0
    assert arrays.difference(ones * 1.5, ones) == 0.5
    assert arrays.difference(np.zeros(3), np.zeros(3)) == 0
    assert arrays.difference(ones, np.ones(4)) == np.inf
    assert np.isnan(arrays.difference(np.array([np.nan]), np.array([1.0])))
