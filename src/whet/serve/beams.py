"""Beam search over HTTP: ``use_beam_search``, as vLLM had it, for the likeliest whole completions.

Every live beam is a request of one token; they run together, and beside those of others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from whet.errors import UnsupportedError
from whet.llm.beam import Beam, BeamSearch
from whet.llm.engine.async_engine import AsyncEngine
from whet.serve.answers import Said
from whet.serve.jobs import Completes, Job, collected


async def searched(
    llm: Completes, engine: AsyncEngine, job: Job, prompt: Any, length_penalty: float
) -> list[Beam]:
    """Return the best ``n`` of ``best_of`` beams behind a prompt, the best first.

    Raises:
        UnsupportedError: the prompt is not of tokens alone.
        OptionError: that many beams mean nothing.
        ResourceError: too many requests wait.
    """
    if not isinstance(prompt, list):
        raise UnsupportedError(
            "beams behind images or of an encoder–decoder are not searched over HTTP",
            hint="leave use_beam_search out, or use whet llm translate --beams",
        )
    tokenizer = llm.tokenizer
    search = BeamSearch(job.params.drawn, tokenizer.ends if tokenizer else frozenset())

    params = replace(search.params, adapter=job.params.adapter)

    async def likeliest(beam: Beam) -> Mapping[int, float]:
        tokens = [*prompt, *beam.tokens]
        work = engine.generate(tokens, params, priority=job.priority)
        choices = (await collected(work)).choices
        return choices[0].logprobs or {}

    for _ in range(max(min(job.params.max_tokens, llm.context - len(prompt)), 1)):
        search.grow(await _together([likeliest(beam) for beam in search.live]))
        if search.over:
            break
    best = search.best(length_penalty)[: job.params.n]
    read = tokenizer.decode if tokenizer else lambda tokens: "".join(map(llm.token_text, tokens))
    return [beam.read(read) for beam in best]


async def _together(work: Sequence[Any]) -> list[Mapping[int, float]]:
    """Return all results; if one fails, or the caller goes away, the others are cancelled."""
    tasks = [asyncio.create_task(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


def said_of(beam: Beam) -> Said:
    """Return a beam as it is answered."""
    return Said(beam.text, "stop" if beam.ended else "length")
