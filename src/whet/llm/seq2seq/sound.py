"""Sound as samples: files read, brought to 16,000 samples a second, and cut where it is quiet."""

from __future__ import annotations

import io
import struct
import wave
from dataclasses import dataclass

import numpy as np

from whet.errors import InputError, UnsupportedError
from whet.llm.architecture import Array
from whet.llm.seq2seq.mel import HOP, RATE

MAX_SECONDS = 2 * 3600
"""Longest sound that is read."""

_TAPS = 32
"""Zero crossings of the filter on each side; 32 keep what is above the band at -80 dB."""
_QUIET, _LOOK = RATE // 50, 5 * RATE
"""Stretches whose loudness is compared, and how far in front of its end a piece may be cut."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a sound: its first sample, and the one behind its last."""

    start: int
    stop: int

    @property
    def seconds(self) -> tuple[float, float]:
        """Where it begins and ends."""
        return self.start / RATE, self.stop / RATE


def cut(sound: Array, frames: int) -> list[Stretch]:
    """Return the pieces of a sound, none longer than so many frames of 10 ms.

    A piece ends in the quietest fiftieth of a second of its last 5 seconds, or of its last third
    where that is shorter.

    Raises:
        InputError: the sound is no row of finite numbers, empty, or far too long.
    """
    samples = np.asarray(sound)
    if samples.ndim != 1 or not samples.size or not np.isfinite(samples).all():
        raise InputError("the sound is no row of finite numbers", hint="give one channel")
    if samples.size > MAX_SECONDS * RATE:
        raise InputError(
            f"the sound has {samples.size / RATE:.0f} s", hint=f"give at most {MAX_SECONDS}"
        )
    found, start, most = [], 0, frames * HOP
    while samples.size - start > most:
        look = min(_LOOK, most // 3) // _QUIET * _QUIET
        end = start + most
        loud = np.square(samples[end - look : end].astype(np.float64)).reshape(-1, _QUIET).sum(1)
        stop = end - look + int(loud.argmin()) * _QUIET + _QUIET // 2
        found.append(Stretch(start, stop))
        start = stop
    return [*found, Stretch(start, samples.size)]


def read_sound(data: bytes, where: str = "") -> Array:
    """Return the samples of a sound file, float32, 16,000 a second; channels become their mean.

    WAV files of integers are read as they are, others (FLAC, Ogg, MP3 …) by ``soundfile``.

    Raises:
        InputError: the file is damaged, empty or too long.
        UnsupportedError: it is no such WAV file, and ``soundfile`` is not installed.
    """
    samples, rate = _wave(data, where) or _other(data, where)
    if not samples.size:
        raise InputError("the sound has no samples", where=where)
    if samples.shape[0] > MAX_SECONDS * rate:
        raise InputError(
            f"the sound has {samples.shape[0] / rate:.0f} s",
            where=where,
            hint=f"give at most {MAX_SECONDS}",
        )
    return resampled(samples.mean(1), rate)


def _wave(data: bytes, where: str) -> tuple[Array, int] | None:
    """Return samples, [time, channel], and rate of a WAV file of integers; ``None`` for others."""
    try:
        with wave.open(io.BytesIO(data)) as file:
            rate, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
            raw = file.readframes(file.getnframes())
    except (EOFError, wave.Error, RuntimeError, struct.error) as error:  # of damaged chunks: all
        if isinstance(error, EOFError) and data.startswith(b"RIFF"):
            raise InputError(
                "the WAV file ends within its header", where=where, hint="send the whole file"
            ) from error
        return None
    if rate < 1 or not 1 <= width <= 4:
        return None
    whole = np.frombuffer(raw[: len(raw) // (width * channels) * width * channels], np.uint8)
    wide = np.zeros((whole.size // width, 4), np.uint8)
    wide[:, 4 - width :] = whole.reshape(-1, width)
    if width == 1:
        wide[:, 3] ^= 0x80  # 8 bits are counted from 0
    samples = wide.view("<i4").reshape(-1, channels) / np.float32(1 << 31)
    return samples.astype(np.float32), rate


def _other(data: bytes, where: str) -> tuple[Array, int]:
    try:
        import soundfile
    except ImportError as error:
        raise UnsupportedError(
            "the sound is no WAV file of integers",
            where=where,
            hint="pip install 'whet[audio]', or ffmpeg -i sound -c:a pcm_s16le sound.wav",
        ) from error
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32", always_2d=True)
    except (RuntimeError, ValueError, TypeError) as error:
        reason = getattr(error, "error_string", error)
        raise InputError(
            f"the sound cannot be read: {reason}"[:300], where=where, hint="send WAV, FLAC or MP3"
        ) from error
    return np.asarray(samples), int(rate)


def resampled(samples: Array, rate: int) -> Array:
    """Return samples, 16,000 a second: a sinc under a Hann window, cut off at the lower band."""
    if rate == RATE:
        return np.asarray(samples, np.float32)
    if not RATE / 16 <= rate <= RATE * 24:
        raise InputError(f"the sound has {rate} samples a second", hint="give 1,000 to 384,000")
    band = min(1.0, RATE / rate)
    reach = int(np.ceil(_TAPS / band))
    padded = np.pad(np.asarray(samples, np.float32), reach)
    count = -(-samples.size * RATE // rate)
    found = np.empty(count, np.float32)
    offsets = np.arange(1 - reach, reach + 1)
    for first in range(0, count, RATE):  # a second at a time, so that little memory is used
        times = np.arange(first, min(first + RATE, count)) * (rate / RATE)
        whole = np.floor(times).astype(np.int64)
        away = offsets - (times - whole)[:, None]
        window = 0.5 + 0.5 * np.cos(np.pi * np.clip(away / reach, -1, 1))
        weights = (band * np.sinc(band * away) * window).astype(np.float32)
        places = np.minimum(whole[:, None] + offsets + reach, padded.size - 1)
        found[first : first + len(times)] = (padded[places] * weights).sum(1)
    return found
