"""GGUF files beside llama.cpp itself: logits of every family, and the tokens of texts."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import whet
from whet.llm.checkpoints.checkpoint import TensorFolder
from whet.llm.checkpoints.gguf_file import GgufFile
from whet.llm.engine.program import Span, StepProgram
from whet.llm.families.table import architecture_of
from whet.llm.graphs.decoder import decoder_graph
from whet.tests.golden_models import golden, write_golden
from whet.tests.test_llm_gguf import byte_level_codec, close, writer_of
from whet.tests.test_llm_gguf_families import MODELS, written

llama_cpp = pytest.importorskip("llama_cpp", reason="it is what is compared")
gguf = pytest.importorskip("gguf", reason="it writes the files")

pytestmark = [pytest.mark.peer, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

REFUSED = {
    "mistral": "heads whose size is not the mean",
    "qwen3": "heads whose size is not the mean",
    "qwen3moe": "layers without experts",
    "olmo": "clipped queries",
    "chatglm": "the same file as glm",
}
"""What llama.cpp does not load, or computes otherwise, and why."""

TEXTS = (
    "the cat, don't!",
    "  naïve\n\n 1234 ",
    "語 and 🙂",
    "hello <|eot|> there<tool_call>x y</tool_call>",
    "DON'T I'LL 99bottles_of x=1;;  \r\n y",
)


def with_tokens(path: Path, count: int) -> Path:
    """Return a copy of a file with a tokenizer, which llama.cpp wants."""
    reader, copy = gguf.GGUFReader(path), path.with_name("tokens.gguf")
    family = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(copy, family)
    for name, field in reader.fields.items():
        if not name.startswith("GGUF.") and name != "general.architecture":
            writer.add_key_value(name, field.contents(), field.types[0])
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"t{k}" for k in range(count)])
    writer.add_token_scores([0.0] * count)
    writer.add_token_types([1] * count)
    for tensor in reader.tensors:
        shape = tuple(int(n) for n in reversed(tensor.shape))
        writer.add_tensor(tensor.name, np.array(tensor.data).reshape(shape))
    close(writer)
    return copy


@pytest.mark.parametrize("name", [name for name in MODELS if name not in REFUSED])
def test_logits(name: str, tmp_path: Path) -> None:
    """Tables of exponentials and a GELU of 16 bits there: agreement is to a few thousandths."""
    found = golden(name)
    if name.startswith("gemma"):  # the file does not say it: the size of a head
        found.config["query_pre_attn_scalar"] = found.config["head_dim"]
    folder = TensorFolder(write_golden(tmp_path, found))
    path = written(folder, MODELS[name], tmp_path / "m.gguf")
    file = GgufFile(path)
    arch = architecture_of(file.config)
    graph = decoder_graph(arch, file, 64)
    program = StepProgram(whet.compile(graph, options=whet.Options(threads=2)), arch, 2)
    tokens = found.tokens.tolist()[:40]
    ours = program.run([Span(tokens, 0, [0, 1], len(tokens))])
    peer: Any = llama_cpp.Llama(
        str(with_tokens(path, arch.vocabulary)),
        n_ctx=64,
        n_threads=2,
        logits_all=True,
        verbose=False,
    )
    peer.eval(tokens)
    assert np.abs(ours - peer.scores[: len(tokens)]).max() < 0.005 * np.abs(ours).max()


@pytest.mark.parametrize("words", ["llama-bpe", "qwen2", "gpt-2", "smollm", "olmo", "glm4",
                                   "tekken", "dbrx"])  # fmt: skip
def test_tokens(words: str, tmp_path: Path) -> None:
    """Texts begin, are cut and are merged alike; whole tokens are found alike."""
    model = json.loads(byte_level_codec().to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    own = ["<|bos|>", "<|eot|>", "<tool_call>", "</tool_call>", "Ġtimes."]
    writer = writer_of(tmp_path / "m.gguf")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(words)
    writer.add_token_list([*tokens, *own])
    writer.add_token_types([3, *[1] * (len(tokens) - 1), 3, 3, 4, 4, 1])
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    writer.add_bos_token_id(len(tokens))
    writer.add_eos_token_id(len(tokens) + 1)
    close(writer)
    tokenizer = GgufFile(tmp_path / "m.gguf").tokenizer()
    peer: Any = llama_cpp.Llama(str(tmp_path / "m.gguf"), vocab_only=True, verbose=False)
    assert tokenizer is not None
    draws = random.Random()
    letters = "the cat and hat 12'\n.,Tné語"
    drawn = ["".join(draws.choice(letters) for _ in range(40)) for _ in range(40)]
    for text in (*TEXTS, *drawn):
        wanted = peer.tokenize(text.encode(), add_bos=True, special=True)
        assert tokenizer.encode(text) == wanted, text
