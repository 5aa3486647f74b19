"""Element types of at most a byte: every code, every direction, and movement bit by bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import whet
from whet.dtypes import DTYPES, numpy_dtype
from whet.errors import ShapeError
from whet.ops.pointwise import TENSOR_TYPES

Array = np.ndarray[Any, np.dtype[Any]]
CODES = {name: code for code, name in TENSOR_TYPES.items()}
SMALL = sorted(name for name, d in DTYPES.items() if d.small is not None or d.is_packed)
FLOATS = sorted(name for name, d in DTYPES.items() if d.small and d.small.special != "power")
PLAIN = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int8", "uint16", "bool")
TARGETS = ("host", "x86_64-unknown-linux-gnu:haswell")


def outputs_of(
    cache: Path,
    nodes: list[onnx.NodeProto],
    arrays: dict[str, Array],
    outputs: list[str],
    target: str = "host",
) -> dict[str, Array]:
    """Return the named results of some nodes on inputs of symbolic shape."""
    inputs = [
        helper.make_tensor_value_info(
            name, CODES[a.dtype.name], [f"{name}{k}" for k in range(a.ndim)]
        )
        for name, a in arrays.items()
    ]
    infos = [onnx.ValueInfoProto(name=name) for name in outputs]
    model = helper.make_model(helper.make_graph(nodes, "types", inputs, infos))
    options = whet.Options(cache_dir=str(cache), target=target, threads=1)
    return whet.compile(onnx.shape_inference.infer_shapes(model), options=options)(arrays)


def compiled(
    cache: Path, nodes: list[onnx.NodeProto], arrays: dict[str, Array], target: str = "host"
) -> Array:
    """Return the result ``y`` of some nodes."""
    return outputs_of(cache, nodes, arrays, ["y"], target)["y"]


def all_codes(name: str) -> Array:
    codes = np.arange(1 << DTYPES[name].bits, dtype=np.uint8)
    return codes.view(numpy_dtype(name))


def cast(cache: Path, x: Array, name: str, target: str = "host", **attributes: Any) -> Array:
    node = helper.make_node("Cast", ["x"], ["y"], to=CODES[name], **attributes)
    return compiled(cache, [node], {"x": x}, target)


def same_bits(found: Array, expected: Array) -> None:
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found.view(np.uint8), expected.view(np.uint8))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", SMALL)
def test_every_code_has_its_value(name: str, target: str, tmp_path: Path) -> None:
    codes = all_codes(name)
    for goal in ("float32", "float64", "float16"):
        found = cast(tmp_path, codes, goal, target)
        with np.errstate(all="ignore"):
            expected = codes.astype(np.float32).astype(goal)
        np.testing.assert_array_equal(found, expected)
        zeros = expected == 0
        np.testing.assert_array_equal(np.signbit(found[zeros]), np.signbit(expected[zeros]))


def _numbers(source: str) -> Array:
    rng = np.random.default_rng(7)
    kind = DTYPES[source].kind
    if kind == "b":
        return np.array([True, False, True])
    if kind in "iu":
        low, high = DTYPES[source].limits
        spread = rng.integers(max(low, -1000), min(high, 1000), 301)
        return np.append(spread, [low, high]).astype(source)
    patterns = rng.integers(0, 2**32, 20011, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = rng.standard_normal(20011).astype(np.float32) * np.exp2(rng.integers(-20, 20, 20011))
    odd = [np.inf, -np.inf, np.nan, 0.0, -0.0]
    with np.errstate(all="ignore"):
        return np.concatenate([patterns, near, odd]).astype(numpy_dtype(source))


def _ties(name: str) -> Array:
    """Return the values of a type, the middles between them and the doubles next to those."""
    values = np.unique(all_codes(name).astype(np.float64))
    values = values[np.isfinite(values)]
    middles = (values[1:] + values[:-1]) / 2
    ends = np.array([1.5 * values[0], 1.5 * values[-1], 1.0625 * values[-1], 1.03125 * values[-1]])
    points = np.concatenate([values, middles, ends])
    tiny = np.ldexp(1.0, -45) * np.abs(points)
    return np.concatenate([points, points - tiny, points + tiny])


def _nearest(x: Array, name: str) -> Array:
    """Return the nearest value of a type, ties to the even code, without ml_dtypes' float32."""
    codes = all_codes(name)[: 1 << (DTYPES[name].bits - 1)]
    values = codes.astype(np.float64)
    values = values[np.isfinite(values)]
    middles = (values[1:] + values[:-1]) / 2
    size = np.abs(x)
    code = np.searchsorted(middles, size)
    tie = (code < middles.size) & (size == middles[np.minimum(code, middles.size - 1)])
    code += tie & (code % 2 == 1)
    return np.copysign(values[code], x).astype(numpy_dtype(name))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", FLOATS)
