"""GGUF files: tensors bit for bit, a model against its safetensors folder, tokenizers, damage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whet.errors import ModelError, UnsupportedError, WhetError
from whet.llm import LLM, SamplingParams
from whet.llm.checkpoints.checkpoint import TensorFolder
from whet.llm.checkpoints.config import Config
from whet.llm.checkpoints.gguf_file import TYPES, GgufFile
from whet.llm.engine.program import Span
from whet.llm.families.rope_config import rope_of
from whet.options import Options
from whet.tests.tiny_models import CONTEXT, VOCABULARY, write_checkpoint

gguf = pytest.importorskip("gguf", reason="it writes and reads the files")

pytestmark = pytest.mark.filterwarnings("ignore")

NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
TOP = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}


def writer_of(path: Path, family: str = "llama") -> Any:
    writer = gguf.GGUFWriter(path, family)
    writer.add_embedding_length(64)
    writer.add_block_count(2)
    writer.add_feed_forward_length(112)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_context_length(CONTEXT)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    return writer


def close(writer: Any) -> None:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def gguf_name(name: str) -> str:
    if name in TOP:
        return TOP[name]
    number, rest = name.removeprefix("model.layers.").split(".", 1)
    stem, ending = rest.rsplit(".", 1)
    return f"blk.{number}.{NAMES[stem]}.{ending}"


def permuted(weight: np.ndarray, heads: int) -> np.ndarray:
    """Return rows in the order in which llama.cpp turns neighbours instead of halves."""
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(weight.shape))


@pytest.mark.parametrize("kind", [t for t in TYPES if t not in ("F32",)])
def test_tensors_are_dequantised_bit_for_bit(kind: str, tmp_path: Path) -> None:
    dtype = gguf.GGMLQuantizationType[kind]
    block, size = gguf.GGML_QUANT_SIZES[dtype]
    rng = np.random.default_rng(9)
    raw = rng.integers(0, 60, (5, 2 * max(256, block) // block * size), np.uint8)
    writer = writer_of(tmp_path / "m.gguf")
    writer.add_tensor("token_embd.weight", raw, raw_dtype=dtype)
    close(writer)
    file = GgufFile(tmp_path / "m.gguf")
    found = file.tensor("model.embed_tokens.weight")
    assert found.shape == file.shape("model.embed_tokens.weight") == (5, 512)
    wanted = gguf.quants.dequantize(raw, dtype)
    assert found.dtype == np.float32
    assert np.array_equal(found.view(np.uint32), wanted.reshape(5, 512).view(np.uint32))


def quantised_llama(folder: Path, kind: str) -> Path:
    """Write a checkpoint as a GGUF file, its matrices in blocks where rows divide into them."""
    dtype = gguf.GGMLQuantizationType[kind]
    writer, checkpoint = writer_of(folder / f"{kind}.gguf"), TensorFolder(folder)
    for name in checkpoint.names:
        array = checkpoint.tensor(name)
        if "q_proj" in name or "k_proj" in name:
            array = permuted(array, 4 if "q_proj" in name else 2)
        if array.ndim == 2 and array.shape[1] % 32 == 0:
            packed = gguf.quants.quantize(array, dtype)
            writer.add_tensor(gguf_name(name), packed, raw_dtype=dtype)
        else:
            writer.add_tensor(gguf_name(name), array)
    close(writer)
    return folder / f"{kind}.gguf"


def test_one_product_for_queries_keys_and_values_has_the_same_bits(tmp_path: Path) -> None:
    path = quantised_llama(write_checkpoint(tmp_path, "llama"), "Q4_0")
    rng = np.random.default_rng(6)
    spans = [Span(rng.integers(0, VOCABULARY, n).tolist(), 0, [k], n) for k, n in ((0, 29), (1, 1))]
    merged, apart = (
        LLM(path, options=Options(threads=2, passes={"merge_matmuls": on}), context=CONTEXT)
        for on in (True, False)
    )
    assert np.array_equal(merged.program.run(spans), apart.program.run(spans))
    first, second = merged.program.model.stats, apart.program.model.stats
    assert first.launches == second.launches - 2 * 2
    assert first.weight_bytes == second.weight_bytes


@pytest.mark.slow
def test_a_llama_is_the_one_of_its_folder(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "llama")
    writer, checkpoint = writer_of(folder / "m.gguf"), TensorFolder(folder)
    for name in checkpoint.names:
        array = checkpoint.tensor(name)
        if "q_proj" in name or "k_proj" in name:
            array = permuted(array, 4 if "q_proj" in name else 2)
        writer.add_tensor(gguf_name(name), array)
    close(writer)
    params = SamplingParams(max_tokens=40)
    prompt = np.random.default_rng(2).integers(0, VOCABULARY, 40).tolist()
    options = Options(threads=2)
    first, second = (
        LLM(path, options=options, cache_bytes=1 << 20, context=CONTEXT).generate(prompt, params)
        for path in (folder, folder / "m.gguf")
    )
    assert first[0].tokens == second[0].tokens


def test_scaled_positions_are_those_of_a_folder(tmp_path: Path) -> None:
    short, long = np.linspace(1, 2, 8), np.linspace(2, 9, 8)
    writer = writer_of(tmp_path / "long.gguf", "phi3")
    writer.add_rope_scaling_orig_ctx_len(64)
    writer.add_rope_scaling_attn_factors(1.25)
    for name, factors in (("short", short), ("long", long)):
        writer.add_tensor(f"rope_factors_{name}.weight", factors.astype(np.float32))
    close(writer)
    rope = rope_of(GgufFile(tmp_path / "long.gguf").config, 16)
    assert rope.magnitude == 1.25 and rope.long[0] == 64
    assert np.allclose(rope.divisors, short) and np.allclose(rope.long[1], long)
    writer = writer_of(tmp_path / "yarn.gguf", "qwen2")
    writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
    writer.add_rope_scaling_factor(4.0)
    writer.add_rope_scaling_orig_ctx_len(64)
    close(writer)
    given = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    folder = Config({"rope_parameters": given, "rope_theta": 10000.0}, "config.json")
    assert rope_of(GgufFile(tmp_path / "yarn.gguf").config, 16) == rope_of(folder, 16)


def test_damaged_files_are_errors(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = writer_of(path)
    writer.add_tensor("token_embd.weight", np.zeros((5, 64), np.float32))
    close(writer)
    whole, rng = bytearray(path.read_bytes()), np.random.default_rng(4)
    for size in (0, 3, 20, 100, len(whole) - 40):
        path.write_bytes(whole[:size])
        with pytest.raises(ModelError, match="truncated"):
            GgufFile(path)
    for _ in range(60):
        damaged = whole.copy()
        damaged[int(rng.integers(0, 300))] = int(rng.integers(0, 256))
        path.write_bytes(damaged)
        try:
            GgufFile(path)
        except WhetError:
            continue
    close(writer_of(path, "mamba"))
    with pytest.raises(UnsupportedError, match="mamba"):
        GgufFile(path)


def byte_level_codec() -> Any:
    tokenizers = pytest.importorskip("tokenizers", reason="it is what is compared")
    codec = tokenizers.Tokenizer(tokenizers.models.BPE())
    pre = tokenizers.pre_tokenizers
    codec.pre_tokenizer = pre.ByteLevel(add_prefix_space=False)
    codec.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<end>"],
        initial_alphabet=pre.ByteLevel.alphabet(),
        show_progress=False,
    )
    codec.train_from_iterator(["the cat and the hat, 12 times", "don't say naïve things"], trainer)
    return codec


def test_byte_level_tokenizers(tmp_path: Path) -> None:
    import json

    codec = byte_level_codec()
    model = json.loads(codec.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    writer = writer_of(tmp_path / "m.gguf")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_eos_token_id(0)
    writer.add_chat_template("{% for m in messages %}[{{ m.role }}] {{ m.content }}{% endfor %}")
    close(writer)
    tokenizer = GgufFile(tmp_path / "m.gguf").tokenizer()
    assert tokenizer is not None and tokenizer.ends == {0}
    for text in ("the cat, don't!", "  naïve\n\n 1234 ", "語 and 🙂", ""):
        assert tokenizer.encode(text) == codec.encode(text).ids
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.chat([{"role": "user", "content": "hi"}]) == "[user] hi"
    assert tokenizer.encode("hat<end>")[-1] == 0


def test_sentence_pieces(tmp_path: Path) -> None:
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{k:02X}>" for k in range(256))]
    words = ["▁", "a", "b", "t", "▁a", "at", "▁at", "ab", "▁ab"]
    writer = writer_of(tmp_path / "m.gguf")
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*pieces, *words])
    scores = [0.0] * len(pieces) + [-10.0] * 4 + [-1.0, -2.0, -3.0, -4.0, -5.0]
    writer.add_token_scores(scores)
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(words))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    close(writer)
    tokenizer = GgufFile(tmp_path / "m.gguf").tokenizer()
    assert tokenizer is not None
    for text in ("at ab", "é at", "  b"):
        tokens = tokenizer.encode(text)
        assert tokens[0] == 1 and tokenizer.decode(tokens) == text
    assert tokenizer.encode("at")[1:] == [len(pieces) + 6]
