"""Every family against what ``transformers`` computed in float64: logits, and 200 greedy tokens."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import whet
from whet.llm.checkpoint import TensorFolder
from whet.llm.decoder import decoder_graph
from whet.llm.engine import Engine
from whet.llm.families.table import FAMILIES, architecture_of
from whet.llm.pages import PagePool
from whet.llm.program import Span, StepProgram
from whet.llm.sampling import SamplingParams
from whet.llm.scheduler import Limits, Scheduler
from whet.llm.speculate import PromptLookup, Speculation
from whet.tests.golden_models import NEW, PLACES, PROMPT, golden, golden_names, write_golden
from whet.tests.tiny_models import CONTEXT


def test_every_family_has_a_reference() -> None:
    assert {golden(name).config["model_type"] for name in golden_names()} == set(FAMILIES)


@pytest.mark.slow
@pytest.mark.parametrize("name", golden_names())
def test_logits_and_greedy_tokens(name: str, tmp_path: Path) -> None:
    found = golden(name)
    checkpoint = TensorFolder(write_golden(tmp_path, found))
    arch = architecture_of(checkpoint.config)
    graph = decoder_graph(arch, checkpoint, CONTEXT)
    program = StepProgram(whet.compile(graph, options=whet.Options(threads=2)), arch, 16)
    tokens = found.tokens.tolist()
    logits = program.run([Span(tokens[:-1], 0, list(range(8)), PROMPT + NEW - 1)])
    error = np.abs(logits[list(PLACES)] - found.logits).max()
    assert error < 2e-5 * max(1.0, np.abs(found.logits).max())
    engine = Engine(program, Scheduler(PagePool(16), Limits(32, 4, CONTEXT)))
    engine.speculate(Speculation(PromptLookup()))
    number = engine.add(tokens[:PROMPT], SamplingParams(max_tokens=NEW))
    while engine.busy:
        engine.step()
    assert engine.requests[number].output == tokens[PROMPT:]


@pytest.mark.slow
def test_experts_compute_the_tokens_routed_to_them_alone(tmp_path: Path) -> None:
    """Weights that are no numbers reach a token's logits through the experts it uses, no others."""
    folder = write_golden(tmp_path, golden("mixtral"))
    spoiled = []
    for number in range(4):
        checkpoint = Spoiled(folder, f"layers.0.block_sparse_moe.experts.{number}.w2")
        arch = architecture_of(checkpoint.config)
        graph = decoder_graph(arch, checkpoint, CONTEXT)
        program = StepProgram(whet.compile(graph, options=whet.Options(threads=2)), arch, 2)
        spoiled.append(np.isnan(program.run([Span([5], 0, [0], 1)])).any())
    assert sum(spoiled) == 2


class Spoiled(TensorFolder):
    """A checkpoint with a tensor that holds no numbers."""

    def __init__(self, folder: Path, part: str) -> None:
        super().__init__(folder)
        self._part = part

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor."""
        found = super().tensor(name)
        return np.full_like(found, np.nan) if self._part in name else found
