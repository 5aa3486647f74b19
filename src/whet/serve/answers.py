"""Answers as the OpenAI API spells them."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from typing import Any

from whet.errors import InputError, OptionError, ResourceError, UnsupportedError, WhetError

_REASONS = {"": None, "stop": "stop", "length": "length", "cancelled": "stop", "error": "error"}


@dataclass(frozen=True, slots=True)
class Form:
    """How the answers to one request look.

    Attributes:
        model: name of the model.
        chat: whether it is a conversation.
        identity: names the answer.
        created: seconds since 1970.
    """

    model: str
    chat: bool
    identity: str = field(default_factory=lambda: f"cmpl-{uuid.uuid4().hex}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self, choices: list[tuple[str, str]], prompt: int, new: int) -> dict[str, Any]:
        """Return a complete answer, given each choice's text and why it ended."""
        key = "message" if self.chat else "text"
        made = [
            {
                "index": k,
                key: {"role": "assistant", "content": text} if self.chat else text,
                "finish_reason": _REASONS[reason],
            }
            for k, (text, reason) in enumerate(choices)
        ]
        usage = {"prompt_tokens": prompt, "completion_tokens": new, "total_tokens": prompt + new}
        return {**self._head(), "choices": made, "usage": usage}

    def piece(self, index: int, text: str, reason: str) -> dict[str, Any]:
        """Return one piece of a streamed answer."""
        said = {"delta": {"role": "assistant", "content": text}} if self.chat else {"text": text}
        choice = {"index": index, **said, "finish_reason": _REASONS[reason]}
        return {**self._head(".chunk" if self.chat else ""), "choices": [choice]}

    def _head(self, suffix: str = "") -> dict[str, Any]:
        kind = ("chat.completion" if self.chat else "text_completion") + suffix
        return {
            "id": self.identity,
            "object": kind,
            "created": self.created,
            "model": self.model,
        }


def refusal(error: Exception) -> tuple[int, dict[str, Any]]:
    """Return status and body of an answer to a request that failed."""
    if isinstance(error, ResourceError):
        return 429, _body(str(error), "rate_limit_error", error.code)
    if isinstance(error, InputError | OptionError | UnsupportedError):
        return 400, _body(str(error), "invalid_request_error", error.code)
    code = error.code if isinstance(error, WhetError) else "E500"
    return 500, _body("the server failed to answer", "server_error", code)


def _body(message: str, kind: str, code: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}
