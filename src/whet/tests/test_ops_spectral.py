"""Fourier transforms of every kind of length, and window functions, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx.parser
import pytest

import whet
from whet.errors import ShapeError
from whet.ops.fourier import DIRECT_LENGTH, LARGEST_FACTOR, largest_prime
from whet.tests.compiled_node import Array, check_node

LENGTHS = [1, 2, 7, 64, 65, 96, 210, 257, 331, 400]
"""Direct, odd, split once, split twice, prime beyond both limits, and what speech models use."""


def _complex(x: Array) -> Array:
    return x[..., 0] + 1j * x[..., 1] if x.shape[-1] == 2 else x[..., 0].astype(np.complex128)


def _pairs(x: Array) -> Array:
    return np.stack([x.real, x.imag], -1)


def _signal(*shape: int) -> Array:
    return np.random.default_rng(shape).standard_normal(shape)


def test_lengths_take_every_path() -> None:
    primes = [largest_prime(n) for n in LENGTHS]
    assert any(p > LARGEST_FACTOR for p in primes)
    assert any(
        n > DIRECT_LENGTH and p <= LARGEST_FACTOR for n, p in zip(LENGTHS, primes, strict=True)
    )
    assert primes[-1] == 5


@pytest.mark.parametrize("length", LENGTHS)
def test_transform_and_inverse(length: int) -> None:
    def forwards(x: Array, *_: Array) -> list[Array]:
        return [_pairs(np.fft.fft(_complex(x), axis=1))]

    def backwards(x: Array, *_: Array) -> list[Array]:
        return [_pairs(np.fft.ifft(_complex(x), axis=1))]

    axis = np.array(1)
    x = _signal(2, length, 3, 2)
    check_node("DFT", x, None, axis, dtypes=["float64"], expected=forwards)
    check_node("DFT", x, None, axis, dtypes=["float32"], expected=backwards, inverse=1)


@pytest.mark.parametrize("length", [5, 96])
def test_one_sided(length: int) -> None:
    def forwards(x: Array, *_: Array) -> list[Array]:
        return [_pairs(np.fft.rfft(x[..., 0], axis=-1))]

    def backwards(x: Array, *_: Array) -> list[Array]:
        return [np.fft.irfft(_complex(x), n=length, axis=-1)[..., None]]

    check_node("DFT", _signal(3, length, 1), expected=forwards, onesided=1)
    form: Any = {"onesided": 1, "inverse": 1, "expected": backwards}
    check_node("DFT", _signal(3, length // 2 + 1, 2), np.array(length), **form)


@pytest.mark.parametrize("wanted", [3, 8, 70])
def test_other_lengths_than_the_signal(wanted: int) -> None:
    def expected(x: Array, *_: Array) -> list[Array]:
        return [_pairs(np.fft.fft(_complex(x), n=wanted, axis=0))]

    x = _signal(7, 2, 2)
    check_node("DFT", x, np.array(wanted), np.array(0), shapes=[[7, "N", 2]], expected=expected)


@pytest.mark.parametrize("parts", [1, 2])
def test_run_time_lengths(parts: int) -> None:
    def expected(x: Array, *_: Array) -> list[Array]:
        return [_pairs(np.fft.fft(_complex(x), axis=-1))]

    check_node("DFT", _signal(3, 11, parts), shapes=[["B", "N", parts]], expected=expected)


@pytest.mark.parametrize(("frame", "step"), [(16, 8), (5, 3), (100, 40)])
@pytest.mark.parametrize("onesided", [0, 1])
def test_frames(frame: int, step: int, onesided: int) -> None:
    window = np.hanning(frame)

    def expected(x: Array, *_: Array) -> list[Array]:
        frames = np.lib.stride_tricks.sliding_window_view(x[..., 0], frame, axis=1)[:, ::step]
        transform = np.fft.rfft if onesided else np.fft.fft
        return [_pairs(transform(frames * window))]

    given = (_signal(2, 230, 1), np.array(step), window)
    form: Any = {"onesided": onesided, "expected": expected, "fixed": {1}}
    check_node("STFT", *given, shapes=[["B", "N", 1]], dtypes=("float32", "float64"), **form)


@pytest.mark.parametrize("op", ["HannWindow", "HammingWindow", "BlackmanWindow"])
@pytest.mark.parametrize("periodic", [0, 1])
def test_windows(op: str, periodic: int) -> None:
    for size in (2, 13):
        check_node(op, np.array(size), periodic=periodic)


@pytest.mark.parametrize("known", [set(), {0, 1}, {0, 1, 2, 3, 4}])
def test_mel_weights(known: set[int]) -> None:
    for numbers in ((8, 16, 8192, 0.0, 4096.0), (5, 128, 16000, 20.0, 7600.0)):
        check_node("MelWeightMatrix", *map(np.array, numbers), fixed=known)


def test_sizes_from_data() -> None:
    check_node("HannWindow", np.array(9), fixed=set())

    def expected(x: Array, *_: Array) -> list[Array]:
        frames = np.lib.stride_tricks.sliding_window_view(x[..., 0], 6, axis=1)[:, ::4]
        return [_pairs(np.fft.rfft(frames))]

    given = (_signal(2, 21, 1), np.array(4), None, np.array(6))
    check_node("STFT", *given, fixed=set(), expected=expected)


@pytest.mark.parametrize("form", ["", "onesided=1", "inverse=1", "inverse=1, onesided=1"])
def test_dft_along_an_axis_from_data(form: str) -> None:
    parts = 2 if "inverse" in form else 1
    attributes = f"<{form}>" if form else ""
    text = f"""<ir_version: 10, opset_import: ["" : 21]>
        g (float[a,b,c,{parts}] x, int64 axis) => (float[d,e,f,g] y) {{
        y = DFT{attributes}(x, , axis) }}"""
    compiled = whet.compile(onnx.parser.parse_model(text), options=whet.Options(threads=1))
    x = np.random.default_rng(3).standard_normal((4, 6, 10, parts)).astype(np.float32)
    signal = x[..., 0].astype(np.complex128) + (1j * x[..., 1] if parts == 2 else 0)
    for axis in (0, 1, -2, -3):
        place = axis if axis >= 0 else axis + 1
        if form == "inverse=1, onesided=1":
            wanted = np.fft.irfft(signal, axis=place)[..., None]
        else:
            function = np.fft.ifft if "inverse" in form else np.fft.fft
            full = function(signal, axis=place)
            if "onesided" in form:
                full = full.take(range(x.shape[axis] // 2 + 1), axis=place)
            wanted = np.stack([full.real, full.imag], -1)
        found = compiled({"x": x, "axis": np.array(axis)})["y"]
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
    for axis in (3, -1, 9):
        with pytest.raises(ShapeError, match="do not fit"):
            compiled({"x": x, "axis": np.array(axis)})
