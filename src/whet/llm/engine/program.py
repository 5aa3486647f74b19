"""The compiled step: a plan of which tokens run becomes arrays, the program gives logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whet.dtypes import numpy_dtype
from whet.kernel.paged import PAGE
from whet.llm.architecture import Architecture, Array
from whet.llm.graphs.adapters import Adapters
from whet.llm.images.image_prompt import PromptImages, feature_rows
from whet.program.plan import find_liveness, part_liveness, plan_memory
from whet.runtime.model import CompiledModel

TILE_TOKENS = 8
"""Tokens of one sequence that attention takes together; few enough to share among threads."""

_TABLE_STEP = 4


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one sequence that run in a step.

    Attributes:
        tokens: their ids.
        start: position of the first one.
        pages: the sequence's pages, for all positions up to the last of the tokens.
        logits: how many of the last tokens need logits.
        images: of the sequence, ``None`` for none.
        adapter: name of the sequence's adapter, "" for none.
    """

    tokens: Sequence[int]
    start: int
    pages: Sequence[int]
    logits: int
    images: PromptImages | None = None
    adapter: str = ""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of a model that runs.

    Attributes:
        weights: of the packed weights.
        cache: of keys and values.
        step: of the intermediate results of a step.
    """

    weights: int
    cache: int
    step: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.step


class StepProgram:
    """A compiled decoder with its cache.

    Args:
        model: the compiled graph of ``decoder_graph``.
        arch: what it is made of.
        pages: pages of the cache.
        adapters: that the graph was written with; ``None`` for none.
    """

    def __init__(
        self,
        model: CompiledModel,
        arch: Architecture,
        pages: int,
        adapters: Adapters | None = None,
    ) -> None:
        self._model = model
        self._adapters = adapters
        self.vocabulary = arch.vocabulary
        self._arch = arch
        self._largest: dict[str, int] = {}
        self._pools = cache_pools(model, pages)

    @property
    def model(self) -> CompiledModel:
        """The compiled graph."""
        return self._model

    @property
    def memory(self) -> Memory:
        """Bytes in use, with the intermediate results of the largest step so far."""
        program = self._model.program
        dims = {name: self._largest.get(name, 1) for name in program.dims}
        lives = [part_liveness(program, p) for p in program.parts] or [find_liveness(program)]
        stats = self._model.stats
        plans = (plan_memory(program, dims, live, threads=stats.threads) for live in lives)
        arena = max(plan.arena_bytes for plan in plans)
        cache = sum(pool.nbytes for pool in self._pools.values())
        return Memory(stats.weight_bytes, cache, arena)

    def clear(self) -> None:
        """Forget all keys and values."""
        for pool in self._pools.values():
            pool.fill(0.0)

    def run(self, spans: Sequence[Span]) -> Array:
        """Run one step; return the logits asked for, sequence by sequence, in order.

        A step that asks for none computes those of its first token, as a program without a
        result is not run.
        """
        inputs = step_inputs(spans) | self._image_inputs(spans)
        if self._adapters is not None:
            counts = [len(span.tokens) for span in spans]
            inputs["adapters"] = self._adapters.mask(counts, [span.adapter for span in spans])
        count = len(inputs["rows"])
        if not count:
            inputs["rows"] = np.zeros(1, np.int64)
        self._note(inputs)
        result: Array = next(iter(self._model.run({**inputs, **self._pools}).values()))
        return result[:count]

    def _image_inputs(self, spans: Sequence[Span]) -> dict[str, Array]:
        """Return the inputs of a step that only models with a vision tower have."""
        if not self._arch.pictures:
            return {}
        ids = np.fromiter((t for s in spans for t in s.tokens), np.int64)
        sources = [(len(s.tokens), s.images) for s in spans]
        found = feature_rows(ids, sources, self._arch.hidden)
        if self._arch.turned:
            counted = PromptImages({})
            places = [(s.images or counted).positions_at(s.start, len(s.tokens)) for s in spans]
            found["positions"] = np.concatenate(places, axis=1).astype(np.int64)
        return found

    def _note(self, inputs: Mapping[str, Array]) -> None:
        sequences, width = inputs["tables"].shape
        sizes = {
            "tokens": inputs["ids"].size,
            "tiles": len(inputs["tiles"]),
            "logits": len(inputs["rows"]),
            "sequences": sequences,
            "width": width,
        }
        for name, size in sizes.items():
            self._largest[name] = max(size, self._largest.get(name, 1))


def cache_pools(model: CompiledModel, pages: int) -> dict[str, Array]:
    """Return empty pools for the inputs of a compiled decoder that are some."""
    return {
        port.name: np.zeros((pages, *(int(n) for n in port.shape[1:])), numpy_dtype(port.dtype))
        for port in model.inputs
        if port.shape[:1] == ("pages",)
    }


def step_inputs(spans: Sequence[Span]) -> dict[str, Array]:
    """Return the arrays of a step, but for the cache."""
    counts = [len(s.tokens) for s in spans]
    firsts = np.cumsum([0, *counts])
    ids = np.fromiter((t for s in spans for t in s.tokens), np.int64, int(firsts[-1]))
    places = [np.arange(s.start, s.start + n) for s, n in zip(spans, counts, strict=True)]
    width = max(len(s.pages) for s in spans)
    tables = np.zeros((len(spans), -(-width // _TABLE_STEP) * _TABLE_STEP), np.int32)
    slots: list[Array] = []
    rows: list[Array] = []
    tiles: list[tuple[int, int, int, int]] = []
    for k, (span, at) in enumerate(zip(spans, places, strict=True)):
        tables[k, : len(span.pages)] = span.pages
        slots.append(tables[k, at // PAGE] * PAGE + at % PAGE)
        first, count = int(firsts[k]), counts[k]
        rows.append(np.arange(first + count - span.logits, first + count))
        tiles.extend(
            (k, first + i, min(TILE_TOKENS, count - i), span.start + i)
            for i in range(0, count, TILE_TOKENS)
        )
    return {
        "ids": ids,
        "positions": np.concatenate(places).astype(np.int64),
        "slots": np.concatenate(slots).astype(np.int32),
        "rows": np.concatenate(rows).astype(np.int64),
        "tiles": np.array(tiles, np.int32),
        "tables": tables,
    }
