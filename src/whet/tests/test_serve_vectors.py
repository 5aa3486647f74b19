"""The server of vectors: embeddings and ranks, with an encoder that counts letters."""

from __future__ import annotations

import base64
from typing import Any

import numpy as np
import pytest

from whet.errors import InputError

pytest.importorskip("starlette", reason="it is the server's framework")
pytest.importorskip("httpx", reason="it asks the server")
pytest.importorskip("prometheus_client", reason="it keeps the numbers")

pytestmark = pytest.mark.filterwarnings("ignore")


class Words:
    """An encoder whose vectors are the numbers of tokens."""

    def tokens(self, text: Any) -> list[int]:
        """Return the tokens of a text."""
        if not text:
            raise InputError("a text has 0 tokens")
        return [ord(c) for c in text] if isinstance(text, str) else list(text)

    def embed(self, texts: Any) -> np.ndarray:
        """Return first, last and number of tokens."""
        return np.array([[t[0], t[-1], len(t)] for t in texts], np.float32)

    def pair(self, query: str, text: str) -> tuple[list[int], list[int]]:
        """Return the letters of both."""
        return [ord(c) for c in query + text], [0] * len(query) + [1] * len(text)

    def scores(self, pairs: Any) -> np.ndarray:
        """Return how often the first letter comes again."""
        return np.array([t.count(t[0]) - 1 for t, _ in pairs], np.float32)


def test_embeddings() -> None:
    from starlette.testclient import TestClient

    from whet.serve.encoder_app import encoder_application
    from whet.serve.front import Settings

    app = encoder_application(Words(), Settings("words", key="k"))
    client = TestClient(app, headers={"Authorization": "Bearer k"})
    found = client.post("/v1/embeddings", json={"input": ["ab", "c"]}).json()
    assert [line["embedding"] for line in found["data"]] == [[97, 98, 2], [99, 99, 1]]
    assert found["usage"]["prompt_tokens"] == 3
    body = {"input": [3, 4], "encoding_format": "base64", "dimensions": 2}
    (line,) = client.post("/v1/embeddings", json=body).json()["data"]
    vector = np.frombuffer(base64.b64decode(line["embedding"]), "<f4")
    assert np.allclose(vector, [0.6, 0.8])
    ranked = client.post("/v1/rerank", json={"query": "a", "documents": ["b", "aa", "a"]}).json()
    assert [line["index"] for line in ranked["results"]] == [1, 2, 0]
    assert ranked["usage"]["total_tokens"] == 7
    body = {"query": "a", "documents": [{"text": "b"}, "aa"], "top_n": 1, "return_documents": True}
    for path in ("/rerank", "/v2/rerank"):
        (line,) = client.post(path, json=body).json()["results"]
        assert line == {"index": 1, "relevance_score": 2, "document": {"text": "aa"}}
    for path, wrong in (
        ("rerank", {"query": "a", "documents": ["b"], "top_n": 0}),
        ("rerank", {"query": "a", "documents": [{"title": "b"}]}),
        ("rerank", {"query": "a", "documents": []}),
        ("embeddings", {"input": []}),
        ("embeddings", {"input": ""}),
        ("embeddings", {"input": "a", "dimensions": 9}),
        ("embeddings", {"input": ["a", 3]}),
        ("rerank", {"query": "a"}),
    ):
        answer = client.post(f"/v1/{path}", json=wrong)
        assert answer.status_code == 400 and answer.json()["error"]["message"], wrong
    assert client.post("/v1/embeddings", headers={"Authorization": ""}).status_code == 401
    assert 'status="400"' in client.get("/metrics").text
