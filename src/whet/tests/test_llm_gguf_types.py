"""A whole model in every type of GGUF, against its dequantised weights in float64."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whet.llm import LLM
from whet.llm.checkpoints.gguf_file import TYPES
from whet.llm.engine.program import Span
from whet.llm.source import Source
from whet.options import Options
from whet.tests.plain_decoder import llama_logits
from whet.tests.test_llm_gguf import close

gguf = pytest.importorskip("gguf", reason="it writes and reads the files")

HIDDEN, INNER, HEADS, KV_HEADS, VOCABULARY, CONTEXT = 256, 256, 4, 2, 90, 128
SIZE = HIDDEN // HEADS
LAYER = {
    "attn_q": (HIDDEN, HIDDEN),
    "attn_k": (KV_HEADS * SIZE, HIDDEN),
    "attn_v": (KV_HEADS * SIZE, HIDDEN),
    "attn_output": (HIDDEN, HIDDEN),
    "ffn_gate": (INNER, HIDDEN),
    "ffn_up": (INNER, HIDDEN),
    "ffn_down": (HIDDEN, INNER),
    "attn_norm": (HIDDEN,),
    "ffn_norm": (HIDDEN,),
}
SHAPES = {
    "token_embd.weight": (VOCABULARY, HIDDEN),
    "output_norm.weight": (HIDDEN,),
    "output.weight": (VOCABULARY, HIDDEN),
    **{f"blk.{k}.{name}.weight": shape for k in range(2) for name, shape in LAYER.items()},
}

FACTORS = {"Q4_K": (2.8e-4, 2.1e-3), "Q5_K": (1.4e-4, 2.2e-3), "Q6_K": (4.4e-5,)}
"""Factors of scales and minimums that make random codes weights of about 0.06, mean 0."""


def mixed(name: str) -> str:
    """Return the type of a tensor in a file as Q4_K_M: a few of them in more bits."""
    return "Q6_K" if any(n in name for n in ("attn_v", "ffn_down", "output.weight")) else "Q4_K"


KINDS: dict[str, Callable[[str], str]] = {
    **{kind: lambda name, kind=kind: kind for kind in sorted(TYPES)},  # type: ignore[misc]
    "Q4_K_M": mixed,
}


def stored(shape: tuple[int, ...], kind: str, rng: np.random.Generator) -> np.ndarray:
    """Return random weights as a file holds them; of the K types random bytes, as no one packs."""
    dtype = gguf.GGMLQuantizationType[kind]
    if kind not in FACTORS:
        found = rng.standard_normal(shape, np.float32) * np.float32(0.06)
        packed: np.ndarray = gguf.quants.quantize(found, dtype)
        return packed
    values, size = gguf.GGML_QUANT_SIZES[dtype]
    blocks = rng.integers(0, 256, (shape[0] * shape[1] // values, size), np.uint8)
    spread = rng.uniform(0.7, 1.3, (len(blocks), 1))
    factors = (spread * np.array(FACTORS[kind])).astype(np.float16).view(np.uint8)
    at = slice(-factors.shape[1], None) if kind == "Q6_K" else slice(0, factors.shape[1])
    blocks[:, at] = factors
    return blocks.reshape(shape[0], -1)


def written(path: Path, kind_of: Callable[[str], str], seed: int) -> dict[str, np.ndarray]:
    """Write a Llama of random weights and return them, dequantised by ``gguf``, in float64."""
    writer: Any = gguf.GGUFWriter(path, "llama")
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(2)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_context_length(CONTEXT)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    rng, found = np.random.default_rng(seed), {}
    for name, shape in SHAPES.items():
        if len(shape) == 1:
            weights = rng.uniform(0.5, 1.5, shape).astype(np.float32)
            writer.add_tensor(name, weights)
        else:
            dtype = gguf.GGMLQuantizationType[kind_of(name)]
            raw = stored(shape, kind_of(name), rng)
            writer.add_tensor(name, raw, raw_dtype=dtype)
            weights = gguf.quants.dequantize(raw, dtype)
        found[name] = weights.astype(np.float64)
    close(writer)
    return found


@pytest.mark.parametrize("kind", [*KINDS, "Q4_K_M in floats"])
def test_logits_are_those_of_the_dequantised_weights(kind: str, tmp_path: Path) -> None:
    """Rows become 8-bit integers where weights are blocks: that alone may differ, and does little.

    The bits of a token's logits are the same alone and beside others.
    """
    seed = int(np.random.SeedSequence().generate_state(1)[0])
    tensors = written(tmp_path / "m.gguf", KINDS[kind.removesuffix(" in floats")], seed)
    blocks = kind not in ("F32", "F16", "BF16", "Q4_K_M in floats")
    source = Source(tmp_path / "m.gguf", weights="stored" if kind in KINDS else "float32")
    llm = LLM(source, options=Options(threads=2), context=CONTEXT)
    assert blocks == any("BlockMatMul" in group.ops for group in llm.program.model.stats.groups)
    rng = np.random.default_rng(seed + 1)
    prompts = [rng.integers(0, VOCABULARY, n).tolist() for n in (37, 1, 14)]
    spans = [Span(p, 0, [2 * k, 2 * k + 1], len(p)) for k, p in enumerate(prompts)]
    together = np.split(llm.program.run(spans), np.cumsum([len(p) for p in prompts])[:-1])
    for k, (prompt, found) in enumerate(zip(prompts, together, strict=True)):
        wanted = llama_logits(tensors, prompt, HEADS, SIZE)
        error = np.sqrt(((found - wanted) ** 2).mean() / (wanted**2).mean())
        assert error < (0.05 if blocks else 1e-5), f"seed {seed}"
        for at, token in enumerate(prompt):
            alone = llm.program.run([Span([token], at, [2 * k, 2 * k + 1], 1)])
            assert np.array_equal(alone[0], found[at]), f"seed {seed}"
