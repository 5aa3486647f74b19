"""Every family against what ``transformers`` computed in float64: logits, and 200 greedy tokens."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import whet
from whet.errors import UnsupportedError
from whet.llm.checkpoints.checkpoint import TensorFolder
from whet.llm.checkpoints.config import Config
from whet.llm.engine.engine import Engine
from whet.llm.engine.pages import PagePool
from whet.llm.engine.program import Span, StepProgram
from whet.llm.engine.sampling import SamplingParams
from whet.llm.engine.scheduler import Limits, Scheduler
from whet.llm.engine.speculate import PromptLookup, Speculation
from whet.llm.families.table import FAMILIES, architecture_of
from whet.llm.families.vision_table import model_of
from whet.llm.graphs.decoder import decoder_graph
from whet.tests.golden_models import (
    NEW,
    PLACES,
    PROMPT,
    Golden,
    golden,
    golden_names,
    weights,
    write_golden,
    write_tensors,
)
from whet.tests.plain_decoder import chatglm_logits
from whet.tests.tiny_models import CONTEXT


def test_every_family_has_a_reference() -> None:
    known = {golden(name).config["model_type"] for name in golden_names()}
    assert known | {"chatglm"} == set(FAMILIES)


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


def as_chatglm(found: Golden, folder: Path) -> Path:
    """Write a GLM-4 as it was first published, queries, keys and values in one tensor."""
    config = found.config
    facts = {
        "model_type": "chatglm",
        "add_qkv_bias": True,
        "multi_query_attention": True,
        "hidden_size": config["hidden_size"],
        "num_layers": config["num_hidden_layers"],
        "num_attention_heads": config["num_attention_heads"],
        "multi_query_group_num": config["num_key_value_heads"],
        "kv_channels": config["head_dim"],
        "ffn_hidden_size": config["intermediate_size"],
        "padded_vocab_size": config["vocab_size"],
        "seq_length": config["max_position_embeddings"],
        "layernorm_epsilon": config["rms_norm_eps"],
        "rope_ratio": 1,
    }
    tensors = weights(found.shapes, found.seed)
    made = {
        "transformer.embedding.word_embeddings.weight": tensors["model.embed_tokens.weight"],
        "transformer.encoder.final_layernorm.weight": tensors["model.norm.weight"],
        "transformer.output_layer.weight": tensors["lm_head.weight"],
    }
    names = {
        "self_attention.dense": "self_attn.o_proj",
        "mlp.dense_h_to_4h": "mlp.gate_up_proj",
        "mlp.dense_4h_to_h": "mlp.down_proj",
        "input_layernorm": "input_layernorm",
        "post_attention_layernorm": "post_attention_layernorm",
    }
    for k in range(config["num_hidden_layers"]):
        old, new = f"model.layers.{k}", f"transformer.encoder.layers.{k}"
        for kind in ("weight", "bias"):
            parts = [tensors[f"{old}.self_attn.{r}_proj.{kind}"] for r in "qkv"]
            made[f"{new}.self_attention.query_key_value.{kind}"] = np.concatenate(parts)
        for theirs, ours in names.items():
            made[f"{new}.{theirs}.weight"] = tensors[f"{old}.{ours}.weight"]
    (folder / "config.json").write_text(json.dumps(facts))
    write_tensors(folder / "model.safetensors", made)
    return folder


def test_a_chatglm_is_the_glm_that_it_became(tmp_path: Path) -> None:
    found, folders = golden("glm"), [tmp_path / name for name in ("new", "old")]
    for folder in folders:
        folder.mkdir()
    write_golden(folders[0], found)
    checkpoints = TensorFolder(folders[0]), TensorFolder(as_chatglm(found, folders[1]))
    first, second = (architecture_of(c.config) for c in checkpoints)
    whole: dict[str, Any] = {"layers": (), "parts": {}, "family": ""}
    assert replace(first, **whole) == replace(second, **whole)
    assert [layer.rope for layer in first.layers] == [layer.rope for layer in second.layers]
    sides = [[arch.parts, *(layer.parts for layer in arch.layers)] for arch in (first, second)]
    for ours, theirs in zip(*sides, strict=True):
        assert set(ours) == set(theirs)
        for role in ours:
            arrays = [
                side[role].take(c.tensor(side[role].name))
                for side, c in zip((ours, theirs), checkpoints, strict=True)
            ]
            assert np.array_equal(*arrays)
    decoder_graph(second, checkpoints[1], CONTEXT)
    config = Config({**checkpoints[1].config.values, "rmsnorm": False}, "config.json")
    with pytest.raises(UnsupportedError, match="rmsnorm"):
        architecture_of(config)


def test_a_chatglm_says_what_is_written_out(tmp_path: Path) -> None:
    """``transformers`` has no ChatGLM 2 or 3: its equations in float64 are the reference."""
    folder = as_chatglm(golden("glm"), tmp_path)
    facts = json.loads((folder / "config.json").read_text())
    facts |= {"rope_ratio": 3, "layernorm_epsilon": 1e-5}
    (folder / "config.json").write_text(json.dumps(facts))
    checkpoint = TensorFolder(folder)
    arch = architecture_of(checkpoint.config)
    graph = decoder_graph(arch, checkpoint, CONTEXT)
    program = StepProgram(whet.compile(graph, options=whet.Options(threads=2)), arch, 2)
    tokens = np.random.default_rng(7).integers(0, arch.vocabulary, 45).tolist()
    logits = program.run([Span(tokens, 0, [0, 1], len(tokens))])
    tensors = {n: checkpoint.tensor(n).astype(np.float64) for n in checkpoint.names}
    wanted = chatglm_logits(tensors, tokens, facts)
    assert np.abs(logits - wanted).max() < 2e-5 * np.abs(wanted).max()


@pytest.mark.parametrize("name", ["gpt2", "neox", "qwen3"])
def test_names_without_the_prefix_are_those_with_it(name: str, tmp_path: Path) -> None:
    """Models without a head are saved so, the first GPT-2 among them."""
    found = golden(name)
    whole = TensorFolder(write_golden(tmp_path, found))
    arch = architecture_of(whole.config)
    bare = {
        re.sub(r"^(transformer|gpt_neox|model)\.", "", n): whole.tensor(n).copy()
        for n in whole.names
        if not n.startswith(("lm_head.", "embed_out."))
    }
    write_tensors(tmp_path / "model.safetensors", bare)
    model = model_of(TensorFolder(tmp_path))
    assert model.architecture == arch
    for parts in (arch.parts, *(layer.parts for layer in arch.layers)):
        for part in parts.values():
            if not part.name.startswith(("lm_head.", "embed_out.")):
                assert model.checkpoint.shape(part.name) == found.shapes[part.name]
    decoder_graph(arch, model.checkpoint, CONTEXT, states=True)


class Spoiled(TensorFolder):
    """A checkpoint with a tensor that holds no numbers."""

    def __init__(self, folder: Path, part: str) -> None:
        super().__init__(folder)
        self._part = part

    def tensor(self, name: str) -> np.ndarray:
        """Return a tensor."""
        found = super().tensor(name)
        return np.full_like(found, np.nan) if self._part in name else found
