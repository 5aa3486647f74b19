"""An OpenAI-compatible server over the streaming engine, as an ASGI application."""

from __future__ import annotations

import asyncio
import hmac
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

import msgspec
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from whet.errors import InputError
from whet.llm.async_engine import AsyncEngine, Delta
from whet.llm.llm import LLM
from whet.llm.sampling import SamplingParams
from whet.serve.answers import Form, refusal
from whet.serve.protocol import Chat, Completions, Sampled, parse

DEFAULT_TOKENS = 256

_LOOK_S = 0.2
"""How often to look whether the caller is still there."""

_Collected = tuple[str, str, int]
"""Text, why it ended, and number of tokens."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How the server behaves.

    Attributes:
        name: what the model is called.
        key: what callers have to give as bearer token, "" for nothing.
        most_requests: completions that may wait or run; more are refused with 429.
        body_bytes: longest body of a request.
    """

    name: str
    key: str = ""
    most_requests: int = 64
    body_bytes: int = 1 << 20


def application(llm: LLM, settings: Settings) -> Starlette:
    """Return the server of one model; the model is the server's own from now on."""
    server = _Server(llm, settings, AsyncEngine(llm.engine, settings.most_requests))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
        yield
        await asyncio.to_thread(server.engine.close)

    routes = [
        Route("/health", server.health),
        Route("/v1/models", server.models),
        Route("/v1/completions", server.completions, methods=["POST"]),
        Route("/v1/chat/completions", server.chat, methods=["POST"]),
    ]
    return Starlette(routes=routes, lifespan=lifespan)


@dataclass(frozen=True, slots=True)
class _Job:
    """Completions that are wanted: prompts, and how often each."""

    prompts: Sequence[list[int]]
    params: SamplingParams
    priority: int

    @property
    def parts(self) -> list[tuple[list[int], int]]:
        return [(prompt, k) for prompt in self.prompts for k in range(self.params.n)]


@dataclass(frozen=True, slots=True)
class _Server:
    llm: LLM
    settings: Settings
    engine: AsyncEngine

    async def health(self, request: Request) -> Response:
        """Say that the server lives."""
        return JSONResponse({"status": "ok"})

    async def models(self, request: Request) -> Response:
        """List the one model."""
        if not self._may(request):
            return _unauthorised()
        entry = {"id": self.settings.name, "object": "model", "owned_by": "whet"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def completions(self, request: Request) -> Response:
        """Answer ``/v1/completions``."""
        return await self._guarded(request, chat=False)

    async def chat(self, request: Request) -> Response:
        """Answer ``/v1/chat/completions``."""
        return await self._guarded(request, chat=True)

    async def _guarded(self, request: Request, *, chat: bool) -> Response:
        if not self._may(request):
            return _unauthorised()
        try:
            job, wanted = await self._job(await self._body(request), chat=chat)
            form = Form(self.settings.name, chat)
            if wanted.stream:
                return await self._streamed(job, form)
            return await self._answered(request, job, form)
        except ClientDisconnect:
            return Response(status_code=499)
        except Exception as error:  # noqa: BLE001 - one bad request must not end the server
            return _refused(error)

    def _may(self, request: Request) -> bool:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        key = self.settings.key
        return not key or hmac.compare_digest(given.encode(), key.encode())

    async def _body(self, request: Request) -> bytes:
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self.settings.body_bytes:
                raise InputError(f"the body has more than {self.settings.body_bytes} bytes")
        return bytes(body)

    async def _job(self, body: bytes, *, chat: bool) -> tuple[_Job, Sampled]:
        """Return what a body asks for; tokenizing long texts does not hold up others."""
        wanted: Chat | Completions = parse(body, Chat) if chat else parse(body, Completions)
        if isinstance(wanted, Chat):
            prompts = [await asyncio.to_thread(self.llm.chat_prompt, wanted.messages)]
        else:
            prompts = [await asyncio.to_thread(self.llm.encode, p) for p in wanted.prompts()]
        if not prompts or not all(prompts):
            raise InputError("the prompt has no tokens", hint="give at least one")
        return _Job(prompts, wanted.params(DEFAULT_TOKENS), wanted.priority), wanted

    def _deltas(self, job: _Job, number: int) -> AsyncGenerator[Delta, None]:
        prompt, index = job.parts[number]
        tokenizer = self.llm.tokenizer
        ends = tokenizer.ends if tokenizer else frozenset[int]()
        return self.engine.generate(
            prompt, job.params, ends=ends, index=index, priority=job.priority
        )

    # -- answers -------------------------------------------------------------------------------

    async def _answered(self, request: Request, job: _Job, form: Form) -> Response:
        """Answer when all is there; if the caller goes away before, the work is cancelled."""
        parts = [asyncio.create_task(self._collected(job, k)) for k in range(len(job.parts))]
        waiting: set[asyncio.Task[_Collected]] = set(parts)
        try:
            while waiting:
                done, waiting = await asyncio.wait(
                    waiting, timeout=_LOOK_S, return_when=asyncio.FIRST_EXCEPTION
                )
                found = [task.result() for task in done]  # the first that failed ends it
                if waiting and await request.is_disconnected():
                    raise ClientDisconnect
        finally:
            for task in parts:
                task.cancel()
        found = [task.result() for task in parts]
        new = sum(count for _, _, count in found)
        choices = [(text, reason) for text, reason, _ in found]
        return JSONResponse(form.whole(choices, sum(map(len, job.prompts)), new))

    async def _collected(self, job: _Job, number: int) -> _Collected:
        text, reason, count = "", "", 0
        async with aclosing(self._deltas(job, number)) as deltas:
            async for delta in deltas:
                text, reason, count = text + delta.text, delta.reason, count + len(delta.tokens)
        return text, reason, count

    async def _streamed(self, job: _Job, form: Form) -> Response:
        """Answer piece by piece. What is refused at once gets its status: the first piece waits."""
        events = self._events(job, form)
        first = await anext(events)

        async def lines() -> AsyncGenerator[bytes, None]:
            async with aclosing(events):
                yield first
                async for line in events:
                    yield line

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def _events(self, job: _Job, form: Form) -> AsyncGenerator[bytes, None]:
        """Yield the lines of a stream; completions of several prompts follow each other."""
        begun = False
        try:
            for number in range(len(job.parts)):
                async with aclosing(self._deltas(job, number)) as deltas:
                    async for delta in deltas:
                        if delta.text or delta.reason:
                            yield _line(form.piece(number, delta.text, delta.reason))
                            begun = True
        except Exception as error:
            if not begun:
                raise
            yield _line(refusal(error)[1])
        yield b"data: [DONE]\n\n"


def _line(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"


def _refused(error: Exception) -> Response:
    status, body = refusal(error)
    if status >= 500:
        logging.getLogger("whet.serve").error("a request failed", exc_info=error)
    return JSONResponse(body, status, headers={"Retry-After": "1"} if status == 429 else None)


def _unauthorised() -> Response:
    body = {"error": {"message": "the API key is wrong", "type": "authentication_error"}}
    return JSONResponse(body, 401, headers={"WWW-Authenticate": "Bearer"})
