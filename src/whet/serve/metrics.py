"""What the server counts, in the form that Prometheus reads."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

if TYPE_CHECKING:
    from whet.llm.engine.engine import Engine
    from whet.llm.seq2seq.engine import Seq2SeqEngine

_FIRST = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
_NEXT = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)


Fact = tuple[str, str, Callable[[], float]]
"""A name, what it means, and how it is read."""


def decoder_gauges(engine: Engine) -> list[Fact]:
    """Return what there is to read off the engine of a decoder."""
    scheduler = engine.scheduler
    return [
        ("whet_requests_running", "Requests that run.", lambda: len(scheduler.running)),
        ("whet_requests_waiting", "Requests that wait.", lambda: len(scheduler.waiting)),
        ("whet_cache_pages", "Pages of the cache.", lambda: scheduler.pool.count),
        ("whet_cache_pages_free", "Pages that nobody uses.", lambda: scheduler.pool.free),
        ("whet_steps", "Steps so far.", lambda: engine.steps),
        ("whet_preemptions", "Requests that started over.", lambda: scheduler.preemptions),
    ]


def seq2seq_gauges(engine: Seq2SeqEngine) -> list[Fact]:
    """Return what there is to read off the engine of an encoder–decoder."""
    return [
        ("whet_requests_running", "Requests that run.", lambda: engine.running),
        ("whet_requests_waiting", "Requests that wait.", lambda: engine.waiting),
        ("whet_steps", "Steps so far.", lambda: engine.steps),
    ]


class Metrics:
    """Counters of one server; nothing is shared with others of the process.

    Args:
        gauges: what is read off the engine whenever somebody asks.
    """

    def __init__(self, gauges: Sequence[Fact]) -> None:
        self._registry = registry = CollectorRegistry()
        answers = ("path", "status")
        self.answers = Counter(
            "whet_requests", "Answers by path and status.", answers, registry=registry
        )
        self.prompt = Counter("whet_prompt_tokens", "Tokens of prompts.", registry=registry)
        self.new = Counter("whet_generated_tokens", "Tokens generated.", registry=registry)
        self.cached = Counter(
            "whet_cached_prompt_tokens", "Tokens of prompts that the cache held.", registry=registry
        )
        self.first = Histogram(
            "whet_first_token_seconds", "Until the first token.", registry=registry, buckets=_FIRST
        )
        self.next = Histogram(
            "whet_next_token_seconds", "Between tokens.", registry=registry, buckets=_NEXT
        )
        self.whole = Histogram(
            "whet_completion_seconds", "Of whole completions.", registry=registry, buckets=_FIRST
        )
        for name, text, read in gauges:
            Gauge(name, text, registry=registry).set_function(read)

    def answered(self, path: str, status: int) -> None:
        """Count an answer."""
        self.answers.labels(path, str(status)).inc()

    def text(self) -> bytes:
        """Return all numbers as text."""
        return generate_latest(self._registry)


@dataclass(slots=True)
class Watch:
    """Times the tokens of one completion."""

    metrics: Metrics
    start: float = field(default_factory=time.perf_counter)
    last: float = 0.0

    def saw(self, tokens: int, cached: int) -> None:
        """Note that tokens came, of a prompt of which the cache held some."""
        now = time.perf_counter()
        if not tokens:
            return
        if not self.last:
            self.metrics.first.observe(now - self.start)
            self.metrics.cached.inc(cached)
        else:
            for _ in range(tokens):
                self.metrics.next.observe((now - self.last) / tokens)
        self.metrics.new.inc(tokens)
        self.last = now

    def ended(self) -> None:
        """Note that the completion is whole."""
        self.metrics.whole.observe(time.perf_counter() - self.start)
