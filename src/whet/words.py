"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with its noun, such as ``1 layer`` or ``2 layers``.

    Args:
        number: how many there are.
        noun: what one of them is called.
        plural: what others are called; the noun with an ``s`` if not given.
    """
    return f"{number} {noun if number == 1 else plural or noun + 's'}"