def test_doubles_are_rounded_once(name: str, target: str, tmp_path: Path) -> None:
    x = _ties(name)
    same_bits(cast(tmp_path, x, name, target), _nearest(x, name))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", FLOATS)
def test_numbers_become_small_floats(name: str, target: str, tmp_path: Path) -> None:
    goal = numpy_dtype(name)
    form = DTYPES[name].small
    assert form is not None
    for source in PLAIN:
        x = _numbers(source)
        wide = x.astype(np.float64) if DTYPES[source].kind in "fb" else x
        with np.errstate(all="ignore"):
            plain = wide.astype(goal)
            clipped = np.clip(wide.astype(np.float64), -form.maximum, form.maximum).astype(goal)
        number = ~np.isnan(x.astype(np.float64))
        open_ = cast(tmp_path, x, name, target, saturate=0)
        closed = cast(tmp_path, x, name, target)
        same_bits(open_[number], plain[number])
        same_bits(closed[number], clipped[number])
        same_bits(np.isnan(open_.astype(np.float32)), np.isnan(plain.astype(np.float32)))


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
@pytest.mark.parametrize("saturate", [0, 1])
def test_powers_of_two_are_rounded_as_asked(mode: str, saturate: int, tmp_path: Path) -> None:
    x = np.abs(_numbers("float32"))
    x = np.append(x, np.array([3.4e38, 1e-45, 2.0**-126, 1.5 * 2.0**-127, 1.5], np.float32))
    found = cast(tmp_path, x, "float8_e8m0fnu", saturate=saturate, round_mode=mode)
    with np.errstate(all="ignore"):
        expected = numpy_helper.to_float8e8m0(x, bool(saturate), mode)
    same_bits(found, expected)


@pytest.mark.parametrize("name", [n for n in SMALL if DTYPES[n].is_packed])
def test_small_integers_wrap(name: str, tmp_path: Path) -> None:
    d = DTYPES[name]
    x = np.arange(-70, 71, dtype=np.int32)
    wrapped = (x - d.limits[0]) % (1 << d.bits) + d.limits[0]
    for source in ("int32", "int64", "int8", "float32", "float64"):
        found = cast(tmp_path, x.astype(source), name).astype(np.int32)
        np.testing.assert_array_equal(found, wrapped)
    back = cast(tmp_path, cast(tmp_path, x, name), "int16")
    np.testing.assert_array_equal(back, wrapped)
    assert cast(tmp_path, np.zeros((0, 3), np.int32), name).shape == (0, 3)


