"""The engine of encoder–decoders with a model of a few lines, and sound in all its forms."""

from __future__ import annotations

import io
import itertools
import wave
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whet.errors import InputError, OptionError, WhetError
from whet.llm.engine.sampling import SamplingParams
from whet.llm.seq2seq.beam import beam_targets
from whet.llm.seq2seq.coder import Source
from whet.llm.seq2seq.engine import Seq2SeqEngine, Unsaid
from whet.llm.seq2seq.lines import Lines
from whet.llm.seq2seq.sound import cut, read_sound, resampled

VOCABULARY = 11


class Sums:
    """A model whose next token is a sum over its source and its tokens so far."""

    def begin(self, lines: Lines, numbers: Sequence[int], sources: Sequence[Source]) -> None:
        """Let sources join."""
        width = max(map(len, sources))
        hidden = np.full((len(sources), 1, 1, width), -1e30, np.float32)
        crossed = np.full((len(sources), width, 1), 7e5, np.float32)
        for row, source in enumerate(sources):
            hidden[row, ..., : len(source)] = 0
            crossed[row, : len(source), 0] = source.tokens
        lines.join(numbers, {"crossk.0": crossed}, hidden)

    def step(self, lines: Lines, tokens: Sequence[int]) -> np.ndarray:
        """Return logits, of what is not hidden."""
        lines.prepared(["k.0"], 1)
        lines.store({"k.0": np.array(tokens, np.float32)[:, None, None]})
        source = np.where(lines.hidden[:, 0, 0] == 0, lines.crossed["crossk.0"][..., 0], 0)
        places = np.arange(lines.places)
        past = (
            lines.past["k.0"][..., 0] * (places + 1) * (places < np.array(lines.lengths)[:, None])
        )
        wanted = (source.sum(1) + past.sum(1)) % VOCABULARY
        return np.asarray(np.eye(VOCABULARY, dtype=np.float32)[wanted.astype(int)])


def alone(source: Source, params: SamplingParams) -> list[int]:
    engine = Seq2SeqEngine(Sums(), 60)
    number = engine.add(source, params, ends=frozenset([0]))
    while engine.busy:
        engine.step()
    return engine.requests[number].output


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 1 << 30))
def test_targets_do_not_depend_on_company(seed: int) -> None:
    rng = np.random.default_rng(seed)
    engine = Seq2SeqEngine(Sums(), 60, most=3)
    asked: dict[int, tuple[Source, SamplingParams]] = {}
    for _ in range(70):
        if rng.random() < 0.2:
            begin = (1, *rng.integers(1, VOCABULARY, rng.integers(0, 4)).tolist())
            tokens = rng.integers(1, VOCABULARY, rng.integers(1, 9)).tolist()
            params = SamplingParams(
                max_tokens=int(rng.integers(1, 45)), ignore_eos=rng.random() < 0.7
            )
            source = Source(tuple(tokens), begin)
            priority = int(rng.integers(0, 2))
            number = engine.add(source, params, ends=frozenset([0]), priority=priority)
            asked[number] = source, params
        if asked and rng.random() < 0.04:
            engine.cancel(int(rng.choice(list(asked))))
        engine.step()
        assert engine.running <= 3
    while engine.busy:
        engine.step()
    assert not engine.running and not engine.waiting
    for number, (source, params) in asked.items():
        request = engine.requests[number]
        whole = alone(source, params)
        if request.reason == "cancelled":
            assert request.output == whole[: len(request.output)]
        else:
            assert request.output == whole and request.reason in ("stop", "length")


def test_the_urgent_come_first_and_some_tokens_never() -> None:
    engine = Seq2SeqEngine(Sums(), 60, most=1)
    params = SamplingParams(max_tokens=3, ignore_eos=True)
    late, soon = (engine.add(Source((4,), (1,)), params, priority=p) for p in (5, 1))
    while not engine.requests[soon].reason:
        engine.step()
    assert not engine.requests[late].output
    said = alone(Source((4,), (1,)), params)
    kept = Seq2SeqEngine(Sums(), 60, unsaid=Unsaid((said[1],), (said[0],)))
    number = kept.add(Source((4,), (1,)), SamplingParams(max_tokens=9, ignore_eos=True))
    while kept.busy:
        kept.step()
    output = kept.requests[number].output
    assert output[0] != said[0] and said[1] not in output
    with pytest.raises(InputError, match="no room"):
        engine.add(Source((4,), (1,) * 60), params)


class Wide(Sums):
    """A model whose logits are many, and follow from all that was said."""

    def step(self, lines: Lines, tokens: Sequence[int]) -> np.ndarray:
        """Return logits drawn with what was said as the seed."""
        lines.prepared(["k.0"], 1)
        lines.store({"k.0": np.array(tokens, np.float32)[:, None, None]})
        rows = []
        for k, length in enumerate(lines.lengths):
            said = lines.past["k.0"][k, :length, 0].astype(int).tolist()
            rows.append(np.random.default_rng(said).standard_normal(4).astype(np.float32))
        return np.array(rows)


