"""``LLM``: a checkpoint, compiled, that completes prompts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from whet.driver import compile as compile_model
from whet.dtypes import DTYPES
from whet.errors import InputError, ModelError, ResourceError
from whet.kernel.paged import COLUMNS, PAGE
from whet.llm.architecture import Architecture, Array
from whet.llm.decoder import decoder_graph
from whet.llm.embedding import LastStates
from whet.llm.engine import Engine, Reason, Request, held_back
from whet.llm.families.table import architecture_of
from whet.llm.pages import PagePool
from whet.llm.program import StepProgram
from whet.llm.sampling import SamplingParams
from whet.llm.scheduler import Limits, Scheduler
from whet.llm.source import Cache, Source
from whet.llm.speculate import DraftModel, PromptLookup, Speculation
from whet.llm.structured import Constraint, Grammars, Matcher
from whet.llm.tokens import Message, Tokenizer
from whet.options import Options

Prompt = str | Sequence[int]
Prompts = Prompt | Sequence[Prompt]

CACHE_BYTES = 1 << 30
DEFAULT_CONTEXT = 4096


@dataclass(frozen=True, slots=True)
class Completion:
    """What a prompt was completed with.

    Attributes:
        text: the new text; "" where the checkpoint has no tokenizer.
        tokens: the new tokens, the one that ended it included.
        reason: "stop", "length", "cancelled", or "error" if logits were no numbers.
        prompt_tokens: tokens of the prompt.
        cached_tokens: how many of them the cache held.
        logprobs: log probabilities of the likeliest and the chosen token at every position.
        mean_logprob: mean log probability of the tokens, where it was asked for; else 0.
    """

    text: str
    tokens: tuple[int, ...]
    reason: Reason
    prompt_tokens: int
    cached_tokens: int
    logprobs: tuple[Mapping[int, float], ...] | None
    mean_logprob: float = 0.0


class LLM:
    """A language model ready to run.

    ``engine`` runs requests step by step; ``generate`` and ``chat`` do it all at once.

    Args:
        source: a checkpoint folder with ``config.json`` and ``*.safetensors``, or a GGUF file; a
            ``Source`` also says in which numbers it is kept, and may have a LoRA adapter.
        options: how to compile.
        context: tokens that a sequence may have; by default what the model allows, at most 4096.
        cache_bytes: memory for keys and values.
        step_tokens: tokens of a step; longer prompts are cut into chunks.
        sequences: sequences that run at once.

    Raises:
        ModelError: the checkpoint is incomplete or damaged; the error names the place.
        UnsupportedError: the family or something in it is not known.
        ResourceError: the cache is too small for one page.
    """

    def __init__(
        self,
        source: str | os.PathLike[str] | Source,
        *,
        options: Options | None = None,
        context: int = 0,
        cache_bytes: int = CACHE_BYTES,
        step_tokens: int = 512,
        sequences: int = 16,
    ) -> None:
        opened = source if isinstance(source, Source) else Source(source)
        checkpoint, self.tokenizer = opened.open()
        self.architecture = arch = architecture_of(checkpoint.config)
        self.context = context or min(arch.context, DEFAULT_CONTEXT)
        if not 0 < self.context <= arch.context:
            raise InputError(
                f"context is {context}, the model was made for {arch.context}",
                hint="give at most that",
            )
        size = page_bytes(arch, opened.cache)
        pages = min(cache_bytes // size, sequences * -(-self.context // PAGE))
        if pages < 1:
            raise ResourceError(
                f"a page of the cache takes {size} bytes, cache_bytes is {cache_bytes}",
                hint="give more",
            )
        self._checkpoint, self._options, self._cache = checkpoint, options, opened.cache
        graph = decoder_graph(arch, checkpoint, self.context, opened.cache)
        self.program = StepProgram(compile_model(graph, options=options), arch, pages)
        scheduler = Scheduler(PagePool(pages), Limits(step_tokens, sequences, self.context))
        decode = self.tokenizer.decode if self.tokenizer else None
        self.engine = Engine(self.program, scheduler, decode)
        self._grammars: Grammars | None = None
        self._states: LastStates | None = None

    def generate(self, prompts: Prompts, params: SamplingParams | None = None) -> list[Completion]:
        """Complete prompts together; the completions come in the order of the prompts.

        With ``params.n`` above 1, those of a prompt follow each other, the likeliest first if
        ``params.best_of`` is more.

        Raises:
            InputError: a prompt is empty, too long, or has unknown tokens; or a constraint is
                malformed.
        """
        chosen = params or SamplingParams()
        tokens = [self.encode(p) for p in _listed(prompts)]
        ends = self.tokenizer.ends if self.tokenizer else frozenset()
        start = None if chosen.constraint is None else self.matcher(chosen.constraint)
        numbers: list[int] = []
        try:
            for prompt in tokens:
                for index in range(chosen.drawn):
                    matcher = None if start is None else start.copy()
                    numbers.append(
                        self.engine.add(prompt, chosen, ends=ends, index=index, matcher=matcher)
                    )
            while any(not self.engine.requests[n].reason for n in numbers):
                self.engine.step()
            found = [_completion(self.engine.requests[n]) for n in numbers]
            groups = [found[k : k + chosen.drawn] for k in range(0, len(found), chosen.drawn)]
            return [c for group in groups for c in best(group, chosen)]
        finally:
            for number in numbers:
                self.engine.cancel(number)
                del self.engine.requests[number]

    def embed(self, texts: Prompts) -> Array:
        """Return a vector for each text: the state behind its last token, scaled to length 1.

        The first call compiles a second program, which ends before the head. For encoders such as
        BERT see ``whet.llm.encoder.Encoder``.

        Raises:
            InputError: a text is empty, too long, or has unknown tokens.
        """
        if self._states is None:
            arch, limits = self.architecture, self.engine.scheduler.limits
            graph = decoder_graph(arch, self._checkpoint, self.context, self._cache, states=True)
            pages = -(-max(limits.step_tokens, self.context) // PAGE) + limits.sequences
            program = StepProgram(compile_model(graph, options=self._options), arch, pages)
            self._states = LastStates(program, pages, limits)
        return self._states.embed([self.encode(text) for text in _listed(texts)])

    def speculate(self, draft: str | os.PathLike[str] | LLM | None = None, most: int = 8) -> None:
        """Guess tokens and check several in one step; what comes out is the same, only sooner.

        Args:
            draft: a smaller model of the same vocabulary that guesses, or where it lies; ``None``
                for what followed the last few tokens the last time.
            most: most tokens guessed at once.

        Raises:
            ModelError: the draft model has another vocabulary.
            ResourceError: requests wait or run.
        """
        if draft is None:
            self.engine.speculate(Speculation(PromptLookup(), most))
            return
        small = draft if isinstance(draft, LLM) else LLM(draft, context=self.context)
        if small.architecture.vocabulary != self.architecture.vocabulary:
            raise ModelError(
                f"the draft model has {small.architecture.vocabulary} tokens, the model "
                f"{self.architecture.vocabulary}",
                hint="a draft model has to share the vocabulary",
            )
        drafter = DraftModel(small.program, small.engine.scheduler.pool.count, small.context)
        self.engine.speculate(Speculation(drafter, most))

    def matcher(self, constraint: Constraint) -> Matcher:
        """Return what follows a constraint, from its start.

        Raises:
            InputError: the constraint is malformed, or the checkpoint has no tokenizer.
            UnsupportedError: ``llguidance`` is missing, or does not fit the tokenizer.
        """
        if self._grammars is None:
            tokenizer = self._text()
            vocabulary = self.architecture.vocabulary
            self._grammars = Grammars(tokenizer.codec, tokenizer.ends, vocabulary)
        return self._grammars.matcher(constraint)

    def stream(self, prompt: Prompt, params: SamplingParams | None = None) -> Iterator[str]:
        """Yield the completion of a prompt piece by piece; a caller that stops reading ends it.

        Raises:
            InputError: the prompt is empty, too long, or has unknown tokens.
        """
        chosen = params or SamplingParams()
        ends = self.tokenizer.ends if self.tokenizer else frozenset[int]()
        matcher = None if chosen.constraint is None else self.matcher(chosen.constraint)
        number = self.engine.add(self.encode(prompt), chosen, ends=ends, matcher=matcher)
        request, given = self.engine.requests[number], 0
        try:
            while not request.reason:
                self.engine.step()
                keep = 0 if request.reason else held_back(request.text, chosen.stop)
                ready = max(len(request.text) - keep, given)
                if ready > given:
                    yield request.text[given:ready]
                given = ready
        finally:
            self.engine.cancel(number)
            del self.engine.requests[number]

    def chat(self, messages: Sequence[Message], params: SamplingParams | None = None) -> Completion:
        """Answer a conversation.

        Raises:
            UnsupportedError: the checkpoint has no chat template.
            InputError: the template refuses the messages.
        """
        return self.generate([self.chat_prompt(messages)], params)[0]

    def chat_prompt(self, messages: Sequence[Message], tools: Sequence[Message] = ()) -> list[int]:
        """Return the tokens of a conversation; the template writes the special ones."""
        tokenizer = self._text()
        return tokenizer.encode(tokenizer.chat(messages, tools), special=False)

    def token_text(self, token: int) -> str:
        """Return the text of one token; its number where the checkpoint has no tokenizer."""
        return self.tokenizer.token_text(token) if self.tokenizer else str(token)

    def encode(self, prompt: Prompt) -> list[int]:
        """Return the tokens of a prompt, checked against the vocabulary."""
        if isinstance(prompt, str):
            return self._text().encode(prompt)
        tokens = [int(t) for t in prompt]
        wrong = [t for t in tokens if not 0 <= t < self.architecture.vocabulary]
        if wrong:
            raise InputError(
                f"the prompt has token {wrong[0]}",
                hint=f"the model knows 0 to {self.architecture.vocabulary - 1}",
            )
        return tokens

    def _text(self) -> Tokenizer:
        if self.tokenizer is None:
            raise InputError(
                "the checkpoint has no tokenizer.json", hint="give tokens instead of text"
            )
        return self.tokenizer


def page_bytes(arch: Architecture, cache: Cache = "float32") -> int:
    """Return the bytes that a page of the cache takes, in all layers."""
    padded = -(-arch.head_size // COLUMNS) * COLUMNS
    row = DTYPES[cache].size * (arch.head_size + padded) + (8 if cache == "int8" else 0)
    return len(arch.layers) * arch.kv_heads * PAGE * row


def best(completions: Sequence[Completion], params: SamplingParams) -> list[Completion]:
    """Return those of one prompt that are wanted: the likeliest first, if there are more."""
    if params.drawn == params.n:
        return list(completions)
    ordered = sorted(completions, key=lambda c: -c.mean_logprob)
    return ordered[: params.n]


def _listed(prompts: Prompts) -> list[Prompt]:
    if isinstance(prompts, str):
        return [prompts]
    tokens = [int(p) for p in prompts if not isinstance(p, str | Sequence)]
    if tokens and len(tokens) == len(prompts):
        return [tokens]
    return [p for p in prompts if isinstance(p, str | Sequence)]


def _completion(request: Request) -> Completion:
    logprobs = None
    if request.params.logprobs is not None:
        logprobs = tuple(c.logprobs or {} for c in request.choices)
    return Completion(
        request.text,
        tuple(request.output),
        request.reason,
        len(request.prompt),
        request.cached,
        logprobs,
        request.mean_logprob,
    )
