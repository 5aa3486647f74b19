"""Progress bars: only for people, only when it takes long."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from whet.cli.progress import ProgressBar


def _draw(*, terminal: bool, patience_s: float) -> str:
    text = io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=80)
    with ProgressBar(console=console, patience_s=patience_s) as progress:
        for done in range(3):
            progress("lowering", done, 3)
            time.sleep(0.05)
    return text.getvalue()


def test_appears_for_people_when_it_takes_long() -> None:
    assert "lowering" in _draw(terminal=True, patience_s=0.01)


@pytest.mark.parametrize(("terminal", "patience_s"), [(False, 0.0), (True, 60.0)])
def test_stays_silent_otherwise(terminal: bool, patience_s: float) -> None:
    assert _draw(terminal=terminal, patience_s=patience_s) == ""


def test_is_silent_after_an_error() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True)
    with pytest.raises(KeyboardInterrupt), ProgressBar(console=console, patience_s=60.0):
        raise KeyboardInterrupt
    assert text.getvalue() == ""
