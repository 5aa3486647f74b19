"""Longer turns on the CPU: asked for, passed on to threads, and given back."""

from __future__ import annotations

import threading

import pytest

from whet.measure import turns
from whet.measure.turns import TURN_NS, long_turns


def asked() -> int:
    """Return the turn that this thread has asked for, ns."""
    attributes = turns._read()
    assert attributes is not None
    return attributes[5]


def test_turns_are_long_inside_and_as_before_after() -> None:
    if turns._read() is None:
        pytest.skip("the system does not tell")
    before, seen = asked(), []
    with long_turns() as granted:
        if not granted:
            pytest.skip("the system does not grant them")
        thread = threading.Thread(target=lambda: seen.append(asked()))
        thread.start()
        thread.join()
        assert asked() in (TURN_NS, 0), "a system before 6.12 takes the wish and forgets it"
    assert seen in ([TURN_NS], [0])
    assert asked() == before


def test_they_end_with_an_error() -> None:
    if turns._read() is None:
        pytest.skip("the system does not tell")
    before = asked()
    with pytest.raises(ValueError, match="inside"), long_turns():
        raise ValueError("inside")
    assert asked() == before


def test_a_system_that_does_not_know_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "riscv64")
    with long_turns() as granted:
        assert not granted
