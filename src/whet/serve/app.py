"""An OpenAI-compatible server over the streaming engine, as an ASGI application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from whet.errors import InputError
from whet.llm.engine.async_engine import AsyncEngine, Delta
from whet.llm.llm import LLM
from whet.serve.answers import Said, refusal, usage_of
from whet.serve.beams import said_of, searched
from whet.serve.front import Front, Settings, no_such_path, unauthorised
from whet.serve.jobs import Completes, Job, chosen, collected, deltas, job_of, said
from whet.serve.merging import merged
from whet.serve.metrics import Metrics, Watch, decoder_gauges
from whet.serve.protocol import Chat, Completions, parse
from whet.serve.waiting import all_of


def application(llm: LLM, settings: Settings) -> Starlette:
    """Return the server of one model; the model is the server's own from now on."""
    engine = AsyncEngine(llm.engine, settings.most_requests)
    metrics = Metrics(decoder_gauges(llm.engine))
    server = Server(llm, Front(settings, metrics.answered), engine, metrics)
    return server.application(
        Route("/", chat_page),
        Route("/v1/completions", server.completions, methods=["POST"]),
        Route("/v1/chat/completions", server.chat, methods=["POST"]),
    )


async def chat_page(request: Request) -> Response:
    """Answer with a page to chat on; it loads nothing from elsewhere."""
    text = files("whet.serve").joinpath("chat.html").read_text(encoding="utf-8")
    return HTMLResponse(text, headers={"Content-Security-Policy": _POLICY})


_POLICY = "default-src 'self'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True, slots=True)
class Server:
    """Answers for one model: its completions, its state and its numbers."""

    llm: Completes
    front: Front
    engine: AsyncEngine
    metrics: Metrics

    def application(self, *routes: Route) -> Starlette:
        """Return the application of these routes and of those that every server has."""
        front = self.front

        @asynccontextmanager
        async def lifespan(app: Starlette) -> AsyncGenerator[None, None]:
            front.ready = True
            yield
            front.ready = False
            await asyncio.to_thread(self.engine.close)

        common = [
            Route("/health", front.health),
            Route("/ready", self.ready),
            Route("/metrics", self.numbers),
            Route("/v1/models", front.models),
            Route("/v1/models/{name:path}", front.model),
        ]
        missing = {404: no_such_path, 405: no_such_path}
        return Starlette(routes=[*common, *routes], lifespan=lifespan, exception_handlers=missing)

    async def ready(self, request: Request) -> Response:
        """Say whether requests are taken: not before all is loaded, nor while the rest drains."""
        ready = self.front.ready and self.engine.requests < self.front.settings.most_requests
        return JSONResponse({"ready": ready}, 200 if ready else 503)

    async def numbers(self, request: Request) -> Response:
        """Answer ``/metrics``."""
        if not self.front.admits(request):
            return unauthorised()
        return Response(self.metrics.text(), media_type="text/plain; version=0.0.4")

    async def completions(self, request: Request) -> Response:
        """Answer ``/v1/completions``."""
        return await self.front.guarded(request, self._completed)

    async def chat(self, request: Request) -> Response:
        """Answer ``/v1/chat/completions``."""
        return await self.front.guarded(request, self._chatted)

    async def _completed(self, request: Request) -> Response:
        return await self._job(request, parse(await self.front.body(request), Completions))

    async def _chatted(self, request: Request) -> Response:
        return await self._job(request, parse(await self.front.body(request), Chat))

    async def _job(self, request: Request, wanted: Chat | Completions) -> Response:
        adapter = self.front.adapter_of(wanted.model)
        if wanted.use_beam_search:
            wanted.check_beams()
        job = await job_of(self.llm, self.front.settings.name, wanted, adapter)
        count, most = len(job.parts), self.front.settings.most_requests
        if count > most:  # they would never fit: to try again would be no use
            raise InputError(
                f"{count} completions are wanted, the server makes {most} at once",
                hint="ask for fewer at a time",
            )
        if wanted.use_beam_search:
            return await self._searched(request, job, wanted.length_penalty)
        if wanted.stream and job.params.drawn == job.params.n:
            return await self._streamed(job, usage=wanted.usage_wanted)
        return await self._answered(request, job)

    async def _deltas(self, job: Job, number: int) -> AsyncGenerator[Delta, None]:
        watch, taken = Watch(self.metrics), False
        async with aclosing(deltas(self.llm, self.engine, job, number)) as pieces:
            async for delta in pieces:
                if not taken:
                    self.metrics.prompt.inc(len(job.parts[number][0]))
                    taken = True
                watch.saw(len(delta.tokens), delta.cached)
                yield delta
        watch.ended()

    # -- answers -------------------------------------------------------------------------------

    async def _answered(self, request: Request, job: Job) -> Response:
        """Answer when all is there; if the caller goes away before, the work is cancelled."""
        numbers = range(len(job.parts))
        found = await all_of(request, [collected(self._deltas(job, k)) for k in numbers])
        new, cached = sum(len(c.choices) for c in found), sum(c.cached for c in found)
        usage = usage_of(sum(map(len, job.prompts)), new, cached)
        return JSONResponse(job.form.whole(chosen(job, [said(job, c) for c in found]), usage))

    async def _searched(self, request: Request, job: Job, length_penalty: float) -> Response:
        """Answer with the likeliest whole completions."""
        work = [searched(self.llm, self.engine, job, p, length_penalty) for p in job.prompts]
        found = [beam for beams in await all_of(request, work) for beam in beams]
        usage = usage_of(sum(map(len, job.prompts)), sum(len(b.tokens) for b in found))
        return JSONResponse(job.form.whole([said_of(beam) for beam in found], usage))

    async def _streamed(self, job: Job, *, usage: bool) -> Response:
        """Answer piece by piece. What is refused at once gets its status: the first piece waits."""
        events = self._events(job, usage=usage)
        first = await anext(events)

        async def lines() -> AsyncGenerator[bytes, None]:
            async with aclosing(events):
                yield first
                async for line in events:
                    yield line

        return StreamingResponse(lines(), media_type="text/event-stream")

    async def _events(self, job: Job, *, usage: bool) -> AsyncGenerator[bytes, None]:
        """Yield the lines of a stream, those of several completions as they come."""
        cached, new = dict[int, int](), 0
        try:
            parts = [self._pieces(job, number) for number in range(len(job.parts))]
            async with aclosing(merged(parts)) as coming:
                async for number, piece in coming:
                    new += len(piece.choices)
                    yield _line(job.form.piece(number, piece))
                    cached[number] = piece.cached
            if usage:
                counts = sum(map(len, job.prompts)), new, sum(cached.values())
                yield _line(job.form.last(usage_of(*counts)))
        except Exception as error:
            if not cached:  # nothing was said yet: the refusal has a status of its own
                raise
            yield _line(refusal(error)[1])
        yield b"data: [DONE]\n\n"

    async def _pieces(self, job: Job, number: int) -> AsyncGenerator[Said, None]:
        """Yield what is new of a completion. Where functions may be called, all comes at once."""
        if job.tools is not None:
            yield said(job, await collected(self._deltas(job, number)))
            return
        waiting: list[Delta] = []
        async with aclosing(self._deltas(job, number)) as coming:
            async for delta in coming:
                waiting.append(delta)
                if delta.text or delta.reason:
                    choices = [c for d in waiting for c in d.choices]
                    yield Said(delta.text, delta.reason, choices, cached=delta.cached)
                    waiting = []


def _line(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
