"""What all servers have in common: keys, limits, and errors that become answers."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from whet.serve.answers import BodySizeError, OtherModelError, refusal

_ELSEWHERE = {
    "/v1/embeddings": "serve an encoder, or a decoder with --embeddings",
    "/v1/rerank": "serve an encoder made for reranking",
    "/v1/completions": "serve a decoder",
    "/v1/chat/completions": "serve a decoder",
    "/v1/audio/transcriptions": "serve a Whisper",
    "/v1/audio/translations": "serve a Whisper",
    "/v1/responses": "ask /v1/chat/completions",
}
"""What to do about paths that another model, or another path, answers."""

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
        adapters: names of the model's adapters; each is a model to callers.
    """

    name: str
    key: str = ""
    most_requests: int = 64
    body_bytes: int = 1 << 20
    adapters: tuple[str, ...] = ()


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
        self._since = int(time.time())

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

    def adapter_of(self, name: str) -> str:
        """Return the adapter that a caller asks for by the name of a model, "" for none.

        A caller may name no model.

        Raises:
            OtherModelError: it is not here.
        """
        if name in ("", self.settings.name):
            return ""
        if name not in self.settings.adapters:
            known = " or ".join(map(repr, self._names))
            raise OtherModelError(f"there is no model {name!r}", hint=f"it is called {known}")
        return name

    async def health(self, request: Request) -> Response:
        """Say that the server lives."""
        return JSONResponse({"status": "ok"})

    async def models(self, request: Request) -> Response:
        """List the model and its adapters."""
        if not self.admits(request):
            return unauthorised()
        data = [self._entry(name) for name in self._names]
        return JSONResponse({"object": "list", "data": data})

    async def model(self, request: Request) -> Response:
        """Describe the model or one of its adapters."""
        if not self.admits(request):
            return unauthorised()
        name = request.path_params["name"]
        if name not in self._names:
            return refused_as(404, f"the model is called {self.settings.name!r}", "not_found_error")
        return JSONResponse(self._entry(name))

    @property
    def _names(self) -> list[str]:
        return [self.settings.name, *self.settings.adapters]

    def _entry(self, name: str) -> dict[str, object]:
        found = {"id": name, "object": "model", "created": self._since, "owned_by": "whet"}
        return found if name == self.settings.name else {**found, "parent": self.settings.name}

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
    found = refused_as(401, "the API key is wrong", "authentication_error")
    found.headers["WWW-Authenticate"] = "Bearer"
    return found


def refused_as(status: int, message: str, kind: str) -> Response:
    """Return a refusal as the OpenAI API spells it."""
    return JSONResponse({"error": {"message": message, "type": kind, "param": None}}, status)


async def no_such_path(request: Request, error: Exception) -> Response:
    """Answer what is asked for at a path, or by a method, that there is not."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    what = f"{request.method} {request.url.path} is not answered by this server"
    where = _ELSEWHERE.get(request.url.path) if status == 404 else None
    return refused_as(status, f"{what}: {where}" if where else what, "not_found_error")
