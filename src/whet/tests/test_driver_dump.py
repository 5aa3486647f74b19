"""``WHET_DUMP``: a readable folder for each compilation, and a script that repeats it."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

import whet
from whet.tests.small_models import layer_model

FILES = ("options.json", "repeat.py", "program.txt", "memory.txt", "optimised.onnx")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where dumps go in this test."""
    monkeypatch.setenv("WHET_DUMP", str(tmp_path / "dump"))
    return tmp_path / "dump"


def test_a_compilation_leaves_every_stage(folder: Path, tmp_path: Path) -> None:
    """Graphs, kernels as text, LLVM and assembly, launches, memory and options are all there."""
    path = tmp_path / "net.onnx"
    onnx.save(layer_model(), path)
    model = whet.compile(path, options=whet.Options(threads=1))
    dump = folder / "net.000"
    assert all((dump / name).stat().st_size for name in FILES)
    assert (dump / "graph" / "000_loaded.txt").read_text().startswith("input ")
    for group in model.stats.groups:
        kernel = dump / "kernels" / group.kernel
        assert group.kernel in kernel.with_suffix(".txt").read_text()
        assert "define " in kernel.with_suffix(".ll").read_text()
        assert ".text" in kernel.with_suffix(".s").read_text()
    onnx.checker.check_model(onnx.load(dump / "optimised.onnx"))


@pytest.mark.parametrize("kind", ["path", "bytes", "proto", "ir"])
def test_the_script_repeats_the_compilation(folder: Path, tmp_path: Path, kind: str) -> None:
    """The script compiles the same model with the same options, whatever the source was."""
    proto = layer_model()
    onnx.save(proto, tmp_path / "net.onnx")
    source = {
        "path": tmp_path / "net.onnx",
        "bytes": proto.SerializeToString(),
        "proto": proto,
        "ir": ir.from_proto(proto),
    }[kind]
    model = whet.compile(source, options=whet.Options(threads=1, opt_level=2))
    dump = folder / ("net.000" if kind == "path" else "model.000")
    runpy.run_path(str(dump / "repeat.py"), run_name="__main__")
    again = whet.load(dump / "repeated.whet")
    x = {
        spec.name: np.random.default_rng(0)
        .standard_normal([int(n) for n in spec.shape])
        .astype(spec.dtype)
        for spec in model.inputs
    }
    for name, value in model(x).items():
        np.testing.assert_array_equal(again(x)[name], value)
    assert again.metadata["options"] == model.metadata["options"]


def test_each_compilation_has_a_folder_of_its_own(folder: Path) -> None:
    """A second compilation does not touch the first one's folder."""
    whet.compile(layer_model())
    whet.compile(layer_model())
    assert sorted(p.name for p in folder.iterdir()) == ["model.000", "model.001"]


def test_a_folder_that_cannot_be_made_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the folder and the variable."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("WHET_DUMP", str(tmp_path / "file" / "dump"))
    with pytest.raises(whet.WhetError, match="WHET_DUMP"):
        whet.compile(layer_model())
