"""Transposing squares of vectors in registers, and bringing two into turns and out of them."""

from __future__ import annotations

from whet.codegen.writing.builder import Builder, Value, element, lanes


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


def interleaved(b: Builder, values: list[Value]) -> list[Value]:
    """Return one vector as it is, or the lanes of two in turns."""
    if len(values) == 1:
        return values
    x, y = values
    count = lanes(x.type)
    order = [k // 2 + count * (k % 2) for k in range(2 * count)]
    return [b.blend(x, y, order[:count]), b.blend(x, y, order[count:])]


def every_other(b: Builder, type_: str, pointer: Value) -> Value:
    """Load every other element from a pointer on, and nothing behind the last of them."""
    count = lanes(type_)
    first = b.load(type_, pointer)
    second = b.load(type_, b.gep(pointer, element(type_), count - 1))
    half = range(0, count, 2)
    return b.blend(first, second, [*half, *(count + 1 + k for k in half)])
