"""Requests as the OpenAI API spells them, and what the engine makes of them."""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from whet.errors import InputError
from whet.llm.sampling import SamplingParams

Request = TypeVar("Request", bound="Sampled")

REFUSED = ("tools", "functions", "best_of", "suffix", "echo", "logprobs", "audio", "modalities")
"""What clients may ask for and Whet does not do; left out silently, it would be a wrong answer."""


_SAME = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "n",
    "seed",
)
"""What is called the same here and there."""


class Sampled(msgspec.Struct):
    """What completions and chats have in common; ``None`` stands for the default."""

    model: str = ""
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    seed: int | None = None
    n: int | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    stream: bool = False
    priority: int = 0

    def params(self, default_tokens: int) -> SamplingParams:
        """Return how to sample.

        Raises:
            OptionError: a value means nothing.
            InputError: a key of ``logit_bias`` is no token.
        """
        given = {name: getattr(self, name) for name in _SAME if getattr(self, name) is not None}
        stop = [self.stop] if isinstance(self.stop, str) else self.stop or []
        tokens = self.max_completion_tokens or self.max_tokens
        return SamplingParams(
            **{"temperature": 1.0, **given},
            max_tokens=default_tokens if tokens is None else tokens,
            stop=tuple(stop),
            logit_bias=_biases(self.logit_bias or {}),
            ignore_eos=self.ignore_eos,
        )


class Completions(Sampled):
    """The body of ``/v1/completions``."""

    prompt: str | list[str | int | list[int]] = ""

    def prompts(self) -> list[str | list[int]]:
        """Return the prompts one by one.

        Raises:
            InputError: tokens and texts are mixed.
        """
        if isinstance(self.prompt, str):
            return [self.prompt]
        tokens = [p for p in self.prompt if isinstance(p, int)]
        if not tokens:
            return [p for p in self.prompt if not isinstance(p, int)]
        if len(tokens) < len(self.prompt):
            raise InputError("the prompt mixes tokens and texts", where="body")
        return [tokens]


class Chat(Sampled):
    """The body of ``/v1/chat/completions``."""

    messages: list[dict[str, Any]] = []


def parse(body: bytes, kind: type[Request]) -> Request:
    """Return a request.

    Raises:
        InputError: the body is no JSON object of that kind, or asks for what is not done.
    """
    try:
        found = msgspec.json.decode(body)
        request = msgspec.convert(found, kind)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise InputError(f"the request is malformed: {error}", where="body") from error
    refused = [key for key in REFUSED if found.get(key)]
    shape = found.get("response_format")
    if isinstance(shape, dict) and shape.get("type", "text") != "text":
        refused.append("response_format")
    if refused:
        raise InputError(f"{refused[0]} is not supported", where="body", hint="leave it out")
    return request


def _biases(given: dict[str, float]) -> dict[int, float]:
    try:
        return {int(token): bias for token, bias in given.items()}
    except ValueError as error:
        raise InputError(f"logit_bias: {error}", where="body", hint="keys are tokens") from error
