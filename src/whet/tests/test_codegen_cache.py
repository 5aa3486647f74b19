"""A kernel is found in the cache without its text, by a key that says all of it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, NoReturn, get_args

import msgspec
import numpy as np
import onnx
import pytest
from msgspec.structs import replace
from onnx import TensorProto, helper

import whet
from whet.codegen import compile as compiling
from whet.codegen.objects import kernel_key as keys
from whet.codegen.objects.cache import ObjectCache
from whet.codegen.objects.kernel_key import kernel_key
from whet.codegen.objects.targets import resolve_target
from whet.index import Axis, Dim, Poly, var
from whet.kernel.expr import Call, Const, Expr, Read
from whet.kernel.spec import Kernel, Nest, Param, Store
from whet.runtime.model import CompiledModel

TARGET = resolve_target("x86_64-linux-gnu:haswell")
FACTORS = (2, 2.0, True, 0.0, -0.0, float("nan"), 0.1, np.nextafter(0.1, 1))


def model() -> onnx.ModelProto:
    """Return a model of one kernel."""
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, [5])
    made = helper.make_tensor_value_info("y", TensorProto.FLOAT, [5])
    graph = helper.make_graph([helper.make_node("Exp", ["x"], ["y"])], "one", [given], [made])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def scaled(factor: float | int | bool, extent: int = 8, stride: int = 1) -> Nest:
    """Return a kernel that multiplies by a number."""
    axis = Axis("i", Poly({(): extent}))
    address = var(axis) * stride
    body: Expr = Call("mul", (Read(1, address, "float32"), Const(factor, "float32")), "float32")
    params = (Param("float32", True), Param("float32", False))
    return Nest(params, (axis,), (), (), (Store(0, address, body),), vector_rows=False)


def compile_in(folder: Path) -> CompiledModel:
    """Compile the model of one kernel with a cache."""
    return whet.compile(model(), options=whet.Options(threads=1, cache_dir=str(folder)))


def refuse(*_: object) -> NoReturn:
    """Fail where a text would be written."""
    raise AssertionError("the kernel is written again")


def test_equal_kernels_share_a_key() -> None:
    assert kernel_key("k", scaled(2.0), (), TARGET) == kernel_key("k", scaled(2.0), (), TARGET)


def test_whatever_differs_changes_the_key() -> None:
    kernel = scaled(2.0)
    found = [
        *(kernel_key("k", scaled(factor), (), TARGET) for factor in FACTORS),
        kernel_key("other", kernel, (), TARGET),
        kernel_key("k", kernel, ("n",), TARGET),
        kernel_key("k", kernel, (), replace(TARGET, registers=TARGET.registers + 1)),
        kernel_key("k", kernel, (), replace(TARGET, features="+gfni")),
        kernel_key("k", scaled(2.0, extent=9), (), TARGET),
        kernel_key("k", scaled(2.0, stride=2), (), TARGET),
        kernel_key("k", replace(kernel, grain=kernel.grain + 1), (), TARGET),
        kernel_key("k", replace(kernel, vector_rows=True), (), TARGET),
    ]
    assert len(set(found)) == len(found)


def test_what_a_dimension_was_counted_on_for_is_no_part_of_the_key() -> None:
    def kernel(dim: Dim) -> Nest:
        axis = Axis("i", var(dim))
        return replace(scaled(2.0), axes=(axis,))

    plain = kernel_key("k", kernel(Dim("n")), ("n",), TARGET)
    assert kernel_key("k", kernel(Dim("n", counted_on={"n"})), ("n",), TARGET) == plain
    assert kernel_key("k", kernel(Dim("n", least=0)), ("n",), TARGET) != plain


def test_what_has_no_text_has_no_key() -> None:
    with pytest.raises(TypeError, match="no key for ndarray"):
        kernel_key("k", scaled(np.zeros(3)), (), TARGET)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", get_args(Kernel), ids=lambda k: k.__name__)
def test_every_field_of_a_kernel_is_in_its_key(kind: type[Any]) -> None:
    if issubclass(kind, msgspec.Struct):
        assert kind.__match_args__ == kind.__struct_fields__
    else:
        assert kind.__match_args__ == tuple(field.name for field in fields(kind))


def test_every_module_that_writes_kernels_is_in_the_key() -> None:
    code = (
        "import sys, whet.codegen.kinds.table\n"
        "print(*(m.__file__ for n, m in sys.modules.items() if n.startswith('whet')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    package = Path(whet.__file__).parent
    inside = {Path(file).relative_to(package) for file in done.stdout.split()}
    outside = {p for p in inside if len(p.parts) > 1 and p.parts[0] not in keys.FOLDERS}
    assert not outside


def test_other_writers_make_other_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    before = kernel_key("k", scaled(2.0), (), TARGET)
    monkeypatch.setattr(keys, "WRITERS", "changed")
    assert kernel_key("k", scaled(2.0), (), TARGET) != before


def test_a_known_kernel_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.linspace(-1, 1, 5, dtype=np.float32)
    first = compile_in(tmp_path)({"x": x})["y"]
    monkeypatch.setattr(compiling, "kernel_text", refuse)
    assert np.array_equal(compile_in(tmp_path)({"x": x})["y"], first)


@pytest.mark.parametrize("kind", ["kernels", "objects"])
def test_damaged_files_are_made_again(tmp_path: Path, kind: str) -> None:
    x = np.linspace(-1, 1, 5, dtype=np.float32)
    first = compile_in(tmp_path)({"x": x})["y"]
    files = [path for path in (tmp_path / kind).rglob("*") if path.is_file()]
    whole = {path: path.read_bytes() for path in files}
    for path, data in whole.items():
        path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    assert np.array_equal(compile_in(tmp_path)({"x": x})["y"], first)
    assert {path: path.read_bytes() for path in files} == whole


def test_a_note_without_its_object_is_no_hit(tmp_path: Path) -> None:
    cache = ObjectCache(tmp_path)
    cache.remember("k" * 40, "o" * 40)
    assert cache.recall("k" * 40) is None
    cache.put("o" * 40, b"code")
    assert cache.recall("k" * 40) == b"code"


def test_without_a_folder_nothing_is_known() -> None:
    cache = ObjectCache(None)
    cache.put("o" * 40, b"code")
    cache.remember("k" * 40, "o" * 40)
    assert cache.recall("k" * 40) is None


def test_without_sources_nothing_is_recalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else kernels of other writers would be taken for those of these."""
    assert keys._writers() == keys._writers()
    monkeypatch.setattr(keys, "_PACKAGE", tmp_path)
    assert keys._writers() != keys._writers()
