"""Every family that is read from GGUF files: sizes, positions and tensors are those of its folder.

Files are written as llama.cpp's converter writes them, with the names of ``gguf`` for tensors.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whet.errors import UnsupportedError
from whet.llm.architecture import Architecture, Part
from whet.llm.checkpoints.checkpoint import Checkpoint, TensorFolder
from whet.llm.checkpoints.gguf_file import GgufFile
from whet.llm.checkpoints.gguf_names import FAMILIES
from whet.llm.families.table import architecture_of
from whet.tests.golden_models import Golden, golden, write_golden
from whet.tests.test_llm_gguf import close, permuted
from whet.tests.test_llm_goldens import as_chatglm

gguf = pytest.importorskip("gguf", reason="it writes and reads the files")

MODELS = {
    "llama": "llama",
    "mistral": "llama",
    "mixtral": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen2moe": "qwen2moe",
    "qwen3moe": "qwen3moe",
    "phi3": "phi3",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "olmo": "olmo",
    "olmo2": "olmo2",
    "glm4": "glm4",
    "glm": "chatglm",
    "chatglm": "chatglm",
    "gpt2": "gpt2",
    "neox": "gptneox",
}
"""Tiny models by name, and their family in GGUF."""

FACTS = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "intermediate_size": "feed_forward_length",
    "num_attention_heads": "head_count",
    "num_key_value_heads": "head_count_kv",
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "layer_norm_rms_eps",
    "head_dim": "key_length",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "shared_expert_intermediate_size": "expert_shared_feed_forward_length",
    "num_local_experts": "expert_count",
    "num_experts": "expert_count",
    "sliding_window": "sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "clip_qkv": "clamp_kqv",
    "n_embd": "embedding_length",
    "n_layer": "block_count",
    "n_head": "head_count",
    "n_positions": "context_length",
    "layer_norm_epsilon": "layer_norm_eps",
    "layer_norm_eps": "layer_norm_eps",
    "use_parallel_residual": "parallel_residual",
    "num_layers": "block_count",
    "multi_query_group_num": "head_count_kv",
    "ffn_hidden_size": "feed_forward_length",
    "seq_length": "context_length",
    "layernorm_epsilon": "layer_norm_rms_eps",
}


def test_every_family_is_here() -> None:
    assert set(MODELS.values()) == set(FAMILIES)


def written(folder: TensorFolder, family: str, path: Path) -> Path:
    """Write a folder as a GGUF file in float32."""
    writer, values = gguf.GGUFWriter(path, family), folder.config.values
    for ours, theirs in FACTS.items():
        if values.get(ours) is not None:
            getattr(writer, f"add_{theirs}")(values[ours])
    add_positions(writer, values)
    if family == "gpt2":
        writer.add_feed_forward_length(4 * values["n_embd"])
    arch = {v: k for k, v in gguf.MODEL_ARCH_NAMES.items()}[family]
    keys = ("num_hidden_layers", "num_layers", "n_layer")
    (count,), dense = [values[key] for key in keys if key in values], gguf.MODEL_ARCH.LLAMA
    names, others = (gguf.get_tensor_name_map(a, count) for a in (arch, dense))
    experts: dict[str, list[np.ndarray]] = {}
    for name in sorted(folder.names, key=numbered):
        array = changed(name, folder.tensor(name), family, values)
        plain = re.sub(r"experts\.\d+\.", "experts.", name)
        if values["model_type"] == "chatglm":
            plain = name = name.removeprefix("transformer.")
        ends = (".weight", ".bias")
        known = names.get_name(plain, try_suffixes=ends) or others.get_name(plain, ends)
        assert known is not None, name
        if plain != name:
            experts.setdefault(known, []).append(array)
        else:
            writer.add_tensor(known, array)
    for known, arrays in experts.items():
        writer.add_tensor(known, np.stack(arrays))
    close(writer)
    return path


def add_positions(writer: Any, values: Any) -> None:
    """Write what a file says of rotary positions."""
    chatglm: Any = {"rope_theta": 10000.0, "partial_rotary_factor": 0.5}
    ropes = values.get("rope_parameters") or ({} if "n_embd" in values else chatglm)
    rope: dict[str, float] = ropes.get("full_attention", ropes)
    if "rope_theta" in rope:
        writer.add_rope_freq_base(rope["rope_theta"])
    if "partial_rotary_factor" in rope:
        size = values.get("head_dim") or values["hidden_size"] // values["num_attention_heads"]
        writer.add_rope_dimension_count(int(size * rope["partial_rotary_factor"]))


def numbered(name: str) -> list[Any]:
    """Return what sorts experts by their numbers."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def changed(name: str, array: np.ndarray, family: str, values: Any) -> np.ndarray:
    """Return a tensor as the converter stores it."""
    if family.startswith("gemma") and name.endswith("norm.weight"):
        return array + np.float32(1)
    if family in ("llama", "olmo") and re.search(r"self_attn\.[qk]_proj", name):
        heads = "num_attention_heads" if "q_proj" in name else "num_key_value_heads"
        return permuted(array, values[heads])
    if family == "gpt2" and re.search(r"c_(attn|proj|fc)\.weight", name):
        return np.ascontiguousarray(array.T)
    if family == "gptneox" and "query_key_value" in name:
        by_head = array.reshape(values["num_attention_heads"], 3, -1, *array.shape[1:])
        return np.ascontiguousarray(by_head.swapaxes(0, 1).reshape(array.shape))
    return array.copy()


