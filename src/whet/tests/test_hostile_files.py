"""Files that lie, change or vanish while they are read."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.mapped import LARGE_FROM_BYTES, MappedFile
from whet.runtime import image
from whet.tests.fuzz import onnx_files, whet_files
from whet.tests.fuzz.children import BAD, OK, REFUSED, run_trials
from whet.tests.test_frontend_load import external, refusal, save_with_location

__all__ = ["external"]  # a fixture

SIDE = 512


def _dense(layers: int = 1) -> onnx.ModelProto:
    """Return products with weights of 1 MiB each."""
    weights = np.eye(SIDE, dtype=np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", [f"h{k}", f"w{k}"], [f"h{k + 1}"]) for k in range(layers)],
        "g",
        [helper.make_tensor_value_info("h0", TensorProto.FLOAT, [1, SIDE])],
        [helper.make_tensor_value_info(f"h{layers}", TensorProto.FLOAT, [1, SIDE])],
        [numpy_helper.from_array(weights * (k + 1), f"w{k}") for k in range(layers)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


X = np.ones((1, SIDE), np.float32)


@pytest.fixture
def compiled(tmp_path: Path) -> Path:
    path = tmp_path / "m.whet"
    whet.compile(_dense(), options=whet.Options(threads=1)).save(path)
    return path


# -- a .whet that changes --------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 5000, 2**20])
def test_a_compiled_file_that_is_cut_in_use(compiled: Path, size: int) -> None:
    model = whet.load(compiled)
    np.testing.assert_array_equal(model({"h0": X})["h1"], X)
    os.truncate(compiled, size)
    for _ in range(2):
        with pytest.raises(whet.ArtifactError, match=r"changed while it was in use(.|\n)*hint"):
            model({"h0": X})
    with pytest.raises(whet.ArtifactError):
        model.save(compiled.with_name("copy.whet"))
    with pytest.raises(whet.ArtifactError):
        whet.load(compiled)


@pytest.mark.parametrize("older", [False, True])
def test_a_compiled_file_that_is_overwritten_or_grows_in_use(
    compiled: Path, monkeypatch: pytest.MonkeyPatch, *, older: bool
) -> None:
    """Native code looks at the file behind each run; that of older files leaves it to Python."""
    if older:
        monkeypatch.setattr(image, "WATCHING", "no such function")
    model, data = whet.load(compiled), compiled.read_bytes()
    np.testing.assert_array_equal(model({"h0": X})["h1"], X)
    compiled.write_bytes(data[:-4] + b"abcd")
    with pytest.raises(whet.ArtifactError, match="changed"):
        model({"h0": X})
    compiled.write_bytes(data)
    model = whet.load(compiled)
    os.utime(compiled, ns=(1, 1))
    np.testing.assert_array_equal(model({"h0": X})["h1"], X)
    with compiled.open("ab") as file:
        file.write(b"more")
    np.testing.assert_array_equal(model({"h0": X})["h1"], X)


def test_a_compiled_file_that_is_replaced_or_removed_in_use(compiled: Path) -> None:
    """Renaming leaves the old file to those who have it."""
    model = whet.load(compiled)
    whet.compile(_dense(2), options=whet.Options(threads=1)).save(compiled)
    np.testing.assert_array_equal(model({"h0": X})["h1"], X)
    compiled.unlink()
    np.testing.assert_array_equal(model({"h0": X})["h1"], X)


def test_other_bus_errors_still_end_the_process(tmp_path: Path) -> None:
    """The handler looks after its own mappings alone."""
    text = """
        import mmap, os, sys
        from whet.mapped import MappedFile
        handle = os.open(sys.argv[1], os.O_RDWR)
        os.truncate(sys.argv[1], 2 * mmap.PAGESIZE)
        ours, other = MappedFile(handle, 0, 2 * mmap.PAGESIZE), mmap.mmap(handle, 2 * mmap.PAGESIZE)
        os.truncate(sys.argv[1], 0)
        assert bytes(ours.view[-8:]) == bytes(8) and ours.changed() and ours.lost
        print("ours", flush=True)
        other[mmap.PAGESIZE]
    """
    (tmp_path / "f").write_bytes(b"x")
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text), str(tmp_path / "f")],
        check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout == "ours\n"
    assert done.returncode == -7


# -- an ONNX file that changes ---------------------------------------------------------------------


@pytest.mark.parametrize("side", [True, False])
def test_a_model_that_is_cut_while_it_is_compiled(tmp_path: Path, side: bool) -> None:
    """The weights are cut away when loading is done, in the model or beside it."""
    path = tmp_path / "m.onnx"
    onnx.save(_dense(), path, save_as_external_data=side, location="w.bin")
    victim = tmp_path / "w.bin" if side else path

    def cut(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("load", total):
            os.truncate(victim, 100)

    with pytest.raises(whet.ModelError, match="changed while"):
        whet.compile(path, options=whet.Options(threads=1), progress=cut)


def test_mapped_parts_start_anywhere(tmp_path: Path) -> None:
    path = tmp_path / "f"
    data = np.random.default_rng(0).bytes(20_000)
    path.write_bytes(data)
    for offset, size in ((0, 20_000), (1, 1), (4096, 4096), (9999, 10_001)):
        with path.open("rb") as file:
            mapped = MappedFile(file.fileno(), offset, size)
        assert bytes(mapped.view) == data[offset : offset + size]
        assert not mapped.changed()


# -- external data ---------------------------------------------------------------------------------


def test_external_data_in_pipes_devices_and_folders(external: Path) -> None:
    os.mkfifo(external / "pipe")
    (external / "folder").mkdir()
    for location in ("pipe", "folder", "/dev/zero", "\0", ".", "a/" * 3000 + "b"):
        save_with_location(external, location)
        assert "external data" in str(refusal(external / "m.onnx")), location


def test_external_data_that_becomes_a_link(external: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is checked is what is opened."""
    secret = external.parent / "secret.bin"
    secret.write_bytes(bytes(24))
    monkeypatch.setattr("whet.frontend.load.check_external_data", lambda *_: None)
    (external / "w.bin").unlink()
    (external / "w.bin").symlink_to(secret)
    assert "cannot be read" in str(refusal(external / "m.onnx"))
    (external / "w.bin").unlink()
    os.link(secret, external / "w.bin")
    assert "hard-linked" in str(refusal(external / "m.onnx"))
    (external / "w.bin").unlink()
    (external / "w.bin").write_bytes(bytes(3))
    assert "too short" in str(refusal(external / "m.onnx"))


