"""Exact functions, special values and signed zeros of the vector maths."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np
import pytest

from whet.codegen.vmath import FUNCTIONS, instructions
from whet.codegen.vmath.primitives import FORMATS, split
from whet.codegen.vmath.trigonometric import inverse_turn_words
from whet.codegen.writing.builder import Builder, Module, Value
from whet.tests.vmath_harness import DTYPES, SPECIAL, compiled

ODD = ["sinh", "tanh", "erf", "sin", "tan", "asin", "atan", "asinh", "atanh", "expm1", "log1p"]
ROUNDING = {"floor": np.floor, "ceil": np.ceil, "round": np.rint, "trunc": np.trunc}
BINARY: dict[str, Callable[..., Any]] = {
    "pow": np.power,
    "fmod": np.fmod,
    "mod": np.mod,
    "minimum": np.minimum,
    "maximum": np.maximum,
}
TYPES = ["float", "double"]


def same(got: Any, wanted: Any, *, signs: bool = True) -> None:
    """Compare exactly, NaN alike, zeros with their signs."""
    np.testing.assert_array_equal(got, wanted)
    known = ~np.isnan(wanted)
    if signs:
        np.testing.assert_array_equal(np.signbit(got[known]), np.signbit(wanted[known]))


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("name", ODD)
def test_odd_functions_keep_the_sign_of_zero(name: str, type_: str) -> None:
    x = np.array([0.0, -0.0], DTYPES[type_])
    same(compiled(name, type_, 8)(x), x)


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("name", ODD)
def test_tiny_arguments_are_returned(name: str, type_: str) -> None:
    dtype = DTYPES[type_]
    x = np.array([np.finfo(dtype).smallest_subnormal, np.finfo(dtype).tiny, 1e-30], dtype)
    got = compiled(name, type_, 8)(x)
    if name == "erf":
        np.testing.assert_allclose(got, x * dtype.type(2 / np.sqrt(np.pi)), rtol=4e-7)
    else:
        same(got, x)


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_nan_goes_through(name: str, type_: str) -> None:
    function = FUNCTIONS[name]
    nan = np.full(3, np.nan, DTYPES[type_])
    for position in range(function.arity):
        operands = [np.array([2.0, 0.5, -3.0], DTYPES[type_]) for _ in range(function.arity)]
        operands[position] = nan
        assert np.isnan(compiled(name, type_, 4)(*operands)).all()


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("name", sorted(ROUNDING))
def test_rounding_is_exact(name: str, type_: str) -> None:
    dtype = DTYPES[type_]
    x = np.concatenate([np.arange(-40, 40) / 8, [2.0**23 + 1, 2.0**60, *SPECIAL]]).astype(dtype)
    same(compiled(name, type_, 8)(x), ROUNDING[name](x))


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("name", sorted(BINARY))
def test_two_operands_at_special_values(name: str, type_: str) -> None:
    dtype = DTYPES[type_]
    info = np.finfo(dtype)
    values = [*SPECIAL, info.max, info.tiny, info.smallest_subnormal, 2.0**24 + 1, -7.0, 1e-20]
    x, y = (np.array(column, dtype) for column in zip(*product(values, values), strict=True))
    with np.errstate(all="ignore"):
        wanted = BINARY[name](x, y)
    got = compiled(name, type_, 8)(x, y)
    if name == "pow":
        sure = ~np.isfinite(wanted) | (wanted == 0) | (np.abs(wanted) == 1)
        same(got[sure], wanted[sure])
        np.testing.assert_allclose(got, wanted, rtol=2 * info.eps, atol=2 * info.smallest_subnormal)
    else:
        same(got, wanted, signs=name not in ("minimum", "maximum"))


@pytest.mark.parametrize("type_", TYPES)
@pytest.mark.parametrize("name", ["fmod", "mod"])
def test_remainders_are_exact_for_every_quotient(name: str, type_: str) -> None:
    dtype = DTYPES[type_]
    rng = np.random.default_rng(3)
    unsigned = np.dtype(f"u{dtype.itemsize}")
    x, y = (rng.integers(0, np.iinfo(unsigned).max, 4_000, unsigned).view(dtype) for _ in "xy")
    with np.errstate(all="ignore"):
        y[:2_000] = x[:2_000] / rng.uniform(1, 50, 2_000).astype(dtype)
        same(compiled(name, type_, 8)(x, y), BINARY[name](x, y))


def test_sine_of_every_float_magnitude_uses_all_bits_of_pi() -> None:
    # Worst cases: 16367173 * 2^72 is within 2^-30 of a multiple of pi/2 (Muller, ch. 11).
    x = np.array([np.ldexp(16367173.0, 72), 3.0e38, 1e22], np.float32)
    np.testing.assert_allclose(compiled("cos")(x), np.cos(x.astype(np.float64)), rtol=3e-7)
    np.testing.assert_allclose(compiled("sin")(x), np.sin(x.astype(np.float64)), rtol=3e-7)


def test_window_of_the_inverse_turn_starts_with_its_first_bits() -> None:
    # 1 / (2 pi) = 0.28BE60DB9391054A7F09D5F47D4D377036D8A566… (hexadecimal); eight bytes precede.
    words = inverse_turn_words(32, 20)
    assert words[:4] == [0, 0, 0, 0]
    assert [w % 2**32 for w in words[8:10]] == [0x28BE60DB, 0xBE60DB93]


def test_constants_are_cut_into_exact_parts() -> None:
    parts = split("3.14159265358979323846264338327950288419716939937510", FORMATS["float"], 3)
    assert all(part == np.float32(part) and part > 0 for part in parts)
    assert sum(parts) == np.pi


@pytest.mark.parametrize(
    ("name", "most"), [("exp", 17), ("sigmoid", 19), ("tanh", 20), ("gelu", 24)]
)
def test_hot_functions_stay_short(name: str, most: int) -> None:
    # A clamp counts as four here (two comparisons, two selections) and as two on x86.
    assert instructions(FUNCTIONS[name], "<16 x float>") <= most


def test_the_table_is_complete_and_read_only() -> None:
    assert all(name == function.name for name, function in FUNCTIONS.items())
    with pytest.raises(TypeError):
        FUNCTIONS["exp"] = FUNCTIONS["log"]  # type: ignore[index]


def test_functions_emit_the_type_they_are_given() -> None:
    for function in FUNCTIONS.values():
        b = Builder(Module(), "f", [])
        operands = [Value(f"%x{k}", "<4 x double>") for k in range(function.arity)]
        assert function.emit(b, *operands).type == "<4 x double>"
