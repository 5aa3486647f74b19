"""Division of index polynomials: what is simplified, and that it stays true."""

from __future__ import annotations

import pytest

from whet.index import Dim, Poly, recombine, var
from whet.lower.extent_text import extent_text

S, B = var(Dim("s")), var(Dim("b"))


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (((S // 5) // 2) // 2, S // 20),
        ((S // 5 + 3) // 2, (S + 15) // 10),
        ((S // 4 - 1) // 8, (S - 4) // 32),
        ((32 * (S // 20) - 32) // (8 * (S // 20) - 8), 4),
        ((B * S + B) // (S + 1), B),
        ((B * S * 6 - 4 * B) // (3 * S - 2), 2 * B),
        (recombine((S // 10) * 2 + (S // 5) % 2), S // 5),
    ],
)
def test_equal_quotients_have_one_form(found: Poly, expected: Poly | int) -> None:
    assert found == expected


def test_what_does_not_divide_is_left_alone() -> None:
    assert (B * S + B + 1) // (S + 1) != B
    assert (2 * (S // 5)) // 2 == S // 5
    assert repr((3 * (S // 5)) // 2) == "1*q.(3*q.(1*s)//(5))//(2)"


@pytest.mark.parametrize("shift", [-7, -1, 0, 1, 3, 12])
@pytest.mark.parametrize(("inner", "outer"), [(5, 2), (2, 7), (1, 3), (4, 4)])
def test_nested_quotients_keep_their_values(shift: int, inner: int, outer: int) -> None:
    found = (S // inner + shift) // outer
    remainder = (S // inner + shift) % outer
    for s in range(1, 90):
        expected = divmod(s // inner + shift, outer)
        assert (found.evaluate({"s": s}), remainder.evaluate({"s": s})) == expected


@pytest.mark.parametrize(
    ("extent", "text"),
    [
        (S, "s"),
        (S - 1, "s-1"),
        (2 * S + 3 * B, "3*b+2*s"),
        (-(S // 2), "-(s//2)"),
        (B * ((S + 1) // 2), "b*((s+1)//2)"),
        ((S - 1) // 2 - (B // 3) % 5 + 7, "(s+1)//2-((b//3)%5)+6"),
        (1 - S, "-s+1"),
        (S * 0, "0"),
    ],
)
def test_extents_read_like_python(extent: Poly, text: str) -> None:
    assert extent_text(extent) == text
