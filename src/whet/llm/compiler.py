"""The programs of a checkpoint: compiled, or taken from what is kept of earlier times."""

from __future__ import annotations

from dataclasses import dataclass

from whet.driver import compile as compile_model
from whet.llm.graphs.adapters import Adapters
from whet.llm.graphs.decoder import decoder_graph
from whet.llm.images.vision import Model, Vision
from whet.llm.source import Source
from whet.options import Options
from whet.runtime.model import CompiledModel


@dataclass(frozen=True, slots=True)
class Compiler:
    """Gives the programs of a model.

    Attributes:
        model: what it is made of.
        source: where it comes from, and how it is kept.
        context: tokens that a sequence may have.
        options: how to compile.
        adapters: that tokens may have; ``None`` for none.
    """

    model: Model
    source: Source
    context: int
    options: Options | None
    adapters: Adapters | None = None

    def decoder(self, *, states: bool = False) -> CompiledModel:
        """Return a step of the decoder: logits, or the states in front of the head.

        Adapters are for logits only.
        """

        def build() -> CompiledModel:
            checkpoint, cache = self.model.checkpoint, self.source.cache
            arch = self.model.architecture
            adapters = None if states else self.adapters
            graph = decoder_graph(
                arch, checkpoint, self.context, cache, states=states, adapters=adapters
            )
            return compile_model(graph, options=self.options)

        part = {"part": "states" if states else "logits", "context": self.context}
        return self.source.kept(self.options).get(part, build)

    def tower(self, vision: Vision) -> CompiledModel:
        """Return the vision tower."""

        def build() -> CompiledModel:
            return compile_model(vision.graph(), options=self.options)

        return self.source.kept(self.options).get({"part": "vision"}, build)
