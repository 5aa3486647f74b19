"""Progress bars: on stderr, after two seconds, and only where somebody watches."""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

PATIENCE_S = 2.0


class ProgressBar:
    """One bar a stage; the object is the callable ``(stage, done, total)`` that work reports to.

    Args:
        console: where to draw; nothing is drawn unless it is a terminal.
        patience_s: seconds before the first bar appears.
    """

    def __init__(self, *, console: Console | None = None, patience_s: float = PATIENCE_S) -> None:
        self._console = console or Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(),
            console=self._console,
            transient=True,
        )
        self._timer = threading.Timer(patience_s, self._progress.start)
        self._timer.daemon = True
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._timer.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._timer.cancel()
        if self._console.is_terminal:
            self._timer.join()
            self._progress.stop()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` steps of a stage are finished."""
        if stage not in self._tasks:
            self._tasks[stage] = self._progress.add_task(stage, total=total)
        self._progress.update(self._tasks[stage], completed=done, total=total)
