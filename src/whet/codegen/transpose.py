"""Transposing a square of vectors in registers."""

from __future__ import annotations

from whet.codegen.builder import Builder, Value, lanes


def transpose(b: Builder, lines: list[Value]) -> list[Value]:
    """Return the transpose of as many vectors as they have lanes.

    In stage ``s`` lines ``i`` and ``i + s`` exchange their off-diagonal blocks of ``s`` lanes.
    """
    count = lanes(lines[0].type)
    assert len(lines) == count, "a square has as many lines as lanes"
    result = list(lines)
    step = 1
    while step < count:
        first = [k if not k & step else count + k - step for k in range(count)]
        second = [k + step if not k & step else count + k for k in range(count)]
        for i in range(count):
            if i & step:
                continue
            x, y = result[i], result[i + step]
            result[i], result[i + step] = b.blend(x, y, first), b.blend(x, y, second)
        step *= 2
    return result
