"""Settings shared by all tests."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2]


@pytest.fixture(scope="session", autouse=True)
def children_import_the_checkout() -> Iterator[None]:
    """Let child processes import what the tests import, ``whet.tests`` included.

    An installed wheel leaves the tests out, and pytest's ``pythonpath`` reaches no child.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(SOURCE), prepend=os.pathsep)
        yield


@pytest.fixture(scope="session", autouse=True)
def interrupts_are_heard() -> None:
    """Let child processes hear Ctrl-C: shells start jobs in the background deaf to it."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a kernel cache that the tests of a file share."""
    return tmp_path_factory.mktemp("kernels")
