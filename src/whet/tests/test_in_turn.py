"""Functions of several vectors whose instructions take turns give what each alone gives."""

from __future__ import annotations

import ctypes

import llvmlite.binding as llvm
import numpy as np
import pytest

from whet.codegen.objects.targets import resolve_target
from whet.codegen.writing.builder import F32, Builder, Module, vector
from whet.codegen.writing.in_turn import apply_in_turn, chains_together, turns
from whet.tests.vmath_harness import compiled, machine, optimised

LANES = 8


@pytest.mark.parametrize("together", [1, 2, 4])
@pytest.mark.parametrize("count", [0, 1, 3, 7, 10, 13])
def test_turns_take_each_vector_once(count: int, together: int) -> None:
    groups = list(turns(count, together))
    assert [i for group in groups for i in group] == list(range(count))
    assert all(len(group) in (1, 2, 4) and len(group) <= together for group in groups)


def test_chains_fit_the_registers() -> None:
    names = (
        "x86_64-linux-gnu:cascadelake",
        "x86_64-linux-gnu:haswell",
        "aarch64-linux-gnu:generic",
    )
    assert [chains_together(resolve_target(name)) for name in names] == [4, 2, 4]


@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("name", ["exp_nonpositive", "gelu"])
def test_results_have_the_same_bits(name: str, count: int) -> None:
    x = -np.abs(np.random.default_rng().standard_normal((count, LANES)) * 40).astype(np.float32)
    b = Builder(Module(), "f", [("ptr", "out"), ("ptr", "x")])
    type_ = vector(F32, LANES)
    places = [i * LANES for i in range(count)]
    loaded = [b.load(type_, b.gep(b.param(1), F32, place)) for place in places]
    for place, value in zip(places, apply_in_turn(b, name, loaded), strict=True):
        b.store(value, b.gep(b.param(0), F32, place))
    b.finish()
    image = machine().emit_object(optimised(b.module.text()))
    library = llvm.JITLibraryBuilder().add_object_img(image).export_symbol("f")
    tracker = library.link(llvm.create_lljit_compiler(), f"{name}_{count}")
    found = np.empty_like(x)
    function = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(tracker["f"])
    function(found.ctypes.data, x.ctypes.data)
    np.testing.assert_array_equal(
        found, compiled(name, "float", LANES)(x.reshape(-1)).reshape(x.shape)
    )
