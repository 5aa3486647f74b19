"""Several streams as one, each piece as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """Yield the pieces of all streams with the number of each piece's stream.

    If one fails, or the reader stops, all end.
    """
    news: asyncio.Queue[tuple[int, T] | Exception | None] = asyncio.Queue()

    async def read(number: int, stream: AsyncGenerator[T, None]) -> None:
        try:
            async with aclosing(stream) as pieces:
                async for piece in pieces:
                    news.put_nowait((number, piece))
        except Exception as error:  # noqa: BLE001 - the reader raises it
            news.put_nowait(error)
        else:
            news.put_nowait(None)

    tasks = [asyncio.create_task(read(k, stream)) for k, stream in enumerate(streams)]
    left = len(tasks)
    try:
        while left:
            found = await news.get()
            if isinstance(found, Exception):
                raise found
            if found is None:
                left -= 1
            else:
                yield found
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
