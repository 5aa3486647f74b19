"""The text of tokens that come one at a time, without decoding all of them for each.

What tokens say depends on those in front of them: a space that the first of a text loses, a letter
whose bytes are several tokens. So the last tokens are decoded anew each time, and what those in
front of them say is settled once a few of the last ones say the same without them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Decode = Callable[[Sequence[int]], str]

WINDOW = 64
"""Tokens that are decoded anew at most, if texts can be cut there."""
CONTEXT = 16
"""Tokens that a new window begins with, whose text is settled already."""
BROKEN = "\ufffd"
"""What stands for bytes that are no letter yet."""


@dataclass(slots=True)
class Transcript:
    """The text of tokens so far.

    Attributes:
        settled: the text in front of the window, and of its context.
        first: the token at which the window begins.
        context: characters of the window's text that are settled.
    """

    settled: str = ""
    first: int = 0
    context: int = 0

    def text(self, tokens: Sequence[int], decode: Decode) -> str:
        """Return the text of tokens, which are those of the last call and some more."""
        window = decode(tokens[self.first :])
        text = self.settled + window[self.context :]
        if len(tokens) - self.first > WINDOW and not window.endswith(BROKEN):
            first = len(tokens) - CONTEXT
            context = decode(tokens[first:])
            if context and window.endswith(context):
                self.settled, self.first, self.context = text, first, len(context)
        return text
