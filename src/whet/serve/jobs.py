"""What a request asks for, checked before any work, and the completions made of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence, Sized
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from whet.errors import InputError
from whet.llm.checkpoints.tokens import Message, Tokenizer
from whet.llm.engine.async_engine import AsyncEngine, Delta
from whet.llm.engine.sampling import Choice, SamplingParams
from whet.llm.engine.structured import Constraint, Matcher
from whet.serve.answers import Form, Said
from whet.serve.protocol import Chat, Completions
from whet.serve.tools import Tools, read_calls, tools_of

DEFAULT_TOKENS = 256


class Completes(Protocol):
    """What turns requests into prompts; see ``LLM`` and ``Seq2Seq``."""

    tokenizer: Tokenizer | None

    @property
    def context(self) -> int:
        """Tokens that a sequence may have."""

    def encode(self, prompt: Any) -> Sized:
        """Return a prompt as its engine takes it, checked."""

    def chat_prompt(
        self,
        messages: Sequence[Message],
        tools: Sequence[Message] = (),
        switches: Message | None = None,
    ) -> Sized:
        """Return the prompt of a conversation."""

    def matcher(self, constraint: Constraint) -> Matcher:
        """Return what follows a constraint."""

    def token_text(self, token: int) -> str:
        """Return the text of one token."""


@dataclass(frozen=True, slots=True)
class Job:
    """Completions that are wanted.

    Attributes:
        prompts: tokens of each prompt.
        params: how they are sampled.
        priority: smaller is more urgent.
        form: how the answer looks.
        matcher: what the texts have to look like, at its start.
        tools: what may be called.
    """

    prompts: Sequence[Sized]
    params: SamplingParams
    priority: int
    form: Form
    matcher: Matcher | None = None
    tools: Tools | None = None

    @property
    def parts(self) -> list[tuple[Sized, int]]:
        """Each prompt, as often as it is completed, with the number of the completion."""
        return [(prompt, k) for prompt in self.prompts for k in range(self.params.drawn)]


@dataclass(slots=True)
class Collected:
    """One whole completion."""

    text: str = ""
    reason: str = ""
    choices: list[Choice] = field(default_factory=list)
    cached: int = 0


async def job_of(llm: Completes, name: str, wanted: Chat | Completions, adapter: str = "") -> Job:
    """Return what a request asks for; tokenizing long texts does not hold up others.

    Args:
        llm: the model.
        name: what it is called.
        wanted: the request.
        adapter: the model's adapter that is asked for, "" for none.

    Raises:
        InputError: the prompt, the format or a tool means nothing.
        OptionError: a value of the sampling means nothing.
        UnsupportedError: the checkpoint cannot do it.
    """
    tools, constraint = None, wanted.constraint()
    prompts: list[Sized]
    if isinstance(wanted, Chat):
        tools = tools_of(wanted)
        forced = tools.constraint() if tools else None
        if forced and constraint:
            raise InputError("a forced call has no response_format", where="body")
        constraint = forced or constraint
        given = tools.given if tools else ()
        switches = wanted.chat_template_kwargs
        prompts = [await asyncio.to_thread(llm.chat_prompt, wanted.messages, given, switches)]
    else:
        prompts = [await asyncio.to_thread(llm.encode, p) for p in wanted.prompts()]
    if not prompts or not all(prompts):
        raise InputError("the prompt has no tokens", hint="give at least one")
    params = replace(wanted.params(DEFAULT_TOKENS, constraint), adapter=adapter)
    matcher = await asyncio.to_thread(llm.matcher, constraint) if constraint else None
    form = Form(
        adapter or name, isinstance(wanted, Chat), wanted.top_logprobs_wanted, llm.token_text
    )
    return Job(prompts, params, wanted.priority, form, matcher, tools)


def deltas(
    llm: Completes, engine: AsyncEngine, job: Job, number: int
) -> AsyncGenerator[Delta, None]:
    """Return the pieces of one of a job's completions."""
    prompt, index = job.parts[number]
    ends = llm.tokenizer.ends if llm.tokenizer else frozenset[int]()
    return engine.generate(
        prompt,
        job.params,
        ends=ends,
        index=index,
        priority=job.priority,
        matcher=job.matcher.copy() if job.matcher else None,
    )


async def collected(pieces: AsyncGenerator[Delta, None]) -> Collected:
    """Return a completion when all of it is there."""
    found = Collected()
    async with aclosing(pieces) as coming:
        async for delta in coming:
            found.text += delta.text
            found.reason = delta.reason
            found.choices += delta.choices
            found.cached = delta.cached
    return found


def said(job: Job, found: Collected) -> Said:
    """Return a whole completion as it is answered, calls of functions read from it."""
    if job.tools is None:
        return Said(found.text, found.reason, found.choices, cached=found.cached)
    text, calls = read_calls(found.text, job.tools)
    return Said(text, found.reason, found.choices, calls, found.cached)


def chosen(job: Job, all_of_them: Sequence[Said]) -> list[Said]:
    """Return the completions that are answered: of each prompt the likeliest, if more were made."""
    drawn, n = job.params.drawn, job.params.n
    found: list[Said] = []
    for first in range(0, len(all_of_them), drawn):
        group = list(all_of_them[first : first + drawn])
        if drawn > n:
            group.sort(key=lambda one: -one.mean_logprob)
        found += group[:n]
    return found
