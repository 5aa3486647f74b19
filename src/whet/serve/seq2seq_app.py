"""A server of an encoder–decoder: ``/v1/completions`` of texts, ``/v1/audio/…`` of sounds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import msgspec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from whet.errors import ResourceError
from whet.llm.engine.async_engine import AsyncEngine, Delta
from whet.llm.engine.sampling import SamplingParams
from whet.llm.engine.structured import Matcher, OneOf
from whet.llm.seq2seq.coder import Source
from whet.llm.seq2seq.model import Seq2Seq
from whet.llm.seq2seq.sound import Stretch, read_sound
from whet.serve.app import Server
from whet.serve.front import Front, Settings
from whet.serve.jobs import collected
from whet.serve.metrics import Metrics, Watch, seq2seq_gauges
from whet.serve.speech_protocol import Segment, Speech, speech_of, written
from whet.serve.waiting import all_of
from whet.words import counted

AUDIO_BODY_BYTES = 64 << 20
"""Longest body of a request with sound; half an hour of 16-bit samples, 16,000 a second."""
_TOGETHER = 4
"""Pieces of one sound that run at once, so that others have their turns."""
_AGAIN_S = 0.1

Piece = tuple[Stretch, Source]


def seq2seq_application(model: Seq2Seq, settings: Settings) -> Starlette:
    """Return the server of one encoder–decoder; it is the server's own from now on."""
    engine = AsyncEngine(model.engine, settings.most_requests)
    metrics = Metrics(seq2seq_gauges(model.engine))
    server = Server(model, Front(settings, metrics.answered), engine, metrics)
    if not model.shape.bands:
        route = Route("/v1/completions", server.completions, methods=["POST"])
        return server.application(route)
    speech = _Speech(model, server)
    return server.application(
        Route("/v1/audio/transcriptions", speech.transcriptions, methods=["POST"]),
        Route("/v1/audio/translations", speech.translations, methods=["POST"]),
    )


@dataclass(frozen=True, slots=True)
class _Speech:
    model: Seq2Seq
    server: Server

    async def transcriptions(self, request: Request) -> Response:
        """Answer ``/v1/audio/transcriptions``."""
        return await self.server.front.guarded(request, self._transcribed)

    async def translations(self, request: Request) -> Response:
        """Answer ``/v1/audio/translations``."""
        return await self.server.front.guarded(request, self._translated)

    async def _transcribed(self, request: Request) -> Response:
        return await self._answered(request, "transcribe")

    async def _translated(self, request: Request) -> Response:
        return await self._answered(request, "translate")

    async def _answered(self, request: Request, task: str) -> Response:
        front = self.server.front
        asked = await speech_of(
            request.headers, await front.body(request), self.model.shape.context
        )
        if self.server.engine.requests >= front.settings.most_requests:
            raise ResourceError(
                f"waiting or running: {counted(self.server.engine.requests, 'request')}",
                hint="try again in a moment",
            )
        samples = await asyncio.to_thread(read_sound, asked.sound, "file")
        pieces = await asyncio.to_thread(self.model.heard, samples)
        language = asked.language or await self._language(pieces[0][1])
        begin = self._begin(asked, language, task)
        pieces = [(part, Source((), begin, source.sound)) for part, source in pieces]
        if asked.stream:
            events = self._events(pieces, asked.params)
            return StreamingResponse(events, media_type="text/event-stream")
        segments = await self._segments(request, pieces, asked.params)
        answer = written(asked.form, segments, task, language)
        return PlainTextResponse(answer) if isinstance(answer, str) else JSONResponse(answer)

    def _begin(self, asked: Speech, language: str, task: str) -> tuple[int, ...]:
        """Return the tokens that a target begins with: what was said before, if it is given."""
        begin = (self.model.shape.start, *self.model.spoken(language, task))
        if not asked.before or self.model.tokenizer is None:
            return begin
        before = self.model.tokenizer.encode(" " + asked.before.strip(), special=False)
        kept = before[-(self.model.shape.context // 2 - 1 - len(begin)) :]
        return (*self.model.named("<|startofprev|>"), *kept, *begin)

    async def _language(self, source: Source) -> str:
        """Return the language of a piece, the likeliest; "" for an English model."""
        languages = self.model.generation.languages
        if not languages:
            return ""
        asked = Source((), (self.model.shape.start,), source.sound)
        params = SamplingParams(max_tokens=1, ignore_eos=True)
        found = await collected(self._pieces(asked, params, OneOf(frozenset(languages))))
        return languages[found.choices[0].token]

    async def _segments(
        self, request: Request, pieces: Sequence[Piece], params: SamplingParams
    ) -> list[Segment]:
        """Run all pieces, a few at a time; if the caller goes away, the work is cancelled."""
        places = asyncio.Semaphore(_TOGETHER)

        async def one(piece: Piece) -> Segment:
            async with places:
                return Segment(piece[0], await self._text(piece[1], params))

        return await all_of(request, [one(piece) for piece in pieces])

    async def _text(self, source: Source, params: SamplingParams) -> str:
        """Return what is said in a piece; a sound that was taken waits for room, however long."""
        while True:
            try:
                return (await collected(self._pieces(source, params))).text
            except ResourceError:
                await asyncio.sleep(_AGAIN_S)

    async def _pieces(
        self, source: Source, params: SamplingParams, matcher: Matcher | None = None
    ) -> AsyncGenerator[Delta, None]:
        watch, engine = Watch(self.server.metrics), self.server.engine
        work = engine.generate(source, params, ends=self.model.ends, matcher=matcher)
        async with aclosing(work) as coming:
            async for delta in coming:
                watch.saw(len(delta.tokens), delta.cached)
                yield delta
        watch.ended()

    async def _events(
        self, pieces: Sequence[Piece], params: SamplingParams
    ) -> AsyncGenerator[bytes, None]:
        """Yield the lines of a stream: texts as they come, at the end all of it."""
        text = ""
        for _, source in pieces:
            async with aclosing(self._pieces(source, params)) as coming:
                async for delta in coming:
                    if delta.text:
                        text += delta.text
                        yield _line({"type": "transcript.text.delta", "delta": delta.text})
        yield _line({"type": "transcript.text.done", "text": text.strip()})
        yield b"data: [DONE]\n\n"


def _line(value: object) -> bytes:
    return b"data: " + msgspec.json.encode(value) + b"\n\n"
