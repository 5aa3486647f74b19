"""The pages of the cache: who uses which, and which hold a prefix that others may share.

Pure bookkeeping: no tensor is touched here. A page is *free* (nobody uses it; it may still hold a
known prefix, and is taken last), or used by one or more sequences. Only whole pages are shared, and
a shared page is never written again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from whet.kernel.paged import PAGE

ROOT = b""
"""The key in front of the first page of a sequence without an adapter."""


@dataclass(frozen=True, slots=True)
class _Held:
    """What a page is known to hold: its key, and the tokens that the key stands for."""

    key: bytes
    tokens: tuple[int, ...]


def page_key(before: bytes, tokens: Sequence[int]) -> bytes:
    """Return the key of a whole page of tokens behind the pages that ``before`` stands for."""
    data = np.array(tokens, np.int64).tobytes()
    return hashlib.sha256(before + data).digest()


class PagePool:
    """Hands out pages, takes them back, and finds those that hold a prefix.

    Args:
        count: number of pages.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(count))
        self._users = [0] * count
        self._held: dict[int, _Held] = {}
        self._pages: dict[bytes, int] = {}

    @property
    def free(self) -> int:
        """Pages that nobody uses."""
        return len(self._free)

    def users(self, page: int) -> int:
        """Return how many sequences use a page."""
        return self._users[page]

    def take(self) -> int | None:
        """Return a page for one user, that which is free for longest; ``None`` if none is."""
        if not self._free:
            return None
        page, _ = self._free.popitem(last=False)
        held = self._held.pop(page, None)
        if held is not None:
            del self._pages[held.key]
        self._users[page] = 1
        return page

    def give_back(self, pages: Sequence[int]) -> None:
        """End one use of each page. The last pages of a prefix become free first."""
        for page in reversed(pages):
            assert self._users[page] > 0, "a page was given back twice"
            self._users[page] -= 1
            if not self._users[page]:
                self._free[page] = None

    def publish(self, page: int, key: bytes, tokens: Sequence[int]) -> None:
        """Let others find a used page that is whole; nothing happens if the key is known."""
        assert self._users[page] > 0, "a free page holds nothing new"
        if key not in self._pages and page not in self._held:
            self._pages[key] = page
            self._held[page] = _Held(key, tuple(tokens))

    def find(self, tokens: Sequence[int], root: bytes = ROOT) -> list[int]:
        """Return the pages that hold the longest known prefix, each with one more user."""
        found: list[int] = []
        before = root
        for start in range(0, len(tokens) - PAGE + 1, PAGE):
            part = tuple(tokens[start : start + PAGE])
            before = page_key(before, part)
            page = self._pages.get(before)
            if page is None or self._held[page].tokens != part:
                break
            found.append(page)
        for page in found:
            self._free.pop(page, None)
            self._users[page] += 1
        return found
