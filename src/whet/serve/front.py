"""What all servers have in common: keys, limits, and errors that become answers."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from whet.serve.answers import BodySizeError, refusal

IMAGE_BODY_BYTES = 32 << 20
"""Longest body of a request to a model that takes images: they come inside of it."""


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


class Front:
    """Lets requests in and turns whatever goes wrong into an answer.

    Args:
        settings: how the server behaves.
        count: told of every answer by path and status.
    """

    def __init__(self, settings: Settings, count: Callable[[str, int], None]) -> None:
        self.settings = settings
        self.ready = False
        self._count = count
        self._log = logging.getLogger("whet.serve")

    def admits(self, request: Request) -> bool:
        """Tell whether a request has the key."""
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        key = self.settings.key
        return not key or hmac.compare_digest(given.encode(), key.encode())

    async def body(self, request: Request) -> bytes:
        """Return a body.

        Raises:
            BodySizeError: it is too long.
        """
        body = bytearray()
        async for part in request.stream():
            body += part
            if len(body) > self.settings.body_bytes:
                raise BodySizeError(
                    f"the body has more than {self.settings.body_bytes} bytes", hint="send less"
                )
        return bytes(body)

    async def health(self, request: Request) -> Response:
        """Say that the server lives."""
        return JSONResponse({"status": "ok"})

    async def models(self, request: Request) -> Response:
        """List the one model."""
        if not self.admits(request):
            return unauthorised()
        entry = {"id": self.settings.name, "object": "model", "owned_by": "whet"}
        return JSONResponse({"object": "list", "data": [entry]})

    async def guarded(
        self, request: Request, answer: Callable[[Request], Awaitable[Response]]
    ) -> Response:
        """Answer, whatever goes wrong: one bad request must not end the server."""
        if not self.admits(request):
            return unauthorised()
        try:
            found = await answer(request)
        except ClientDisconnect:
            found = Response(status_code=499)
        except Exception as error:  # noqa: BLE001 - it becomes the answer
            found = self._refused(error)
        self._count(request.url.path, found.status_code)
        return found

    def _refused(self, error: Exception) -> Response:
        status, body = refusal(error)
        if status >= 500:
            self._log.error("a request failed", exc_info=error)
        return JSONResponse(body, status, headers={"Retry-After": "1"} if status == 429 else None)


def unauthorised() -> Response:
    """Return the answer to a request without the key."""
    body = {"error": {"message": "the API key is wrong", "type": "authentication_error"}}
    return JSONResponse(body, 401, headers={"WWW-Authenticate": "Bearer"})