def test_beams_are_the_likeliest_of_all_targets() -> None:
    """With as many beams as there are targets, nothing is left out: all are compared."""
    source, most, end = Source((1,), (3, 2)), 3, 0
    found = beam_targets(Wide(), source, frozenset([end]), Unsaid(first=(1,)), width=40, most=most)
    best = sorted(found, key=lambda b: -b.logprob)

    def logprobs(said: tuple[int, ...]) -> np.ndarray:
        logits = np.random.default_rng([3, 2, *said]).standard_normal(4).astype(np.float32)
        logits = logits.astype(np.float64)
        if not said:
            logits[1] = -np.inf
        return np.asarray(logits - np.log(np.exp(logits).sum()))

    every: dict[tuple[int, ...], float] = {}
    for tokens in itertools.product(range(4), repeat=most):
        stop = tokens.index(end) + 1 if end in tokens else most
        said = tokens[:stop]
        if said[0] != 1:
            every[said] = sum(logprobs(said[:k])[t] for k, t in enumerate(said))
    wanted = sorted(every, key=lambda said: -every[said])
    assert [b.tokens for b in best if b.logprob > -1e6] == wanted
    assert np.allclose([b.logprob for b in best][: len(wanted)], [every[w] for w in wanted])
    greedy = beam_targets(Wide(), source, frozenset([end]), Unsaid(), width=1, most=most)[0]
    assert greedy.tokens[0] == int(np.random.default_rng([3, 2]).standard_normal(4).argmax())
    with pytest.raises(OptionError, match="width"):
        beam_targets(Wide(), source, frozenset(), Unsaid(), width=0, most=1)


def test_sounds_are_cut_where_it_is_quiet() -> None:
    rng = np.random.default_rng(0)
    sound = rng.standard_normal(16_000 * 70).astype(np.float32)
    sound[16_000 * 27 : 16_000 * 27 + 800] *= 0.01
    pieces = cut(sound, 3000)
    assert pieces[0].start == 0 and pieces[-1].stop == sound.size
    assert all(a.stop == b.start for a, b in itertools.pairwise(pieces))
    assert all(0 < p.stop - p.start <= 480_000 for p in pieces)
    assert 27.0 <= pieces[0].seconds[1] <= 27.05
    assert len(cut(sound[:480_000], 3000)) == 1 and len(cut(sound[:480_001], 3000)) == 2
    for wrong in (np.zeros(0), np.zeros((2, 2)), np.array([np.inf])):
        with pytest.raises(InputError, match="numbers"):
            cut(wrong, 3000)


def waves(width: int, rate: int, channels: int = 1) -> tuple[bytes, np.ndarray]:
    """Return a WAV file of a tone, and the tone 16,000 times a second."""
    tone = 0.5 * np.sin(2 * np.pi * 440 * np.arange(rate) / rate)
    numbers = np.repeat(np.round(tone * (1 << (8 * width - 1))).astype("<i4"), channels)
    raw = numbers.view(np.uint8).reshape(-1, 4)[:, :width].copy()
    if width == 1:
        raw ^= 0x80
    file = io.BytesIO()
    with wave.open(file, "wb") as writer:
        writer.setparams((channels, width, rate, 0, "NONE", ""))
        writer.writeframes(raw.tobytes())
    return file.getvalue(), 0.5 * np.sin(2 * np.pi * 440 * np.arange(16_000) / 16_000)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
def test_sound_files(width: int, rate: int) -> None:
    data, wanted = waves(width, rate, channels=2)
    found = read_sound(data)
    assert found.dtype == np.float32 and abs(found.size - wanted.size) <= 1
    middle = slice(500, 15_500)  # at its ends a sound is cut off, so that it is no tone there
    assert np.abs(found[middle] - wanted[middle]).max() < 2.0 ** (2 - 8 * width) + 1e-4


def test_what_is_above_the_band_goes() -> None:
    times = np.arange(48_000) / 48_000
    found = resampled(np.sin(2 * np.pi * 11_000 * times), 48_000)
    assert np.abs(found[1000:-1000]).max() < 1e-3
    with pytest.raises(InputError, match="samples a second"):
        resampled(np.zeros(9), 7)


def test_damaged_sounds_are_errors() -> None:
    data, _ = waves(2, 16_000)
    rng = np.random.default_rng(5)
    for size in (0, 3, 20, 43):
        with pytest.raises(WhetError):
            read_sound(data[:size])
    for _ in range(80):
        damaged = bytearray(data[:2000])
        damaged[int(rng.integers(0, 60))] = int(rng.integers(0, 256))
        try:
            read_sound(bytes(damaged))
        except WhetError:
            continue
