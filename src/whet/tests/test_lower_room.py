"""Memory for weights is zeroed, as large as asked for, and its pages may be made beside."""

from __future__ import annotations

import threading

import pytest

from whet.lower import room as rooms
from whet.lower.room import Room

SIZES = (0, 1, 4096, 100_000, 9 * 2**20)


@pytest.mark.parametrize("expected", SIZES)
@pytest.mark.parametrize("size", SIZES)
def test_a_room_is_as_large_as_asked_for(expected: int, size: int) -> None:
    room = Room(expected)
    room.make_pages()
    taken = room.take(size)
    assert taken.nbytes == max(size, 1)
    assert not taken.any()
    taken[:] = 1
    assert taken.all()


def test_what_is_taken_is_touched_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rooms, "_PIECE_BYTES", 4096)
    room = Room(2**24)
    beside = threading.Thread(target=room.make_pages)
    beside.start()
    taken = room.take(2**24)
    taken[:] = 1
    beside.join()
    assert taken.all()


def test_a_closed_room_makes_no_pages() -> None:
    room = Room(2**20)
    room.close()
    room.make_pages()
    assert not room.take(2**20).any()
