"""Encoder–decoders: translations and summaries of texts, and what is said in sound."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from whet.driver import compile as compile_model
from whet.errors import InputError
from whet.llm.architecture import Array
from whet.llm.checkpoint import TensorFolder
from whet.llm.distance import near_scores
from whet.llm.families.seq2seq import seq2seq_of
from whet.llm.mel import log_mel
from whet.llm.sampling import Sampler, SamplingParams
from whet.llm.seq2seq_graph import decoder_part, encoder_part
from whet.llm.sinusoids import sinusoids
from whet.llm.tokens import Tokenizer, open_tokenizer
from whet.options import Options

RATE = 16_000
"""Samples a second that Whisper hears."""


@dataclass(frozen=True, slots=True)
class Target:
    """What was made of a source.

    Attributes:
        text: the text; "" where the checkpoint has no tokenizer.
        tokens: its tokens, the one that ended it included, those it began with not.
        reason: "stop" or "length".
    """

    text: str
    tokens: tuple[int, ...]
    reason: str


@dataclass(slots=True)
class _Line:
    """One target in the making; ``length`` is that of its output, once it ended."""

    sampler: Sampler
    begin: Sequence[int]
    output: list[int] = field(default_factory=list)
    length: int = 0


class Seq2Seq:
    """An encoder–decoder ready to run: Marian, T5 or Whisper.

    Args:
        path: a folder with ``config.json`` and ``*.safetensors``.
        options: how to compile.

    Raises:
        ModelError: the checkpoint is incomplete or damaged; the error names the place.
        UnsupportedError: the family or something in it is not known.
    """

    def __init__(self, path: str | os.PathLike[str], *, options: Options | None = None) -> None:
        folder = Path(path)
        checkpoint = TensorFolder(folder)
        self.shape = shape = seq2seq_of(checkpoint.config)
        self.tokenizer = open_tokenizer(folder)
        ends = checkpoint.config.values.get("eos_token_id")
        found = self.tokenizer.ends if self.tokenizer else frozenset[int]()
        self.ends = found | ({ends} if isinstance(ends, int) else set())
        self._near: dict[str, Array] = {}
        self._buckets = (
            checkpoint.config.integer("relative_attention_num_buckets", 32),
            checkpoint.config.integer("relative_attention_max_distance", 128),
        )
        for side, stack in (("encoder", shape.encoder), ("decoder", shape.decoder)):
            if stack.relative:
                self._near[side] = checkpoint.tensor(stack.parts["near"].name)
        whole = sinusoids(checkpoint, shape)
        self._encoder = compile_model(encoder_part(shape, whole), options=options)
        self._decoder = compile_model(decoder_part(shape, whole), options=options)

    def generate(
        self,
        sources: Sequence[str | Sequence[int]],
        params: SamplingParams | None = None,
        begin: Sequence[int] = (),
    ) -> list[Target]:
        """Return a target for each source text.

        Args:
            sources: texts, or their tokens.
            params: how tokens are chosen.
            begin: tokens that every target begins with, behind the first.

        Raises:
            InputError: a source is empty or too long, or the model hears sound only.
        """
        if self.shape.bands:
            raise InputError("the model hears sound, not text", hint="call transcribe")
        if not sources:
            return []
        tokens = [self._tokens(source) for source in sources]
        width = max(map(len, tokens))
        ids, mask = np.zeros((len(tokens), width), np.int64), np.zeros((len(tokens), width), bool)
        for row, line in enumerate(tokens):
            ids[row, : len(line)], mask[row, : len(line)] = line, True
        inputs: dict[str, Array] = {"ids": ids}
        if "positions" in self.shape.encoder.parts:
            inputs["positions"] = np.arange(width, dtype=np.int64)
        if self.shape.encoder.relative:
            inputs["near"] = self._near_scores("encoder", width, width)
        return self._written(inputs, mask, params or SamplingParams(), begin)

    def transcribe(
        self, sound: Array, params: SamplingParams | None = None, begin: Sequence[int] = ()
    ) -> Target:
        """Return what is said in up to 30 seconds of sound.

        Args:
            sound: samples between -1 and 1, 16,000 a second, on one channel.
            params: how tokens are chosen.
            begin: tokens behind the first: language, task and whether there are times.

        Raises:
            InputError: the model reads texts, or the sound is too long or has no numbers.
        """
        shape = self.shape
        if not shape.bands:
            raise InputError("the model reads texts, not sound", hint="call generate")
        features = log_mel(sound, shape.bands, 2 * shape.source)
        mask = np.ones((1, shape.source), bool)
        return self._written({"sound": features[None]}, mask, params or SamplingParams(), begin)[0]

    def named(self, *names: str) -> list[int]:
        """Return the tokens of given names.

        Raises:
            InputError: the tokenizer has none of that name.
        """
        found = [self._text().codec.token_to_id(name) for name in names]
        for name, token in zip(names, found, strict=True):
            if token is None:
                raise InputError(f"the tokenizer has no {name}", hint="is the language right?")
        return [token for token in found if token is not None]

    # -- steps ---------------------------------------------------------------------------------

    def _written(
        self, inputs: Mapping[str, Array], mask: Array, params: SamplingParams, begin: Sequence[int]
    ) -> list[Target]:
        """Encode, then take one step after another until all targets ended."""
        shape, count = self.shape, len(mask)
        hidden = np.where(mask, np.float32(0), np.float32(-1e30))[:, None, None, :]
        crossed = dict(self._encoder.run({**inputs, "mask": hidden}))
        first = [shape.start, *begin]
        most = min(params.max_tokens, shape.context - len(first))
        if most < 1:
            raise InputError(f"{len(first)} tokens to begin with leave no room", hint="give fewer")
        lines = [_Line(Sampler(params, k), first) for k in range(count)]
        wide = shape.heads * shape.head_size
        kept = {
            f"{role}.{number}": np.zeros((count, 0, wide), np.float32)
            for number in range(len(shape.decoder.layers))
            for role in "kv"
        }
        for position in range(len(first) - 1 + most):
            ids = [[([*line.begin, *line.output])[position]] for line in lines]
            given = self._step_inputs(position) | {"ids": np.array(ids, np.int64), "mask": hidden}
            past = {f"past.{name}": values for name, values in kept.items()}
            found = self._decoder.run({**given, **crossed, **past})
            kept = {name: found[f"kept.{name}"] for name in kept}
            if position >= len(first) - 1:
                self._choose(lines, found["logits"], params)
                if all(line.length for line in lines):
                    break
        return [self._target(line) for line in lines]

    def _step_inputs(self, position: int) -> dict[str, Array]:
        found: dict[str, Array] = {}
        if "positions" in self.shape.decoder.parts:
            found["position"] = np.array([[position]], np.int64)
        if self.shape.decoder.relative:
            found["near"] = self._near_scores("decoder", 1, position + 1)
        return found

    def _near_scores(self, side: str, queries: int, keys: int) -> Array:
        both = side == "encoder"
        return near_scores(self._near[side], (queries, keys), self._buckets, both_ways=both)

    def _choose(self, lines: Sequence[_Line], logits: Array, params: SamplingParams) -> None:
        """Choose a token for every line; one that ended repeats its last, which nobody reads."""
        for line, row in zip(lines, logits, strict=True):
            if line.length:
                line.output.append(line.output[-1])
                continue
            token = line.sampler.choose(row, line.begin, line.output).token
            line.output.append(token)
            if token in self.ends and not params.ignore_eos:
                line.length = len(line.output)

    def _target(self, line: _Line) -> Target:
        tokens = tuple(line.output[: line.length] if line.length else line.output)
        text = self.tokenizer.decode(tokens) if self.tokenizer else ""
        return Target(text, tokens, "stop" if line.length else "length")

    def _tokens(self, source: str | Sequence[int]) -> list[int]:
        found = self._text().encode(source) if isinstance(source, str) else [int(t) for t in source]
        longest = self.shape.source or len(found)
        if not 0 < len(found) <= longest:
            raise InputError(
                f"a source has {len(found)} tokens", hint=f"give 1 to {longest or 'any number'}"
            )
        wrong = [t for t in found if not 0 <= t < self.shape.vocabulary]
        if wrong:
            raise InputError(f"a source has token {wrong[0]}", hint="the model does not know it")
        return found

    def _text(self) -> Tokenizer:
        if self.tokenizer is None:
            raise InputError(
                "the checkpoint has no tokenizer.json", hint="give tokens instead of text"
            )
        return self.tokenizer
