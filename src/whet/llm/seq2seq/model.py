"""Encoder–decoders: translations and summaries of texts, and what is said in sound."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from whet.errors import InputError, UnsupportedError
from whet.llm.architecture import Array
from whet.llm.beam import Beam
from whet.llm.checkpoints.checkpoint import TensorFolder, read_json
from whet.llm.checkpoints.tokens import Message, Tokenizer, open_tokenizer
from whet.llm.engine.batching import pieces
from whet.llm.engine.engine import Reason
from whet.llm.engine.sampling import SamplingParams
from whet.llm.engine.structured import Constraint, Grammars, Matcher, OneOf
from whet.llm.families.seq2seq import FAMILIES
from whet.llm.seq2seq.beam import beam_targets
from whet.llm.seq2seq.coder import Coder, Source
from whet.llm.seq2seq.engine import Seq2SeqEngine
from whet.llm.seq2seq.generation_config import GenerationConfig
from whet.llm.seq2seq.mel import log_mel
from whet.llm.seq2seq.sound import Stretch, cut
from whet.options import Options

SOURCE_TOKENS = 4096
"""Most tokens of a source, where the model itself has no limit: scores grow with their square."""


@dataclass(frozen=True, slots=True)
class Target:
    """What was made of a source.

    Attributes:
        text: the text; "" where the checkpoint has no tokenizer.
        tokens: its tokens, the one that ended it included, those it began with not.
        reason: "stop", "length", or "error" if logits were no numbers.
    """

    text: str
    tokens: tuple[int, ...]
    reason: Reason


class Seq2Seq:
    """An encoder–decoder ready to run: Marian, T5 or Whisper.

    ``engine`` runs targets step by step; ``generate`` and ``transcribe`` do it all at once.

    Args:
        path: a folder with ``config.json`` and ``*.safetensors``.
        options: how to compile.
        sequences: targets that run at once.

    Raises:
        ModelError: the checkpoint is incomplete or damaged; the error names the place.
        UnsupportedError: the family or something in it is not known.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        options: Options | None = None,
        sequences: int = 8,
    ) -> None:
        folder = Path(path)
        checkpoint = TensorFolder(folder)
        self.generation = GenerationConfig.read(folder, checkpoint.config)
        found = open_tokenizer(folder)
        self._coder = coder = Coder(checkpoint, options)
        self.shape = coder.shape
        self.ends = self.generation.ends | (found.ends if found else frozenset())
        self.tokenizer = found and replace(found, ends=self.ends)
        decode = found.decode if found else None
        self.engine = Seq2SeqEngine(
            coder, self.shape.context, sequences, decode, self.generation.unsaid
        )
        self._grammars: Grammars | None = None

    @property
    def context(self) -> int:
        """Tokens that a target may have."""
        return self.shape.context

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
        return self._written([self.encode(source, begin) for source in sources], params)

    def transcribe(
        self, sound: Array, params: SamplingParams | None = None, begin: Sequence[int] = ()
    ) -> Target:
        """Return what is said in sound; more than 30 seconds are cut where it is quiet.

        Args:
            sound: samples between -1 and 1, 16,000 a second, on one channel.
            params: how tokens are chosen.
            begin: tokens behind the first: language, task and whether there are times; see
                ``spoken``.

        Raises:
            InputError: the model reads texts, or the sound is empty or has no numbers.
        """
        pieces = self._written([source for _, source in self.heard(sound, begin)], params)
        ends: list[Reason] = [p.reason for p in pieces if p.reason != "stop"]
        return Target(
            "".join(p.text for p in pieces),
            tuple(t for p in pieces for t in p.tokens),
            [*ends, "stop"][0],
        )

    def stream(
        self, source: str | Sequence[int] | Source, params: SamplingParams | None = None
    ) -> Iterator[str]:
        """Yield a target piece by piece; a caller that stops reading ends it.

        Raises:
            InputError: the source is empty or too long.
        """
        chosen = params or SamplingParams()
        given = source if isinstance(source, Source) else self.encode(source)
        number = self._add(given, chosen, 0)
        yield from pieces(self.engine, number)

    def beams(
        self,
        source: str | Sequence[int] | Source,
        *,
        width: int = 4,
        max_tokens: int = 128,
        length_penalty: float = 1.0,
    ) -> list[Beam]:
        """Return the ``width`` likeliest targets of a source, the best first; see ``beam_search``.

        Raises:
            InputError: the source is empty or too long.
            OptionError: ``width`` means nothing.
            ModelError: logits are no numbers.
        """
        given = source if isinstance(source, Source) else self.encode(source)
        most = min(max_tokens, self.shape.context - len(given.begin))
        found = beam_targets(
            self._coder, given, self.ends, self.generation.unsaid, width=width, most=most
        )
        best = sorted(found, key=lambda b: -b.score(length_penalty))[:width]
        decode = self.tokenizer.decode if self.tokenizer else None
        return [replace(b, text=decode(b.tokens) if decode else "") for b in best]

    # -- sources -------------------------------------------------------------------------------

    def encode(self, source: str | Sequence[int], begin: Sequence[int] = ()) -> Source:
        """Return a text, or its tokens, as the engine takes it.

        Raises:
            InputError: it is empty or too long, or the model hears sound only.
        """
        if self.shape.bands:
            raise InputError("the model hears sound, not text", hint="call transcribe")
        found = self._text().encode(source) if isinstance(source, str) else [int(t) for t in source]
        longest = self.shape.source or SOURCE_TOKENS
        if not 0 < len(found) <= longest:
            raise InputError(f"a source has {len(found)} tokens", hint=f"give 1 to {longest}")
        wrong = [t for t in found if not 0 <= t < self.shape.vocabulary]
        if wrong:
            raise InputError(f"a source has token {wrong[0]}", hint="the model does not know it")
        return Source(tuple(found), (self.shape.start, *begin))

    def heard(self, sound: Array, begin: Sequence[int] = ()) -> list[tuple[Stretch, Source]]:
        """Return sound in pieces that the model hears at once, each with where it lies.

        Raises:
            InputError: the model reads texts, or the sound is empty or has no numbers.
        """
        if not self.shape.bands:
            raise InputError("the model reads texts, not sound", hint="call generate")
        frames = 2 * self.shape.source
        return [
            (
                part,
                Source(
                    (),
                    (self.shape.start, *begin),
                    log_mel(np.asarray(sound)[part.start : part.stop], self.shape.bands, frames),
                ),
            )
            for part in cut(sound, frames)
        ]

    def spoken(self, language: str = "", task: str = "transcribe") -> list[int]:
        """Return the tokens that a Whisper begins with, without times.

        Args:
            language: what is spoken, such as "en"; "" where it is English or to be detected, see
                ``detect``.
            task: "transcribe", or "translate" into English.

        Raises:
            InputError: the model knows no such language or task.
        """
        if not self.generation.languages and (language, task) == ("", "transcribe"):
            return self.named("<|notimestamps|>")
        return self.named(f"<|{language or 'en'}|>", f"<|{task}|>", "<|notimestamps|>")

    def detect(self, source: Source) -> str:
        """Return the language of a piece of sound: the likeliest one; "" for an English Whisper."""
        languages = self.generation.languages
        if not languages:
            return ""
        params = SamplingParams(max_tokens=1, ignore_eos=True)
        asked = Source((), (self.shape.start,), source.sound)
        number = self.engine.add(asked, params, matcher=OneOf(frozenset(languages)))
        request = self.engine.requests[number]
        try:
            while not request.reason:
                self.engine.step()
        finally:
            self.engine.cancel(number)
            del self.engine.requests[number]
        return languages[request.output[0]] if request.output else ""

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

    # -- what a server asks --------------------------------------------------------------------

    def token_text(self, token: int) -> str:
        """Return the text of one token; its number where the checkpoint has no tokenizer."""
        return self.tokenizer.token_text(token) if self.tokenizer else str(token)

    def chat_prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] = (),
        switches: Message | None = None,
    ) -> Source:
        """Refuse a conversation.

        Raises:
            UnsupportedError: always; encoder–decoders have no chat template.
        """
        raise UnsupportedError("the model takes no conversations", hint="send a prompt, or sound")

    def matcher(self, constraint: Constraint) -> Matcher:
        """Return what follows a constraint, from its start; see ``LLM.matcher``."""
        if self._grammars is None:
            self._grammars = Grammars(self._text().codec, self.ends, self.shape.vocabulary)
        return self._grammars.matcher(constraint)

    # -- steps ---------------------------------------------------------------------------------

    def _written(self, sources: Sequence[Source], params: SamplingParams | None) -> list[Target]:
        """Run sources together until all targets ended."""
        chosen = params or SamplingParams()
        numbers: list[int] = []
        try:
            for index, source in enumerate(sources):
                numbers.append(self._add(source, chosen, index))
            while any(not self.engine.requests[n].reason for n in numbers):
                self.engine.step()
            done = [self.engine.requests[n] for n in numbers]
            return [Target(r.text, tuple(r.output), r.reason) for r in done]
        finally:
            for number in numbers:
                self.engine.cancel(number)
                del self.engine.requests[number]

    def _add(self, source: Source, params: SamplingParams, index: int) -> int:
        matcher = None if params.constraint is None else self.matcher(params.constraint)
        return self.engine.add(source, params, ends=self.ends, index=index, matcher=matcher)

    def _text(self) -> Tokenizer:
        if self.tokenizer is None:
            raise InputError(
                "the checkpoint has no tokenizer.json", hint="give tokens instead of text"
            )
        return self.tokenizer


def is_seq2seq(path: Path) -> bool:
    """Tell whether a folder holds an encoder–decoder."""
    file = path / "config.json"
    return file.exists() and read_json(file).get("model_type") in FAMILIES
