"""Answers as the OpenAI API spells them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from whet.errors import (
    InputError,
    ModelError,
    OptionError,
    ResourceError,
    UnsupportedError,
    WhetError,
)
from whet.llm.engine.sampling import Choice

_REASONS = {"": None, "stop": "stop", "length": "length", "cancelled": "stop", "error": "error"}


class BodySizeError(InputError):
    """A body is longer than the server takes."""


class OtherModelError(InputError):
    """A model is asked for that the server does not have."""


@dataclass(frozen=True, slots=True)
class Said:
    """What is new of a completion, or all of it.

    Attributes:
        text: the text.
        reason: why it ended, "" while it goes on.
        choices: its tokens with their log probabilities.
        calls: functions that are called.
        cached: tokens of the prompt that the cache held.
    """

    text: str
    reason: str
    choices: Sequence[Choice] = ()
    calls: Sequence[dict[str, Any]] = ()
    cached: int = 0

    @property
    def finish(self) -> str | None:
        """Why it ended, as the API names it."""
        return "tool_calls" if self.calls and self.reason == "stop" else _REASONS[self.reason]

    @property
    def mean_logprob(self) -> float:
        """Mean log probability of the tokens, where it is known; else 0."""
        known = [c.logprobs[c.token] for c in self.choices if c.logprobs]
        return sum(known) / len(known) if known else 0.0


@dataclass(frozen=True, slots=True)
class Form:
    """How the answers to one request look.

    Attributes:
        model: name of the model.
        chat: whether it is a conversation.
        top: how many of the likeliest tokens are reported at each position; ``None`` for none.
        spell: text of a token.
        identity: names the answer.
        created: seconds since 1970.
    """

    model: str
    chat: bool
    top: int | None = None
    spell: Callable[[int], str] = str
    identity: str = field(default_factory=lambda: uuid.uuid4().hex)
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: Sequence[Said], usage: dict[str, Any]) -> dict[str, Any]:
        """Return a complete answer."""
        made = [
            {
                "index": k,
                **({"message": _message(said)} if self.chat else {"text": said.text}),
                "logprobs": self._logprobs(said),
                "finish_reason": said.finish,
            }
            for k, said in enumerate(choices)
        ]
        return {**self._head(), "choices": made, "usage": usage}

    def piece(self, index: int, said: Said) -> dict[str, Any]:
        """Return one piece of a streamed answer."""
        delta = _message(said)
        for number, call in enumerate(delta.get("tool_calls", ())):
            delta["tool_calls"][number] = {"index": number, **call}
        body: dict[str, Any] = {"delta": delta} if self.chat else {"text": said.text}
        choice = {"index": index, **body, "finish_reason": said.finish}
        choice["logprobs"] = self._logprobs(said)
        return {**self._head(".chunk" if self.chat else ""), "choices": [choice]}

    def last(self, usage: dict[str, Any]) -> dict[str, Any]:
        """Return the piece of a stream that has the numbers of tokens."""
        return {**self._head(".chunk" if self.chat else ""), "choices": [], "usage": usage}

    def _head(self, suffix: str = "") -> dict[str, Any]:
        kind = ("chat.completion" if self.chat else "text_completion") + suffix
        return {
            "id": f"{'chatcmpl' if self.chat else 'cmpl'}-{self.identity}",
            "object": kind,
            "created": self.created,
            "model": self.model,
        }

    def _logprobs(self, said: Said) -> dict[str, Any] | None:
        if self.top is None:
            return None
        lines = [(c.token, c.logprobs or {}) for c in said.choices]
        if self.chat:
            return {"content": [self._line(token, line) for token, line in lines]}
        return {
            "tokens": [self.spell(token) for token, _ in lines],
            "token_logprobs": [line.get(token) for token, line in lines],
            "top_logprobs": [
                {self.spell(t): p for t, p in line.items() if self.top} for _, line in lines
            ],
        }

    def _line(self, token: int, line: Any) -> dict[str, Any]:
        best = sorted(line.items(), key=lambda item: -item[1])[: self.top]
        return {**self._entry(token, line[token]), "top_logprobs": [self._entry(*i) for i in best]}

    def _entry(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.spell(token)
        return {"token": text, "logprob": logprob, "bytes": list(text.encode())}


def usage_of(prompt: int, new: int, cached: int = 0) -> dict[str, Any]:
    """Return the numbers of tokens."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def _message(said: Said) -> dict[str, Any]:
    content = {"role": "assistant", "content": said.text}
    if not said.calls:
        return content
    return {**content, "content": said.text or None, "tool_calls": list(said.calls)}


def refusal(error: Exception) -> tuple[int, dict[str, Any]]:
    """Return status and body of an answer to a request that failed."""
    if isinstance(error, ResourceError):
        return 429, _body(str(error), "rate_limit_error", error.code)
    if isinstance(error, OtherModelError):
        return 404, _body(str(error), "not_found_error", "model_not_found")
    if isinstance(error, InputError | OptionError | UnsupportedError):
        status = 413 if isinstance(error, BodySizeError) else 400
        return status, _body(str(error), "invalid_request_error", error.code)
    if isinstance(error, ModelError):  # what it says is the reason, and names nothing inside
        return 500, _body(str(error), "server_error", error.code)
    code = error.code if isinstance(error, WhetError) else "E500"
    return 500, _body("the server failed to answer", "server_error", code)


def _body(message: str, kind: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
