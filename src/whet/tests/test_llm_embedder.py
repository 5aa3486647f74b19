"""Vectors of decoders: pooling as folders say it, names without a prefix, and bad input."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whet.errors import InputError, UnsupportedError
from whet.llm.checkpoints.checkpoint import TensorFolder
from whet.llm.checkpoints.pooling import makes_vectors
from whet.llm.embedder import Embedder
from whet.llm.engine.scheduler import Limits
from whet.options import Options
from whet.tests.golden_models import write_tensors
from whet.tests.tiny_models import VOCABULARY, write_checkpoint


def described(folder: Path, mode: str, *, normalised: bool) -> Path:
    """Have a folder say how its vectors are made."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalised else [])]
    modules = [{"type": f"sentence_transformers.models.{kind}"} for kind in kinds]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps({mode: True}))
    return folder


def without_prefix(folder: Path) -> Path:
    """Write a checkpoint again as a model without a head is saved."""
    found = TensorFolder(folder)
    names = [name for name in found.names if name != "lm_head.weight"]
    tensors = {name.removeprefix("model."): found.tensor(name).copy() for name in names}
    write_tensors(folder / "model.safetensors", tensors)
    return folder


def texts(*lengths: int) -> list[list[int]]:
    rng = np.random.default_rng()
    return [rng.integers(0, VOCABULARY, n).tolist() for n in lengths]


def loaded(folder: Path, **given: Any) -> Embedder:
    return Embedder(folder, options=Options(threads=2), **given)


def test_a_mean_is_that_of_the_states_of_all_tokens(tmp_path: Path) -> None:
    """The state behind a token is the vector of the text up to it, where the last one counts."""
    folder = without_prefix(write_checkpoint(tmp_path))
    assert not makes_vectors(folder)
    last = loaded(described(folder, "pooling_mode_lasttoken", normalised=False))
    assert makes_vectors(folder)
    given = texts(45, 1, 70)
    given.append([*given[2][:64], 5, 6])  # shares two pages with another
    small = Limits(step_tokens=24, sequences=3)
    folder = described(folder, "pooling_mode_mean_tokens", normalised=True)
    for mean in (loaded(folder), loaded(folder, limits=small)):
        for text, vector in zip(given, mean.embed(given), strict=True):
            states = last.embed([text[: k + 1] for k in range(len(text))])
            wanted = states.mean(0)
            assert np.abs(vector - wanted / np.linalg.norm(wanted)).max() < 1e-6
            assert np.array_equal(mean.embed([text])[0], vector)


def test_bad_texts_and_poolings(tmp_path: Path) -> None:
    folder = described(write_checkpoint(tmp_path), "pooling_mode_lasttoken", normalised=True)
    embedder = loaded(folder, context=64)
    assert np.allclose(np.linalg.norm(embedder.embed(texts(3, 63)), axis=1), 1)
    assert embedder.embed([]).shape[0] == 0
    for text, reason in (([], "0 tokens"), ([1] * 64, "64 tokens"), ([VOCABULARY], "token 131")):
        with pytest.raises(InputError, match=reason):
            embedder.embed([text])
    with pytest.raises(InputError, match="tokenizer"):
        embedder.embed(["text"])
    with pytest.raises(UnsupportedError, match="ranks"):
        embedder.pair("a", "b")
    with pytest.raises(InputError, match="context"):
        loaded(folder, context=10_000)
    described(folder, "pooling_mode_max_tokens", normalised=True)
    with pytest.raises(UnsupportedError, match="'max'"):
        loaded(folder)


def test_a_decoder_is_served_as_one_that_embeds(tmp_path: Path) -> None:
    pytest.importorskip("httpx", reason="it asks the server")
    testclient = pytest.importorskip("starlette.testclient", reason="it asks the server")
    from whet.cli.llm_serve import served

    folder = write_checkpoint(tmp_path)
    given = {"name": "", "api_key": "", "max_requests": 4, "threads": 2, "context": 0, "loras": []}
    given |= {"weights": "stored", "cache_type": "float32", "adapter": None, "keep": False}
    options: dict[str, Any] = {**given, "embeddings": True}
    tokens = texts(5, 40)
    with testclient.TestClient(served(folder, options)) as client:
        answer = client.post("/v1/embeddings", json={"input": tokens}).json()
        assert answer["usage"]["prompt_tokens"] == 45
        vectors = np.array([line["embedding"] for line in answer["data"]])
        assert np.abs(vectors - loaded(folder).embed(tokens)).max() < 1e-6
        refused = client.post("/v1/rerank", json={"query": "a", "documents": ["b"]})
        assert refused.status_code == 400 and "ranks" in refused.json()["error"]["message"]
        assert client.post("/v1/chat/completions", json={}).status_code == 404
    with pytest.raises(UnsupportedError, match="--lora"):
        served(folder, {**options, "loras": [("a", folder)]})
