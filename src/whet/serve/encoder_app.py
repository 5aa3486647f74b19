"""A server of vectors: ``/v1/embeddings`` as OpenAI has it, ``/v1/rerank`` as Jina and Cohere."""

from __future__ import annotations

import asyncio
import base64
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from prometheus_client import CollectorRegistry, Counter, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from whet.errors import InputError, ResourceError
from whet.serve.front import Front, Settings, no_such_path, unauthorised
from whet.serve.protocol import Embeddings, Rerank, listed, parse
from whet.words import counted

MAX_TEXTS = 2048
RERANK_PATHS = ("/v1/rerank", "/v2/rerank", "/rerank")
"""Where clients of Jina, Cohere and vLLM look for it."""


class Embeds(Protocol):
    """What makes vectors; see ``whet.llm.encoder.Encoder`` and ``whet.llm.embedder.Embedder``."""

    def tokens(self, text: str | Sequence[int]) -> list[int]:
        """Return the tokens of a text, checked."""

    def embed(self, texts: Sequence[str | Sequence[int]]) -> npt.NDArray[Any]:
        """Return a vector for each text."""

    def pair(self, query: str, text: str) -> tuple[list[int], list[int]]:
        """Return the tokens of a query and a text, and to which of the two each belongs."""

    def scores(self, pairs: Sequence[tuple[list[int], list[int]]]) -> npt.NDArray[Any]:
        """Return a score for each pair."""


def encoder_application(encoder: Embeds, settings: Settings) -> Starlette:
    """Return the server of one encoder."""
    registry = CollectorRegistry()
    answers = Counter(
        "whet_requests", "Answers by path and status.", ("path", "status"), registry=registry
    )
    front = Front(settings, lambda path, status: answers.labels(path, str(status)).inc())
    server = _Server(encoder, front, registry, asyncio.Lock())

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        front.ready = True
        yield
        front.ready = False

    routes = [
        Route("/health", front.health),
        Route("/ready", front.health),
        Route("/metrics", server.numbers),
        Route("/v1/models", front.models),
        Route("/v1/models/{name:path}", front.model),
        Route("/v1/embeddings", server.embeddings, methods=["POST"]),
        *(Route(path, server.rerank, methods=["POST"]) for path in RERANK_PATHS),
    ]
    missing = {404: no_such_path, 405: no_such_path}
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=missing)
    app.state.waiting = 0
    return app


@dataclass(frozen=True, slots=True)
class _Server:
    encoder: Embeds
    front: Front
    registry: CollectorRegistry
    lock: asyncio.Lock

    async def numbers(self, request: Request) -> Response:
        """Answer ``/metrics``."""
        if not self.front.admits(request):
            return unauthorised()
        return Response(generate_latest(self.registry), media_type="text/plain; version=0.0.4")

    async def embeddings(self, request: Request) -> Response:
        """Answer ``/v1/embeddings``."""
        return await self.front.guarded(request, self._embeddings)

    async def rerank(self, request: Request) -> Response:
        """Answer ``/v1/rerank``."""
        return await self.front.guarded(request, self._rerank)

    async def _embeddings(self, request: Request) -> Response:
        wanted = parse(await self.front.body(request), Embeddings)
        self.front.adapter_of(wanted.model)
        texts = _few(listed(wanted.input))
        tokens = await asyncio.to_thread(lambda: [self.encoder.tokens(t) for t in texts])
        vectors = await self._alone(request, self.encoder.embed, tokens)
        vectors = _shortened(vectors, wanted.dimensions)
        data = [
            {"object": "embedding", "index": k, "embedding": _written(v, wanted.encoding_format)}
            for k, v in enumerate(vectors)
        ]
        count = sum(map(len, tokens))
        usage = {"prompt_tokens": count, "total_tokens": count}
        name = self.front.settings.name
        return JSONResponse({"object": "list", "data": data, "model": name, "usage": usage})

    async def _rerank(self, request: Request) -> Response:
        wanted = parse(await self.front.body(request), Rerank)
        self.front.adapter_of(wanted.model)
        texts = _few(wanted.texts())
        pairs = await asyncio.to_thread(lambda: [self.encoder.pair(wanted.query, t) for t in texts])
        scores = await self._alone(request, self.encoder.scores, pairs)
        order = np.argsort(-scores, kind="stable")[: wanted.first(len(texts))]
        results: list[dict[str, Any]] = [
            {"index": int(k), "relevance_score": float(scores[k])} for k in order
        ]
        if wanted.return_documents:
            results = [{**line, "document": {"text": texts[line["index"]]}} for line in results]
        count = sum(len(tokens) for tokens, _ in pairs)
        usage = {"prompt_tokens": count, "total_tokens": count}
        head = {"id": f"rerank-{uuid.uuid4().hex}", "model": self.front.settings.name}
        return JSONResponse({**head, "results": results, "usage": usage})

    async def _alone(self, request: Request, work: Any, *arguments: Any) -> npt.NDArray[Any]:
        """Run one request's work after the other, beside the event loop."""
        state = request.app.state
        if state.waiting >= self.front.settings.most_requests:
            raise ResourceError(
                f"waiting: {counted(state.waiting, 'request')}", hint="try again in a moment"
            )
        state.waiting += 1
        try:
            async with self.lock:
                found: npt.NDArray[Any] = await asyncio.to_thread(work, *arguments)
                return found
        finally:
            state.waiting -= 1


def _few(texts: Sequence[Any]) -> Sequence[Any]:
    if not 0 < len(texts) <= MAX_TEXTS:
        raise InputError(f"there are {len(texts)} texts", hint=f"give 1 to {MAX_TEXTS}")
    return texts


def _shortened(vectors: npt.NDArray[Any], dimensions: int | None) -> npt.NDArray[Any]:
    """Return the first elements of vectors, scaled to length 1 again."""
    if dimensions is None:
        return vectors
    if not 1 <= dimensions <= vectors.shape[1]:
        raise InputError(f"dimensions is {dimensions}", hint=f"give 1 to {vectors.shape[1]}")
    short = vectors[:, :dimensions]
    return np.asarray(short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12))


def _written(vector: npt.NDArray[Any], form: str) -> Any:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return vector.tolist()
