"""Adapters beside the weights: each request its own, with the bits that it has alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from whet.errors import InputError, UnsupportedError
from whet.llm import LLM, SamplingParams
from whet.llm.engine.program import Span
from whet.llm.source import Source, Weights
from whet.options import Options
from whet.tests.test_llm_lora import CHANGED, write_adapter
from whet.tests.tiny_models import CONTEXT, VOCABULARY, write_checkpoint

NAMES = ("", "first", "second")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return folders of a Llama and of two adapters, of ranks 3 and 2."""
    found = {name: tmp_path_factory.mktemp(name or "base") for name in NAMES}
    write_checkpoint(found[""], "llama")
    write_adapter(found["first"], lora_alpha=1)
    write_adapter(found["second"], rank=2, seed=5, changed={"layers.0.mlp.up_proj": (112, 64)})
    return found


def loaded(
    folders: dict[str, Path], adapter: str | None = None, weights: Weights = "stored"
) -> LLM:
    """Return the Llama: with one adapter in its weights, or both beside them."""
    beside = {name: folders[name] for name in NAMES[1:]} if adapter is None else {}
    inside = folders[adapter] if adapter else None
    source = Source(folders[""], weights, adapter=inside, adapters=beside)
    return LLM(source, options=Options(threads=2), cache_bytes=1 << 20, context=CONTEXT)


@pytest.fixture(scope="module")
def llm(folders: dict[str, Path]) -> LLM:
    return loaded(folders)


def test_each_sequence_has_its_own(llm: LLM, folders: dict[str, Path]) -> None:
    """Logits are those of weights that hold the adapter; no bit depends on who runs beside."""
    rng = np.random.default_rng()
    prompts = [rng.integers(0, VOCABULARY, n).tolist() for n in (20, 33, 9)]
    spans = [
        Span(p, 0, [2 * k, 2 * k + 1], len(p), adapter=NAMES[k]) for k, p in enumerate(prompts)
    ]
    together = np.split(llm.program.run(spans), np.cumsum([len(p) for p in prompts])[:-1])
    for k, (span, found) in enumerate(zip(spans, together, strict=True)):
        assert np.array_equal(llm.program.run([span]), found)
        plain = Span(span.tokens, 0, span.pages, span.logits)
        wanted = loaded(folders, NAMES[k]).program.run([plain])
        assert np.abs(found - wanted).max() < 1e-5 * np.abs(wanted).max()
        assert k == 0 or np.abs(found - llm.program.run([plain])).max() > 1e-3


def test_requests_choose_and_share_no_pages(llm: LLM) -> None:
    prompt = np.random.default_rng(3).integers(0, VOCABULARY, 70).tolist()
    params = {name: SamplingParams(max_tokens=12, adapter=name) for name in NAMES}
    first = {name: llm.generate(prompt, params[name])[0] for name in NAMES}
    assert [first[name].cached_tokens for name in NAMES] == [0, 0, 0]
    assert len({c.tokens for c in first.values()}) == 3
    again = {name: llm.generate(prompt, params[name])[0] for name in NAMES}
    for name in NAMES:
        assert again[name].cached_tokens == 64 and again[name].tokens == first[name].tokens
    with pytest.raises(InputError, match="'first'"):
        llm.generate(prompt, SamplingParams(adapter="frist"))
    assert llm.embed([prompt]).shape == (1, 64)


def test_what_all_tokens_share_is_not_adapted(folders: dict[str, Path], tmp_path: Path) -> None:
    changed = {**CHANGED, "lm_head": (VOCABULARY, 64)}
    write_adapter(tmp_path, changed=changed)
    source = Source(folders[""], adapters={"x": tmp_path})
    with pytest.raises(UnsupportedError, match=r"'x' changes 'lm_head\.weight'"):
        LLM(source, options=Options(threads=2))


def test_over_http(folders: dict[str, Path]) -> None:
    """Weights are in blocks here, adapters beside them in floats."""
    pytest.importorskip("httpx", reason="it asks the server")
    testclient = pytest.importorskip("starlette.testclient", reason="it asks the server")
    from whet.serve.app import application
    from whet.serve.front import Settings

    pytest.importorskip("gguf", reason="it brings weights into blocks")
    llm = loaded(folders, weights="int8")
    assert any("BlockMatMul" in group.ops for group in llm.program.model.stats.groups)
    prompt = [5, 9, 2, 77]
    wanted: dict[str, Any] = {
        name: llm.generate(prompt, SamplingParams(max_tokens=6, adapter=name))[0] for name in NAMES
    }
    assert len({found.tokens for found in wanted.values()}) == 3
    app = application(llm, Settings("llama", adapters=("first", "second")))
    with testclient.TestClient(app) as client:
        names = [line["id"] for line in client.get("/v1/models").json()["data"]]
        assert names == ["llama", "first", "second"]
        assert client.get("/v1/models/second").json()["parent"] == "llama"
        body = {"prompt": prompt, "max_tokens": 6, "temperature": 0, "logprobs": 0}
        for name in NAMES:
            asked = {**body, "model": name or "llama"}
            found = client.post("/v1/completions", json=asked).json()
            assert found["model"] == (name or "llama")
            tokens = [int(t) for t in found["choices"][0]["logprobs"]["tokens"]]
            assert tokens == list(wanted[name].tokens)
        answer = client.post("/v1/completions", json={**body, "model": "third"})
        assert answer.status_code == 404 and "'second'" in answer.json()["error"]["message"]
