"""Every vector function stays within the error that its table entry states."""

from __future__ import annotations

import numpy as np
import pytest

from whet.codegen.vmath import FUNCTIONS
from whet.tests.vmath_harness import DTYPES, compiled, reference, samples, ulp_errors

UNARY = sorted(name for name, function in FUNCTIONS.items() if function.arity == 1)
SLOW_REFERENCE = {"erf", "gelu"}
long_double = pytest.mark.skipif(
    np.finfo(np.longdouble).nmant <= np.finfo(np.float64).nmant,
    reason="long double is no wider than double here",
)


@pytest.mark.parametrize("name", UNARY)
def test_float_error_is_within_the_stated_bound(name: str) -> None:
    x = samples(DTYPES["float"], 400_000)
    x = x[x <= 0] if name == "exp_nonpositive" else x
    function = FUNCTIONS[name]
    exact = reference(name, x.astype(np.float64))
    errors = ulp_errors(compiled(name)(x), exact, function.floor_f32)
    worst = int(errors.argmax())
    assert errors[worst] <= function.max_ulp_f32, f"at {x[worst]!r}"


@long_double
@pytest.mark.parametrize("name", UNARY)
def test_double_error_is_within_the_stated_bound(name: str) -> None:
    x = samples(DTYPES["double"], 8_000 if name in SLOW_REFERENCE else 60_000)
    x = x[x <= 0] if name == "exp_nonpositive" else x
    function = FUNCTIONS[name]
    exact = reference(name, x.astype(np.longdouble))
    errors = ulp_errors(compiled(name, "double", 8)(x), exact, function.floor_f64)
    worst = int(errors.argmax())
    assert errors[worst] <= function.max_ulp_f64, f"at {x[worst]!r}"


@pytest.mark.parametrize("name", ["exp", "log", "tanh", "sin", "fmod", "pow"])
@pytest.mark.parametrize("type_", ["float", "double"])
def test_lanes_do_not_change_results(name: str, type_: str) -> None:
    x = samples(DTYPES[type_], 4_000)
    operands = (x, x[::-1])[: FUNCTIONS[name].arity]
    one = compiled(name, type_, 1)(*operands)
    for lanes in (4, 8, 16):
        np.testing.assert_array_equal(compiled(name, type_, lanes)(*operands), one)


@pytest.mark.parametrize("type_", ["float", "double"])
def test_power_error_is_within_the_stated_bound(type_: str) -> None:
    dtype, function = DTYPES[type_], FUNCTIONS["pow"]
    wide = np.float64 if type_ == "float" else np.longdouble
    rng = np.random.default_rng(7)
    x = np.exp(rng.uniform(-80, 80, 60_000)).astype(dtype)
    y = rng.uniform(-9, 9, x.size).astype(dtype)
    x[:20_000] = rng.uniform(0.5, 1.5, 20_000)
    y[:20_000] *= 100
    with np.errstate(all="ignore"):
        exact = np.power(x.astype(wide), y.astype(wide))
    errors = ulp_errors(compiled("pow", type_, 8)(x, y), exact)
    bound = function.max_ulp_f32 if type_ == "float" else function.max_ulp_f64
    assert errors.max() <= bound


@pytest.mark.parametrize("name", ["tanh", "erf", "sin", "cos"])
@pytest.mark.parametrize("type_", ["float", "double"])
def test_bounded_functions_stay_in_bounds(name: str, type_: str) -> None:
    got = compiled(name, type_, 8)(samples(DTYPES[type_], 100_000))
    assert np.nanmax(np.abs(got)) <= 1


@pytest.mark.parametrize("name", ["exp", "sigmoid", "tanh", "erf"])
def test_saturation_is_exact(name: str) -> None:
    x = np.array([20.0, 1e4, 3e38, np.inf], np.float32)
    limit = np.inf if name == "exp" else 1
    np.testing.assert_array_equal(compiled(name)(x)[1:], limit)
    low = {"exp": 0, "sigmoid": 0}.get(name, -1)
    np.testing.assert_array_equal(compiled(name)(-x)[1:], low)
