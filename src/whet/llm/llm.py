"""``LLM``: a checkpoint, compiled, that completes prompts."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from whet.dtypes import DTYPES
from whet.errors import ModelError, ResourceError, UnsupportedError, WhetError
from whet.kernel.paged import COLUMNS, PAGE
from whet.llm.architecture import Architecture, Array
from whet.llm.checkpoints.tokens import Message
from whet.llm.compiler import Compiler
from whet.llm.engine.batching import pieces
from whet.llm.engine.embedding import States
from whet.llm.engine.engine import Engine, Reason, Request
from whet.llm.engine.pages import PagePool
from whet.llm.engine.program import StepProgram
from whet.llm.engine.sampling import SamplingParams
from whet.llm.engine.scheduler import Limits, Scheduler
from whet.llm.engine.speculate import DraftModel, PromptLookup, Speculation
from whet.llm.engine.structured import Constraint, Grammars, Matcher
from whet.llm.families.vision_table import model_of
from whet.llm.graphs.adapters import open_adapters
from whet.llm.images.image_encoder import ImageEncoder
from whet.llm.images.image_prompt import Pictured
from whet.llm.prompts import ImagePrompt, Pending, Prompt, PromptReader, Ready, run_together
from whet.llm.source import Cache, Source
from whet.options import Options

Prompts = Prompt | Sequence[Prompt]

CACHE_BYTES = 1 << 30


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
        fault: what went wrong, if the reason is "error".
    """

    text: str
    tokens: tuple[int, ...]
    reason: Reason
    prompt_tokens: int
    cached_tokens: int
    logprobs: tuple[Mapping[int, float], ...] | None
    mean_logprob: float = 0.0
    fault: WhetError | None = None


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
        found, self.tokenizer = opened.open()
        model = model_of(found)
        self.architecture = arch = model.architecture
        self.context = arch.checked_context(context)
        size = page_bytes(arch, opened.cache)
        pages = min(cache_bytes // size, sequences * -(-self.context // PAGE))
        if pages < 1:
            raise ResourceError(
                f"a page of the cache takes {size} bytes, cache_bytes is {cache_bytes}",
                hint="give more",
            )
        adapters = open_adapters(opened.adapters, model.checkpoint, arch)
        self.adapters = tuple(opened.adapters)
        self._compiler = Compiler(model, opened, self.context, options, adapters)
        self.program = StepProgram(self._compiler.decoder(), arch, pages, adapters)
        scheduler = Scheduler(PagePool(pages), Limits(step_tokens, sequences, self.context))
        encoder = None
        if model.vision is not None:
            encoder = ImageEncoder(model.vision, self._compiler.tower(model.vision))
        self.prompts = PromptReader(self.tokenizer, arch.vocabulary, encoder)
        decode = self.tokenizer.decode if self.tokenizer else None
        self.engine = Engine(self.program, scheduler, decode, self.adapters)
        self._grammars: Grammars | None = None
        self._states: States | None = None

    def generate(self, prompts: Prompts, params: SamplingParams | None = None) -> list[Completion]:
        """Complete prompts together; the completions come in the order of the prompts.

        With ``params.n`` above 1, those of a prompt follow each other, the likeliest first if
        ``params.best_of`` is more.

        Raises:
            InputError: a prompt is empty, too long, or has unknown tokens; or a constraint is
                malformed.
        """
        chosen = params or SamplingParams()
        pending = [self.prompts.begin(p) for p in _listed(prompts)]
        return self._completed(pending, chosen)

    def _completed(self, pending: Sequence[Pending], chosen: SamplingParams) -> list[Completion]:
        ends = self.tokenizer.ends if self.tokenizer else frozenset()
        start = None if chosen.constraint is None else self.matcher(chosen.constraint)
        numbers: list[int] = []

        def add(prompt: Ready) -> list[int]:
            added = []
            try:
                for index in range(chosen.drawn):
                    matcher = None if start is None else start.copy()
                    added.append(
                        self.engine.add(prompt, chosen, ends=ends, index=index, matcher=matcher)
                    )
            except WhetError:
                numbers.extend(added)
                raise
            return added

        try:
            run_together(self.engine, pending, add, numbers)
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
            pages = -(-max(limits.step_tokens, self.context) // PAGE) + limits.sequences
            program = StepProgram(self._compiler.decoder(states=True), arch, pages)
            self._states = States(program, pages, limits)
        pending = [self.prompts.begin(text) for text in _listed(texts)]
        return self._states.embed([one.tokens for one in pending])

    def speculate(self, draft: str | os.PathLike[str] | LLM | None = None, most: int = 8) -> None:
        """Guess tokens and check several in one step; what comes out is the same, only sooner.

        Args:
            draft: a smaller model of the same vocabulary that guesses, or where it lies; ``None``
                for what followed the last few tokens the last time.
            most: most tokens guessed at once.

        Raises:
            ModelError: the draft model has another vocabulary.
            UnsupportedError: the model takes images, which a draft model would not see.
            ResourceError: requests wait or run.
        """
        if draft is None:
            self.engine.speculate(Speculation(PromptLookup(), most))
            return
        if self.prompts.encoder is not None:
            raise UnsupportedError("a draft model sees no images", hint="guess from the prompt")
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
            tokenizer = self.prompts.text
            vocabulary = self.architecture.vocabulary
            self._grammars = Grammars(tokenizer.codec, tokenizer.ends, vocabulary)
        return self._grammars.matcher(constraint)

    def stream(self, prompt: Prompt | Ready, params: SamplingParams | None = None) -> Iterator[str]:
        """Yield the completion of a prompt piece by piece; a caller that stops reading ends it.

        Raises:
            InputError: the prompt is empty, too long, or has unknown tokens.
            ModelError: logits are no numbers.
        """
        chosen = params or SamplingParams()
        ends = self.tokenizer.ends if self.tokenizer else frozenset[int]()
        matcher = None if chosen.constraint is None else self.matcher(chosen.constraint)
        given = prompt if isinstance(prompt, Pictured) else self.prompts.begin(prompt).result()
        number = self.engine.add(given, chosen, ends=ends, matcher=matcher)
        yield from pieces(self.engine, number)

    def chat(self, messages: Sequence[Message], params: SamplingParams | None = None) -> Completion:
        """Answer a conversation.

        Raises:
            UnsupportedError: the checkpoint has no chat template.
            InputError: the template refuses the messages.
        """
        return self._completed([self.prompts.chat(messages)], params or SamplingParams())[0]

    def chat_prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] = (),
        switches: Message | None = None,
    ) -> Ready:
        """Return the prompt of a conversation, its images encoded; it may be called beside steps.

        The template writes the special tokens, and may have ``switches`` of its own.
        """
        return self.prompts.chat(messages, tools, switches).result()

    def token_text(self, token: int) -> str:
        """Return the text of one token; its number where the checkpoint has no tokenizer."""
        return self.tokenizer.token_text(token) if self.tokenizer else str(token)

    def encode(self, prompt: str | Sequence[int]) -> list[int]:
        """Return the tokens of a prompt, checked against the vocabulary."""
        return self.prompts.tokens(prompt)


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
    if isinstance(prompts, str | ImagePrompt):
        return [prompts]
    tokens = [int(p) for p in prompts if not isinstance(p, str | Sequence | ImagePrompt)]
    if tokens and len(tokens) == len(prompts):
        return [tokens]
    return [p for p in prompts if isinstance(p, str | Sequence | ImagePrompt)]


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
        request.fault,
    )
