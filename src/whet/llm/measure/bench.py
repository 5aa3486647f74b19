"""How fast a language model is: prompts, first tokens, and those after them."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.llm.engine.sampling import SamplingParams

if TYPE_CHECKING:
    from whet.llm.llm import LLM


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement.

    Attributes:
        batch: requests that run together.
        prompt_tokens: tokens of each prompt.
        new_tokens: tokens generated for each.
        prefill_rate: tokens of prompts a second, of all requests together.
        decode_rate: tokens generated a second behind the first ones, of all requests together.
        first_ms: time until all requests have their first token.
        next_ms: median time of a step that gives each request one more.
    """

    batch: int
    prompt_tokens: int
    new_tokens: int
    prefill_rate: float
    decode_rate: float
    first_ms: float
    next_ms: float

    def as_dict(self) -> dict[str, Any]:
        """Return the facts by name."""
        return asdict(self)


def measure(llm: LLM, batch: int, prompt_tokens: int, new_tokens: int, seed: int = 0) -> Run:
    """Run random prompts once to warm up and once to measure; no prompt is in the cache.

    Raises:
        InputError: the tokens do not fit into the context.
    """
    rng = np.random.default_rng([seed, batch, prompt_tokens])
    _timed(llm, rng, batch, prompt_tokens, 2)
    first, steps = _timed(llm, rng, batch, prompt_tokens, new_tokens)
    return Run(
        batch,
        prompt_tokens,
        new_tokens,
        batch * prompt_tokens / first,
        batch * len(steps) / sum(steps),
        first * 1e3,
        median(steps) * 1e3,
    )


def _timed(
    llm: LLM, rng: np.random.Generator, batch: int, prompt_tokens: int, new_tokens: int
) -> tuple[float, list[float]]:
    """Return seconds until every request has a token, and those of the steps after that."""
    engine = llm.engine
    params = SamplingParams(max_tokens=new_tokens, ignore_eos=True)
    vocabulary = llm.architecture.vocabulary
    prompts = rng.integers(0, vocabulary, (batch, prompt_tokens)).tolist()
    numbers = [engine.add(prompt, params) for prompt in prompts]
    steps: list[float] = []
    start = before = time.perf_counter()
    first = 0.0
    while engine.busy:
        engine.step()
        now = time.perf_counter()
        if first:
            steps.append(now - before)
        elif all(engine.requests[n].output for n in numbers):
            first = now - start
        before = now
    for number in numbers:
        del engine.requests[number]
    return first, steps
