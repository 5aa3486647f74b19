"""Every family of language models against ``transformers``; checkpoints that are damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import whet
from whet.errors import ModelError, UnsupportedError, WhetError
from whet.llm.checkpoints.checkpoint import TensorFolder
from whet.llm.checkpoints.quantized import InBlocks
from whet.llm.engine.program import Span, StepProgram
from whet.llm.families.table import architecture_of
from whet.llm.graphs.decoder import decoder_graph
from whet.tests.tiny_models import (
    CONTEXT,
    MODELS,
    VOCABULARY,
    reference_logits,
    reference_model,
    save,
    write_checkpoint,
)

pytestmark = pytest.mark.filterwarnings("ignore")  # transformers warns about its own future


def program_of(folder: Path) -> StepProgram:
    checkpoint = TensorFolder(folder)
    arch = architecture_of(checkpoint.config)
    graph = decoder_graph(arch, checkpoint, CONTEXT)
    return StepProgram(whet.compile(graph, options=whet.Options(threads=2)), arch, 16)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS))
def test_logits(name: str, tmp_path: Path) -> None:
    """A prompt at once, in chunks and token by token: the reference's logits, and equal bits."""
    model = reference_model(name)
    program = program_of(save(model, tmp_path))
    tokens = np.random.default_rng(3).integers(0, VOCABULARY, 75)
    wanted = reference_logits(model, tokens)
    whole = program.run([Span(tokens.tolist(), 0, [3, 7, 5], 75)])
    assert np.abs(whole - wanted).max() < 1e-5 * max(1.0, np.abs(wanted).max())
    program.run([Span(tokens[:37].tolist(), 0, [1, 2], 0)])
    chunk = program.run([Span(tokens[37:70].tolist(), 37, [1, 2, 9], 33)])
    assert np.array_equal(whole[37:70], chunk)
    for k in range(70, 75):
        one = program.run([Span([int(tokens[k])], k, [1, 2, 9], 1)])
        assert np.array_equal(whole[k], one[0])


def test_embeddings_in_blocks_are_enlarged(tmp_path: Path) -> None:
    """As those of Gemma are: doubled, they give what embeddings twice as large give."""
    pytest.importorskip("gguf", reason="it writes blocks")
    write_checkpoint(tmp_path, "llama")
    checkpoint = InBlocks(TensorFolder(tmp_path), "Q8_0")
    arch = replace(architecture_of(checkpoint.config), layers=())
    logits = []
    for scale in (1.0, 2.0):
        scaled = replace(arch, embedding_scale=scale, norm_eps=scale**2 * 1e-6)
        graph = decoder_graph(scaled, checkpoint, CONTEXT)
        program = StepProgram(whet.compile(graph), scaled, 2)
        logits.append(program.run([Span([5, 9], 0, [0], 2)]))
    assert logits[0].any() and np.array_equal(logits[0], logits[1])


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a checkpoint in two shards."""
    folder = write_checkpoint(tmp_path_factory.mktemp("llama"), "llama")
    return split_in_two(folder)


def split_in_two(folder: Path) -> Path:
    whole = folder / "model.safetensors"
    checkpoint = TensorFolder(folder)
    index: dict[str, str] = {}
    for k in range(2):
        header, data = {}, b""
        for name in checkpoint.names[k::2]:
            array = checkpoint.tensor(name)
            span = [len(data), len(data) + array.nbytes]
            header[name] = {"dtype": "F32", "shape": array.shape, "data_offsets": span}
            data += array.tobytes()
            index[name] = f"model-{k}.safetensors"
        text = json.dumps(header).encode()
        shard = folder / f"model-{k}.safetensors"
        shard.write_bytes(len(text).to_bytes(8, "little") + text + data)
    whole.unlink()
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


def copied(folder: Path, to: Path) -> Path:
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def open_all(folder: Path) -> None:
    checkpoint = TensorFolder(folder)
    decoder_graph(architecture_of(checkpoint.config), checkpoint, CONTEXT)


def test_stored_types_become_float32(tmp_path: Path) -> None:
    import ml_dtypes

    rng, data, header = np.random.default_rng(0), b"", {}
    arrays = {}
    for kind, dtype in (("F32", np.float32), ("F16", np.float16), ("BF16", ml_dtypes.bfloat16)):
        array = rng.standard_normal((3, 5)).astype(dtype)
        arrays[kind] = array
        span = [len(data), len(data) + array.nbytes]
        header[kind] = {"dtype": kind, "shape": [3, 5], "data_offsets": span}
        data += array.tobytes()
    text = json.dumps(header).encode()
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "m.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data)
    folder = TensorFolder(tmp_path)
    for kind, array in arrays.items():
        assert np.array_equal(folder.tensor(kind), array.astype(np.float32))


def test_a_missing_shard_is_named(llama: Path, tmp_path: Path) -> None:
    folder = copied(llama, tmp_path)
    shard = sorted(folder.glob("*.safetensors"))[1]
    shard.unlink()
    with pytest.raises(ModelError, match=shard.name):
        open_all(folder)


def test_a_truncated_shard_is_named(llama: Path, tmp_path: Path) -> None:
    folder = copied(llama, tmp_path)
    shard = sorted(folder.glob("*.safetensors"))[0]
    whole = shard.read_bytes()
    for size in (0, 5, 30, len(whole) // 2, len(whole) - 1):
        shard.write_bytes(whole[:size])
        with pytest.raises(ModelError, match=shard.name):
            open_all(folder)


def test_damaged_headers_are_errors(llama: Path, tmp_path: Path) -> None:
    folder = copied(llama, tmp_path)
    shard = sorted(folder.glob("*.safetensors"))[0]
    whole, rng = bytearray(shard.read_bytes()), np.random.default_rng(1)
    for _ in range(60):
        damaged = whole.copy()
        damaged[int(rng.integers(0, 400))] = int(rng.integers(0, 256))
        shard.write_bytes(damaged)
        try:
            open_all(folder)
        except WhetError:
            continue


def test_wrong_shapes_and_families_are_errors(llama: Path, tmp_path: Path) -> None:
    folder = copied(llama, tmp_path)
    config = json.loads((folder / "config.json").read_text())
    for change, kind, text in (
        ({"hidden_size": 128}, ModelError, "has shape"),
        ({"num_hidden_layers": 3}, ModelError, "layers.2"),
        ({"model_type": "lama"}, UnsupportedError, "llama"),
        ({"hidden_act": "sin"}, UnsupportedError, "sin"),
        ({"vocab_size": "many"}, ModelError, "vocab_size"),
        ({"rope_parameters": {"rope_type": "spiral"}}, UnsupportedError, "spiral"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(kind, match=text):
            open_all(folder)
    (folder / "config.json").unlink()
    with pytest.raises(ModelError, match=r"config\.json"):
        open_all(folder)
