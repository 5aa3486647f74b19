"""Requests to write down speech, as the OpenAI API spells them, and the answers' forms."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from whet.errors import InputError
from whet.llm.engine.sampling import SamplingParams
from whet.llm.seq2seq.sound import Stretch

FORMATS = ("json", "text", "srt", "vtt", "verbose_json")
_KNOWN = frozenset(
    ["file", "model", "language", "prompt", "response_format", "temperature", "stream", "seed"]
)
_IGNORED = frozenset(["chunking_strategy", "timestamp_granularities[]"])
"""What may be said and changes nothing: sound is cut anyway, segments are the pieces."""
_MOST_FIELDS = 32


@dataclass(frozen=True, slots=True)
class Speech:
    """What is asked.

    Attributes:
        sound: the file.
        language: what is spoken; "" to find out.
        before: a text that the sound follows.
        form: of the answer, one of ``FORMATS``.
        params: how tokens are chosen.
        stream: whether the answer comes piece by piece.
    """

    sound: bytes
    language: str
    before: str
    form: str
    params: SamplingParams
    stream: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """What is said in a piece of sound."""

    part: Stretch
    text: str


async def speech_of(headers: Headers, body: bytes, most_tokens: int) -> Speech:
    """Return what a form asks.

    Raises:
        InputError: the form is malformed, has no file, or asks for what is not done.
        OptionError: a value of the sampling means nothing.
    """
    fields = await _fields(headers, body)
    unknown = [name for name in fields if name not in _KNOWN | _IGNORED]
    if unknown:
        raise InputError(f"{unknown[0]} is not supported", where="body", hint="leave it out")
    file = fields.get("file")
    if not isinstance(file, UploadFile):
        raise InputError("the form has no file", where="body", hint="send a sound as file")
    texts = {name: value for name, value in fields.items() if isinstance(value, str)}
    form = texts.get("response_format", "json")
    if form not in FORMATS:
        raise InputError(
            f"response_format is {form!r}", where="body", hint=f"give one of {', '.join(FORMATS)}"
        )
    seed = _number(texts, "seed", None)
    params = SamplingParams(
        max_tokens=most_tokens,
        temperature=_number(texts, "temperature", 0.0) or 0.0,
        seed=None if seed is None else int(seed),
    )
    stream = texts.get("stream", "").lower() in ("true", "1")
    if stream and form not in ("json", "text"):
        raise InputError(f"{form} is not streamed", where="body", hint="ask for json")
    return Speech(
        await file.read(), texts.get("language", ""), texts.get("prompt", ""), form, params, stream
    )


async def _fields(headers: Headers, body: bytes) -> Mapping[str, Any]:
    async def whole() -> AsyncGenerator[bytes, None]:
        yield body

    kind = headers.get("content-type", "")
    if not kind.startswith("multipart/form-data"):
        raise InputError("the body is no form", where="body", hint="send multipart/form-data")
    try:
        parser = MultiPartParser(headers, whole(), max_files=1, max_fields=_MOST_FIELDS)
        return dict(await parser.parse())
    except (MultiPartException, KeyError, ValueError) as error:
        raise InputError(f"the form is malformed: {error}"[:300], where="body") from error


def _number(texts: Mapping[str, str], name: str, default: float | None) -> float | None:
    try:
        return float(texts[name]) if name in texts else default
    except ValueError as error:
        raise InputError(f"{name} is no number", where="body") from error


def written(
    form: str, segments: Sequence[Segment], task: str, language: str
) -> str | dict[str, Any]:
    """Return an answer: a text, or what becomes JSON."""
    text = "".join(s.text for s in segments).strip()
    if form == "text":
        return text + "\n"
    if form == "srt":
        lines = [
            f"{k}\n{_clock(s, ',')}\n{s.text.strip()}\n" for k, s in enumerate(segments, start=1)
        ]
        return "\n".join(lines)
    if form == "vtt":
        return "\n".join(["WEBVTT\n", *(f"{_clock(s, '.')}\n{s.text.strip()}\n" for s in segments)])
    if form == "json":
        return {"text": text}
    rows = [
        {"id": k, "start": s.part.seconds[0], "end": s.part.seconds[1], "text": s.text}
        for k, s in enumerate(segments)
    ]
    duration = segments[-1].part.seconds[1] if segments else 0.0
    facts = {"task": task, "language": language, "duration": duration}
    return {**facts, "text": text, "segments": rows}


def _clock(segment: Segment, point: str) -> str:
    return " --> ".join(_time(seconds, point) for seconds in segment.part.seconds)


def _time(seconds: float, point: str) -> str:
    whole, thousandths = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{thousandths:03}"
