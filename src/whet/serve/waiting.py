"""Waiting for pieces of work of a request, until the caller goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

T = TypeVar("T")

LOOK_S = 0.2
"""Between two looks whether the caller is still there."""


async def all_of(request: Request, work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Return what becomes of pieces of work; if the caller goes away before, they are cancelled."""
    tasks = [asyncio.create_task(one) for one in work]
    waiting = set(tasks)
    try:
        while waiting:
            done, waiting = await asyncio.wait(
                waiting, timeout=LOOK_S, return_when=asyncio.FIRST_EXCEPTION
            )
            for task in done:
                task.result()  # the first that failed ends it
            if waiting and await request.is_disconnected():
                raise ClientDisconnect
    finally:
        for task in tasks:
            task.cancel()
    return [task.result() for task in tasks]