def test_many_constants_over_one_small_file(external: Path) -> None:
    """Overlapping constants cost what they would cost alone, and count as such."""
    proto = onnx.load(external / "m.onnx", load_external_data=False)
    for k in range(50):
        tensor = proto.graph.initializer.add()
        tensor.CopyFrom(proto.graph.initializer[0])
        tensor.name = f"more{k}"
    (external / "m.onnx").write_bytes(proto.SerializeToString())
    limits = whet.Limits(total_bytes=24 * 50)
    with pytest.raises(whet.ResourceError, match="total_bytes"):
        whet.compile(external / "m.onnx", options=whet.Options(limits=limits))
    whet.compile(external / "m.onnx", options=whet.Options(limits=whet.Limits(total_bytes=2000)))


def test_a_sparse_file_beyond_a_protocol_buffer(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(_dense().SerializeToString())
    os.truncate(path, 3 * 2**30)
    with pytest.raises(whet.ModelError, match="external data"):
        whet.compile(path)


# -- damage ----------------------------------------------------------------------------------------


def test_damaged_models_are_refused_or_right(tmp_path: Path) -> None:
    for seed in range(120):
        status, detail = onnx_files.compile_and_run(onnx_files.damaged(seed), str(tmp_path))
        assert status in (OK, REFUSED), f"seed {seed}: {detail}"


def test_damaged_compiled_files_are_refused_or_right() -> None:
    counts = {OK: 0, REFUSED: 0}
    for seed in range(1500):
        data, signed = whet_files.damaged(seed)
        status, detail = whet_files.load_and_run(data, signed=signed)
        assert status in counts, f"seed {seed}: {detail}"
        counts[status] += 1
    assert counts[REFUSED] > counts[OK] > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["onnx", "whet"])
def test_many_damaged_files(kind: str, tmp_path: Path) -> None:
    arguments = [kind, "--cache", str(tmp_path)]
    trials = run_trials(arguments, range(10_000, 13_000), jobs=2, timeout_s=60)
    assert not [outcome for outcome in trials if outcome.status in BAD]


def test_a_mapping_that_asks_for_large_pages_reads_the_same(tmp_path: Path) -> None:
    path, size = tmp_path / "large", LARGE_FROM_BYTES + 3 * mmap.PAGESIZE + 5
    with path.open("wb") as file:
        file.truncate(size)
        for place in (0, size // 2, size - 5):
            file.seek(place)
            file.write(b"bytes")
    with path.open("rb") as file:
        mapped = MappedFile(file.fileno(), mmap.PAGESIZE, size - mmap.PAGESIZE)
        few = MappedFile(file.fileno(), 0, 5)
    for asked in (mapped, few):
        asked.prefer_large_pages()
    assert bytes(mapped.view[-5:]) == bytes(few.view) == b"bytes"
    middle = size // 2 - mmap.PAGESIZE
    assert bytes(mapped.view[middle - 1 : middle + 6]) == b"\0bytes\0"
