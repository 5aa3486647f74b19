"""Inputs and outputs: what is refused and how, what is used in place, what is copied."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from whet.dtypes import numpy_dtype
from whet.errors import InputError, ResourceError
from whet.index import Dim, as_poly, var
from whet.program.records import TensorSpec
from whet.runtime.arrays import (
    Port,
    address_of,
    collect_inputs,
    empty_aligned,
    make_port,
    place_outputs,
)
from whet.runtime.model import CompiledModel
from whet.tests.toys import CHUNK, make_model, make_program, reference

SHAPE = (3, CHUNK)


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return make_model(make_program([("mix", 0, 1), ("sub", 2, 1)], [2, 3], chunks=3))


@pytest.fixture(scope="module")
def flexible() -> CompiledModel:
    return make_model(make_program([("mix", 0, 1)], [2], chunks=var(Dim("n"))))


def _given(seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {n: rng.integers(-99, 99, SHAPE) for n in ("x", "y")}


def _want(given: dict[str, np.ndarray]) -> np.ndarray:
    flat = [np.asarray(given[n]).astype(np.int64).reshape(-1) for n in ("x", "y")]
    return reference("mix", *flat).reshape(SHAPE)


def test_names(model: CompiledModel) -> None:
    given = _given()
    with pytest.raises(InputError, match="missing inputs: y"):
        model({"x": given["x"]})
    with pytest.raises(InputError, match="given but unknown: yy"):
        model({"x": given["x"], "yy": given["y"]})
    with pytest.raises(InputError, match=r"unknown inputs: xx[\s\S]*did you mean 'x'"):
        model({**given, "xx": given["x"]})
    with pytest.raises(InputError, match="unknown outputs: o9"):
        model.run(given, {"o9": np.empty(SHAPE, np.int64)})
    for wrong in (None, [1], given["x"]):
        with pytest.raises(InputError, match="mapping"):
            model(wrong)  # type: ignore[arg-type]


def test_dtype(model: CompiledModel) -> None:
    given = _given()
    for dtype in ("float64", "int32", "uint64", "bool", "O", "U4"):
        with pytest.raises(InputError, match=r"dtype is .*takes int64[\s\S]*astype\('int64'\)"):
            model({**given, "x": given["x"].astype(dtype)})
    with pytest.raises(InputError, match="dtype"):
        model({**given, "x": "text"})


def test_shape(model: CompiledModel) -> None:
    given = _given()
    for shape in ((CHUNK, 3), (3, CHUNK, 1), (3 * CHUNK,), ()):
        with pytest.raises(InputError, match=r"input 'x'"):
            model({**given, "x": np.zeros(shape, np.int64)})


def test_layouts(model: CompiledModel) -> None:
    given = _given()
    want = _want(given)
    x = given["x"]
    raw = np.zeros(x.nbytes + 3, np.uint8)
    odd = raw[3:].view(np.int64).reshape(SHAPE)
    odd[...] = x
    assert not odd.flags.aligned
    read_only = x.copy()
    read_only.flags.writeable = False
    wide = np.zeros((6, 2 * CHUNK), np.int64)
    wide[::2, ::2] = x
    for value in (
        np.asfortranarray(x),
        x[::-1, ::-1].copy()[::-1, ::-1],
        wide[::2, ::2],
        x.astype(">i8"),
        np.asfortranarray(x).astype(">i8"),
        odd,
        read_only,
        x.tolist(),
        np.broadcast_to(x, (1, *SHAPE))[0],
        x.view(np.matrix),
    ):
        before = np.array(value, copy=True)
        np.testing.assert_array_equal(model({**given, "x": value})["o2"], want)
        np.testing.assert_array_equal(np.asarray(value), before)


def test_contiguous_inputs_are_used_in_place() -> None:
    port = Port(
        "x", np.dtype("i4"), (2, 3), (as_poly(2), as_poly(3)), TensorSpec("x", "int32", (2, 3))
    )
    array = np.zeros((2, 3), np.int32)
    assert collect_inputs([port], {"x": array})[0] is array


def test_outputs_given(model: CompiledModel) -> None:
    given = _given()
    mine = np.zeros(SHAPE, np.int64)
    result = model.run(given, {"o3": mine})
    assert result["o3"] is mine
    np.testing.assert_array_equal(result["o2"], _want(given))
    np.testing.assert_array_equal(mine, model(given)["o3"])


def test_outputs_refused(model: CompiledModel) -> None:
    given = _given()
    good = np.zeros(SHAPE, np.int64)
    frozen = good.copy()
    frozen.flags.writeable = False
    for wrong, message in (
        (good.astype(np.int32), "dtype"),
        (good.astype(">i8"), "dtype"),
        (good[:2], "shape"),
        (good.T.copy().T, "contiguous"),
        (frozen, "writable"),
        (given["x"], "shares memory"),
        ([1, 2], "not a NumPy array"),
    ):
        with pytest.raises(InputError, match=message):
            model.run(given, {"o2": wrong})
    with pytest.raises(InputError, match="shares memory"):
        model.run(given, {"o2": good, "o3": good})
    with pytest.raises(InputError, match="mapping"):
        model.run(given, [good])  # type: ignore[arg-type]


def test_results_are_fresh(model: CompiledModel) -> None:
    given = _given()
    first = model(given)
    copy = first["o2"].copy()
    second = model(_given(1))
    np.testing.assert_array_equal(first["o2"], copy)
    assert not np.shares_memory(first["o2"], second["o2"])
    assert all(array.flags.writeable for array in first.values())


def test_large_results_start_at_a_cache_line() -> None:
    shapes = [(1, 5), (64, 64), (4095, 1), (4097, 3)]
    ports = [
        make_port(TensorSpec(f"o{k}", "float32", s), [as_poly(n) for n in s])
        for k, s in enumerate(shapes)
    ]
    arrays = place_outputs(ports, shapes, None, [])
    assert [array.shape for array in arrays] == shapes
    assert all(a.ctypes.data % 64 == 0 for a in arrays if a.nbytes >= 16384)


def test_addresses_are_those_that_numpy_tells() -> None:
    base = np.arange(60, dtype=np.int16).reshape(3, 4, 5)
    base.flags.writeable = False
    views = [
        base,
        base[1],
        base[::2, 1:, ::-1],
        base.T,
        base[:0],
        np.array(3.0),
        base.view(np.int8),
    ]
    for array in views:
        assert address_of(array) == array.__array_interface__["data"][0]


def test_symbolic_shapes(flexible: CompiledModel) -> None:
    x = np.ones((5, CHUNK), np.int64)
    with pytest.raises(InputError, match=r"axis 0 is 4, expected 5[\s\S]*n is 5 in input 'x'"):
        flexible({"x": x, "y": x[:4]})
    with pytest.raises(InputError, match="axis 1 is 7"):
        flexible({"x": x[:, :7], "y": x})
    with pytest.raises(InputError, match="shape is"):
        flexible({"x": x[0], "y": x})
    assert flexible({"x": x, "y": x})["o2"].shape == (5, CHUNK)


def test_zero_size(flexible: CompiledModel) -> None:
    x = np.ones((0, CHUNK), np.int64)
    assert flexible({"x": x, "y": x})["o2"].shape == (0, CHUNK)
    static = make_model(make_program([("mix", 0, 1)], [2], chunks=1))
    with pytest.raises(InputError, match="shape"):
        static({"x": x, "y": x})


def test_many_shapes_keep_few_bindings(flexible: CompiledModel) -> None:
    for n in range(1, 200):
        x = np.full((n, CHUNK), n)
        assert flexible({"x": x, "y": x})["o2"][-1, -1] == 4 * n
    assert len(flexible._known) <= 64


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "int4", "float16", "bool"])
def test_small_dtypes(name: str) -> None:
    dtype = numpy_dtype(name)
    port = make_port(TensorSpec("x", name, (2,)), [as_poly(2)])
    array = np.ones(2, dtype)
    assert collect_inputs([port], {"x": array})[0] is array
    if name == "bfloat16":
        assert dtype == ml_dtypes.bfloat16
        with pytest.raises(InputError, match="bfloat16"):
            collect_inputs([port], {"x": np.ones(2, np.float32)})


def test_empty_aligned() -> None:
    for shape in ((), (0,), (3, 0), (5, 7)):
        array = empty_aligned(shape, np.dtype("f4"))
        assert array.shape == shape
        assert array.flags.c_contiguous


@pytest.mark.parametrize("shape", [(0, 2**40, 2**40), (2**62,), (10**9, 10**9)])
def test_outputs_that_no_array_can_hold(shape: tuple[int, ...]) -> None:
    with pytest.raises(ResourceError, match="cannot be had"):
        empty_aligned(shape, np.dtype("f4"))
