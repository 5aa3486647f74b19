"""What each optimisation brings: the same requests with one switch more at a time."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from whet.llm.engine.sampling import SamplingParams
from whet.llm.recipe import LLMInferenceOptimizer, Switches

if TYPE_CHECKING:
    from whet.llm.llm import LLM
    from whet.llm.source import Weights


@dataclass(frozen=True, slots=True)
class Load:
    """What is asked of the model.

    Attributes:
        prompt_tokens: tokens of each prompt.
        new_tokens: tokens generated for each.
        requests: prompts of a round.
        rounds: times that every variant is measured, one after another.
    """

    prompt_tokens: int = 64
    new_tokens: int = 32
    requests: int = 8
    rounds: int = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One variant.

    Attributes:
        name: what was switched on last.
        switches: what is on.
        latency_ms: time of one request by itself, the median of the rounds.
        throughput: tokens generated a second, all requests of a round at once; median.
        memory_bytes: weights, keys and values, and intermediate results.
        same_tokens: part of the tokens that equal those of the first variant.
    """

    name: str
    switches: Switches
    latency_ms: float
    throughput: float
    memory_bytes: int
    same_tokens: float

    def as_dict(self) -> dict[str, Any]:
        """Return the facts by name."""
        return asdict(self)


def ladder(batch: int, precision: Weights = "float32") -> list[tuple[str, Switches]]:
    """Return the variants from nothing to everything."""
    found = [("nothing", Switches())]
    steps: list[tuple[str, dict[str, Any]]] = [
        ("fusion", {"fusion": True}),
        ("KV cache", {"kv_cache": True}),
        (f"batch {batch}", {"batch": batch}),
    ]
    if precision != "float32":
        steps.append((precision, {"precision": precision}))
    for name, change in steps:
        found.append((f"+ {name}", replace(found[-1][1], **change)))
    return found


def ablate(
    path: str | os.PathLike[str],
    variants: list[tuple[str, Switches]],
    load: Load,
    *,
    threads: int = 0,
) -> list[Row]:
    """Measure variants in turn, round by round, on the same random prompts.

    Raises:
        InputError: the tokens do not fit into the context.
    """
    context = load.prompt_tokens + load.new_tokens + 1
    models: list[LLM] = []
    for _, switches in variants:
        optimizer = LLMInferenceOptimizer(path, threads=threads, context=context)
        optimizer.switches = switches
        models.append(optimizer.llm)
    rng = np.random.default_rng(0)
    times: list[list[tuple[float, float]]] = [[] for _ in models]
    tokens: list[list[int]] = [[] for _ in models]
    for number in range(load.rounds + 1):
        size = (load.requests + 1, load.prompt_tokens)
        prompts = rng.integers(0, models[0].architecture.vocabulary, size).tolist()
        for model, seen, said in zip(models, times, tokens, strict=True):
            alone, _ = _timed(model, prompts[:1], load.new_tokens)
            together, made = _timed(model, prompts[1:], load.new_tokens)
            if number:  # the first round touches memory
                seen.append((alone, together))
                said += made
    rows = []
    for (name, switches), model, seen, said in zip(variants, models, times, tokens, strict=True):
        latency = median(alone for alone, _ in seen) * 1e3
        throughput = load.requests * load.new_tokens / median(all_ for _, all_ in seen)
        same = float(np.mean(np.array(said) == np.array(tokens[0])))
        memory = model.program.memory.total
        rows.append(Row(name, switches, latency, throughput, memory, same))
    return rows


def _timed(model: LLM, prompts: list[list[int]], new: int) -> tuple[float, list[int]]:
    params = SamplingParams(max_tokens=new, ignore_eos=True)
    start = time.perf_counter()
    found = model.generate(prompts, params)
    return time.perf_counter() - start, [t for c in found for t in c.tokens]
