"""Sound as Whisper hears it: the logarithm of the energy in bands of pitch, every 10 ms."""

from __future__ import annotations

import numpy as np

from whet.errors import InputError
from whet.llm.architecture import Array

RATE, WINDOW, HOP = 16_000, 400, 160


def log_mel(sound: Array, bands: int, frames: int) -> Array:
    """Return float32 of shape (bands, frames); what is short is filled with silence.

    Source: the feature extractor of Whisper in transformers.

    Raises:
        InputError: the sound is no row of finite numbers, or longer than the frames.
    """
    samples = np.asarray(sound, np.float64)
    if samples.ndim != 1 or not np.isfinite(samples).all():
        raise InputError("the sound is no row of finite numbers", hint="give one channel")
    if samples.size > frames * HOP:
        raise InputError(
            f"the sound has {samples.size / RATE:.1f} s, the model hears {frames * HOP / RATE:g}",
            hint="cut it",
        )
    whole = np.pad(samples, (0, frames * HOP - samples.size))
    whole = np.pad(whole, WINDOW // 2, mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(WINDOW) / WINDOW)
    rows = np.lib.stride_tricks.sliding_window_view(whole, WINDOW)[::HOP][:frames]
    power = np.abs(np.fft.rfft(rows * window, axis=1)) ** 2
    energy = np.log10(np.maximum(mel_filters(bands) @ power.T, 1e-10))
    energy = np.maximum(energy, energy.max() - 8.0)
    return np.asarray((energy + 4.0) / 4.0, np.float32)


def mel_filters(bands: int) -> Array:
    """Return triangles over frequencies, (bands, bins), of equal area; pitch after Slaney."""
    bins = np.arange(WINDOW // 2 + 1) * RATE / WINDOW
    edges = _hertz(np.linspace(_mel(0.0), _mel(RATE / 2), bands + 2))
    rise = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    fall = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    area = 2.0 / (edges[2:] - edges[:-2])
    return np.asarray(np.maximum(0.0, np.minimum(rise, fall)) * area[:, None])


def _mel(hertz: float) -> float:
    return 3 * hertz / 200 if hertz < 1000 else 15 + np.log(hertz / 1000) * 27 / np.log(6.4)


def _hertz(mel: Array) -> Array:
    low = mel * 200 / 3
    return np.asarray(np.where(mel < 15, low, 1000 * np.exp(np.log(6.4) / 27 * (mel - 15))))