@pytest.mark.parametrize("name", MODELS)
def test_a_file_is_the_model_of_its_folder(name: str, tmp_path: Path) -> None:
    found = golden("glm" if name == "chatglm" else name)
    if name.startswith("gemma"):  # the file does not say it: the size of a head
        found.config["query_pre_attn_scalar"] = found.config["head_dim"]
    if name == "qwen3":
        found.config["attention_bias"] = False
    write = as_chatglm if name == "chatglm" else write_golden_at
    folder = TensorFolder(write(found, tmp_path))
    file = GgufFile(written(folder, MODELS[name], tmp_path / "m.gguf"))
    first, second = architecture_of(folder.config), architecture_of(file.config)
    turned = MODELS[name] in ("llama", "olmo")
    same_facts(first, second, turned=turned, windows=name != "mistral")
    sides = [[arch.parts, *(layer.parts for layer in arch.layers)] for arch in (first, second)]
    for ours, theirs in zip(*sides, strict=True):
        assert set(ours) == set(theirs)
        for role, part in ours.items():
            wanted = taken(folder, part)
            if turned and re.fullmatch(r"[qk](\.bias)?", role):
                heads = first.heads if role[0] == "q" else first.kv_heads
                wanted = permuted(wanted, heads)
            close_to = 1e-6 if "norm" in role and name.startswith("gemma") else 0.0
            assert np.abs(taken(file, theirs[role]) - wanted).max() <= close_to, role


def write_golden_at(found: Golden, folder: Path) -> Path:
    return write_golden(folder, found)


def taken(checkpoint: Checkpoint, part: Part) -> np.ndarray:
    return part.take(checkpoint.tensor(part.name))


def same_facts(first: Architecture, second: Architecture, *, turned: bool, windows: bool) -> None:
    """Compare all but tensors; files of some families say nothing of windows."""
    for ours, theirs in zip(first.layers, second.layers, strict=True):
        rope = ours.rope
        if rope is not None:
            rope = replace(rope, interleaved=turned or rope.interleaved)
        assert rope == theirs.rope
        assert ours.experts == theirs.experts
        assert not windows or ours.window == theirs.window
    for arch in (first, second):
        assert arch.norm_eps > 0
    whole: dict[str, Any] = {"layers": (), "parts": {}, "norm_eps": 1.0}
    if second.family in ("llama", "glm"):  # a Mistral and a ChatGLM are one there
        whole["family"] = second.family
    assert replace(first, **whole) == replace(second, **whole)
    assert np.isclose(first.norm_eps, second.norm_eps, rtol=1e-6)


def test_other_families_are_refused_by_name(tmp_path: Path) -> None:
    for family in ("mamba", "bert", "falcon"):
        writer = gguf.GGUFWriter(tmp_path / "m.gguf", family)
        writer.add_block_count(1)
        close(writer)
        with pytest.raises(UnsupportedError, match=f"(?s){family}.*known: .*gptneox"):
            GgufFile(tmp_path / "m.gguf")
