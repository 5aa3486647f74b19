"""Quantising checkpoint folders: codes and bytes, what calibration gains, perplexity."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whet.errors import ArtifactError, ModelError, WhetError
from whet.kernel.block_formats import FORMATS, dequantized, read_blocks
from whet.llm import LLM, Source
from whet.llm.calibrate import gather_moments
from whet.llm.checkpoints.block_grids import CODES, block_bytes, block_grid
from whet.llm.checkpoints.checkpoint import TensorFolder
from whet.llm.checkpoints.safetensors_file import Entry, write_safetensors
from whet.llm.engine.program import Span
from whet.llm.families.table import architecture_of
from whet.llm.graphs.decoder import decoder_graph
from whet.llm.measure.perplexity import perplexity
from whet.llm.quantize import Method, Recipe, quantize_folder
from whet.options import Options
from whet.quantize.rounding import gptq_rows
from whet.tests.tiny_models import CONTEXT, VOCABULARY, write_checkpoint

OPTIONS = Options(threads=2)


@pytest.mark.parametrize("name", CODES)
def test_blocks_hold_the_nearest_codes(name: str) -> None:
    rng = np.random.default_rng(1)
    weights = rng.standard_normal((9, 96), np.float32) * np.float32(0.1)
    weights[3] = 0.0
    grid = block_grid(name, weights)
    codes = grid.nearest(weights)
    data = block_bytes(name, codes, grid)
    assert np.array_equal(read_blocks(FORMATS[name], data).codes.reshape(9, 96), codes)
    found = dequantized(FORMATS[name], data)
    steps = np.repeat(np.abs(grid.scale.astype(np.float32)), 32, axis=1)
    inside = codes < grid.limits[1] if name == "Q4_0" else np.ones_like(codes, bool)
    assert (np.abs(found - weights) <= 0.51 * steps + 1e-6)[inside].all()
    assert not found[3].any() or np.abs(found[3]).max() < 1e-5


def chunks_of(rng: np.random.Generator, count: int) -> list[list[int]]:
    return [rng.integers(0, VOCABULARY, 40).tolist() for _ in range(count)]


def with_loud_channels(folder: Path) -> Path:
    """Make some channels of normalised activations matter far more than others."""
    source = TensorFolder(folder)
    arrays = {name: source.tensor(name).copy() for name in source.names}
    for name, array in arrays.items():
        if name.endswith("layernorm.weight"):
            array[[5, 40]] *= 20.0
    entries = {n: Entry("float32", a.shape, partial(np.copy, a)) for n, a in arrays.items()}
    for file in folder.glob("*.safetensors"):
        file.unlink()
    (folder / "model.safetensors.index.json").unlink(missing_ok=True)
    write_safetensors(folder / "model.safetensors", entries)
    return folder


@pytest.mark.parametrize("method", ["gptq", "awq"])
def test_calibration_lowers_the_error_of_results(method: Any, tmp_path: Path) -> None:
    folder = with_loud_channels(write_checkpoint(tmp_path, "llama"))
    chunks = chunks_of(np.random.default_rng(2), 3)
    logits = {}
    for name in ("plain", method):
        recipe = Recipe("Q4_0", name, chunks, gptq_rows, OPTIONS)
        found = quantize_folder(folder, tmp_path / name, recipe)
        assert "model.layers.1.mlp.gate_proj.weight" in found
        llm = LLM(Source(tmp_path / name, "float32"), options=OPTIONS, context=CONTEXT)
        logits[name] = np.concatenate(
            [llm.program.run([Span(c, 0, [0, 1], len(c))]) for c in chunks]
        )
    exact = LLM(folder, options=OPTIONS, context=CONTEXT).program
    wanted = np.concatenate([exact.run([Span(c, 0, [0, 1], len(c))]) for c in chunks])
    errors = {name: np.square(found - wanted).mean() for name, found in logits.items()}
    assert errors[method] < errors["plain"]


def test_moments_are_those_of_what_matrices_read(tmp_path: Path) -> None:
    folder = TensorFolder(write_checkpoint(tmp_path, "llama"))
    graph = decoder_graph(architecture_of(folder.config), folder, CONTEXT)
    outputs = len(graph.graph.outputs)
    found = gather_moments(graph, chunks_of(np.random.default_rng(3), 2), OPTIONS)
    assert len(graph.graph.outputs) == outputs and len(found) == 2 * 4
    moments = found["layer0.attention_norm"]
    assert moments.rows == 80 and len(moments.readers) == 3
    scale = folder.tensor("model.layers.0.input_layernorm.weight").astype(np.float64)
    squares = np.diag(moments.gram) / np.square(scale)
    assert np.isclose(squares.sum(), 80 * len(scale), rtol=1e-3)


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "llama")
    with pytest.raises(WhetError, match="calibrate"):
        Recipe("Q4_0", "awq")
    with pytest.raises(WhetError, match="Q3_X"):
        Recipe("Q3_X")
    with pytest.raises(WhetError, match="exists"):
        quantize_folder(folder, folder, Recipe("Q8_0"))
    quantize_folder(folder, tmp_path / "small", Recipe("Q8_0"))
    path = tmp_path / "small" / "config.json"
    values = json.loads(path.read_text())
    values["quantization_config"]["tensors"]["model.norm.weight"] = "Q8_0"
    path.write_text(json.dumps(values))
    with pytest.raises(WhetError, match=r"model\.norm\.weight"):
        TensorFolder(tmp_path / "small")
    values["quantization_config"] = {"quant_method": "other"}
    path.write_text(json.dumps(values))
    with pytest.raises(WhetError, match="other"):
        TensorFolder(tmp_path / "small")


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the system refuse to write more to a file, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "llama")
    before = {p.name for p in tmp_path.iterdir()}
    for most in (0, 100, 5000):
        with files_of_at_most(most), pytest.raises(ArtifactError, match="cannot write") as caught:
            quantize_folder(folder, tmp_path / "small", Recipe("Q8_0"))
        assert caught.value.where and caught.value.hint
        assert {p.name for p in tmp_path.iterdir()} == before
    entries = {"w": Entry("float32", (64, 64), lambda: np.zeros((64, 64), np.float32))}
    with files_of_at_most(1000), pytest.raises(ArtifactError, match="cannot write"):
        write_safetensors(tmp_path / "w.safetensors", entries)
    assert {p.name for p in tmp_path.iterdir()} == before
    write_safetensors(tmp_path / "w.safetensors", entries)
    assert (tmp_path / "w.safetensors").stat().st_size > 64 * 64 * 4


def test_a_target_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path, "llama")
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(ArtifactError, match="cannot write"):
        quantize_folder(folder, tmp_path / "file" / "small", Recipe("Q8_0"))
    (folder / "tokenizer.json").unlink(missing_ok=True)
    (folder / "tokenizer.json").mkdir()
    with pytest.raises(ModelError, match="cannot read"):
        quantize_folder(folder, tmp_path / "small", Recipe("Q8_0"))
    assert not [p for p in tmp_path.iterdir() if "small" in p.name]


def standard_library() -> bytes:
    """Return some text that is on every machine: modules of the standard library."""
    modules = ("argparse", "ast", "dataclasses", "datetime", "inspect", "typing")
    files = [Path(__import__(name).__file__ or "") for name in modules]
    return b"".join(file.read_bytes() for file in files)


def trained(folder: Path) -> np.ndarray:
    """Train a small Llama on bytes, write it, and return bytes that it has not seen."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    torch.set_num_threads(1)
    data = torch.tensor(np.frombuffer(standard_library(), np.uint8).astype(np.int64))
    split = len(data) - 3000
    config = transformers.LlamaConfig(
        hidden_size=64, intermediate_size=160, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, vocab_size=256, max_position_embeddings=256,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(config)
    step = torch.optim.AdamW(model.parameters(), lr=6e-3)
    for _ in range(220):
        starts = torch.randint(0, split - 97, (8,)).tolist()
        batch = torch.stack([data[s : s + 96] for s in starts])
        loss = model(input_ids=batch, labels=batch).loss
        step.zero_grad()
        loss.backward()
        step.step()
    model.save_pretrained(folder)
    unseen: np.ndarray = data[split:].numpy()
    return unseen


@pytest.mark.slow
def test_perplexity_of_a_trained_model(tmp_path: Path) -> None:
    """8 bits cost at most 0.1 % of the perplexity, 4 bits that are calibrated at most 2 %."""
    unseen = trained(tmp_path / "model").tolist()
    text = np.frombuffer(standard_library()[:4096], np.uint8).astype(int).tolist()
    chunks = [text[k : k + 256] for k in range(0, len(text), 256)]

    def measured(path: Path) -> float:
        return perplexity(LLM(path, options=OPTIONS, sequences=1).program, unseen, 256)

    exact = measured(tmp_path / "model")
    found = {}
    recipes: list[tuple[str, Method]] = [
        ("Q8_0", "plain"),
        ("Q4_1", "plain"),
        ("Q4_1", "gptq"),
        ("Q4_1", "awq"),
    ]
    for kind, method in recipes:
        target = tmp_path / f"{kind}-{method}"
        quantize_folder(
            tmp_path / "model", target, Recipe(kind, method, chunks, gptq_rows, OPTIONS)
        )
        found[kind, method] = measured(target) / exact
    assert exact < 25 and found["Q8_0", "plain"] < 1.001
    assert min(found["Q4_1", "gptq"], found["Q4_1", "awq"]) < 1.02, found