@pytest.mark.parametrize("name", [n for n in SMALL if not n.startswith("float6")])
def test_movement_keeps_every_bit(name: str, tmp_path: Path) -> None:
    codes = all_codes(name)
    x = np.concatenate([codes] * 3)[: codes.size * 3 // 2 * 2].reshape(-1, 2)
    shape = numpy_helper.from_array(np.array([1, 2, -1]), "shape")
    nodes = [
        helper.make_node("Constant", [], ["s"], value=shape),
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
        helper.make_node("Reshape", ["t", "s"], ["r"]),
        helper.make_node("Identity", ["r"], ["y"]),
    ]
    found = compiled(tmp_path, nodes, {"x": x})
    same_bits(found, np.ascontiguousarray(x.T)[None])


@pytest.mark.parametrize("source", SMALL)
def test_small_types_convert_into_each_other(source: str, tmp_path: Path) -> None:
    goals = [g for g in SMALL if g in FLOATS or DTYPES[g].is_packed]
    codes = all_codes(source)
    wide = codes.astype(np.float64)
    plain = np.isfinite(wide) & (np.abs(wide) < 2**30)
    codes, wide = codes[plain], wide[plain]
    nodes = [helper.make_node("Cast", ["x"], [g], to=CODES[g]) for g in goals]
    found = outputs_of(tmp_path, nodes, {"x": codes}, goals)
    for goal in goals:
        d = DTYPES[goal]
        if d.small is not None:
            expected: Array = np.clip(wide, -d.small.maximum, d.small.maximum)
        else:
            low = d.limits[0]
            expected = (np.trunc(wide).astype(np.int64) - low) % (1 << d.bits) + low
        same_bits(found[goal], expected.astype(numpy_dtype(goal)))


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ("float16", "bfloat16"), ("bfloat16", "int16"), ("float8_e5m2", "uint8"),
        ("uint8", "float8_e8m0fnu"), ("int8", "float8_e4m3fnuz"), ("int4", "float4_e2m1fn"),
        ("uint2", "int2"), ("uint4", "int4"), ("float32", "uint32"), ("int64", "float64"),
        ("bool", "int8"),
    ],
)  # fmt: skip
def test_bits_keep_their_places(source: str, target: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    d = DTYPES[source]
    top = 2 if source == "bool" else 1 << min(d.bits, 62)
    patterns = rng.integers(0, top, 257, dtype=np.uint64).astype(f"u{d.size}")
    x = patterns.view(numpy_dtype(source))
    quiet = np.ones(x.shape, bool) if d.kind != "f" else ~np.isnan(x.astype(np.float64))
    node = helper.make_node("BitCast", ["x"], ["y"], to=CODES[target])
    found = compiled(tmp_path, [node], {"x": x[quiet]})
    same_bits(found, x[quiet].view(numpy_dtype(target)))


def test_types_of_another_width_are_refused(tmp_path: Path) -> None:
    node = helper.make_node("BitCast", ["x"], ["y"], to=TensorProto.INT64)
    with pytest.raises((ShapeError, whet.WhetError), match="bit"):
        compiled(tmp_path, [node], {"x": np.zeros(3, np.float32)})


def test_spare_bits_of_the_caller_are_not_read(tmp_path: Path) -> None:
    x = np.arange(256, dtype=np.uint8).view(numpy_dtype("int4"))
    np.testing.assert_array_equal(cast(tmp_path, x, "int32"), x.astype(np.int32))


@pytest.mark.parametrize("length", [1, 17, 33])
@pytest.mark.parametrize("name", ["int8", "int16", "bfloat16"])
def test_a_single_last_element_leaves_its_neighbours(
    name: str, length: int, tmp_path: Path
) -> None:
    """LLVM stored the whole 32 bits of the last lane."""
    node = helper.make_node("Cast", ["x"], ["y"], to=CODES[name])
    info = helper.make_tensor_value_info("x", TensorProto.INT32, [length])
    out = helper.make_tensor_value_info("y", CODES[name], [length])
    model = helper.make_model(helper.make_graph([node], "last", [info], [out]))
    goal = np.dtype(numpy_dtype(name))
    guard = np.full(length * goal.itemsize + 8, 77, np.uint8)
    y = guard[: length * goal.itemsize].view(goal)
    options = whet.Options(cache_dir=str(tmp_path), threads=1)
    whet.compile(model, options=options).run(
        {"x": np.arange(length, dtype=np.int32)}, outputs={"y": y}
    )
    np.testing.assert_array_equal(guard[-8:], 77)
    np.testing.assert_array_equal(y.astype(np.int64), np.arange(length))


@pytest.mark.parametrize(
    "kind", ["float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float4_e2m1fn"]
)
def test_constants_of_small_floats_keep_their_values(kind: str) -> None:
    """Few elements are evaluated while lowering, where they were once taken for integers."""
    numbers = np.array([0.5, 1.0, 1.5, 3.0], np.float32).astype(numpy_dtype(kind))
    code = helper.np_dtype_to_tensor_dtype(numbers.dtype)
    nodes = [
        helper.make_node("Identity", ["c"], ["same"]),
        helper.make_node("Cast", ["c"], ["wide"], to=TensorProto.FLOAT),
    ]
    outputs = [
        helper.make_tensor_value_info("same", code, None),
        helper.make_tensor_value_info("wide", TensorProto.FLOAT, None),
    ]
    graph = helper.make_graph(nodes, "g", [], outputs, [numpy_helper.from_array(numbers, "c")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 24)], ir_version=11)
    for level in (0, 3):
        found = whet.compile(model, options=whet.Options(threads=1, opt_level=level)).run({})
        assert np.array_equal(found["same"].view(np.uint8), numbers.view(np.uint8))
        assert np.array_equal(found["wide"], numbers.astype(np.float32))
