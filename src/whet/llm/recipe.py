"""A recipe in switches: what a cache, fusion, batching and fewer bits bring, each by itself."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from whet.errors import OptionError
from whet.options import Options

if TYPE_CHECKING:
    from whet.llm.engine.sampling import SamplingParams
    from whet.llm.llm import LLM, Completion, Prompts
    from whet.llm.source import Weights

MAX_BATCH = 256
PRECISIONS = ("float32", "int8", "int4")
"""What weights can be stored in."""


@dataclass(frozen=True, slots=True)
class Switches:
    """What is on.

    Attributes:
        kv_cache: keys and values are kept, of sequences that share a beginning too; else every
            token computes all before it again.
        fusion: graph passes, fused kernels and one memory plan; else each operator has its own
            kernel and its own memory.
        batch: requests that run together.
        precision: of the weights: ``float32``, or ``int8`` and ``int4`` in blocks of 32.
    """

    kv_cache: bool = False
    fusion: bool = False
    batch: int = 1
    precision: Weights = "float32"


class LLMInferenceOptimizer:
    """A language model whose optimisations are switched on one by one; all are off at first.

    Args:
        model_path: a checkpoint folder or a GGUF file.
        threads: threads of a step; 0 for all CPUs.
        context: tokens of a sequence; 0 for what the model allows, at most 4096.

    Each switch returns the optimiser, so that they can be chained; the model is compiled by the
    first ``infer`` after a change.
    """

    def __init__(
        self, model_path: str | os.PathLike[str], *, threads: int = 0, context: int = 0
    ) -> None:
        self._path = model_path
        self._threads = threads
        self._context = context
        self._llm: LLM | None = None
        self.switches = Switches()

    def enable_kv_cache(self, enabled: bool = True) -> Self:
        """Keep keys and values from token to token."""
        return self._switch(replace(self.switches, kv_cache=enabled))

    def enable_fusion(self, enabled: bool = True) -> Self:
        """Fuse operators into kernels that keep intermediate results in registers."""
        return self._switch(replace(self.switches, fusion=enabled))

    def set_batch_size(self, size: int) -> Self:
        """Run up to ``size`` requests together.

        Raises:
            OptionError: the size means nothing.
        """
        if not 1 <= size <= MAX_BATCH:
            raise OptionError(f"the batch size is {size}", hint=f"give 1 to {MAX_BATCH}")
        return self._switch(replace(self.switches, batch=size))

    def enable_quantization(self, precision: Weights = "int8") -> Self:
        """Store weights in fewer bits.

        Raises:
            OptionError: the precision is not known.
        """
        if precision not in PRECISIONS:
            raise OptionError(
                f"precision is {precision!r}", hint=f"give one of {', '.join(PRECISIONS)}"
            )
        return self._switch(replace(self.switches, precision=precision))

    def infer(self, prompts: Prompts, params: SamplingParams | None = None) -> list[Completion]:
        """Complete prompts; see ``LLM.generate``."""
        return self.llm.generate(prompts, params)

    @property
    def llm(self) -> LLM:
        """The model, compiled as the switches say."""
        if self._llm is None:
            self._llm = self._compiled()
        return self._llm

    def _switch(self, switches: Switches) -> Self:
        if switches != self.switches:
            self.switches, self._llm = switches, None
        return self

    def _compiled(self) -> LLM:
        from whet.llm.llm import LLM
        from whet.llm.source import Source

        switches = self.switches
        source = Source(self._path, weights=switches.precision)
        options = Options(threads=self._threads, opt_level=3 if switches.fusion else 0)
        llm = LLM(source, options=options, context=self._context, sequences=switches.batch)
        scheduler = llm.engine.scheduler
        scheduler.limits = replace(scheduler.limits, keep=switches.kv_cache)
        return llm
